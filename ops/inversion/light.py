"""StyleRes (Pehlivan et al., CVPR 2023) in networks that a laptop runs: the method's three parts, of our own sizes.

    E0   images => W+            EfficientNet-Lite0, three of its scales added on one grid and read as a whole: faces are
                                 aligned, so positions matter
    E1   images, F => F_a                    the part of an image that W+ does not encode, once per image
         images - x0 => q                    the part that W+ and F_a do not, in pixels: x0 is their picture of the image
    E2   F_a, F, G_a => dF, h                moves F_a into the edited picture; x' = G(W_a) with G_a + dF at the place
         q, h, G_a - F, x' => dx             the part of q that remains after the edit; the picture is x' + dx

F and G_a are the generator's features of the unedited and of the edited code. The released model gives E2 only G_a; here it
also sees G_a - F, the change by the edit at each place. q is not in the paper: the layers behind the place draw only what they
have learnt, and no F_a makes them draw the rest of a photograph. q is the error in cells of the grid, in a few of the
directions in which such errors vary most. Where the edit changes nothing dx gives all of it back (docs/decisions/0015).
F_a and q together are the detail of a face, its size in the store.

Legend: N batch, L rows of W+, D width of W, C channels, K channels of q, R R the grid of F_a and q, S side of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.generators.build import GeneratorSizes, build_generator
from ops.generators.mobile import MobileConfig
from ops.generators.protocol import Generator, Injection, between_convolutions
from ops.inversion.inverter import Inversion, Inverter, Parts, misfits, only, pooled
from ops.nn.linear import Linear
from ops.nn.lite import LiteTrunk
from ops.nn.pointwise import Pointwise, pointwise

SLOPE = 0.2
TRUNK_TAPS, TRUNK_CHANNELS = (4, 10, 15), (40, 112, 320)
REPEATS = 3
"""Terms of the series that sharpens an enlarged picture."""
LARGE_CHANGE = 0.3
"""Change of features by an edit at which m is 1 - 1/e: a smile changes the mouth by so much, an age the skin by a third."""
FEATURE_SCALE = 0.3
"""Factor that brings the generator's features to about unit variance."""


@dataclass(frozen=True)
class LightEncoderConfig:
    seen_size: int = 160
    """Side in pixels that pictures are resized to; a multiple of 32."""
    channels: int = 96
    """Channels of the grid, seen_size / 16 a side, that the trunk's scales are added on."""
    width: int = 768
    """Width of the vector that is read from the grid."""
    depth: int = 2
    """Two-layer blocks on that vector."""
    w_dim: int = 512
    num_ws: int = 18


@dataclass(frozen=True)
class LightResidualConfig:
    resolution: int = 64
    """R: side of the generator's features that are read and replaced."""
    generator_channels: int = 512
    width: int = 64
    """Channels inside E1 and E2."""
    depth: int = 4
    """Blocks in each of them."""
    residual_channels: int = 12
    """Channels of F_a."""
    picture_channels: int = 20
    """K: channels of q; with those of F_a they decide the bytes of a face and frame in the store."""
    picture_depth: int = 4
    """Blocks that decide how much of q remains."""


@dataclass(frozen=True)
class LightConfig:
    """The defaults are the embedded model `ffhq`'s, but for the generator's tails."""

    generator: GeneratorSizes = field(default_factory=MobileConfig)
    encoder: LightEncoderConfig = field(default_factory=LightEncoderConfig)
    residual: LightResidualConfig = field(default_factory=LightResidualConfig)
    input_size: int = 256
    """Side of the images that E0 and E1 see."""

    def __post_init__(self) -> None:
        generator, encoder, residual = self.generator, self.encoder, self.residual
        misfits(
            {
                "rows of W+": (encoder.num_ws, generator.num_ws),
                "width of W": (encoder.w_dim, generator.w_dim),
                "generator channels at the injection": (
                    between_convolutions(generator, residual.resolution).channels,
                    residual.generator_channels,
                ),
                "images in whole cells": (self.input_size % residual.resolution, 0),
                "what the encoder sees, in cells of 32 px": (encoder.seen_size % 32, 0),
            }
        )

    @property
    def cell(self) -> int:
        """Side in pixels of the part of an image that one cell of the grid stands for."""
        return self.input_size // self.residual.resolution

    @property
    def drawn_size(self) -> int:
        """Side of the picture that an image is compared with: the smallest that is not below the image's."""
        return min((one for one in self.generator.sizes if one >= self.input_size), default=self.generator.resolution)

    @property
    def detail_shape(self) -> tuple[int, int, int]:
        residual = self.residual
        return residual.residual_channels + residual.picture_channels, residual.resolution, residual.resolution

    @property
    def injection_resolution(self) -> int:
        return self.residual.resolution

    @property
    def place(self) -> str:
        """Name of the place at which the generator's features are read and replaced."""
        return between_convolutions(self.generator, self.residual.resolution).name


