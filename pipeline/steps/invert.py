"""invert: frames and quads => `latents` and `residuals`. One item is a chunk of a source with all its tracks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from ops.device import Device, resolve_device
from ops.face.align import CropMode
from ops.inversion.session import Precision, Session
from ops.video.decode import Backend
from pipeline.engine.stage import Batched, Chunk, Result, Step
from pipeline.engine.timer import Timer
from pipeline.sources.readers import Readers
from pipeline.steps.model import open_model
from pipeline.steps.whole import WholeTable
from pipeline.store.columns import array_from_column, latents_table, residuals_table
from pipeline.store.tables import Store, Written, range_part
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

    def open(self) -> Batched:
        store, readers = Store.open(self.store), Readers(self.backend)
        bundle = open_model(self.model, store)
        model, framing = bundle.load("invert"), bundle.framing
        session = Session(model, device=resolve_device(self.device), precision=self.precision, batch_size=self.batch_size)
        devices = (session.device.type,)
        whole = WholeTable(store, "tracks", ("track_id", "pts", "quad"))

        def load(chunk: Chunk) -> Cropped:
            timer = Timer()
            tracks = whole.rows(chunk, chunk.pts_range)
            pts_N, track_N = tracks["pts"].to_numpy(), tracks["track_id"].to_numpy()
            crops = np.empty((len(pts_N), session.input_size, session.input_size, 3), np.uint8)
            if len(tracks):
                quads = array_from_column(tracks, "quad")
                rows_at: dict[int, list[int]] = {}
                for row, pts in enumerate(pts_N.tolist()):
                    rows_at.setdefault(pts, []).append(row)
                for pts, frame in timer.timed("decode", readers.read(chunk.source, chunk.start, chunk.stop)):
                    with timer("crop"):
                        for row in rows_at.get(pts, ()):
                            crops[row] = framing.cut(frame, quads[row], self.crop)
            return Cropped(chunk, pts_N, track_N, crops, timer)

        def finish(loaded: Sequence[Cropped]) -> list[Result]:
            """The crops of all items fill batches together: many small clips and images cost no more than one long clip."""
            crops = np.concatenate([one.crops for one in loaded])
            if len(crops) == 0:
                return [Result({"frames": one.chunk.frames}, one.timer.seconds, devices=devices) for one in loaded]
            with loaded[0].timer("model"):
                wplus_NLD, detail = session.invert(crops)
            results, at = [], 0
            for one in loaded:
                rows = slice(at, at + len(one.crops))
                at = rows.stop
                done = written(one, wplus_NLD[rows], None if detail is None else detail[rows], store)
                results.append(replace(done, devices=devices))
            return results

        return Batched(load, finish)


@dataclass(frozen=True, eq=False)
class Cropped:
    """A chunk with the crops of its faces."""

    chunk: Chunk
    pts_N: np.ndarray
    track_N: np.ndarray
    crops: np.ndarray
    timer: Timer


def written(one: Cropped, wplus_NLD: np.ndarray, detail: np.ndarray | None, store: Store) -> Result:
    """The rows of one chunk, and a failure for each face whose codes are no numbers."""
    source, pts_N, track_N = one.chunk.source, one.pts_N, one.track_N
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
    files: list[Written] = []
    with one.timer("store"):
        part, codec = range_part(one.chunk.start, one.chunk.stop), store.info.residual_codec
        keys = (source.source_id, track_N[finite], pts_N[finite])
        if finite.any():
            files.append(store.write_part("latents", source.source_id, part, latents_table(*keys, wplus_NLD[finite])))
            if detail is not None:
                rows = residuals_table(*keys, detail[finite], codec)
                files.append(store.write_part("residuals", source.source_id, part, rows))
    counts = {"frames": one.chunk.frames, "faces": int(finite.sum())}
    return Result(counts, one.timer.seconds, failures, tuple(files))
