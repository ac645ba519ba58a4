"""Pixels against pixels: mean squared error, SSIM and MS-SSIM as the official evaluation computes them.

SSIM is Wang et al. 2004, MS-SSIM Wang et al. 2003, both in jorge-pessoa's form (which e4e's and StyleRes's scripts call): a
Gaussian window of 11 taps and sigma 1.5 without padding, five scales by 2x2 means, no clamping of negative contrast.

Legend: N pictures, C channels; pictures [N, C, H, W], results first, references second.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ops.metrics.metric import MetricError

WINDOW, SIGMA = 11, 1.5
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, finest first (Wang et al. 2003, section 3.2)."""
SMALLEST_SIDE = WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1)
"""Least side of a picture for MS-SSIM: its coarsest scale still holds one window."""
DataRange = float | Literal["official"]


def ssim(results: Tensor, references: Tensor, data_range: DataRange = "official") -> Tensor:
    """=> [N] float64, 1 for equal pictures, at least -1.

    data_range: the largest difference that two values can have; "official" guesses it from each result (`guessed_range`).
    Raises MetricError for pictures that differ in shape or are smaller than the window.
    """
    _require_pairs(results, references, WINDOW)
    structure, _ = _scale(results.double(), references.double(), data_range)
    return structure


def ms_ssim(results: Tensor, references: Tensor, data_range: DataRange = "official") -> Tensor:
    """=> [N] float64, 1 for equal pictures: contrast of four scales and SSIM of the fifth, each to its weight, multiplied.

    NaN where a scale's contrast is negative (pictures that have nothing to do with each other), as in the official program,
    whose mean leaves such pairs out; `jobs.evaluate` says how many. "official" guesses the range at each scale anew, as there.
    Raises MetricError for pictures that differ in shape or have a side below 176 pixels.
    """
    return ssim_and_ms_ssim(results, references, data_range)[1]


def ssim_and_ms_ssim(results: Tensor, references: Tensor, data_range: DataRange = "official") -> tuple[Tensor, Tensor]:
    """`ssim` and `ms_ssim` of the same pictures, which share the finest scale and most of the time."""
    _require_pairs(results, references, SMALLEST_SIDE)
    x, y = results.double(), references.double()
    product = torch.ones(len(x), dtype=torch.float64, device=x.device)
    first: Tensor | None = None
    for scale, weight in enumerate(SCALE_WEIGHTS):
        structure, contrast = _scale(x, y, data_range)
        first = structure if first is None else first
        last = scale == len(SCALE_WEIGHTS) - 1
        product = product * (structure if last else contrast) ** weight
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    assert first is not None
    return first, product


def guessed_range(results: Tensor) -> Tensor:
    """Guess the range of each result as the official program does => [N]: 255 or 1 above (a value over 128 decides), less -1
    or 0 below (a value under -0.5 decides). A result in [-1, 1] without a dark value is measured with 1 instead of 2."""
    high = torch.where(results.amax(dim=(1, 2, 3)) > 128, 255.0, 1.0)
    low = torch.where(results.amin(dim=(1, 2, 3)) < -0.5, -1.0, 0.0)
    return (high - low).double()


def squared_error(results: np.ndarray, references: np.ndarray) -> np.ndarray:
    """uint8 [..., H, W, 3] twice => float64 [..., H, W], mean over the colours, in levels squared."""
    if results.shape != references.shape:
        raise MetricError(f"expected pictures of one shape, got {list(results.shape)} and {list(references.shape)}")
    difference = results.astype(np.int32) - references.astype(np.int32)
    return np.square(difference).mean(axis=-1)


def decibels(mean_squared_levels: float) -> float:
    """PSNR, 10 log10(255^2 / error), of a mean squared error in 8-bit levels squared; infinite for 0."""
    return float("inf") if mean_squared_levels == 0 else float(10 * np.log10(255.0**2 / mean_squared_levels))


def _scale(x: Tensor, y: Tensor, data_range: DataRange) -> tuple[Tensor, Tensor]:
    """(SSIM, its contrast-structure part) of one scale, each [N]."""
    span = guessed_range(x) if data_range == "official" else torch.full((len(x),), float(data_range), dtype=torch.float64)
    c1, c2 = ((k * span.reshape(-1, 1, 1, 1)) ** 2 for k in (0.01, 0.03))
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    contrast = (2 * covariance + c2) / (variance_x + variance_y + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * contrast).mean(dim=(1, 2, 3)), contrast.mean(dim=(1, 2, 3))


def _blur(x: Tensor) -> Tensor:
    """The Gaussian window over every place where it fits, as sums of shifted maps: 7 times as fast as a float64 convolution."""
    taps = torch.exp(-((torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    weights = (taps / taps.sum()).tolist()
    for axis in (2, 3):
        count = x.shape[axis] - WINDOW + 1
        total = x.narrow(axis, 0, count) * weights[0]
        for i in range(1, WINDOW):
            total.add_(x.narrow(axis, i, count), alpha=weights[i])
        x = total
    return x


def _require_pairs(results: Tensor, references: Tensor, smallest: int) -> None:
    if results.ndim != 4 or results.shape != references.shape:
        raise MetricError(
            f"expected results and references of one shape [N, C, H, W], got {list(results.shape)} and {list(references.shape)}"
        )
    if min(results.shape[2:]) < smallest:
        raise MetricError(f"expected pictures of at least {smallest} px a side, got {list(results.shape[2:])}; enlarge them")
