"""Image sets: what a picture's result may depend on (its bytes, its name, settings), and what not (which others were there)."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from jobs.common.prepare import open_store
from ops.checkpoints.bundle import Bundle
from ops.editing.library import load_edits
from ops.editing.recipe import parse_edits
from ops.face.align import crop_face
from ops.face.paste import PasteSettings, paste
from ops.face.person import person_in
from ops.face.track import TrackSettings
from ops.inversion.session import Session
from ops.video.probe import source_digest
from pipeline import flow
from pipeline.engine import packs
from pipeline.engine.course import Event, silent
from pipeline.engine.runner import InProcessRunner
from pipeline.sources.fetch import Fetcher
from pipeline.sources.inputs import Probing, entries
from pipeline.sources.outputs import Admission, Outputs
from pipeline.steps import pictures as step
from pipeline.steps.plan import PlanSettings
from pipeline.store import upkeep
from pipeline.store.columns import array_from_column, residuals_from_table, wplus_from_table
from pipeline.store.places import Place, joined
from pipeline.store.tables import Store
from schemas import Failure, source_id_from_sha256
from tests import tiny

FRAMES = tiny.marked_frames(40, people=1)
TABLES_OF_ROWS = ("sources", "frames", "faces", "tracks", "latents", "residuals", "edits", "failures")


def write(folder: Path, count: int, start: int = 0) -> list[Path]:
    """Pictures of one face each, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for i in range(start, start + count):
        frame = FRAMES[i % len(FRAMES)].copy()
        frame[0, 0] = (i % 256, i // 256, 7)
        Image.fromarray(frame).save(folder / f"{i:04d}.png", compress_level=1)
        found.append(folder / f"{i:04d}.png")
    return found


def key_of(path: Path) -> str:
    return source_id_from_sha256(source_digest(path))


def edit(
    folder: Place,
    bundle: Bundle,
    *inputs: Path,
    out: str = "out",
    recipe: str = "warm=1",
    inverting: flow.InvertSettings = tiny.INVERTING,
    paste: PasteSettings = tiny.PASTE,
    overwrite: bool = False,
    sheets: Any = "job",
    report: Callable[[Event], None] = silent,
    runner: Any = None,
    chunk_frames: int = 8,
) -> flow.Summary:
    """An edit of everything below FOLDER/in (or of the inputs) into FOLDER/out, with FOLDER/store."""
    store = open_store(joined(folder, "store"), bundle, "float32")
    given = [str(one) for one in inputs] or [str(joined(folder, "in"))]
    lost: list[Failure] = []
    found = Probing(entries(given), lost.append, open_pictures=False)
    outputs = Outputs(str(joined(folder, out)), encode=tiny.LOSSLESS, sets=True)
    settings = flow.RenderSettings(
        PlanSettings(parse_edits([recipe])), paste, encode=tiny.LOSSLESS, sheet_frames=2, contact_sheets=sheets
    )
    compute = flow.Compute("cpu", "fp32", 4, chunk_frames)
    policy = flow.Policy(overwrite, Admission(outputs, overwrite, False))
    summary = flow.edit(
        found, outputs, store, bundle, inverting, settings, compute, runner or InProcessRunner(), report, policy
    )
    assert not lost
    return summary


def rows_of(folder: Place) -> dict[str, list[dict[str, Any]]]:
    """Rows of every table without regard to parts and packs."""
    store = Store.open(joined(folder, "store"))
    found = {name: store.read(name).to_pylist() for name in TABLES_OF_ROWS}
    for rows in found.values():
        for row in rows:
            if "uri" in row:
                row["uri"] = Path(row["uri"]).name
    return {name: sorted(rows, key=lambda row: str(list(row.values())[:6])) for name, rows in found.items()}


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "out").rglob("*")) if p.is_file()}


