"""Looking after a store: joining parts is done or not, whenever it is killed, and deleting a person leaves nothing anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.common.prepare import open_settled
from ops.checkpoints.bundle import Bundle
from ops.face.detect import DetectorSettings
from ops.face.track import TrackSettings
from pipeline import flow
from pipeline.engine.course import silent
from pipeline.engine.runner import InProcessRunner
from pipeline.engine.stage import Source
from pipeline.store import journal, upkeep
from pipeline.store.parts import StoreError, range_part
from pipeline.store.tables import Store
from tests import tiny
from tests.ops.video.media import make_video
from tests.pipeline.store.test_tables import INFO, SOURCE, write_source

ROOT = Path(__file__).resolve().parents[3]
TABLES = ("frames", "faces", "tracks", "latents", "residuals")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A finished source of 12 frames in chunks of 5."""
    made = Store.create(tmp_path / "store", INFO)
    write_source(made, SOURCE, count=12)
    return made


def files_of(store: Store) -> set[str]:
    return {str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file() and path.suffix != ".tmp"}


def test_joined_parts_have_the_same_rows_and_are_joined_again(store: Store) -> None:
    rows = tiny.rows_of(store)
    largest = max(part.size_bytes for part in store.parts("residuals", SOURCE))
    before, some = upkeep.compact(store, SOURCE, part_bytes=2 * largest)
    assert [part.name for part in store.parts("residuals", SOURCE)] == [range_part(0, 10, joined=True), range_part(10, 12)]
    assert before == 15 and upkeep.compact(store, SOURCE) == (some, 7) and upkeep.compact(store, SOURCE) == (7, 7)
    assert [part.name for part in store.parts("residuals", SOURCE)] == [range_part(0, 12, joined=True)]
    assert store.verify(SOURCE) == {} and store.is_complete(SOURCE)
    for name, table in tiny.rows_of(store).items():
        assert table.equals(rows[name]), name


