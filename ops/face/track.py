"""Faces per frame => tracks: one identity within one shot, with a smoothed quad for every frame it spans.

Reads the small rows of a whole source (never pixels), so the result does not depend on how the scan was cut
into chunks. Frames meet tracks by the motion they predict and, where the detector gives embeddings, by who it
is; the pairs of a frame are chosen together (Hungarian method, `scipy.optimize.linear_sum_assignment`). Short
gaps are interpolated and marked; a cut of the shot ends every track. Coordinates: see the Convention of
`detect` and `align`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

import numpy as np
from scipy.optimize import linear_sum_assignment

from ops.face.align import ffhq_quad
from ops.face.boxes import box_overlap
from ops.face.detect import Face
from ops.face.shots import ShotSettings, find_cuts
from ops.face.smooth import QuadSmoothing, smooth_quads

REFUSED: Final = 1e6  # cost of a pair that may not be: more than any sum of allowed ones
VELOCITY_SECONDS: Final = 0.25  # how far back a face's velocity is measured: long enough to average a detector's noise


class TrackError(ValueError):
    """Rows that cannot be tracked. The message says what was expected and what came."""


@dataclass(frozen=True, eq=False)
class FrameFaces:
    """What the scan knows of one frame. Frames without a face have a row as well."""

    pts: int
    cut_score: float
    """Of `shots.shot_scores`; 0 for the first frame of a source."""
    faces: Sequence[Face]


@dataclass(frozen=True)
class TrackSettings:
    """When two detections are one face, and what becomes of gaps and of short tracks."""

    max_gap_seconds: float = 0.5
    """A face unseen for longer starts a new track when it comes back; within it, the gap is interpolated."""
    min_track_frames: int = 5
    """Tracks detected in fewer frames are dropped (and reported), unless their shot has fewer frames."""
    max_distance: float = 0.6
    """Mean distance of a face's landmarks from where the track predicts them, in units of the face's size."""
    distance_per_second: float = 1.0
    """How much further off a face may be for each second that it was not seen."""
    max_size_ratio: float = 1.8
    """From one detection to the next a face may not grow or shrink by more than this."""
    min_similarity: float = 0.1
    """Cosine of embeddings below which two faces are different people. Used only where both have one."""
    similarity_weight: float = 1.0
    """What a loss of 1 in cosine costs, in units of `max_distance`'s distance."""
    shots: ShotSettings = field(default_factory=ShotSettings)
    smoothing: QuadSmoothing = field(default_factory=QuadSmoothing)

    def __post_init__(self) -> None:
        if self.max_gap_seconds < 0 or self.min_track_frames < 1:
            raise TrackError(
                "track: expected max_gap_seconds >= 0 and min_track_frames >= 1, got "
                f"{self.max_gap_seconds} and {self.min_track_frames}."
            )
        if self.max_distance <= 0 or self.distance_per_second < 0 or self.max_size_ratio <= 1:
            raise TrackError(
                "track: expected max_distance > 0, distance_per_second >= 0 and max_size_ratio > 1, got "
                f"{self.max_distance}, {self.distance_per_second} and {self.max_size_ratio}."
            )
        if not -1.0 <= self.min_similarity <= 1.0 or self.similarity_weight < 0:
            raise TrackError(
                "track: expected min_similarity between -1 and 1 and similarity_weight >= 0, got "
                f"{self.min_similarity} and {self.similarity_weight}."
            )


@dataclass(frozen=True, eq=False)
class Track:
    """One identity within one shot. n rows, one for every frame from the first detection to the last."""

    track_id: int
    shot: int
    pts: np.ndarray
    """int64 [n], strictly increasing."""
    boxes: np.ndarray
    """float32 [n, 4]: x0, y0, x1, y1."""
    landmarks: np.ndarray
    """float64 [n, 5, 2], as detected (linear in time where interpolated), not smoothed."""
    quads: np.ndarray
    """float64 [n, 4, 2], smoothed over time."""
    interpolated: np.ndarray
    """bool [n]: no detection in this frame."""
    scores: np.ndarray
    """float32 [n]; NaN where interpolated."""


@dataclass(frozen=True)
class Shot:
    """A run of frames between two cuts."""

    first_pts: int
    last_pts: int
    n_frames: int


@dataclass(frozen=True)
class DroppedTrack:
    """A track that was not kept, with the reason: a lost item is a row."""

    shot: int
    first_pts: int
    last_pts: int
    n_frames: int
    """Frames with a detection."""
    best_score: float
    reason: str


@dataclass(frozen=True, eq=False)
class TrackResult:
    """`track_id` is a track's place in `tracks`, `shot` a shot's place in `shots`."""

    tracks: list[Track]
    shots: list[Shot]
    dropped: list[DroppedTrack]


