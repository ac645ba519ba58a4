"""How a user names editors of their own: in a recipe's `editors:` section or as `--editor NAME=KIND:PATH[@OPTION=VALUE]…`.

The kinds are listed here and stand beside their editors; the grammar is in `docs/edits.md`.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pydantic

from ops.editing.definition import Definition
from ops.editing.direction import DirectionDefinition
from ops.editing.ganspace import GanSpaceDefinition
from ops.editing.gradctrl import GradCtrlDefinition
from ops.editing.official_folder import FolderDefinition
from ops.editing.style_direction import StyleDirectionDefinition
from ops.editing.styleclip_global import GlobalDefinition
from ops.editing.styleclip_mapper import MapperDefinition
from ops.editing.values import NAME_PATTERN, RecipeError, sentences

AnyDefinition = Annotated[
    DirectionDefinition
    | StyleDirectionDefinition
    | GanSpaceDefinition
    | MapperDefinition
    | GlobalDefinition
    | GradCtrlDefinition
    | FolderDefinition,
    pydantic.Field(discriminator="kind"),
]
_CLASSES: tuple[type[Definition], ...] = get_args(get_args(AnyDefinition)[0])
KINDS: tuple[str, ...] = tuple(get_args(one.model_fields["kind"].annotation)[0] for one in _CLASSES)
_OPTIONS = {name: field for one in _CLASSES for name, field in one.model_fields.items() if name not in ("kind", "name", "path")}
_ADAPTER: pydantic.TypeAdapter[Definition] = pydantic.TypeAdapter(AnyDefinition)


def parse_definition(text: str) -> Definition:
    """One `--editor` argument: `NAME=KIND:PATH[@OPTION=VALUE]…`. Paths stay as they are written: see `Definition.located`.

    An `@` belongs to a path or a text unless an option's name and `=` follow it.

    Raises:
        RecipeError: the text, the part of it that is wrong, and what was expected there.
    """
    match = re.fullmatch(rf"\s*({NAME_PATTERN})\s*=\s*([a-z-]+)\s*:\s*(\S.*?)\s*", text, re.DOTALL)
    if match is None:
        raise RecipeError(f"--editor {text!r}: expected NAME=KIND:PATH, a kind of {', '.join(KINDS)}")
    path, *options = re.split(rf"@(?=\s*(?:{'|'.join(_OPTIONS)})\s*=)", match[3])
    fields: dict[str, Any] = {"name": match[1], "kind": match[2], "path": path.strip()}
    for option in options:
        name, _, value = (piece.strip() for piece in option.partition("="))
        if name in fields:
            raise RecipeError(f"--editor {text!r}: {name} is given twice")
        fields[name] = _option(name, value, text)
    try:
        return _ADAPTER.validate_python(fields)
    except pydantic.ValidationError as error:
        raise RecipeError(f"--editor {text!r}: {sentences(error)}") from error


def parse_folder(text: str) -> Definition:
    """One `--editors` argument: `[PREFIX=]FOLDER`.

    Raises:
        RecipeError: no folder is named.
    """
    match = re.fullmatch(rf"\s*(?:({NAME_PATTERN})=)?(\S.*?)\s*", text, re.DOTALL)
    if match is None:
        raise RecipeError(f"--editors {text!r}: expected a folder of official edit files, or PREFIX=FOLDER")
    return FolderDefinition(kind="folder", name=match[1] or "", path=Path(match[2]))


def _option(name: str, value: str, text: str) -> object:
    """An option's text as what its field takes."""
    kinds = _types(_OPTIONS[name].annotation)
    if tuple in kinds:
        rows = re.fullmatch(r"(\d+):(\d+)", value)
        if rows is None:
            raise RecipeError(f"--editor {text!r}: {name} are FIRST:END, the end excluded, such as 2:6; got {value!r}")
        return int(rows[1]), int(rows[2])
    if int in kinds:
        if not value.isdecimal():
            raise RecipeError(f"--editor {text!r}: a {name} is a number from 0, got {value!r}")
        return int(value)
    if float in kinds:
        try:
            return float(value)
        except ValueError:
            raise RecipeError(f"--editor {text!r}: expected {name} as a number, got {value!r}") from None
    return value


def _types(annotation: object) -> set[object]:
    """The types that a field takes, without what is said of their values."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return {one for member in get_args(annotation) for one in _types(member)}
    return _types(get_args(annotation)[0]) if origin is Annotated else {origin or annotation}
