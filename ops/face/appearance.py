"""Describes what a face looks like, for telling two people of one shot apart where the detector gives no embedding.

The face and its hair, turned upright by its landmarks, as a coarse grid of colours. It says nothing about who somebody is
across shots, and light or a turned head change it; within a shot two people differ by more than one does from second to
second, which is all that is asked of it.

Convention: landmarks (x, y) in pixels of the frame, an integer is a pixel's centre, as in `detect`.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from ops.face.detect import ARCFACE_TEMPLATE_52, similarity_between

GRID: Final = 8
_SIDE: Final = 64
# The template fills its 112 pixels from the eyebrows to the chin; at this share of the crop there is room for hair.
_SHARE: Final = 0.72
_LOWERED: Final = 0.04


def describe(frame: np.ndarray, landmarks_52: np.ndarray) -> np.ndarray:
    """Colours of a face: float32 [GRID * GRID * 3], 0..1, CIELAB on a grid of 8 x 8, row by row.

    `frame`: uint8 [H, W, 3] RGB; `landmarks_52`: of a `Face`. What lies outside the frame repeats its edge.
    """
    centred = (ARCFACE_TEMPLATE_52 - 56.0) * (_SIDE / 112.0 * _SHARE)
    template = centred + np.array([_SIDE / 2, _SIDE * (0.5 + _LOWERED)])
    crop_from_frame = similarity_between(landmarks_52, template)
    # Cut at about the frame's own scale and reduced by whole means, so that detail does not turn into noise.
    finer = int(np.clip(round(1.0 / max(float(np.hypot(*crop_from_frame[:, 0])), 1e-6)), 1, 8))
    crop = cv2.warpAffine(
        frame, crop_from_frame * finer, (_SIDE * finer,) * 2, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    lab = cv2.cvtColor(crop, cv2.COLOR_RGB2LAB)
    return (cv2.resize(lab, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0).ravel()


def appearance_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Root mean square difference of two descriptions; 0 for equal ones, about 0.02 for one face from frame to frame."""
    return float(np.sqrt(np.mean((one.astype(np.float64) - other) ** 2)))
