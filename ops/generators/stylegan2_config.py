"""Sizes of a StyleGAN2, shared by generator and discriminator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ops.generators.protocol import Place, StyleInput


def channels_by_rule(resolution: int, channel_base: int = 32768, channel_max: int = 512) -> dict[int, int]:
    """NVIDIA's rule: min(channel_base / res, channel_max) feature maps at each resolution from 4 to `resolution`."""
    sizes = [2**k for k in range(2, resolution.bit_length())]
    return {res: min(channel_base // res, channel_max) for res in sizes}


@dataclass(frozen=True)
class StyleGAN2Config:
    """A StyleGAN2 ('skip' generator, 'resnet' discriminator), config F by default (FFHQ 1024)."""

    resolution: int = 1024
    """Side of the square output in pixels; a power of two, 32 to 1024."""
    w_dim: int = 512
    z_dim: int = 512
    mapping_layers: int = 8
    channels: Mapping[int, int] = field(default_factory=lambda: channels_by_rule(1024))
    """Feature maps at each resolution, any rule."""
    conv_clamp: float | None = 256.0
    """Clamp of every convolution's output, in every precision."""
    resample_filter: tuple[int, ...] = (1, 3, 3, 1)

    def __post_init__(self) -> None:
        if self.resolution not in (32, 64, 128, 256, 512, 1024):
            raise ValueError(f"expected a resolution of 32, 64, 128, 256, 512 or 1024, got {self.resolution}")
        missing = [res for res in self.resolutions if res not in self.channels]
        if missing:
            raise ValueError(f"the channel table names {sorted(self.channels)}; missing: {missing}")

    @property
    def resolutions(self) -> list[int]:
        """4, 8, ..., resolution."""
        return [2**k for k in range(2, self.resolution.bit_length())]

    @property
    def num_ws(self) -> int:
        """L: rows of W+ (18 at 1024 px)."""
        return 2 * (self.resolution.bit_length() - 1) - 2

    @property
    def style_inputs(self) -> tuple[StyleInput, ...]:
        """b4 reads rows 0 (conv1) and 1 (torgb); block 2^k reads rows 2k - 5, 2k - 4, 2k - 3, so torgb's row is also the next
        block's first. A convolution is modulated at its input (9088 channels in all at 1024 px); torgb's entries include the
        gain 1 / sqrt(C)."""
        found = []
        for res in self.resolutions:
            row = self._rows_before(res)
            if res > 4:
                found.append(StyleInput(f"b{res}.conv0", self.channels[res // 2], row - 1, self.channels[res]))
            found.append(StyleInput(f"b{res}.conv1", self.channels[res], row, self.channels[res]))
            found.append(StyleInput(f"b{res}.torgb", self.channels[res], row + 1, 3, makes_colours=True))
        return tuple(found)

    @property
    def places(self) -> tuple[Place, ...]:
        """Behind conv0 and behind conv1 of each block but the first. 8 rows are read up to b64.conv0."""
        found = []
        for res in self.resolutions[1:]:
            rows = self._rows_before(res)
            found.append(Place(f"b{res}.conv0", res, self.channels[res], rows))
            found.append(Place(f"b{res}.conv1", res, self.channels[res], rows + 1))
        return tuple(found)

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.resolution,)

    def _rows_before(self, resolution: int) -> int:
        """How many leading rows of W+ are read before conv1 of a block: 2 log2(resolution) - 4."""
        return 2 * (resolution.bit_length() - 1) - 4
