"""How a user names editors of their own: in a recipe's `editors:` section or as `--editor NAME=KIND:PATH[@OPTION=VALUE]…`.

Values only: nothing is opened here. What they become is in `library.py`; the grammar is in `docs/edits.md`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pydantic

from ops.editing.values import NAME_PATTERN, Frozen, RecipeError, sentences

Kind = Literal["direction", "style-direction", "ganspace", "mapper", "styleclip-global", "gradctrl", "folder"]
KINDS: tuple[Kind, ...] = get_args(Kind)

CLIP_MODEL = "openai/clip-vit-base-patch32"
"""The text encoder of the official global directions, under the name that `transformers` knows."""

_Positive = Annotated[float, pydantic.Field(strict=True, gt=0, allow_inf_nan=False)]
_Share = Annotated[float, pydantic.Field(strict=True, ge=0, allow_inf_nan=False)]
_Count = Annotated[int, pydantic.Field(strict=True, ge=0)]
_OPTIONS = (
    "rows",
    "table",
    "component",
    "target",
    "neutral",
    "disentanglement",
    "stats",
    "texts",
    "templates",
    "clip",
    "attribute",
    "params",
    "learning_rate",
)


class Definition(Frozen):
    """Abstract: a name, and the file that the editor is read from."""

    name: str = pydantic.Field(pattern=f"^{NAME_PATTERN}$")
    """Name of the edit in recipes; for a definition that gives several, the part before the dot."""
    path: Path

    def files(self) -> dict[str, Path]:
        """Every file that the editor is made of, by its role; `path` first."""
        return {"path": self.path}

    def located(self, folder: Path) -> Definition:
        """The same with relative paths taken from `folder`."""
        named = {name: value for name, value in self if isinstance(value, Path)}
        return self.model_copy(update={name: (folder / value.expanduser()).absolute() for name, value in named.items()})


class DirectionDefinition(Definition):
    """A step in W or W+ from a file of one tensor."""

    kind: Literal["direction"]
    rows: tuple[_Count, _Count] | None = None
    """Rows [first, end) of W+ that move; None for all."""


class StyleDirectionDefinition(Definition):
    """A step in S from a file: one flat tensor, or tensors by layer."""

    kind: Literal["style-direction"]


class GanSpaceDefinition(Definition):
    """Principal components: with `table`, NAME.EDIT for each of its rows; with `component`, NAME."""

    kind: Literal["ganspace"]
    table: Path | None = None
    component: _Count | None = None
    rows: tuple[_Count, _Count] | None = None
    """With `component`: rows [first, end) of W+ that move."""

    @pydantic.model_validator(mode="after")
    def _one_way(self) -> GanSpaceDefinition:
        if (self.table is None) == (self.component is None):
            raise ValueError("give either a table of edits, or one component (and rows), and not both")
        if self.table is not None and self.rows is not None:
            raise ValueError("the table says which rows move; leave rows out")
        return self

    def files(self) -> dict[str, Path]:
        """The components, and the table if there is one."""
        return super().files() | ({} if self.table is None else {"table": self.table})


class MapperDefinition(Definition):
    """A StyleCLIP mapper's checkpoint."""

    kind: Literal["mapper"]


class GlobalDefinition(Definition):
    """A StyleCLIP global direction: from a neutral to a target text, by `fs3.npy` (or the folder that holds it)."""

    kind: Literal["styleclip-global"]
    target: str = pydantic.Field(min_length=1)
    neutral: str = pydantic.Field(min_length=1)
    disentanglement: _Share
    """β: channels whose relevance is below it do not move; larger moves fewer."""
    stats: Path | None = None
    """`S_mean_std`; beside `path` if not given."""
    texts: Path | None = None
    """Text features by name; without it CLIP computes them."""
    templates: Path | None = None
    """Sentences with {} for CLIP, one a line; `templates.txt` beside `path` if not given."""
    clip: str | None = None
    """A CLIP model's folder or name; `CLIP_MODEL` if not given."""

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> GlobalDefinition:
        if self.texts is not None and (self.templates is not None or self.clip is not None):
            raise ValueError("texts gives the features, so there is nothing for CLIP to do: leave templates and clip out")
        return self

    def located(self, folder: Path) -> Definition:
        """Also fills in what stands beside `path`."""
        located = super().located(folder)
        assert isinstance(located, GlobalDefinition)
        path = located.path if located.path.suffix else located.path / "fs3.npy"
        beside = {"path": path, "stats": located.stats or path.parent / "S_mean_std"}
        if located.texts is None:
            templates = located.templates or path.parent / "templates.txt"
            return located.model_copy(update=beside | {"templates": templates, "clip": located.clip or CLIP_MODEL})
        return located.model_copy(update=beside)

    def files(self) -> dict[str, Path]:
        """The relevances, the deviations, and the texts' features or templates."""
        more = {"stats": self.stats, "texts": self.texts, "templates": self.templates}
        return super().files() | {role: path for role, path in more.items() if path is not None}


class GradCtrlDefinition(Definition):
    """GradCtrl's attribute classifiers: NAME of one attribute, or NAME.ATTRIBUTE of each."""

    kind: Literal["gradctrl"]
    attribute: str | None = None
    params: Path | None = None
    """File of the classifiers' heads; the model's name with `_params.pkl` if not given."""
    learning_rate: _Positive = 0.5
    """Length of one step in W."""

    def located(self, folder: Path) -> Definition:
        """Also fills in where the parameters stand."""
        located = super().located(folder)
        assert isinstance(located, GradCtrlDefinition)
        beside = located.path.with_name(f"{located.path.stem}_params.pkl")
        return located.model_copy(update={"params": located.params or beside})

    def files(self) -> dict[str, Path]:
        """The classifiers and their parameters."""
        return super().files() | ({} if self.params is None else {"params": self.params})


class FolderDefinition(Definition):
    """A folder of official files: everything in it that is complete, each under NAME., or as it is where NAME is empty."""

    kind: Literal["folder"]
    name: str = pydantic.Field(pattern=f"^({NAME_PATTERN})?$")


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
    match name:
        case "rows":
            rows = re.fullmatch(r"(\d+):(\d+)", value)
            if rows is None:
                raise RecipeError(f"--editor {text!r}: rows are FIRST:END, the end excluded, such as 2:6; got {value!r}")
            return int(rows[1]), int(rows[2])
        case "component":
            if not value.isdecimal():
                raise RecipeError(f"--editor {text!r}: a component is a number from 0, got {value!r}")
            return int(value)
        case "disentanglement" | "learning_rate":
            try:
                return float(value)
            except ValueError:
                raise RecipeError(f"--editor {text!r}: expected {name} as a number, got {value!r}") from None
        case _:
            return value
