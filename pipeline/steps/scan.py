"""scan: frames => `frames` and `faces`. One item is a chunk of a source; nothing is known of tracks yet.

A model whose crop needs no face needs no detector either: then only the shots' scores are measured.
"""

from __future__ import annotations

import platform
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, ClassVar, Final, NamedTuple, TypeVar, final

import numpy as np
import pyarrow as pa

from ops.device import Device
from ops.face.appearance import describe
from ops.face.detect import Detector, DetectorError, DetectorFactory, DetectorSettings, Face
from ops.face.framing import Crop
from ops.face.shots import shot_scores
from ops.video.decode import Backend
from pipeline.engine.overlap import Turns, ahead
from pipeline.engine.stage import Batched, Chunk, Result, Step
from pipeline.engine.timer import Timer
from pipeline.sources.readers import Readers
from pipeline.store.columns import SourceIds, faces_table, frames_table
from pipeline.store.deleted import Deleted, deleted_of
from pipeline.store.parts import Written
from pipeline.store.tables import Store, range_part

T = TypeVar("T")
AHEAD: Final = 8
"""Frames that wait for the detector at most, and faces that wait to be measured."""


@final
@dataclass(frozen=True)
class Scan(Step):
    VERSION: ClassVar[int] = 3  # 2: rows have a face's appearance. 3: pictures of 16 bits are read right.

    store: str
    detector: DetectorFactory = field(default_factory=DetectorSettings)
    backend: Backend = "auto"
    device: Device = "auto"
    crop: Crop = "ffhq"
    decided_by: Mapping[str, Any] | None = None
    """`DetectorFactory.decides` as the driver found it, to compare with the files on this node; None: not compared."""

    threads: int = 1
    """Cores of the worker. With more than one, or an accelerator, decoding, the detector and the measures of its faces
    overlap."""

    def open(self) -> Batched:
        store, readers = Store.open(self.store), Readers(self.backend)
        detector: Detector | None = None
        devices: tuple[str, ...] = ()
        if self.crop == "ffhq":
            if self.decided_by is not None:
                require_same_detector(self.detector, self.decided_by)
            detector = self.detector.build(self.device)
            devices = (detector.device_kind,)
        overlaps = self.threads > 1 or devices not in ((), ("cpu",))
        reading, detecting = Turns(), Lock()

        last: dict[tuple[str, int], tuple[int, np.ndarray]] = {}
        """Source and ordinal of the frame that was read last => its pts, and the frame."""
        deleted: dict[tuple[str, str], Deleted] = {}
        """Deleted tracks of the last source."""

        def load(chunk: Chunk) -> tuple[Chunk, Deleted]:
            of = (chunk.source.source_id, chunk.key)
            if not chunk.key or of not in deleted:  # without a key it may change
                deleted.clear()
                deleted[of] = deleted_of(store, chunk.source.source_id)
            return chunk, deleted[of]

        def decoded(chunk: Chunk, timer: Timer) -> Generator[tuple[int, np.ndarray], None, None]:
            """Yield the last frame of the chunk before, which a cut is a change against, then the chunk's own.

            A worker that has just read that frame has kept it: to decode it again, a reader would start at a key frame before.
            """
            with reading:
                start = max(0, chunk.start - 1)
                before = last.pop((chunk.source.source_id, start), None)
                last.clear()
                if before is not None and chunk.start:
                    yield before
                    start = chunk.start
                for at in timer.timed("decode", readers.read(chunk.source, start, chunk.stop)):
                    before = at
                    yield at
                if before is not None:
                    last[chunk.source.source_id, chunk.stop - 1] = before

        def detected(frames: Iterator[tuple[int, np.ndarray]], start: int, timer: Timer) -> Generator[Seen, None, None]:
            first = int(start == 0)
            for number, (pts, frame) in enumerate(frames, first):
                faces: list[Face] = []
                if detector is not None and number:
                    with timer("detect"), detecting:
                        faces = detector.detect(frame)
                yield Seen(pts, frame, faces)

        def scanned(chunk: Chunk, gone: Deleted) -> Result:
            decoding, detection, timer = Timer(), Timer(), Timer()
            with ExitStack() as stack:

                def beside(made: Generator[T, None, None]) -> Generator[T, None, None]:
                    """Have it closed with the others, the last first: a failure must not keep the next item waiting."""
                    made = stack.enter_context(closing(made))
                    return stack.enter_context(closing(ahead(made, AHEAD))) if overlaps else made

                found = beside(detected(beside(decoded(chunk, decoding)), chunk.start, detection))
                rows = measured(found, chunk, gone, timer)
            with timer("store"):
                files, detections = written(store, chunk, rows)
            for one in (decoding, detection):
                for name, spent in one.seconds.items():
                    timer.seconds[name] += spent
            return Result({"frames": len(rows.pts), "detections": detections}, timer.seconds, files=files, devices=devices)

        def finish(loaded: Sequence[tuple[Chunk, Deleted]]) -> list[Result | Exception]:
            results: list[Result | Exception] = []
            for one in loaded:
                try:
                    results.append(scanned(*one))
                except Exception as error:
                    results.append(error)
            return results

        return Batched(load, finish, overlaps=overlaps)


