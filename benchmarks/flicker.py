"""How much an edit flickers under each smoothing of codes, and how much of the face's own motion it keeps.

    python -m benchmarks.flicker --clip ../shared/videos/lp_d18_man_480.mp4 --clip ../shared/videos/carphone_176x144.mp4

(As a module: this folder's pipeline.py would hide the package of that name from a script beside it.)

Each clip is inverted once with the flow's own steps; then every variant is planned, generated and pasted with the operations
that a render uses. Nothing is encoded, so the numbers hold the edit and no codec.

Measured, with s the source's frames, e the edited ones, d = e - s what was laid over them, in 8-bit levels, mean over the
pixels of the face's oval and over frames:

    flicker    |d_t - d_(t-1)|. Contains the motion of the layer with the face, which is wanted.
    residue    |d_t - W d_(t-1)|: the same after the layer before is moved as the source moved (optical flow, where the flow
               explains the source to 12 levels). What is left does not move with the face: flicker as an eye sees it.
    drawn      |D_t - D_(t-1)|, D the same layer as the model drew it: aligned crops of the model's size, before the warp, the
               mask and the rounding to 8 bits (which alone gives about 0.2 of flicker and residue).
    layer      |d_t|: how large the layer is at all. Less residue with less of an edit is no gain.
    kept       <De, Ds> / <Ds, Ds> over the mouth region of aligned crops, D the change from frame to frame: the share of the
               source's motion that the edited face shows. 1 is all; noise that has nothing to do with it does not count.
    follows    the same, as a correlation: 1 moves as the source does and in no other way.
    lag        frames by which the edited mouth follows the source's: the peak of that correlation over shifts.
    misfit     |G(base code, residual) - crop of the source| at the model's size: how well code and residual still fit together.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import torch

from jobs.common.prepare import open_store
from ops.checkpoints.bundle import DEFAULT, Bundle, open_bundle
from ops.editing.plan import plan_edits
from ops.editing.recipe import EditRecipe, parse_edits
from ops.editing.smoothing import SMOOTHING_KINDS, SmoothingSettings, smooth_codes
from ops.face.align import crop_face
from ops.face.mask import MaskSettings
from ops.face.paste import PasteSettings, paste
from ops.inversion.light import LightStyleRes
from ops.inversion.session import Session
from ops.inversion.styleres import StyleRes
from ops.metrics.regions import frame_mask
from ops.metrics.temporal import Motion, flicker, motion_between, residue
from ops.spaces import images_from_crops
from ops.video.decode import FrameReader
from ops.video.probe import probe
from pipeline import flow
from pipeline.engine.runner import InProcessRunner, silent
from pipeline.engine.stage import Source
from pipeline.store.columns import array_from_column, residuals_from_table
from schemas import source_id_from_sha256

Residual = Literal["own", "smoothed", "recomputed"]
"""own: as stored, each frame's. smoothed: filtered like the code. recomputed: E1 run again on the smoothed code."""
PasteMode = Literal["composite", "delta", "replace"]

MOUTH = ((0.62, 0.90), (0.28, 0.72))  # rows, columns of an FFHQ crop
BATCH = 8


@dataclass(frozen=True, eq=False)
class Faces:
    """One track of a clip, decoded and inverted."""

    name: str
    frames: np.ndarray
    """uint8 [N, H, W, 3], converted exactly."""
    seconds_N: np.ndarray
    quads: np.ndarray
    landmarks: np.ndarray
    masks: np.ndarray
    """float32 [N, H, W]: the face's oval."""
    crops: np.ndarray
    """uint8 [N, S, S, 3]: what the encoder sees."""
    wplus_NLD: np.ndarray
    residual: np.ndarray
    motions: list[Motion]
    """N - 1: how the source moved from each frame to the next."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    clip: str
    paste: PasteMode
    smoothing: str
    """Filter, and what it is of: what an edit adds, or the code itself."""
    shared_from_row: int | None
    residual: Residual
    flicker: float
    residue: float
    drawn: float
    layer: float
    kept: float
    follows: float
    lag: float
    misfit: float


def load_faces(clip: Path, bundle: Bundle, start: int, count: int, work: Path) -> Faces:
    """Invert a clip with the flow's own steps and take `count` frames of its longest track."""
    info = probe(clip)
    source = Source(source_id_from_sha256(info.sha256), info)
    store = open_store(work / source.source_id, bundle, "float32")
    flow.invert([source], store, bundle, flow.InvertSettings(), flow.Compute(), InProcessRunner(), silent)
    codes, tracks = store.read("latents", source.source_id), store.read("tracks", source.source_id)
    kept = store.read("residuals", source.source_id)
    track_N = codes["track_id"].to_numpy()
    track = np.bincount(track_N).argmax()

    def of_track(column: np.ndarray, table_tracks: np.ndarray) -> np.ndarray:
        return column[table_tracks == track][start : start + count]

    pts = of_track(codes["pts"].to_numpy(), track_N)
    quads = of_track(array_from_column(tracks, "quad"), tracks["track_id"].to_numpy())
    landmarks = of_track(array_from_column(tracks, "landmarks"), tracks["track_id"].to_numpy())
    first = int(np.searchsorted(info.pts, pts[0]))
    with FrameReader(info, conversion="exact") as reader:
        decoded = dict(reader.read(first, first + len(pts)))
    frames = np.stack([decoded[int(at)] for at in pts])  # a track has no holes: its gaps are interpolated
    size = bundle.config.input_size
    return Faces(
        clip.stem,
        frames,
        pts * float(info.time_base),
        quads,
        landmarks,
        np.stack([frame_mask(frames.shape[1:], *pair, MaskSettings("face")) for pair in zip(quads, landmarks, strict=True)]),
        np.stack([crop_face(frame, quad, size) for frame, quad in zip(frames, quads, strict=True)]),
        of_track(array_from_column(codes, "wplus"), track_N),
        of_track(residuals_from_table(kept), kept["track_id"].to_numpy()),
        [motion_between(now, before) for now, before in zip(frames[1:], frames, strict=False)],
    )