class Residue(nn.Module):
    """x + conv(lrelu(conv(lrelu(x))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(F.leaky_relu(self.first(F.leaky_relu(x, SLOPE)), SLOPE))
        return x + y


class Perceptron(nn.Module):
    """x + linear(gelu(linear(norm(x))))."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.first, self.second = nn.LayerNorm(width), Linear(width, width), Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(F.gelu(self.first(self.norm(x))))
        return x + y


class LightEncoder(nn.Module):
    """E0: images [N, 3, S, S] in [-1, 1] => offsets of W+ from the mean code [N, L, D] float32."""

    def __init__(self, config: LightEncoderConfig):
        super().__init__()
        self.config = config
        side = config.seen_size // 16
        self.trunk = LiteTrunk(TRUNK_TAPS)
        self.fine, self.middle, self.coarse = (Pointwise(count, config.channels) for count in TRUNK_CHANNELS)
        self.norm = nn.GroupNorm(8, config.channels)
        self.read = Linear(config.channels * side * side, config.width)
        self.blocks = nn.ModuleList(Perceptron(config.width) for _ in range(config.depth))
        self.last_norm = nn.LayerNorm(config.width)
        self.rows = Linear(config.width, config.num_ws * config.w_dim)

    def forward(self, images: Tensor) -> Tensor:
        size = self.config.seen_size
        if images.shape[-1] != size:
            images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
        fine, middle, coarse = self.trunk(images)
        x = F.avg_pool2d(self.fine(fine), 2) + self.middle(middle)
        x = x + F.interpolate(self.coarse(coarse), scale_factor=2.0, mode="nearest")
        x = self.read(F.gelu(self.norm(x)).flatten(1))
        for block in self.blocks:
            x = block(x)
        offsets: Tensor = self.rows(self.last_norm(x)).float()
        return offsets.unflatten(1, (self.config.num_ws, self.config.w_dim))


class LightExtraction(nn.Module):
    """E1: (images [N, 3, S, S], F) => F_a [N, C, R, R]."""

    def __init__(self, config: LightResidualConfig, input_size: int):
        super().__init__()
        self.cell = input_size // config.resolution
        self.of_image = nn.Conv2d(3 * self.cell**2, config.width, 3, padding=1)
        self.of_features = Pointwise(config.generator_channels, config.width)
        self.blocks = nn.Sequential(*(Residue(config.width) for _ in range(config.depth)))
        self.last = Pointwise(config.width, config.residual_channels)

    def forward(self, images: Tensor, features: Tensor) -> Tensor:
        x = self.blocks(self.of_image(cells(images, self.cell)) + self.of_features(features * FEATURE_SCALE))
        residual: Tensor = self.last(x)
        return residual


class Transformed(NamedTuple):
    """Output of E2 at the place."""

    features: Tensor
    """G_a + dF."""
    hidden: Tensor
    """h [N, width, R, R]."""
    change: Tensor
    """Size of the edit's change around each cell, [N, 1, R, R]; 0 where it changed nothing."""


class LightTransform(nn.Module):
    """E2 at the place: (F_a, F, G_a) => (dF [N, C, R, R], h)."""

    def __init__(self, config: LightResidualConfig):
        super().__init__()
        self.of_residual = nn.Conv2d(config.residual_channels, config.width, 3, padding=1)
        self.of_features = Pointwise(config.generator_channels, config.width)
        self.of_change = Pointwise(config.generator_channels, config.width)
        self.blocks = nn.Sequential(*(Residue(config.width) for _ in range(config.depth)))
        self.last = Pointwise(config.width, config.generator_channels)
        start_at_nothing(self.last)

    def forward(self, residual: Tensor, features: Tensor, edited: Tensor) -> tuple[Tensor, Tensor]:
        x = self.of_residual(residual) + self.of_features(features * FEATURE_SCALE)
        hidden: Tensor = self.blocks(x + self.of_change((edited - features) * FEATURE_SCALE))
        return self.last(hidden), hidden


