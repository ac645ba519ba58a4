"""Sizes of a model out of a bundle's JSON, which has no tuples and no integer keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from ops.generators.build import sizes_from_json
from ops.inversion.methods import CONFIGS, Method, MethodConfig


def config_from_json(method: Method, content: Mapping[str, Any]) -> MethodConfig:
    """Read what `dataclasses.asdict` of a method's config became: its fields, among other keys.

    The config's own types say how a field is read, so that a method needs nothing here: the generator's sizes by their kind, a
    dataclass from its fields, everything else as it is, with tuples for lists.

    Raises KeyError, TypeError or ValueError for anything else.
    """
    cls = CONFIGS[method]
    hints = get_type_hints(cls)

    def read(name: str) -> Any:
        if name == "generator":
            return sizes_from_json(content[name])
        value = tuples(content[name])
        return hints[name](**value) if dataclasses.is_dataclass(hints[name]) else value

    return cls(**{field.name: read(field.name) for field in dataclasses.fields(cls)})


def tuples(value: Any) -> Any:
    """Lists, and lists of lists, as tuples."""
    if isinstance(value, list):
        return tuple(map(tuples, value))
    return {name: tuples(one) for name, one in value.items()} if isinstance(value, Mapping) else value
