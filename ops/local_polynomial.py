"""Local polynomial regression over time: it smooths codes (ops.editing.smoothing) and quads (ops.face.smooth).

Around each instant a polynomial is fitted to the values nearby by weighted least squares, and its value there is kept
(Savitzky & Golay 1964 for even spacing; Cleveland 1979; Fan & Gijbels 1996, Eq. 3.1-3.4). Polynomials of the fit's degree
come out as they went in, at any spacing and at both ends.

Legend of axes: M instants, K samples under one window, P powers of time.
"""

from __future__ import annotations

from typing import Final

import numpy as np

COUNTED_FROM: Final = 1e-12
"""Share of a window's largest weight from which on a sample counts; what is below cannot carry a degree of its own."""


def windows(first_M: np.ndarray, stop_M: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples `first` to `stop`, of `count` => (their indices int [M, K], which of the K are inside bool [M, K])."""
    index_MK = first_M[:, None] + np.arange(int((stop_M - first_M).max()))
    return np.minimum(index_MK, count - 1), index_MK < stop_M[:, None]


def coefficients(offset_MK: np.ndarray, weight_MK: np.ndarray, degree: int) -> np.ndarray:
    """=> float64 [M, K]: row i, dotted with the values of window i, is the fitted polynomial at offset 0.

    Minimises sum_k w_ik (x_k - sum_p b_p t_ik^p)^2 over b, and gives b_0 as a sum over the x_k.

    offset_MK: times of the samples from the instant. weight_MK: 0 or more, 0 outside the window. A window in which n samples
    count takes degree n - 1 at most; one in which none counts gives 0.
    """
    largest_M1 = weight_MK.max(axis=1, keepdims=True)
    counted_MK = weight_MK > COUNTED_FROM * largest_M1
    degree_M = np.clip(counted_MK.sum(axis=1) - 1, 0, degree)
    # In units of the window's reach powers are of order 1, and the fit is well conditioned.
    reach_M1 = np.maximum(np.abs(np.where(weight_MK > 0, offset_MK, 0.0)).max(axis=1, keepdims=True), 1e-12)
    root_MK = np.sqrt(weight_MK / np.where(largest_M1 > 0, largest_M1, 1.0))
    found_MK = np.zeros_like(root_MK)
    for each in np.unique(degree_M):
        rows = degree_M == each
        powers_MKP = (offset_MK[rows] / reach_M1[rows])[..., None] ** np.arange(int(each) + 1)
        design_MKP = root_MK[rows][..., None] * powers_MKP
        found_MK[rows] = np.linalg.pinv(design_MKP)[:, 0] * root_MK[rows]
    return found_MK
