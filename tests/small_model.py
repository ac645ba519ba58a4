"""The smallest StyleRes that has every part: 32 px, a residual of 4 channels at 16 px."""

from __future__ import annotations

from ops.inversion.e4e import E4eConfig
from ops.inversion.residual import ResidualConfig
from ops.inversion.styleres import StyleResConfig
from ops.stylegan2.config import StyleGAN2Config

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
