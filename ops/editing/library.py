"""The edits that a recipe may name: the model's own, and those that the user's definitions give.

    definitions ─► offers        names only; opens nothing but tables and folders
    names       ─► load_edits    opens what those names need, and holds it against the generator

A name that is both the model's own and a user's is refused when it is used; two definitions that give one name are refused at
once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ops.editing.definition import Definition, Offer
from ops.editing.editor import AnyEditor, Editor, check_fits
from ops.editing.official_folder import FolderDefinition, definitions_in
from ops.editing.values import RecipeError
from ops.generators.protocol import GeneratorConfig


@dataclass(frozen=True, eq=False)
class LoadedEdit:
    """An edit, ready to be applied."""

    editor: AnyEditor
    record: str | None
    """`Offer.record` of a user's; None of the model's own."""


def offers(definitions: Sequence[Definition]) -> dict[str, Offer]:
    """Every edit that the definitions give, by name.

    Raises:
        RecipeError: two definitions that give one name.
        EditError: a folder or a table that cannot be read.
    """
    found: dict[str, Offer] = {}
    for definition in definitions:
        for offer in definition.offers():
            if offer.name in found:
                one, two = found[offer.name].definition.path, offer.definition.path
                raise RecipeError(f"the edit {offer.name!r} is defined twice, by {one} and by {two}; give one another name")
            found[offer.name] = offer
    return found


def incomplete(definitions: Sequence[Definition]) -> dict[str, str]:
    """Return what the folders among the definitions lack: editor => the sentence."""
    notes: dict[str, str] = {}
    for definition in definitions:
        if isinstance(definition, FolderDefinition):
            notes |= definitions_in(definition.path, definition.name).notes
    return notes


def load_edits(
    names: Collection[str], own: Mapping[str, Editor], definitions: Sequence[Definition], config: GeneratorConfig
) -> dict[str, LoadedEdit]:
    """The edits of these names, each checked against the generator.

    Raises:
        RecipeError: a name that is both the model's own and a user's, or neither.
        EditError: a file that cannot be read, or an edit that was made for another generator.
    """
    given = offers(definitions)
    loaded = {}
    for name in dict.fromkeys(names):
        if name in own and name in given:
            raise RecipeError(
                f"the edit {name!r} is the model's own and is defined by {given[name].definition.path} too; "
                "give yours another name (a folder takes a prefix: --editors PREFIX=FOLDER)"
            )
        if name in own:
            edit = LoadedEdit(own[name], None)
        elif name in given:
            edit = LoadedEdit(given[name].definition.editor(given[name], config), given[name].record)
        else:
            raise RecipeError(f"there is no edit {name!r}; there are: {', '.join(sorted({*own, *given})) or 'none'}")
        check_fits(edit.editor, config, name)
        loaded[name] = edit
    return loaded
