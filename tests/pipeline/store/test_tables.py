"""The store: round trips, ranges, readers that are not ours, damage, and runs that die at any point."""

from __future__ import annotations

import hashlib
import itertools
import json
import pickle
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import schemas
from pipeline.store import columns
from pipeline.store.places import TAIL_BYTES, tail_digest_of
from pipeline.store.records import read_record, write_record
from pipeline.store.tables import DamagedPart, Store, StoreError, StoreInfo, range_part
from tests import needs

L, D = 4, 6
RESIDUAL = (3, 4, 5)
INFO = StoreInfo(
    model_name="tiny",
    model_digest="0" * 64,
    wplus_shape=(L, D),
    residual_shape=RESIDUAL,
    residual_codec="float32",
    injection_resolution=4,
    code_version="0.0",
    settings={"chunk_frames": 5},
)
SOURCE, OTHER = "0123456789abcdef", "fedcba9876543210"


def codes(pts: np.ndarray, track: int) -> np.ndarray:
    """Codes that say whose they are: no two rows of any test are equal."""
    base = np.asarray(pts, np.float32)[:, None, None] + 1000.0 * track
    return base + np.arange(L * D, dtype=np.float32).reshape(L, D) / 64


def maps(pts: np.ndarray, track: int) -> np.ndarray:
    base = np.asarray(pts, np.float32)[:, None, None, None] + 1000.0 * track
    return base - np.arange(60, dtype=np.float32).reshape(RESIDUAL) / 64


def source_row(source_id: str) -> pa.Table:
    schema = schemas.sources_schema()
    row = {f.name: {"string": "a", "int64": 7, "int32": 1}[str(f.type)] for f in schema}
    row |= {"source_id": source_id, "track_id": -1, "pts": 0, "uri": "clip.mp4", "kind": "video"}
    return pa.Table.from_pylist([row], schema=schema)


def write_source(
    store: Store,
    source_id: str = SOURCE,
    *,
    count: int = 12,
    chunk: int = 5,
    tracks: tuple[int, ...] = (0, 1),
) -> np.ndarray:
    """A whole source of `count` frames and some tracks in chunks, as a run would write it; gives its pts."""
    pts = np.arange(count, dtype=np.int64) * 512 - 1024
    store.write_part("sources", source_id, 0, source_row(source_id))
    for start in range(0, count, chunk):
        mine = pts[start : start + chunk]
        part = range_part(start, start + len(mine))
        n = len(mine)
        frames = columns.frames_table(source_id, mine, np.full(n, 2.0), np.full(n, len(tracks)))
        store.write_part("frames", source_id, part, frames)
        faces = [
            columns.faces_table(source_id, mine, np.full(n, t), np.ones((n, 4)), np.ones((n, 5, 2)), np.ones(n), [None] * n)
            for t in tracks
        ]
        store.write_part("faces", source_id, part, pa.concat_tables(faces) if faces else None)
        latents = [columns.latents_table(source_id, t, mine, codes(mine, t)) for t in tracks]
        codec = store.info.residual_codec
        residuals = [columns.residuals_table(source_id, t, mine, maps(mine, t), codec) for t in tracks]
        store.write_part("residuals", source_id, part, pa.concat_tables(residuals))
        store.write_part("latents", source_id, part, pa.concat_tables(latents))
    for t in tracks:
        table = columns.tracks_table(
            source_id, t, pts, 0, np.ones((count, 4)), np.ones((count, 5, 2)), np.ones((count, 4, 2)),
            np.zeros(count, bool), np.ones(count),
        )  # fmt: skip
        store.write_part("tracks", source_id, t, table)
    store.write_manifest("invert", source_id, {"frames": count})
    return pts


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store", INFO)


# ------------------------------------------------------------------------------------------ making, opening


def test_a_store_opens_as_it_was_made(store: Store) -> None:
    again = Store.open(store.root)
    assert again.info == INFO
    assert Store.open_or_create(store.root, INFO).info == INFO
    assert pickle.loads(pickle.dumps(store)).info == INFO


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such folder"):
        Store.open(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"no meta/info\.json"):
        Store.open(tmp_path)
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    for make in (Store.create, Store.open_or_create):
        with pytest.raises(StoreError, match=r"holiday\.jpg"):
            make(tmp_path, INFO)
    with pytest.raises(StoreError, match="this is a file"):
        Store.create(tmp_path / "holiday.jpg", INFO)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"mine"


