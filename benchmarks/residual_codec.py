"""What a residual's codec costs: bytes of a face and frame in the store, against the PSNR of the edit to that of float32.

    python -m benchmarks.residual_codec --model mini64 --clip A.mp4 --clip B.mp4 --clip C.mp4

The first frames of each clip are inverted once. Their residuals are then written and read with each codec, and with int8 in
more and fewer steps and as differences of neighbouring frames of a track; every face is edited with what was read. PSNR is of
the face's picture; the worst decile of frames counts, because that is what people see.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.overlap import beginning
from jobs.common.prepare import open_store
from ops.checkpoints.bundle import Bundle, open_bundle
from ops.editing.library import load_edits
from ops.editing.plan import plan_edits
from ops.editing.recipe import parse_edits
from ops.editing.smoothing import SmoothingSettings
from ops.inversion.session import Session
from pipeline import flow
from pipeline.engine.course import silent
from pipeline.engine.runner import InProcessRunner
from pipeline.store import columns
from pipeline.store.columns import residuals_from_table, residuals_table, wplus_from_table
from pipeline.store.parts import write_rows
from schemas import RESIDUAL_CODECS


def written_bytes(rows: pa.Table, folder: Path) -> int:
    return write_rows(folder / "rows.parquet", rows, "residuals").size_bytes


def delta_bytes(stored: np.ndarray, track_N: np.ndarray, folder: Path, like: pa.Table) -> int:
    """Of the same numbers as differences to the frame before, within a track; modulo 256, so that nothing is lost."""
    delta = stored.copy()
    same = np.flatnonzero(track_N[1:] == track_N[:-1]) + 1
    delta[same] = (stored[same].astype(np.int16) - stored[same - 1]).astype(np.uint8).view(np.int8)
    column = pa.Array.from_buffers(like.schema.field("residual").type, len(delta), [None, pa.py_buffer(delta.tobytes())])
    return written_bytes(like.set_column(like.schema.names.index("residual"), like.schema.field("residual"), column), folder)


def psnr_N(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    error = (np.clip(one, 0, 255) - np.clip(other, 0, 255)) ** 2
    return 10 * np.log10(255**2 / np.maximum(error.reshape(len(error), -1).mean(axis=1), 1e-12))


def measured(clip: Path, frames: int, bundle: Bundle, edit: str) -> dict[str, Any]:
    source = beginning(clip, frames)
    found: dict[str, Any] = {"clip": clip.name}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = open_store(folder / "store", bundle, "float32")
        compute = flow.Compute("cpu", chunk_frames=64)
        flow.invert([source], store, bundle, flow.InvertSettings(), compute, InProcessRunner(), silent)
        latents, kept = store.read("latents"), store.read("residuals")
        order = np.lexsort([kept["pts"].to_numpy(), kept["track_id"].to_numpy()])
        latents, kept = latents.take(pa.array(order)), kept.take(pa.array(order))
        track_N, pts_N, detail = kept["track_id"].to_numpy(), kept["pts"].to_numpy(), residuals_from_table(kept)
        wplus_NLD = wplus_from_table(latents)
        editors = {
            one: each.editor
            for one, each in load_edits([edit.split("=")[0]], bundle.editors(), (), bundle.config.generator).items()
        }
        seconds_N = np.arange(len(pts_N), dtype=np.float64)
        planned = plan_edits(parse_edits([edit]), editors, wplus_NLD, seconds_N, 0, SmoothingSettings())
        session = Session(bundle.load("generate"), device="cpu", precision="fp32", batch_size=8)
        size = min(bundle.config.generator.sizes)
        reference = session.generate_levels(planned.edited_NLD, detail, unedited_NLD=planned.unedited_NLD, size=size)
        found["faces"] = len(pts_N)
        chosen = columns.INT8_STEPS
        for steps in (127, 31, 15, 7):
            columns.INT8_STEPS = steps
            rows = residuals_table("s", track_N, pts_N, detail, "int8")
            made = session.generate_levels(
                planned.edited_NLD, residuals_from_table(rows), unedited_NLD=planned.unedited_NLD, size=size
            )
            column = rows["residual"].combine_chunks()
            stored = np.frombuffer(column.buffers()[1], np.int8).reshape(len(rows), -1)
            found[f"{2 * steps + 1} steps"] = {
                "bytes": written_bytes(rows, folder) / len(pts_N),
                "bytes_as_differences": delta_bytes(stored, track_N, folder, rows) / len(pts_N),
                "worst_decile_db": float(np.quantile(psnr_N(made, reference), 0.1)),
            }
        columns.INT8_STEPS = chosen
        for codec in RESIDUAL_CODECS:
            rows = residuals_table("s", track_N, pts_N, detail, codec)
            made = session.generate_levels(
                planned.edited_NLD, residuals_from_table(rows), unedited_NLD=planned.unedited_NLD, size=size
            )
            quality = psnr_N(made, reference)
            found[codec] = {
                "bytes": written_bytes(rows, folder) / len(pts_N),
                "worst_decile_db": float(np.quantile(quality, 0.1)),
            }
    for facts in found.values():
        if isinstance(facts, dict):
            facts["of_float16"] = facts["bytes"] / found["float16"]["bytes"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, action="append", required=True)
    parser.add_argument("--model", default="ffhq")
    parser.add_argument("--edit", default="smile=2")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    bundle = open_bundle(arguments.model)
    found = [measured(clip, arguments.frames, bundle, arguments.edit) for clip in arguments.clip]
    text = json.dumps({"model": bundle.name, "clips": found}, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
