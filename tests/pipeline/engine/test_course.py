"""How sources move along the stages, what is resumed, and why something is done again: with steps that only write rows."""

from __future__ import annotations

import json
import pickle
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ops.video.probe import SourceColor, SourceInfo
from pipeline.engine.course import Course, Event, Noted, OutOfSpace, Settled
from pipeline.engine.ledger import Ledger, differences, merged
from pipeline.engine.runner import InProcessRunner, Worker
from pipeline.engine.stage import Batched, Chunk, Outcome, Result, Source, Stage, Step, gaps
from pipeline.sources.rows import source_row
from pipeline.store.columns import frames_table
from pipeline.store.lock import held
from pipeline.store.parts import DamagedPart, Written
from pipeline.store.tables import Store, range_part
from schemas import Failure, source_id_of_unreadable
from tests.pipeline.store.test_tables import INFO

DONE: Counter[str] = Counter()
"""Frames that steps were asked to do, by stage."""
TROUBLE: dict[str, Callable[[Chunk], Failure | None]] = {}
"""What a stage does first with a chunk; a failure that it returns is of a frame, and the chunk is done."""


def made(number: int, frames: int = 10) -> Source:
    """A source that nobody opens."""
    sha256 = f"{number:064x}"[::-1]
    info = SourceInfo(
        uri=f"/clips/{number}.mp4",
        kind="video",
        width=8,
        height=8,
        pts=np.arange(frames),
        last_duration=1,
        time_base=Fraction(1, 25),
        rotation_degrees=0,
        mirrored=False,
        average_rate=None,
        codec="h264",
        pix_fmt="yuv420p",
        color=SourceColor(),
        sample_aspect_ratio=None,
        container="mp4",
        stream_index=0,
        keyframe_pts=np.array([0]),
        plain=True,
        audio_streams=0,
        subtitle_streams=0,
        size_bytes=1,
        sha256=sha256,
    )
    return Source(sha256[:16], info)


@dataclass(frozen=True)
class Write(Step):
    """Writes a row for each frame."""

    stage: str
    store: str | None = None

    def open(self) -> Callable[[Chunk], Result]:
        store = None if self.store is None else Store.open(self.store)

        def write(chunk: Chunk) -> Result:
            failure = TROUBLE.get(self.stage, lambda chunk: None)(chunk)
            DONE[self.stage] += chunk.frames
            files = []
            if store is not None:
                pts = chunk.source.info.pts[chunk.start : chunk.stop]
                rows = frames_table(chunk.source.source_id, pts, pts + 0.5, pts)
                files.append(store.write_part("frames", chunk.source.source_id, range_part(chunk.start, chunk.stop), rows))
            return Result({"frames": chunk.frames}, {}, () if failure is None else (failure,), tuple(files))

        return write


@pytest.fixture(autouse=True)
def nothing_done() -> Iterator[None]:
    DONE.clear()
    TROUBLE.clear()
    yield
    TROUBLE.clear()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store", INFO)


def stages(store: Store, *, frames: int = 4, setting: int = 1) -> list[Stage]:
    root = str(store.root)
    return [
        Stage(
            "scan", Write("scan", root), frames=frames, decides={"setting": setting}, writes=("frames",), counted=("frames",)
        ),
        Stage("track", Write("track"), frames=frames, whole=True, seals="invert"),
        Stage("plan", Write("plan"), frames=frames, whole=True, seals="render-x", vital=True),
    ]


def ran(course: Course) -> Course:
    InProcessRunner().run(course)
    assert course.finished
    return course