def test_a_creation_that_died_is_taken_up(tmp_path: Path) -> None:
    root = tmp_path / "store"
    (root / "meta").mkdir(parents=True)
    (root / "meta" / ".info.json.1-ab.tmp").write_text('{"schema_ver')
    store = Store.open_or_create(root, INFO)
    (root / "README.md").unlink()
    assert Store.open_or_create(root, INFO).info == store.info
    assert (root / "README.md").is_file()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_digest": "1" * 64}, "model_digest"),
        ({"wplus_shape": (18, 512)}, "wplus_shape"),
        ({"residual_shape": (1, 2, 3)}, "residual_shape"),
        ({"residual_codec": "float16"}, "residual_codec"),
        ({"injection_resolution": 64}, "injection_resolution"),
    ],
)
def test_another_model_or_codec_is_refused_by_name(store: Store, changes: dict, named: str) -> None:
    with pytest.raises(StoreError, match=named):
        Store.open_or_create(store.root, replace(INFO, **changes))


def test_what_does_not_change_the_numbers_may_differ(store: Store) -> None:
    other = replace(INFO, code_version="9.9", settings={"chunk_frames": 64})
    assert Store.open_or_create(store.root, other).info == INFO


def test_newer_schemas_are_refused_and_newer_minor_ones_read(store: Store) -> None:
    pts = write_source(store)
    path = store.root / "meta" / "info.json"
    facts = read_record(path)
    write_record(path, facts | {"schema_version": "2.0"})
    with pytest.raises(StoreError, match=r"2\.0.*upgrade"):
        Store.open(store.root)
    write_record(path, facts | {"schema_version": "1.9", "something_new": 1})
    # A newer minor version appended a column to a table: we leave it.
    part = store.parts("frames", SOURCE)[0].path
    rows = pq.read_table(part)
    pq.write_table(rows.append_column("brightness", pa.array([0.5] * rows.num_rows)), part)
    assert Store.open(store.root).read("frames", SOURCE).num_rows == len(pts)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema_version": "1.0"}', '{"schema_version": 1}'])
def test_a_broken_info_is_one_clear_error(store: Store, text: str) -> None:
    (store.root / "meta" / "info.json").write_text(text)
    with pytest.raises(StoreError, match="info"):
        Store.open(store.root)


def test_shapes_are_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(schemas.SchemaError):
        replace(INFO, wplus_shape=(18,))
    with pytest.raises(StoreError, match="finite JSON"):
        Store.create(tmp_path / "store", replace(INFO, settings={"x": float("nan")}))


# --------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("codec", schemas.RESIDUAL_CODECS)
def test_everything_written_is_read_in_order_of_pts_then_track(tmp_path: Path, codec: schemas.ResidualCodec) -> None:
    store = Store.create(tmp_path / "store", replace(INFO, residual_codec=codec))
    pts = write_source(store)
    latents = store.read("latents", SOURCE)
    assert latents.column("pts").to_pylist() == np.repeat(pts, 2).tolist()
    assert latents.column("track_id").to_pylist() == [0, 1] * len(pts)
    expected = np.stack([codes(pts, 0), codes(pts, 1)], axis=1).reshape(-1, L, D)
    np.testing.assert_array_equal(columns.wplus_from_table(latents), expected)
    residuals = columns.residuals_from_table(store.read("residuals", SOURCE))
    wanted = np.stack([maps(pts, 0), maps(pts, 1)], axis=1).reshape(-1, *RESIDUAL)
    if codec == "int8":
        assert np.abs(residuals - wanted).max() <= np.abs(wanted).max() / columns.INT8_STEPS
        return
    if codec == "float16":
        wanted = wanted.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(residuals, wanted)


