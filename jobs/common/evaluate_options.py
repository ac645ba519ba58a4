"""Options and reports of both evaluations: weight files of reference networks, and a report of measurements."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table as RichTable

from jobs.common.errors import UsageError
from ops.metrics.identity import IdentityNetwork, IdentitySettings, open_identity
from ops.metrics.report import Table

LpipsWeights = Annotated[
    Path | None, typer.Option("--lpips-weights", help="LPIPS-Alex v0.1 in one file, or torchvision's alexnet-owt-*.pth.")
]
LpipsHeads = Annotated[Path | None, typer.Option("--lpips-heads", help="LPIPS's own alex.pth, beside torchvision's AlexNet.")]
InceptionWeights = Annotated[
    Path | None, typer.Option("--inception-weights", help="torchvision's inception_v3_google-*.pth, for FID.")
]
CurricularfaceWeights = Annotated[
    Path | None, typer.Option("--curricularface-weights", help="CurricularFace_Backbone.pth, for identity.")
]
ArcfaceWeights = Annotated[Path | None, typer.Option("--arcface-weights", help="model_ir_se50.pth, for identity.")]
MobilefacenetWeights = Annotated[
    Path | None, typer.Option("--mobilefacenet-weights", help="foamliu's MobileFaceNet, for identity.")
]
IdentityPack = Annotated[
    Path | None, typer.Option("--identity-pack", help="Folder of an insightface pack with a recogniser, for identity.")
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write every number here, with its network.")]
MarkdownFile = Annotated[Path | None, typer.Option("--markdown", help="Write the table here.")]


def identity_from(
    curricularface: Path | None, arcface: Path | None, mobilefacenet: Path | None, pack: Path | None
) -> IdentityNetwork | None:
    """The recogniser that was named; None for none. Raises UsageError for two: their numbers do not compare."""
    settings = [
        IdentitySettings(kind, path)  # type: ignore[arg-type]
        for kind, path in (
            ("curricularface", curricularface),
            ("arcface", arcface),
            ("mobilefacenet", mobilefacenet),
            ("insightface", pack),
        )
        if path is not None
    ]
    if len(settings) > 1:
        names = " and ".join(one.kind for one in settings)
        raise UsageError(f"expected one recogniser, got {names}; their numbers do not compare, so run once for each")
    return open_identity(settings[0]) if settings else None


def rich_table(table: Table, title: str | None = None) -> RichTable:
    """For a terminal; the notes stand below."""
    caption = "\n".join(f"[{i}] {note}" for i, note in enumerate(table.notes, start=1))
    drawn = RichTable(*table.header, title=title, caption=caption or None)
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def write_reports(json_file: Path | None, content: Mapping[str, Any], markdown_file: Path | None, text: str) -> None:
    """`content` as JSON, `text` as Markdown."""
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", "utf-8")
    if markdown_file is not None:
        markdown_file.parent.mkdir(parents=True, exist_ok=True)
        markdown_file.write_text(text, "utf-8")
