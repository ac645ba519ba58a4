"""Options of a command from the settings that it takes: names, types, defaults and help are those of the frozen dataclasses.

    @options_of(InvertSettings, Compute)
    def invert(inputs: Inputs, ..., chosen: Chosen) -> None:
        settings = chosen.make(InvertSettings)

`TABLE` (jobs.common.settings) says of every field of every settings class which option it is, or why it is none. The default is
the field's own, and the help the first sentence of the text under the field, so that neither is written twice and can drift.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from functools import cache
from keyword import iskeyword
from typing import Annotated, Any, Final, TypeVar, get_type_hints

import typer

T = TypeVar("T")
NONE_YET: Final = "NONE_YET"


@dataclass(frozen=True)
class Option:
    """An option that sets one field."""

    name: str
    """`--paste`; a field that is true by default has `--no-…` and is false where it is given."""
    panel: str | None = None
    """The group of the help that it stands in; None is the first, for what most people need."""
    help: str | None = None
    """None: the first sentence of the text under the field."""
    min: float | None = None
    max: float | None = None
    type: Any = None
    """None: the field's own."""
    default: Any = NONE_YET
    """The command's default where it differs from the field's; `build` or `read` turns it into the field's."""
    read: Callable[[Any], Any] | None = None
    """The option's value => the field's; ValueErrors become a mistake of the user's."""
    metavar: str | None = None
    """How the help writes the value; None: by its type."""


@dataclass(frozen=True)
class Nested:
    """The field is a settings class of its own."""

    of: type


@dataclass(frozen=True)
class Hidden:
    """The field is no option."""

    why: str


@dataclass(frozen=True)
class Shape:
    """A settings class on the command line."""

    fields: Mapping[str, Option | Nested | Hidden]
    more: Mapping[str, Option] = field(default_factory=dict)
    """Options that no field has by itself; `build` turns them into fields."""
    build: Callable[[dict[str, Any]], Any] | None = None
    """Values of the fields and of `more`, by name => the settings; None: the class itself."""


@dataclass(frozen=True)
class Chosen:
    """The values that the user chose for every settings class of a command."""

    values: Mapping[tuple[type, str], Any]
    table: Mapping[type, Shape]

    def make(self, cls: type[T], given: Mapping[type, Mapping[str, Any]] | None = None) -> T:
        """The settings. given: values of hidden fields, by class and field.

        Raises typer.BadParameter where a class refuses its values.
        """
        shape, known = self.table[cls], dict((given or {}).get(cls, {}))
        for name, shown in shape.fields.items():
            if isinstance(shown, Nested) and name not in known:
                known[name] = self.make(shown.of, given)
        known |= {name: value for (owner, name), value in self.values.items() if owner is cls}
        try:
            return (shape.build or (lambda values: cls(**values)))(known)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error


def options_of(table: Mapping[type, Shape], *classes: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a command whose last parameter is `chosen`: the options of the classes take its place."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [one for one in inspect.signature(command, eval_str=True).parameters.values() if one.name != "chosen"]
        generated = [one for cls in classes for one in parameters_of(table, cls)]
        origin = {name: (cls, field_name) for cls, field_name, name in named(table, classes)}

        def called(**values: Any) -> None:
            chosen = {key: read_by(table, *key, values.pop(name)) for name, key in origin.items()}
            command(**values, chosen=Chosen(chosen, table))

        called.__doc__, called.__name__, called.__module__ = command.__doc__, command.__name__, command.__module__
        called.__signature__ = inspect.Signature([*own, *generated])  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in [*own, *generated]}
        called.options_from = (table, classes)  # type: ignore[attr-defined]
        return called

    return decorate


def named(table: Mapping[type, Shape], classes: tuple[type, ...] | list[type]) -> list[tuple[type, str, str]]:
    """(class, field, name of the command's parameter) of every option, nested classes where their field stands."""
    found: list[tuple[type, str, str]] = []
    for cls in classes:
        shape = table[cls]
        for name, shown in {**shape.fields, **shape.more}.items():
            if isinstance(shown, Nested):
                found += named(table, [shown.of])
            elif isinstance(shown, Option):
                parameter = shown.name.removeprefix("--").replace("-", "_")
                found.append((cls, name, f"{parameter}_" if iskeyword(parameter) else parameter))
    return found


def shown_as(table: Mapping[type, Shape], cls: type, name: str) -> Option:
    shape = table[cls]
    shown = shape.fields.get(name) or shape.more[name]
    assert isinstance(shown, Option)
    return shown


def parameters_of(table: Mapping[type, Shape], cls: type) -> list[inspect.Parameter]:
    """A keyword parameter with typer's annotation for every option of a class and of those nested in it."""
    found = []
    for owner, name, parameter in named(table, [cls]):
        shown = shown_as(table, owner, name)
        default = default_of(owner, name, shown)
        kind = shown.type if shown.type is not None else get_type_hints(owner)[name]
        text = shown.help or first_sentence(field_docs(owner).get(name, ""))
        assert text, f"{owner.__name__}.{name} says nothing of itself: write it under the field"
        option = typer.Option(
            shown.name,
            help=text.replace("[", r"\["),
            rich_help_panel=shown.panel,
            min=shown.min,
            max=shown.max,
            show_default=default not in (None, [], inspect.Parameter.empty) and not isinstance(default, bool),
            metavar=shown.metavar,
        )
        found.append(
            inspect.Parameter(parameter, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])
        )
    return found


def default_of(cls: type, name: str, shown: Option) -> Any:
    """Return the option's default: the field's, or `Parameter.empty` for a field without one, which makes the option required.

    A switch is off where it is not given, whichever way its field is.
    """
    if shown.default is not NONE_YET:
        return shown.default
    (one,) = (one for one in dataclasses.fields(cls) if one.name == name)
    value = one.default_factory() if one.default_factory is not MISSING else one.default
    if value is MISSING:
        return inspect.Parameter.empty
    return False if isinstance(value, bool) else value


def read_by(table: Mapping[type, Shape], cls: type, name: str, value: Any) -> Any:
    """Turn what was typed into the field's value."""
    shown = shown_as(table, cls, name)
    if shown.read is not None:
        try:
            return shown.read(value)
        except ValueError as error:
            raise typer.BadParameter(f"{shown.name}: {error}") from error
    if isinstance(value, bool) and name in table[cls].fields:
        (one,) = (one for one in dataclasses.fields(cls) if one.name == name)
        return one.default is not value if value else one.default
    return value


@cache
def field_docs(cls: type) -> dict[str, str]:
    """Field => the text under it, on one line; read from the source."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    docs: dict[str, str] = {}
    last = None
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            last = node.target.id
        elif last is not None and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docs[last], last = " ".join(str(node.value.value).split()), None
        else:
            last = None
    return docs


def several(name: str, help: str | None = None, **more: Any) -> Option:
    """Return an option that may be given several times, for a field that is a tuple of texts or paths."""
    settings: dict[str, Any] = {"type": list[str], "default": [], "read": tuple}
    return Option(name, help=help, **settings | more)


def first_sentence(text: str) -> str:
    """Return a text up to its first full stop."""
    head, stop, _ = text.partition(". ")
    return head + "." if stop else text
