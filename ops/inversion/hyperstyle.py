"""HyperStyle (Alaluf et al., CVPR 2022): a hypernetwork scales the generator's convolution weights for each picture.

    invert      w = e(x), one row repeated;  then `rounds` times   c <- c + H(x, G(w; D(c)))
    generate    G(w'; D(c)),  weights W (1 + D)                     the same c for every edit (section 3.4)

H ends, per layer, in a code of a few hundred numbers; D, its last linear maps, makes a layer's weight deltas of that. The
official program sums deltas over rounds; because D is linear, D(c_1) + D(c_2) + ... is D of the summed codes with its offset
taken once per round. So what is stored of a face is the codes: 17 x 512 numbers where the deltas are 21 million.

Legend: N batch, T tuned layers, K width of a code, Z = K, O I channels out and in, S side of the encoder's images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.generators.build import GeneratorSizes, build_generator
from ops.generators.stylegan2_config import StyleGAN2Config
from ops.inversion.inverter import Inversion, Inverter, Parts, misfits, only, pooled
from ops.nn.equalised import FullyConnected, normal_init
from ops.nn.ir import Group, check_images, ir_se_body, stem, tapped
from ops.nn.pointwise import Pointwise

REFINEMENT_SLOPE = 0.01  # PyTorch's default, as in e4e's heads


@dataclass(frozen=True)
class WEncoderConfig:
    """The encoder of w; the defaults are the official faces_w_encoder.pt."""

    input_size: int = 256
    stem_channels: int = 64
    groups: tuple[Group, ...] = ((64, 64, 3), (64, 128, 4), (128, 256, 14), (256, 512, 3))
    w_dim: int = 512


@dataclass(frozen=True)
class HypernetConfig:
    """The defaults are the official FFHQ model's."""

    stem_channels: int = 64
    groups: tuple[Group, ...] = ((64, 64, 3), (64, 128, 4), (128, 256, 6), (256, 512, 3))
    """(in, out, blocks) of each group of the ResNet; all but the first halve the resolution, as does the stem."""
    code_width: int = 512
    shared_width: int = 128
    """Channels inside the heads of layers that share their last map."""
    plane_width: int = 256
    """Channels inside the heads of the other layers."""
    rounds: int = 5


@dataclass(frozen=True)
class TunedLayer:
    """One of the generator's convolutions whose weights are scaled."""

    index: int
    """Among all entries of S, as the official names count."""
    name: str
    out_channels: int
    in_channels: int
    shared: bool
    """As many channels in and out as the generator's lowest blocks: its deltas come from the shared map, one for each tap of
    the kernel; the others' from a map of their own, one for each pair of channels."""


@dataclass(frozen=True)
class HyperStyleConfig:
    """The defaults are the official FFHQ-1024 model."""

    generator: GeneratorSizes = field(default_factory=StyleGAN2Config)
    encoder: WEncoderConfig = field(default_factory=WEncoderConfig)
    hypernet: HypernetConfig = field(default_factory=HypernetConfig)

    def __post_init__(self) -> None:
        misfits({"width of W": (self.encoder.w_dim, self.generator.w_dim)})
        if self.hypernet.rounds < 1:
            raise ValueError(f"expected at least one round, got {self.hypernet.rounds}")
        if self.encoder.input_size < 32 or self.encoder.input_size & (self.encoder.input_size - 1):
            raise ValueError(f"expected images whose side is a power of two from 32, got {self.encoder.input_size}")

    @property
    def input_size(self) -> int:
        return self.encoder.input_size

    @property
    def detail_shape(self) -> tuple[int, int]:
        return len(self.tuned), self.hypernet.code_width

    @property
    def injection_resolution(self) -> int:
        return 0

    @property
    def tuned(self) -> list[TunedLayer]:
        """Every convolution of features, in the generator's order; colour layers keep their weights."""
        common = self.shared_channels
        return [
            TunedLayer(index, entry.name, entry.out_channels, entry.channels, entry.channels == entry.out_channels == common)
            for index, entry in enumerate(self.generator.style_inputs)
            if entry.out_channels and not entry.makes_colours
        ]

    @property
    def shared_channels(self) -> int:
        """O and I of the layers that share a map."""
        return self.generator.style_inputs[0].channels


class WEncoder(nn.Module):
    """images [N, 3, S, S] => offsets of w from the mean code [N, D] float32."""

    def __init__(self, config: WEncoderConfig):
        super().__init__()
        self.size = config.input_size
        self.input_layer = stem(3, config.stem_channels)
        self.body, self.taps = ir_se_body(config.groups)
        self.linear = FullyConnected(config.groups[-1][1], config.w_dim)

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, 3, self.size)
        x = tapped(self.body, self.taps[-1:], self.input_layer(images.contiguous(memory_format=torch.channels_last)))[0]
        return self.linear(x.float().mean(dim=(2, 3)))


