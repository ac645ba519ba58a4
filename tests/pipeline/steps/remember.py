"""What every step gives for a tiny model and clip, written down with the step's version, so that a change is not overlooked.

    python -m tests.pipeline.steps.remember

writes `results.npz` anew for the steps whose `VERSION` was raised, and refuses for those that give something else under the
version that is written down: then stores that earlier versions made would count as finished with these results.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from ops.editing.recipe import parse_edits
from ops.face.paste import PasteSettings
from pipeline import flow
from pipeline.engine.course import Event, Settled
from pipeline.engine.runner import InProcessRunner
from pipeline.engine.stage import Step
from pipeline.sources.outputs import Outputs
from pipeline.steps.finalize import Finalize
from pipeline.steps.invert import Invert
from pipeline.steps.plan import Plan, PlanSettings, read_plan
from pipeline.steps.render import Render
from pipeline.steps.scan import Scan
from pipeline.steps.track import TrackFaces
from pipeline.store.columns import array_from_column, residuals_from_table, wplus_from_table
from tests import tiny
from tests.ops.video.media import decode_all, make_video

FILE: Final = Path(__file__).with_name("results.npz")
STEPS: Final[dict[str, type[Step]]] = {
    "scan": Scan,
    "track": TrackFaces,
    "invert": Invert,
    "plan": Plan,
    "render": Render,
    "finalize": Finalize,
}
ABSOLUTE: Final = {"scan": 0.02, "track": 0.02, "invert": 2e-3, "plan": 2e-3, "render": 0.6, "finalize": 0.6}
"""How far numbers may be apart between machines: pixels, W+, levels of 255."""


def results() -> dict[str, np.ndarray]:
    """Step => what it gives, thinned out: a few kilobytes in all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = tiny.tiny_bundle(folder / "bundle")
        clip = make_video(folder / "clip.mkv", tiny.marked_frames(30, absent=range(10, 14)), codec="ffv1", options={})
        source = tiny.source_of(clip)
        store, inverting = tiny.inverted(folder / "store", [source], bundle, chunk_frames=64)
        recipe = parse_edits(["warm=1", "ganspace_0=0.5@track=0"])
        settings = flow.RenderSettings(PlanSettings(recipe), PasteSettings(mode="delta"), tiny.LOSSLESS)
        outputs = Outputs(str(folder / "out"), encode=tiny.LOSSLESS)
        planned: list[np.ndarray] = []

        def report(event: Event) -> None:
            if isinstance(event, Settled) and event.stage.name == "plan":  # its file goes when the source is finished
                rows = read_plan(str(store.root), source, (int(source.info.pts[0]), int(source.info.pts[-1])))
                assert rows is not None
                planned.append(np.concatenate([rows.edited_NLD[::7].ravel()[::5], rows.fade_N]))

        compute = flow.Compute("cpu", "fp32", 4, 64)
        rendering = flow.render([source], outputs, store, bundle, settings, compute, InProcessRunner(), report)
        assert not inverting.lost and not rendering.lost
        pts, frames = decode_all(Path(outputs.of(source).video))
        tracks, latents, residuals = (store.read(table) for table in ("tracks", "latents", "residuals"))
        scores = np.array([-1.0 if score is None else score for score in store.read("frames")["cut_score"].to_pylist()])
        residual = residuals_from_table(residuals)
        return {
            "scan": np.concatenate([scores, array_from_column(store.read("faces"), "box").ravel()[::3]]),
            "track": array_from_column(tracks, "quad")[::5].ravel(),
            "invert": np.concatenate([wplus_from_table(latents)[::9].ravel()[::3], residual[0].ravel()[::9]]),
            "plan": planned[0],
            "render": np.stack(frames)[::6].reshape(-1, 12, 8, 20, 8, 3).mean(axis=(2, 4)).ravel(),
            "finalize": np.array(pts),
        }


def differing(found: np.ndarray, recorded: np.ndarray, step: str) -> str | None:
    """What is different, in words; None where nothing is."""
    if found.shape != recorded.shape:
        return f"{found.size} numbers instead of {recorded.size}"
    apart = float(np.abs(found - recorded).max())
    return None if apart <= ABSOLUTE[step] else f"numbers that are {apart:.3g} apart, where {ABSOLUTE[step]:g} is allowed"


def main() -> None:
    known = dict(np.load(FILE)) if FILE.exists() else {}
    written: dict[str, np.ndarray] = {}
    for step, found in results().items():
        version = STEPS[step].VERSION
        if step in known and int(known[f"{step}.version"]) == version:
            if said := differing(found, known[step], step):
                sys.exit(f"{step} gives {said}, and is still of version {version}: raise {STEPS[step].__name__}.VERSION first")
            written[step] = known[step]
        else:
            written[step] = found.astype(np.float32)
        written[f"{step}.version"] = np.array(version)
    np.savez_compressed(FILE, **written)  # type: ignore[arg-type]
    print(f"{FILE}: {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
