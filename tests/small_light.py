"""A light StyleRes small enough for tests, on a small MobileStyleGAN with one tail."""

from __future__ import annotations

import torch

from ops.generators.mobile import MobileConfig, TailConfig
from ops.inversion.light import LightConfig, LightEncoderConfig, LightResidualConfig, LightStyleRes
from ops.nn.lite import load_imagenet

GENERATOR = MobileConfig(
    channels=(16, 16, 24, 8),
    w_dim=12,
    z_dim=12,
    mapping_layers=2,
    num_ws=8,
    rows=(0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7),
    tails=(TailConfig(16, (8, 8), (7, 5, 6, 7)),),
)
CONFIG = LightConfig(
    generator=GENERATOR,
    encoder=LightEncoderConfig(seen_size=32, channels=8, width=16, depth=1, w_dim=12, num_ws=8),
    residual=LightResidualConfig(
        resolution=16, generator_channels=24, width=8, depth=1, residual_channels=4, picture_channels=20, picture_depth=1
    ),
    input_size=64,
)


def light_model(*, trained: bool = False) -> LightStyleRes:
    """Random weights; `trained`: E2 gives something and minds the edit, as a new one does not."""
    torch.manual_seed(0)
    model = LightStyleRes(CONFIG)
    assert model.encoder is not None and model.correction is not None
    load_imagenet(model.encoder.trunk)
    for name, parameter in model.generator.named_parameters():
        if name.endswith("affine.bias"):
            parameter.data.fill_(1.0)
    if trained:
        torch.nn.init.normal_(model.transform.last.weight, std=0.3)
        for last in (model.correction.gate, model.correction.more):
            torch.nn.init.normal_(last.weight, std=0.1)
    model.latent_avg.copy_(model.generator.mapping.w_avg.expand_as(model.latent_avg))
    return model.requires_grad_(False).eval()
