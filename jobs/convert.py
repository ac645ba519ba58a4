"""styleres convert: a foreign checkpoint => a bundle, or a generator for training. No code of the file is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from jobs.common.errors import FAILED, UsageError, explained
from jobs.common.values import Chosen, Option, Shape, options_of, several
from ops.checkpoints.bundle import Bundle
from ops.checkpoints.convert import convert
from ops.face.framing import Crop
from ops.inversion.presets import preset

FormatName = Literal[
    "auto",
    "styleres",
    "e4e",
    "psp",
    "restyle-e4e",
    "restyle-psp",
    "hfgi",
    "hyperstyle",
    "sfe",
    "sfe-inverter",
    "nvidia",
    "rosinality",
    "mobilestylegan",
]
PresetChoice = Literal["auto", "ffhq1024", "cars512", "mini64"]


@dataclass(frozen=True)
class ConvertSettings:
    """How a checkpoint is read, and what is written of it."""

    out: Path
    """Folder to write."""
    format: FormatName = "auto"
    """auto: by what is in it."""
    beside: tuple[Path, ...] = ()
    """Another file of the model: HyperStyle and SFE lie in several."""
    preset: PresetChoice = "auto"
    """auto: sizes are read off the tensors."""
    name: str | None = None
    """Name of the bundle; the folder's if not given."""
    half: bool = False
    """Store weights in float16."""
    crop: Crop = "ffhq"
    """How the model's pictures are cut: faces, or whole frames."""
    content: str | None = None
    """HEIGHTxWIDTH of the picture in the encoder's square, 192x256 for cars."""
    licence: str | None = None
    """For the config and the card."""
    overwrite: bool = False
    """Replace a model that is there already."""


TABLE: Final[Mapping[type, Shape]] = {
    ConvertSettings: Shape(
        {
            "out": Option("--out"),
            "format": Option("--format"),
            "beside": several("--with", type=list[Path], metavar="FILE"),
            "preset": Option("--preset"),
            "name": Option("--name"),
            "half": Option("--half"),
            "crop": Option("--crop"),
            "content": Option("--content"),
            "licence": Option("--licence"),
            "overwrite": Option("--overwrite"),
        }
    )
}


@options_of(TABLE, ConvertSettings)
def convert_command(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="StyleRes, e4e's family, NVIDIA, rosinality, MobileStyleGAN.", show_default=False),
    ],
    chosen: Chosen,
) -> None:
    """Convert a checkpoint of another project into a folder of safetensors and JSON."""
    with explained(FAILED):
        wanted = chosen.make(ConvertSettings)
        written = convert(
            file,
            wanted.out,
            wanted=None if wanted.format == "auto" else wanted.format,
            preset=None if wanted.preset == "auto" else preset(wanted.preset),
            beside=wanted.beside,
            name=wanted.name,
            half=wanted.half,
            crop=wanted.crop,
            content=content_from(wanted.content),
            licence=wanted.licence,
            overwrite=wanted.overwrite,
        )
    print(report(written))


def content_from(text: str | None) -> tuple[int, int] | None:
    """ "192x256" => (192, 256). Raises UsageError for anything else."""
    if text is None:
        return None
    words = text.lower().split("x")
    if len(words) != 2 or not all(word.isdigit() for word in words):
        raise UsageError(f"--content {text}: expected HEIGHTxWIDTH in pixels, for instance 192x256")
    return int(words[0]), int(words[1])


def report(written: Bundle | Path) -> str:
    """Say what there is now, and what to do with it."""
    match written:
        case Bundle():
            generator = written.config.generator
            return (
                f"{written.path}: {written.method}, {generator.resolution} px, {generator.num_ws} rows of W+, "
                f"digest {written.digest[:16]}\nlicence: {written.licence}\n"
                f"next: styleres edit INPUT --model {written.path} --edit NAME=STRENGTH --out OUT (docs/edits.md; "
                "a converted model has no edits of its own)"
            )
        case _:
            return (
                f"{written}: a generator without an encoder\n"
                f"next: styleres train e0 --prior {written} --data FACES.parquet --out RUN"
            )


def main() -> None:
    typer.run(convert_command)


if __name__ == "__main__":
    main()
