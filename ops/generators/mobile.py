"""MobileStyleGAN (Belousov 2021, arXiv 2104.04767): a student of StyleGAN2 with its mapping network and its W, at a tenth of
its cost.

    const 4x4 - conv1 - layers 0..: up (inverse Haar) - conv1 - conv2 - ... - to_img - inverse Haar => picture

A style scales a module's input; demodulation does not depend on it and is part of the weights. The network has one output, at
its full size. The picture averaged to half that size is exact: the low band of the last Haar transform. Smaller ones come from
tails (`TailConfig`): small networks of our own in place of the layers above, distilled to the full picture averaged down. So
one code and one residual give pictures of several sizes.

Legend: N batch, L rows of W+, D width of W, C channels, H W.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.generators.mapping import MappingNetwork
from ops.generators.protocol import Generator, Injection, Place, StyleInput, place_named
from ops.nn.depthwise import depthwise
from ops.nn.equalised import LRELU_SLOPE, normal_init
from ops.nn.haar import haar_up
from ops.nn.linear import linear
from ops.nn.pointwise import pointwise

ROWS_1024 = (0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8, 9, 9, 10, 11, 11, 12, 13, 13, 14, 15)
"""The row of StyleGAN2's W+ that each module of the published network reads; 16 and 17 reach nothing."""


COLOURS = 12
"""Channels of a picture before the last inverse Haar transform; the first three are its low band."""


ALONE_FROM = 64
"""Side of the features from which on a CPU works on one sample at a time."""


@dataclass(frozen=True)
class TailConfig:
    """A smaller output: colours read off a layer's features, plus those that separable convolutions make of them."""

    size: int
    """Side of the picture in pixels, and of the features it reads."""
    widths: tuple[int, ...]
    """Output channels of each convolution."""
    rows: tuple[int, ...]
    """The row of W+ of the linear reading's style, of each convolution's, and last of the output's: those of the layers that
    the tail stands for."""


