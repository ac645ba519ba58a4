"""invert: frames and quads => `latents` and `residuals`. One item is a chunk of a source with all its tracks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import final

import numpy as np

from ops.device import Device, resolve_device
from ops.face.align import CropMode
from ops.inversion.session import Precision, Session
from ops.video.decode import Backend
from pipeline.engine.overlap import Turns, ahead
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
    threads: int = 1
    """Cores of the worker. With more than one, or an accelerator, decoding and cropping, the model and writing overlap."""

    def open(self) -> Batched:
        store, readers = Store.open(self.store), Readers(self.backend)
        bundle = open_model(self.model, store)
        model, framing = bundle.load("invert"), bundle.framing
        session = Session(model, device=resolve_device(self.device), precision=self.precision, batch_size=self.batch_size)
        devices = (session.device.type,)
        whole = WholeTable(store, "tracks", ("track_id", "pts", "quad"))
        overlaps = self.threads > 1 or session.device.type != "cpu"
        reading = Turns()

        def load(chunk: Chunk) -> Cropped:
            timer = Timer()
            tracks = whole.rows(chunk, chunk.pts_range)
            quads = array_from_column(tracks, "quad") if len(tracks) else np.zeros((0, 4, 2))
            pts_N, track_N = tracks["pts"].to_numpy(), tracks["track_id"].to_numpy()
            crops = partial(cropped, chunk, pts_N, quads, timer)
            if not overlaps:  # a whole item is read while the one before it is computed, if two threads call
                crops = partial(iter, list(crops()))
            return Cropped(chunk, pts_N, track_N, crops, timer)

        def cropped(chunk: Chunk, pts_N: np.ndarray, quads_N42: np.ndarray, timer: Timer) -> Iterator[np.ndarray]:
            """Yield the crops of rows in order of pts, as their frames come."""
            if not len(pts_N):
                return
            with reading:
                for pts, frame in timer.timed("decode", readers.read(chunk.source, chunk.start, chunk.stop)):
                    for row in range(np.searchsorted(pts_N, pts, "left"), np.searchsorted(pts_N, pts, "right")):
                        with timer("crop"):
                            crop = framing.cut(frame, quads_N42[row], self.crop)
                        yield crop

        def finish(loaded: Sequence[Cropped]) -> list[Result]:
            """Invert the crops of all items in common batches: many small clips and images cost no more than one long clip."""

            def all_crops() -> Generator[np.ndarray, None, None]:
                for one in loaded:
                    yield from one.crops()

            timer, codes = Timer(), []
            with closing(all_crops()) as made, closing(ahead(made, 2 * session.batch_size) if overlaps else made) as crops:
                while batch := list(islice(crops, session.batch_size)):
                    with timer("model"):
                        codes.append(session.invert(np.stack(batch)))
            for name, spent in timer.seconds.items():
                loaded[0].timer.seconds[name] += spent
            if not codes:
                return [Result({"frames": one.chunk.frames}, one.timer.seconds, devices=devices) for one in loaded]
            wplus_NLD = np.concatenate([wplus for wplus, _ in codes])
            assert len(wplus_NLD) == sum(len(one.pts_N) for one in loaded), "a face without its frame"
            details = [detail for _, detail in codes if detail is not None]
            detail = np.concatenate(details) if details else None
            results, at = [], 0
            for one in loaded:
                rows = slice(at, at + len(one.pts_N))
                at = rows.stop
                done = written(one, wplus_NLD[rows], None if detail is None else detail[rows], store)
                results.append(replace(done, devices=devices))
            return results

        return Batched(load, finish, overlaps=overlaps)


@dataclass(frozen=True, eq=False)
class Cropped:
    """A chunk with the crops of its faces."""

    chunk: Chunk
    pts_N: np.ndarray
    """int64 [N]: pts of its faces, increasing."""
    track_N: np.ndarray
    crops: Callable[[], Iterator[np.ndarray]]
    """uint8 [S, S, 3] of each face, in their order; read on demand if the parts of a worker's work overlap."""
    timer: Timer


def written(one: Cropped, wplus_NLD: np.ndarray, detail: np.ndarray | None, store: Store) -> Result:
    """Write the rows of one chunk, with a failure for each face whose codes are not finite."""
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
