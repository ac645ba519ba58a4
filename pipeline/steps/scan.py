"""scan: frames => `frames` and `faces`. One item is a chunk of a source; nothing is known of tracks yet.

A model whose crop needs no face needs no detector either: then only the shots' scores are measured.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

import numpy as np

from ops.device import Device
from ops.face.appearance import describe
from ops.face.detect import Detector, DetectorError, DetectorFactory, DetectorSettings, Face
from ops.face.framing import Crop
from ops.face.shots import shot_scores
from ops.video.decode import Backend
from pipeline.engine.stage import Chunk, Result, Step
from pipeline.engine.timer import Timer
from pipeline.sources.readers import Readers
from pipeline.store.columns import faces_table, frames_table
from pipeline.store.deleted import Deleted, deleted_of
from pipeline.store.tables import Store, range_part


@final
@dataclass(frozen=True)
class Scan(Step):
    VERSION: ClassVar[int] = 3  # 2: rows say what a face looks like. 3: pictures of 16 bits are read right.

    store: str
    detector: DetectorFactory = field(default_factory=DetectorSettings)
    backend: Backend = "auto"
    device: Device = "auto"
    crop: Crop = "ffhq"
    decided_by: Mapping[str, Any] | None = None
    """`DetectorFactory.decides` as the driver found it, to compare with what is on this node; None: nobody asks."""

    def open(self) -> Callable[[Chunk], Result]:
        store, readers = Store.open(self.store), Readers(self.backend)
        detector: Detector | None = None
        devices: tuple[str, ...] = ()
        if self.crop == "ffhq":
            if self.decided_by is not None:
                require_same_detector(self.detector, self.decided_by)
            detector = self.detector.build(self.device)
            devices = (detector.device_kind,)

        deleted: dict[tuple[str, str], Deleted] = {}
        """Of the source that came last."""

        def scan(chunk: Chunk) -> Result:
            timer = Timer()
            of = (chunk.source.source_id, chunk.key)
            if not chunk.key or of not in deleted:  # without a key nobody vouches that it stays as it is
                deleted.clear()
                deleted[of] = deleted_of(store, chunk.source.source_id)
            gone = deleted[of]
            pts: list[int] = []
            found: list[list[Face]] = []

            def seen(frames: Iterator[tuple[int, np.ndarray]]) -> Iterator[np.ndarray]:
                for at, frame in frames:
                    pts.append(at)
                    with timer("detect"):
                        faces = [] if detector is None else detector.detect(frame)
                        left = [face for face in faces if not gone.covers(at, face.box_xyxy)]
                        found.append([replace(face, appearance=describe(frame, face.landmarks_52)) for face in left])
                    yield frame

            # A cut is a change against the frame before, so a chunk looks at the last frame of the one before it.
            lead = min(chunk.start, 1)
            frames = timer.timed("decode", readers.read(chunk.source, chunk.start - lead, chunk.stop))
            previous = next(frames)[1] if lead else None
            scores = shot_scores(seen(frames), previous)
            source_id, part = chunk.source.source_id, range_part(chunk.start, chunk.stop)
            with timer("store"):
                if chunk.start == 0:
                    scores[0] = float("nan")  # no predecessor: null
                counts = np.array([len(faces) for faces in found])
                rows = frames_table(source_id, np.array(pts), np.array(scores), counts)
                files = [store.write_part("frames", source_id, part, rows)]
                faces = [(at, index, face) for at, faces in zip(pts, found, strict=True) for index, face in enumerate(faces)]
                if faces:
                    rows = faces_table(
                        source_id,
                        np.array([at for at, _, _ in faces]),
                        np.array([index for _, index, _ in faces]),
                        np.stack([face.box_xyxy for _, _, face in faces]),
                        np.stack([face.landmarks_52 for _, _, face in faces]),
                        np.array([face.score for _, _, face in faces]),
                        [face.embedding for _, _, face in faces],
                        [face.appearance for _, _, face in faces],
                    )
                    files.append(store.write_part("faces", source_id, part, rows))
            return Result({"frames": len(pts), "detections": len(faces)}, timer.seconds, files=tuple(files), devices=devices)

        return scan


def require_same_detector(detector: DetectorFactory, decided_by: Mapping[str, Any]) -> None:
    """Raise DetectorError where what is on this node is not what the driver found (`DetectorFactory.decides`)."""
    if dict(decided_by) != detector.decides():
        raise DetectorError(
            f"the detector's networks on {platform.node()} are not those that the run began with; put the same files on "
            "every node"
        )