def track_faces(frames: Sequence[FrameFaces], time_base: Fraction, settings: TrackSettings | None = None) -> TrackResult:
    """All rows of one source, in display order => its tracks, shots and dropped tracks.

    `time_base` is the seconds of one unit of pts. Tracks are numbered by their first pts, then from left to
    right. The same rows give the same result, whatever the order of faces within a frame. Raises TrackError
    when pts do not increase.
    """
    settings = settings or TrackSettings()
    pts = np.array([frame.pts for frame in frames], np.int64)
    if (np.diff(pts) <= 0).any():
        at = int(np.flatnonzero(np.diff(pts) <= 0)[0])
        raise TrackError(f"track_faces: expected strictly increasing pts, got {pts[at]} then {pts[at + 1]}; sort by pts.")
    if len(frames) == 0:
        return TrackResult([], [], [])
    # From the first frame on: where a source's clock starts must not change a digit of the result.
    seconds = (pts - pts[0]).astype(np.float64) * float(time_base)
    starts = [0, *find_cuts([frame.cut_score for frame in frames], settings.shots)]
    shots: list[Shot] = []
    tracks: list[Track] = []
    dropped: list[DroppedTrack] = []
    for shot, (first, stop) in enumerate(zip(starts, [*starts[1:], len(frames)], strict=True)):
        shots.append(Shot(int(pts[first]), int(pts[stop - 1]), stop - first))
        needed = min(settings.min_track_frames, stop - first)
        threads = _link(frames[first:stop], seconds[first:stop], settings)
        threads.sort(key=lambda thread: (thread.rows[0], *_place(thread.faces[0])))
        for thread in threads:
            if len(thread.rows) < needed:
                reason = f"seen in {len(thread.rows)} frames, fewer than min_track_frames {needed}"
                dropped.append(
                    DroppedTrack(
                        shot,
                        int(pts[first + thread.rows[0]]),
                        int(pts[first + thread.rows[-1]]),
                        len(thread.rows),
                        max(face.score for face in thread.faces),
                        reason,
                    )
                )
                continue
            tracks.append(_finish(thread, len(tracks), shot, pts[first:stop], seconds[first:stop], settings))
    return TrackResult(tracks, shots, dropped)


def track_whole_frames(frames: Sequence[FrameFaces], quad_42: np.ndarray, settings: TrackSettings | None = None) -> TrackResult:
    """All rows of one source => one track per shot, over all of its frames, with the same quad everywhere.

    For models whose crop needs no face. There are no landmarks (NaN) and no scores (NaN); nothing is interpolated or dropped.
    """
    settings = settings or TrackSettings()
    if not frames:
        return TrackResult([], [], [])
    pts = np.array([frame.pts for frame in frames], np.int64)
    starts = [0, *find_cuts([frame.cut_score for frame in frames], settings.shots)]
    box = np.concatenate([quad_42.min(0), quad_42.max(0)]).astype(np.float32)
    tracks, shots = [], []
    for shot, (first, stop) in enumerate(zip(starts, [*starts[1:], len(frames)], strict=True)):
        count = stop - first
        shots.append(Shot(int(pts[first]), int(pts[stop - 1]), count))
        tracks.append(
            Track(
                track_id=shot,
                shot=shot,
                pts=pts[first:stop],
                boxes=np.tile(box, (count, 1)),
                landmarks=np.full((count, 5, 2), np.nan),
                quads=np.tile(np.asarray(quad_42, np.float64), (count, 1, 1)),
                interpolated=np.zeros(count, bool),
                scores=np.full(count, np.nan, np.float32),
            )
        )
    return TrackResult(tracks, shots, [])


class _Thread:
    """A track while it grows: rows (ordinals within the shot), faces, and what predicts the next one."""

    def __init__(self, row: int, seconds: float, face: Face) -> None:
        self.rows: list[int] = []
        self.times: list[float] = []
        self.faces: list[Face] = []
        self._identity: np.ndarray | None = None
        self.add(row, seconds, face)

    def add(self, row: int, seconds: float, face: Face) -> None:
        self.rows.append(row)
        self.times.append(seconds)
        self.faces.append(face)
        if face.embedding is not None:
            vector = face.embedding.astype(np.float64)
            self._identity = vector if self._identity is None else self._identity + vector

    def predict(self, seconds: float) -> np.ndarray:
        """Landmarks at a time, float64 [5, 2]: the last ones, moved on with their latest velocity."""
        last = self.faces[-1].landmarks_52.astype(np.float64)
        since = bisect_left(self.times, self.times[-1] - VELOCITY_SECONDS)
        if len(self.times) - since < 2:
            return last
        times = np.array(self.times[since:])
        centres = np.array([face.landmarks_52.mean(0) for face in self.faces[since:]], np.float64)
        times, centres = times - times.mean(), centres - centres.mean(0)
        velocity = (times @ centres) / (times @ times)
        return last + velocity * (seconds - self.times[-1])

    def similarity(self, face: Face) -> float | None:
        """Best cosine of the face with the track's mean and with its last sight; None without embeddings.

        The mean says who it is; the last sight knows how the head is turned right now.
        """
        if face.embedding is None or self._identity is None:
            return None
        vector = face.embedding.astype(np.float64)
        known = [self._identity / max(float(np.linalg.norm(self._identity)), 1e-12)]
        last = self.faces[-1].embedding
        if last is not None:
            known.append(last.astype(np.float64))
        return max(float(k @ vector) for k in known)


