"""Faces per frame => tracks: one identity within one shot, with a smoothed quad for every frame it spans.

Reads the small rows of a whole source (never pixels), so the result does not depend on how the scan was cut
into chunks. Frames meet tracks by the motion they predict and by what a face looks like: the embedding where the
detector gives one, else the colours of `appearance`. The pairs of a frame are chosen together (Hungarian method,
`scipy.optimize.linear_sum_assignment`). Short gaps are interpolated and marked; a cut of the shot ends every
track. Coordinates: see the Convention of `detect` and `align`.

People who meet. A motion says where somebody would be, not that they did not turn back behind somebody else. So a
track that was out of sight takes no face from one that was in sight a frame ago, unless the face looks like it
and not like the other; when one face is left of two and its place speaks for one and its looks for the other, neither
gets it; and when two who were close part again and their looks do not tell who is who, their
tracks end there and new ones begin: an edit that stops is better than one that moves to another person. Where
they are seen whole again soon after, and look like one of the two and not like the other, the ends are joined.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import combinations
from typing import Final

import numpy as np
from scipy.optimize import linear_sum_assignment

from ops.face.align import ffhq_quad
from ops.face.appearance import appearance_distance
from ops.face.boxes import box_overlap
from ops.face.detect import Face
from ops.face.shots import ShotSettings, find_cuts
from ops.face.smooth import QuadSmoothing, smooth_quads

REFUSED: Final = 1e6  # cost of a pair that may not be: more than any sum of allowed ones
UNLIKE_COST: Final = 0.3  # what it costs a thread to take a face that looks like another's, in units of the face's size
HELD_DISTANCE: Final = 0.5  # so near its place by now, in face sizes, a face belongs to the thread that was there a frame ago
JUMP_DISTANCE: Final = 0.1  # in face sizes, from where it must be: the fastest heads that were seen stay within it in a frame
JUMP_UNLIKE: Final = 0.5  # of `max_unlike`: a face changes by a fifth of that from frame to frame
MEETING_DISTANCE: Final = 1.5  # faces whose middles are nearer than this, in face sizes, may hide one another
FIRST_LOOKS: Final = 8  # of a thread that may be another one's end: so many whole faces are asked whom they look like
LOOKS_KEPT: Final = 24  # of a thread: enough to have seen the head turn, few enough to follow the light
VELOCITY_SECONDS: Final = 0.25  # how far back a face's velocity is measured: long enough to average a detector's noise


class TrackError(ValueError):
    """Rows that cannot be tracked. The message says what was expected and what came."""


@dataclass(frozen=True, eq=False)
class FrameFaces:
    """One frame's row of the scan. Frames without a face have one as well."""

    pts: int
    cut_score: float
    """A score of `shots.shot_scores`; 0 for the first frame of a source."""
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
    """Cost of a loss of 1 in cosine, in units of `max_distance`'s distance."""
    looks_ratio: float = 0.75
    """A face looks like one of two people if its difference from that one is at most this share of the other's."""
    max_unlike: float = 0.065
    """A face that differs by more (`appearance_distance`) from a track that was out of sight is not its."""
    max_faces: int | None = None
    """At most so many tracks at any time, the same ones over the whole shot: those that are largest for longest. None: all."""
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
        if not 0 < self.looks_ratio <= 1 or self.max_unlike <= 0 or (self.max_faces is not None and self.max_faces < 1):
            raise TrackError(
                "track: expected looks_ratio in (0, 1], max_unlike > 0 and max_faces >= 1 or none, got "
                f"{self.looks_ratio}, {self.max_unlike} and {self.max_faces}."
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
        crowd = _beyond_limit([t for t in threads if len(t.rows) >= needed], settings.max_faces)
        for thread in threads:
            if len(thread.rows) < needed or thread in crowd:
                reason = f"seen in {len(thread.rows)} frames, fewer than min_track_frames {needed}"
                if thread in crowd:
                    reason = f"there are others that are larger for longer, and max_faces is {settings.max_faces}"
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


def _beyond_limit(threads: Sequence[_Thread], most: int | None) -> list[_Thread]:
    """The threads to leave out so that no frame has more than `most`: whole ones, and the smallest and shortest first."""
    if most is None:
        return []
    crowded: dict[int, int] = {}
    left_out = []
    for thread in sorted(threads, key=lambda t: (-sum(_size(face) ** 2 for face in t.faces), t.rows[0], *_place(t.faces[0]))):
        span = range(thread.rows[0], thread.rows[-1] + 1)
        if any(crowded.get(row, 0) >= most for row in span):
            left_out.append(thread)
        else:
            for row in span:
                crowded[row] = crowded.get(row, 0) + 1
    return left_out


class _Thread:
    """A track while it grows: rows (ordinals within the shot), faces, and what predicts the next one."""

    def __init__(self, row: int, seconds: float, face: Face, alone: bool) -> None:
        self.rows: list[int] = []
        self.times: list[float] = []
        self.faces: list[Face] = []
        self.looks: deque[np.ndarray] = deque(maxlen=LOOKS_KEPT)
        self.first_alone: list[Face] = []
        self._identity: np.ndarray | None = None
        self.add(row, seconds, face, alone)

    def add(self, row: int, seconds: float, face: Face, alone: bool) -> None:
        """`alone`: nobody else's face reaches into this one, so that what is seen there is this person's."""
        self.rows.append(row)
        self.times.append(seconds)
        self.faces.append(face)
        if face.embedding is not None:
            vector = face.embedding.astype(np.float64)
            self._identity = vector if self._identity is None else self._identity + vector
        if face.appearance is not None and (alone or not self.looks):
            self.looks.append(face.appearance)
        if alone and len(self.first_alone) < FIRST_LOOKS:
            self.first_alone.append(face)

    def join(self, later: _Thread) -> None:
        """Go on as a thread that began after this one ended."""
        self.rows += later.rows
        self.times += later.times
        self.faces += later.faces
        self.looks.extend(later.looks)

    def unlike(self, face: Face) -> float | None:
        """How much a face differs from this one as it was last seen; None where there is nothing to compare.

        A loss of cosine where there are embeddings, else the difference of appearance to the nearest of the last looks.
        """
        similarity = self.similarity(face)
        if similarity is not None:
            return 1.0 - similarity
        if face.appearance is None or not self.looks:
            return None
        return min(appearance_distance(face.appearance, look) for look in self.looks)

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
    partings: list[_Parting] = []
    # Where nobody else is ever seen, a jump is hardly somebody else's.
    doubted = settings.max_unlike * (JUMP_UNLIKE if any(len(frame.faces) > 1 for frame in frames) else 1.0)
    for row, (frame, now) in enumerate(zip(frames, seconds, strict=True)):
        # A frame that lasts long is not a gap: only frames without the face are.
        lost = [t for t in open_threads if t.rows[-1] < row - 1 and now - t.times[-1] > settings.max_gap_seconds]
        closed += lost
        open_threads = [t for t in open_threads if t not in lost]
        faces = sorted(frame.faces, key=_place)
        pairs = _paired(open_threads, faces, float(now), row, settings)
        alone = _alone(faces)
        replaced = {i for i, j in pairs.items() if _is_replaced(i, open_threads, faces[j], pairs, float(now), row, doubted)}
        contested = {i for i, j in pairs.items() if _is_contested(i, open_threads, faces[j], pairs, float(now), row, settings)}
        ended = replaced | contested | _in_doubt(open_threads, faces, pairs, row, settings)
        closed += [t for i, t in enumerate(open_threads) if i in ended]
        for i, j in pairs.items():
            if i not in ended:
                open_threads[i].add(row, float(now), faces[j], alone[j])
        taken = {j for i, j in pairs.items() if i not in ended}
        begun = {j: _Thread(row, float(now), face, alone[j]) for j, face in enumerate(faces) if j not in taken}
        for most, parted in ((settings.max_unlike, sorted(ended - replaced)), (doubted, sorted(replaced))):
            if parted:
                partings.append(_Parting([open_threads[i] for i in parted], [begun[pairs[i]] for i in parted], most))
        open_threads = [t for i, t in enumerate(open_threads) if i not in ended] + list(begun.values())
    return _rejoined(closed + open_threads, partings, settings)


@dataclass(frozen=True, eq=False)
class _Parting:
    """Threads that ended in doubt, those that began in their places, and how much a later face may differ to be the same."""

    ended: list[_Thread]
    begun: list[_Thread]
    max_unlike: float


def _rejoined(threads: list[_Thread], partings: Sequence[_Parting], settings: TrackSettings) -> list[_Thread]:
    """Threads that ended in doubt go on as the one that began there and, once seen whole, looks like them and nobody else."""
    gone: dict[int, _Thread] = {}  # by identity: a thread that was joined => the one that it is part of now
    for parting in partings:
        limits = replace(settings, max_unlike=parting.max_unlike)
        for later in parting.begun:
            others = [t for t in threads if t is not later]
            fitting = [one for one in parting.ended if _is_end_of(one, later, others, limits)]
            if len(fitting) == 1 and id(fitting[0]) not in gone and fitting[0].rows[-1] < later.rows[0]:
                fitting[0].join(later)
                gone[id(later)] = fitting[0]
    return [thread for thread in threads if id(thread) not in gone]


def _is_end_of(earlier: _Thread, later: _Thread, threads: Sequence[_Thread], settings: TrackSettings) -> bool:
    """Return whether most of the first whole faces of a thread look like an earlier one and not like any that it had met."""
    rivals = [t for t in threads if t is not earlier and _met(earlier, t)]
    if len(later.first_alone) < FIRST_LOOKS // 2:
        return False
    alike = 0
    for face in later.first_alone:
        unlike = earlier.unlike(face)
        if unlike is None or (face.embedding is None and unlike > settings.max_unlike):
            continue
        alike += all(_looks_like(earlier, rival, face, settings) is earlier for rival in rivals)
    return 2 * alike > len(later.first_alone)


def _paired(threads: Sequence[_Thread], faces: Sequence[Face], now: float, row: int, settings: TrackSettings) -> dict[int, int]:
    """Which thread each face continues: places in `threads` => places in `faces`."""
    if not threads or not faces:
        return {}
    cost = np.array([[_cost(t, f, now, row, settings) for f in faces] for t in threads])
    in_sight = [t.rows[-1] == row - 1 for t in threads]
    for j, face in enumerate(faces):
        rivals = [i for i in range(len(threads)) if cost[i, j] < REFUSED]
        for a, b in combinations(rivals, 2):
            like = _looks_like(threads[a], threads[b], face, settings)
            if in_sight[a] and in_sight[b]:
                if like is not None:  # both were there a frame ago: where they were says more than how they look
                    cost[b if like is threads[a] else a, j] += UNLIKE_COST
            elif in_sight[a] != in_sight[b]:
                hidden, seen = (b, a) if in_sight[a] else (a, b)
                if like is threads[hidden]:
                    cost[seen, j] = REFUSED
                elif _holds(threads[seen], face, now):
                    cost[hidden, j] = REFUSED
    return {int(i): int(j) for i, j in zip(*linear_sum_assignment(cost), strict=True) if cost[i, j] < REFUSED}


def _holds(thread: _Thread, face: Face, now: float) -> bool:
    """Return whether a face is where a thread that was just in sight must be by now."""
    return _jump(thread, face, now) < HELD_DISTANCE


def _looks_like(one: _Thread, other: _Thread, face: Face, settings: TrackSettings) -> _Thread | None:
    """Which of two threads a face looks like; None where that does not tell them apart."""
    a, b = one.unlike(face), other.unlike(face)
    if a is None or b is None:
        return None
    if a < settings.looks_ratio * b:
        return one
    return other if b < settings.looks_ratio * a else None


def _in_doubt(
    threads: Sequence[_Thread], faces: Sequence[Face], pairs: dict[int, int], row: int, settings: TrackSettings
) -> set[int]:
    """Places of the threads that end here, because nothing says that they are still the same person's."""
    ended: set[int] = set()
    for i, j in pairs.items():
        thread = threads[i]
        if thread.rows[-1] == row - 1:
            continue
        unlike = thread.unlike(faces[j])
        if faces[j].embedding is None and unlike is not None and unlike > settings.max_unlike:
            ended.add(i)  # somebody else came out where this one went in
        for k, other in enumerate(threads):
            if k == i or unlike is None or not _met(thread, other):
                continue  # with nothing to compare, motion is all there is
            mine = _looks_like(thread, other, faces[j], settings)
            if mine is not thread:
                ended.add(i)
            theirs = pairs.get(k)
            if theirs is not None and _looks_like(thread, other, faces[theirs], settings) is not other:
                ended.add(k)
    return ended


def _is_replaced(
    place: int, threads: Sequence[_Thread], face: Face, pairs: dict[int, int], now: float, row: int, max_unlike: float
) -> bool:
    """Return whether a face that was in sight a frame ago is elsewhere and looks other at once: somebody has come in its place.

    A head that moves fast looks like itself, and light that changes moves nobody. Where somebody else is near, half a face that
    comes out from behind may jump and look other, too: that is for `_in_doubt`. Not so where the one who is near was in sight a
    frame ago and got no face: this one may be theirs.
    """
    thread = threads[place]
    if thread.rows[-1] < row - 1 or face.embedding is not None or face.appearance is None or not thread.looks:
        return False
    jump = _jump(thread, face, now)
    if jump <= JUMP_DISTANCE or min(appearance_distance(face.appearance, look) for look in thread.looks) <= max_unlike:
        return False
    reach = MEETING_DISTANCE * _size(face)
    middle = face.landmarks_52.mean(0)
    others = [t for k, t in enumerate(threads) if k != place and (k in pairs or t.rows[-1] < row - 1)]
    return all(float(np.linalg.norm(t.predict(now).mean(0) - middle)) > reach for t in others)


def _is_contested(
    place: int, threads: Sequence[_Thread], face: Face, pairs: dict[int, int], now: float, row: int, settings: TrackSettings
) -> bool:
    """Whether one face is left of two that were in sight a frame ago, and stands nearer to where the one must be that got none.

    Looks gave it to this thread, against its place, and those of half a face that comes before another are nobody's.
    """
    thread = threads[place]
    if thread.rows[-1] < row - 1 or face.embedding is not None:
        return False
    rivals = [t for k, t in enumerate(threads) if k not in pairs and t.rows[-1] == row - 1]
    mine = _cost(thread, face, now, row, settings)
    return any(_cost(rival, face, now, row, settings) < mine for rival in rivals)


def _jump(thread: _Thread, face: Face, now: float) -> float:
    """How far a face is from where a thread must be by now, in face sizes."""
    return float(np.linalg.norm(thread.predict(now) - face.landmarks_52, axis=1).mean()) / _size(face)


def _met(hidden: _Thread, other: _Thread) -> bool:
    """Return whether another face was near when this one was last in sight, and could have hidden it."""
    row = hidden.rows[-1]
    at = bisect_left(other.rows, row)
    if at == len(other.rows):
        return False
    face, beside = hidden.faces[-1], other.faces[at]
    apart = float(np.linalg.norm(face.landmarks_52.mean(0) - beside.landmarks_52.mean(0)))
    return apart < MEETING_DISTANCE * max(_size(face), _size(beside))


def _alone(faces: Sequence[Face]) -> list[bool]:
    """For each face whether no other one of its frame reaches into it."""
    if not faces:
        return []
    boxes = np.stack([face.box_xyxy for face in faces])
    shared = box_overlap(boxes, boxes)
    np.fill_diagonal(shared, 0.0)
    return [not row.any() for row in shared]


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
        if len(rows) == len(seen):  # without a gap nothing is between
            return values.astype(np.float64)
        flat = values.reshape(len(seen), -1).astype(np.float64)
        columns = [np.interp(at, known, column) for column in flat.T]
        return np.stack(columns, axis=1).reshape(len(rows), *values.shape[1:])

    interpolated = np.zeros(len(rows), bool) if len(rows) == len(seen) else ~np.isin(rows, seen)
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
