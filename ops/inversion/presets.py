"""Sizes of the models we name. One row each; everything not said is the official FFHQ-1024 model's."""

from __future__ import annotations

from ops.inversion.e4e import E4eConfig
from ops.inversion.residual import ResidualConfig
from ops.inversion.styleres import StyleResConfig
from ops.stylegan2.config import StyleGAN2Config, channels_by_rule


def ffhq1024() -> StyleResConfig:
    """The released FFHQ model: 390.9 M parameters, 822 GFLOP for a first edit."""
    return StyleResConfig()


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