@dataclass(frozen=True)
class MobileConfig:
    """Sizes of the network; the defaults are the published FFHQ-1024 one."""

    channels: tuple[int, ...] = (512, 512, 512, 512, 512, 256, 128, 64)
    """Channels of the features at 4, 8, 16, ... cells; the picture is twice as wide as the last."""
    w_dim: int = 512
    z_dim: int = 512
    mapping_layers: int = 8
    num_ws: int = 18
    """Rows of W+: the teacher's, so that its edits and stores fit."""
    rows: tuple[int, ...] = ROWS_1024
    """Row of W+ of each module, in the order of S."""
    tails: tuple[TailConfig, ...] = ()

    def __post_init__(self) -> None:
        modules = 2 + 3 * (len(self.channels) - 1)
        if len(self.channels) < 2 or any(count % 4 for count in self.channels[:-1]):
            raise ValueError(f"expected channels at two or more resolutions, multiples of 4, got {list(self.channels)}")
        if len(self.rows) != modules or not all(0 <= row < self.num_ws for row in self.rows):
            raise ValueError(f"expected {modules} rows between 0 and {self.num_ws - 1}, got {list(self.rows)}")
        below = self.sides[1:-1]
        for tail in self.tails:
            if tail.size not in below:
                raise ValueError(f"expected tails of {below} px, got {tail.size}")
            if len(tail.rows) != len(tail.widths) + 2:
                raise ValueError(f"a tail of {tail.size} px: expected {len(tail.widths) + 2} rows, got {len(tail.rows)}")

    @property
    def sides(self) -> list[int]:
        """Cells a side of the features: 4, 8, ..."""
        return [4 << i for i in range(len(self.channels))]

    @property
    def resolution(self) -> int:
        return 2 * self.sides[-1]

    @property
    def sizes(self) -> tuple[int, ...]:
        return (*sorted(tail.size for tail in self.tails), self.half, self.resolution)

    @property
    def half(self) -> int:
        """Side of the picture averaged to half of it, which is exact and cheaper than the whole."""
        return self.resolution // 2

    @property
    def layers(self) -> int:
        return len(self.channels) - 1

    @property
    def style_inputs(self) -> tuple[StyleInput, ...]:
        """The modules of the published network, then those of the tails."""
        found = [("conv1", self.channels[0], self.channels[0])]
        for layer in range(self.layers):
            before, after, name = self.channels[layer], self.channels[layer + 1], f"layers.{layer}"
            found += [(f"{name}.up", before, 0), (f"{name}.conv1", before // 4, after), (f"{name}.conv2", after, after)]
        found.append(("to_img", self.channels[-1], COLOURS))
        rows = [*self.rows]
        for tail in self.tails:
            counts, name = (self.channels[self.layer_of(tail) + 1], *tail.widths, COLOURS), f"tails.px{tail.size}"
            found.append((f"{name}.linear", counts[0], 3))
            found += [(f"{name}.convs.{i}", counts[i], counts[i + 1]) for i in range(len(tail.widths))]
            found.append((f"{name}.to_img", counts[-2], 3))
            rows += tail.rows
        return tuple(
            StyleInput(name, into, row, out, makes_colours=name.endswith(("to_img", "linear")))
            for (name, into, out), row in zip(found, rows, strict=True)
        )

    @property
    def places(self) -> tuple[Place, ...]:
        """Behind conv1 and behind conv2 of each layer."""
        found, read = [], 0
        for entry in self.style_inputs:
            read = max(read, entry.row + 1)
            if entry.name.startswith("layers.") and not entry.name.endswith("up"):
                layer = int(entry.name.split(".")[1])
                found.append(Place(entry.name, self.sides[layer + 1], self.channels[layer + 1], read))
        return tuple(found)

    def layer_of(self, tail: TailConfig) -> int:
        """The layer whose features a tail reads."""
        return self.sides.index(tail.size) - 1


@dataclass(frozen=True)
class Window:
    """A part of the features: cells [top, top + side) x [left, left + side) of the grid at a place."""

    top: int
    left: int
    side: int

    def at(self, factor: int) -> Window:
        """The same part of a grid `factor` times as fine."""
        return Window(self.top * factor, self.left * factor, self.side * factor)

    def of(self, plane: Tensor) -> Tensor:
        """The part of [..., H, W]."""
        return plane[..., self.top : self.top + self.side, self.left : self.left + self.side]


class SeparableConv(nn.Module):
    """Style, depthwise 3x3, pointwise, noise, bias, leaky ReLU without a gain."""

    noise: Tensor

    def __init__(self, in_channels: int, out_channels: int, side: int, style_width: int):
        super().__init__()
        self.affine = nn.Linear(style_width, in_channels)
        self.depthwise = nn.Parameter(normal_init(in_channels, 1, 3, 3, std=1 / 3))
        self.pointwise = nn.Parameter(normal_init(out_channels, in_channels, 1, 1, std=in_channels**-0.5))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise = nn.Parameter(torch.zeros(side, side))

    def forward(self, x: Tensor, style_NC: Tensor, weight_delta: Tensor | None = None, window: Window | None = None) -> Tensor:
        noise = (self.noise if window is None else window.of(self.noise))[None, None]
        if (
            len(x) == 1
            and weight_delta is None
            and not (torch.is_grad_enabled() and (x.requires_grad or self.bias.requires_grad))
        ):
            # A depthwise filter and a style commute: one weight and a bias for two passes over the features.
            weight = (self.pointwise * style_NC[:, :, None, None]).to(x.dtype)
            y = pointwise(depthwise(x, self.depthwise.to(x.dtype)), weight, self.bias.to(x.dtype))
            return F.leaky_relu(y.add_(noise.to(y.dtype)), LRELU_SLOPE, inplace=True)
        y = depthwise(x * style_NC[:, :, None, None].to(x.dtype), self.depthwise.to(x.dtype))
        y = scaled_pointwise(y, self.pointwise, weight_delta)
        return activated(y, noise, self.bias)


class DenseConv(nn.Module):
    """Style, dense 3x3, noise, bias, leaky ReLU without a gain: the network's first convolution."""

    def __init__(self, in_channels: int, out_channels: int, side: int, style_width: int):
        super().__init__()
        self.affine = nn.Linear(style_width, in_channels)
        self.weight = nn.Parameter(normal_init(out_channels, in_channels, 3, 3, std=(9 * in_channels) ** -0.5))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise = nn.Parameter(torch.zeros(side, side))

    def forward(self, x: Tensor, style_NC: Tensor, weight_delta: Tensor | None = None) -> Tensor:
        x = x * style_NC[:, :, None, None].to(x.dtype)
        if weight_delta is None:
            y = F.conv2d(x, self.weight.to(x.dtype), padding=1)
        else:
            weight = (self.weight * (1.0 + weight_delta)).flatten(0, 1).to(x.dtype)  # [N O, I, k, k]
            y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), weight, padding=1, groups=len(x)).view(len(x), -1, *x.shape[2:])
        return activated(y, self.noise[None, None], self.bias)


class Up(nn.Module):
    """Style, then the inverse Haar transform: a quarter of the channels at twice the side."""

    def __init__(self, in_channels: int, style_width: int):
        super().__init__()
        self.affine = nn.Linear(style_width, in_channels)

    def forward(self, x: Tensor, style_NC: Tensor) -> Tensor:
        return haar_up(x * style_NC[:, :, None, None].to(x.dtype))