@pytest.fixture
def detected(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the detector has looked at a picture."""
    counted: Counter[str] = Counter()
    looked = tiny.MarkDetector.detect

    def detect(self: tiny.MarkDetector, frame: np.ndarray) -> Any:
        counted["looked"] += 1
        return looked(self, frame)

    monkeypatch.setattr(tiny.MarkDetector, "detect", detect)
    return counted


# ---------------------------------------------------------------------------------------------------- rows and pixels


def test_rows_and_pixels_are_those_of_the_model_called_by_hand(tmp_path: Path, bundle: Bundle) -> None:
    paths = write(tmp_path / "in", 10)
    summary = edit(tmp_path, bundle, paste=PasteSettings())
    assert (summary.counts["frames"], summary.counts["faces"], summary.counts["edits"], summary.sources_done) == (
        10,
        10,
        10,
        10,
    )
    store, session = Store.open(tmp_path / "store"), Session(bundle.load("all"), device="cpu", precision="fp32", batch_size=4)
    editor = load_edits(["warm"], bundle.editors(), (), bundle.config.generator)["warm"].editor
    for path in (paths[0], paths[7]):
        frame, key = np.asarray(Image.open(path)), key_of(path)
        (face,) = tiny.MarkDetector().detect(frame)
        tracks, latents, residuals = (store.read(table, key) for table in ("tracks", "latents", "residuals"))
        quad_42 = array_from_column(tracks, "quad")[0]
        wplus_NLD, detail = session.invert(crop_face(frame, quad_42, 32)[None])
        assert detail is not None
        assert np.array_equal(array_from_column(store.read("faces", key), "box")[0], face.box_xyxy)
        assert np.array_equal(wplus_from_table(latents), wplus_NLD)
        assert np.array_equal(residuals_from_table(residuals), detail)
        assert store.read("frames", key).to_pylist() == [
            {"source_id": key, "track_id": -1, "pts": 0, "cut_score": None, "face_count": 1}
        ]
        edited_NLD = editor.apply(torch.from_numpy(wplus_NLD), torch.ones(1))
        after = session.generate_levels(edited_NLD.numpy(), detail, unedited_NLD=wplus_NLD)
        before = session.generate_levels(wplus_NLD, detail)
        expected = paste(
            frame,
            after[0],
            before[0],
            quad_42,
            PasteSettings(),
            landmarks=array_from_column(tracks, "landmarks")[0],
            person=person_in(frame, quad_42),
        )
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / f"{path.stem}.edited.png")), expected)
        assert np.abs(expected.astype(int) - frame).max() > 8, "the premise: the edit shows"


def test_a_thousand_pictures_are_few_files(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """One part for each table and pack: 90 pictures in packs of 30 here, as 6,000 in packs of 2,048."""
    monkeypatch.setattr(packs, "PACK_PICTURES", 30)
    write(tmp_path / "in", 90)
    summary = edit(tmp_path, bundle, chunk_frames=10)
    assert not summary.lost and summary.counts["edits"] == 90
    files = [p.relative_to(tmp_path / "store") for p in (tmp_path / "store").rglob("*") if p.is_file()]
    assert Counter(p.parts[0] for p in files) == Counter(
        {table: 3 for table in ("sources", "frames", "faces", "tracks", "latents", "residuals", "edits", "quality")}
        | {"manifests": 6, "README.md": 1, "meta": 1}
    )
    store = Store.open(tmp_path / "store")
    assert store.read("latents").num_rows == 90 and len(store.stored_source_ids()) == 90
    assert [p.name for p in (tmp_path / "out").iterdir() if "sheet" in p.name] == ["contact_sheet.png"]


def test_one_picture_is_read_once_and_decoded_once(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[str] = Counter()
    data, load = Fetcher.data, step.load_image

    def counted_data(self: Fetcher, uri: str) -> bytes:
        read[Path(uri).name] += 1
        return data(self, uri)

    def counted_load(path: str, given: bytes | None = None) -> Any:
        read[f"decoded {Path(path).name}"] += 1
        return load(path, given)

    def unread(*_: object, **__: object) -> None:
        raise AssertionError("a picture is opened by its path")

    monkeypatch.setattr(Fetcher, "data", counted_data)
    monkeypatch.setattr(Fetcher, "path", unread)
    monkeypatch.setattr(step, "load_image", counted_load)
    paths = write(tmp_path / "in", 5)
    assert edit(tmp_path, bundle).counts["edits"] == 5
    assert read == Counter([p.name for p in paths] + [f"decoded {p.name}" for p in paths])
    read.clear()
    assert edit(tmp_path, bundle).sources_skipped == 5 and not read, "what has not changed is not even read"


# ------------------------------------------------------------------------------------------------- another run, later


def test_another_run_does_what_is_missing_and_nothing_else(tmp_path: Path, bundle: Bundle, detected: Counter[str]) -> None:
    """Pictures added, removed, renamed, touched and reordered."""
    paths = write(tmp_path / "in", 9)
    edit(tmp_path, bundle)
    assert detected.pop("looked") == 9
    rows = rows_of(tmp_path)
    paths[0].unlink()
    paths[1].rename(paths[1].with_name("zz.png"))
    os.utime(paths[2], ns=(1, 1))
    added = write(tmp_path / "in", 2, start=20)
    summary = edit(tmp_path, bundle, *reversed(sorted((tmp_path / "in").iterdir())))
    assert detected == {"looked": 2} and summary.counts["faces"] == 2
    assert summary.counts["edits"] == 3, "the renamed one has a file of another name"
    assert summary.sources_skipped == 7 and summary.sources_done == 10 and not summary.lost
    assert (tmp_path / "out" / "zz.edited.png").read_bytes() == (tmp_path / "out" / "0001.edited.png").read_bytes()
    after = rows_of(tmp_path)
    assert len(after["latents"]) == 11
    for table in ("sources", "latents", "residuals", "edits"):
        assert [row for row in after[table] if row["source_id"] not in map(key_of, added)] == rows[table], table


def test_a_second_edit_reads_the_codes(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in", 12)
    edit(tmp_path, bundle)
    edit(tmp_path / "apart", bundle, tmp_path / "in", recipe="cold=1")
    expected, latents = files_of(tmp_path / "apart"), rows_of(tmp_path)["latents"]
    tiny.refuse_detectors(monkeypatch)
    monkeypatch.setattr(tiny.MarkFactory, "build", lambda self, device: None)
    summary = edit(tmp_path, bundle, recipe="cold=1", out="second")
    assert not summary.lost and summary.counts["edits"] == 12 and summary.counts["faces"] == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "second").iterdir()} == expected
    assert rows_of(tmp_path)["latents"] == latents
    assert len(rows_of(tmp_path)["edits"]) == 24


def test_rows_of_other_settings_are_kept_unless_that_is_asked_for(tmp_path: Path, bundle: Bundle) -> None:
    write(tmp_path / "in", 5)
    edit(tmp_path, bundle)
    other = replace(tiny.INVERTING, tracking=TrackSettings(min_track_frames=3))
    before = rows_of(tmp_path)
    refused = edit(tmp_path, bundle, inverting=other, out="b")
    assert [one.reason for one in refused.lost] == ["other_settings"] * 5
    assert "tracking.min_track_frames was 5, is 3" in refused.lost[0].message
    assert rows_of(tmp_path)["latents"] == before["latents"]
    done = edit(tmp_path, bundle, inverting=other, out="b", overwrite=True)
    assert not done.lost and done.counts["faces"] == 5
    after = rows_of(tmp_path)
    assert {name: len(rows) for name, rows in after.items()} == {name: len(rows) for name, rows in before.items()}
    assert not after["failures"], "a row goes when its picture is admitted later"


def test_an_output_of_somebody_else_is_not_replaced(tmp_path: Path, bundle: Bundle) -> None:
    write(tmp_path / "in", 4)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "0002.edited.png").write_bytes(b"mine")
    summary = edit(tmp_path, bundle)
    assert [one.reason for one in summary.lost] == ["output_exists"] and summary.counts["edits"] == 3
    assert (tmp_path / "out" / "0002.edited.png").read_bytes() == b"mine"
    assert not edit(tmp_path, bundle, overwrite=True).lost
    assert not rows_of(tmp_path)["failures"]
    (tmp_path / "out" / "0001.edited.png").unlink()
    again = edit(tmp_path, bundle)
    assert again.counts["edits"] == 1 and again.sources_skipped == 3
    assert len(rows_of(tmp_path)["edits"]) == 4, "an edit that is made again has its rows once"


# --------------------------------------------------------------------------------------------------------------- losses


def test_a_bad_picture_costs_itself(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unreadable, without a face, and one on which a step raises."""
    paths = write(tmp_path / "in", 12)
    paths[3].write_bytes(b"no picture")
    Image.fromarray(FRAMES[0][:20]).save(paths[5])
    poison = np.asarray(Image.open(paths[8])).copy()
    looked = tiny.MarkDetector.detect

    def detect(self: tiny.MarkDetector, frame: np.ndarray) -> Any:
        if np.array_equal(frame, poison):
            raise RuntimeError("poison")
        return looked(self, frame)

    with monkeypatch.context() as patch:
        patch.setattr(tiny.MarkDetector, "detect", detect)
        summary = edit(tmp_path, bundle)
    assert {(Path(one.uri).name, one.reason) for one in summary.lost} == {
        ("0003.png", "media_error"),
        ("0008.png", "runtime_error"),
    }
    assert summary.counts["edits"] == 9 and summary.sources_done == 10 and summary.sources_failed == 2
    made = np.asarray(Image.open(tmp_path / "out" / "0005.edited.png"))
    assert np.array_equal(made, FRAMES[0][:20]), "who has no face passes through"
    said = {(row["uri"], row["reason"]) for row in rows_of(tmp_path)["failures"]}
    assert said == {("0003.png", "media_error"), ("0008.png", "runtime_error"), ("0005.png", "no_face")}
    again = edit(tmp_path, bundle)
    assert again.counts["edits"] == 1 and again.sources_skipped == 10, "what failed is tried again"
    assert {row["uri"] for row in rows_of(tmp_path)["failures"]} == {"0003.png", "0005.png"}


def test_two_pictures_of_the_same_bytes_are_one_source_and_two_results(tmp_path: Path, bundle: Bundle) -> None:
    paths = write(tmp_path / "in", 20)
    shutil.copy(paths[0], tmp_path / "in" / "0000b.png")
    shutil.copy(paths[1], tmp_path / "in" / "zz.png")
    summary = edit(tmp_path, bundle, *sorted((tmp_path / "in").iterdir()), chunk_frames=4)
    assert not summary.lost and len(files_of(tmp_path)) == 23
    for table in ("sources", "latents", "residuals", "tracks", "edits"):
        rows = rows_of(tmp_path)[table]
        assert len(rows) == len({row["source_id"] for row in rows}) == 20, table
    assert edit(tmp_path, bundle).sources_skipped == 22


def measured(store: Store) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = store.read("quality").to_pylist()
    return rows


def test_each_edited_picture_is_measured_and_a_new_one_takes_its_rows(tmp_path: Path, bundle: Bundle) -> None:
    paths = write(tmp_path / "in", 5)
    edit(tmp_path, bundle)
    store = Store.open(tmp_path / "store")
    rows = measured(store)
    assert sorted(row["path"] for row in rows) == [str(tmp_path / "out" / f"{path.stem}.edited.png") for path in paths]
    assert all(row["edit_size"] > 0 and row["inversion_error"] > 0 and row["flicker"] is None for row in rows)
    assert all(row["trouble"] == pytest.approx(row["inversion_error"] / 20) and row["picture"] is None for row in rows)
    other = replace(tiny.PASTE, mode="delta")
    edit(tmp_path, bundle, paste=other, overwrite=True)
    assert len(measured(store)) == 5, "of the files that are there"
    edit(tmp_path, bundle, out="second")
    again = measured(store)
    assert len(again) == 10 and len({row["path"] for row in again}) == 10, "a second folder has rows of its own"
    found = [name for holder in store.holders() for name in store.verify(holder)]
    assert all(name.startswith("manifests/render-") for name in found), "only that edited files were replaced"


# ------------------------------------------------------------------------------------------------------ the store's jobs


def test_a_person_is_deleted_from_a_pack(tmp_path: Path, bundle: Bundle) -> None:
    paths = write(tmp_path / "in", 6)
    edit(tmp_path, bundle)
    store, key = Store.open(tmp_path / "store"), key_of(paths[2])
    before = rows_of(tmp_path)
    removed, made = upkeep.delete_track(store, key, 0)
    assert removed == {"latents": 1, "residuals": 1, "quality": 1, "edits": 1, "faces": 1, "tracks": 1}
    assert made == [str(tmp_path / "out" / "0002.edited.png")]
    after = rows_of(tmp_path)
    for table in ("latents", "residuals", "edits", "faces", "tracks"):
        assert after[table] == [row for row in before[table] if row["source_id"] != key], table
    assert [row["face_count"] for row in after["frames"] if row["source_id"] == key] == [0]
    assert store.verify(store.holder_of(key)) == {}, "what is left is vouched for"
    Path(made[0]).unlink()
    summary = edit(tmp_path, bundle)
    assert summary.counts["edits"] == 0 and summary.sources_skipped == 5 and not summary.lost
    assert np.array_equal(np.asarray(Image.open(made[0])), np.asarray(Image.open(paths[2])))
    other = replace(tiny.INVERTING, tracking=TrackSettings(min_track_frames=3))
    assert edit(tmp_path, bundle, inverting=other, out="b", overwrite=True).counts["faces"] == 5, "nobody finds them again"


@pytest.mark.parametrize("table", ["sources", "latents", "residuals", "tracks", "manifests/invert"])
def test_a_damaged_pack_is_made_again(tmp_path: Path, bundle: Bundle, table: str) -> None:
    write(tmp_path / "in", 6)
    edit(tmp_path, bundle)
    before = rows_of(tmp_path)
    (file,) = [p for p in (tmp_path / "store" / table).rglob("*") if p.is_file()]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    store = Store.open(tmp_path / "store")
    (pack_id,) = store.holders("latents")
    from pipeline.engine.ledger import Ledger

    said = Ledger(store).put_damaged_aside(pack_id)
    assert len(said) == 1 and str(file) in said[0]
    summary = edit(tmp_path, bundle)
    assert not summary.lost and summary.counts["faces"] == 6
    assert rows_of(tmp_path) == before
    (again,) = Store.open(tmp_path / "store").holders("latents")
    assert Store.open(tmp_path / "store").verify(again) == {}


def test_export_and_reading_of_one_picture(tmp_path: Path, bundle: Bundle) -> None:
    paths = write(tmp_path / "in", 70)
    edit(tmp_path, bundle, chunk_frames=16)
    store, key = Store.open(tmp_path / "store"), key_of(paths[66])
    (pack_id,) = store.holders("latents")
    assert pa.parquet.ParquetFile(store.parts("latents", pack_id)[0].path).num_row_groups == 2
    whole = store.read("latents")
    assert store.read("latents", key).equals(whole.filter(pa.compute.equal(whole["source_id"], key)))
    rows, damaged = upkeep.export(store, "latents", str(tmp_path / "one.parquet"), [key])
    assert (rows, damaged) == (1, [])
    assert pa.parquet.read_table(tmp_path / "one.parquet")["source_id"].to_pylist() == [key]
    assert upkeep.export(store, "latents", str(tmp_path / "all.parquet"))[0] == 70


# ------------------------------------------------------------------------------------------------------- killed at any time


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_is_continued(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill before each change to the disk, of a run with two packs; the next run has the same rows and files."""
    monkeypatch.setattr(packs, "PACK_PICTURES", 8)
    write(tmp_path / "whole" / "in", 12)
    edit(tmp_path / "whole", bundle, chunk_frames=4)
    rows, files = rows_of(tmp_path / "whole"), files_of(tmp_path / "whole")

    class Killed(BaseException):
        pass

    def dying(count: int) -> Iterator[None]:
        left = [count]
        changes = {name: getattr(os, name) for name in ("replace", "unlink", "rmdir")}

        def wrapped(change: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*arguments: Any, **named: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return change(*arguments, **named)

            return counted

        with monkeypatch.context() as patch:
            for name, change in changes.items():
                patch.setattr(os, name, wrapped(change))
            yield

    count, killed = 0, 0
    while True:
        folder = tmp_path / str(count)
        shutil.copytree(tmp_path / "whole" / "in", folder / "in")
        try:
            for _ in dying(count):
                edit(folder, bundle, chunk_frames=4)
        except Killed:
            killed += 1
        else:
            break
        summary = edit(folder, bundle, chunk_frames=4)
        assert not summary.lost, count
        left = rows_of(folder)
        for table, value in rows.items():
            assert left[table] == value, (count, table)
        made = files_of(folder)
        assert {name: made[name] for name in files if "sheet" not in name} == {
            name: value for name, value in files.items() if "sheet" not in name
        }
        leftovers = [p for kind in ("ledger", "work") for p in (folder / "store" / kind).rglob("*") if p.is_file()]
        assert not leftovers, count
        shutil.rmtree(folder)
        count += 8
    assert killed > 8, "the premise"


def test_damage_in_a_pack_costs_the_pictures_that_it_hit(
    tmp_path: Path, bundle: Bundle, detected: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit flips in the codes of one row group, of two pictures; others keep theirs, and nobody's edit is forgotten."""
    monkeypatch.setattr("pipeline.store.packs.GROUP_ROWS", 2)
    monkeypatch.setattr("pipeline.store.places.TAIL_BYTES", 256)  # as of a pack that is large
    paths = write(tmp_path / "in", 12)
    edit(tmp_path, bundle)
    before = rows_of(tmp_path)
    (file,) = (tmp_path / "store/latents").rglob("*.parquet")
    group = pq.ParquetFile(file).metadata.row_group(2)
    column = next(group.column(at) for at in range(group.num_columns) if group.column(at).path_in_schema.startswith("wplus"))
    data = bytearray(file.read_bytes())
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 4
    file.write_bytes(data)
    hit = pq.ParquetFile(file).read_row_group(2, columns=["source_id"])["source_id"].to_pylist()
    detected.clear()
    # Some of the pictures first, so that the pack is changed for those, and then all.
    some = [path for path in paths if key_of(path) == hit[0]] + paths[:1]
    summary = edit(tmp_path, bundle, *some, out="cold", recipe="cold=1")
    assert not summary.lost and summary.counts["edits"] == len(set(some))
    summary = edit(tmp_path, bundle, out="cold", recipe="cold=1")
    assert not summary.lost and detected["looked"] == 2, "both of the row group, and no other"
    after = rows_of(tmp_path)
    for table in ("sources", "frames", "faces", "tracks", "latents", "residuals"):
        assert after[table] == before[table], table
    assert len(after["edits"]) == 24
    store = Store.open(tmp_path / "store")
    assert all(store.verify(pack_id) == {} for pack_id in store.holders())
