"""Who is to blame when a worker dies: nobody for one kill, a clip or picture that kills whoever has it for itself."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ops.checkpoints.bundle import Bundle
from ops.device import Device
from ops.face.detect import Detector, Face
from pipeline import flow
from pipeline.engine.course import Event
from pipeline.engine.stage import Source
from tests import needs, tiny
from tests.pipeline import faults, test_pictures

ray = needs.package("ray")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    from pipeline.on_ray.runner import start

    os.environ.setdefault("RAY_worker_niceness", "0")
    environment = {"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}}
    start("local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    folder = tmp_path_factory.mktemp("clips")
    return [tiny.source_of(tiny.marked_clip(folder / f"{i}.mp4", 24 + i, people=1)) for i in range(6)]


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(10))
def test_three_kills_at_random_lose_nothing(tmp_path: Path, bundle: Bundle, clips: list[Source], seed: int) -> None:
    """Six clips, two workers, `kill -9` of whichever three workers within half a minute."""
    from pipeline.on_ray.runner import RayRunner

    drawn, left, seen = random.Random(seed), [3], [0]
    moments = sorted(drawn.sample(range(1, 34), 3))

    def kill(event: Event) -> None:
        """At moments of the run, so that a slow machine has its kills where a fast one has them."""
        if getattr(event, "outcome", None) is None:
            return
        seen[0] += 1
        while left[0] and seen[0] >= moments[3 - left[0]]:
            left[0] -= 1
            chosen = drawn.choice(workers) if (workers := [one for one in here() if one]) else None
            if chosen is not None:
                os.kill(chosen, signal.SIGKILL)

    runner = RayRunner(workers=2)
    pools: list[Any] = []
    from pipeline.on_ray import runner as module

    made = module.Pool.__init__

    def remembered(self: Any, *arguments: Any) -> None:
        made(self, *arguments)
        pools.append(self)

    def here() -> list[int]:
        return [handle.where["pid"] for handle in pools[-1].handles if handle.where is not None]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Pool, "__init__", remembered)
        summary = faults.edited(tmp_path, clips, bundle, runner, kill)
    assert left == [0], "the premise"
    assert not summary.lost and summary.sources_done == 6
    here_folder = tmp_path / "here"
    here_folder.mkdir()
    assert not faults.edited(here_folder, clips, bundle).lost
    ours, theirs = faults.left_by(here_folder), faults.left_by(tmp_path)
    for name in ("tracks", "latents", "residuals", "out"):
        assert theirs[name] == ours[name], name


class KillingDetector(tiny.MarkDetector):
    """Ends its process at a frame with a magenta corner."""

    def detect(self, frame: np.ndarray) -> list[Face]:
        if np.abs(frame[1, 1].astype(int) - (255, 0, 255)).max() < 40:
            os._exit(9)
        return super().detect(frame)


@dataclass(frozen=True)
class KillingFactory(tiny.MarkFactory):
    def build(self, device: Device) -> Detector:
        return KillingDetector()


KILLING = flow.InvertSettings(detector=KillingFactory())


@pytest.mark.slow
def test_a_picture_that_kills_whoever_has_it_costs_itself_only(tmp_path: Path, bundle: Bundle) -> None:
    from pipeline.on_ray.runner import RayRunner

    paths = test_pictures.write(tmp_path / "in", 12)
    poison = np.asarray(Image.open(paths[5])).copy()
    poison[:4, :4] = (255, 0, 255)
    Image.fromarray(poison).save(paths[5])
    summary = test_pictures.edit(tmp_path, bundle, inverting=KILLING, runner=RayRunner(workers=2), chunk_frames=6)
    (failure,) = summary.lost
    assert (failure.reason, failure.attempts, Path(failure.uri).name) == ("worker_died", 3, paths[5].name)
    assert summary.counts["edits"] == 11 and summary.sources_done == 11
    good = [path for path in paths if path != paths[5]]
    test_pictures.edit(tmp_path / "here", bundle, *good)
    ours, theirs = test_pictures.rows_of(tmp_path / "here"), test_pictures.rows_of(tmp_path)
    for table in ("frames", "tracks", "latents", "residuals", "edits"):
        assert theirs[table] == ours[table], table
    assert [row["uri"] for row in theirs["failures"]] == [paths[5].name]
    made = test_pictures.files_of(tmp_path)
    assert {name: data for name, data in test_pictures.files_of(tmp_path / "here").items() if "sheet" not in name} == {
        name: data for name, data in made.items() if "sheet" not in name
    }


@pytest.mark.slow
def test_a_clip_that_kills_whoever_has_it_costs_itself_only(
    tmp_path: Path, bundle: Bundle, clips: Sequence[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has five items that kill, which are more than may die in a row here before all workers are taken to be at fault."""
    from pipeline.on_ray import runner
    from pipeline.on_ray.runner import RayRunner

    monkeypatch.setattr(runner, "DEATHS_IN_A_ROW", 3)  # each takes the start of a process
    frames = tiny.marked_frames(40, people=1)
    for frame in frames:
        frame[:4, :4] = (255, 0, 255)
    from tests.ops.video.media import make_video

    poison = tiny.source_of(make_video(tmp_path / "poison.mkv", frames, codec="ffv1", options={}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "INVERTING", KILLING)
        summary = faults.edited(tmp_path, [clips[0], poison, clips[1]], bundle, RayRunner(workers=2))
    assert {one.source_id for one in summary.lost} == {poison.source_id}
    assert {(one.stage, one.reason) for one in summary.lost} == {("scan", "worker_died")}
    assert max(one.attempts for one in summary.lost) == 3 and summary.sources_done == 2
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if "poison" not in p.name) == ["0.edited.mkv", "1.edited.mkv"]