class Seen(NamedTuple):
    """A frame with the faces that the detector found in it."""

    pts: int
    frame: np.ndarray
    """uint8 [H, W, 3]."""
    faces: list[Face]


@dataclass(frozen=True, eq=False)
class Scanned:
    """Rows of a chunk's frames."""

    pts: list[int]
    scores: list[float]
    """Difference of each frame from the one before it, see `ops.face.shots`."""
    faces: list[list[Face]]
    """Faces of each frame."""


def measured(seen: Iterator[Seen], chunk: Chunk, gone: Deleted, timer: Timer) -> Scanned:
    """Measure frames and faces of a chunk as they come, after the last frame of the one before; deleted faces are left out."""
    pts: list[int] = []
    faces: list[list[Face]] = []

    def looked_at() -> Iterator[np.ndarray]:
        for one in seen:
            pts.append(one.pts)
            with timer("detect"):
                left = [face for face in one.faces if not gone.covers(one.pts, face.box_xyxy)]
                faces.append([replace(face, appearance=describe(one.frame, face.landmarks_52)) for face in left])
            yield one.frame

    previous = next(seen).frame if chunk.start else None
    return Scanned(pts, shot_scores(looked_at(), previous), faces)


def written(store: Store, chunk: Chunk, rows: Scanned) -> tuple[tuple[Written, ...], int]:
    """Write the parts of a chunk; => them, and the number of faces."""
    source_id, part = chunk.source.source_id, range_part(chunk.start, chunk.stop)
    if chunk.start == 0:
        rows.scores[0] = float("nan")  # no predecessor: null
    counts = np.array([len(faces) for faces in rows.faces])
    table = frames_table(source_id, np.array(rows.pts), np.array(rows.scores), counts)
    files = [store.write_part("frames", source_id, part, table)]
    faces = [(at, index, face) for at, found in zip(rows.pts, rows.faces, strict=True) for index, face in enumerate(found)]
    if faces:
        pts, indices, each = zip(*faces, strict=True)
        table = rows_of_faces(source_id, pts, indices, each)
        files.append(store.write_part("faces", source_id, part, table))
    return tuple(files), len(faces)


def rows_of_faces(source_id: SourceIds, pts: Sequence[int], indices: Sequence[int], faces: Sequence[Face]) -> pa.Table:
    """Return rows of `faces`, of at least one face. indices: of each among its frame's, from 0."""
    return faces_table(
        source_id,
        np.array(pts),
        np.array(indices),
        np.stack([face.box_xyxy for face in faces]),
        np.stack([face.landmarks_52 for face in faces]),
        np.array([face.score for face in faces]),
        [face.embedding for face in faces],
        [face.appearance for face in faces],
    )


def require_same_detector(detector: DetectorFactory, decided_by: Mapping[str, Any]) -> None:
    """Raise DetectorError if the files on this node differ from those that the driver found (`DetectorFactory.decides`)."""
    if dict(decided_by) != detector.decides():
        raise DetectorError(
            f"the detector's networks on {platform.node()} are not those that the run began with; put the same files on "
            "every node"
        )
