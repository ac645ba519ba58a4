"""StyleFeatureEditor (Bobkov et al., CVPR 2024): features of the picture replace the generator's, and an editor moves them.

    invert      w, F_p = I(x);  F = fuse(F_p, F_w)        F_w: the generator's features of w after both convolutions at R
                v = e4e(x)                                   a second code, on which an edit shows without the features
    generate    D = F_v - F_v'                               what the edit does to the generator's features of v
                G(w') with E(F, D) above R                    (section 3.3; D = 0 is the reconstruction)

v' is v moved by what moved w: the official program applies the edit to both, which for directions is the same.
Without the editor (`feature_editor = False`, the authors' first phase) F itself is used, whatever the edit.

State-dict names inside `inverter`, `fuser` and `editor` are the official ones.

Legend: N batch, L rows of W+, D width of W, C channels and R side of the features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.generators.build import GeneratorSizes, build_generator
from ops.generators.protocol import Injection, behind_convolutions
from ops.generators.stylegan2_config import StyleGAN2Config
from ops.inversion.e4e import E4eConfig, E4eEncoder
from ops.inversion.inverter import Inversion, Inverter, Parts, bilinear, misfits, only
from ops.nn.ir import check_images, stem
from ops.nn.pointwise import Pointwise


@dataclass(frozen=True)
class FeatureConfig:
    """The inverter's backbone, the fuser and the editor; the defaults are the official FFHQ model's."""

    input_size: int = 256
    stem_channels: int = 64
    blocks: tuple[tuple[int, int, int], ...] = ((64, 3, 2), (128, 4, 2), (256, 14, 1), (512, 3, 2))
    """(channels, units, stride) of each of the four blocks; the features are read after the third."""
    depth: int = 5
    """Residual blocks of the fuser and of the editor."""
    pooled_side: int = 3
    """Every block's output is averaged to so many by so many values for the rows of W+."""

    @property
    def resolution(self) -> int:
        """R."""
        return self.input_size // math.prod(stride for _, _, stride in self.blocks[:3])


@dataclass(frozen=True)
class SfeConfig:
    """The defaults are the official FFHQ-1024 model."""

    generator: GeneratorSizes = field(default_factory=StyleGAN2Config)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    encoder: E4eConfig = field(default_factory=E4eConfig)
    """Sizes of the encoder of v."""
    image_size: int = 1024
    """Side of the pictures that are inverted: the official program loads them whole, then resizes without anti-aliasing."""
    feature_editor: bool = True

    def __post_init__(self) -> None:
        misfits(
            self.encoder.against(self.generator)
            | {
                "side of both encoders' images": (self.encoder.input_size, self.features.input_size),
                "rows of an e4e encoder": (self.encoder.rows, "from_first"),
            }
        )
        below = sorted({place.resolution for place in self.generator.places} - {self.generator.resolution})
        if self.features.resolution not in below:
            raise ValueError(f"expected features at one of {below} px, got {self.features.resolution}")

    @property
    def input_size(self) -> int:
        return self.image_size

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """Shape of F."""
        resolution = self.features.resolution
        return behind_convolutions(self.generator, resolution).channels, resolution, resolution

    @property
    def detail_shape(self) -> tuple[int]:
        codes = 2 * self.generator.num_ws * self.generator.w_dim if self.feature_editor else 0
        return (math.prod(self.feature_shape) + codes,)

    @property
    def injection_resolution(self) -> int:
        return self.features.resolution

    @property
    def place(self) -> str:
        """The place at which the generator's features are read and replaced."""
        return behind_convolutions(self.generator, self.features.resolution).name


@dataclass(frozen=True, eq=False)
class Detail:
    """The detail that SFE keeps beside w; stored as one row of numbers."""

    features: Tensor
    """F [N, C, R, R]."""
    wplus_NLD: Tensor
    """w as it was inverted: how far a code is from it is the edit."""
    twin_NLD: Tensor
    """v."""

    def stored(self) -> Tensor:
        return torch.cat([part.float().flatten(1) for part in (self.features, self.wplus_NLD, self.twin_NLD)], dim=1)

    @staticmethod
    def of(stored: Tensor, config: SfeConfig) -> Detail:
        """Raises ValueError for another number of values than the config says."""
        if stored.shape[1:] != config.detail_shape:
            raise ValueError(f"expected SFE's detail as [N, {config.detail_shape[0]}], got {list(stored.shape)}")
        code = config.generator.num_ws * config.generator.w_dim
        features, wplus, twin = stored.split([math.prod(config.feature_shape), code, code], dim=1)
        rows = (config.generator.num_ws, config.generator.w_dim)
        return Detail(features.unflatten(1, config.feature_shape), wplus.unflatten(1, rows), twin.unflatten(1, rows))


