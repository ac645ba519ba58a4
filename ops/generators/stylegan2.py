"""The StyleGAN2 generator ("skip" architecture, Karras et al. 2020), for inference and as a frozen prior in training.

Names follow NVIDIA's (`mapping.fc0`, `synthesis.b64.conv0`), so that a converted checkpoint is the same tensors.

Every inversion method we follow asks two things of it, and it offers just these two seams:
  * `Injection`: replace the features after one convolution (StyleRes and HFGI between the two of a block, SFE after both);
  * `weight_deltas`: scale convolution weights, per sample (HyperStyle).

Legend: N batch, L rows of W+, D width of W, I/O channels in/out, k kernel, H W.

Precision: parameters, styles, demodulation and the RGB sum are float32; only feature maps take `dtype`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.generators.stylegan2_config import StyleGAN2Config
from ops.nn.pointwise import pointwise
from ops.nn.resample import blur, fir_kernel, upsample_2x

LRELU_SLOPE = 0.2
LRELU_GAIN = 2.0**0.5
DEMODULATION_EPS = 1e-8
MAPPING_LR_MULTIPLIER = 0.01


ConvName = Literal["conv0", "conv1"]


@dataclass(frozen=True)
class Injection:
    """Replace x, the features [N, C, res, res] after a convolution of block b{res}, by `transform(x)`.

    After conv1, the block's own torgb still sees x: only the blocks above see what replaced it.
    """

    resolution: int
    transform: Callable[[Tensor], Tensor]
    after: ConvName = "conv0"


def equalised_linear(x: Tensor, weight: Tensor, bias: Tensor, *, lr_multiplier: float = 1.0) -> Tensor:
    """y = x (W * lr / sqrt(fan_in))^T + b * lr (Karras et al. 2018, section 4.1)."""
    return F.linear(x, weight * (lr_multiplier / weight.shape[1] ** 0.5), bias * lr_multiplier)


def normal_init(*shape: int, std: float = 1.0) -> Tensor:
    """Initial weights. On the meta device, where a model waits to be filled from a file, only their shape.

    Drawing numbers there, or scaling them, makes torch import its symbolic shapes: a second at every start, for nothing.
    """
    shaped = torch.empty(shape)
    return shaped if shaped.is_meta else torch.randn(shape) * std


class FullyConnected(nn.Module):
    """Parameters of an equalised linear layer."""

    def __init__(self, in_features: int, out_features: int, *, bias_init: float = 0.0, lr_multiplier: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(normal_init(out_features, in_features, std=1.0 / lr_multiplier))
        self.bias = nn.Parameter(torch.full((out_features,), bias_init))
        self.lr_multiplier = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        return equalised_linear(x, self.weight, self.bias, lr_multiplier=self.lr_multiplier)


class MappingNetwork(nn.Module):
    """z => W. `w_avg` is the mean of W, for truncation and as the encoder's starting point."""

    w_avg: Tensor

    def __init__(self, config: StyleGAN2Config):
        super().__init__()
        self.num_layers = config.mapping_layers
        for i in range(config.mapping_layers):
            in_features = config.z_dim if i == 0 else config.w_dim
            layer = FullyConnected(in_features, config.w_dim, lr_multiplier=MAPPING_LR_MULTIPLIER)
            self.add_module(f"fc{i}", layer)
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def hidden(self, z: Tensor) -> Tensor:
        """What the last layer reads."""
        x = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for i in range(self.num_layers - 1):
            x = F.leaky_relu(self.get_submodule(f"fc{i}")(x), LRELU_SLOPE) * LRELU_GAIN
        return x

    def forward(self, z: Tensor, *, truncation: float = 1.0) -> Tensor:
        last = self.get_submodule(f"fc{self.num_layers - 1}")
        x = F.leaky_relu(last(self.hidden(z)), LRELU_SLOPE) * LRELU_GAIN
        return x if truncation == 1.0 else self.w_avg + truncation * (x - self.w_avg)


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
        self.clamp = config.conv_clamp

    def forward(self, x: Tensor, style_NI: Tensor, fir: Tensor, weight_delta: Tensor | None) -> Tensor:
        # Demodulation scales each (n, o) by d = rsqrt(sum_ik (W s)^2). Scaling input and output instead of the weights
        # keeps one dense convolution for the whole batch. lrelu is positively homogeneous, so its gain sqrt(2) joins d,
        # noise and bias.
        if weight_delta is None:
            energy_NO = style_NI.square() @ self.weight.square().sum(dim=(2, 3)).t()
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


