"""Names a number, says which way is better, and which network it comes from. The values of a report are made of these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal


class MetricError(ValueError):
    """Something that cannot be measured; the message says what was expected, what came, and what to do."""


@dataclass(frozen=True)
class Metric:
    """One kind of number. Two numbers compare only if their metrics are equal, the network included."""

    name: str
    better: Literal["lower", "higher", "neither"]
    """neither: a number that others are read against, such as how large an edit is at all."""
    unit: str
    """In words; empty for a plain ratio or a distance without one."""
    network: str | None = None
    """The network whose features it compares; None if it compares pixels or coordinates."""
    stands_for: str | None = None
    """The official evaluation's metric that this one replaces, where it is not that metric itself."""

    def __post_init__(self) -> None:
        if not self.name or any(character in self.name for character in "|\n"):
            raise ValueError(f"a metric's name goes into tables: one line without bars, got {self.name!r}")


@dataclass(frozen=True)
class Measurement:
    """One number of a report."""

    metric: Metric
    subject: str
    """The subject: a method, an edit, a track."""
    value: float | None
    """May be infinite (PSNR of equal pictures), never NaN. None: it could not be measured, and the note says why."""
    count: int
    """Number of pictures, pairs or frames that it is the mean of."""
    spread: float | None = None
    """Standard deviation over them; None where the number is one of the whole set."""
    note: str = ""
    """A note that a reader needs before comparing the number."""
    item: str = ""
    """The part of the subject: one edit of several; empty for all of it."""

    def __post_init__(self) -> None:
        if self.value is not None and math.isnan(self.value):
            raise MetricError(f"{self.metric.name} of {self.subject}: the value is not a number")
        if self.value is None and not self.note:
            raise ValueError(f"{self.metric.name} of {self.subject}: no value, and no note that says why")

    def to_json(self) -> dict[str, Any]:
        """Plain values; an infinite value, which JSON lacks, becomes null and its note says so."""
        infinite = self.value is not None and math.isinf(self.value)
        return {
            "metric": self.metric.name,
            "better": self.metric.better,
            "unit": self.metric.unit,
            "network": self.metric.network,
            "stands_for": self.metric.stands_for,
            "subject": self.subject,
            "item": self.item,
            "value": None if infinite else self.value,
            "count": self.count,
            "spread": self.spread,
            "note": "; ".join(part for part in ("infinite" if infinite else "", self.note) if part),
        }


def mean_of(metric: Metric, subject: str, values: Sequence[float], note: str = "") -> Measurement:
    """Mean and standard deviation of at least one value.

    Raises MetricError for no value, or one that is not a number: a mean that leaves some out unsaid would lie.
    """
    if not len(values):
        raise MetricError(f"{metric.name} of {subject}: nothing to measure")
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)) if math.isfinite(mean) else None
    return Measurement(metric, subject, float(mean), len(values), spread, note)
