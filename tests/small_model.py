"""The smallest model of every method that has every part: 32 px, features at 16 px."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from ops.generators.stylegan2_config import StyleGAN2Config
from ops.inversion.e4e import E4eConfig
from ops.inversion.hfgi import ConsultationConfig, HfgiConfig
from ops.inversion.hyperstyle import HypernetConfig, HyperStyleConfig, WEncoderConfig
from ops.inversion.light import LightConfig, LightEncoderConfig, LightResidualConfig
from ops.inversion.methods import Method, MethodConfig
from ops.inversion.residual import ResidualConfig
from ops.inversion.sfe import FeatureConfig, SfeConfig
from ops.inversion.styleres import StyleResConfig
from ops.inversion.wplus import RestyleConfig, WplusConfig

GENERATOR = StyleGAN2Config(resolution=32, w_dim=16, z_dim=16, mapping_layers=2, channels={4: 8, 8: 8, 16: 8, 32: 8})
ENCODER = E4eConfig(
    input_size=32,
    stem_channels=16,
    groups=((16, 16, 1), (16, 16, 1), (16, 16, 1), (16, 16, 1)),
    head_channels=16,
    w_dim=16,
    num_ws=GENERATOR.num_ws,
    feature_tap=0,
)
RESIDUAL = ResidualConfig(resolution=16, encoder_channels=16, generator_channels=8, width=8, residual_channels=4)
SMALL = StyleResConfig(GENERATOR, ENCODER, RESIDUAL)


def small(method: Method, generator: StyleGAN2Config = GENERATOR, encoder: E4eConfig = ENCODER) -> MethodConfig:
    """Sizes of a small model of any method, on this generator and from this encoder."""
    match method:
        case "styleres":
            channels = generator.channels[16]
            residual = replace(RESIDUAL, generator_channels=channels, encoder_channels=encoder.feature_channels)
            return StyleResConfig(generator, encoder, residual)
        case "styleres_light":
            light = LightEncoderConfig(32, channels=8, width=16, depth=1, w_dim=generator.w_dim, num_ws=generator.num_ws)
            return LightConfig(generator, light, LightResidualConfig(16, generator.channels[16], 8, 1, 4), encoder.input_size)
        case "e4e":
            return WplusConfig(generator, encoder)
        case "psp":
            return WplusConfig(generator, replace(encoder, rows="each"))
        case "restyle":
            sizes = replace(encoder, coarse_rows=encoder.num_ws, middle_rows=0, image_channels=6)
            return RestyleConfig(generator, sizes, rounds=2)
        case "hfgi":
            return HfgiConfig(generator, encoder, ConsultationConfig(16, (4, 6, 8, 8), (4, 6, 8), (2, 1)))
        case "hyperstyle":
            sizes = HypernetConfig(8, ((8, 8, 1), (8, 8, 1), (8, 8, 1), (8, 8, 1)), 12, 8, 8, rounds=2)
            return HyperStyleConfig(
                generator,
                WEncoderConfig(encoder.input_size, encoder.stem_channels, encoder.groups, encoder.w_dim),
                sizes,
            )
        case "sfe":
            features = FeatureConfig(encoder.input_size, 8, ((8, 1, 2), (8, 1, 1), (8, 1, 1), (8, 1, 2)), depth=1)
            return SfeConfig(generator, features, encoder, image_size=encoder.input_size)
        case other:
            assert_never(other)
