"""An edited video against its source: flicker, drift, jitter, seams, and what changed outside the mask; per track.

Frames come in pairs, one after the other; at most two pairs are held at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, final

import numpy as np

from ops.face.mask import MaskSettings
from ops.metrics.identity import IdentityNetwork, identity_crop
from ops.metrics.metric import Measurement, Metric, mean_of
from ops.metrics.pictures import identity_metric
from ops.metrics.regions import frame_mask
from ops.metrics.similarity import decibels, squared_error
from ops.metrics.temporal import (
    SeamEnergy,
    flicker,
    identity_drift,
    layer_of,
    motion_between,
    quad_jitter,
    residue,
    seam_energy,
)

FLICKER: Final = Metric("flicker of the edit", "lower", "levels")
RESIDUE: Final = Metric("flicker after motion", "lower", "levels")
EDIT_SIZE: Final = Metric("size of the edit", "neither", "levels")
SEAM: Final = Metric("seam energy", "lower", "border / inside")
SEAM_SLOPE: Final = Metric("slope across the seam", "lower", "levels per pixel")
PSNR_OUTSIDE: Final = Metric("PSNR outside the mask", "higher", "dB")
SLOPE_INSIDE: Final = Metric("slope inside the mask", "neither", "levels per pixel")
JITTER_PIXELS: Final = Metric("quad jitter, shift", "lower", "source pixels")
JITTER_SHARE: Final = Metric("quad jitter, shift of face", "lower", "share of the quad's side")
JITTER_SCALE: Final = Metric("quad jitter, size", "lower", "logarithm")
JITTER_TURN: Final = Metric("quad jitter, turn", "lower", "degrees")
WHOLE: Final = "video"
"""The subject of numbers over all tracks, and of a video's only track."""
EMBED_AT_ONCE: Final = 64


@dataclass(frozen=True, eq=False)
class TrackRows:
    """The place of one face of the source, frame by frame."""

    track_id: int
    pts: np.ndarray
    """int64 [n], strictly increasing."""
    quads: np.ndarray
    """float64 [n, 4, 2]."""
    landmarks: np.ndarray
    """float64 [n, 5, 2]."""


@final
@dataclass(eq=False)
class _Scores:
    """Sums over the frames of one track so far."""

    flicker: list[float] = field(default_factory=list)
    residue: list[float] = field(default_factory=list)
    layer: list[float] = field(default_factory=list)
    border: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    waiting: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    embedded: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    """(edited, source) embeddings, in pieces."""


def measure_video(
    pairs: Iterable[tuple[int, np.ndarray, np.ndarray]],
    tracks: Sequence[TrackRows],
    time_base: Fraction,
    mask: MaskSettings,
    identity: IdentityNetwork | None = None,
) -> list[Measurement]:
    """pairs of (pts, source frame, edited frame) uint8 [H, W, 3] in display order => a measurement of each track and of all.

    A measure that a track is too short for, or that needs a recogniser and has none, is left out. Raises MetricError for frames
    of two sizes.
    """
    rows = {(track.track_id, int(pts)): row for track in tracks for row, pts in enumerate(track.pts)}
    scores = {track.track_id: _Scores() for track in tracks}
    outside_error, outside_pixels, frame_count = 0.0, 0, 0
    before: tuple[int, np.ndarray, np.ndarray] | None = None
    for pts, source, edited in pairs:
        layer = layer_of(edited, source)
        untouched = np.ones(source.shape[:2], bool)
        motion = None
        for track in tracks:
            row = rows.get((track.track_id, pts))
            if row is None:
                continue
            weight = frame_mask(source.shape, track.quads[row], track.landmarks[row], mask)
            untouched &= weight == 0
            if weight.max() <= 0:
                continue  # the face has left the picture
            score = scores[track.track_id]
            score.layer.append(float(np.average(np.abs(layer).mean(axis=-1), weights=weight)))
            window = _window(weight)
            energy = seam_energy(layer[window], weight[window])
            score.border.append(energy.border)
            score.inside.append(energy.inside)
            if before is not None and (track.track_id, before[0]) in rows:
                score.flicker.append(flicker(layer[window], before[2][window], weight[window]))
                motion = motion or motion_between(source, before[1])
                score.residue.append(residue(layer, before[2], motion, weight))
            if identity is not None:
                landmarks = track.landmarks[row]
                score.waiting.append((identity_crop(edited, landmarks), identity_crop(source, landmarks)))
                if len(score.waiting) == EMBED_AT_ONCE:
                    _embed(score, identity)
        error = squared_error(edited, source)
        outside_error += float(error[untouched].sum())
        outside_pixels += int(untouched.sum())
        frame_count += 1
        before = (pts, source, layer)
    if identity is not None:
        for score in scores.values():
            _embed(score, identity)
    measured = _of_tracks(tracks, scores, time_base, identity)
    if outside_pixels:
        measured.append(Measurement(PSNR_OUTSIDE, WHOLE, decibels(outside_error / outside_pixels), frame_count))
    return measured