def test_ranges_include_both_ends_and_open_only_the_parts_they_need(store: Store) -> None:
    pts = write_source(store, chunk=4)
    for first, last in itertools.combinations_with_replacement([0, 3, 4, 7, 11], 2):
        rows = store.read("latents", SOURCE, (int(pts[first]), int(pts[last])))
        assert rows.column("pts").to_pylist() == np.repeat(pts[first : last + 1], 2).tolist()
        expected = np.stack([codes(pts, 0), codes(pts, 1)], axis=1)[first : last + 1].reshape(-1, L, D)
        np.testing.assert_array_equal(columns.wplus_from_table(rows), expected)
    between = store.read("latents", SOURCE, (int(pts[2]) + 1, int(pts[3]) - 1))
    assert between.num_rows == 0 and between.schema.equals(store.schema("latents"))
    # Ruin the data of every part but the second: a read of its range must not notice.
    for part in store.parts("latents", SOURCE):
        if part.name != range_part(4, 8):
            data = bytearray(part.path.read_bytes())
            data[4:400] = bytes(396)
            part.path.write_bytes(bytes(data))
    assert store.read("latents", SOURCE, (int(pts[4]), int(pts[7]))).num_rows == 8
    with pytest.raises(StoreError):
        store.read("latents", SOURCE)


def test_columns_come_alone_and_in_the_order_asked(store: Store) -> None:
    pts = write_source(store)
    rows = store.read("tracks", SOURCE, columns=["quad", "pts"])
    assert rows.column_names == ["quad", "pts"]
    assert rows.column("pts").to_pylist() == np.repeat(pts, 2).tolist()
    with pytest.raises(StoreError, match="no column quads; there are source_id"):
        store.read("tracks", SOURCE, columns=["quads"])
    with pytest.raises(StoreError, match="no table"):
        store.read("videos", SOURCE)
    with pytest.raises(StoreError, match="first <= last"):
        store.read("tracks", SOURCE, (1, 0))


def test_sources_are_kept_apart_and_read_together(store: Store) -> None:
    write_source(store, OTHER, count=3)
    write_source(store, SOURCE, count=7)
    assert store.stored_source_ids() == [SOURCE, OTHER]
    assert store.sources().column("source_id").to_pylist() == [SOURCE, OTHER]
    assert store.read("frames", OTHER).num_rows == 3
    assert store.read("frames").column("source_id").to_pylist() == [SOURCE] * 7 + [OTHER] * 3
    assert [one for one in store.stored_source_ids() if store.is_complete(one)] == [SOURCE, OTHER]


def test_the_chunk_length_does_not_show_in_what_is_read(tmp_path: Path) -> None:
    tables = []
    for chunk in (1, 5, 64):
        store = Store.create(tmp_path / str(chunk), INFO)
        write_source(store, chunk=chunk)
        tables.append({t: store.read(t).combine_chunks() for t in ("frames", "faces", "latents", "residuals")})
    assert tables[0] == tables[1] == tables[2]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        store = Store.create(tmp_path / name, INFO)
        write_source(store)
        found.append({p.relative_to(store.root): p.read_bytes() for p in store.root.rglob("*") if p.is_file()})
    assert found[0] == found[1] and len(found[0]) > 10


def test_a_part_without_rows_says_that_its_chunk_was_done(store: Store) -> None:
    none = columns.latents_table(SOURCE, 0, np.zeros(0, int), np.zeros((0, L, D)))
    assert not store.parts("latents", SOURCE)
    store.write_part("latents", SOURCE, range_part(0, 5), none)
    assert [part.name for part in store.parts("latents", SOURCE)] == [range_part(0, 5)]
    assert store.read("latents", SOURCE).num_rows == 0
    assert store.read("latents", SOURCE, (0, 10)).num_rows == 0


def test_columns_in_another_order_or_narrower_type_are_taken(store: Store) -> None:
    rows = columns.frames_table(SOURCE, np.array([5]), np.array([1.0]), np.array([2]))
    mixed = rows.select(["face_count", "pts", "cut_score", "track_id", "source_id"])
    mixed = mixed.set_column(0, "face_count", pa.array([2], pa.int8()))
    store.write_part("frames", SOURCE, 0, mixed)
    assert store.read("frames", SOURCE).equals(rows)


# ---------------------------------------------------------------------------------------------- refusals


