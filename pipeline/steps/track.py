"""track: `faces` of a whole source => `tracks`, and failures of what is left without one.

One item is a source, of which only small rows are read. A model whose crop needs no face gets one track per shot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, final

import numpy as np
import pyarrow as pa

from ops.face.detect import Face
from ops.face.framing import Framing
from ops.face.track import FrameFaces, TrackResult, TrackSettings, track_faces, track_whole_frames
from pipeline.engine.stage import Chunk, Result, Source, Step
from pipeline.engine.timer import Timer
from pipeline.store.columns import array_from_column, tracks_table
from pipeline.store.deleted import Deleted, deleted_of
from pipeline.store.tables import Store, Written, range_part
from schemas import Failure


@final
@dataclass(frozen=True)
class TrackFaces(Step):
    VERSION: ClassVar[int] = 4  # 3: a jump to other looks ends a track. 4: so does a face for which place and looks disagree.

    store: str
    settings: TrackSettings = field(default_factory=TrackSettings)
    framing: Framing | None = None
    """The model's framing; None for aligned faces."""

    def open(self) -> Callable[[Chunk], Result]:
        store = Store.open(self.store)

        def track(chunk: Chunk) -> Result:
            timer, source = Timer(), chunk.source
            with timer("track"):
                frames = scanned_frames(store, source)
                if self.framing is None or self.framing.crop == "ffhq":
                    tracked = track_faces(frames, source.info.time_base, self.settings)
                else:
                    quad_42 = self.framing.frame_quad(source.info.height, source.info.width)
                    tracked = track_whole_frames(frames, quad_42, self.settings)
                tracked = left_of(tracked, deleted_of(store, source.source_id))
            files: list[Written] = []
            with timer("store"):
                if tracked.tracks:
                    rows = pa.concat_tables(
                        tracks_table(
                            source.source_id,
                            one.track_id,
                            one.pts,
                            one.shot,
                            one.boxes,
                            one.landmarks,
                            one.quads,
                            one.interpolated,
                            one.scores,
                        )
                        for one in tracked.tracks
                    )
                    files.append(store.write_part("tracks", source.source_id, range_part(chunk.start, chunk.stop), rows))
                failures = tuple(left_out(source, frames, tracked))
            faces = sum(len(one.pts) for one in tracked.tracks)
            return Result({"tracks": len(tracked.tracks), "faces": faces}, timer.seconds, failures, tuple(files))

        return track


def left_of(tracked: TrackResult, gone: Deleted) -> TrackResult:
    """Return the tracks without those that the user has deleted, under the numbers that they had then.

    Detections of deleted faces are gone already; tracks of whole frames need none, and are found again.
    """
    if not gone.tracks:
        return tracked
    deleted = [all(gone.covers(int(pts), box) for pts, box in zip(one.pts, one.boxes, strict=True)) for one in tracked.tracks]
    if any(deleted):
        return replace(tracked, tracks=[one for one, is_gone in zip(tracked.tracks, deleted, strict=True) if not is_gone])
    numbers = gone.numbers(len(tracked.tracks))
    return replace(tracked, tracks=[replace(one, track_id=n) for one, n in zip(tracked.tracks, numbers, strict=True)])


def scanned_frames(store: Store, source: Source) -> list[FrameFaces]:
    """Return the rows of `frames` and `faces` as the tracker takes them, in display order."""
    faces = store.read("faces", source.source_id)
    boxes, landmarks = array_from_column(faces, "box"), array_from_column(faces, "landmarks")
    by_pts: dict[int, list[Face]] = {}
    columns = [faces[name].to_pylist() for name in ("pts", "score", "embedding", "appearance")]
    for row, (pts, score, embedding, appearance) in enumerate(zip(*columns, strict=True)):
        vector = None if embedding is None else np.asarray(embedding, np.float32)
        looks = None if appearance is None else np.asarray(appearance, np.float32)
        by_pts.setdefault(pts, []).append(Face(boxes[row], landmarks[row], score, vector, looks))
    frames = store.read("frames", source.source_id)
    return [
        FrameFaces(pts, cut_score or 0.0, by_pts.get(pts, []))
        for pts, cut_score in zip(frames["pts"].to_pylist(), frames["cut_score"].to_pylist(), strict=True)
    ]


def left_out(source: Source, frames: list[FrameFaces], tracked: TrackResult) -> list[Failure]:
    """Return a row for every dropped track, and one for every run of frames that no track covers."""
    rows = [
        Failure(
            source.source_id,
            source.uri,
            "track",
            "track_dropped",
            f"{one.reason} ({one.n_frames} detections, best score {one.best_score:.2f})",
            pts=one.first_pts,
            last_pts=one.last_pts,
        )
        for one in tracked.dropped
    ]
    covered = {int(pts) for one in tracked.tracks for pts in one.pts}
    run: list[int] = []
    for frame in [*frames, None]:
        if frame is not None and frame.pts not in covered:
            run.append(frame.pts)
        elif run:
            message = f"no face to edit in {len(run)} frames; their pixels pass through"
            rows.append(Failure(source.source_id, source.uri, "track", "no_face", message, pts=run[0], last_pts=run[-1]))
            run = []
    return rows
