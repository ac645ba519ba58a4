"""Weights in crop space that say where an edit may show: 0 = the source's pixel, 1 = the edit's.

Every mask is float32 in [0, 1], exactly 0 on the crop's outermost pixels and beyond, and smooth (its slope is
continuous), so that no edge of the crop can be seen in the frame. Only kind "edges" is 1 up to a side of the crop, where
that side is the frame's own. Pixel-centre rule as in `align`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import numpy as np

from ops.face.align import ffhq_quad

# Half axes of the face's oval in units of FFHQ's half square, and how far its centre lies below the eyes
# towards the mouth. Measured on upright portraits: covers forehead to chin and both cheeks, and little
# of the hair and the background.
OVAL_HALF_WIDTH: Final = 0.54
OVAL_HALF_HEIGHT: Final = 0.76
OVAL_CENTRE_DOWN: Final = 0.40
FACE_CENTRE_SHARE: Final = (0.5, 0.57)  # of the oval in an upright FFHQ crop, right and down, in shares of its side


class MaskError(ValueError):
    """Mask settings or landmarks that cannot be used. The message says what was expected and what came."""


@dataclass(frozen=True)
class MaskSettings:
    """Shape of the mask. Lengths are fractions of the crop's side."""

    kind: Literal["soft", "face", "edges"] = "soft"
    """soft: the whole crop but its rim. face: an oval around the landmarks, inside the soft mask. edges: the whole crop,
    fading only along those of its sides that lie inside the frame; for crops of whole frames."""
    margin: float = 0.02
    """soft: this much of the crop's rim has weight 0."""
    feather: float = 0.2
    """soft: from the margin inwards, the way from 0 to 1."""
    face_grow: float = 1.0
    """face: scales the oval; 1 reaches from the forehead to below the chin."""
    face_feather: float = 0.12
    """face: outwards from the oval, the way from 1 to 0."""

    edge_feather: float = 0.06
    """edges: from such a side inwards, the way from 0 to 1."""

    def __post_init__(self) -> None:
        if not 0.0 < self.edge_feather <= 0.5:
            raise MaskError(f"mask: expected edge_feather between 0 and 0.5 of the crop's side, got {self.edge_feather}.")
        if not (self.margin >= 0.0 and self.feather > 0.0 and self.margin + self.feather <= 0.5):
            raise MaskError(
                "mask: expected margin >= 0, feather > 0 and margin + feather <= 0.5 of the crop's side, got "
                f"margin {self.margin} and feather {self.feather}."
            )
        if not (self.face_grow > 0.0 and self.face_feather > 0.0):
            raise MaskError(f"mask: expected face_grow and face_feather > 0, got {self.face_grow}, {self.face_feather}.")


Sides = tuple[bool, bool, bool, bool]
"""Left, top, right, bottom."""


def build_mask(
    size: int, settings: MaskSettings, landmarks_K2: np.ndarray | None = None, fading: Sides = (True, True, True, True)
) -> np.ndarray:
    """The mask that `settings` asks for => float32 [size, size], read-only.

    landmarks_K2: [5, 2] or [68, 2] in crop pixels of that size; needed by kind "face" only. Raises MaskError
    without. fading: kind "edges" only, the sides along which it falls to 0.
    """
    if settings.kind == "soft":
        return soft_mask(size, settings)
    if settings.kind == "edges":
        return edge_mask(size, fading, settings.edge_feather)
    if landmarks_K2 is None:
        raise MaskError("mask 'face' needs landmarks (crop pixels, [5, 2] or [68, 2]); pass them, or use 'soft'.")
    return face_mask(size, landmarks_K2, settings)


@lru_cache(maxsize=32)
def soft_mask(size: int, settings: MaskSettings | None = None) -> np.ndarray:
    """Crop rim 0, centre 1, rounded corners => float32 [size, size], read-only (it is shared)."""
    settings = settings or MaskSettings()
    inside = (np.arange(size) + 0.5) / size
    from_rim = np.minimum(inside, 1.0 - inside)
    # Half a pixel less than the distance to the edge: the outermost pixel's centre is then on the rim itself.
    ramp = smoothstep((from_rim - 0.5 / size - settings.margin) / settings.feather)
    # A product, not a minimum: the minimum has a crease along the diagonals.
    return _frozen(np.outer(ramp, ramp))


