"""Reads what a caller may give as edits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jobs.common.prepare import recipe_from
from ops.checkpoints.bundle import Bundle
from ops.editing.library import load_edits, offers
from ops.editing.recipe import EditRecipe

Edits = str | Sequence[str] | Path | EditRecipe
"""`"smile=1.3"`, several of them, the path of a recipe, or a recipe. The grammar is that of `--edit`: docs/edits.md."""


def recipe_of(edits: Edits, bundle: Bundle) -> EditRecipe:
    """A recipe whose edits the model has. Raises RecipeError, EditError, UsageError as the commands do."""
    match edits:
        case EditRecipe():
            edits.require_known({*(entry.name for entry in bundle.edits), *offers(edits.editors)})
            load_edits(edits.names, bundle.editors(), edits.editors, bundle.config.generator)
            return edits
        case Path():
            return recipe_from([], edits, bundle)
        case str():
            return recipe_from([edits], None, bundle)
        case _:
            return recipe_from(list(edits), None, bundle)
