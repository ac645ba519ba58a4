"""Types that recipes and editor definitions share: values that cannot be changed, and errors as sentences."""

from __future__ import annotations

import pydantic

NAME_PATTERN = r"[A-Za-z_][A-Za-z0-9_.\-]*"
"""Name of an edit, and of a user's editor."""


class RecipeError(ValueError):
    """A recipe or an editor's definition that cannot be read, contradicts itself, or asks for what there is not."""


class Frozen(pydantic.BaseModel):
    """A value that people write: unknown keys are an error."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def sentences(error: pydantic.ValidationError) -> str:
    """Pydantic's findings on one line each, by path: `edits.0.strength: …`, values shown."""
    found = []
    for item in error.errors(include_url=False):
        place = ".".join(str(step) for step in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        shown = "" if item["type"] in ("value_error", "missing") else f", got {item['input']!r}"
        found.append(f"{place}: {message}{shown}" if place else f"{message}{shown}")
    return "; ".join(found)
