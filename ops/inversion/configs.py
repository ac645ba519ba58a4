"""Sizes of a model out of a bundle's JSON, which has no tuples and no integer keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

from ops.generators.build import sizes_from_json
from ops.inversion.e4e import E4eConfig
from ops.inversion.hfgi import ConsultationConfig, HfgiConfig
from ops.inversion.hyperstyle import HypernetConfig, HyperStyleConfig, WEncoderConfig
from ops.inversion.light import LightConfig, LightEncoderConfig, LightResidualConfig
from ops.inversion.methods import Method, MethodConfig
from ops.inversion.residual import ResidualConfig
from ops.inversion.sfe import FeatureConfig, SfeConfig
from ops.inversion.styleres import StyleResConfig
from ops.inversion.wplus import RestyleConfig, WplusConfig


def config_from_json(method: Method, content: Mapping[str, Any]) -> MethodConfig:
    """What `dataclasses.asdict` of a method's config became. Raises KeyError, TypeError or ValueError for anything else."""
    generator = sizes_from_json(content["generator"])

    def part(name: str) -> dict[str, Any]:
        return tuples(content[name])

    match method:
        case "styleres":
            return StyleResConfig(generator, E4eConfig(**part("encoder")), ResidualConfig(**part("residual")))
        case "styleres_light":
            parts = LightEncoderConfig(**part("encoder")), LightResidualConfig(**part("residual"))
            return LightConfig(generator, *parts, content["input_size"])
        case "e4e" | "psp":
            return WplusConfig(generator, E4eConfig(**part("encoder")))
        case "restyle":
            return RestyleConfig(generator, E4eConfig(**part("encoder")), content["rounds"])
        case "hfgi":
            return HfgiConfig(generator, E4eConfig(**part("encoder")), ConsultationConfig(**part("consultation")))
        case "hyperstyle":
            return HyperStyleConfig(generator, WEncoderConfig(**part("encoder")), HypernetConfig(**part("hypernet")))
        case "sfe":
            features, encoder = FeatureConfig(**part("features")), E4eConfig(**part("encoder"))
            return SfeConfig(generator, features, encoder, content["image_size"], content["feature_editor"])
        case other:
            assert_never(other)


def tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Lists, and lists of lists, as tuples."""

    def frozen(value: Any) -> Any:
        return tuple(map(frozen, value)) if isinstance(value, list) else value

    return {name: frozen(value) for name, value in fields.items()}
