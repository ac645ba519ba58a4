"""IR and IR-SE units (improved residual units, Deng et al. 2019), of which several encoders and recognisers are built."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.nn.pointwise import Pointwise

Group = tuple[int, int, int]
"""(in, out, units): a group of units, of which the first may halve the resolution."""


class SqueezeExcitation(nn.Module):
    """x * sigmoid(fc2(relu(fc1(mean(x))))) (Hu et al. 2018), reduction 16."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.fc1 = Pointwise(channels, channels // reduction, bias=False)
        self.fc2 = Pointwise(channels // reduction, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(pooled))))


class IRUnit(nn.Module):
    """shortcut + BN, conv, PReLU, conv (with the stride), BN, and squeeze-excitation unless `squeeze` is off."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, squeeze: bool = True):
        super().__init__()
        layers: list[nn.Module] = [
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.PReLU(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.res_layer = nn.Sequential(*layers, *([SqueezeExcitation(out_channels)] if squeeze else []))
        self.shortcut_layer: nn.Module
        if in_channels == out_channels:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                Pointwise(in_channels, out_channels, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


def stem(in_channels: int, channels: int) -> nn.Sequential:
    """conv, BN, PReLU at full resolution."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.PReLU(channels)
    )


def ir_se_body(groups: Sequence[Group]) -> tuple[nn.Sequential, list[int]]:
    """Groups of IR-SE units, each of which halves the resolution in its first unit; and the index of each group's last unit."""
    units: list[nn.Module] = []
    taps = []
    for in_channels, out_channels, count in groups:
        for i in range(count):
            units.append(IRUnit(in_channels if i == 0 else out_channels, out_channels, 2 if i == 0 else 1))
        taps.append(len(units) - 1)
    return nn.Sequential(*units), taps


def tapped(body: nn.Sequential, taps: Sequence[int], x: Tensor) -> list[Tensor]:
    """Return the outputs of the units of these indices, in order."""
    found = []
    for i, unit in enumerate(body):
        x = unit(x)
        if i in taps:
            found.append(x)
    return found


def check_images(images: Tensor, channels: int, size: int) -> None:
    """Raises ValueError for images that are not [N, channels, size, size]."""
    if images.shape[1:] != (channels, size, size):
        raise ValueError(f"expected images as [N, {channels}, {size}, {size}], got {list(images.shape)}")
