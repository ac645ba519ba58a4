"""How one edited face came out, measured while it is rendered: from crops that are there anyway, in a millisecond.

All in 8-bit levels of crops of `MEASURED_SIDE` pixels, mean over pixels and colours. Crops follow the face, so that its motion
is not counted as flicker; the numbers of `ops.metrics.temporal`, which measure a finished video, are not these.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

MEASURED_SIDE: Final = 128
POOR_INVERSION: Final = 20.0
"""Levels of inversion error at which a face is hardly the same any more."""
POOR_FLICKER: Final = 5.0
"""Levels by which an edit changes from one frame to the next at which everybody sees it."""
POOR_IDENTITY: Final = 0.6
"""Loss of cosine at which a recogniser no longer takes two faces for one person."""


def measured(crop: np.ndarray) -> np.ndarray:
    """A crop [h, w, 3], uint8 or levels => float32, the longer side `MEASURED_SIDE`."""
    height, width = crop.shape[:2]
    scale = MEASURED_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.clip(cv2.resize(np.asarray(crop, np.float32), size, interpolation=way), 0.0, 255.0)


def mean_change(one: np.ndarray, other: np.ndarray) -> float:
    """mean |one − other| of two measured crops."""
    return float(np.abs(one - other).mean())


def trouble(inversion_error: float | None, flicker: float | None, identity: float | None) -> float:
    """How bad it is by its worst measure: 1 where a person would look twice, 0 where nothing is wrong.

    max(error / 20, flicker / 5, (1 − identity) / 0.6); what was not measured is left out.
    """
    return max(
        0.0 if inversion_error is None else inversion_error / POOR_INVERSION,
        0.0 if flicker is None else flicker / POOR_FLICKER,
        0.0 if identity is None else (1.0 - identity) / POOR_IDENTITY,
    )
