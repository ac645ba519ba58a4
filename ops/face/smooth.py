"""Quads over time: less jitter, no lag, no shrunken motion. Why: docs/decisions/0003-quad-smoothing.md.

FFHQ's quads are squares, so each is four numbers: centre x and y, logarithm of the side, angle. Each of them
is replaced by the value at its own time of a parabola fitted to its neighbours (ops.local_polynomial), with weights
that fall like a Gaussian of time. A motion with constant velocity or acceleration comes out as it went in, at the ends
of a track as well; the window is symmetric, so nothing lags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ops.local_polynomial import coefficients, windows

WINDOW_SIGMAS: Final = 3.0  # the weight beyond is below 0.012
BLOCK_ROWS: Final = 4096  # rows fitted at once: bounds memory on long tracks


class SmoothingError(ValueError):
    """Quads or times that cannot be smoothed. The message says what was expected and what came."""


@dataclass(frozen=True)
class QuadSmoothing:
    """Width of the window over time, in seconds; 0 leaves that part as it is."""

    centre_sigma_seconds: float = 0.05
    side_sigma_seconds: float = 0.10
    """Size and angle are noisier than position, and it shows more: the whole face pumps or rocks."""
    angle_sigma_seconds: float = 0.08
    robust_passes: int = 2
    """Refits in which frames far from the fit count less: one bad detection does not pull the rest."""

    def __post_init__(self) -> None:
        sigmas = (self.centre_sigma_seconds, self.side_sigma_seconds, self.angle_sigma_seconds)
        if min(sigmas) < 0 or self.robust_passes < 0:
            raise SmoothingError(f"quad smoothing: expected sigmas and robust_passes >= 0, got {self}.")


def smooth_quads(
    quads_N42: np.ndarray, seconds_N: np.ndarray, settings: QuadSmoothing, weight_N: np.ndarray | None = None
) -> np.ndarray:
    """Quads of one track in one shot, in time order => smoothed quads, float64 [N, 4, 2].

    quads_N42: squares, TL BL BR TR, source pixels. seconds_N: strictly increasing. weight_N: how much a frame
    counts (0 for interpolated ones); all 1 when left out. Raises SmoothingError for other shapes, times or
    shapes of quad.
    """
    quads, seconds = np.asarray(quads_N42, np.float64), np.asarray(seconds_N, np.float64)
    weight = np.ones(len(seconds)) if weight_N is None else np.asarray(weight_N, np.float64)
    if quads.shape != (len(seconds), 4, 2) or weight.shape != seconds.shape:
        raise SmoothingError(
            f"smooth_quads: expected quads [N, 4, 2] with N times and weights, got {list(quads.shape)}, "
            f"{list(seconds.shape)} and {list(weight.shape)}."
        )
    if (np.diff(seconds) <= 0).any():
        raise SmoothingError("smooth_quads: expected strictly increasing times; sort the track by pts first.")
    if not (weight > 0).any():
        return quads.copy()
    centre_N2, log_side_N, angle_N = square_parameters(quads)
    centre, side, angle = (
        settings.centre_sigma_seconds,
        settings.side_sigma_seconds,
        settings.angle_sigma_seconds,
    )
    passes = settings.robust_passes
    return squares(
        np.stack([local_parabola(seconds, x, weight, centre, passes) for x in centre_N2.T], axis=1),
        local_parabola(seconds, log_side_N, weight, side, passes),
        local_parabola(seconds, angle_N, weight, angle, passes),
    )


def square_parameters(quads_N42: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Squares => centre [N, 2], natural log of the side [N], angle of the upper edge [N], unwrapped."""
    right = quads_N42[:, 3] - quads_N42[:, 0]
    down = quads_N42[:, 1] - quads_N42[:, 0]
    side = np.hypot(right[:, 0], right[:, 1])
    turned = right[:, ::-1] * (-1.0, 1.0)
    if not np.isfinite(quads_N42).all() or (side <= 0).any() or (np.abs(turned - down).max(1) > 1e-3 * side).any():
        raise SmoothingError("expected finite squares (TL BL BR TR), as ffhq_quad makes them; got another shape.")
    return quads_N42.mean(1), np.log(side), np.unwrap(np.arctan2(right[:, 1], right[:, 0]))


