"""The pyramid encoder of pSp (Richardson et al. 2021), as e4e (Tov et al. 2021), ReStyle (Alaluf et al. 2021) and StyleRes's E0
use it: IR-SE body, feature pyramid, one head per row of W+.

Every size is configuration; the defaults are e4e's official FFHQ model's. State-dict names are the official ones. e4e and pSp
differ in nothing but what the heads' outputs are added to, ReStyle's in its six input channels and in that no head reads the
pyramid.

Legend: N batch, L rows of W+, D width of W, C channels, c0..c3 body features after each group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.generators.protocol import GeneratorConfig
from ops.nn.equalised import FullyConnected
from ops.nn.ir import Group, check_images, ir_se_body, stem, tapped
from ops.nn.pointwise import Pointwise

HEAD_SLOPE = 0.01  # PyTorch's default slope, not StyleGAN2's 0.2


@dataclass(frozen=True)
class E4eConfig:
    input_size: int = 256
    """Side of the square input in pixels; images of another size are resized by the caller."""
    stem_channels: int = 64
    groups: tuple[Group, ...] = ((64, 64, 3), (64, 128, 4), (128, 256, 14), (256, 512, 3))
    """(in, out, units) of each of the four groups; every group halves the resolution."""
    head_channels: int = 512
    w_dim: int = 512
    num_ws: int = 18
    coarse_rows: int = 3
    """Rows of W+ read from c3; the next `middle_rows` from p2, the rest from p1. As many as rows: no pyramid is built."""
    middle_rows: int = 4
    feature_tap: int = 1
    """Index, among c0..c3, of F0: the encoder features that E1 reads."""
    image_channels: int = 3
    rows: Literal["from_first", "each"] = "from_first"
    """e4e: a head gives its row's difference from the first row; pSp: the row itself. A checkpoint does not record it."""

    @property
    def feature_channels(self) -> int:
        return self.groups[self.feature_tap][1]

    @property
    def feature_resolution(self) -> int:
        return self.input_size >> (self.feature_tap + 1)

    @property
    def has_pyramid(self) -> bool:
        return self.coarse_rows < self.num_ws

    def against(self, generator: GeneratorConfig, *, image_channels: int = 3) -> dict[str, tuple[object, object]]:
        """For `misfits`: what it must have in common with the generator whose codes it gives."""
        return {
            "rows of W+": (self.num_ws, generator.num_ws),
            "width of W": (self.w_dim, generator.w_dim),
            "channels of the encoder's images": (self.image_channels, image_channels),
        }


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
        self.input_layer = stem(config.image_channels, config.stem_channels)
        self.body, self.taps = ir_se_body(config.groups)
        top = config.groups[3][1]
        if config.has_pyramid:
            self.latlayer1 = Pointwise(config.groups[2][1], top)
            self.latlayer2 = Pointwise(config.groups[1][1], top)
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
        pyramid = [c[3]]
        if self.config.has_pyramid:
            pyramid.append(upsample_like(c[3], c[2]) + self.latlayer1(c[2]))
            pyramid.append(upsample_like(pyramid[1], c[1]) + self.latlayer2(c[1]))
        found = [head(pyramid[self._level(row)]) for row, head in enumerate(self.heads())]
        if self.config.rows == "from_first":
            found = [found[0]] + [found[0] + difference for difference in found[1:]]
        return torch.stack(found, dim=1), c[self.config.feature_tap]

    def body_features(self, images: Tensor) -> list[Tensor]:
        """images => [c0, c1, c2, c3]."""
        check_images(images, self.config.image_channels, self.config.input_size)
        return tapped(self.body, self.taps, self.input_layer(images.contiguous(memory_format=torch.channels_last)))


def upsample_like(x: Tensor, reference: Tensor) -> Tensor:
    """Bilinear with aligned corners, as e4e's pyramid and StyleRes's alignment use it."""
    return F.interpolate(x, size=reference.shape[2:], mode="bilinear", align_corners=True)