def _link(frames: Sequence[FrameFaces], seconds: np.ndarray, settings: TrackSettings) -> list[_Thread]:
    """Faces of one shot => threads of the same face."""
    open_threads: list[_Thread] = []
    closed: list[_Thread] = []
    for row, (frame, now) in enumerate(zip(frames, seconds, strict=True)):
        # A frame that lasts long is not a gap: only frames without the face are.
        lost = [t for t in open_threads if t.rows[-1] < row - 1 and now - t.times[-1] > settings.max_gap_seconds]
        closed += lost
        open_threads = [t for t in open_threads if t not in lost]
        faces = sorted(frame.faces, key=_place)
        taken: set[int] = set()
        if faces and open_threads:
            cost = np.array([[_cost(t, f, now, row, settings) for f in faces] for t in open_threads])
            for i, j in zip(*linear_sum_assignment(cost), strict=True):
                if cost[i, j] < REFUSED:
                    open_threads[i].add(row, float(now), faces[j])
                    taken.add(int(j))
        open_threads += [_Thread(row, float(now), face) for j, face in enumerate(faces) if j not in taken]
    return closed + open_threads


def _cost(thread: _Thread, face: Face, now: float, row: int, settings: TrackSettings) -> float:
    """How badly a face fits a thread; REFUSED when it cannot be the same."""
    before = thread.faces[-1]
    size_before, size = _size(before), _size(face)
    unseen_seconds = now - thread.times[-1] if thread.rows[-1] < row - 1 else 0.0
    distance = float(np.linalg.norm(thread.predict(now) - face.landmarks_52, axis=1).mean()) / math.sqrt(size_before * size)
    growth = abs(math.log(size / size_before))
    allowed = settings.max_distance + settings.distance_per_second * unseen_seconds
    # At a low frame rate a prediction can be far off while the boxes still lie on each other.
    overlaps = float(box_overlap(before.box_xyxy[None], face.box_xyxy[None])[0, 0]) > 0.3
    if growth > math.log(settings.max_size_ratio) or (distance > allowed and not overlaps):
        return REFUSED
    cost = distance + 0.5 * growth + 0.2 * unseen_seconds
    similarity = thread.similarity(face)
    if similarity is None:
        return cost
    if similarity < settings.min_similarity:
        return REFUSED
    return cost + settings.similarity_weight * (1.0 - similarity)


def _finish(thread: _Thread, track_id: int, shot: int, pts: np.ndarray, seconds: np.ndarray, settings: TrackSettings) -> Track:
    """Fill the gaps, cut the quads, smooth them."""
    seen = np.array(thread.rows)
    rows = np.arange(seen[0], seen[-1] + 1)
    at, known = seconds[rows], seconds[seen]

    def filled(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(len(seen), -1).astype(np.float64)
        columns = [np.interp(at, known, column) for column in flat.T]
        return np.stack(columns, axis=1).reshape(len(rows), *values.shape[1:])

    interpolated = ~np.isin(rows, seen)
    scores = np.full(len(rows), np.nan, np.float32)
    scores[~interpolated] = [face.score for face in thread.faces]
    landmarks = filled(np.stack([face.landmarks_52 for face in thread.faces]))
    quads = np.stack([ffhq_quad(points) for points in landmarks])
    return Track(
        track_id=track_id,
        shot=shot,
        pts=pts[rows],
        boxes=filled(np.stack([face.box_xyxy for face in thread.faces])).astype(np.float32),
        landmarks=landmarks,
        quads=smooth_quads(quads, at, settings.smoothing, (~interpolated).astype(np.float64)),
        interpolated=interpolated,
        scores=scores,
    )


def _size(face: Face) -> float:
    """Side of a square with the box's area."""
    width, height = face.box_xyxy[2:] - face.box_xyxy[:2]
    return math.sqrt(max(float(width) * float(height), 1e-6))


def _place(face: Face) -> tuple[float, float, float]:
    """Left to right, then top to bottom; the score only to tell twins apart."""
    x0, y0, x1, y1 = (float(v) for v in face.box_xyxy)
    return ((x0 + x1) / 2, (y0 + y1) / 2, -face.score)