def variants(late_row: int) -> Iterator[tuple[SmoothingSettings, Residual]]:
    """No smoothing, the default one, and every smoothing of codes with the residual as it is; the residual's other treatments
    for the default filter. late_row: rows of W+ from there on carry texture and colour."""
    yield SmoothingSettings(kind="none"), "own"
    yield SmoothingSettings(), "own"
    for kind in SMOOTHING_KINDS[1:]:
        yield SmoothingSettings(kind=kind, target="code"), "own"
    yield SmoothingSettings(kind="none", target="code", shared_from_row=late_row), "own"
    yield SmoothingSettings(target="code"), "smoothed"
    yield SmoothingSettings(target="code"), "recomputed"


def residual_for(
    faces: Faces, treatment: Residual, unedited_NLD: np.ndarray, settings: SmoothingSettings, model: StyleRes | LightStyleRes
) -> np.ndarray:
    match treatment:
        case "own":
            return faces.residual
        case "smoothed":
            rows = faces.residual.reshape(*faces.residual.shape[:2], -1)
            return smooth_codes(rows, faces.seconds_N, replace(settings, shared_from_row=None)).reshape(faces.residual.shape)
        case "recomputed":
            assert model.encoder is not None
            found = []
            with torch.inference_mode():
                for start in range(0, len(unedited_NLD), BATCH):
                    batch = slice(start, start + BATCH)
                    images, code = images_from_crops(faces.crops[batch]), torch.from_numpy(unedited_NLD[batch])
                    if isinstance(model, LightStyleRes):
                        found.append(model.detail(images, code).numpy())
                        continue
                    _, features = model.encoder(images)
                    found.append(model.residual(features, code).numpy())
            return np.concatenate(found)