class ToImage(nn.Module):
    """Style, pointwise to the colours, bias; of twelve colours the inverse Haar transform => picture float32."""

    def __init__(self, in_channels: int, style_width: int, colours: int = COLOURS):
        super().__init__()
        self.affine = nn.Linear(style_width, in_channels)
        self.weight = nn.Parameter(normal_init(colours, in_channels, 1, 1, std=in_channels**-0.5))
        self.bias = nn.Parameter(torch.zeros(colours))

    def forward(self, x: Tensor, style_NC: Tensor, weight_delta: Tensor | None = None) -> Tensor:
        y = self.colours(x, style_NC, weight_delta, len(self.bias))
        return haar_up(y) if len(self.bias) == COLOURS else y

    def averaged(self, x: Tensor, style_NC: Tensor, weight_delta: Tensor | None = None) -> Tensor:
        """The picture averaged to half its side: half of the low band, as (LL + h + v + d) / 2 and its like say."""
        delta = None if weight_delta is None else weight_delta[:, : COLOURS // 4]
        return 0.5 * self.colours(x, style_NC, delta, COLOURS // 4)

    def colours(self, x: Tensor, style_NC: Tensor, weight_delta: Tensor | None, count: int) -> Tensor:
        """The first `count` of them [N, count, H, W] float32."""
        y = scaled_pointwise(x * style_NC[:, :, None, None].to(x.dtype), self.weight[:count], weight_delta)
        return y.float() + self.bias[:count, None, None]


def one_by_one(x: Tensor) -> bool:
    """Return whether each sample is computed alone: on a CPU a style is then a factor of a weight (`SeparableConv`)."""
    return (
        len(x) > 1
        and x.device.type == "cpu"
        and x.shape[-1] >= ALONE_FROM
        and not (torch.is_grad_enabled() and x.requires_grad)
    )


def scaled_pointwise(x: Tensor, weight: Tensor, weight_delta: Tensor | None) -> Tensor:
    """A 1x1 convolution, with weights W * (1 + delta) of each sample where a delta [N, O, I, 1, 1] is given."""
    if weight_delta is None:
        return pointwise(x, weight.to(x.dtype))
    own = (weight * (1.0 + weight_delta)).to(x.dtype)
    return torch.cat([pointwise(x[n : n + 1], own[n % len(own)]) for n in range(len(x))])


def activated(y: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
    """lrelu(y + noise + bias); in place without gradients."""
    if y.requires_grad:
        return F.leaky_relu(y + (noise + bias[:, None, None]).to(y.dtype), LRELU_SLOPE)
    return F.leaky_relu(y.add_(noise.to(y.dtype)).add_(bias[:, None, None].to(y.dtype)), LRELU_SLOPE, inplace=True)


class Layer(nn.Module):
    def __init__(self, config: MobileConfig, layer: int):
        super().__init__()
        before, after, side = config.channels[layer], config.channels[layer + 1], config.sides[layer + 1]
        self.up = Up(before, config.w_dim)
        self.conv1 = SeparableConv(before // 4, after, side, config.w_dim)
        self.conv2 = SeparableConv(after, after, side, config.w_dim)


class Tail(nn.Module):
    """Features [N, C, R, R] => picture float32 [N, 3, R, R]."""

    def __init__(self, tail: TailConfig, in_channels: int, w_dim: int):
        super().__init__()
        counts = (in_channels, *tail.widths)
        self.convs = nn.ModuleList(
            SeparableConv(before, after, tail.size, w_dim) for before, after in zip(counts, tail.widths, strict=False)
        )
        self.linear = ToImage(in_channels, w_dim, colours=3)
        self.to_img = ToImage(counts[-1], w_dim, colours=3)

    def forward(self, x: Tensor, styles: Sequence[Tensor], window: Window | None = None) -> Tensor:
        picture: Tensor = self.linear(x, styles[0])
        for conv, style_NC in zip(self.convs, styles[1:], strict=False):
            y = conv(x, style_NC, None, window)
            x = x + y if y.shape == x.shape else y
        return picture + self.to_img(x, styles[-1])


class MobileSynthesis(nn.Module):
    def __init__(self, config: MobileConfig):
        super().__init__()
        self.const = nn.Parameter(normal_init(1, config.channels[0], 4, 4))
        self.conv1 = DenseConv(config.channels[0], config.channels[0], 4, config.w_dim)
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.layers))
        self.to_img = ToImage(config.channels[-1], config.w_dim)
        self.tails = nn.ModuleDict(
            {f"px{tail.size}": Tail(tail, config.channels[config.layer_of(tail) + 1], config.w_dim) for tail in config.tails}
        )


@final
class Mobile(Generator):
    """W+ => S by `styles`, S => picture of one of several sizes by `forward`; `features` stops early, `onward` starts late."""

    config: MobileConfig

    def __init__(self, config: MobileConfig):
        super().__init__()
        self.config = config
        self.mapping = MappingNetwork(config)
        self.synthesis = MobileSynthesis(config)
        self.order = {entry.name: i for i, entry in enumerate(config.style_inputs)}

    def style(self, name: str, row_ND: Tensor) -> Tensor:
        affine = self.synthesis.get_submodule(name).affine
        assert isinstance(affine, nn.Linear)
        return linear(row_ND, affine.weight, affine.bias)

    def features(self, styles: Sequence[Tensor], place: str, *, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.upward(self._first(styles, None, dtype), styles, "", place)

    def forward(
        self,
        styles: Sequence[Tensor],
        *,
        size: int | None = None,
        injection: Injection | None = None,
        weight_deltas: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        size = self.picture_size(size)
        if injection is not None:
            place_named(self.config, injection.place)
        x = self._first(styles, weight_deltas, dtype)
        return self._finish("", x, styles, size, injection, weight_deltas, None)

    def onward(
        self, x: Tensor, styles: Sequence[Tensor], place: str, *, size: int | None = None, window: Window | None = None
    ) -> Tensor:
        """Features at a place => picture. With a window, x is that part of the features, and so is the picture; cells near
        its border differ from the whole picture's, as the convolutions find zeros there.

        Raises:
            ValueError: a size or a place that the architecture does not have, or a place behind those that the size needs.
        """
        place_named(self.config, place)
        return self._finish(place, x, styles, self.picture_size(size), None, None, window)

    def upward(self, x: Tensor, styles: Sequence[Tensor], place: str, to: str) -> Tensor:
        """Features at a place => features at a later one. Raises ValueError where `to` is none, or lies before."""
        place_named(self.config, to)
        names = self.modules_after(place)
        if to not in names:
            raise ValueError(f"{to} lies before {place}")
        for name in names[: names.index(to) + 1]:
            x = self._step(name, x, styles, None, None)
        return x

    def modules_after(self, after: str) -> list[str]:
        """Modules between the first convolution and the output, those behind a place."""
        names = [f"layers.{layer}.{name}" for layer in range(self.config.layers) for name in ("up", "conv1", "conv2")]
        return names[names.index(after) + 1 :] if after else names

    def _first(self, styles: Sequence[Tensor], deltas: Mapping[str, Tensor] | None, dtype: torch.dtype) -> Tensor:
        x = self.synthesis.const.to(dtype).expand(len(styles[0]), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        y: Tensor = self.synthesis.conv1(x, styles[0], (deltas or {}).get("conv1"))
        return y

    def _step(
        self,
        name: str,
        x: Tensor,
        styles: Sequence[Tensor],
        deltas: Mapping[str, Tensor] | None,
        window: Window | None,
    ) -> Tensor:
        """One module; `window` is in cells of its output."""
        module, style_NC = self.synthesis.get_submodule(name), styles[self.order[name]]
        y: Tensor = module(x, style_NC) if isinstance(module, Up) else module(x, style_NC, (deltas or {}).get(name), window)
        return y

    def _finish(
        self,
        after: str,
        x: Tensor,
        styles: Sequence[Tensor],
        size: int,
        injection: Injection | None,
        deltas: Mapping[str, Tensor] | None,
        window: Window | None,
    ) -> Tensor:
        """From the features behind a place (behind the first convolution, where it is "") to a picture."""
        tail = next((tail for tail in self.config.tails if tail.size == size), None)
        last = f"layers.{self.config.layers - 1 if tail is None else self.config.layer_of(tail)}.conv2"
        names = self.modules_after(after)
        if after != last and last not in names:
            raise ValueError(f"a picture of {size} px is made of the features at {last}, which lies before {after}")
        done = after
        for name in names if after != last else ():
            if injection is None and deltas is None and one_by_one(x):
                parts = zip(x.split(1), *(style.split(1) for style in styles), strict=True)
                return torch.cat([self._finish(done, one, rows, size, None, None, window) for one, *rows in parts])
            if window is not None and name.endswith("up"):
                window = window.at(2)
            x = self._step(name, x, styles, deltas, window)
            if injection is not None and name == injection.place:
                x, injection = injection.transform(x), None
            if name == last:
                break
            done = name
        if tail is None:
            read = self.synthesis.to_img if size == self.config.resolution else self.synthesis.to_img.averaged
            picture: Tensor = read(x, styles[self.order["to_img"]], (deltas or {}).get("to_img"))
            return picture
        first = self.order[f"tails.px{size}.linear"]
        shorter: Tensor = self.synthesis.tails[f"px{size}"](x, styles[first : first + len(tail.rows)], window)
        return shorter