def killed_states(job: str, store: Store, folder: Path) -> list[Path]:
    """Copies of a store, in each of which the job was killed one change to the disk later."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.pipeline.faults", job, str(store.root), str(folder)]
    ran = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert ran.returncode == 0, ran.stderr
    return sorted(folder.iterdir(), key=lambda path: int(path.name))


def bare(root: Path, table: str) -> list[tuple[int, int, int]]:
    """(track, pts, how often) of every row that a reader finds who knows nothing of us but where tables are."""
    if not list((root / table).rglob("*.parquet")):
        return []  # readers say so
    found = duckdb.sql(
        f"select track_id, pts, count(*) from '{root}/{table}/**/*.parquet' group by all order by all"
    ).fetchall()
    assert pq.read_table(root / table).num_rows == sum(count for *_, count in found)
    return found


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("job", ["compact", "compact-by-files"])
def test_a_compaction_that_is_killed_at_any_change_has_cost_nothing_and_is_finished_by_the_next_command(
    store: Store, tmp_path: Path, job: str
) -> None:
    """SIGKILL before each rename, link and removal in turn. No reader of the bare files meets a row twice at any of them.

    Where folders can trade places it misses none either; where not, it may, and then any command makes it whole.
    """
    rows = tiny.rows_of(store)
    seen = {table: bare(tmp_path / "store", table) for table in TABLES}
    assert {count for table in TABLES[2:] for *_, count in seen[table]} == {1}
    killed = killed_states(job, store, tmp_path / "killed")
    upkeep.compact(store, SOURCE)
    finished = files_of(store)
    missed = 0
    for root in killed:
        for table in TABLES:
            found = bare(root, table)
            missed += found != seen[table]
            assert set(found) <= set(seen[table]), (root, table)
        unfinished = journal.unfinished(root)
        if unfinished:
            with pytest.raises(journal.Unfinished, match=f"compact-{SOURCE}.*styleres store verify"):
                Store.open(root)
        one = open_settled(root)
        assert one.is_complete(SOURCE) and one.verify(SOURCE) == {}, root
        assert not unfinished or files_of(one) == finished
        upkeep.compact(one, SOURCE)
        assert files_of(one) == finished, root
        for name, table in tiny.rows_of(one).items():
            assert table.equals(rows[name]), (root, name)
    assert len(killed) > 25 and (missed > 0) == (job == "compact-by-files")


def test_a_joined_part_that_is_damaged_while_it_waits_takes_no_ones_place(store: Store, tmp_path: Path) -> None:
    rows = tiny.rows_of(store)
    (tmp_path / "killed").mkdir()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(upkeep, "_swap", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        upkeep.compact(store, SOURCE)
    (staged,) = (store.root / ".joining" / SOURCE / "latents" / SOURCE).iterdir()
    staged.write_bytes(staged.read_bytes()[:-1])
    again = open_settled(store.root)
    assert again.verify(SOURCE) == {} and again.is_complete(SOURCE)
    assert len(again.parts("latents", SOURCE)) == 3 and len(again.parts("residuals", SOURCE)) == 1
    for name, table in tiny.rows_of(again).items():
        assert table.equals(rows[name]), name


def test_parts_that_nobody_vouches_for_are_named_and_put_aside(store: Store) -> None:
    """A worker of a run that was given up may leave one when its source is finished."""
    rows = tiny.rows_of(store)
    part = store.parts("latents", SOURCE)[0].path
    stranger = part.with_name(f"{range_part(0, 3)}.parquet")
    stranger.write_bytes(part.read_bytes())
    (said,) = store.verify(SOURCE).values()
    assert said == f"{stranger}: nobody vouches for it"
    upkeep.compact(store, SOURCE)
    assert not stranger.exists() and tiny.rows_of(store)["latents"].equals(rows["latents"])


# --------------------------------------------------------------------------------------------------- deleting people


def shown(root: Path) -> set[str]:
    """Tables and other files of a store in which track 0 of the marked clip is still found, or was planned."""
    found = {table for table in ("tracks", "latents", "residuals", "edits") for track, *_ in bare(root, table) if track == 0}
    left = {pts for _, pts, count in bare(root, "faces") if count > 1}
    found |= {"faces"} if left else set()
    found |= {"frames"} if max(pq.read_table(root / "frames")["face_count"].to_pylist()) > 1 else set()
    hidden = [*(root / "work").rglob("*.*"), *(root / ".damaged").rglob("*.parquet")]
    return found | {str(path.relative_to(root)) for path in hidden if path.is_file()}


def without_a_word(*words: object) -> dict[str, Any]:
    ran = CliRunner().invoke(app, list(map(str, words)))
    assert ran.exit_code == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.fixture
def two_people(tmp_path: Path, bundle: Bundle) -> tuple[Source, Store]:
    """20 frames, two people, both edited; of another edit the plan and a segment, because its run was killed."""
    source = tiny.source_of(tiny.marked_clip(tmp_path / "marked.mp4", 20))
    store, _ = tiny.inverted(tmp_path / "store", [source], bundle, chunk_frames=8)
    tiny.rendered(tmp_path / "out", store, [source], bundle, "warm=1")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pipeline.steps.finalize.Finalize.open", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        tiny.rendered(tmp_path / "cold", store, [source], bundle, "cold=1")
    aside = store.root / ".damaged" / "latents" / source.source_id / "part-000000000-000000008.parquet"
    aside.parent.mkdir(parents=True)
    aside.write_bytes(b"codes of both")
    assert {"tracks", "latents", "residuals", "edits", "faces", "frames"} < shown(tmp_path / "store")
    return source, store


@pytest.mark.nightly
@pytest.mark.slow
def test_a_deletion_that_is_killed_at_any_change_is_finished_by_whatever_command_comes_next(
    two_people: tuple[Source, Store], tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `invert` above all: it must not take the rows that are gone for work that is not done."""
    tiny.command_finds_marks(monkeypatch)
    monkeypatch.setattr(DetectorSettings, "decides", lambda self: tiny.MarkFactory().decides())
    source, store = two_people
    killed = killed_states("delete-track", store, tmp_path / "killed")
    upkeep.delete_track(store, source.source_id, 0)
    expected = {name: store.read(name).to_pylist() for name in (*TABLES, "edits")}
    begun = 0
    for at, root in enumerate(killed):
        if not journal.unfinished(root):
            assert not begun, "once begun it stays begun"
            assert Store.open(root).read("latents").num_rows == 40, "nothing has happened"
            continue
        begun += 1
        with pytest.raises(journal.Unfinished, match=f"delete-{source.source_id}-0"):
            Store.open(root)
        inverting = ("invert", source.uri, "--store", root, "--model", bundle.path, "--residual-codec", "float32")
        rendering = ("render", "--store", root, "--model", bundle.path, "--edit", "cold=1", "--out", tmp_path / f"o{at}")
        commands: list[tuple[object, ...]] = [
            inverting,
            ("store", "verify", root),
            ("store", "compact", root),
            ("store", "export", root, "--table", "latents", "--out", tmp_path / "x.parquet"),
            ("inspect", root, "--json"),
            (*rendering, "--no-contact-sheet"),
        ]
        without_a_word(*commands[at % len(commands)])
        assert shown(root) == set() and without_a_word(*inverting)["faces"] == 0, root
        opened = Store.open(root)
        assert opened.verify(source.source_id) == {} and opened.is_complete(source.source_id)
        for name in TABLES:
            assert opened.read(name).to_pylist() == expected[name], (root, name)
    assert begun > 25


