"""The edits that a recipe may name: the model's own, and those that the user's definitions give.

    definitions ─► offers        names only; opens nothing but tables and folders
    names       ─► load_edits    opens what those names need, and holds it against the generator

A name that is both the model's own and a user's is refused when it is used; two definitions that give one name are refused at
once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ops.editing.clip_text import clip_text_feature
from ops.editing.definitions import (
    Definition,
    DirectionDefinition,
    FolderDefinition,
    GanSpaceDefinition,
    GlobalDefinition,
    GradCtrlDefinition,
    MapperDefinition,
    StyleDirectionDefinition,
)
from ops.editing.direction import DirectionEditor, load_direction
from ops.editing.editor import AnyEditor, EditError, Editor, check_fits
from ops.editing.files import read_tensors
from ops.editing.ganspace import GanSpaceBasis, GanSpaceEdit, GanSpaceEditor, read_ganspace_table
from ops.editing.gradctrl import CONTROLS, GradCtrlEditor, load_heads
from ops.editing.official_folder import definitions_in
from ops.editing.style_direction import StyleDirectionEditor, load_style_direction
from ops.editing.styleclip_global import (
    StyleclipGlobalEditor,
    global_direction,
    load_deviations,
    load_relevance,
    load_text_feature,
    text_direction,
)
from ops.editing.styleclip_mapper import load_mapper
from ops.editing.values import RecipeError
from ops.files.digest import sha256_of
from ops.generators.protocol import GeneratorConfig


@dataclass(frozen=True)
class Offer:
    """One edit that a definition gives."""

    name: str
    definition: Definition
    ganspace: GanSpaceEdit | None = None
    attribute: str | None = None
    """GradCtrl only: the attribute that it changes."""

    @property
    def record(self) -> str:
        """Describe the edit and the bytes that it was read from, on one line; the same wherever the files lie.

        Raises:
            EditError: a file that cannot be read.
        """
        settings = {name: value for name, value in self.definition if name != "name" and not isinstance(value, Path | None)}
        if self.ganspace is not None:
            settings |= {"component": self.ganspace.component, "rows": self.ganspace.rows}
        if self.attribute is not None:
            settings["attribute"] = self.attribute
        kind = settings.pop("kind")
        try:
            files = [f"{role}={path.name} sha256:{sha256_of(path)}" for role, path in self.definition.files().items()]
        except OSError as error:
            raise EditError(f"{error.filename}: cannot be read ({error.strerror})") from error
        return " ".join([kind, *files, *(f"{name}={value}" for name, value in settings.items())])


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
        for offer in _offers_of(definition):
            if offer.name in found:
                one, two = found[offer.name].definition.path, offer.definition.path
                raise RecipeError(f"the edit {offer.name!r} is defined twice, by {one} and by {two}; give one another name")
            found[offer.name] = offer
    return found


def _offers_of(definition: Definition) -> list[Offer]:
    match definition:
        case FolderDefinition(path=path, name=prefix):
            inside = definitions_in(path, prefix).definitions
            return [offer for one in inside for offer in _offers_of(one)]
        case GanSpaceDefinition(name=name, table=Path() as table):
            edits = [replace(edit, name=f"{name}.{edit.name}") for edit in read_ganspace_table(table)]
            return [Offer(edit.name, definition, ganspace=edit) for edit in edits]
        case GradCtrlDefinition(name=name, attribute=None):
            return [Offer(f"{name}.{attribute}", definition, attribute=attribute) for attribute in CONTROLS]
        case GradCtrlDefinition(name=name, attribute=str(attribute)):
            return [Offer(name, definition, attribute=attribute)]
        case _:
            return [Offer(definition.name, definition)]


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
            edit = LoadedEdit(load_offer(given[name], config), given[name].record)
        else:
            raise RecipeError(f"there is no edit {name!r}; there are: {', '.join(sorted({*own, *given})) or 'none'}")
        check_fits(edit.editor, config, name)
        loaded[name] = edit
    return loaded


def load_offer(offer: Offer, config: GeneratorConfig) -> AnyEditor:
    """The one place where a kind becomes its class.

    Raises:
        EditError: a file that cannot be read, or is not of that kind.
    """
    definition, name = offer.definition, offer.name
    match definition:
        case DirectionDefinition(path=path, rows=rows):
            return DirectionEditor(load_direction(path), rows=rows, name=name)
        case StyleDirectionDefinition(path=path):
            return StyleDirectionEditor(load_style_direction(path, config, name=name), name=name)
        case GanSpaceDefinition(path=path, component=component, rows=rows):
            edit = offer.ganspace or GanSpaceEdit(name, component or 0, rows or (0, config.num_ws))
            return GanSpaceEditor(load_basis(path), edit)
        case MapperDefinition(path=path):
            return load_mapper(path, name=name)
        case GlobalDefinition():
            return _global_editor(definition, config, name)
        case GradCtrlDefinition(path=path, params=params, learning_rate=learning_rate):
            attribute = offer.attribute
            assert attribute is not None and params is not None, "located"
            if attribute not in CONTROLS:
                raise EditError(f"{name}: GradCtrl controls {', '.join(CONTROLS)}, got {attribute!r}")
            heads = load_heads(path, params)
            return GradCtrlEditor(heads, attribute, CONTROLS[attribute], learning_rate=learning_rate, name=name)
    raise AssertionError(f"a definition of another kind: {definition!r}")


def load_basis(path: str | Path) -> GanSpaceBasis:
    """Principal components from a file of the tensors `mean`, `comp` and `std` (the official `ffhq_pca.pt`).

    Raises:
        EditError: a file that cannot be read, or without these.
    """
    tensors = read_tensors(path, "GANSpace components")
    absent = [key for key in ("mean", "comp", "std") if key not in tensors]
    if absent:
        raise EditError(f"{path}: expected tensors mean, comp and std, lacks {', '.join(absent)}")
    return GanSpaceBasis(tensors["mean"], tensors["comp"], tensors["std"])


def _global_editor(definition: GlobalDefinition, config: GeneratorConfig, name: str) -> StyleclipGlobalEditor:
    relevance = load_relevance(definition.path)
    assert definition.stats is not None, "located"
    deviations = load_deviations(definition.stats)
    if definition.texts is not None:
        target = load_text_feature(definition.texts, definition.target)
        neutral = load_text_feature(definition.texts, definition.neutral)
    else:
        assert definition.templates is not None and definition.clip is not None, "located"
        target = clip_text_feature(definition.target, definition.templates, definition.clip)
        neutral = clip_text_feature(definition.neutral, definition.templates, definition.clip)
    step = text_direction(target, neutral)
    return StyleclipGlobalEditor(global_direction(relevance, step, deviations, definition.disentanglement, config, name=name))
