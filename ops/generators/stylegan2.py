"""The StyleGAN2 generator ("skip" architecture, Karras et al. 2020), for inference and as a frozen prior in training.

Names follow NVIDIA's (`mapping.fc0`, `synthesis.b64.conv0`), so that a converted checkpoint is the same tensors.

Legend: N batch, L rows of W+, D width of W, I/O channels in/out, k kernel, H W.

Precision: parameters, styles, demodulation and the RGB sum are float32; only feature maps take `dtype`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.generators.mapping import MappingNetwork
from ops.generators.protocol import Generator, Injection, place_named
from ops.generators.stylegan2_config import StyleGAN2Config
from ops.nn.equalised import LRELU_GAIN, LRELU_SLOPE, FullyConnected, normal_init
from ops.nn.linear import linear
from ops.nn.pointwise import pointwise
from ops.nn.resample import blur, fir_kernel, upsample_2x

DEMODULATION_EPS = 1e-8


class ModulatedConv(nn.Module):
    """3x3 style-modulated convolution with noise, bias and leaky ReLU; doubles the resolution if `up`."""

    noise_const: Tensor

    def __init__(self, in_channels: int, out_channels: int, resolution: int, config: StyleGAN2Config, *, up: bool):
        super().__init__()
        self.weight = nn.Parameter(normal_init(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.affine = FullyConnected(config.w_dim, in_channels, bias_init=1.0)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", normal_init(resolution, resolution))
        self.up = up
        self.gain = 1.0
        self.clamp = config.conv_clamp

    def forward(self, x: Tensor, style_NI: Tensor, fir: Tensor, weight_delta: Tensor | None) -> Tensor:
        # Demodulation scales each (n, o) by d = rsqrt(sum_ik (W s)^2). Scaling input and output instead of the weights
        # keeps one dense convolution for the whole batch. lrelu is positively homogeneous, so its gain sqrt(2) joins d,
        # noise and bias.
        if weight_delta is None:
            energy_NO = linear(style_NI.square(), self.weight.square().sum(dim=(2, 3)))
            y = self._convolve(x * style_NI[:, :, None, None].to(x.dtype), self.weight.to(x.dtype), groups=1)
        else:
            weight = self.weight * (1.0 + weight_delta)  # [N, O, I, k, k]
            energy_NO = torch.einsum("noi,ni->no", weight.square().sum(dim=(3, 4)), style_NI.square())
            batch = x.shape[0]
            x = (x * style_NI[:, :, None, None].to(x.dtype)).reshape(1, -1, *x.shape[2:])
            y = self._convolve(x, weight.flatten(0, 1).to(x.dtype), groups=batch)
            y = y.reshape(batch, -1, *y.shape[2:])
        if self.up:
            y = blur(y, fir, padding=1, gain=4.0)
        return self._activate(y, (energy_NO + DEMODULATION_EPS).rsqrt())

    def _activate(self, y: Tensor, demodulation_NO: Tensor) -> Tensor:
        """clamp(sqrt(2) lrelu(d y + noise + bias)), with as few and as small temporaries as autograd allows."""
        scale = (demodulation_NO * LRELU_GAIN)[:, :, None, None].to(y.dtype)
        noise = (self.noise_const * (self.noise_strength * LRELU_GAIN))[None, None].to(y.dtype)
        bias = (self.bias * LRELU_GAIN)[:, None, None].to(y.dtype)
        if y.requires_grad:
            y = F.leaky_relu(torch.addcmul(noise + bias, y, scale), LRELU_SLOPE)
            return y if self.clamp is None else F.hardtanh(y, -self.clamp, self.clamp)  # one pass back where clamp takes four
        # At 1024 px a new feature map costs ten times what is computed on it.
        torch.addcmul(noise, y, scale, out=y).add_(bias)
        F.leaky_relu(y, LRELU_SLOPE, inplace=True)
        return y if self.clamp is None else y.clamp_(-self.clamp, self.clamp)

    def _convolve(self, x: Tensor, weight: Tensor, *, groups: int) -> Tensor:
        if not self.up:
            return F.conv2d(x, weight, padding=1, groups=groups)
        # conv_transpose2d wants [groups * I, O, k, k]; W is used unflipped.
        out_channels, in_channels = weight.shape[0] // groups, weight.shape[1]
        weight = weight.reshape(groups, out_channels, in_channels, 3, 3).transpose(1, 2).flatten(0, 1)
        return F.conv_transpose2d(x, weight, stride=2, groups=groups)


class ToRGB(nn.Module):
    """1x1 modulated convolution to three channels; no demodulation, no noise."""

    def __init__(self, in_channels: int, config: StyleGAN2Config):
        super().__init__()
        self.weight = nn.Parameter(normal_init(3, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.affine = FullyConnected(config.w_dim, in_channels, bias_init=1.0)
        self.gain = 1.0 / in_channels**0.5
        self.clamp = config.conv_clamp

    def forward(self, x: Tensor, style_NI: Tensor, weight_delta: Tensor | None) -> Tensor:
        if x.requires_grad and weight_delta is None:
            # A slice's gradient is as large as x: one for every sample would cost more than the copy of x that they spare.
            y = pointwise(x * style_NI[:, :, None, None].to(x.dtype), self.weight.to(x.dtype))
        else:
            # Three output channels: modulating the weights, sample by sample, spares a copy of x.
            delta = 1.0 if weight_delta is None else 1.0 + weight_delta
            weight = (self.weight * delta * style_NI[:, None, :, None, None]).to(x.dtype)
            y = torch.cat([pointwise(x[n : n + 1], weight[n]) for n in range(x.shape[0])])
        y = y.float() + self.bias[:, None, None]
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


class Block(nn.Module):
    """One resolution: conv0 (up), conv1, torgb; b4 begins with a constant and has no conv0."""

    const: Tensor

    def __init__(self, resolution: int, config: StyleGAN2Config):
        super().__init__()
        channels = config.channels[resolution]
        if resolution == 4:
            self.const = nn.Parameter(normal_init(channels, 4, 4))
        else:
            self.conv0 = ModulatedConv(config.channels[resolution // 2], channels, resolution, config, up=True)
        self.conv1 = ModulatedConv(channels, channels, resolution, config, up=False)
        self.torgb = ToRGB(channels, config)


class Synthesis(nn.Module):
    def __init__(self, config: StyleGAN2Config):
        super().__init__()
        for res in config.resolutions:
            self.add_module(f"b{res}", Block(res, config))


@final
class StyleGAN2(Generator):
    """W+ => S by `styles`, S => picture by `forward`; `features` stops early. Pictures of one size only."""

    config: StyleGAN2Config
    fir: Tensor

    def __init__(self, config: StyleGAN2Config):
        super().__init__()
        self.config = config
        self.mapping = MappingNetwork(config)
        self.synthesis = Synthesis(config)
        self.register_buffer("fir", fir_kernel(config.resample_filter), persistent=False)

    def block(self, resolution: int) -> Block:
        return self.synthesis.get_submodule(f"b{resolution}")  # type: ignore[return-value]

    def style(self, name: str, row_ND: Tensor) -> Tensor:
        module = self.synthesis.get_submodule(name)
        assert isinstance(module, ModulatedConv | ToRGB)
        return module.affine(row_ND) * module.gain

    def features(self, styles: Sequence[Tensor], place: str, *, dtype: torch.dtype = torch.float32) -> Tensor:
        return self._run(styles, stop_at=place, injection=None, weight_deltas=None, dtype=dtype)

    def forward(
        self,
        styles: Sequence[Tensor],
        *,
        size: int | None = None,
        injection: Injection | None = None,
        weight_deltas: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        self.picture_size(size)
        return self._run(styles, stop_at=None, injection=injection, weight_deltas=weight_deltas, dtype=dtype)

    def _run(
        self,
        styles: Sequence[Tensor],
        *,
        stop_at: str | None,
        injection: Injection | None,
        weight_deltas: Mapping[str, Tensor] | None,
        dtype: torch.dtype,
    ) -> Tensor:
        replaced = None if injection is None else injection.place
        for place in (stop_at, replaced):
            if place is not None:
                place_named(self.config, place)
        deltas = weight_deltas or {}
        remaining = iter(styles)
        batch = styles[0].shape[0]
        x = self.block(4).const.to(dtype).expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        image: Tensor | None = None
        for res in self.config.resolutions:
            block = self.block(res)
            first, second = f"b{res}.conv0", f"b{res}.conv1"
            if res > 4:
                x = block.conv0(x, next(remaining), self.fir, deltas.get(first))
                if first == stop_at:
                    return x
                if injection is not None and first == replaced:
                    x = injection.transform(x)
            x = block.conv1(x, next(remaining), self.fir, deltas.get(second))
            if second == stop_at:
                return x
            rgb = block.torgb(x, next(remaining), deltas.get(f"b{res}.torgb"))
            image = rgb if image is None else upsample_2x(image, self.fir) + rgb
            if injection is not None and second == replaced:
                x = injection.transform(x)
        assert image is not None
        return image
