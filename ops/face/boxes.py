"""Boxes: x0, y0, x1, y1 of their edges, in pixels of the frame."""

from __future__ import annotations

import numpy as np


def box_overlap(a_N4: np.ndarray, b_M4: np.ndarray) -> np.ndarray:
    """Intersection over union of every box of `a` with every box of `b`; x0, y0, x1, y1 => float64 [N, M]."""
    a, b = np.asarray(a_N4, np.float64)[:, None], np.asarray(b_M4, np.float64)[None]
    shared = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    area_a, area_b = (a[..., 2:] - a[..., :2]).prod(-1), (b[..., 2:] - b[..., :2]).prod(-1)
    return shared / np.maximum(area_a + area_b - shared, 1e-12)
