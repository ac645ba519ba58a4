"""Ray actors give what this process gives, and a worker that dies costs one item."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ops.checkpoints.bundle import Bundle
from ops.video.errors import MediaError
from pipeline import flow
from pipeline.runner import InProcessRunner, ResourceError, silent
from pipeline.stage import Chunk, Outcome, Result, Source, Stage, Step
from tests import tiny

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
CPUS = 2
BAD = 8


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One Ray on this machine with logical GPUs; runners that find it running join it and leave it running."""
    from pipeline.runner_ray import RayRunner

    root = str(Path(__file__).resolve().parents[2])
    ray.init(
        address="local",
        num_cpus=CPUS,
        num_gpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": root}},
    )
    assert not RayRunner().started
    yield
    ray.shutdown()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As an actor has it: the number of threads decides the last bits of small matrix products."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("workers", "gpus_per_worker"), [(1, 0.0), (2, 0.0), (2, 1.0), (2, 0.5)])
def test_actors_give_the_same_rows_and_files_as_this_process(
    tmp_path: Path,
    bundle: Bundle,
    source: Source,
    one_thread: None,
    marks: None,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    gpus_per_worker: float,
) -> None:
    from pipeline.runner_ray import RayRunner

    here, inverting = tiny.inverted(tmp_path / "here", [source], bundle)
    editors = tiny.user_editors(tmp_path / "files")
    edits = ("warm=1", "grin=0:0,1:1@track=1", "brows=2@track=1@from=0.4", "hair=0.1@track=0")
    (ours,), rendering = tiny.rendered(tmp_path / "a", here, [source], bundle, *edits, editors=editors)
    monkeypatch.setattr(flow, "Scan", tiny.MarkScan)
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
        def work(chunk: Chunk) -> Result:
            time.sleep(0.1)
            if chunk.start == BAD:
                match self.how:
                    case "die":
                        os._exit(7)
                    case "die once":
                        flag = Path(self.folder) / "died"
                        if not flag.exists():
                            flag.touch()
                            os._exit(7)
                    case "raise":
                        raise MediaError("clip.mp4", "is broken there", "repair it")
            return Result({"frames": chunk.stop - chunk.start})

        return work


def run_within(seconds: float, stage: Stage, items: Sequence[Chunk], workers: int | None = None) -> list[Outcome]:
    """A run that waits for ever is a failure of the test, not of its patience."""
    from pipeline.runner_ray import RayRunner

    found: list[list[Outcome]] = []
    thread = threading.Thread(target=lambda: found.append(RayRunner(workers=workers).run(stage, items, silent)), daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "the run did not end (or raised)"
    return found[0]


@pytest.mark.parametrize("workers", [1, None])
def test_a_worker_that_dies_costs_its_item_and_no_other(source: Source, workers: int | None) -> None:
    """Also where the workers take every CPU, so that a fresh actor has to wait for the idle ones to go."""
    items = source.chunks(2)
    outcomes = run_within(120, Stage("work", Misbehave("die"), num_cpus=1), items, workers)
    assert [o.item for o in outcomes] == items, "one outcome for each item, in order"
    assert [o.failure is not None for o in outcomes] == [item.start == BAD for item in items]
    failure = outcomes[BAD // 2].failure
    assert failure is not None and failure.attempts == 2 and failure.stage == "work"
    assert (failure.pts, failure.last_pts) == items[BAD // 2].pts_range
    assert "died" in failure.reason


def test_a_worker_that_dies_once_costs_nothing(source: Source, tmp_path: Path) -> None:
    outcomes = run_within(120, Stage("work", Misbehave("die once", str(tmp_path))), source.chunks(8), 1)
    assert all(o.failure is None for o in outcomes) and (tmp_path / "died").exists()


def test_an_exception_is_the_items_own_and_not_tried_again(source: Source) -> None:
    """With the same words as in this process."""
    stage = Stage("work", Misbehave("raise"))
    far, near = run_within(120, stage, source.chunks(8), 1), InProcessRunner().run(stage, source.chunks(8), silent)
    assert [o.failure for o in far] == [o.failure for o in near]
    failure = far[1].failure
    assert failure is not None and failure.reason == "media_error" and failure.attempts == 1
    assert failure.message == "clip.mp4: is broken there. Remedy: repair it"


def test_a_cluster_that_is_too_small_is_said_at_once(source: Source) -> None:
    from pipeline.runner_ray import RayRunner

    with pytest.raises(ResourceError, match=r"needs 1 CPUs and 3 GPUs; the cluster has 2 CPUs and 2 GPUs"):
        RayRunner().run(Stage("work", Misbehave("")), source.chunks(8)[:0], silent) or RayRunner().run(
            Stage("work", Misbehave(""), num_gpus=3), source.chunks(8), silent
        )