def _of_tracks(
    tracks: Sequence[TrackRows], scores: dict[int, _Scores], time_base: Fraction, identity: IdentityNetwork | None
) -> list[Measurement]:
    measured: list[Measurement] = []
    for track in tracks:
        subject = WHOLE if len(tracks) == 1 else f"track {track.track_id}"
        measured += _of_track(subject, track, scores[track.track_id], time_base, identity)
    if len(tracks) > 1:
        measured += _over_all(measured)
    return measured


def _of_track(
    subject: str, track: TrackRows, score: _Scores, time_base: Fraction, identity: IdentityNetwork | None
) -> list[Measurement]:
    measured = []
    if score.flicker:
        measured.append(mean_of(FLICKER, subject, score.flicker))
        measured.append(mean_of(RESIDUE, subject, score.residue))
    if score.border:
        measured.append(mean_of(EDIT_SIZE, subject, score.layer))
        seam = SeamEnergy(float(np.mean(score.border)), float(np.mean(score.inside)))
        measured.append(Measurement(SEAM, subject, seam.ratio, len(score.border)))
        measured.append(Measurement(SEAM_SLOPE, subject, seam.border**0.5, len(score.border)))
        measured.append(Measurement(SLOPE_INSIDE, subject, seam.inside**0.5, len(score.border)))
    if score.embedded and identity is not None:
        edited, source = (np.concatenate(side) for side in zip(*score.embedded, strict=True))
        measured.append(mean_of(identity_metric(identity), subject, (edited * source).sum(axis=1).tolist()))
        if len(edited) > 1:
            drift, own = identity_drift(edited), identity_drift(source)
            for name, value, floor in (
                ("identity drift from the mean", drift.from_mean, own.from_mean),
                ("identity drift from the first frame", drift.from_first, own.from_first),
            ):
                metric = Metric(name, "lower", "1 - cosine", identity.name)
                of_source = Metric(f"{name}, of the source itself", "neither", "1 - cosine", identity.name)
                measured.append(Measurement(metric, subject, value, len(edited)))
                measured.append(Measurement(of_source, subject, floor, len(edited)))
    if len(track.pts) > 2:
        jitter = quad_jitter(track.quads, (track.pts - track.pts[0]) * float(time_base))
        for metric, value in (
            (JITTER_PIXELS, jitter.translation_pixels),
            (JITTER_SHARE, jitter.translation_share),
            (JITTER_SCALE, jitter.scale),
            (JITTER_TURN, jitter.rotation_degrees),
        ):
            measured.append(Measurement(metric, subject, value, len(track.pts) - 2))
    return measured


def _over_all(measured: Sequence[Measurement]) -> list[Measurement]:
    """Each metric once more, over the frames of all tracks."""
    combined = []
    for metric in dict.fromkeys(one.metric for one in measured):
        same = [one for one in measured if one.metric == metric]
        count = sum(one.count for one in same)
        combined.append(
            Measurement(metric, WHOLE, sum(one.value * one.count for one in same if one.value is not None) / count, count)
        )
    return combined


def _embed(score: _Scores, identity: IdentityNetwork) -> None:
    if score.waiting:
        edited, source = (np.stack(side) for side in zip(*score.waiting, strict=True))
        score.embedded.append((identity.embed(edited), identity.embed(source)))
        score.waiting.clear()


def _window(weight: np.ndarray, margin_share: float = 0.05, least: int = 8) -> tuple[slice, slice]:
    """The rows and columns of a mask with a margin around them: what lies farther away has no part in its measures."""
    spans = []
    for axis in (1, 0):
        used = np.flatnonzero(weight.max(axis=axis) > 0)
        first, last = int(used[0]), int(used[-1])
        margin = max(least, round(margin_share * (last - first)))
        spans.append(slice(max(0, first - margin), last + margin + 1))
    return spans[0], spans[1]
