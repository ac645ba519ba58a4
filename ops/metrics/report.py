"""Measurements side by side: one row for each metric, one column for each subject, and what must be said below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ops.metrics.metric import Measurement, Metric


@dataclass(frozen=True)
class Table:
    """Text, ready to be drawn by whatever draws it."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    """Footnotes, in the order of their numbers in the cells: the first is [1]."""


def table_of(measurements: Sequence[Measurement]) -> Table:
    """Rows and columns stand in the order in which metrics and subjects first appear.

    Raises ValueError where a subject was measured twice by one metric.
    """
    subjects = list(dict.fromkeys(one.subject for one in measurements))
    metrics = list(dict.fromkeys(one.metric for one in measurements))
    found = {(one.metric, one.subject): one for one in measurements}
    if len(found) != len(measurements):
        raise ValueError("a subject has two values of one metric; give the subjects different names")
    notes: list[str] = []

    def cell(metric: Metric, subject: str) -> str:
        one = found.get((metric, subject))
        if one is None:
            return "–"
        text = number(one)
        if one.note:
            if one.note not in notes:
                notes.append(one.note)
            text += f" [{notes.index(one.note) + 1}]"
        return text

    rows = [(label(metric), *(cell(metric, subject) for subject in subjects), source(metric)) for metric in metrics]
    return Table(("metric", *subjects, "network"), tuple(rows), tuple(notes))


def label(metric: Metric) -> str:
    """Name, unit and an arrow to the better side, if there is one."""
    unit = f" ({metric.unit})" if metric.unit else ""
    arrow = {"lower": " ↓", "higher": " ↑", "neither": ""}[metric.better]
    return f"{metric.name}{unit}{arrow}"


def source(metric: Metric) -> str:
    """Which network a number comes from, and what it is not, where it stands in for something."""
    network = metric.network or "none"
    return network if metric.stands_for is None else f"{network}; stands in for {metric.stands_for}"


def number(measurement: Measurement) -> str:
    """Four significant digits, with the spread where there is one."""
    if measurement.value is None:
        return "–"
    if math.isinf(measurement.value):
        return "∞" if measurement.value > 0 else "-∞"
    spread = "" if measurement.spread is None or measurement.count < 2 else f" ± {measurement.spread:.2g}"
    return f"{measurement.value:.4g}{spread}"


def markdown_of(measurements: Sequence[Measurement]) -> str:
    """The table as GitHub's Markdown, notes below it."""
    table = table_of(measurements)
    lines = [_line(table.header), "|---" * len(table.header) + "|", *(_line(row) for row in table.rows)]
    if table.notes:
        lines += ["", *(f"[{i}] {note}" for i, note in enumerate(table.notes, start=1))]
    return "\n".join(lines) + "\n"


def json_of(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """One object for each measurement."""
    return [one.to_json() for one in measurements]


def _line(cells: Sequence[str]) -> str:
    # A file's name in a subject may hold a bar.
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