def squares(centre_N2: np.ndarray, log_side_N: np.ndarray, angle_N: np.ndarray) -> np.ndarray:
    """Inverse of `square_parameters` => float64 [N, 4, 2]."""
    half = 0.5 * np.exp(log_side_N)[:, None]
    half_x = half * np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1)
    half_y = half_x[:, ::-1] * (-1.0, 1.0)
    corners = [-half_x - half_y, -half_x + half_y, half_x + half_y, half_x - half_y]
    return centre_N2[:, None] + np.stack(corners, axis=1)


def local_parabola(
    seconds_N: np.ndarray, value_N: np.ndarray, weight_N: np.ndarray, sigma_seconds: float, robust_passes: int
) -> np.ndarray:
    """Local regression of degree 2 with Gaussian weights of time, evaluated at every time => float64 [N].

    Rows of weight 0 are predicted from the others. With a robust pass, a row counts by Tukey's bisquare of
    its residual over six times the median residual *of its own window*: one bad detection stands out there, a
    quick nod does not, for all of its rows have large residuals. (Cleveland 1979 takes the median of the
    whole series, which rejects the nod.)
    """
    counted = np.flatnonzero(weight_N > 0)
    if sigma_seconds == 0.0 or len(counted) < 2:
        return value_N.copy()
    times, values, weights = seconds_N[counted], value_N[counted], weight_N[counted]
    # The floor keeps rounding noise of an exact fit from being taken for outliers.
    floor = 1e-9 * (1.0 + float(np.abs(values).max()))
    robust = weights
    for _ in range(robust_passes):
        residual = np.abs(values - _fit(times, times, values, robust, sigma_seconds))
        local = _local_median(times, residual, sigma_seconds)
        robust = weights * np.clip(1.0 - (residual / np.maximum(6.0 * local, floor)) ** 2, 0.0, None) ** 2
    return _fit(seconds_N, times, values, robust, sigma_seconds)


def _fit(
    at_M: np.ndarray, times_N: np.ndarray, values_N: np.ndarray, weights_N: np.ndarray, sigma_seconds: float
) -> np.ndarray:
    """Weighted parabola around every time of `at`, evaluated there => [M]. times_N: sorted, at least two."""
    blocks = [at_M[first : first + BLOCK_ROWS] for first in range(0, len(at_M), BLOCK_ROWS)]
    return np.concatenate([_fit_block(at, times_N, values_N, weights_N, sigma_seconds) for at in blocks])


def _local_median(times_N: np.ndarray, value_N: np.ndarray, sigma_seconds: float) -> np.ndarray:
    """Median of the values within each row's window => float64 [N]."""
    medians = []
    for first in range(0, len(times_N), BLOCK_ROWS):
        window, inside, _ = _windows(times_N[first : first + BLOCK_ROWS], times_N, sigma_seconds)
        medians.append(np.nanmedian(np.where(inside, value_N[window], np.nan), axis=1))
    return np.concatenate(medians)


def _fit_block(
    at_M: np.ndarray, times_N: np.ndarray, values_N: np.ndarray, weights_N: np.ndarray, sigma_seconds: float
) -> np.ndarray:
    window, inside, sigma_M1 = _windows(at_M, times_N, sigma_seconds)
    offset = times_N[window] - at_M[:, None]
    weight = np.where(inside, weights_N[window] * np.exp(-0.5 * (offset / sigma_M1) ** 2), 0.0)
    base = values_N[window[:, :1]]  # relative to a near value, so that pixels in the thousands cost no digits
    return (coefficients(offset, weight, 2) * (values_N[window] - base)).sum(axis=1) + base[:, 0]


def _windows(at_M: np.ndarray, times_N: np.ndarray, sigma_seconds: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows within three sigmas of every time: indices [M, W], which of them are inside [M, W], sigma [M, 1].

    Sigma grows until the fifth nearest row lies within two of it: a gap is bridged from both sides, and a
    parabola is never put through three noisy points.
    """
    n = len(times_N)
    near = np.searchsorted(times_N, at_M)[:, None] + np.arange(-5, 5)
    distance = np.where((near >= 0) & (near < n), np.abs(times_N[np.clip(near, 0, n - 1)] - at_M[:, None]), np.inf)
    enough = np.sort(distance, axis=1)[:, min(5, n) - 1]
    sigma = np.maximum(sigma_seconds, enough / 2.0)
    # A little more than three: at a constant rate rows fall on the limit, and rounding must not choose.
    reach = WINDOW_SIGMAS * sigma * (1.0 + 1e-6)
    first, stop = np.searchsorted(times_N, at_M - reach, "left"), np.searchsorted(times_N, at_M + reach, "right")
    return *windows(first, stop, n), sigma[:, None]
