"""styleres convert: a foreign checkpoint => a bundle, or a generator for training. No code of the file is run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs.common.errors import FAILED, UsageError, explained
from ops.checkpoints.bundle import Bundle
from ops.checkpoints.convert import convert
from ops.inversion.presets import PresetName, preset

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


def convert_command(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="StyleRes, e4e's family, NVIDIA, rosinality, MobileStyleGAN.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.", show_default=False)],
    format: Annotated[FormatName, typer.Option("--format", help="auto: by what is in it.")] = "auto",
    beside: Annotated[
        list[Path], typer.Option("--with", metavar="FILE", help="Another file of the model: HyperStyle and SFE lie in several.")
    ] = [],  # noqa: B006 (typer copies it)
    sizes: Annotated[
        Literal["auto", "ffhq1024", "cars512", "mini64"], typer.Option("--preset", help="auto: sizes are read off the tensors.")
    ] = "auto",
    name: Annotated[str | None, typer.Option("--name", help="Name of the bundle; the folder's if not given.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Store weights in float16.")] = False,
    crop: Annotated[
        Literal["ffhq", "none", "centre"],
        typer.Option("--crop", help="How the model's pictures are cut: faces, or whole frames."),
    ] = "ffhq",
    content: Annotated[
        str | None, typer.Option("--content", help="HEIGHTxWIDTH of the picture in the encoder's square, 192x256 for cars.")
    ] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="For the config and the card.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there already.")] = False,
) -> None:
    """Convert a checkpoint of another project into a folder of safetensors and JSON."""
    with explained(FAILED):
        chosen: PresetName | None = None if sizes == "auto" else sizes
        written = convert(
            file,
            out,
            wanted=None if format == "auto" else format,
            preset=None if chosen is None else preset(chosen),
            beside=beside,
            name=name,
            half=half,
            crop=crop,
            content=content_from(content),
            licence=licence,
            overwrite=overwrite,
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