def test_rows_that_do_not_fit_the_table_are_refused_and_nothing_is_written(store: Store) -> None:
    pts = np.array([0, 1])
    rows = columns.frames_table(SOURCE, pts, np.zeros(2), np.zeros(2))
    bad = {
        "missing cut_score, not expected none": rows.drop_columns(["cut_score"]),
        "not expected blur": rows.append_column("blur", pa.array([0, 0])),
        "face_count' is int32": rows.set_column(4, "face_count", pa.array(["x", "y"])),
        "face_count' has 1 nulls": rows.set_column(4, "face_count", pa.array([1, None], pa.int32())),
        "rows of other sources": columns.frames_table(OTHER, pts, np.zeros(2), np.zeros(2)),
        "more than once": columns.frames_table(SOURCE, pts * 0, np.zeros(2), np.zeros(2)),
    }
    for says, table in bad.items():
        with pytest.raises(StoreError, match=says):
            store.write_part("frames", SOURCE, 0, table)
    with pytest.raises(StoreError, match="wplus"):
        store.write_part("latents", SOURCE, 0, columns.latents_table(SOURCE, 0, pts, np.zeros((2, L, D + 1))))
    turned = columns.residuals_table(SOURCE, 0, pts, np.zeros((2, *RESIDUAL[::-1])), "float32")
    with pytest.raises(StoreError, match="must be laid out as"):
        store.write_part("residuals", SOURCE, 0, turned)
    assert [p for p in store.root.rglob("*") if p.is_file() and p.suffix != ".md"] == [store.root / "meta" / "info.json"]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a.b", "-x", "é", "a" * 101, "a\n"])
def test_names_that_could_leave_the_folder_are_refused(store: Store, name: str) -> None:
    rows = columns.frames_table(name, np.array([0]), np.zeros(1), np.zeros(1))
    for attempt in (
        lambda: store.write_part("frames", name, 0, rows),
        lambda: store.write_part("frames", SOURCE, name, rows),
        lambda: store.write_manifest(name, SOURCE, {}),
        lambda: store.delete_source(name),
        lambda: store.is_complete(name),
    ):
        with pytest.raises(StoreError, match="name is up to 100"):
            attempt()


def test_chunks_written_twice_under_two_names_are_found(store: Store) -> None:
    pts = write_source(store)
    rows = columns.latents_table(SOURCE, 0, pts[:2], codes(pts[:2], 0))
    store.write_part("latents", SOURCE, range_part(0, 2), rows)
    with pytest.raises(StoreError, match=r"2 rows stand there more than once.*--overwrite"):
        store.read("latents", SOURCE)
    with pytest.raises(StoreError, match="more than once"):
        store.write_manifest("invert", SOURCE, {})


def test_the_same_part_again_replaces_the_former(store: Store) -> None:
    pts = np.array([0, 1])
    for value in (1.0, 2.0):
        rows = columns.frames_table(SOURCE, pts, np.full(2, value), np.zeros(2))
        store.write_part("frames", SOURCE, 3, rows)
        assert store.read("frames", SOURCE).column("cut_score").to_pylist() == [value, value]


# ------------------------------------------------------------------------------------- damage, death, resume