class IResUnit(nn.Module):
    """iResNet's unit: BN, conv, BN, PReLU, conv (with the stride), BN, and the shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int, *, first: bool):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = (
            nn.Sequential(Pointwise(in_channels, channels, stride=stride, bias=False), nn.BatchNorm2d(channels))
            if first
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(y)) + self.downsample(x)


class FeatureStyleEncoder(nn.Module):
    """images [N, 3, S, S] => (offsets of w from the mean code [N, L, D] float32, F_p [N, C, R, R]) (Yao et al. 2022)."""

    def __init__(self, config: FeatureConfig, channels: int, num_ws: int, w_dim: int):
        super().__init__()
        self.config = config
        self.conv = stem(3, config.stem_channels)
        into = config.stem_channels
        for number, (width, count, stride) in enumerate(config.blocks, start=1):
            units = [IResUnit(into if i == 0 else width, width, stride if i == 0 else 1, first=i == 0) for i in range(count)]
            self.add_module(f"block_{number}", nn.Sequential(*units))
            into = width
        third = config.blocks[2][0]
        self.content_layer = nn.Sequential(
            nn.BatchNorm2d(third),
            nn.Conv2d(third, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        values = sum(width for width, _, _ in config.blocks) * config.pooled_side**2
        self.styles = nn.ModuleList(nn.Linear(values, w_dim) for _ in range(num_ws))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        check_images(images, 3, self.config.input_size)
        x = self.conv(images.contiguous(memory_format=torch.channels_last))
        outputs = []
        for number in range(1, 5):
            x = self.get_submodule(f"block_{number}")(x)
            outputs.append(x)
        means = [F.adaptive_avg_pool2d(one, self.config.pooled_side) for one in outputs]
        values = torch.cat(means, dim=1).flatten(1)
        return torch.stack([head(values) for head in self.styles], dim=1).float(), self.content_layer(outputs[2])


class ResidualBlock(nn.Module):
    """x + BN(conv(PReLU(BN(conv(BN(x))))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Fuser(nn.Module):
    """Two feature maps [N, C, R, R] => one: the fuser of the inverter, and the feature editor."""

    def __init__(self, channels: int, depth: int):
        super().__init__()
        self.conv = Pointwise(2 * channels, channels)
        self.body = nn.Sequential(*(ResidualBlock(channels) for _ in range(depth)))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.body(self.conv(torch.cat([first, second], dim=1)))


@final
class Sfe(Inverter):
    """W+ of its own inverter, features, and e4e's code beside."""

    config: SfeConfig

    def __init__(self, config: SfeConfig, parts: Parts = "all"):
        super().__init__()
        self.config = config
        inverts, generates = parts != "generate", parts != "invert"
        sizes, generator = config.features, config.generator
        channels = config.feature_shape[0]
        self.inverter = FeatureStyleEncoder(sizes, channels, generator.num_ws, generator.w_dim) if inverts else None
        self.fuser = Fuser(channels, sizes.depth) if inverts else None
        self.encoder = E4eEncoder(config.encoder) if inverts and config.feature_editor else None
        self.editor = Fuser(channels, sizes.depth) if generates and config.feature_editor else None
        self.generator = build_generator(generator)
        self.latent_avg = nn.Buffer(torch.zeros(generator.num_ws, generator.w_dim))

    def invert(self, images: Tensor) -> Inversion:
        wplus_NLD, features = self.features_of(images)
        if not self.config.feature_editor:
            return Inversion(wplus_NLD, features.float().flatten(1))
        return Inversion(wplus_NLD, Detail(features, wplus_NLD, self.twin(images)).stored())

    def features_of(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images => (w [N, L, D], F [N, C, R, R])."""
        inverter, fuser = only(self.inverter, "invert"), only(self.fuser, "invert")
        check_images(images, 3, self.config.image_size)
        seen = bilinear(images, self.config.features.input_size)
        wplus_NLD, predicted = self.encoded(inverter, seen, self.latent_avg)
        own = self.own_features(self.styles(wplus_NLD))
        with self.reduced(images.device):
            return wplus_NLD, fuser(predicted.to(own.dtype), own)

    def twin(self, images: Tensor) -> Tensor:
        """images => v [N, L, D]."""
        seen = bilinear(images, self.config.features.input_size)
        return self.encoded(only(self.encoder, "invert"), seen, self.latent_avg)[0]

    def own_features(self, styles: Sequence[Tensor]) -> Tensor:
        """The generator's features of S, where F replaces them."""
        return self.generator.features(styles, self.config.place, dtype=self.feature_dtype)

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
            raise ValueError("SFE needs its features beside W+, got None; was this inverted with e4e?")
        styles = self.styles(wplus_NLD, style_offset_NS)
        if not self.config.feature_editor:
            return self.inserted(styles, detail.unflatten(1, self.config.feature_shape), size)
        kept = Detail.of(detail, self.config)
        return self.inserted(styles, self.edited(kept, self.change(kept, wplus_NLD, style_offset_NS)), size)

    def change(self, kept: Detail, wplus_NLD: Tensor, style_offset_NS: Tensor | None) -> Tensor:
        """D: features of v minus features of v'."""
        moved_NLD = kept.twin_NLD + (wplus_NLD - kept.wplus_NLD)
        return self.own_features(self.styles(kept.twin_NLD)) - self.own_features(self.styles(moved_NLD, style_offset_NS))

    def edited(self, kept: Detail, change: Tensor) -> Tensor:
        """E(F, D)."""
        with self.reduced(change.device):
            return only(self.editor, "generate")(kept.features.to(change.dtype), change)

    def inserted(self, styles: Sequence[Tensor], features: Tensor, size: int | None = None) -> Tensor:
        """G(S) whose blocks above R see other features; colour up to R stays that of S."""
        place = Injection(self.config.place, lambda x: features.to(x.dtype))
        return self.generator(styles, size=size, injection=place, dtype=self.feature_dtype)
