"""E1 and E2 of StyleRes (Pehlivan et al., CVPR 2023, section 3): the residual that W+ lost, and how it follows an edit.

    E1 = Alignment, then Extraction     (F0, F)  => F_a      once per image: does not depend on the edit
    E2 = Gates                          (G_a, F_a) => dF, g    once per edit
    fusion                              x + g * dF             the paper's Eq. 3 has g = 1; the released model learnt a gate

Plain convolutions: no equalised learning rate, no normalisation. State-dict names are the official ones.

Legend: N batch, C channels, R injection resolution; F0 encoder features, F generator features of the unedited code,
G_a generator features of the edited code, F_a the aligned residual (what the store keeps).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ops.inversion.e4e import upsample_like
from ops.nn.pointwise import Pointwise

SLOPE = 0.2


@dataclass(frozen=True)
class ResidualConfig:
    """Defaults are the official FFHQ model's."""

    resolution: int = 64
    """R: where the features are read and injected."""
    encoder_channels: int = 128
    generator_channels: int = 512
    width: int = 512
    """Channels inside E1 and E2."""
    residual_channels: int = 512
    """Channels of F_a; with R it decides what a face and frame costs in the store."""
    transform: Literal["gates", "add"] = "gates"
    """"add" is the paper's ablation without E2: the residual is added as it is, whatever the edit."""


class ResLayer(nn.Module):
    """shortcut + conv(lrelu(conv)); the second convolution carries the stride, and nothing follows the sum."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        identity = in_channels == out_channels and stride == 1
        self.shortcut_layer = (
            nn.Identity() if identity else nn.Sequential(Pointwise(in_channels, out_channels, stride=stride, bias=False))
        )
        self.res_layer = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, stride=stride, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut_layer(x) + self.res_layer(x)


class Alignment(nn.Module):
    """First half of E1: (F0, F) => [N, width, R, R], a small U-Net over three scales."""

    def __init__(self, config: ResidualConfig):
        super().__init__()
        width = config.width
        self.first_layer = Pointwise(config.encoder_channels + config.generator_channels, width)
        self.conv1 = nn.Sequential(ResLayer(width, width))
        self.conv2 = nn.Sequential(ResLayer(width, width, 2), ResLayer(width, width))
        self.conv3 = nn.Sequential(ResLayer(width, width, 2), ResLayer(width, width))
        self.dconv1 = nn.Sequential(ResLayer(width, width), ResLayer(width, width))
        self.dconv2 = nn.Sequential(ResLayer(width, width), ResLayer(width, width))
        self.out_layer = Pointwise(width, width)

    def forward(self, encoder_features: Tensor, generator_features: Tensor) -> Tensor:
        f1 = self.conv1(self.first_layer(torch.cat([encoder_features, generator_features], dim=1)))
        f2 = self.conv2(f1)
        f3 = self.conv3(f2)
        a = self.dconv1(upsample_like(f3, f2) + f2)
        a = self.dconv2(upsample_like(a, f1) + f1)
        return self.out_layer(a)


class Extraction(nn.Module):
    """Second half of E1: [N, width, R, R] => F_a [N, residual_channels, R, R]."""

    def __init__(self, config: ResidualConfig):
        super().__init__()
        width = config.width
        self.first_layer = Pointwise(width, width)
        self.convs = nn.Sequential(ResLayer(width, width), ResLayer(width, width), ResLayer(width, config.residual_channels))

    def forward(self, aligned: Tensor) -> Tensor:
        return self.convs(self.first_layer(aligned))


class Gates(nn.Module):
    """E2: (G_a, F_a) => (dF [N, C, R, R], g [N, 1, R, R] in 0..1)."""

    def __init__(self, config: ResidualConfig):
        super().__init__()
        width = config.width
        self.down1 = nn.Conv2d(config.generator_channels, width // 2, 3, padding=1)
        self.down2 = nn.Conv2d(config.residual_channels, width // 2, 3, padding=1)
        self.convs = nn.Sequential(ResLayer(width, width), ResLayer(width, width), ResLayer(width, config.generator_channels))
        self.convs2 = nn.Sequential(ResLayer(width, width), ResLayer(width, width), ResLayer(width, 1))

    def forward(self, generator_features: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([self.down1(generator_features), self.down2(residual)], dim=1)
        return self.convs(both), torch.sigmoid(self.convs2(both))


class Addition(nn.Module):
    """In E2's place, for the ablation: (G_a, F_a) => (a projection of F_a, gate 1). It never sees what the edit did."""

    def __init__(self, config: ResidualConfig):
        super().__init__()
        self.projection = Pointwise(config.residual_channels, config.generator_channels)

    def forward(self, generator_features: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        delta = self.projection(residual)
        return delta, torch.ones_like(delta[:, :1])


def fuse(features: Tensor, delta: Tensor, gate: Tensor) -> Tensor:
    """x (1 - g) + (x + dF) g = x + g dF (Eq. 3 with the released model's gate)."""
    return torch.addcmul(features, gate, delta)