def test_a_flipped_bit_is_noticed_and_located(store: Store) -> None:
    write_source(store)
    assert store.verify(SOURCE) == {}
    for table in ("latents", "residuals"):
        part = store.parts(table, SOURCE)[1]
        whole = part.path.read_bytes()
        data = bytearray(whole)
        middle = pq.ParquetFile(part.path).metadata.row_group(0).column(3)
        data[middle.data_page_offset + middle.total_compressed_size // 2] ^= 1
        part.path.write_bytes(bytes(data))
        with pytest.raises(StoreError, match=re.escape(str(part.path))):
            store.read(table, SOURCE)
        (said,) = store.verify(SOURCE).items()
        assert said[0] == str(part.path.relative_to(store.root)) and str(part.path) in said[1]
        part.path.write_bytes(whole)
    assert store.verify(SOURCE) == {}


@pytest.mark.parametrize("table", ["frames", "tracks", "latents"])
def test_no_flipped_bit_goes_unnoticed(store: Store, table: str) -> None:
    """A bit of each byte in turn: of the pages by their checksums, or it changes no row; of the footer by the manifest."""
    write_source(store)
    rows, part, drawn = store.read(table, SOURCE), store.parts(table, SOURCE)[0], random.Random(5)
    whole = part.path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    store.require_sound(SOURCE, [table])
    noticed = 0
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 1 << drawn.randrange(8)
        part.path.write_bytes(bytes(data))
        if at < footer:
            try:
                assert store.read(table, SOURCE).equals(rows), at
            except DamagedPart as error:
                assert list(error.found) == [part.path]
                noticed += 1
        else:
            with pytest.raises(DamagedPart, match="its footer is not the one that was written"):
                store.require_sound(SOURCE, [table])
    assert noticed > footer // 2, "the premise: most bits of a page are rows"


def test_what_is_written_is_vouched_for_by_digests_of_the_file(store: Store) -> None:
    """Of all of it, and of its end: also of a file that is written in many pieces and longer than that end."""
    pts = np.arange(400)
    written = store.write_part("residuals", SOURCE, 0, columns.residuals_table(SOURCE, 0, pts, maps(pts, 0), "float32"))
    path = store.root / written.path
    data = path.read_bytes()
    assert len(data) == written.size_bytes > 2 * TAIL_BYTES
    assert written.sha256 == hashlib.sha256(data).hexdigest()
    assert written.tail_sha256 == hashlib.sha256(data[-TAIL_BYTES:]).hexdigest() == tail_digest_of(path, len(data))


def test_parts_that_are_gone_are_named_all_of_them(store: Store) -> None:
    write_source(store)
    first, second, _ = store.parts("latents", SOURCE)
    first.path.unlink()
    second.path.write_bytes(second.path.read_bytes()[:-1])
    assert store.lacking(SOURCE) == {
        first.path: "it is missing",
        second.path: f"{second.size_bytes - 1} bytes instead of {second.size_bytes}",
    }
    with pytest.raises(DamagedPart, match=f"{first.path}: cannot be read .it is missing.*{second.path}: cannot be read"):
        store.require_sound(SOURCE, ["latents"])
    store.require_sound(SOURCE, ["tracks", "residuals"])
    store.require_sound(OTHER, ["latents"])  # of which nothing is vouched for


@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_a_torn_part_is_noticed_and_makes_its_source_incomplete(store: Store, kept: int) -> None:
    write_source(store)
    part = store.parts("latents", SOURCE)[0]
    part.path.write_bytes(part.path.read_bytes()[:kept])
    assert not store.is_complete(SOURCE)
    with pytest.raises(StoreError, match=r"damaged.*same invert or edit command"):
        store.read("latents", SOURCE)


def test_a_write_that_dies_leaves_what_was_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pts = np.array([0, 1])
    store.write_part("frames", SOURCE, 0, columns.frames_table(SOURCE, pts, np.ones(2), np.zeros(2)))
    before = sorted(p for p in store.root.rglob("*"))

    def full_disk(table: pa.Table, file: object, **settings: object) -> None:
        file.write(b"PAR1 half a file")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        store.write_part("frames", SOURCE, 0, columns.frames_table(SOURCE, pts, np.full(2, 9.0), np.zeros(2)))
    monkeypatch.undo()
    assert sorted(p for p in store.root.rglob("*")) == before
    assert store.read("frames", SOURCE).column("cut_score").to_pylist() == [1.0, 1.0]


def test_leftovers_of_killed_workers_are_never_read_and_go_with_the_manifest(store: Store) -> None:
    write_source(store)
    leftover = store.root / "latents" / SOURCE / ".part-000000000-000000005.parquet.77-ab.tmp"
    leftover.write_bytes(b"PAR1 half a file")
    assert store.read("latents", SOURCE).num_rows == 24
    assert pq.read_table(store.root / "latents").num_rows == 24
    store.write_manifest("invert", SOURCE, {})
    assert not leftover.exists()


def test_a_source_is_complete_only_after_its_manifest(store: Store) -> None:
    write_source(store)
    assert store.is_complete(SOURCE) and not store.is_complete(OTHER)
    assert not store.is_complete(SOURCE, "scan")
    assert store.read_manifest("invert", SOURCE) == {"frames": 12}
    assert store.read_manifest("invert", OTHER) is None
    (store.root / "manifests" / "invert" / f"{SOURCE}.json").unlink()
    assert not store.is_complete(SOURCE) and [one for one in store.stored_source_ids() if store.is_complete(one)] == []


def test_a_missing_part_makes_its_source_incomplete(store: Store) -> None:
    write_source(store)
    store.parts("residuals", SOURCE)[2].path.unlink()
    assert not store.is_complete(SOURCE)


BROKEN = {
    "truncated": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "no JSON": lambda text: "PAR1",
    "no text": lambda text: "\udcff\udcfe",
    "a list": lambda text: "[]",
    "another schema": lambda text: '{"parts": {"latents": 3}, "content": 1}',
    "another's": lambda text: text.replace(SOURCE, OTHER),
    "a digit changed": lambda text: text.replace('"bytes": ', '"bytes": 1', 1),
}
"""What may be there instead of a manifest."""


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_manifest_counts_as_none_and_is_named(store: Store, how: str) -> None:
    write_source(store)
    path = store.root / "manifests" / "invert" / f"{SOURCE}.json"
    assert store.broken_manifests(SOURCE) == {}
    path.write_text(BROKEN[how](path.read_text()), errors="surrogateescape")
    assert not store.is_complete(SOURCE) and store.read_manifest("invert", SOURCE) is None
    assert store.vouched_parts(SOURCE) == [] and [one for one in store.stored_source_ids() if store.is_complete(one)] == []
    (said,) = store.verify(SOURCE).items()
    assert said[0] == f"manifests/invert/{SOURCE}.json" and f"{path}: is not as it was written" in said[1]


def test_no_flipped_bit_of_a_manifest_goes_unnoticed(store: Store) -> None:
    write_source(store, count=4)
    path, drawn = store.root / "manifests" / "invert" / f"{SOURCE}.json", random.Random(3)
    good, content = path.read_bytes(), store.read_manifest("invert", SOURCE)
    for at in range(len(good)):
        data = bytearray(good)
        data[at] ^= 1 << drawn.randrange(8)
        path.write_bytes(bytes(data))
        try:
            # White space may become other white space.
            assert json.loads(data) == json.loads(good) and store.read_manifest("invert", SOURCE) == content
        except ValueError:
            assert store.broken_manifests(SOURCE), at
        except AssertionError:
            assert store.broken_manifests(SOURCE), at


def test_a_manifest_of_an_earlier_version_has_no_checksum_and_is_read(store: Store) -> None:
    write_source(store)
    path = store.root / "manifests" / "invert" / f"{SOURCE}.json"
    found = read_record(path)
    path.write_text(json.dumps(found))
    assert store.is_complete(SOURCE) and store.read_manifest("invert", SOURCE) == {"frames": 12}
    path.write_text(json.dumps(found | {"chfck": "0"}))
    assert not store.is_complete(SOURCE)


def test_manifests_hold_only_what_json_can(store: Store) -> None:
    with pytest.raises(StoreError, match="finite JSON"):
        store.write_manifest("scan", SOURCE, {"fps": float("inf")})
    with pytest.raises(StoreError, match="finite JSON"):
        store.write_manifest("scan", SOURCE, {"path": Path("x")})


def test_deleting_a_source_leaves_nothing_of_it_and_all_of_the_others(store: Store) -> None:
    write_source(store, SOURCE)
    write_source(store, OTHER)
    store.write_failures("scan", [schemas.Failure(SOURCE, "a.mp4", "scan", "no_face", pts=0)])
    store.write_manifest("scan", SOURCE, {})
    kept = {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file() and SOURCE not in str(p)}
    store.delete_source(SOURCE)
    store.delete_source(SOURCE)
    assert {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()} == kept
    assert not [p for p in store.root.rglob("*") if SOURCE in p.name]
    assert store.is_complete(OTHER) and store.stored_source_ids() == [OTHER]


def test_deleting_some_tables_makes_the_source_incomplete_and_keeps_the_rest(store: Store) -> None:
    write_source(store)
    store.delete_source(SOURCE, ["latents", "residuals"])
    assert not store.is_complete(SOURCE)
    assert store.read("latents", SOURCE).num_rows == 0
    assert store.read("tracks", SOURCE).num_rows == 24


def test_a_deletion_that_dies_leaves_no_complete_source(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source(store)

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.store.tables.shutil.rmtree", dies)
    with pytest.raises(KeyboardInterrupt):
        store.delete_source(SOURCE)
    monkeypatch.undo()
    assert not store.is_complete(SOURCE) and store.read("latents").num_rows == 0
    store.delete_source(SOURCE)
    assert not (store.root / ".deleted").exists()


# ------------------------------------------------------------------------------------- failures, measurement


def test_failures_are_rows_and_a_retry_replaces_them(store: Store) -> None:
    missing = schemas.source_id_of_unreadable("gone.mp4")
    store.write_failures("probe", [schemas.Failure(missing, "gone.mp4", "probe", "media_error", "no such file")])
    lost = [
        schemas.Failure(SOURCE, "a.mp4", "invert", "worker_died", track_id=1, pts=512, last_pts=1024),
        schemas.Failure(SOURCE, "a.mp4", "invert", "worker_died", track_id=0, pts=0, last_pts=256),
    ]
    for _ in range(2):
        store.write_failures("invert", lost)
    rows = store.failures(SOURCE).to_pylist()
    assert [(r["pts"], r["track_id"]) for r in rows] == [(0, 0), (512, 1)]
    assert store.failures().num_rows == 3
    assert store.read("failures", missing).column("message").to_pylist() == ["no such file"]
    # A failure of a whole source has no pts, and is in no range of pts.
    assert store.read("failures", pts_range=(0, 0)).num_rows == 1
    # A stage that is run again and loses nothing leaves no old losses behind, nor touches another stage's or source's.
    store.clear_failures("invert", [SOURCE, "0" * 16])
    assert [r["stage"] for r in store.failures().to_pylist()] == ["probe"]


def test_sizes_are_those_on_the_disk(store: Store) -> None:
    assert set(store.sizes_bytes().values()) == {0} and store.bytes_per_face_frame() == {}
    write_source(store)
    for table, size in store.sizes_bytes().items():
        assert size == sum(p.stat().st_size for p in (store.root / table).rglob("*.parquet"))
    assert store.row_counts()["latents"] == 24
    assert store.bytes_per_face_frame()["residuals"] == store.sizes_bytes()["residuals"] / 24


def test_footers_are_read_again_after_a_part_changed(store: Store) -> None:
    write_source(store, count=4)
    assert [p.row_count for p in store.parts("frames", SOURCE)] == [4]
    rows = columns.frames_table(SOURCE, np.array([7777]), np.zeros(1), np.zeros(1))
    store.write_part("frames", SOURCE, range_part(0, 4), rows)
    (part,) = store.parts("frames", SOURCE)
    assert (part.row_count, part.first_pts, part.last_pts) == (1, 7777, 7777)


def test_parts_are_laid_out_for_streaming(store: Store) -> None:
    write_source(store, count=2000, chunk=2000)
    for table in ("latents", "residuals", "frames"):
        (part,) = store.parts(table, SOURCE)
        footer = pq.ParquetFile(part.path).metadata
        assert footer.num_row_groups == 1
        group = footer.row_group(0)
        for index in range(group.num_columns):
            column = group.column(index)
            assert column.compression == "ZSTD"
            assert not any("DICTIONARY" in encoding for encoding in column.encodings)
            is_key = column.path_in_schema in ("source_id", "track_id", "pts")
            assert (column.statistics is not None and column.statistics.has_min_max) == is_key
    wplus = pq.ParquetFile(store.parts("latents", SOURCE)[0].path).metadata.row_group(0).column(3)
    assert "BYTE_STREAM_SPLIT" in wplus.encodings


# ------------------------------------------------------------------------------------- other people's readers


def test_pandas_reads_the_shapes(store: Store) -> None:
    pandas = needs.package("pandas")
    pts = write_source(store)
    frame = pandas.read_parquet(store.root / "latents").sort_values(["track_id", "pts"])
    np.testing.assert_array_equal(np.stack(frame["wplus"].iloc[0]), codes(pts[:1], 0)[0])
    tracks = pandas.read_parquet(store.root / "tracks")
    assert np.stack(tracks["quad"].iloc[0]).shape == (4, 2)
    residuals = pandas.read_parquet(store.root / "residuals").sort_values(["track_id", "pts"])
    first = np.frombuffer(residuals["residual"].iloc[0], np.float32).reshape(RESIDUAL)
    np.testing.assert_array_equal(first, maps(pts[:1], 0)[0])


def test_polars_reads_the_shapes(store: Store) -> None:
    polars = needs.package("polars")
    pts = write_source(store)
    frame = polars.read_parquet(f"{store.root}/latents/**/*.parquet").sort("track_id", "pts")
    assert frame.schema["wplus"] == polars.Array(polars.Float32, (L, D))
    np.testing.assert_array_equal(frame["wplus"].to_numpy()[: len(pts)], codes(pts, 0))


def test_duckdb_reads_the_shapes_and_joins(store: Store) -> None:
    duckdb = needs.package("duckdb")
    pts = write_source(store)
    joined = duckdb.sql(
        f"""select tracks.pts, len(wplus), len(wplus[1]), wplus[2][3], octet_length(residual), len(quad)
            from '{store.root}/tracks/**/*.parquet' tracks
            join '{store.root}/latents/**/*.parquet' using (source_id, track_id, pts)
            join '{store.root}/residuals/**/*.parquet' using (source_id, track_id, pts)
            where track_id = 1 order by tracks.pts"""
    ).fetchall()
    assert [row[0] for row in joined] == pts.tolist()
    assert {row[1:3] + row[4:] for row in joined} == {(L, D, 60 * 4, 4)}
    np.testing.assert_array_equal([row[3] for row in joined], codes(pts, 1)[:, 1, 2])


def test_a_part_of_an_older_minor_version_reads_with_nulls(tmp_path: Path) -> None:
    """`edits` gained the column `editor` with schema 1.1; stores that 1.0 wrote stay readable."""
    store = Store.create(tmp_path / "store", INFO)
    pts = np.arange(3)
    for name in ("old", "new"):
        rows = columns.edits_table(SOURCE, 0, pts, name, ["a"], np.ones((3, 1)), np.ones((3, 1)), {"a": "direction …"})
        store.write_part("edits", SOURCE, name, rows)
    old = store.root / "edits" / SOURCE / "old.parquet"
    table = pq.read_table(old).drop_columns(["editor"])
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | {schemas.SCHEMA_VERSION_KEY: b"1.0"}), old)
    rows = store.read("edits", SOURCE).to_pylist()
    assert {(row["recipe_id"], row["editor"]) for row in rows} == {("old", None), ("new", "direction …")}
    damaged = pq.read_table(old).drop_columns(["weight"])
    pq.write_table(damaged, old)
    with pytest.raises(StoreError, match="missing weight"):
        store.read("edits", SOURCE)


