"""Sizes of the models we name. One row each; everything not said is the official FFHQ-1024 model's."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, assert_never

from ops.generators.stylegan2_config import StyleGAN2Config, channels_by_rule
from ops.inversion.e4e import E4eConfig
from ops.inversion.residual import ResidualConfig
from ops.inversion.styleres import StyleResConfig


def ffhq1024() -> StyleResConfig:
    """The released FFHQ model: 390.9 M parameters, 822 GFLOP for a first edit."""
    return StyleResConfig()


def cars512() -> StyleResConfig:
    """Stanford Cars as in the paper: a 512 px generator, 16 rows of W+.

    The encoder's square input is 256 px, of which 192 x 256 is picture: bundles say crop none and content [192, 256].
    """
    official = StyleResConfig()
    generator = StyleGAN2Config(resolution=512, channels=channels_by_rule(512))
    return replace(official, generator=generator, encoder=replace(official.encoder, num_ws=generator.num_ws))


def mini64() -> StyleResConfig:
    """The embedded default: 64 px, features injected at 32 px, sized so that a CPU inverts a face in milliseconds."""
    generator = StyleGAN2Config(resolution=64, w_dim=256, z_dim=256, mapping_layers=4, channels=channels_by_rule(64, 4096, 128))
    encoder = E4eConfig(
        input_size=64,
        stem_channels=32,
        groups=((32, 32, 2), (32, 64, 3), (64, 128, 4), (128, 128, 2)),
        head_channels=96,
        w_dim=256,
        num_ws=generator.num_ws,
        feature_tap=0,
    )
    residual = ResidualConfig(resolution=32, encoder_channels=32, generator_channels=128, width=48, residual_channels=32)
    return StyleResConfig(generator=generator, encoder=encoder, residual=residual)


PresetName = Literal["ffhq1024", "cars512", "mini64"]


def preset(name: PresetName) -> StyleResConfig:
    """A preset by its name."""
    match name:
        case "ffhq1024":
            return ffhq1024()
        case "cars512":
            return cars512()
        case "mini64":
            return mini64()
        case other:
            assert_never(other)
