"""Codes over time: smoothing W+ within one track, in seconds, for any spacing of the frames.

Legend of axes: N frames, L rows of W+, D width of W+, K frames under one window.

Gaussian and Savitzky–Golay are one operator, local polynomial regression (ops.local_polynomial). It has no lag, keeps
polynomials of its degree to rounding (a constant, a steady turn of the head), ends of a track included, and asks for no frame
rate. The one-euro filter (Casiez, Roussel & Vogel, CHI 2012) looks backwards only and does lag.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.sparse

from ops.local_polynomial import coefficients, windows

SmoothingKind = Literal["none", "gaussian", "savgol", "one_euro"]
SMOOTHING_KINDS: tuple[SmoothingKind, ...] = get_args(SmoothingKind)

_GAUSSIAN_REACH = 4.0  # standard deviations at which the kernel is cut: weights below 3.4e-4
_FRAMES_AT_ONCE = 4096  # bounds the memory of the fits, not their result
_SAME_INSTANT = 1e-9  # slack, in seconds, for a frame that lies on the edge of a window


class SmoothingError(ValueError):
    """Settings or times that no smoothing can be done with."""


@dataclass(frozen=True)
class SmoothingSettings:
    """How codes are smoothed over time. Durations in seconds: they mean the same at any frame rate."""

    kind: SmoothingKind = "gaussian"
    """`gaussian` and `savgol` have no lag; `one_euro` is causal and lags; `none` keeps the codes' bits."""
    target: Literal["edit", "code"] = "edit"
    """edit: every frame keeps its own code, and what is added to it is found from the smoothed one, so that an edit which
    depends on the code does not tremble with it and one that does not is left alone. code: the smoothed code takes the place of
    the frame's own; the face's own motion is smoothed too."""
    sigma_seconds: float = 0.08
    """gaussian: standard deviation (two frames at 25 per second)."""
    window_seconds: float = 0.36
    """savgol: whole width; frames at most half of it away take part (nine at 25 per second)."""
    degree: int = 2
    """savgol: of the polynomial, 0 to 5."""
    min_cutoff_hz: float = 1.0
    """one_euro: cut-off of a code at rest; lower is smoother and lags more."""
    speed_coefficient: float = 0.5
    """one_euro: by how much the cut-off rises (Hz) per unit of W+ per second; higher lags less in motion."""
    derivative_cutoff_hz: float = 1.0
    """one_euro: cut-off of the speed itself."""
    reset_gap_seconds: float = 0.5
    """Frames further apart than this do not know of each other, as if each side were a track."""
    shared_from_row: int | None = None
    """Rows of W+ from this one on take their mean over the run (the late rows carry texture, which flickers
    and need not move: RIGID, Xu et al., ICCV 2023); None shares none."""

    def __post_init__(self) -> None:
        if self.kind not in SMOOTHING_KINDS:
            raise SmoothingError(f"smoothing is one of {', '.join(SMOOTHING_KINDS)}, got {self.kind!r}")
        positive = {
            "sigma_seconds": self.sigma_seconds,
            "window_seconds": self.window_seconds,
            "min_cutoff_hz": self.min_cutoff_hz,
            "derivative_cutoff_hz": self.derivative_cutoff_hz,
            "reset_gap_seconds": self.reset_gap_seconds,
        }
        for name, value in positive.items():
            if not (np.isfinite(value) and value > 0):
                raise SmoothingError(f"{name} is a positive number, got {value}")
        if not (np.isfinite(self.speed_coefficient) and self.speed_coefficient >= 0):
            raise SmoothingError(f"speed_coefficient is 0 or more, got {self.speed_coefficient}")
        if not 0 <= self.degree <= 5:
            raise SmoothingError(f"degree is 0 to 5, got {self.degree}")
        if self.shared_from_row is not None and self.shared_from_row < 0:
            raise SmoothingError(f"shared_from_row is a row of W+, from 0; got {self.shared_from_row}")


def keeps_bits(settings: SmoothingSettings) -> bool:
    """Return whether nothing is smoothed at all."""
    return settings.kind == "none" and settings.shared_from_row is None


def keeps_codes(settings: SmoothingSettings) -> bool:
    """Return whether frames keep the codes that they were inverted to."""
    return settings.target == "edit" or keeps_bits(settings)


def smooth_codes(wplus_NLD: np.ndarray, pts_seconds_N: np.ndarray, settings: SmoothingSettings) -> np.ndarray:
    """W+ codes of one track => smoothed W+ codes, float32 [N, L, D]; always a new, writable array.

    Give a whole track: what comes out depends on all of it, never on how it was cut into chunks.

    Args:
        wplus_NLD: codes in order of time; finite.
        pts_seconds_N: their instants, strictly increasing.
        settings: see there. Sums are taken in float64.

    Raises:
        SmoothingError: other shapes, or times that do not increase.
    """
    wplus_NLD = np.asarray(wplus_NLD, np.float32)
    times_N = np.asarray(pts_seconds_N, np.float64)
    if wplus_NLD.ndim != 3 or times_N.shape != wplus_NLD.shape[:1]:
        raise SmoothingError(f"expected codes [N, L, D] and N times, got {wplus_NLD.shape} and {times_N.shape}")
    if not np.isfinite(times_N).all() or (np.diff(times_N) <= 0).any():
        raise SmoothingError("the times of one track increase strictly; sort its rows by pts, each once")
    if settings.shared_from_row is not None and settings.shared_from_row >= wplus_NLD.shape[1]:
        raise SmoothingError(f"shared_from_row is {settings.shared_from_row}, the codes have {wplus_NLD.shape[1]} rows, from 0")
    smoothed_NLD = np.array(wplus_NLD, order="C")
    for run in contiguous_runs(times_N, settings.reset_gap_seconds):
        if run.stop - run.start == 1:
            continue  # a frame by itself is its own mean: a picture's code, each of which would take a millisecond
        _smooth_run(smoothed_NLD[run], times_N[run], settings)
    return smoothed_NLD


