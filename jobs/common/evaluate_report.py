"""Writes the report of models side by side: Markdown, JSON, plots, a contact sheet, and a section of a card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

from jobs.common.evaluate_options import rich_table
from ops.checkpoints.bundle import Bundle
from ops.metrics.evaluation import Measured
from ops.metrics.metric import Measurement, Metric
from ops.metrics.report import (
    json_of,
    label,
    markdown_by_edit,
    markdown_of,
    metrics_by_edit,
    over_seeds,
    table_by_edit,
    table_of,
)

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
SOURCE = "unedited faces"
"""The column of what real faces themselves have, where that can be measured."""


@dataclass(frozen=True, eq=False)
class Run:
    """One trained model of the comparison."""

    name: str
    """The column: runs of one name differ in their seed only."""
    seed: str | None
    bundle: Bundle
    measured: Measured
    wplus: Measured | None
    """The same bundle's W+ only, where it was asked for and not measured with another bundle of the same encoder."""


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that was found."""

    about: Mapping[str, Any]
    """Plain values: data, faces, command."""
    accuracy: Mapping[str, float]
    """Accuracy of the attribute classifier on the real faces."""
    runs: tuple[Run, ...]
    unedited: tuple[Measurement, ...]

    def columns(self) -> list[tuple[str, list[Measured]]]:
        """Name => one result for each seed, in the order of the command."""
        found: dict[str, list[Measured]] = {}
        for run in self.runs:
            if run.wplus is not None:
                found.setdefault(wplus_name(run.name), []).append(run.wplus)
            found.setdefault(run.name, []).append(run.measured)
        return list(found.items())

    def side_by_side(self) -> list[Measurement]:
        """One measurement for each metric, edit and column; ± is over seeds."""
        rows = [
            one for name, measured in self.columns() for one in over_seeds(name, [result.measurements for result in measured])
        ]
        return [*rows, *self.unedited]

    def to_json(self) -> dict[str, Any]:
        return {
            **self.about,
            "classifier_accuracy": dict(self.accuracy),
            "models": [_run_json(run) for run in self.runs],
            "side_by_side": json_of(self.side_by_side()),
        }

    def to_markdown(self) -> str:
        rows = self.side_by_side()
        seeds = {name: len(measured) for name, measured in self.columns() if len(measured) > 1}
        lines = [f"{self.about['faces']} faces of held-out identities of `{self.about['data']}`."]
        if seeds:
            counts = ", ".join(f"{name}: {count}" for name, count in seeds.items())
            lines.append(f"± is the standard deviation over trained seeds ({counts}).")
        if self.accuracy:
            found = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in self.accuracy.items())
            lines.append(f"Attribute classifier, accuracy on the real faces: {found}.")
        return "\n".join(["# Evaluation", "", *lines, "", body(rows, "##")])


def wplus_name(name: str) -> str:
    return f"{name}, W+ only"


def body(rows: Sequence[Measurement], heading: str) -> str:
    """Tables of reconstruction, time and edits."""
    whole = [one for one in rows if not one.item]
    parts = [f"{heading} Reconstruction and time", "", markdown_of(whole)]
    if metrics_by_edit(rows):
        parts += [f"{heading} Edits", "", EXPLAINED, "", markdown_by_edit(rows, heading + "#")]
    return "\n".join(parts)


EXPLAINED = (
    "Each edit is made on the faces that lack what it brings, and compared with real faces that have it. What each number is: "
    "docs/metrics.md."
)


def _run_json(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": run.name,
        "seed": run.seed,
        "bundle": run.bundle.name,
        "digest": run.bundle.digest,
        "measurements": json_of(run.measured.measurements),
        "attributes_moved": run.measured.moved,
    }
    if run.wplus is not None:
        found["wplus_only"] = {"measurements": json_of(run.wplus.measurements), "attributes_moved": run.wplus.moved}
    return found


def print_report(report: Report, console: Console) -> None:
    rows = report.side_by_side()
    console.print(rich_table(table_of([one for one in rows if not one.item])))
    for metric in metrics_by_edit(rows):
        console.print(rich_table(table_by_edit(metric, rows), label(metric)))


def write_folder(report: Report, sources: np.ndarray, out: Path) -> list[Path]:
    """report.md, report.json, contact_sheet.png, reconstruction.png and edits.png => the files.

    sources: uint8 [K, R, R, 3], the faces of the contact sheet. Without matplotlib it draws no plots.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text(report.to_markdown(), "utf-8")
    (out / "report.json").write_text(json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n", "utf-8")
    contact_sheet(report, sources).save(out / "contact_sheet.png")
    written = [out / "report.md", out / "report.json", out / "contact_sheet.png"]
    return written + plots(report.side_by_side(), out)


def contact_sheet(report: Report, sources: np.ndarray) -> Image.Image:
    """A row per face: the source, then for each column its reconstruction, the first edit added, and taken away."""
    columns = [("source", sources)]
    for name, measured in report.columns():
        examples = measured[0].examples
        edits = list(measured[0].moved)[:2]
        columns += [(name, examples.reconstruction)]
        columns += [(edit, pictures) for edit, pictures in zip(edits, (examples.added, examples.removed), strict=False)]
    side, head = max(96, sources.shape[1]), 30
    sheet = Image.new("RGB", (side * len(columns), head + side * len(sources)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for place, (title, pictures) in enumerate(columns):
        for line, text in enumerate(_wrapped(title, 16)[:2]):
            draw.text((place * side + 3, 2 + 13 * line), text, fill="black", font=font)
        for row, picture in enumerate(pictures):
            tile = Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(tile, (place * side, head + row * side))
    return sheet


def _wrapped(text: str, width: int) -> list[str]:
    return [text[i : i + width] for i in range(0, len(text), width)]


def plots(rows: Sequence[Measurement], out: Path) -> list[Path]:
    """Bars, one panel per metric; [] without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return []
    whole = list(dict.fromkeys(one.metric for one in rows if not one.item))
    by_edit = metrics_by_edit(rows)
    written = []
    for name, metrics, width in (("reconstruction", whole, 3.2), ("edits", by_edit, 7.5)):
        if not metrics:
            continue
        across = 4 if name == "reconstruction" else 2
        down = -(-len(metrics) // across)
        figure = Figure(figsize=(width * across, 2.9 * down), layout="constrained")
        for place, metric in enumerate(metrics):
            _panel(figure.add_subplot(down, across, place + 1), metric, [one for one in rows if one.metric == metric])
        path = out / f"{name}.png"
        figure.savefig(path, dpi=100)
        written.append(path)
    return written


def _panel(axes: Any, metric: Metric, rows: Sequence[Measurement]) -> None:
    subjects = list(dict.fromkeys(one.subject for one in rows))
    items = list(dict.fromkeys(one.item for one in rows))
    found = {(one.subject, one.item): one for one in rows}
    width = 0.8 / len(subjects)
    for place, subject in enumerate(subjects):
        drawn = [(i, found[subject, item]) for i, item in enumerate(items) if (subject, item) in found]
        drawn = [(i, one) for i, one in drawn if one.value is not None]
        axes.bar(
            [i + (place - (len(subjects) - 1) / 2) * width for i, _ in drawn],
            [one.value for _, one in drawn],
            width,
            yerr=[one.spread or 0.0 for _, one in drawn],
            label=subject,
        )
    axes.set_title(label(metric).replace("↓", "(lower is better)").replace("↑", "(higher is better)"), fontsize=8)
    axes.set_xticks(range(len(items)), items, rotation=30, ha="right", fontsize=7)
    axes.tick_params(axis="y", labelsize=7)
    axes.legend(fontsize=6)


def card_section(report: Report, run: Run, model: str) -> str:
    """The measured part of one bundle's card."""
    rows = [] if run.wplus is None else over_seeds(run.wplus.subject, [run.wplus.measurements])
    rows += over_seeds(run.measured.subject, [run.measured.measurements])
    asked = "".join(f" --{name} {value}" for name, value in report.about.items() if name in ("faces", "size"))
    edits = "".join(f" --edit {edit}" for edit in report.about.get("edits", ()))
    command = f"styleres evaluate --model {model}{asked}{edits} --also-wplus --data FACES --card"
    lines = [BEGIN, f"Measured on {report.about['faces']} faces of held-out identities with", f"`{command}`.", ""]
    return "\n".join([*lines, body([*rows, *report.unedited], "###"), END])


def with_section(card: str, measured: str) -> str:
    """Replace what stands between the markers, or append it."""
    if BEGIN in card and END in card:
        return card[: card.index(BEGIN)] + measured + card[card.index(END) + len(END) :]
    return card.rstrip() + "\n\n## Measured quality\n\n" + measured + "\n"
