"""Measures what a video shows and a picture does not: flicker, drift, jitter, seams. Each formula is written at its function.

Symbols: s source frame, e edited frame, d = e - s the layer that the edit laid over the source, in 8-bit levels; m a mask
[H, W] in [0, 1]; t the frame. Flicker, residue and seam are 0 where edited and source are equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from ops.metrics.metric import MetricError

FLOW_EXPLAINS: Final = 12.0  # levels: a pixel whose motion the flow found to this error counts as explained
INSIDE: Final = 0.95  # mask from which on a pixel is inside and no longer at the border
BORDER: Final = 0.5  # ... up to which it belongs to the border's zone
BEYOND: Final = 0.03  # of the mask's side: how far outside the mask a seam is looked for
FEWEST: Final = 32  # pixels of a contour; shorter ones say nothing


# ---------------------------------------------------------------------------------------------------- flicker


def layer_of(edited: np.ndarray, source: np.ndarray) -> np.ndarray:
    """d = e - s, float32 [H, W, 3], of uint8 frames. Raises MetricError for frames of two sizes."""
    if edited.shape != source.shape:
        raise MetricError(f"expected frames of one size, got {list(edited.shape)} and {list(source.shape)}")
    return edited.astype(np.float32) - source.astype(np.float32)


def flicker(layer: np.ndarray, before: np.ndarray, mask: np.ndarray) -> float:
    """sum m |d_t - d_(t-1)| / sum m, in levels, mean over the colours. Contains the layer's motion with the face."""
    return _weighted(np.abs(layer - before).mean(axis=-1), mask)


def residue(layer: np.ndarray, before: np.ndarray, motion: Motion, mask: np.ndarray) -> float:
    """Flicker after the layer before is moved as the source moved: sum m |d_t - W d_(t-1)| / sum m over explained pixels.

    What is left does not move with the face: flicker as an eye sees it.
    """
    return _weighted(np.abs(layer - motion.move(before)).mean(axis=-1), mask * motion.explained + 1e-9)


@dataclass(frozen=True, eq=False)
class Motion:
    """How the source moved into a frame from the one before it."""

    at: np.ndarray
    """float32 [H, W, 2]: x, y in the frame before of what is at each pixel now."""
    explained: np.ndarray
    """bool [H, W]: where moving the frame before so gives this one to 12 levels."""

    def move(self, picture: np.ndarray) -> np.ndarray:
        """A picture of the frame before, moved to this one. Bilinear; the outermost pixels go on."""
        return cv2.remap(picture, self.at[..., 0], self.at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def motion_between(frame: np.ndarray, before: np.ndarray) -> Motion:
    """Dense optical flow (DIS, Kroeger et al. 2016) of uint8 frames [H, W, 3]."""
    estimate = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    now, then = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (frame, before))
    y, x = np.mgrid[: frame.shape[0], : frame.shape[1]].astype(np.float32)
    at = np.stack([x, y], axis=-1) + estimate.calc(now, then, np.zeros((*now.shape, 2), np.float32))
    everywhere = Motion(at, np.ones(now.shape, bool))
    error = np.abs(everywhere.move(before).astype(np.float32) - frame).max(axis=-1)
    return Motion(at, error <= FLOW_EXPLAINS)


# ---------------------------------------------------------------------------------------------- identity drift


@dataclass(frozen=True)
class IdentityDrift:
    """How far a track's face moves away from one identity: 1 - cosine, 0 (the same) to 2."""

    from_mean: float
    """Mean over t of 1 - <f_t, m>, m the track's mean embedding scaled to unit length."""
    from_first: float
    """Mean over t > 0 of 1 - <f_t, f_0>."""


def identity_drift(embeddings_ND: np.ndarray) -> IdentityDrift:
    """embeddings [N, D], N at least 2, any length but 0; they are scaled to unit length first."""
    vectors = np.asarray(embeddings_ND, np.float64)
    if vectors.ndim != 2 or len(vectors) < 2:
        raise MetricError(f"identity drift: expected at least two embeddings [N, D], got {list(vectors.shape)}")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise MetricError("identity drift: expected finite embeddings other than 0; check the recogniser's input")
    vectors = vectors / lengths
    mean = vectors.mean(axis=0)
    mean = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return IdentityDrift(float((1 - vectors @ mean).mean()), float((1 - vectors[1:] @ vectors[0]).mean()))


# ------------------------------------------------------------------------------------------------- quad jitter


@dataclass(frozen=True)
class QuadJitter:
    """Mean size of the second difference of a quad's place, size and turn: 0 for any steady motion."""

    translation_pixels: float
    """Jitter of the centre, in source pixels."""
    translation_share: float
    """The same as a share of the quad's side in that frame."""
    scale: float
    """Jitter of the logarithm of the side: 0.01 is one percent."""
    rotation_degrees: float