@pytest.mark.parametrize("codec", schemas.RESIDUAL_CODECS)
def test_hugging_face_datasets_reads_every_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: schemas.ResidualCodec
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = needs.package("datasets")
    store = Store.create(tmp_path / "store", replace(INFO, residual_codec=codec))
    pts = write_source(store)
    applied = columns.edits_table(SOURCE, 0, pts, "r", ["smile"], np.ones((12, 1)), np.ones((12, 1)))
    store.write_part("edits", SOURCE, "r", applied)
    store.write_failures("scan", [schemas.Failure(SOURCE, "a.mp4", "scan", "no_face")])
    for table, count in store.row_counts().items():
        if table == "segments":  # none written: a table without files cannot be loaded, the rest can
            continue
        loaded = datasets.load_dataset(str(store.root), table, split="train", cache_dir=str(tmp_path / "cache")).with_format(
            "numpy"
        )
        assert len(loaded) == count
        if table == "latents":
            mine = np.asarray(loaded["track_id"]) == 0
            np.testing.assert_array_equal(np.stack(loaded["wplus"])[mine], codes(pts, 0))


def test_the_readme_of_the_schemas_reads_residuals_without_us(store: Store, tmp_path: Path) -> None:
    pts = write_source(store, tracks=(0,))
    readme = (Path(schemas.__file__).parent / "README.md").read_text("utf-8")
    snippet = re.search(r"```python\n(import json.*?)```", readme, re.S)
    assert snippet is not None
    names: dict = {}
    exec(snippet[1].replace("STORE", str(store.root)), names)
    np.testing.assert_array_equal(names["maps"], maps(pts, 0))