@lru_cache(maxsize=32)
def around_face(size: int) -> np.ndarray:
    """Weigh an FFHQ crop: 0 in the face's oval from brows to chin, 1 beyond ears and chin, linear between => float32
    [size, size], read-only (it is shared). Where an edit is less to be believed: ears, collar, background."""
    place = (np.arange(size) + 0.5) / size
    right = (place - FACE_CENTRE_SHARE[0]) / (OVAL_HALF_WIDTH / 2)
    down = (place - FACE_CENTRE_SHARE[1]) / (OVAL_HALF_HEIGHT / 2)
    return _frozen(np.clip((np.hypot(down[:, None], right[None, :]) - 0.7) / 0.4, 0.0, 1.0))


@lru_cache(maxsize=32)
def edge_mask(size: int, fading: Sides, feather: float) -> np.ndarray:
    """1, falling to 0 along the sides that fade => float32 [size, size], read-only (it is shared)."""
    from_start = np.arange(size) / size  # 0 on the outermost pixel's centre, as in `soft_mask`
    left, top, right, bottom = (
        smoothstep(distance / feather) if fades else np.ones(size)
        for fades, distance in zip(fading, (from_start, from_start, from_start[::-1], from_start[::-1]), strict=True)
    )
    return _frozen(np.outer(top * bottom, left * right))


def face_mask(size: int, landmarks_K2: np.ndarray, settings: MaskSettings | None = None) -> np.ndarray:
    """Oval around the face, within the soft mask => float32 [size, size], read-only.

    landmarks_K2: [5, 2] or [68, 2] in crop pixels. The oval follows the head's turn in the picture and its
    size.
    """
    settings = settings or MaskSettings(kind="face")
    points = np.asarray(landmarks_K2, np.float64)
    quad = ffhq_quad(points)  # the face's own axes and scale, whatever crop it lies in
    half_x, half_y = (quad[3] - quad[0]) / 2, (quad[1] - quad[0]) / 2
    half_side = float(np.hypot(*half_x))
    eyes, mouth = _eyes_and_mouth(points)
    # Both axes are unit vectors; the oval hangs below the eyes by a share of the way to the mouth.
    axis_x, axis_y = half_x / half_side, half_y / half_side
    centre = eyes + OVAL_CENTRE_DOWN * (mouth - eyes)
    y, x = np.mgrid[:size, :size].astype(np.float64)
    across = ((x - centre[0]) * axis_x[0] + (y - centre[1]) * axis_x[1]) / (OVAL_HALF_WIDTH * settings.face_grow)
    down = ((x - centre[0]) * axis_y[0] + (y - centre[1]) * axis_y[1]) / (OVAL_HALF_HEIGHT * settings.face_grow)
    reach = np.hypot(across, down) / half_side  # 1 on the oval
    beyond = (reach - 1.0) * half_side * min(OVAL_HALF_WIDTH, OVAL_HALF_HEIGHT) * settings.face_grow / size
    oval = 1.0 - smoothstep(beyond / settings.face_feather)
    return _frozen(oval * soft_mask(size, settings))


def smoothstep(x: np.ndarray) -> np.ndarray:
    """0 up to 0, 1 from 1 on, 3x² - 2x³ between: its slope is 0 at both ends."""
    t = np.clip(x, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _eyes_and_mouth(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle of the eyes and of the mouth's corners, from 5 or 68 landmarks (`ffhq_quad` checked)."""
    if len(points) == 68:
        return (points[36:42].mean(0) + points[42:48].mean(0)) / 2, (points[48] + points[54]) / 2
    return (points[0] + points[1]) / 2, (points[3] + points[4]) / 2


def _frozen(mask: np.ndarray) -> np.ndarray:
    out = mask.astype(np.float32)
    out.flags.writeable = False
    return out