def test_everything_is_done_once_and_a_second_run_does_nothing(store: Store) -> None:
    sources = [made(i, 3 + i) for i in range(5)]
    first = ran(Course(stages(store), sources, Ledger(store)))
    total = sum(source.info.n_frames for source in sources)
    assert Counter(scan=total, track=total, plan=total) == DONE
    assert first.summary.sources_done == 5 and first.summary.sources_skipped == 0
    assert not list((store.root / "ledger").rglob("*.json")), "manifests have taken the entries' place"
    before = {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()}
    second = ran(Course(stages(store), sources, Ledger(store)))
    assert sum(DONE.values()) == 3 * total and second.summary.sources_skipped == 5
    assert second.summary.counts["frames"] == 0, "counts are of what this run did"
    assert {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("frames", [4, 3, 64])
def test_a_run_that_was_killed_goes_on_where_it_was_for_any_length_of_chunks(store: Store, frames: int) -> None:
    """Killed at every item in turn; every frame's row is there once, and no chunk that was recorded is done again."""
    source = made(1, 22)
    for at in range(0, 22, 4):

        def kill(chunk: Chunk, at: int = at) -> None:
            if chunk.start == at:
                raise KeyboardInterrupt

        TROUBLE["scan"] = kill
        DONE.clear()
        with pytest.raises(KeyboardInterrupt):
            InProcessRunner().run(Course(stages(store), [source], Ledger(store)))
        assert DONE["scan"] == (4 if at else 0)
    TROUBLE.clear()
    DONE.clear()
    # A worker that died between its data and its entry.
    orphan = frames_table(source.source_id, source.info.pts[20:22], np.zeros(2), np.zeros(2))
    store.write_part("frames", source.source_id, range_part(19, 22), orphan.slice(0, 2))
    ran(Course(stages(store, frames=frames), [source], Ledger(store)))
    assert DONE["scan"] == 2, "20 of 22 were done"
    rows = store.read("frames", source.source_id)
    assert rows["pts"].to_pylist() == list(range(22)) and rows["cut_score"].to_pylist() == [i + 0.5 for i in range(22)]
    assert store.is_complete(source.source_id)


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_a_worker_that_outlives_its_driver_does_no_harm(store: Store, when: str) -> None:
    """It ends the item that it had in hand while the next run has not come to it, has just done it, or is over."""
    source = made(1, 12)
    killed = Course(stages(store), [source], Ledger(store))
    in_hand = killed.take()
    assert in_hand is not None
    outliving = Worker(killed.stages, killed.ledger)

    def end(chunk: Chunk) -> None:
        if chunk.start == {"before": 0, "between": 8}[when]:
            TROUBLE.clear()
            outliving.run(in_hand.stage.name, in_hand.items)

    TROUBLE.update({} if when == "after" else {"scan": end})
    ran(Course(stages(store), [source], Ledger(store)))
    if when == "after":
        outliving.run(in_hand.stage.name, in_hand.items)
    assert store.read("frames", source.source_id)["pts"].to_pylist() == list(range(12))
    assert store.is_complete(source.source_id) and store.verify(source.source_id) == {}
    again = ran(Course(stages(store), [source], Ledger(store)))
    assert again.summary.sources_skipped == 1 and not list((store.root / "ledger").rglob("*.json"))


@pytest.mark.parametrize("setting", [1, 2])
@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_a_worker_of_a_run_that_was_given_up_writes_nothing(store: Store, when: str, setting: int) -> None:
    """Its chunks are of another length, so that none of its files has the name of one of the next run's."""
    source = made(1, 12)
    with held(store.root, "edit"):
        killed = Course(stages(store, frames=4), [source], Ledger(store))
        in_hand = killed.take()
        outliving = pickle.loads(pickle.dumps((killed.stages, killed.ledger)))
    assert in_hand is not None
    late: list[Outcome] = []

    def write_late() -> None:
        late.extend(Worker(*outliving).run(in_hand.stage.name, in_hand.items))

    def end(chunk: Chunk) -> None:
        if chunk.start == {"before": 0, "between": 6}[when]:
            TROUBLE.clear()
            write_late()

    TROUBLE.update({} if when == "after" else {"scan": end})
    with held(store.root, "edit"):
        ran(Course(stages(store, frames=6, setting=setting), [source], Ledger(store)))
    if when == "after":
        write_late()
    (outcome,) = late
    assert outcome.failure is not None and outcome.failure.reason == "superseded"
    assert "does not hold the store any more" in outcome.failure.message
    assert pq.read_table(store.root / "frames")["pts"].to_pylist() == list(range(12)), "also for who reads bare files"
    assert store.is_complete(source.source_id) and store.verify(source.source_id) == {}
    assert not list((store.root / "ledger").rglob("*.json"))


def test_a_refusal_is_a_row_until_the_source_is_admitted(store: Store) -> None:
    source, other = made(1, 12), made(2, 6)

    def no(source: Source) -> Failure | None:
        return Failure(source.source_id, source.info.uri, "probe", "not_now", "try again") if source is not other else None

    first = ran(Course(stages(store), [source, other], Ledger(store), admit=no))
    assert first.summary.sources_failed == 1 and store.failures()["reason"].to_pylist() == ["not_now"]
    again = ran(Course(stages(store), [source, other], Ledger(store)))
    assert again.summary.sources_done == 2 and store.failures().num_rows == 0
    # One that could not even become a source stands among them, is counted, and is a row until it can be read.
    unread = Failure(source_id_of_unreadable("/clips/3.mp4"), "/clips/3.mp4", "probe", "media_error", "no such file")
    third = ran(Course(stages(store), [unread, source], Ledger(store)))
    assert (third.summary.sources_failed, third.summary.sources_skipped, third.summary.lost_count) == (1, 1, 1)
    assert store.failures()["uri"].to_pylist() == ["/clips/3.mp4"]
    assert ran(Course(stages(store), [made(3, 6)], Ledger(store))).summary.sources_done == 1
    assert store.failures().num_rows == 0


def test_a_lost_item_is_tried_again_by_the_next_run_and_nothing_else_is(store: Store) -> None:
    source = made(1, 12)

    def trouble(chunk: Chunk) -> None:
        if chunk.start == 4:
            raise RuntimeError("no")

    TROUBLE["scan"] = trouble
    first = ran(Course(stages(store), [source], Ledger(store)))
    assert first.summary.sources_failed == 1 and DONE == {"scan": 8, "track": 12, "plan": 12}, "the rest goes on"
    assert [row["reason"] for row in store.failures().to_pylist()] == ["runtime_error"]
    DONE.clear()
    again = ran(Course(stages(store), [source], Ledger(store)))
    assert not DONE and again.summary.sources_failed == 1, "the same loss costs nothing but its own item"
    TROUBLE.clear()
    healed = ran(Course(stages(store), [source], Ledger(store)))
    assert DONE == {"scan": 4, "track": 12, "plan": 12}, "what depends on it is done again"
    assert healed.summary.sources_done == 1 and store.failures().num_rows == 0
    assert store.read("frames")["pts"].to_pylist() == list(range(12))


def test_a_vital_loss_ends_its_source_and_no_other(store: Store) -> None:
    sources = [made(i) for i in range(3)]

    def trouble(chunk: Chunk) -> None:
        if chunk.source is sources[1]:
            raise RuntimeError("no")

    TROUBLE["plan"] = trouble
    course = ran(Course(stages(store), sources, Ledger(store)))
    assert (course.summary.sources_done, course.summary.sources_failed) == (2, 1)
    assert [store.read_manifest("render-x", s.source_id) is not None for s in sources] == [True, False, True]


def test_other_settings_are_a_new_run_that_says_why_or_is_refused(store: Store) -> None:
    source = made(1)
    ran(Course(stages(store), [source], Ledger(store)))
    DONE.clear()
    said: list[list[str]] = []

    def refuse(source: Source, seal: object, what: list[str]) -> Failure:
        said.append(what)
        return Failure(source.source_id, source.uri, "probe", "other_settings", "no")

    before = {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file() and "failures" not in p.parts}
    refused = ran(Course(stages(store, setting=2), [source], Ledger(store), changed=refuse))
    assert refused.summary.sources_failed == 1 and not DONE and said == [["scan.setting was 1, is 2"]]
    assert {p: p.read_bytes() for p in before} == before, "nothing was touched"
    events: list[Event] = []
    ran(Course(stages(store, setting=2), [source], Ledger(store), events.append))
    assert DONE == {"scan": 10, "track": 10, "plan": 10}
    assert [e.message for e in events if isinstance(e, Noted)] == ["done again, because scan.setting was 1, is 2"]
    assert store.read("frames").num_rows == 10


@pytest.mark.parametrize("damage", ["truncate", "remove", "flip"])
def test_a_damaged_part_is_done_again_and_only_that(store: Store, damage: str) -> None:
    source = made(1, 12)
    ran(Course(stages(store), [source], Ledger(store)))
    path = store.parts("frames", source.source_id)[1].path
    assert isinstance(path, Path)
    good = path.read_bytes()
    match damage:
        case "truncate":
            path.write_bytes(good[:-7])
        case "remove":
            path.unlink()
        case "flip":
            path.write_bytes(good[:50] + bytes([good[50] ^ 1]) + good[51:])
            assert len(Ledger(store).put_damaged_aside(source.source_id)) == 1 and not path.exists()
    (store.root / "manifests" / "render-x" / f"{source.source_id}.json").unlink()
    DONE.clear()
    ran(Course(stages(store), [source], Ledger(store)))
    assert DONE == {"scan": 4, "plan": 12} and path.read_bytes() == good and store.is_complete(source.source_id)


def reading(store: Store) -> Callable[[Chunk], None]:
    """What a step does that reads the rows of `frames`."""

    def read(chunk: Chunk) -> None:
        store.require_sound(chunk.source.source_id, ["frames"])
        assert store.read("frames", chunk.source.source_id, chunk.pts_range).num_rows == chunk.frames

    return read


def flipped(path: Path, at: int = 50) -> bytes:
    """Flip a bit of a file; => what it was."""
    good = path.read_bytes()
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    return good


def test_a_part_that_a_step_finds_damaged_is_made_again_in_the_same_run(store: Store) -> None:
    """Two of three parts of one source, met at the third step. Counts and losses are told once."""
    source, other = made(1, 12), made(2, 12)
    ran(Course(stages(store), [source, other], Ledger(store)))
    for one in (source, other):
        store.remove_manifest("render-x", one.source_id)
    paths = [part.path for part in store.parts("frames", source.source_id)]
    good = [flipped(path) for path in paths[:2]]
    TROUBLE["plan"] = reading(Store.open(store.root))
    DONE.clear()
    events: list[Event] = []
    course = ran(Course(stages(store), [source, other], Ledger(store), events.append))
    assert DONE == {"scan": 8, "plan": 24}, "nothing else is done again"
    assert [path.read_bytes() for path in paths[:2]] == good and store.verify(source.source_id) == {}
    said = [event.message for event in events if isinstance(event, Noted) and event.kind == "damaged"]
    assert len(said) == 1 and all(str(path) in said[0] for path in paths[:2]) and str(paths[2]) not in said[0]
    assert course.summary.lost_count == 0 and not [e for e in events if isinstance(e, Settled) and e.outcome.failure]
    assert (course.summary.sources_done, course.summary.sources_failed, course.summary.counts["frames"]) == (2, 0, 8)
    assert course.tallies["plan"].failed == 0 and store.failures().num_rows == 0
    aside = store.root / ".damaged" / "frames" / source.source_id / paths[0].name
    assert aside.exists(), "whoever wants to look at it can"


def test_a_part_that_is_damaged_while_the_run_goes_on_is_made_again_and_losses_are_counted_once(store: Store) -> None:
    source = made(1, 12)
    failure = Failure(source.source_id, source.uri, "scan", "blurred", "a frame of the first chunk", pts=0)
    TROUBLE["scan"] = lambda chunk: failure if chunk.start == 0 else None
    TROUBLE["track"] = lambda chunk: flipped(store.parts("frames", source.source_id)[2].path) and None
    TROUBLE["plan"] = reading(Store.open(store.root))
    course = ran(Course(stages(store), [source], Ledger(store)))
    assert DONE == {"scan": 16, "track": 12, "plan": 12}
    assert course.summary.lost_count == 1 and store.failures()["reason"].to_pylist() == ["blurred"]
    assert (course.summary.sources_failed, course.summary.counts["frames"]) == (1, 16)


def test_a_step_that_finds_rows_damaged_which_other_stages_make_says_who_does(store: Store) -> None:
    """As a render does: it puts the part aside, and the next run that has the stages makes it, and nothing else."""
    source = made(1, 12)
    ran(Course(stages(store), [source], Ledger(store)))
    store.remove_manifest("render-x", source.source_id)
    path = store.parts("frames", source.source_id)[1].path
    assert isinstance(path, Path)
    good = flipped(path)
    TROUBLE["plan"] = reading(Store.open(store.root))
    events: list[Event] = []
    course = ran(Course(stages(store)[2:], [source], Ledger(store), events.append))
    assert not [event for event in events if isinstance(event, Noted)], "it does not try what it cannot do"
    assert course.summary.sources_failed == 1 and course.tallies["plan"].failed == 1
    (lost,) = store.failures().to_pylist()
    assert lost["reason"] == "damaged_part" and lost["message"].startswith(f"{path}: cannot be read")
    assert "put aside. Run styleres invert, or edit, with this store again" in lost["message"] and not path.exists()
    DONE.clear()
    assert ran(Course(stages(store), [source], Ledger(store))).summary.sources_done == 1
    assert DONE == {"scan": 4, "plan": 12} and path.read_bytes() == good and store.failures().num_rows == 0


def test_a_part_that_only_could_not_be_read_is_tried_again_and_kept(store: Store) -> None:
    """As where a network fails: its bytes are what was written. Not for ever."""
    source = made(1, 12)
    failing = [2]

    def trouble(chunk: Chunk) -> None:
        failing[0] -= 1
        if failing[0] >= 0:
            raise DamagedPart({store.parts("frames", source.source_id)[0].path: "the network is down"})

    TROUBLE["plan"] = trouble
    course = ran(Course(stages(store), [source], Ledger(store)))
    assert course.summary.sources_done == 1 and DONE == {"scan": 12, "track": 12, "plan": 12}
    failing[0] = 1000
    store.remove_manifest("render-x", source.source_id)
    course = ran(Course(stages(store), [source], Ledger(store)))
    (lost,) = store.failures().to_pylist()
    assert "the network is down), though its bytes are those that were written; run the same command again" in lost["message"]
    assert course.summary.sources_failed == 1 and 990 < failing[0] < 1000 and store.verify(source.source_id) == {}


def test_a_row_of_sources_is_made_again_too(store: Store) -> None:
    """Nobody would know else where the source was; `started` writes it, and the manifest vouches for it."""
    source = made(1, 4)

    def started(source: Source) -> list[Written]:
        return [store.write_part("sources", source.source_id, 0, source_row(source))]

    ran(Course(stages(store), [source], Ledger(store), started=started))
    path = store.parts("sources", source.source_id)[0].path
    good = path.read_bytes()
    path.write_bytes(good[:-9])
    DONE.clear()
    ran(Course(stages(store)[:2], [source], Ledger(store), started=started))
    assert path.read_bytes() == good and not DONE and store.is_complete(source.source_id)


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(store: Store) -> None:
    source = made(1, 12)

    def full(chunk: Chunk) -> None:
        if chunk.start == 8:
            raise OSError(28, "No space left on device")

    TROUBLE["scan"] = full
    with pytest.raises(OutOfSpace, match="make room and run the same command again"):
        ran(Course(stages(store), [source], Ledger(store)))
    TROUBLE.clear()
    DONE.clear()
    ran(Course(stages(store), [source], Ledger(store)))
    assert DONE["scan"] == 4 and store.is_complete(source.source_id)


def test_sources_of_the_same_bytes_wait_for_each_other(store: Store) -> None:
    twins = [made(1), replace(made(1), name="other.mp4"), made(2)]
    course = ran(Course(stages(store), twins, Ledger(store)))
    assert course.summary.sources_done == 3 and DONE["scan"] == 20


@dataclass(frozen=True)
class Together(Step):
    """Notes which items came together; one that spoils it for all is found out."""

    def open(self) -> Batched:
        def finish(loaded: list[Chunk]) -> list[Result]:
            for chunk in loaded:
                TROUBLE.get("finish", lambda chunk: None)(chunk)
            SIZES.append(len(loaded))
            return [Result({"frames": chunk.frames}) for chunk in loaded]

        def load(chunk: Chunk) -> Chunk:
            TROUBLE.get("load", lambda chunk: None)(chunk)
            return chunk

        return Batched(load, finish)


SIZES: list[int] = []


def test_small_sources_share_a_batch_and_fail_alone() -> None:
    """40 images: 16 at a time. One that cannot be read and one that spoils its batch cost themselves only."""
    SIZES.clear()
    sources = [made(i, 1) for i in range(40)]

    def unreadable(chunk: Chunk) -> None:
        if chunk.source is sources[3]:
            raise OSError("broken")

    def spoils(chunk: Chunk) -> None:
        if chunk.source is sources[20]:
            raise ValueError("spoils it")

    TROUBLE.update(load=unreadable, finish=spoils)
    course = ran(Course([Stage("invert", Together(), frames=16, counted=("frames",))], sources, None))
    assert course.summary.counts["frames"] == 38
    assert sorted(f.uri for f in course.summary.lost) == ["/clips/20.mp4", "/clips/3.mp4"]
    assert max(SIZES) >= 15 and SIZES.count(1) == 15, "together, and one by one where one spoiled it"


def test_twenty_thousand_sources_take_no_more_memory_than_a_thousand() -> None:
    """Listed as they are worked off: the driver holds what is in flight."""

    template = made(0, 1)

    def peak(count: int) -> int:
        sources = (replace(template, source_id=f"{number:016x}") for number in range(count))
        tracemalloc.start()
        course = Course([Stage("count", Write("scan"), frames=64)], sources, None)
        course.look_ahead(64)
        while (batch := course.take()) is not None:
            for item in batch.items:
                course.settle(batch.stage, Outcome(item, Result(), None))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert course.finished and course.summary.sources_done == count
        return size

    assert peak(20_000) < 1.2 * peak(1_000)


def test_gaps_and_merged_ranges() -> None:
    drawn = random.Random(1)
    for _ in range(200):
        cuts = sorted(drawn.sample(range(51), 6))
        ranges = [(cuts[0], cuts[1]), (cuts[2], cuts[3]), (cuts[4], cuts[5])]
        drawn.shuffle(ranges)
        covered = {i for a, b in ranges for i in range(a, b)}
        assert {i for a, b in gaps(ranges, 60) for i in range(a, b)} == set(range(60)) - covered
        together = merged(ranges)
        assert {i for a, b in together for i in range(a, b)} == covered
        assert all(a[1] < b[0] for a, b in pairwise(together))


def test_differences_are_said_by_name() -> None:
    before, now = {"scan": {"a": 1, "b": [1]}, "x": None}, {"scan": {"a": 2, "b": [1]}, "x": None, "y": 3}
    assert differences(before, now) == ["scan.a was 1, is 2", "y was None, is 3"]
    assert differences(json.loads(json.dumps(before)), before) == []


def test_events_tell_of_every_item(store: Store) -> None:
    events: list[Event] = []
    ran(Course(stages(store), [made(1, 9)], Ledger(store), events.append))
    settled = Counter(event.stage.name for event in events if isinstance(event, Settled))
    assert settled == {"scan": 3, "track": 1, "plan": 1}