class Generator(nn.Module):
    """W+ => S by `styles`, S => image by `forward`; `features` stops early."""

    fir: Tensor

    def __init__(self, config: StyleGAN2Config):
        super().__init__()
        self.config = config
        self.mapping = MappingNetwork(config)
        self.synthesis = Synthesis(config)
        self.register_buffer("fir", fir_kernel(config.resample_filter), persistent=False)

    def block(self, resolution: int) -> Block:
        return self.synthesis.get_submodule(f"b{resolution}")  # type: ignore[return-value]

    def style_layers(self) -> list[tuple[str, FullyConnected, int, float]]:
        """(name, affine, row of W+, gain) of the entries of S, in the order of S.

        b4 reads rows 0 (conv1) and 1 (torgb); block 2^k reads rows 2k - 5, 2k - 4, 2k - 3, so torgb's row is also the next
        block's first. torgb entries include the gain 1 / sqrt(C).
        """
        layers = []
        for res in self.config.resolutions:
            block, row = self.block(res), self.config.rows_up_to(res) - 1
            if res > 4:
                layers.append((f"b{res}.conv0", block.conv0.affine, row, 1.0))
            layers.append((f"b{res}.conv1", block.conv1.affine, row + 1, 1.0))
            layers.append((f"b{res}.torgb", block.torgb.affine, row + 2, block.torgb.gain))
        return layers

    def styles(self, wplus_NLD: Tensor) -> list[Tensor]:
        """W+ [N, L, D] => S, float32."""
        if wplus_NLD.shape[1:] != (self.config.num_ws, self.config.w_dim):
            raise ValueError(
                f"expected W+ as [N, {self.config.num_ws}, {self.config.w_dim}], got {list(wplus_NLD.shape)}; "
                "repeat a code of W over the rows first"
            )
        rows = wplus_NLD.float().unbind(dim=1)
        return [affine(rows[row]) * gain for _, affine, row, gain in self.style_layers()]

    def features(
        self,
        styles: Sequence[Tensor],
        resolution: int,
        *,
        after: ConvName = "conv0",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """S => F: the features [N, C, res, res] after a convolution of b{res}, where an `Injection` would replace them."""
        return self._run(styles, stop_at=(resolution, after), injection=None, weight_deltas=None, dtype=dtype)

    def forward(
        self,
        styles: Sequence[Tensor],
        *,
        injection: Injection | None = None,
        weight_deltas: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """S => image float32 [N, 3, R, R] in nominal [-1, 1], noise constant.

        weight_deltas: layer name of `style_layers` => [N, O, I, k, k] or broadcastable; the layer runs with W * (1 + delta).
        """
        return self._run(styles, stop_at=None, injection=injection, weight_deltas=weight_deltas, dtype=dtype)

    def _run(
        self,
        styles: Sequence[Tensor],
        *,
        stop_at: tuple[int, ConvName] | None,
        injection: Injection | None,
        weight_deltas: Mapping[str, Tensor] | None,
        dtype: torch.dtype,
    ) -> Tensor:
        resolutions = self.config.resolutions
        place = stop_at if injection is None else (injection.resolution, injection.after)
        if place is not None and place[0] not in resolutions[1:]:
            raise ValueError(f"expected an injection resolution among {resolutions[1:]}, got {place[0]}")
        deltas = weight_deltas or {}
        remaining = iter(styles)
        batch = styles[0].shape[0]
        x = self.block(4).const.to(dtype).expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        image: Tensor | None = None
        for res in resolutions:
            block = self.block(res)
            if res > 4:
                x = block.conv0(x, next(remaining), self.fir, deltas.get(f"b{res}.conv0"))
                if (res, "conv0") == stop_at:
                    return x
                if injection is not None and (res, "conv0") == place:
                    x = injection.transform(x)
            x = block.conv1(x, next(remaining), self.fir, deltas.get(f"b{res}.conv1"))
            if (res, "conv1") == stop_at:
                return x
            rgb = block.torgb(x, next(remaining), deltas.get(f"b{res}.torgb"))
            image = rgb if image is None else upsample_2x(image, self.fir) + rgb
            if injection is not None and (res, "conv1") == place:
                x = injection.transform(x)
        assert image is not None
        return image
