"""Sizes of a StyleGAN2, shared by generator and discriminator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
    def style_channels(self) -> dict[str, int]:
        """Channels of each entry of S, in the order of S: a convolution is modulated at its input (9088 in all at 1024 px)."""
        channels = {}
        for res in self.resolutions:
            if res > 4:
                channels[f"b{res}.conv0"] = self.channels[res // 2]
            channels[f"b{res}.conv1"] = channels[f"b{res}.torgb"] = self.channels[res]
        return channels

    def rows_up_to(self, resolution: int) -> int:
        """How many leading rows of W+ the features after b{resolution}.conv0 depend on (8 at 64 px)."""
        return 2 * (resolution.bit_length() - 1) - 4
