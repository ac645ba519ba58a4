"""E0: the e4e encoder (Tov et al. 2021): IR-SE body, feature pyramid, one head per row of W+.

Every size is configuration; the defaults are the official FFHQ model's. State-dict names are the official ones.

Legend: N batch, L rows of W+, D width of W, C channels, c0..c3 body features after each group.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.stylegan2.generator import FullyConnected

HEAD_SLOPE = 0.01  # PyTorch's default slope, not StyleGAN2's 0.2


@dataclass(frozen=True)
class E4eConfig:
    input_size: int = 256
    """Side of the square input in pixels; images of another size are resized by the caller."""
    stem_channels: int = 64
    groups: tuple[tuple[int, int, int], ...] = ((64, 64, 3), (64, 128, 4), (128, 256, 14), (256, 512, 3))
    """(in, out, units) of each of the four groups; every group halves the resolution."""
    head_channels: int = 512
    w_dim: int = 512
    num_ws: int = 18
    coarse_rows: int = 3
    """Rows of W+ read from c3; the next `middle_rows` from p2, the rest from p1."""
    middle_rows: int = 4
    feature_tap: int = 1
    """Which of c0..c3 is F0, the encoder features that E1 reads."""

    @property
    def feature_channels(self) -> int:
        return self.groups[self.feature_tap][1]

    @property
    def feature_resolution(self) -> int:
        return self.input_size >> (self.feature_tap + 1)


class SqueezeExcitation(nn.Module):
    """x * sigmoid(fc2(relu(fc1(mean(x))))) (Hu et al. 2018), reduction 16."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(pooled))))


class IRSEUnit(nn.Module):
    """Improved residual unit with squeeze-excitation (Deng et al. 2019)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.PReLU(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            SqueezeExcitation(out_channels),
        )
        self.shortcut_layer: nn.Module
        if in_channels == out_channels:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class StyleHead(nn.Module):
    """[N, C, S, S] => one row [N, D]: strided convolutions down to 1x1, then an equalised linear layer."""

    def __init__(self, in_channels: int, channels: int, w_dim: int, size: int):
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(size.bit_length() - 1):
            layers += [nn.Conv2d(in_channels, channels, 3, stride=2, padding=1), nn.LeakyReLU(HEAD_SLOPE)]
            in_channels = channels
        self.convs = nn.Sequential(*layers)
        self.linear = FullyConnected(channels, w_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).flatten(1).float())


class E4eEncoder(nn.Module):
    """images [N, 3, S, S] in [-1, 1] => (W+ offsets from the mean code [N, L, D] float32, F0 [N, C, s, s])."""

    def __init__(self, config: E4eConfig):
        super().__init__()
        self.config = config
        stem = config.stem_channels
        self.input_layer = nn.Sequential(nn.Conv2d(3, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem), nn.PReLU(stem))
        units: list[nn.Module] = []
        self.taps: list[int] = []
        for in_channels, out_channels, count in config.groups:
            for i in range(count):
                units.append(IRSEUnit(in_channels if i == 0 else out_channels, out_channels, 2 if i == 0 else 1))
            self.taps.append(len(units) - 1)
        self.body = nn.Sequential(*units)
        top = config.groups[3][1]
        self.latlayer1 = nn.Conv2d(config.groups[2][1], top, 1)
        self.latlayer2 = nn.Conv2d(config.groups[1][1], top, 1)
        smallest = config.input_size // 16
        self.styles = nn.ModuleList(
            StyleHead(top, config.head_channels, config.w_dim, smallest << self._level(row)) for row in range(config.num_ws)
        )

    def heads(self) -> list[StyleHead]:
        """One per row of W+."""
        return [head for head in self.styles if isinstance(head, StyleHead)]

    def _level(self, row: int) -> int:
        """0, 1, 2: which of c3, p2, p1 the head of this row reads."""
        if row < self.config.coarse_rows:
            return 0
        return 1 if row < self.config.coarse_rows + self.config.middle_rows else 2

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        c = self.body_features(images)
        p2 = upsample_like(c[3], c[2]) + self.latlayer1(c[2])
        p1 = upsample_like(p2, c[1]) + self.latlayer2(c[1])
        pyramid = (c[3], p2, p1)
        w0 = self.styles[0](pyramid[0])
        rows = [w0] + [w0 + head(pyramid[self._level(row)]) for row, head in enumerate(self.heads()) if row > 0]
        return torch.stack(rows, dim=1), c[self.config.feature_tap]

    def body_features(self, images: Tensor) -> list[Tensor]:
        """images => [c0, c1, c2, c3]."""
        size = self.config.input_size
        if images.shape[1:] != (3, size, size):
            raise ValueError(f"expected images as [N, 3, {size}, {size}], got {list(images.shape)}")
        x = self.input_layer(images.contiguous(memory_format=torch.channels_last))
        taps = []
        for i, unit in enumerate(self.body):
            x = unit(x)
            if i in self.taps:
                taps.append(x)
        return taps


def upsample_like(x: Tensor, reference: Tensor) -> Tensor:
    """Bilinear with aligned corners, as e4e's pyramid and StyleRes's alignment use it."""
    return F.interpolate(x, size=reference.shape[2:], mode="bilinear", align_corners=True)
