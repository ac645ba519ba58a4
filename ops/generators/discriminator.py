"""The StyleGAN2 discriminator ("resnet" architecture, Karras et al. 2020), NVIDIA's names.

Legend: N batch, C channels, H W, R resolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.generators.stylegan2_config import StyleGAN2Config
from ops.nn.equalised import LRELU_GAIN, LRELU_SLOPE, FullyConnected, normal_init
from ops.nn.resample import blur, fir_kernel

MINIBATCH_STD_GROUP = 4


class EqualisedConv(nn.Module):
    """Convolution with weights scaled by 1 / sqrt(fan_in), optional 2x reduction, optional leaky ReLU and clamp."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(normal_init(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(
        self,
        x: Tensor,
        fir: Tensor | None = None,
        *,
        down: bool = False,
        gain: float = 1.0,
        active: bool = True,
        clamp: float | None = None,
    ) -> Tensor:
        kernel = self.weight.shape[-1]
        # lrelu is positively homogeneous: all gains go into the weights, which are few, and none is a pass over the features.
        whole = LRELU_GAIN * gain if active else gain
        weight = (self.weight * (whole / self.weight[0].numel() ** 0.5)).to(x.dtype)
        bias = None if self.bias is None else (self.bias * whole).to(x.dtype)
        if down:
            assert fir is not None, "the filter of the reduction"
            y = blur(x, fir, padding=1, stride=2) if kernel == 1 else blur(x, fir, padding=2)
            y = F.conv2d(y, weight, bias, stride=1 if kernel == 1 else 2)
        else:
            y = F.conv2d(x, weight, bias, padding=kernel // 2)
        y = F.leaky_relu(y, LRELU_SLOPE) if active else y
        return y if clamp is None else F.hardtanh(y, -clamp * gain, clamp * gain)  # one pass back where clamp takes four


class DiscriminatorBlock(nn.Module):
    """R => R/2, with a residual connection; the first block also reads RGB."""

    def __init__(self, resolution: int, config: StyleGAN2Config):
        super().__init__()
        channels, out_channels = config.channels[resolution], config.channels[resolution // 2]
        self.reads_rgb = resolution == config.resolution
        if self.reads_rgb:
            self.fromrgb = EqualisedConv(3, channels, 1)
        self.conv0 = EqualisedConv(channels, channels, 3)
        self.conv1 = EqualisedConv(channels, out_channels, 3)
        self.skip = EqualisedConv(channels, out_channels, 1, bias=False)
        self.clamp = config.conv_clamp

    def forward(self, x: Tensor, fir: Tensor) -> Tensor:
        half = 0.5**0.5
        if self.reads_rgb:
            x = self.fromrgb(x, fir, clamp=self.clamp)
        skip = self.skip(x, fir, down=True, gain=half, active=False)
        x = self.conv0(x, fir, clamp=self.clamp)
        x = self.conv1(x, fir, down=True, gain=half, clamp=self.clamp)
        return skip + x


class DiscriminatorEpilogue(nn.Module):
    """4x4 features => one logit, after the minibatch standard deviation (Karras et al. 2018, section 3)."""

    def __init__(self, config: StyleGAN2Config):
        super().__init__()
        channels = config.channels[4]
        self.conv = EqualisedConv(channels + 1, channels, 3)
        self.fc = FullyConnected(channels * 16, channels)
        self.out = FullyConnected(channels, 1)
        self.clamp = config.conv_clamp

    def forward(self, x: Tensor, fir: Tensor) -> Tensor:
        x = torch.cat([x, minibatch_std(x)], dim=1)
        x = self.conv(x, fir, clamp=self.clamp)
        x = F.leaky_relu(self.fc(x.flatten(1).float()), LRELU_SLOPE) * LRELU_GAIN
        return self.out(x)


def minibatch_std(x: Tensor) -> Tensor:
    """[N, C, H, W] => [N, 1, H, W]: mean over C, H, W of the standard deviation over groups of at most four samples."""
    batch, channels, height, width = x.shape
    group = min(MINIBATCH_STD_GROUP, batch)
    if batch % group:
        raise ValueError(f"expected a batch that is a multiple of {group} for the minibatch statistics, got {batch}")
    grouped = x.float().reshape(group, batch // group, channels, height, width)
    std = (grouped.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return std.repeat(group).reshape(batch, 1, 1, 1).expand(-1, -1, height, width).to(x.dtype)


class Discriminator(nn.Module):
    """image [N, 3, R, R] => logits float32 [N, 1]; N a multiple of 4, or less than 4."""

    fir: Tensor

    def __init__(self, config: StyleGAN2Config):
        super().__init__()
        self.config = config
        for res in reversed(config.resolutions[1:]):
            self.add_module(f"b{res}", DiscriminatorBlock(res, config))
        self.b4 = DiscriminatorEpilogue(config)
        self.register_buffer("fir", fir_kernel(config.resample_filter), persistent=False)

    def forward(self, images: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        x = images.to(dtype).contiguous(memory_format=torch.channels_last)
        for res in reversed(self.config.resolutions[1:]):
            x = self.get_submodule(f"b{res}")(x, self.fir)
        return self.b4(x, self.fir)
