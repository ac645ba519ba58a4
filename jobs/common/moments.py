"""A few faces that stand for a source: spread over shots, people and time, from a store or from a handful of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ops.editing.recipe import EditRecipe
from ops.face.align import ffhq_quad, quad_side_pixels
from ops.face.appearance import appearance_distance, describe
from ops.face.detect import Detector, Face
from ops.face.framing import Framing
from pipeline.engine.stage import Source
from pipeline.steps.plan import SourceCodes
from pipeline.steps.stills import FrameReaders

SMALLEST_SHARE = 0.35
"""Faces whose side is less than this share of the largest one's say little of a model, and are taken last."""
FULL_CONTRAST = 0.12
"""Deviation of the lightness within a face, of 1, from which on it is as well lit as any."""
SAME_LOOKS = 0.05
"""Difference of looks (`appearance_distance`) that counts as much as a quarter of the source's length."""


@dataclass(frozen=True)
class Moment:
    """One face in one frame of a stored source."""

    track: int
    shot: int
    """From 0."""
    pts: int


def stored_moments(codes: SourceCodes, recipe: EditRecipe, count: int) -> list[Moment]:
    """At most `count` faces that a recipe acts on: each shot and track once, the longest first, before any comes again.

    In order of time. Where the recipe acts on nothing, of all faces, so that there is something to look at.
    """
    acting = {track: acting_rows(codes, track, recipe) for track in codes.tracks}
    if not any(len(rows) for rows in acting.values()):
        acting = {track: np.arange(len(codes.pts(track))) for track in codes.tracks}
    tracks = sorted((track for track in codes.tracks if len(acting[track])), key=lambda track: -len(acting[track]))
    if not tracks:
        return []
    shares = [count // len(tracks) + (at < count % len(tracks)) for at in range(len(tracks))]
    found = []
    for track, share in zip(tracks, shares, strict=True):
        pts_N = codes.pts(track)[acting[track]]
        places = ((np.arange(share) + 0.5) * len(pts_N) / max(share, 1)).astype(int)
        for pts in dict.fromkeys(pts_N[places].tolist()):
            shot = sum(first <= pts for first, _ in codes.shots) - 1
            found.append(Moment(track, max(shot, 0), int(pts)))
    return sorted(found, key=lambda one: (one.pts, one.track))


def acting_rows(codes: SourceCodes, track: int, recipe: EditRecipe) -> np.ndarray:
    """The track's frames in which some entry has a weight; a strength that happens to be neutral there counts as acting."""
    return np.flatnonzero((recipe.weights(codes.seconds(track, recipe), track) > 0).any(axis=1))


@dataclass(frozen=True, eq=False)
class SeenFace:
    """One face that was looked for in one frame."""

    ordinal: int
    frame: np.ndarray
    """uint8 [H, W, 3]."""
    landmarks_52: np.ndarray
    quad_42: np.ndarray
    looks: np.ndarray
    """As `appearance.describe` gives them; [1] without a face."""
    side_pixels: float
    quality: float
    """0..1: how much there is to see. Of a face: the detector's score, less where it lies in the dark."""


def looked_for(
    source: Source, readers: FrameReaders, detector: Detector | None, framing: Framing, frames: int
) -> tuple[list[SeenFace], int]:
    """(every face in a handful of frames, how many frames these were), evenly spread, at key frames where there are any.

    A detector is needed by models of aligned faces only.
    """
    seen = []
    ordinals = spread_ordinals(source, frames)
    for ordinal in ordinals:
        frame = readers.frame(source, ordinal)
        if detector is None:
            quad_42 = framing.frame_quad(*frame.shape[:2])
            none_52 = np.zeros((5, 2), np.float32)
            seen.append(SeenFace(ordinal, frame, none_52, quad_42, np.zeros(1), quad_side_pixels(quad_42), 1.0))
            continue
        for face in detector.detect(frame):
            seen.append(seen_face(ordinal, frame, face))
    return seen, len(ordinals)


def seen_face(ordinal: int, frame: np.ndarray, face: Face) -> SeenFace:
    quad_42 = ffhq_quad(face.landmarks_52)
    looks = describe(frame, face.landmarks_52)
    contrast = float(looks[::3].std())  # of lightness: every third number of CIELAB
    quality = face.score * min(1.0, contrast / FULL_CONTRAST)
    return SeenFace(ordinal, frame, face.landmarks_52, quad_42, looks, quad_side_pixels(quad_42), quality)


def spread_ordinals(source: Source, count: int) -> list[int]:
    """At most `count` frames, evenly spread; each at the nearest key frame where one is near, which needs no others decoded."""
    total = source.info.n_frames
    wanted = np.unique(((np.arange(count) + 0.5) * total / count).astype(int))
    keys = np.searchsorted(source.info.pts, source.info.keyframe_pts)
    keys = keys[keys < total]
    if keys.size == 0:
        return [int(at) for at in wanted]
    nearest = keys[np.abs(wanted[:, None] - keys[None, :]).argmin(axis=1)]
    close = np.abs(nearest - wanted) <= total / (2 * count)
    return [int(at) for at in np.unique(np.where(close, nearest, wanted))]


def various(seen: Sequence[SeenFace], total_frames: int, count: int) -> list[SeenFace]:
    """At most `count` faces that differ most in looks and in time: the largest first, then always the one that is furthest from
    all that are taken, and well seen. In order of time."""
    largest = max((one.side_pixels for one in seen), default=0.0)
    candidates = [one for one in seen if one.side_pixels >= SMALLEST_SHARE * largest]
    taken: list[SeenFace] = []

    def apart(one: SeenFace, other: SeenFace) -> float:
        looks = appearance_distance(one.looks, other.looks) / SAME_LOOKS
        return looks + 4 * abs(one.ordinal - other.ordinal) / max(total_frames, 1)

    while candidates and len(taken) < count:
        best = max(
            candidates, key=lambda one: one.quality * min((apart(one, other) for other in taken), default=one.side_pixels)
        )
        if taken and all(apart(best, other) == 0 for other in taken):
            break
        taken.append(best)
        candidates = [one for one in candidates if one is not best]
    return sorted(taken, key=lambda one: (one.ordinal, float(one.quad_42[:, 0].mean())))
