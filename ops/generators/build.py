"""Every generator by its sizes: the one place where an architecture becomes a class."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, assert_never

from ops.generators.mobile import Mobile, MobileConfig, TailConfig
from ops.generators.protocol import Generator
from ops.generators.stylegan2 import StyleGAN2
from ops.generators.stylegan2_config import StyleGAN2Config

Architecture = Literal["stylegan2", "mobile"]
GeneratorSizes = StyleGAN2Config | MobileConfig


def build_generator(sizes: GeneratorSizes) -> Generator:
    """An untrained generator."""
    match sizes:
        case StyleGAN2Config():
            return StyleGAN2(sizes)
        case MobileConfig():
            return Mobile(sizes)
        case other:
            assert_never(other)


def architecture_of(sizes: GeneratorSizes) -> Architecture:
    """Its name in a config.json."""
    return "mobile" if isinstance(sizes, MobileConfig) else "stylegan2"


def sizes_to_json(sizes: GeneratorSizes) -> dict[str, Any]:
    """As `sizes_from_json` reads them."""
    return {"architecture": architecture_of(sizes), **dataclasses.asdict(sizes)}


def sizes_among(content: Mapping[str, Any]) -> GeneratorSizes:
    """`sizes_from_json` of a JSON object that says other things too."""
    wanted = MobileConfig if content.get("architecture") == "mobile" else StyleGAN2Config
    names = {"architecture", *(field.name for field in dataclasses.fields(wanted))}
    return sizes_from_json({name: value for name, value in content.items() if name in names})


def sizes_from_json(content: Mapping[str, Any]) -> GeneratorSizes:
    """Sizes out of JSON, which has no tuples and no integer keys; without an architecture, a StyleGAN2's.

    Raises KeyError, TypeError or ValueError for anything else.
    """
    fields = {name: _frozen(value) for name, value in content.items() if name != "architecture"}
    match content.get("architecture", "stylegan2"):
        case "stylegan2":
            fields["channels"] = {int(res): count for res, count in fields["channels"].items()}
            return StyleGAN2Config(**fields)
        case "mobile":
            tails = tuple(TailConfig(**{name: _frozen(value) for name, value in tail.items()}) for tail in fields.pop("tails"))
            return MobileConfig(**fields, tails=tails)
        case other:
            raise ValueError(f"expected a generator of architecture stylegan2 or mobile, got {other!r}")


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