def contiguous_runs(times_N: np.ndarray, reset_gap_seconds: float) -> Iterator[slice]:
    """The stretches of a track without a gap longer than `reset_gap_seconds`, in order; none if N is 0."""
    cuts = np.flatnonzero(np.diff(times_N) > reset_gap_seconds) + 1
    edges = [0, *cuts.tolist(), len(times_N)]
    for start, stop in itertools.pairwise(edges):
        if start < stop:
            yield slice(start, stop)


def _smooth_run(wplus_NLD: np.ndarray, times_N: np.ndarray, settings: SmoothingSettings) -> None:
    """Smooths one run in place, row of W+ by row, so that float64 copies stay small."""
    row_count = wplus_NLD.shape[1]
    shared_from = row_count if settings.shared_from_row is None else settings.shared_from_row
    match settings.kind:
        case "none":
            pass
        case "gaussian":
            sigma = settings.sigma_seconds
            reach = _GAUSSIAN_REACH * sigma
            window_N2 = np.stack([times_N - reach, times_N + reach], axis=1)
            operator_NN = _local_polynomial(times_N, window_N2, degree=1, sigma_seconds=sigma)
            _apply(operator_NN, wplus_NLD[:, :shared_from])
        case "savgol":
            # At the ends the window stops at the end and stays whole: the polynomial is fitted to as many
            # frames as elsewhere and read off aside (what scipy's savgol_filter calls mode "interp").
            # A run shorter than the window is one window.
            half = min(settings.window_seconds, times_N[-1] - times_N[0]) / 2
            centre_N = np.clip(times_N, times_N[0] + half, times_N[-1] - half)
            window_N2 = np.stack([centre_N - half, centre_N + half], axis=1)
            operator_NN = _local_polynomial(times_N, window_N2, degree=settings.degree, sigma_seconds=None)
            _apply(operator_NN, wplus_NLD[:, :shared_from])
        case "one_euro":
            _one_euro(wplus_NLD[:, :shared_from], times_N, settings)
    if shared_from < row_count:
        wplus_NLD[:, shared_from:] = wplus_NLD[:, shared_from:].mean(axis=0, dtype=np.float64)


def _apply(operator_NN: scipy.sparse.csr_array, wplus_NLD: np.ndarray) -> None:
    for row in range(wplus_NLD.shape[1]):
        wplus_NLD[:, row] = operator_NN @ wplus_NLD[:, row].astype(np.float64)


def _local_polynomial(
    times_N: np.ndarray, window_N2: np.ndarray, *, degree: int, sigma_seconds: float | None
) -> scipy.sparse.csr_array:
    """The matrix [N, N] that replaces each value by that, at its time, of a polynomial fitted to its window.

    A frame's weight is a Gaussian in its distance in time, times the share of time that it stands for (so that where frames
    crowd they do not weigh more), or 1 without `sigma_seconds`. A window of n frames takes degree n − 1 at most.
    """
    count = len(times_N)
    first_N = np.searchsorted(times_N, window_N2[:, 0] - _SAME_INSTANT, side="left")
    stop_N = np.searchsorted(times_N, window_N2[:, 1] + _SAME_INSTANT, side="right")
    share_N = np.gradient(times_N) if count > 1 and sigma_seconds is not None else np.ones(count)
    weights: list[np.ndarray] = []
    columns: list[np.ndarray] = []
    for begin in range(0, count, _FRAMES_AT_ONCE):
        batch = slice(begin, min(begin + _FRAMES_AT_ONCE, count))
        column_NK, inside_NK = windows(first_N[batch], stop_N[batch], count)
        offset_NK = times_N[column_NK] - times_N[batch, None]
        weight_NK = share_N[column_NK] * inside_NK
        if sigma_seconds is not None:
            weight_NK = weight_NK * np.exp(-0.5 * (offset_NK / sigma_seconds) ** 2)
        operator_NK = coefficients(offset_NK, weight_NK, degree)
        weights.append(operator_NK[inside_NK])
        columns.append(column_NK[inside_NK])
    starts = np.concatenate([[0], np.cumsum(stop_N - first_N)])
    return scipy.sparse.csr_array((np.concatenate(weights), np.concatenate(columns), starts), shape=(count, count))


def _one_euro(wplus_NLD: np.ndarray, times_N: np.ndarray, settings: SmoothingSettings) -> None:
    """Casiez et al. 2012, Algorithm 1, each channel by itself."""

    def share(cutoff_hz: np.ndarray | float, step_seconds: float) -> np.ndarray | float:
        # α = 1 / (1 + τ / Te), τ = 1 / (2π fc): Equations 2 and 3 of the paper.
        return 1.0 / (1.0 + 1.0 / (2.0 * np.pi * cutoff_hz * step_seconds))

    value_LD = wplus_NLD[0].astype(np.float64)
    speed_LD = np.zeros_like(value_LD)
    for index in range(1, len(times_N)):
        step_seconds = float(times_N[index] - times_N[index - 1])
        raw_LD = wplus_NLD[index].astype(np.float64)
        slope_LD = (raw_LD - value_LD) / step_seconds
        speed_LD += share(settings.derivative_cutoff_hz, step_seconds) * (slope_LD - speed_LD)
        cutoff_LD = settings.min_cutoff_hz + settings.speed_coefficient * np.abs(speed_LD)
        value_LD += share(cutoff_LD, step_seconds) * (raw_LD - value_LD)
        wplus_NLD[index] = value_LD
