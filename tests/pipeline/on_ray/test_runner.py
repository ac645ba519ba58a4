"""Ray actors give what this process gives, and a worker that dies costs one item."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from ops.checkpoints.bundle import Bundle
from ops.face.detect import DetectorError
from ops.video.errors import MediaError
from pipeline.engine.course import Course, Event, Settled, Status
from pipeline.engine.runner import InProcessRunner, ResourceError, Runner, WorkersDie
from pipeline.engine.stage import Chunk, Outcome, Result, Source, Stage, Step
from tests import needs, tiny

ray = needs.package("ray")
pytestmark = pytest.mark.slow
CPUS = 2
BAD = 8


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One Ray on this machine with logical GPUs; runners that find it running join it and leave it running."""
    from pipeline.on_ray.runner import RayRunner, start

    root = str(Path(__file__).resolve().parents[3])
    os.environ.setdefault("RAY_worker_niceness", "0")  # its default starves workers on a machine that is busy with other tests
    start(
        "local",
        num_cpus=CPUS,
        num_gpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": root}},
    )
    assert not RayRunner().started
    yield
    ray.shutdown()


@pytest.mark.parametrize(("workers", "gpus_per_worker"), [(1, 0.0), (2, 0.0), (2, 1.0), (2, 0.5)])
def test_actors_give_the_same_rows_and_files_as_this_process(
    tmp_path: Path,
    bundle: Bundle,
    source: Source,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    gpus_per_worker: float,
) -> None:
    from pipeline.on_ray.runner import RayRunner

    here, inverting = tiny.inverted(tmp_path / "here", [source], bundle)
    editors = tiny.user_editors(tmp_path / "files")
    edits = ("warm=1", "grin=0:0,1:1@track=1", "brows=2@track=1@from=0.4", "hair=0.1@track=0")
    (ours,), rendering = tiny.rendered(tmp_path / "a", here, [source], bundle, *edits, editors=editors)
    runner = RayRunner(workers=workers)
    there, far_inverting = tiny.inverted(
        tmp_path / "there", [source], bundle, runner=runner, gpus_per_worker=gpus_per_worker, chunk_frames=7
    )
    (theirs,), far_rendering = tiny.rendered(
        tmp_path / "b",
        there,
        [source],
        bundle,
        *edits,
        runner=runner,
        gpus_per_worker=gpus_per_worker,
        chunk_frames=8,
        editors=editors,
    )
    assert not far_inverting.lost and not far_rendering.lost
    assert far_inverting.counts == inverting.counts and far_rendering.counts == rendering.counts
    ours_rows, theirs_rows = tiny.rows_of(here), tiny.rows_of(there)
    for name, rows in ours_rows.items():
        assert theirs_rows[name].equals(rows), name
    assert theirs.read_bytes() == ours.read_bytes()


@dataclass(frozen=True)
class Misbehave(Step):
    """The chunk that starts with frame 8 does what `how` says; the others are counted, slowly enough to be still there."""

    how: str
    folder: str = ""

    def open(self) -> Callable[[Chunk], Result]:
        if self.how == "cannot open":
            raise DetectorError("there is no such pack")

        def work(chunk: Chunk) -> Result:
            time.sleep(0.1)
            if chunk.start == BAD:
                match self.how:
                    case "die":
                        print("the last words", file=sys.stderr, flush=True)
                        os._exit(7)
                    case "die once":
                        flag = Path(self.folder) / "died"
                        if not flag.exists():
                            flag.touch()
                            os._exit(7)
                    case "raise":
                        raise MediaError("clip.mp4", "is broken there", "repair it")
                    case "hang":
                        time.sleep(600)
                    case "hang once":
                        flag = Path(self.folder) / "hung"
                        if not flag.exists():
                            flag.touch()
                            time.sleep(600)
            if self.how == "all die":
                os._exit(7)
            return Result({"frames": chunk.stop - chunk.start})

        return work


def run_within(seconds: float, stage: Stage, source: Source, runner: Runner) -> tuple[list[Outcome], list[Event]]:
    """A run that waits for ever is a failure of the test, not of its patience."""
    events: list[Event] = []
    errors: list[BaseException] = []
    course = Course([stage], [source], None, events.append)

    def run() -> None:
        try:
            runner.run(course)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    assert not thread.is_alive() and course.finished, "the run did not end"
    outcomes = [event.outcome for event in events if isinstance(event, Settled)]
    return sorted(outcomes, key=lambda outcome: outcome.item.start), events


def chunks_of(outcomes: Sequence[Outcome]) -> list[tuple[int, int]]:
    return [(outcome.item.start, outcome.item.stop) for outcome in outcomes]