WAYS = ["manifest", "faces", "frames", "tracks", "latents", "all tables", "other settings", "other tracks"]


@pytest.mark.parametrize("way", WAYS)
def test_a_deleted_person_is_not_found_again_whatever_is_made_again(
    two_people: tuple[Source, Store], bundle: Bundle, way: str
) -> None:
    """The other one is, with the same number and the same codes."""
    source, store = two_people
    everything = {name: store.read(name).filter(pc.equal(store.read(name)["track_id"], 1)) for name in TABLES[2:]}
    upkeep.delete_track(store, source.source_id, 0)
    assert shown(Path(str(store.root))) == set()
    with pytest.raises(StoreError, match=r"no track 0, and it was deleted before; it has \[1\]"):
        upkeep.delete_track(store, source.source_id, 0)
    settings = tiny.INVERTING
    match way:
        case "manifest":
            (Path(str(store.root)) / "manifests" / "invert" / f"{source.source_id}.json").write_text("{")
        case "all tables":
            store.delete_source(source.source_id)
        case "other settings":
            settings = replace(settings, detector=tiny.MarkFactory(0.3))
        case "other tracks":
            settings = replace(settings, tracking=TrackSettings(max_gap_seconds=0.3))
        case table:
            store.parts(table, source.source_id)[0].path.unlink()  # type: ignore[union-attr]
    compute = flow.Compute("cpu", "fp32", 4, 8)
    again = Store.open(store.root)
    policy = flow.Policy(overwrite=True)
    summary = flow.invert([source], again, bundle, settings, compute, InProcessRunner(), silent, policy)
    assert not summary.lost and again.is_complete(source.source_id) and again.verify(source.source_id) == {}
    assert shown(Path(str(store.root))) <= {"edits"} and set(again.read("edits")["track_id"].to_pylist()) <= {1}
    for name, rows in everything.items():
        assert again.read(name).equals(rows), name


def test_a_shot_that_was_deleted_from_a_model_of_whole_frames_is_not_found_again(tmp_path: Path) -> None:
    bundle = tiny.tiny_bundle(tmp_path / "bundle", crop="centre", content=(24, 32))
    frames = [*tiny.marked_frames(10, people=0), *(255 - frame for frame in tiny.marked_frames(10, people=0))]
    source = tiny.source_of(make_video(tmp_path / "cut.mp4", frames, options={"preset": "ultrafast", "crf": "8"}))
    store, _ = tiny.inverted(tmp_path / "store", [source], bundle)
    assert set(store.read("latents")["track_id"].to_pylist()) == {0, 1}, "the premise: two shots"
    upkeep.delete_track(store, source.source_id, 0)
    left = store.read("tracks")
    store.delete_source(source.source_id)
    tiny.inverted(tmp_path / "store", [source], bundle)
    assert repr(store.read("tracks").to_pylist()) == repr(left.to_pylist()), "landmarks are no numbers, not equal to themselves"
    assert set(store.read("latents")["track_id"].to_pylist()) == {1}


def test_a_deletion_whose_record_is_damaged_is_finished_too(two_people: tuple[Source, Store]) -> None:
    """Its name says whom."""
    source, store = two_people
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(upkeep, "_delete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        upkeep.delete_track(store, source.source_id, 0)
    (record,) = (Path(str(store.root)) / ".journal").iterdir()
    record.write_text("{")
    open_settled(store.root)
    assert shown(Path(str(store.root))) == set()


def test_parts_that_cannot_be_looked_through_go_with_whoever_is_in_them(
    two_people: tuple[Source, Store], bundle: Bundle
) -> None:
    source, store = two_people
    expected = store.read("latents").filter(pc.equal(store.read("latents")["track_id"], 1))
    part = store.parts("latents", source.source_id)[0].path
    part.write_bytes(part.read_bytes()[:-9])  # type: ignore[union-attr]
    upkeep.delete_track(store, source.source_id, 0)
    assert not part.exists() and not store.is_complete(source.source_id)  # type: ignore[union-attr]
    tiny.inverted(store.root, [source], bundle, chunk_frames=8)
    assert store.is_complete(source.source_id) and store.read("latents").equals(expected)
