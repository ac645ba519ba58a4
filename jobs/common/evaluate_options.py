"""Settings of both evaluations, which options they are, and the reports of measurements."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from rich.table import Table as RichTable

from jobs.common.errors import UsageError
from jobs.common.lpips_files import require_alexnet
from jobs.common.settings import MORE
from jobs.common.values import Option, Shape, several
from ops.checkpoints.bundle import DEFAULT
from ops.device import Device
from ops.inversion.session import Precision
from ops.metrics.identity import IdentityNetwork, IdentitySettings, open_identity
from ops.metrics.pictures import PictureMetric
from ops.metrics.report import Table


@dataclass(frozen=True)
class PictureFiles:
    """Weights of networks that pictures are measured with."""

    lpips_weights: Path | None = None
    """LPIPS-Alex v0.1 in one file, or torchvision's alexnet-owt-*.pth."""
    lpips_heads: Path | None = None
    """LPIPS's own alex.pth, beside torchvision's AlexNet."""
    inception_weights: Path | None = None
    """torchvision's inception_v3_google-*.pth, for FID."""

    def __post_init__(self) -> None:
        require_alexnet(self.lpips_weights, self.lpips_heads)


@dataclass(frozen=True)
class Recogniser:
    """Files of the network that tells identities apart: of one, as numbers of two do not compare."""

    curricularface_weights: Path | None = None
    """CurricularFace_Backbone.pth, for identity."""
    arcface_weights: Path | None = None
    """model_ir_se50.pth, for identity."""
    mobilefacenet_weights: Path | None = None
    """foamliu's MobileFaceNet, for identity."""
    identity_pack: Path | None = None
    """Folder of an insightface pack with a recogniser, for identity."""

    def __post_init__(self) -> None:
        if len(self._named) > 1:
            names = " and ".join(one.kind for one in self._named)
            raise UsageError(f"expected one recogniser, got {names}; their numbers do not compare, so run once for each")

    @property
    def _named(self) -> list[IdentitySettings]:
        return [
            IdentitySettings(kind, path)  # type: ignore[arg-type]
            for kind, path in (
                ("curricularface", self.curricularface_weights),
                ("arcface", self.arcface_weights),
                ("mobilefacenet", self.mobilefacenet_weights),
                ("insightface", self.identity_pack),
            )
            if path is not None
        ]

    def open(self) -> IdentityNetwork | None:
        """Load the recogniser that was named; None for none."""
        return open_identity(self._named[0]) if self._named else None


@dataclass(frozen=True)
class Reports:
    """Files of numbers."""

    json_file: Path | None = None
    """Write every number here, with its network."""
    markdown_file: Path | None = None
    """Write the table here."""


@dataclass(frozen=True)
class Contest:
    """Models to measure, faces and edits to measure them with, and how."""

    data: str | None = None
    """Aligned faces: Parquet (image, identity, booleans), a folder, or hf:NAME."""
    model: tuple[str, ...] = (DEFAULT,)
    """[NAME[@SEED]=]BUNDLE, several times: an embedded model or a folder. Seeds of one NAME are one column with ±."""
    also_wplus: bool = False
    """Also the pictures of W+ alone, as a column of their own."""
    edit: tuple[str, ...] = ()
    """NAME=STRENGTH[:ATTRIBUTE or :-ATTRIBUTE], several times; both signs are measured."""
    faces: int = 512
    """Held-out faces."""
    judge: Path | None = None
    """Keep the attribute classifier here; reuse it."""
    card: bool = False
    """Write the numbers into the card of every bundle."""
    out: Path | None = None
    """Folder for report, plots and contact sheet."""
    metrics: str = "auto"
    batch: int = 32
    """Faces at a time."""
    size: int | None = None
    """Side in pixels of the pictures that the models make; their largest if not given."""
    device: Device = "auto"
    """Device of models and networks."""
    precision: Precision = "fp32"
    """Precision of the models' feature maps."""


@dataclass(frozen=True)
class EditedVideo:
    """An edited video, its source, and where the faces are."""

    source: Path
    """The video before the edit."""
    edited: Path
    """The video after it."""
    store: Path | None = None
    """The store of the edit: its tracks say where the faces are."""
    mask: Literal["soft", "face"] = "soft"
    """The mask that the edit was pasted with."""
    allow_hdr: bool = False
    """Take PQ and HLG sources as if they were SDR."""


TABLE: Final[Mapping[type, Shape]] = {
    Contest: Shape(
        {
            "data": Option("--data"),
            "model": several(
                "--model",
                "[NAME[@SEED]=]BUNDLE, several times: an embedded model or a folder. Seeds of one NAME are one column with ±.",
                default=[DEFAULT],
            ),
            "also_wplus": Option("--also-wplus"),
            "edit": several("--edit"),
            "faces": Option("--faces", min=16),
            "judge": Option("--judge"),
            "card": Option("--card"),
            "out": Option("--out"),
            "metrics": Option(
                "--metrics", help=f"auto (all whose weights are given), or some of {','.join(get_args(PictureMetric))}"
            ),
            "batch": Option("--batch", min=1),
            "size": Option("--size"),
            "device": Option("--device"),
            "precision": Option("--precision"),
        }
    ),
    EditedVideo: Shape(
        {
            "source": Option("--source"),
            "edited": Option("--edited"),
            "store": Option("--store"),
            "mask": Option("--mask"),
            "allow_hdr": Option("--allow-hdr", MORE),
        }
    ),
    PictureFiles: Shape(
        {
            "lpips_weights": Option("--lpips-weights"),
            "lpips_heads": Option("--lpips-heads"),
            "inception_weights": Option("--inception-weights"),
        }
    ),
    Recogniser: Shape(
        {
            "curricularface_weights": Option("--curricularface-weights"),
            "arcface_weights": Option("--arcface-weights"),
            "mobilefacenet_weights": Option("--mobilefacenet-weights"),
            "identity_pack": Option("--identity-pack"),
        }
    ),
    Reports: Shape({"json_file": Option("--json"), "markdown_file": Option("--markdown")}),
}


def rich_table(table: Table, title: str | None = None) -> RichTable:
    """For a terminal; the notes stand below."""
    caption = "\n".join(f"[{i}] {note}" for i, note in enumerate(table.notes, start=1))
    drawn = RichTable(*table.header, title=title, caption=caption or None)
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def write_reports(files: Reports, content: Mapping[str, Any], text: str) -> None:
    """Write `content` as JSON and `text` as Markdown, where a file was named."""
    if files.json_file is not None:
        files.json_file.parent.mkdir(parents=True, exist_ok=True)
        files.json_file.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", "utf-8")
    if files.markdown_file is not None:
        files.markdown_file.parent.mkdir(parents=True, exist_ok=True)
        files.markdown_file.write_text(text, "utf-8")
