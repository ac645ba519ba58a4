"""Every inversion method by its name: the one place where a name becomes a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from ops.inversion.hfgi import Hfgi, HfgiConfig
from ops.inversion.hyperstyle import HyperStyle, HyperStyleConfig
from ops.inversion.inverter import Inverter, Parts
from ops.inversion.light import LightConfig, LightStyleRes
from ops.inversion.sfe import Sfe, SfeConfig
from ops.inversion.styleres import StyleRes, StyleResConfig
from ops.inversion.wplus import E4e, Psp, Restyle, RestyleConfig, WplusConfig

Method = Literal["styleres", "styleres_light", "e4e", "psp", "restyle", "hfgi", "hyperstyle", "sfe"]
MethodConfig = StyleResConfig | LightConfig | WplusConfig | RestyleConfig | HfgiConfig | HyperStyleConfig | SfeConfig
CONFIGS: Final[Mapping[Method, type[MethodConfig]]] = {
    "styleres": StyleResConfig,
    "styleres_light": LightConfig,
    "e4e": WplusConfig,
    "psp": WplusConfig,
    "restyle": RestyleConfig,
    "hfgi": HfgiConfig,
    "hyperstyle": HyperStyleConfig,
    "sfe": SfeConfig,
}
"""The sizes of each method's models."""


def build_inverter(method: Method, config: MethodConfig, parts: Parts = "all") -> Inverter:
    """An untrained model. Raises ValueError where the sizes are another method's."""
    match method, config:
        case "styleres", StyleResConfig():
            return StyleRes(config, parts)
        case "styleres_light", LightConfig():
            return LightStyleRes(config, parts)
        case "e4e", WplusConfig():
            return E4e(config, parts)
        case "psp", WplusConfig():
            return Psp(config, parts)
        case "restyle", RestyleConfig():
            return Restyle(config, parts)
        case "hfgi", HfgiConfig():
            return Hfgi(config, parts)
        case "hyperstyle", HyperStyleConfig():
            return HyperStyle(config, parts)
        case "sfe", SfeConfig():
            return Sfe(config, parts)
        case _:
            raise ValueError(f"the sizes of a {method} model are no {type(config).__name__}")
