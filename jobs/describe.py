"""styleres describe: everything that a program has to know to call the others, as one JSON object."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import typer
from typer.models import ArgumentInfo, OptionInfo

import schemas
from jobs.cli import COMMANDS
from jobs.common.errors import FAILED, USAGE

EXIT_CODES: Final = {
    0: "everything was done, or was finished before; inputs that lost something are no more than --max-failed allows",
    FAILED: "something was lost or is damaged, or the run was stopped (a full disk, workers that die); what is finished stays",
    USAGE: "a mistake in the call, found before any work; one sentence on standard error",
}
STREAMS: Final = {
    "stdout": "one JSON object a line, unless it is a terminal; the last has event `done` and the counts",
    "stderr": "progress bars on a terminal; sentences for people",
}
FILES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "invert": {"reads": ("inputs", "model"), "writes": ("store",)},
    "render": {"reads": ("store", "inputs", "model", "recipe", "editors"), "writes": ("out", "store")},
    "edit": {"reads": ("inputs", "model", "recipe", "editors", "store"), "writes": ("out", "store")},
    "preview": {"reads": ("inputs", "store", "model", "recipe", "editors"), "writes": ("out",)},
    "plan": {"reads": ("inputs", "model", "recipe", "editors"), "writes": ()},
    "describe": {"reads": (), "writes": ()},
    "inspect": {"reads": ("store", "model", "editors"), "writes": ()},
    "convert": {"reads": ("checkpoint",), "writes": ("model",)},
    "fetch": {"reads": ("network",), "writes": ("model", "editors")},
    "doctor": {"reads": ("model", "checkpoint", "store", "cluster"), "writes": ()},
    "directions": {"reads": ("model", "faces"), "writes": ("out", "model")},
    "evaluate": {"reads": ("model", "faces", "inputs", "store"), "writes": ("out", "model")},
    "store": {"reads": ("store",), "writes": ("store", "out")},
    "train": {"reads": ("faces", "prior", "model"), "writes": ("out", "prior", "model")},
}
"""Command => what it reads and what it may write, in the words of `PLACES`."""
PLACES: Final = {
    "inputs": "videos, images, folders, globs, .tar shards, .parquet files of images, @lists; paths or URLs",
    "out": "edited files, sheets, reports: where --out says",
    "store": "a folder or URL of Parquet tables (schemas/README.md)",
    "model": "a bundle: a folder with config.json, weights.safetensors, directions.safetensors",
    "prior": "a folder with a generator and no encoder",
    "checkpoint": "another project's weight file",
    "recipe": "a YAML file (docs/edits.md)",
    "editors": "files of edit directions (docs/edits.md)",
    "faces": "aligned faces: a Parquet file, a folder, or a Hugging Face data set",
    "cluster": "a Ray cluster",
    "network": "a catalogued address, by https",
}


def describe() -> None:
    """Print the whole contract as JSON: commands, options, types, ranges, defaults, exit codes, what is read and written."""
    print(json.dumps(contract(), indent=1))


def contract() -> dict[str, Any]:
    return {
        "program": "styleres",
        "version": importlib.metadata.version("styleres-video"),
        "schema_version": schemas.SCHEMA_VERSION,
        "exit_codes": EXIT_CODES,
        "streams": STREAMS,
        "places": PLACES,
        "commands": {
            name: {
                "about": found.about,
                **{key: list(value) for key, value in FILES[name].items()},
                **command_of(getattr(import_module(found.module), found.attribute)),
            }
            for name, found in COMMANDS.items()
        },
    }


def command_of(command: Any) -> dict[str, Any]:
    """The parameters of a function, or the callback's and the subcommands of a `typer.Typer`."""
    if not isinstance(command, typer.Typer):
        parameters = inspect.signature(command, eval_str=True).parameters.values()
        return {"parameters": [parameter_of(one) for one in parameters if one.annotation is not typer.Context]}
    callback = command.registered_callback
    found = command_of(callback.callback) if callback is not None and callback.callback is not None else {"parameters": []}
    subcommands = {
        one.name or one.callback.__name__.replace("_", "-"): one.callback
        for one in command.registered_commands
        if one.callback is not None
    }
    if len(subcommands) == 1 and callback is None:  # typer makes it the command itself
        return command_of(*subcommands.values())
    found["commands"] = {
        name: {"about": (inspect.getdoc(function) or "").split("\n")[0], **command_of(function)}
        for name, function in subcommands.items()
    }
    return found


def parameter_of(parameter: inspect.Parameter) -> dict[str, Any]:
    """One option or argument, as the command declares it."""
    kind, *notes = get_args(parameter.annotation) if get_origin(parameter.annotation) is Annotated else (parameter.annotation,)
    info = next((one for one in notes if isinstance(one, OptionInfo | ArgumentInfo)), None)
    is_argument = isinstance(info, ArgumentInfo)
    named = [] if info is None else [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
    plain = f"--{parameter.name.replace('_', '-')}"
    default = None if parameter.default is inspect.Parameter.empty else parameter.default
    found: dict[str, Any] = {
        "names": named or [(info.metavar if is_argument and info is not None and info.metavar else plain)],
        "argument": is_argument,
        **type_of(kind),
        "min": getattr(info, "min", None),
        "max": getattr(info, "max", None),
        "default": str(default) if isinstance(default, Path) else default or None if isinstance(default, list) else default,
        "required": parameter.default is inspect.Parameter.empty,
        "group": getattr(info, "rich_help_panel", None),
        "help": None if info is None or info.help is None else info.help.replace("\\[", "["),
    }
    return {name: value for name, value in found.items() if value is not None and value is not False}


def type_of(kind: Any) -> dict[str, Any]:
    """A type annotation as JSON values: its name, choices, and whether it may be given several times."""
    options = [one for one in get_args(kind) if one is not NoneType] if get_origin(kind) in (Union, UnionType) else [kind]
    (kind,) = options[:1]
    if get_origin(kind) is list:
        return {**type_of(get_args(kind)[0]), "repeats": True}
    if get_origin(kind) is Literal:
        return {"type": "choice", "choices": list(get_args(kind))}
    return {"type": {bool: "switch", int: "integer", float: "number", Path: "path"}.get(kind, "text")}


def main() -> None:
    typer.run(describe)


if __name__ == "__main__":
    main()
