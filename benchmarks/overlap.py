"""Whether an accelerator waits for the rest of a worker: a stand-in that takes a fixed time per batch and no core.

    python -m benchmarks.overlap --clip CLIP_480P --clip CLIP_1080P --json overlap.json

For each clip the first frames are rendered with a generator that sleeps, once as one thread does it and once with two cores
(`--cpus-per-worker 2`); the sleep is made longer than all the rest takes, measured first. What counts is the share of the
rendering's time in which the stand-in is busy: with one thread about a half, with overlap nearly all. On a machine that others
use, too, the rest takes longer from one moment to the next, so the sleep is given some slack (`--slack`).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jobs.common.prepare import open_store
from ops.checkpoints.bundle import open_bundle
from ops.editing.recipe import parse_edits
from ops.inversion.session import Session
from ops.video.probe import probe
from pipeline import flow
from pipeline.engine.course import silent
from pipeline.engine.runner import InProcessRunner
from pipeline.engine.stage import Source
from pipeline.sources.outputs import Outputs
from pipeline.steps.plan import PlanSettings
from pipeline.store.tables import Store
from schemas import source_id_from_sha256

GENERATE = Session.generate


def beginning(clip: Path, frames: int) -> Source:
    """The first frames of a clip as a source of its own."""
    info = probe(clip)
    count = min(frames, info.n_frames)
    sha256 = f"{count:08x}{info.sha256[8:]}"
    return Source(source_id_from_sha256(sha256), replace(info, pts=info.pts[:count], sha256=sha256))


def stand_in(seconds_per_batch: float, busy: list[float]) -> Any:
    """A generator that sleeps once for each batch of faces, with and without the edit together."""

    def generate(self: Session, wplus_NLD: np.ndarray, *rest: Any, **named: Any) -> np.ndarray:
        batches = -(-len(wplus_NLD) // self.batch_size)
        begun = time.perf_counter()
        time.sleep(seconds_per_batch * batches / 2)
        busy.append(time.perf_counter() - begun)
        side = named.get("size") or self.model.config.generator.resolution
        return np.full((len(wplus_NLD), side, side, 3), 128.0, np.float32)

    return generate


def render(source: Source, store: Store, threads: int, seconds_per_batch: float) -> dict[str, float]:
    """Render a source; => seconds of the step, and those in which the stand-in was busy."""
    bundle = open_bundle("mini64")
    settings = flow.RenderSettings(PlanSettings(parse_edits(["smile=1"])), sheet_frames=0)
    busy: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        compute = flow.Compute("cpu", cpus_per_worker=threads)
        outputs = Outputs(folder, encode=settings.encode)
        stages = flow.render_stages(store, bundle, settings, compute, outputs)[:2]
        Session.generate = stand_in(seconds_per_batch, busy)  # type: ignore[method-assign]
        try:
            begun = time.perf_counter()
            summary = flow.run(stages, [source], store, InProcessRunner(), silent, flow.Policy(overwrite=True))
            seconds = time.perf_counter() - begun
        finally:
            Session.generate = GENERATE  # type: ignore[method-assign]
    if summary.lost:
        raise SystemExit(summary.lost[0].message)
    return {"seconds": seconds, "busy": sum(busy), "batches": len(busy) / 2, "share": sum(busy) / seconds}


def measured(clip: Path, frames: int, slack: float) -> dict[str, Any]:
    bundle = open_bundle("mini64")
    source = beginning(clip, frames)
    found: dict[str, Any] = {
        "clip": clip.name,
        "size": f"{source.info.width}x{source.info.height}",
        "frames": source.info.n_frames,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in ("rest", "one thread", "overlapping"):
            store = open_store(Path(folder) / name / "store", bundle, "float16")
            flow.invert([source], store, bundle, flow.InvertSettings(), flow.Compute("cpu"), InProcessRunner(), silent)
            threads = 2 if name == "overlapping" else 1
            wait = 0.0 if name == "rest" else found["seconds_per_batch"]
            found[name] = render(source, store, threads, wait)
            if name == "rest":
                found["seconds_per_batch"] = slack * found["rest"]["seconds"] / found["rest"]["batches"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, action="append", required=True)
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--slack", type=float, default=1.5, help="how many times as long as the rest the stand-in takes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = {"load": os.getloadavg(), "cores": os.cpu_count()}
    text = json.dumps(found | {"clips": [measured(one, arguments.frames, arguments.slack) for one in arguments.clip]}, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
