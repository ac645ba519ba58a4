"""Looking after a store: joining parts is done or not, whenever it is killed, and deleting a person leaves nothing anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import upkeep
from pipeline.parts import Part, in_force, range_part
from pipeline.store import Store
from tests import tiny
from tests.pipeline.test_store import INFO, SOURCE, write_source

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.mark.slow
def test_a_compaction_that_is_killed_at_any_change_has_cost_nothing_and_is_finished_by_the_next(
    store: Store, tmp_path: Path
) -> None:
    """SIGKILL before each rename and each removal in turn: every reader and every check finds the source whole."""
    rows = tiny.rows_of(store)
    (tmp_path / "killed").mkdir()
    command = [sys.executable, "-m", "tests.pipeline.faults", "compact", str(store.root), str(tmp_path / "killed")]
    ran = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert ran.returncode == 0, ran.stderr
    upkeep.compact(store, SOURCE)
    finished = files_of(store)
    killed = [Store.open(path) for path in sorted((tmp_path / "killed").iterdir(), key=lambda path: int(path.name))]
    states = {frozenset(files_of(one)) for one in killed}
    assert len(states) == 1 + 4 + 11 and finished not in states, "untouched, each joined part, each removal but the last"
    for one in killed:
        for name, table in tiny.rows_of(one).items():
            assert table.equals(rows[name]), (one.root, name)
        assert one.row_counts() == store.row_counts()
        assert one.is_complete(SOURCE) and one.verify(SOURCE) == {}, one.root
        upkeep.compact(one, SOURCE)
        assert files_of(one) == finished, one.root
        for name, table in tiny.rows_of(one).items():
            assert table.equals(rows[name]), (one.root, name)


def test_a_person_is_removed_from_parts_that_a_killed_compaction_left(store: Store, tmp_path: Path) -> None:
    """Also from those that nobody reads: the next compaction must not bring anyone back."""
    manifest = store.root / "manifests" / "invert" / f"{SOURCE}.json"
    before = {name: (store.root / name).read_bytes() for name in files_of(store) if "part-" in name}
    vouched = manifest.read_bytes()
    upkeep.compact(store, SOURCE)
    for name, data in before.items():  # as if it had died before the manifest
        (store.root / name).write_bytes(data)
    manifest.write_bytes(vouched)
    upkeep.delete_track(store, SOURCE, 1)
    upkeep.compact(store, SOURCE)
    for table in TABLES[2:]:
        assert set(store.read(table, SOURCE)["track_id"].to_pylist()) == {0}, table
    assert store.verify(SOURCE) == {}


def test_joined_parts_take_the_place_of_those_within_them_and_of_no_others() -> None:
    def part(name: str) -> Part:
        return Part(name, Path(name), 1, 1, None, None)

    there = [part(range_part(*span)) for span in ((0, 5), (5, 10), (10, 12), (12, 20))] + [part("part-00003"), part("joined")]
    assert in_force(there) == there
    inner, outer = part(range_part(0, 10, joined=True)), part(range_part(0, 12, joined=True))
    assert in_force([*there, inner]) == [*there[2:], inner]
    assert in_force([*there, inner, outer]) == [*there[3:], outer]
    same = part(range_part(12, 20, joined=True))
    assert in_force([*there, same]) == [*there[:3], *there[4:], same]
    wider = part(range_part(9, 15))
    assert in_force([wider, outer]) == [wider, outer], "not within it: their rows meet, and whoever reads them is told"