class LightCorrection(nn.Module):
    """E2 in the picture: (q, h, change, x' [N, 3, S, S]) => dx [N, 3, S, S].

    dx = basis^T (q (1 + m gate)) + m more, where m, 0 to 1, grows with the edit's change around a cell.
    """

    def __init__(self, config: LightResidualConfig, input_size: int):
        super().__init__()
        self.cell = input_size // config.resolution
        pixels = 3 * self.cell**2
        self.of_picture = nn.Conv2d(pixels, config.width, 3, padding=1)
        self.of_rest = nn.Conv2d(config.picture_channels, config.width, 3, padding=1)
        self.of_hidden = Pointwise(config.width, config.width)
        self.blocks = nn.Sequential(*(Residue(config.width) for _ in range(config.picture_depth)))
        self.gate = Pointwise(config.width, config.picture_channels)
        self.more = Pointwise(config.width, pixels)
        start_at_nothing(self.gate)
        start_at_nothing(self.more)

    def forward(self, rest: Tensor, hidden: Tensor, change: Tensor, picture: Tensor, basis_KP: Tensor) -> Tensor:
        seen = cells(picture.to(rest.dtype), self.cell)
        x = self.blocks(self.of_picture(seen) + self.of_rest(rest) + self.of_hidden(hidden))
        share = changed_share(change)
        kept = rest + share * self.gate(x) * rest
        found = pointwise(kept, basis_KP.t()[:, :, None, None].to(kept.dtype)) + share * self.more(x)
        return F.pixel_shuffle(found.float(), self.cell)


def changed_share(change: Tensor) -> Tensor:
    """Convert `Transformed.change` to m, 0 to 1."""
    share: Tensor = 1 - torch.exp(-((change / LARGE_CHANGE) ** 2))
    return share


def start_at_nothing(module: nn.Conv2d) -> None:
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def cells(pictures: Tensor, side: int) -> Tensor:
    """Gather the pixels of each cell: [N, C, R side, R side] => [N, C side^2, R, R]."""
    return F.pixel_unshuffle(pictures, side).contiguous(memory_format=torch.channels_last)