class BasicBlock(nn.Module):
    """ResNet's block of two 3x3 convolutions (He et al. 2016)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        plain = in_channels == out_channels and stride == 1
        self.downsample = (
            nn.Identity()
            if plain
            else nn.Sequential(Pointwise(in_channels, out_channels, stride=stride, bias=False), nn.BatchNorm2d(out_channels))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class LayerHead(nn.Module):
    """F [N, C, s, s] => the code of one layer [N, K]. Strided convolutions, then a linear layer, or a mean over space."""

    def __init__(self, channels: int, config: HypernetConfig, size: int, *, shared: bool):
        super().__init__()
        width, code = (config.shared_width if shared else config.plane_width), config.code_width
        halvings = size.bit_length() - 1 if shared else max(1, size.bit_length() - 2)
        strides = [1, *[2] * halvings] if shared else [2] * halvings
        layers: list[nn.Module] = []
        for i, stride in enumerate(strides):
            out = code if i == len(strides) - 1 else width
            layers += [nn.Conv2d(channels, out, 3, stride=stride, padding=1), nn.LeakyReLU(REFINEMENT_SLOPE)]
            channels = out
        self.convs = nn.Sequential(*layers)
        self.linear = FullyConnected(code, code) if shared else None

    def forward(self, features: Tensor) -> Tensor:
        x = self.convs(features)
        return x.float().mean(dim=(2, 3)) if self.linear is None else self.linear(x.flatten(1).float())


class Hypernet(nn.Module):
    """H: (picture, its present image), both [N, 3, S, S] => what is added to the codes [N, T, K] float32."""

    def __init__(self, config: HyperStyleConfig):
        super().__init__()
        sizes = config.hypernet
        self.conv1 = nn.Conv2d(6, sizes.stem_channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(sizes.stem_channels)
        self.relu = nn.PReLU(sizes.stem_channels)
        blocks: list[nn.Module] = []
        for group, (in_channels, out_channels, count) in enumerate(sizes.groups):
            for i in range(count):
                stride = 2 if group > 0 and i == 0 else 1
                blocks.append(BasicBlock(in_channels if i == 0 else out_channels, out_channels, stride))
        self.body = nn.Sequential(*blocks)
        size, top = config.encoder.input_size >> len(sizes.groups), sizes.groups[-1][1]
        self.refinement_blocks = nn.ModuleDict(
            {str(layer.index): LayerHead(top, sizes, size, shared=layer.shared) for layer in config.tuned}
        )

    def features(self, images: Tensor, shown: Tensor) -> Tensor:
        """=> F [N, C, s, s], the ResNet's output."""
        x = torch.cat([images, shown], dim=1).contiguous(memory_format=torch.channels_last)
        return self.body(self.relu(self.bn1(self.conv1(x))))

    def forward(self, images: Tensor, shown: Tensor) -> Tensor:
        features = self.features(images, shown)
        return torch.stack([head(features) for head in self.refinement_blocks.values()], dim=1)


class SharedMap(nn.Module):
    """z [N, Z] => deltas of one 3x3 layer [N, O, I, 3, 3]: two linear maps, the second run once per output channel."""

    def __init__(self, channels: int, code_width: int):
        super().__init__()
        self.channels, self.width = channels, code_width
        std = 1 / (code_width**0.5 * 10)
        self.w1 = nn.Parameter(normal_init(code_width, channels * 9, std=std))
        self.b1 = nn.Parameter(torch.zeros(channels * 9))
        self.w2 = nn.Parameter(normal_init(code_width, channels * code_width, std=std))
        self.b2 = nn.Parameter(torch.zeros(channels * code_width))

    def forward(self, z: Tensor, times: int) -> Tensor:
        # Both offsets count once for each round that z is the sum of; b2 does so before it meets w1.
        h = torch.addmm(self.b2, z, self.w2, beta=times).view(-1, self.channels, self.width)
        return (h @ self.w1 + times * self.b1).view(-1, self.channels, self.channels, 3, 3)


