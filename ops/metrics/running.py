"""Numbers that come in pieces: their mean and spread, and of features also the covariance. Memory does not grow with the count.

Legend: N rows, D features.
"""

from __future__ import annotations

import math
from typing import final

import numpy as np

from ops.metrics.metric import Measurement, Metric, MetricError

FOLD = 256
"""Rows of features that are kept as they are before they are folded into the rest."""


@final
class RunningMean:
    """Mean and standard deviation of the values so far (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0

    def add(self, values: np.ndarray) -> None:
        """values [N], N may be 0. Raises MetricError for NaN: a mean that leaves some out unsaid would mislead."""
        values = np.asarray(values, np.float64)
        if np.isnan(values).any():
            raise MetricError("a value is not a number; find the picture that it comes from")
        if not len(values):
            return
        mean, total = float(values.mean()), self.count + len(values)
        apart = mean - self.mean
        self._squares += float(np.square(values - mean).sum()) + apart**2 * self.count * len(values) / total
        self.mean += apart * len(values) / total
        self.count = total

    def measurement(self, metric: Metric, subject: str, item: str = "", note: str = "") -> Measurement:
        """With the population's standard deviation; without a value where there was none, which the note then says."""
        if not self.count:
            return Measurement(metric, subject, None, 0, None, note or "nothing to measure", item)
        return Measurement(metric, subject, self.mean, self.count, math.sqrt(self._squares / self.count), note, item)


@final
class FeatureMoments:
    """Mean and covariance of features, as a matrix R of at most D rows with R^T R = sum of (f - mean)(f - mean)^T."""

    def __init__(self) -> None:
        self.count = 0
        self._pending: list[np.ndarray] = []
        self._folded = 0
        self._mean = np.zeros(0)
        self._root = np.zeros((0, 0))

    def add(self, rows_ND: np.ndarray) -> None:
        """Raises MetricError for features that are not [N, D], are not finite, or of another width than those before."""
        rows = np.asarray(rows_ND, np.float64)
        if rows.ndim != 2:
            raise MetricError(f"features: expected rows [N, D], got {list(rows.shape)}")
        if not np.isfinite(rows).all():
            raise MetricError("features that are not finite; find the picture that they come from")
        if not len(rows):
            return
        if not self.count:
            self._mean, self._root = np.zeros(rows.shape[1]), np.zeros((0, rows.shape[1]))
        elif rows.shape[1] != len(self._mean):
            raise MetricError(f"features: expected one width, got {len(self._mean)} and {rows.shape[1]}")
        self._pending.append(rows)
        self.count += len(rows)
        if self.count - self._folded >= FOLD:
            self._fold()

    @property
    def mean_D(self) -> np.ndarray:
        self._fold()
        return self._mean

    def root(self) -> np.ndarray:
        """A [K, D], K at most D, with A^T A the covariance (with N - 1)."""
        self._fold()
        return self._root / math.sqrt(self.count - 1)

    def _fold(self) -> None:
        if not self._pending:
            return
        rows, before = np.concatenate(self._pending), self._folded
        mean = rows.mean(axis=0)
        apart = math.sqrt(before * len(rows) / self.count) * (mean - self._mean)
        root = np.concatenate([self._root, rows - mean, apart[None]])
        # Rotated into its own D-dimensional frame it has D rows; the square of it, and so every sum below, stays the same.
        self._root = np.linalg.qr(root).R if len(root) > root.shape[1] else root
        self._mean = self._mean + (mean - self._mean) * len(rows) / self.count
        self._pending, self._folded = [], self.count
