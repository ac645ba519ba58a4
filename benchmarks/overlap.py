"""Whether an accelerator waits for the rest of a worker: a stand-in that takes a fixed time per batch and no core.

    python -m benchmarks.overlap --clip CLIP_480P --clip CLIP_1080P --json overlap.json

The first frames of each clip are edited, all six steps, with a detector, an encoder and a generator that sleep. They share one
stand-in, which does one thing at a time. First it takes no time and the work is one thread's: that is the rest. Then the
stand-in takes `--slack` times as long as the rest of each step, for a batch or, where faces are looked for, for a frame; once
with one thread and once with two cores (`--cpus-per-worker 2`). Each clip is a job, and all of them together are one more.

For each step of the accelerator:
    steady      share of the time from its first batch to its last in which the stand-in is busy
    whole       the same from the step's first item to its last: with the first frames' decoding and the last ones' encoding;
                without the loading of models, which stands beside it
and for the job, from its begin to its end, models, plan and the joining of the file included: `job`. On a machine that
others use, too, the rest takes longer from one moment to the next, so the slack is some. `cpu_ms` is the processor's, a frame.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypeVar
from unittest.mock import patch

import cv2
import numpy as np

from jobs.common.prepare import open_store
from ops.checkpoints.bundle import Bundle, open_bundle
from ops.device import Device
from ops.editing.recipe import parse_edits
from ops.face.detect import Detector, DetectorFactory, DetectorSettings, Face
from ops.inversion.session import Session
from ops.video.probe import probe
from pipeline import flow
from pipeline.engine.course import silent
from pipeline.engine.runner import InProcessRunner
from pipeline.engine.stage import Batched, Result, Source, Step
from pipeline.sources.outputs import Outputs
from pipeline.sources.readers import Readers
from pipeline.steps.plan import PlanSettings
from schemas import source_id_from_sha256

T = TypeVar("T")
Faces = dict[bytes, list[Face]]
"""What a frame looks like => the faces in it."""
STEPS: Final = ("scan", "invert", "render")
"""Those that use an accelerator."""


def beginning(clip: Path, frames: int) -> Source:
    """The first frames of a clip as a source of its own."""
    info = probe(clip)
    count = min(frames, info.n_frames)
    return Source(source_id_from_sha256(info.sha256), replace(info, pts=info.pts[:count]))


@dataclass
class StandIn:
    """One accelerator that does one thing at a time and takes so long."""

    seconds: dict[str, float]
    """Step => of a batch, or of a frame in which faces are looked for."""
    busy: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {name: [] for name in STEPS})
    """Step => begin and end of each batch."""
    _one: Lock = field(default_factory=Lock)

    def does(self, step: str, batches: int = 1) -> None:
        for _ in range(batches):
            with self._one:
                begun = time.perf_counter()
                time.sleep(self.seconds.get(step, 0.0))
                self.busy[step].append((begun, time.perf_counter()))


class Recorded(Detector):
    """Finds in a frame what was found there before."""

    def __init__(self, faces: Faces, device: StandIn) -> None:
        self.faces, self.device = faces, device

    def detect(self, frame: np.ndarray) -> list[Face]:
        self.device.does("scan")
        return self.faces[mark(frame)]


def mark(frame: np.ndarray) -> bytes:
    return frame[::7, ::5].tobytes()


@dataclass(frozen=True)
class Recordings(DetectorFactory):
    """Detectors that are stand-ins."""

    faces: Faces
    device: StandIn

    def build(self, device: Device) -> Detector:
        return Recorded(self.faces, self.device)

    def decides(self) -> dict[str, Any]:
        return {"kind": "recorded"}


def recorded(source: Source) -> Faces:
    """The faces of each frame, by what a frame looks like."""
    detector = DetectorSettings().build("cpu")
    return {mark(frame): detector.detect(frame) for _, frame in Readers("auto").read(source, 0, source.info.n_frames)}


@contextmanager
def in_place_of_models(model: Bundle, device: StandIn) -> Iterator[None]:
    """Sessions that take the stand-in's time for each batch of faces, and give pictures that differ where there is an edit."""
    size = model.config.generator.resolution
    plain = np.random.default_rng(0).uniform(60, 190, (size, size, 3)).astype(np.float32)
    smiling = plain.copy()
    smiling[size * 5 // 8 : size * 3 // 4, size * 3 // 8 : size * 5 // 8] += 50.0

    def generate(self: Session, wplus_NLD: np.ndarray, *rest: Any, **named: Any) -> np.ndarray:
        device.does("render", batches(self, len(wplus_NLD)))
        made = plain if named.get("unedited_NLD") is None else smiling
        side = named.get("size") or size
        return np.repeat(cv2.resize(made, (side, side))[None], len(wplus_NLD), axis=0)

    def invert(self: Session, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        device.does("invert", batches(self, len(crops)))
        return tuple(np.ones((len(crops), *shape), np.float32) for shape in (model.wplus_shape, model.residual_shape))

    def batches(self: Session, faces: int) -> int:
        return -(-faces // self.batch_size)

    with patch.object(Session, "generate_levels", generate), patch.object(Session, "invert", invert):
        yield


@dataclass
class Seen:
    """When a step worked."""

    opening: float = 0.0
    """Seconds in which it loaded models."""
    begun: float = 0.0
    ended: float = 0.0

    def begin(self) -> None:
        self.begun = self.begun or time.perf_counter()

    def end(self) -> None:
        self.ended = time.perf_counter()


@dataclass(frozen=True)
class Watched(Step):
    """A step whose times are noted."""

    step: Step
    seen: Seen

    def open(self) -> Callable[[Any], Result]:
        begun = time.perf_counter()
        work = self.step.open()
        self.seen.opening += time.perf_counter() - begun
        if isinstance(work, Batched):
            return replace(work, load=self.watched(work.load), finish=self.watched(work.finish))
        return self.watched(work)

    def watched(self, function: Callable[[Any], T]) -> Callable[[Any], T]:
        def called(given: Any) -> T:
            self.seen.begin()
            try:
                return function(given)
            finally:
                self.seen.end()

        return called


def edit(
    folder: Path, model: Bundle, sources: Sequence[Source], faces: Faces, cores: int, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Edit clips; => by step and of the job how the stand-in was used."""
    device, seen = StandIn(dict(seconds)), {name: Seen() for name in STEPS}
    store, outputs = open_store(folder / "store", model, "int8"), Outputs(str(folder / "out"), sets=True)
    compute = flow.Compute("cpu", cpus_per_worker=cores)
    inverting = flow.InvertSettings(Recordings(faces, device))
    rendering = flow.RenderSettings(PlanSettings(parse_edits(["smile=1"])))
    stages = flow.invert_stages(store, model, inverting, compute)
    stages += flow.render_stages(store, model, rendering, compute, outputs)
    stages = [replace(one, step=Watched(one.step, seen[one.name])) if one.name in seen else one for one in stages]
    with in_place_of_models(model, device):
        begun, used = time.perf_counter(), time.process_time()
        summary = flow.run(stages, sources, store, InProcessRunner(), silent, flow.Policy())
        whole, processor = time.perf_counter() - begun, time.process_time() - used
    if summary.lost:
        raise SystemExit(summary.lost[0].message)
    frames = sum(one.info.n_frames for one in sources)
    steps = {name: step_of(device.busy[name], seen[name]) for name in STEPS}
    busy = sum(one["busy"] for one in steps.values())
    return {
        "job": busy / whole,
        "job_seconds": whole,
        "opening_seconds": sum(one.opening for one in seen.values()),
        "cpu_ms": 1000 * processor / frames,
        "steps": steps,
    }


def step_of(busy: Sequence[tuple[float, float]], seen: Seen) -> dict[str, float]:
    used, window = sum(stop - start for start, stop in busy), seen.ended - seen.begun
    return {
        "steady": used / max(busy[-1][1] - busy[0][0], 1e-9),
        "whole": used / max(window, 1e-9),
        "busy": used,
        "seconds": window,
        "batches": len(busy),
    }


def compared(
    model: Bundle, clips: Sequence[Source], faces: Faces, slack: float, alone: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """Clips in one job: the rest, then with a stand-in that takes longer than it, with one thread and with two cores.

    alone: what was found of each clip; of several in one job the steps' times overlap, so that the rest of each is not seen.
    """
    found: dict[str, Any] = {
        "clips": [f"{Path(one.uri).name} {one.info.width}x{one.info.height}, {one.info.n_frames} frames" for one in clips]
    }
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, cores in (("rest", 1), ("one thread", 1), ("two cores", 2)):
            found[name] = edit(Path(folder) / name, model, clips, faces, cores, seconds)
            if name == "rest":
                rests = [one["rest"]["steps"] for one in alone or [found]]
                spent, batches = (
                    {step: sum(one[step][name] for one in rests) for step in STEPS} for name in ("seconds", "batches")
                )
                seconds = {step: slack * spent[step] / batches[step] for step in STEPS}
                found["stand_in_ms"] = {step: 1000 * one for step, one in seconds.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, action="append", required=True)
    parser.add_argument("--frames", type=int, default=192)
    parser.add_argument("--slack", type=float, default=1.25, help="how many times as long as the rest the stand-in takes")
    parser.add_argument("--model", default="mini64")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model, clips = open_bundle(arguments.model), [beginning(one, arguments.frames) for one in arguments.clip]
    faces = {key: found for one in clips for key, found in recorded(one).items()}
    found: dict[str, Any] = {"load": os.getloadavg(), "cores": os.cpu_count(), "slack": arguments.slack}
    jobs = [compared(model, [one], faces, arguments.slack) for one in clips]
    if len(clips) > 1:
        jobs.append(compared(model, clips, faces, arguments.slack, list(jobs)))
    found["jobs"] = jobs
    for job in found["jobs"]:
        print(
            "; ".join(job["clips"]),
            "-",
            f"rest {job['rest']['cpu_ms']:.1f} ms of processor a frame, stand-in",
            job["stand_in_ms"],
        )
        for name in ("one thread", "two cores"):
            said = f"job {job[name]['job']:.0%}"
            if len(job["clips"]) == 1:  # the steps of several overlap
                steps = job[name]["steps"].items()
                said += "; steady and whole: " + ", ".join(
                    f"{step} {one['steady']:.0%} {one['whole']:.0%}" for step, one in steps
                )
            print(f"  {name:10}  {said}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