@pytest.mark.parametrize("workers", [1, None])
def test_a_worker_that_dies_costs_its_item_and_no_other(source: Source, workers: int | None) -> None:
    """Also where the workers take every CPU, so that a fresh actor has to wait for one to go."""
    from pipeline.on_ray.runner import RayRunner

    stage = Stage("work", Misbehave("die"), frames=2)
    outcomes, events = run_within(900, stage, source, RayRunner(workers=workers))
    assert chunks_of(outcomes) == [(at, at + 2) for at in range(0, 42, 2)], "one outcome for each item"
    assert [o.failure is not None for o in outcomes] == [o.item.start == BAD for o in outcomes]
    failure = outcomes[BAD // 2].failure
    assert failure is not None and failure.attempts == 3 and failure.stage == "work"
    assert (failure.pts, failure.last_pts) == outcomes[BAD // 2].item.pts_range
    assert failure.reason == "worker_died" and "the last words" in failure.message
    (last,) = [event for event in events if isinstance(event, Status)][-1:]
    assert (last.steps["work"].done, last.steps["work"].failed, last.steps["work"].running) == (20, 1, 0)


@pytest.mark.parametrize("how", ["die once", "hang once"])
def test_a_worker_that_dies_or_hangs_once_costs_nothing(source: Source, tmp_path: Path, how: str) -> None:
    from pipeline.on_ray.runner import RayRunner

    stage = Stage("work", Misbehave(how, str(tmp_path)), frames=8)
    outcomes, _ = run_within(900, stage, source, RayRunner(workers=1, item_seconds=5))
    assert all(o.failure is None for o in outcomes) and len(outcomes) == 6 and len(list(tmp_path.iterdir())) == 1


def test_an_item_that_hangs_is_lost_with_what_it_was_and_the_others_are_done(source: Source) -> None:
    from pipeline.on_ray.runner import RayRunner

    stage = Stage("work", Misbehave("hang"), frames=8)
    outcomes, _ = run_within(900, stage, source, RayRunner(workers=1, item_seconds=4))
    assert [o.failure is not None for o in outcomes] == [o.item.start == BAD for o in outcomes]
    failure = outcomes[1].failure
    assert failure is not None and failure.reason == "timed_out" and failure.attempts == 2
    assert "marked.mp4[8:16]" in failure.message and "--item-seconds" in failure.message


def test_an_exception_is_the_items_own_and_not_tried_again(source: Source) -> None:
    """With the same words as in this process."""
    from pipeline.on_ray.runner import RayRunner

    stage = Stage("work", Misbehave("raise"), frames=8)
    far, _ = run_within(900, stage, source, RayRunner(workers=1))
    near, _ = run_within(900, stage, source, InProcessRunner())
    assert [o.failure for o in far] == [o.failure for o in near]
    failure = far[1].failure
    assert failure is not None and failure.reason == "media_error" and failure.attempts == 1
    assert failure.message == "clip.mp4: is broken there. Remedy: repair it"


def test_a_step_that_cannot_be_opened_ends_the_run_with_its_own_error(source: Source) -> None:
    from pipeline.on_ray.runner import RayRunner

    with pytest.raises(DetectorError, match="no such pack"):
        run_within(900, Stage("work", Misbehave("cannot open"), frames=8), source, RayRunner(workers=1))


def test_workers_that_all_die_end_the_run(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.on_ray import runner
    from pipeline.on_ray.runner import RayRunner

    monkeypatch.setattr(runner, "DEATHS_IN_A_ROW", 2)  # each takes the start of a process
    with pytest.raises(WorkersDie, match="died in a row"):
        run_within(900, Stage("work", Misbehave("all die"), frames=2), source, RayRunner(workers=2))


def test_a_cluster_that_is_too_small_is_said_at_once(source: Source) -> None:
    from pipeline.on_ray.runner import RayRunner

    with pytest.raises(ResourceError, match=r"needs 1 CPUs and 3 GPUs; the cluster has 2 CPUs and 2 GPUs"):
        run_within(900, Stage("work", Misbehave(""), num_gpus=3), source, RayRunner())


def test_a_cluster_that_others_hold_is_waited_for_and_then_named(source: Source) -> None:
    """Free resources count, not all there are: it would else wait for ever."""
    from pipeline.on_ray.runner import RayRunner

    holder = ray.remote(num_cpus=CPUS)(Holder).remote()
    ray.get(holder.ready.remote())
    try:
        with pytest.raises(ResourceError, match=r"waited 3 s for 1 CPUs.*of 2 CPUs 0 are free.*ray status"):
            run_within(900, Stage("work", Misbehave("")), source, RayRunner(start_seconds=3))
    finally:
        ray.kill(holder)


@dataclass(frozen=True)
class Meet(Step):
    """Items from frame 20 on are done when two workers have been seen."""

    folder: str

    def open(self) -> Callable[[Chunk], Result]:
        def work(chunk: Chunk) -> Result:
            (Path(self.folder) / str(os.getpid())).touch()
            deadline = time.monotonic() + 300
            while chunk.start >= 20 and len(list(Path(self.folder).iterdir())) < 2:
                if time.monotonic() > deadline:
                    raise MediaError("clip.mp4", "was seen by one worker only", "none")
                time.sleep(0.05)
            return Result({"frames": chunk.stop - chunk.start})

        return work


def test_a_worker_for_whom_others_leave_no_room_comes_when_they_go(source: Source, tmp_path: Path) -> None:
    """Its actor waits in Ray's queue from the begin, so nobody has to look for free resources."""
    from pipeline.on_ray.runner import RayRunner

    holder = ray.remote(num_cpus=CPUS - 1)(Holder).remote()
    ray.get(holder.ready.remote())
    timer = threading.Timer(5.0, ray.kill, [holder])
    timer.start()
    outcomes, events = run_within(900, Stage("work", Meet(str(tmp_path)), frames=2), source, RayRunner())
    timer.join()
    assert len(outcomes) == 21 and all(one.failure is None for one in outcomes)
    (last,) = [event for event in events if isinstance(event, Status)][-1:]
    assert last.workers == 2


class Holder:
    def ready(self) -> None: ...