def enlarged(dx: Tensor, size: int) -> Tensor:
    """Return a smooth picture of `size` px a side whose block means are dx, but for a hundredth of its finest structure; if
    `size` is smaller than dx, the block means of dx.

    Bicubic interpolation followed by means of blocks is a filter K of the small picture. dx + (dx - K dx) + ... undoes it
    there, where it costs little, before the one interpolation.
    """
    side = dx.shape[-1]
    if size <= side:
        return pooled(dx, size)
    filters = _block_means(size // side).to(dx)
    sharpened = dx
    for _ in range(REPEATS):
        padded = F.pad(sharpened, (2, 2, 2, 2), mode="replicate")
        blurred = F.conv2d(padded.flatten(0, 1)[:, None], filters).view_as(dx)
        sharpened = sharpened + (dx - blurred)
    return F.interpolate(sharpened, size=(size, size), mode="bicubic", align_corners=False)


@cache
def _block_means(factor: int) -> Tensor:
    """Return the filter [1, 1, 5, 5] of bicubic enlargement by a factor and block means, measured on one bright pixel."""
    point = torch.zeros(1, 1, 9, 9)
    point[0, 0, 4, 4] = 1.0
    large = F.interpolate(point, scale_factor=float(factor), mode="bicubic", align_corners=False)
    return F.avg_pool2d(large, factor)[:, :, 2:7, 2:7].flip(2, 3)


@final
class LightStyleRes(Inverter):
    """Inverts to W+ and F_a, as StyleRes does, and q; `generate` needs the unedited code beside the edited one."""

    config: LightConfig
    keeps_source = True

    def __init__(self, config: LightConfig, parts: Parts = "all"):
        super().__init__()
        self.config = config
        inverts, generates = parts != "generate", parts != "invert"
        residual = config.residual
        self.encoder = LightEncoder(config.encoder) if inverts else None
        self.extraction = LightExtraction(residual, config.input_size) if inverts else None
        self.transform = LightTransform(residual)
        self.correction = LightCorrection(residual, config.input_size) if generates else None
        self.generator: Generator = build_generator(config.generator)
        self.latent_avg = nn.Buffer(torch.zeros(config.generator.num_ws, config.generator.w_dim))
        pixels = 3 * (config.input_size // residual.resolution) ** 2
        self.basis = nn.Buffer(torch.eye(residual.picture_channels, pixels))
        """Basis of q: orthonormal directions [K, pixels of a cell]."""

    def invert(self, images: Tensor) -> Inversion:
        wplus_NLD = self.code(images)
        return Inversion(wplus_NLD, self.detail(images, wplus_NLD))

    def detail(self, images: Tensor, wplus_NLD: Tensor) -> Tensor:
        """Compute F_a and q of images with the given unedited code: the detail for `generate`, [N, C + K, R, R] float32."""
        kept: list[Tensor] = []

        def unedited(features: Tensor) -> Tensor:
            kept.append(self.residual(images, features))
            return self.with_residual(features, features, kept[0]).features

        picture = self.drawn(self.generator.styles(wplus_NLD), unedited, self.config.drawn_size)
        return torch.cat([kept[0].float(), self.rest(images, picture)], dim=1)

    def code(self, images: Tensor) -> Tensor:
        """Compute W+ by E0: images [N, 3, S, S] in [-1, 1] => [N, L, D] float32."""
        with self.reduced(images.device):
            offsets_NLD = only(self.encoder, "invert")(images)
        wplus: Tensor = self.latent_avg + offsets_NLD.float()
        return wplus

    def features(self, styles: Sequence[Tensor]) -> Tensor:
        """Compute F; only the generator's lower half runs."""
        return self.generator.features(styles, self.config.place, dtype=self.feature_dtype)

    def residual(self, images: Tensor, features: Tensor) -> Tensor:
        """Compute F_a = E1(images, F), with F from the unedited code."""
        with self.reduced(images.device):
            residual: Tensor = only(self.extraction, "invert")(images, features)
        return residual

    def rest(self, images: Tensor, picture: Tensor) -> Tensor:
        """Compute q: images [N, 3, S, S] less a picture of any size, in cells along the basis, [N, K, R, R] float32."""
        side = images.shape[-1]
        error = images - enlarged(picture, side)
        kept: Tensor = pointwise(cells(error, self.config.cell), self.basis[:, :, None, None])
        return kept

    def drawn(self, styles: Sequence[Tensor], transform: Callable[[Tensor], Tensor], size: int | None) -> Tensor:
        """Draw the picture with transformed features at the place."""
        return self.generator(styles, size=size, injection=Injection(self.config.place, transform), dtype=self.feature_dtype)

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
            raise ValueError("StyleRes needs the residual F_a beside W+, got None; was this inverted with e4e?")
        residual, rest = (part.to(self.feature_dtype) for part in self.split(detail))
        features = None
        if unedited_NLD is not None and (unedited_NLD is not wplus_NLD or style_offset_NS is not None):
            features = self.features(self.generator.styles(unedited_NLD))
        kept: list[Transformed] = []

        def transform(edited: Tensor) -> Tensor:
            kept.append(self.with_residual(edited, edited if features is None else features, residual))
            return kept[0].features

        picture = self.drawn(self.styles(wplus_NLD, style_offset_NS), transform, size)
        return self.corrected(picture, rest, kept[0])

    def split(self, detail: Tensor) -> tuple[Tensor, Tensor]:
        """Split the detail of faces, [N, C + K, R, R] => F_a [N, C, R, R], q [N, K, R, R]."""
        count = self.config.residual.residual_channels
        return detail[:, :count], detail[:, count:]

    def with_residual(self, edited: Tensor, features: Tensor, residual: Tensor) -> Transformed:
        """Run E2 at the place: (G_a, F, F_a) => features that follow the edit there."""
        with self.reduced(edited.device):
            delta, hidden = self.transform(residual, features, edited)
        change = (edited - features).abs().mean(dim=1, keepdim=True) * FEATURE_SCALE
        return Transformed(edited + delta, hidden, F.avg_pool2d(change, 3, 1, 1))

    def corrected(self, picture: Tensor, rest: Tensor, transformed: Transformed) -> Tensor:
        """Return x' + dx, of a whole picture or of a window; dx is computed at the images' size and resized to any other."""
        correction = only(self.correction, "generate")
        shown = enlarged(picture, rest.shape[-1] * correction.cell)
        with self.reduced(picture.device):
            dx: Tensor = correction(rest, transformed.hidden, transformed.change, shown, self.basis)
        return picture + enlarged(dx.float(), picture.shape[-1])