def measure(
    faces: Faces, recipe: EditRecipe, bundle: Bundle, session: Session, model: StyleRes | LightStyleRes
) -> Iterator[Row]:
    editors, generator = bundle.editors(), bundle.config.generator
    size = min(bundle.config.input_size, generator.resolution)
    at_model_size = np.stack([crop_face(frame, quad, size) for frame, quad in zip(faces.frames, faces.quads, strict=True)])
    ovals = np.stack(
        [
            cv2.resize(crop_face(np.dstack([mask * 255] * 3).astype(np.uint8), quad, size)[..., 0], (size, size))
            for mask, quad in zip(faces.masks, faces.quads, strict=True)
        ]
    )
    for settings, treatment in variants(generator.num_ws // 2):
        planned = plan_edits(recipe, editors, faces.wplus_NLD, faces.seconds_N, 0, settings)
        residual = residual_for(faces, treatment, planned.unedited_NLD, settings, model)
        edited = session.generate_levels(planned.edited_NLD, residual, unedited_NLD=planned.unedited_NLD, size=size)
        base = session.generate_levels(planned.unedited_NLD, residual, size=size)
        misfit = float(np.average(np.abs(base - at_model_size).mean(-1), weights=ovals))
        for mode in get_args(PasteMode):
            pasted = np.stack(
                [
                    paste(frame, e, b, quad, PasteSettings(mode=mode), landmarks)
                    for frame, e, b, quad, landmarks in zip(
                        faces.frames, edited, base, faces.quads, faces.landmarks, strict=True
                    )
                ]
            )
            layer = pasted.astype(np.float32) - faces.frames
            moved_residue, plain_flicker = changes(layer, faces)
            drawn = edited - (at_model_size if mode == "replace" else base)
            drawn_changes = np.abs(np.diff(drawn, axis=0)).mean(-1)
            kept, follows, lag = mouth_motion(pasted, at_model_size, faces.quads, size)
            yield Row(
                faces.name,
                mode,
                label(settings),
                settings.shared_from_row,
                treatment,
                plain_flicker,
                moved_residue,
                float(np.average(drawn_changes, weights=ovals[1:])),
                float(np.average(np.abs(layer).mean(-1), weights=faces.masks)),
                kept,
                follows,
                lag,
                misfit,
            )


def label(settings: SmoothingSettings) -> str:
    return settings.kind if settings.kind == "none" else f"{settings.kind} of the {settings.target}"


def changes(layer: np.ndarray, faces: Faces) -> tuple[float, float]:
    """(residue, flicker) of a layer float32 [N, H, W, 3]."""
    steps = list(zip(layer[1:], layer, faces.motions, faces.masks[1:], strict=False))
    residues = [residue(now, before, motion, mask) for now, before, motion, mask in steps]
    return float(np.mean(residues)), float(np.mean([flicker(now, before, mask) for now, before, _, mask in steps]))


def mouth_motion(pasted: np.ndarray, source_crops: np.ndarray, quads: np.ndarray, size: int) -> tuple[float, float, float]:
    """(kept, follows, lag in frames)."""
    crops = np.stack([crop_face(frame, quad, size) for frame, quad in zip(pasted, quads, strict=True)])
    rows, columns = (slice(round(start * size), round(stop * size)) for start, stop in MOUTH)
    change_e, change_s = (np.diff(c[:, rows, columns].astype(np.float64).mean(-1), axis=0) for c in (crops, source_crops))

    def correlation(shift: int) -> float:
        count = len(change_e) - abs(shift)
        e, s = change_e[max(shift, 0) :][:count], change_s[max(-shift, 0) :][:count]
        return float((e * s).sum() / np.sqrt((e**2).sum() * (s**2).sum()))

    shifts = np.arange(-4, 5)
    values = np.array([correlation(int(shift)) for shift in shifts])
    peak = int(np.clip(values.argmax(), 1, len(values) - 2))
    left, top, right = values[peak - 1 : peak + 2]
    lag = shifts[peak] + 0.5 * (left - right) / (left - 2 * top + right)
    return float((change_e * change_s).sum() / (change_s**2).sum()), correlation(0), float(lag)


def table(rows: list[Row]) -> str:
    names: tuple[str, ...] = ("clip", "paste", "smoothing", "shared from row", "residual")
    names += ("flicker", "residue", "drawn", "layer", "kept", "follows", "lag", "misfit")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in sorted(rows, key=lambda row: (row.clip, row.paste)):
        shared = "none" if row.shared_from_row is None else str(row.shared_from_row)
        lines.append(
            f"| {row.clip} | {row.paste} | {row.smoothing} | {shared} | {row.residual} | {row.flicker:.3f} | {row.residue:.3f} "
            f"| {row.drawn:.3f} | {row.layer:.2f} | {row.kept:.3f} | {row.follows:.3f} | {row.lag:+.2f} | {row.misfit:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure flicker and kept motion of every smoothing.")
    parser.add_argument("--clip", type=Path, action="append", required=True, help="A video with a face; several times.")
    parser.add_argument("--edit", action="append", help="NAME=STRENGTH, several times; smile=2 if not given.")
    parser.add_argument("--frames", type=int, default=100, help="Frames of the longest track.")
    parser.add_argument("--start", type=int, default=0, help="The first of them.")
    parser.add_argument("--model", default=DEFAULT, help="A bundle of StyleRes, by name or folder.")
    parser.add_argument("--json", type=Path, help="Write every row here.")
    options = parser.parse_args()
    bundle = open_bundle(options.model)
    model = bundle.load("all").eval()
    if not isinstance(model, StyleRes | LightStyleRes):
        parser.error(f"{bundle.name} has no residual")
    recipe = parse_edits(options.edit or ["smile=2"])
    recipe.require_known([entry.name for entry in bundle.edits])
    session = Session(model, device="cpu", precision="fp32", batch_size=BATCH)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="styleres-flicker-") as work:
        for clip in options.clip:
            for row in measure(
                load_faces(clip, bundle, options.start, options.frames, Path(work)), recipe, bundle, session, model
            ):
                rows.append(row)
                print(table([row]).splitlines()[-1], file=sys.stderr, flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    command = shlex.join(["python", "-m", "benchmarks.flicker", *sys.argv[1:]])
    print(f"`{command}`: {recipe.to_text()}, {bundle.name}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
