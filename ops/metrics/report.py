"""Measurements side by side: one row for each metric, one column for each subject, and what must be said below.

Numbers of single edits (`Measurement.item`) stand in tables of their own, one for each metric, with a row for each edit.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ops.metrics.metric import Measurement, Metric

MEAN_OVER_EDITS = "mean over edits"


@dataclass(frozen=True)
class Table:
    """Text, ready to be drawn by whatever draws it."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    """Footnotes, in the order of their numbers in the cells: the first is [1]."""


def table_of(measurements: Sequence[Measurement]) -> Table:
    """Rows and columns stand in the order in which metrics, edits and subjects first appear.

    Raises ValueError where a subject was measured twice by one metric.
    """
    rows = list(dict.fromkeys((one.metric, one.item) for one in measurements))
    labels = [(f"{item}: " if item else "") + label(metric) for metric, item in rows]
    return _table("metric", rows, labels, measurements, [source(metric) for metric, _ in rows])


def table_by_edit(metric: Metric, measurements: Sequence[Measurement]) -> Table:
    """The numbers of one metric: a row for each edit, with its number of faces, and their mean last, where it is not given."""
    given = [one for one in measurements if one.metric == metric]
    chosen, means = [one for one in given if one.item != MEAN_OVER_EDITS], [one for one in given if one.item == MEAN_OVER_EDITS]
    have = {one.subject for one in means}
    means += [one for one in mean_over_edits(chosen) if one.subject not in have]
    items = list(dict.fromkeys(one.item for one in chosen))
    counts = {item: max(one.count for one in chosen if one.item == item) for item in items}
    with_mean = chosen + means
    rows = [(metric, item) for item in ([*items, MEAN_OVER_EDITS] if means else items)]
    labels = [item if item == MEAN_OVER_EDITS else f"{item} ({counts[item]} faces)" for _, item in rows]
    return _table("edit", rows, labels, with_mean, None)


def _table(
    corner: str,
    keys: Sequence[tuple[Metric, str]],
    labels: Sequence[str],
    measurements: Sequence[Measurement],
    sources: Sequence[str] | None,
) -> Table:
    subjects = list(dict.fromkeys(one.subject for one in measurements))
    found = {(one.metric, one.item, one.subject): one for one in measurements}
    if len(found) != len(measurements):
        raise ValueError("a subject has two values of one metric; give the subjects different names")
    notes: list[str] = []

    def cell(metric: Metric, item: str, subject: str) -> str:
        one = found.get((metric, item, subject))
        if one is None:
            return "–"
        text = number(one)
        if one.note:
            if one.note not in notes:
                notes.append(one.note)
            text += f" [{notes.index(one.note) + 1}]"
        return text

    rows = []
    for i, ((metric, item), text) in enumerate(zip(keys, labels, strict=True)):
        cells = (text, *(cell(metric, item, subject) for subject in subjects))
        rows.append(cells if sources is None else (*cells, sources[i]))
    header = (corner, *subjects) if sources is None else (corner, *subjects, "network")
    return Table(header, tuple(rows), tuple(notes))


def over_seeds(subject: str, runs: Sequence[Sequence[Measurement]]) -> list[Measurement]:
    """One list of measurements for each trained seed => their means, with the standard deviation over seeds (n - 1) as spread.

    A single run keeps its values and has no spread: that of single faces says nothing about training again. Notes are kept. A
    number that one run lacks is missing. The mean over edits is taken within each run, so that it has a spread too.
    """
    runs = [[*run, *_means(run)] for run in runs]
    keys = dict.fromkeys((one.metric, one.item) for run in runs for one in run)
    combined = []
    for metric, item in keys:
        found = [one for run in runs for one in run if (one.metric, one.item) == (metric, item)]
        values = [one.value for one in found if one.value is not None]
        notes = list(dict.fromkeys(one.note for one in found if one.note))
        if len(values) < len(runs):
            if len(runs) > 1:
                notes.append(f"measured in {len(values)} of {len(runs)} runs")
            combined.append(Measurement(metric, subject, None, 0, None, "; ".join(notes), item))
            continue
        spread = statistics.stdev(values) if len(values) > 1 else None
        combined.append(Measurement(metric, subject, statistics.fmean(values), found[0].count, spread, "; ".join(notes), item))
    return combined


def mean_over_edits(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Average one metric: the plain mean over all edits of each subject that has a value for every one of them."""
    items = {one.item for one in measurements}
    combined = []
    for subject in dict.fromkeys(one.subject for one in measurements):
        found = [one for one in measurements if one.subject == subject]
        values = [one.value for one in found if one.value is not None]
        if len(items) > 1 and len(values) == len(items):
            mean = statistics.fmean(values)
            combined.append(Measurement(found[0].metric, subject, mean, len(values), item=MEAN_OVER_EDITS))
    return combined


def _means(run: Sequence[Measurement]) -> list[Measurement]:
    return [mean for metric in metrics_by_edit(run) for mean in mean_over_edits([one for one in run if one.metric == metric])]


def metrics_by_edit(measurements: Sequence[Measurement]) -> list[Metric]:
    """Those whose numbers belong to single edits, in order."""
    return list(dict.fromkeys(one.metric for one in measurements if one.item))


def label(metric: Metric) -> str:
    """Name, unit and an arrow to the better side, if there is one."""
    unit = f" ({metric.unit})" if metric.unit else ""
    arrow = {"lower": " ↓", "higher": " ↑", "neither": ""}[metric.better]
    return f"{metric.name}{unit}{arrow}"


def source(metric: Metric) -> str:
    """Name the network that a number comes from and, where it stands in for another, say so."""
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
    return markdown_table(table_of(measurements))


def markdown_by_edit(measurements: Sequence[Measurement], heading: str = "###") -> str:
    """A heading and a table for each metric of single edits."""
    parts = []
    for metric in metrics_by_edit(measurements):
        table = markdown_table(table_by_edit(metric, measurements))
        parts.append(f"{heading} {label(metric)}\n\nNetwork: {source(metric)}.\n\n{table}")
    return "\n".join(parts)


def markdown_table(table: Table) -> str:
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