def quad_jitter(quads_N42: np.ndarray, seconds_N: np.ndarray) -> QuadJitter:
    """quads [N, 4, 2] (corners in the order of `ops.face.align`) at increasing times, N at least 3.

    |x_(t+1) - 2 x_t + x_(t-1)| for even steps. For uneven ones, twice the distance of x_t from the straight line between its
    neighbours, which is the same number where steps are even, so variable frame rates add no jitter.
    """
    quads, seconds = np.asarray(quads_N42, np.float64), np.asarray(seconds_N, np.float64)
    if quads.ndim != 3 or quads.shape[1:] != (4, 2) or len(quads) < 3 or seconds.shape != (len(quads),):
        raise MetricError(
            f"quad jitter: expected at least three quads [N, 4, 2] and times, got {list(quads.shape)} and {list(seconds.shape)}"
        )
    if not (np.diff(seconds) > 0).all():
        raise MetricError("quad jitter: expected increasing times; sort the rows by pts")
    edge = quads[:, 3] - quads[:, 0]
    side = np.hypot(*edge.T)
    centre = _bend(quads.mean(axis=1), seconds)
    distance = np.hypot(*centre.T)
    turn = np.unwrap(np.arctan2(edge[:, 1], edge[:, 0]))
    return QuadJitter(
        translation_pixels=float(distance.mean()),
        translation_share=float((distance / side[1:-1]).mean()),
        scale=float(np.abs(_bend(np.log(side), seconds)).mean()),
        rotation_degrees=float(np.degrees(np.abs(_bend(turn, seconds)).mean())),
    )


def _bend(values: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Second difference [N - 2, ...] for even steps, its equivalent for uneven ones."""
    share = (seconds[1:-1] - seconds[:-2]) / (seconds[2:] - seconds[:-2])
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    return 2 * (values[:-2] + share * (values[2:] - values[:-2]) - values[1:-1])


# -------------------------------------------------------------------------------------------------------- seam


@dataclass(frozen=True)
class SeamEnergy:
    """Squared slopes of the layer, in (levels per pixel)^2."""

    border: float
    """Across the mask's border: the contour of the border's zone where it is largest."""
    inside: float
    """In any direction, inside the mask: what the edit itself is made of."""

    @property
    def ratio(self) -> float:
        """border / (inside + 1): 0 for no edit, small for a blended one, above 1 where the border is what one sees.

        The 1, a slope of one level per pixel, keeps the rounding of an edit that does nothing from looking like a seam.
        """
        return self.border / (self.inside + 1.0)


def seam_energy(layer: np.ndarray, mask: np.ndarray) -> SeamEnergy:
    """Measure one frame: layer float [H, W, 3], mask [H, W] of the paste.

    border = max over contours c of mean over pixels of c of <grad d, n>^2, where n is the mask border's normal and a contour is
    the pixels at one whole distance from the edge of {m > 0}: from a little outside it to where m reaches 0.5. A paste that
    jumps anywhere in that zone (no feather, a shifted picture, a mask cut off) has a contour that shows it. The frame's own
    edge does not count as a border. inside = mean of |grad d|^2 over m >= 0.95. Both are means over the colours.
    """
    if layer.shape[:2] != mask.shape:
        raise MetricError(f"seam: expected a mask of the layer's size {list(layer.shape[:2])}, got {list(mask.shape)}")
    support = (mask > 0).astype(np.uint8)
    core = mask >= INSIDE
    if not core.any():
        core = mask >= mask.max() if support.any() else core
    if not support.any() or not core.any():
        raise MetricError("seam: expected a mask with pixels inside it, got one that is 0 everywhere")
    d_y, d_x = np.gradient(layer.astype(np.float32), axis=(0, 1))
    inside = float((d_y**2 + d_x**2).mean(axis=-1)[core].mean())
    if support.all():
        return SeamEnergy(0.0, inside)  # the whole frame is edited: no border in it
    distance = cv2.distanceTransform(support, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance = distance - cv2.distanceTransform(1 - support, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    n_y, n_x = np.gradient(distance)
    length = np.maximum(np.hypot(n_y, n_x), 1e-6)
    across = ((d_y * (n_y / length)[..., None] + d_x * (n_x / length)[..., None]) ** 2).mean(axis=-1)
    reach = max(3.0, BEYOND * float(np.sqrt(support.sum())))
    zone = (distance >= -reach) & (mask <= BORDER)
    level = np.floor(distance[zone]).astype(np.int64)
    level = level - level.min()
    counts, sums = np.bincount(level), np.bincount(level, weights=across[zone])
    enough = counts >= FEWEST
    border = float((sums[enough] / counts[enough]).max()) if enough.any() else 0.0
    return SeamEnergy(border, inside)


def _weighted(values: np.ndarray, weight: np.ndarray) -> float:
    total = float(weight.sum())
    if total <= 0:
        raise MetricError("expected a mask that is not 0 everywhere; the face may lie outside the frame")
    return float((values * weight).sum()) / total
