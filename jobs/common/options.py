"""Options that several commands share, each declared once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs.common.errors import UsageError
from jobs.common.settings import MORE, VIDEO, RunnerSettings
from ops.checkpoints.bundle import Bundle, open_method
from ops.inversion.methods import Method
from pipeline.engine.runner import InProcessRunner, Runner
from pipeline.store.places import is_url

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="Videos, images, folders, 'globs', WebDataset .tar shards, .parquet files of images, @lists; paths or URLs.",
        show_default=False,
    ),
]
StoreFolder = Annotated[str, typer.Option("--store", help="Folder or URL of the Parquet store.", show_default=False)]
KeptStore = Annotated[
    str | None, typer.Option("--store", help="Keep the codes here for further edits; thrown away if not given.")
]
Only = Annotated[
    list[str], typer.Option("--only", rich_help_panel=MORE, help="Name or key of a source; all of the store if not given.")
]
StoreModel = Annotated[str | None, typer.Option("--model", help="The bundle, if the store's is not an embedded one.")]
Model = Annotated[str, typer.Option(help="An embedded model's name, or a bundle's folder.")]
MethodName = Annotated[
    Literal["auto", Method],
    typer.Option(
        "--method",
        rich_help_panel=MORE,
        help="Which, where --model is a folder of a bundle per method; docs/methods.md compares them.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what other settings made; what this command has finished stays.")
]
MaxFailed = Annotated[
    str, typer.Option("--max-failed", help="Inputs that may lose something before the exit code is 1: a number, or 5%.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything cheap, print the plan, and stop.")]
AllowHdr = Annotated[
    bool, typer.Option("--allow-hdr", rich_help_panel=MORE, help="Take PQ and HLG sources as if they were SDR.")
]
ProgressMode = Annotated[
    Literal["auto", "bars", "json"],
    typer.Option("--progress", rich_help_panel=MORE, help="auto: bars on a terminal, JSON lines otherwise."),
]

Codec = Annotated[
    Literal["auto", "float32", "float16", "int8"],
    typer.Option(
        "--residual-codec",
        rich_help_panel=MORE,
        help="How a new store keeps residuals; auto: the store's own, or int8. float32 keeps every bit.",
    ),
]

Edits = Annotated[
    list[str], typer.Option("--edit", help="NAME=STRENGTH, several times; see docs/edits.md.", show_default=False)
]
UserEditors = Annotated[
    list[str],
    typer.Option(
        "--editor",
        rich_help_panel=MORE,
        help="NAME=KIND:PATH[@OPTION=VALUE], several times; see docs/edits.md.",
        show_default=False,
    ),
]
EditorFolders = Annotated[
    list[str],
    typer.Option(
        "--editors", rich_help_panel=MORE, help="[PREFIX=]FOLDER of official edit files, several times.", show_default=False
    ),
]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="A YAML file instead of --edit.")]
Out = Annotated[str, typer.Option("--out", help="A file for one input, otherwise a folder or URL.", show_default=False)]
Container = Annotated[
    Literal["auto", "mp4", "mov", "mkv", "webm"],
    typer.Option(
        "--container",
        rich_help_panel=VIDEO,
        help="auto: the source's own where it holds the codec; mkv holds nearly everything.",
    ),
]
DropUnsupported = Annotated[
    bool,
    typer.Option(
        "--drop-unsupported",
        rich_help_panel=VIDEO,
        help="Edit sources whose output cannot carry everything; --dry-run lists what.",
    ),
]
ContactSheet = Annotated[
    Path | None, typer.Option("--contact-sheet", rich_help_panel=VIDEO, help="Where; NAME.contact_sheet.png if not given.")
]
SideBySide = Annotated[
    bool, typer.Option("--side-by-side", rich_help_panel=VIDEO, help="Also write source and edit side by side.")
]


def bundle_from(model: str, method: str) -> Bundle:
    """`--model` and `--method`."""
    return open_method(model, None if method == "auto" else method)  # type: ignore[arg-type]


def out_from(out: str) -> str:
    """`--out` as it is meant: with `~` expanded. Raises UsageError for what can be no place of results.

    A job's working folder on a Ray cluster is a copy that is thrown away, so a relative path is refused there.
    """
    if out in ("", "-"):
        raise UsageError("--out: results are files, and cannot go to standard output; name a file or a folder")
    if is_url(out):
        return out
    expanded = os.path.expanduser(out)
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not os.path.isabs(expanded):
        raise UsageError(
            f"--out {out}: the folder of a submitted Ray job is a copy that is thrown away after it; give an absolute path "
            "that every node sees, or a URL"
        )
    return expanded


@contextmanager
def runner_from(settings: RunnerSettings) -> Iterator[Runner]:
    """In process unless Ray is asked for, by name or by an address."""
    if settings.name == "in-process" and settings.address is None:
        yield InProcessRunner()
        return
    from pipeline.on_ray.runner import RayRunner  # Ray takes a second to import; a local run does without

    runner = RayRunner(
        settings.address,
        workers=settings.workers,
        num_gpus=settings.num_gpus,
        item_seconds=settings.item_seconds,
        node_seconds=settings.node_seconds,
    )
    try:
        yield runner
    finally:
        runner.close()


def allowed_from(text: str) -> int | float:
    """`--max-failed`: 3 inputs, or 5% of them."""
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else int(text)
    except ValueError:
        value = -1
    if value < 0 or (text.endswith("%") and value > 1):
        raise typer.BadParameter(f"--max-failed: expected a number such as 3 or a share such as 5%, got {text}")
    return value