class DeltaMaps(nn.Module):
    """D: codes [N, T, K] => weight deltas of a layer: [N, O, I, 3, 3], or [N, O, I, 1, 1] for the whole kernel."""

    def __init__(self, config: HyperStyleConfig):
        super().__init__()
        self.layers = {layer.name: (place, layer) for place, layer in enumerate(config.tuned)}
        self.rounds = config.hypernet.rounds
        width = config.hypernet.code_width
        self.shared = SharedMap(config.shared_channels, width)
        self.planes = nn.ModuleDict(
            {
                str(layer.index): nn.Linear(width, layer.out_channels * layer.in_channels)
                for layer in config.tuned
                if not layer.shared
            }
        )

    def layer(self, codes_NTK: Tensor, name: str, times: int) -> Tensor:
        """Deltas of the layer `name` of S, from codes that are a sum over `times` rounds."""
        place, layer = self.layers[name]
        if layer.shared:
            return self.shared(codes_NTK[:, place], times)
        plane = self.planes[str(layer.index)]
        assert isinstance(plane, nn.Linear)
        found = torch.addmm(plane.bias, codes_NTK[:, place], plane.weight.t(), beta=times)
        return found.view(-1, layer.out_channels, layer.in_channels, 1, 1)


class WeightDeltas(Mapping[str, Tensor]):
    """Codes as the generator wants them: name of a layer => its deltas, made when asked for.

    A face's deltas together are 85 MB of float32 at full size; one layer's at a time are 9.
    """

    def __init__(self, maps: DeltaMaps, codes_NTK: Tensor, times: int):
        self.maps, self.codes_NTK, self.times = maps, codes_NTK, times

    def __getitem__(self, name: str) -> Tensor:
        return self.maps.layer(self.codes_NTK, name, self.times)

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps.layers)

    def __len__(self) -> int:
        return len(self.maps.layers)


@dataclass(frozen=True, eq=False)
class Round:
    """The state after a round of refinement."""

    codes_NTK: Tensor
    """Sums over the rounds so far."""
    times: int
    shown: Tensor
    """G(w; D(codes)) at the encoder's size; the next round sees it."""


@final
class HyperStyle(Inverter):
    """w repeated, and codes of weight deltas."""

    config: HyperStyleConfig

    def __init__(self, config: HyperStyleConfig, parts: Parts = "all"):
        super().__init__()
        self.config = config
        inverts = parts != "generate"
        self.encoder = WEncoder(config.encoder) if inverts else None
        self.hypernet = Hypernet(config) if inverts else None
        self.deltas = DeltaMaps(config)
        self.generator = build_generator(config.generator)
        self.latent_avg = nn.Buffer(torch.zeros(config.generator.num_ws, config.generator.w_dim))

    def invert(self, images: Tensor) -> Inversion:
        wplus_NLD = self.encode(images)
        state = self.start(wplus_NLD)
        for _ in range(self.config.hypernet.rounds):
            state = self.refine(images, wplus_NLD, state, last=state.times + 1 == self.config.hypernet.rounds)
        return Inversion(wplus_NLD, state.codes_NTK)

    def encode(self, images: Tensor) -> Tensor:
        """images => w in every row [N, L, D]; the encoder's offset is added to the mean code."""
        with self.reduced(images.device):
            offset_ND = only(self.encoder, "invert")(images)
        return offset_ND.float()[:, None] + self.latent_avg

    def start(self, wplus_NLD: Tensor) -> Round:
        """Before the first round: no deltas."""
        none = wplus_NLD.new_zeros(len(wplus_NLD), *self.config.detail_shape)
        image = self.generator(self.generator.styles(wplus_NLD), dtype=self.feature_dtype)
        return Round(none, 0, pooled(image, self.config.input_size))

    def refine(self, images: Tensor, wplus_NLD: Tensor, state: Round, *, last: bool = False) -> Round:
        """One round (HyperStyle, section 3.3). The last round's image is not used, and not made."""
        with self.reduced(images.device):
            codes_NTK = state.codes_NTK + only(self.hypernet, "invert")(images, state.shown)
        times = state.times + 1
        if last:
            return Round(codes_NTK, times, state.shown)
        image = self.image(self.generator.styles(wplus_NLD), codes_NTK, times)
        return Round(codes_NTK, times, pooled(image, self.config.input_size))

    def image(self, styles: Sequence[Tensor], codes_NTK: Tensor, times: int, size: int | None = None) -> Tensor:
        """G(S; D(codes))."""
        deltas = WeightDeltas(self.deltas, codes_NTK, times)
        return self.generator(styles, size=size, weight_deltas=deltas, dtype=self.feature_dtype)

    def generate(
        self,
        wplus_NLD: Tensor,
        detail: Tensor | None,
        style_offset_NS: Tensor | None = None,
        *,
        unedited_NLD: Tensor | None = None,
        size: int | None = None,
    ) -> Tensor:
        if detail is None:
            raise ValueError("HyperStyle needs the codes of its weight deltas beside W+, got None; was this inverted with e4e?")
        styles = self.styles(wplus_NLD, style_offset_NS)
        return self.image(styles, detail, self.config.hypernet.rounds, size)
