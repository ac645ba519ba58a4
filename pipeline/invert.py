"""invert: frames and quads => `latents` and `residuals`. One item is a chunk of a source with all its tracks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np

from ops.checkpoints.bundle import open_bundle
from ops.device import Device, resolve_device
from ops.face.align import CropMode
from ops.inversion.session import Precision, Session
from ops.video.decode import Backend
from pipeline.columns import array_from_column, latents_table, residuals_table
from pipeline.readers import Readers
from pipeline.stage import Chunk, Result, Step
from pipeline.store import Store, range_part
from pipeline.timer import Timer
from schemas import Failure


@final
@dataclass(frozen=True)
class Invert(Step):
    store: str
    model: str
    batch_size: int = 16
    precision: Precision = "fp32"
    device: Device = "auto"
    crop: CropMode = "fast"
    backend: Backend = "auto"

    def open(self) -> Callable[[Chunk], Result]:
        store, readers = Store.open(self.store), Readers(self.backend)
        bundle = open_bundle(self.model)
        model, framing = bundle.load("invert"), bundle.framing
        session = Session(model, device=resolve_device(self.device), precision=self.precision, batch_size=self.batch_size)

        def invert(chunk: Chunk) -> Result:
            source, timer = chunk.source, Timer()
            tracks = store.read("tracks", source.source_id, chunk.pts_range, ["track_id", "pts", "quad"])
            if len(tracks) == 0:
                return Result({"frames": chunk.stop - chunk.start})
            pts_N, track_N = tracks["pts"].to_numpy(), tracks["track_id"].to_numpy()
            quads = array_from_column(tracks, "quad")
            rows_at: dict[int, list[int]] = {}
            for row, pts in enumerate(pts_N.tolist()):
                rows_at.setdefault(pts, []).append(row)
            crops = np.empty((len(pts_N), session.input_size, session.input_size, 3), np.uint8)
            for pts, frame in timer.timed("decode", readers.of(source).read(chunk.start, chunk.stop)):
                with timer("crop"):
                    for row in rows_at.get(pts, ()):
                        crops[row] = framing.cut(frame, quads[row], self.crop)
            with timer("model"):
                wplus_NLD, detail = session.invert(crops)
            finite = np.isfinite(wplus_NLD).all(axis=(1, 2))
            if detail is not None:
                finite &= np.isfinite(detail).all(axis=tuple(range(1, detail.ndim)))
            failures = tuple(
                Failure(
                    source.source_id,
                    source.uri,
                    "invert",
                    "not_finite",
                    "the encoder gave values that are not finite; the frame passes through",
                    track_id=int(track_N[row]),
                    pts=int(pts_N[row]),
                )
                for row in np.flatnonzero(~finite)
            )
            with timer("store"):
                part, codec = range_part(chunk.start, chunk.stop), store.info.residual_codec
                keys = (source.source_id, track_N[finite], pts_N[finite])
                if finite.any():
                    store.write_part("latents", source.source_id, part, latents_table(*keys, wplus_NLD[finite]))
                    if detail is not None:
                        rows = residuals_table(*keys, detail[finite], codec)
                        store.write_part("residuals", source.source_id, part, rows)
            counts = {"frames": chunk.stop - chunk.start, "faces": int(finite.sum())}
            return Result(counts, timer.seconds, failures)

        return invert
