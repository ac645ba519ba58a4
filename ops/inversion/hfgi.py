"""HFGI (Wang et al., CVPR 2022): the picture's residual, aligned to the edited picture, scales and shifts generator features.

    invert      W+ = e4e(x);  d = x - G(W+)                              the residual *image*, which is what is stored
    generate    y' = G(W+');  a = ADA(d, y');  (g, b) = Ec(a);  G(W+') with F (1 + g) + b         ADA: adaptive distortion
                                                                            alignment (section 3.3), Ec: consultation encoder
Both networks run anew for every edit, and the generator twice.

State-dict names inside `alignment` and `consultation` are the official ones of `grid_align` and `residue`.

Legend: N batch, S side of the encoder's images, R injection resolution, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn

from ops.generators.build import GeneratorSizes, build_generator
from ops.generators.discriminator import EqualisedConv
from ops.generators.protocol import Injection, between_convolutions
from ops.generators.stylegan2_config import StyleGAN2Config
from ops.inversion.e4e import E4eConfig, E4eEncoder
from ops.inversion.inverter import Inversion, Inverter, Parts, bilinear, misfits, only
from ops.nn.ir import IRUnit, check_images, stem


@dataclass(frozen=True)
class ConsultationConfig:
    """ADA and Ec; the defaults are the official FFHQ model's."""

    resolution: int = 64
    """R: where the features are scaled and shifted."""
    alignment_widths: tuple[int, int, int, int] = (16, 32, 48, 64)
    """ADA's channels at full, half, quarter and eighth size."""
    widths: tuple[int, int, int] = (32, 48, 64)
    """Ec's channels."""
    strides: tuple[int, int] = (2, 2)
    """Ec's reductions; what comes out is resized to R where they do not lead there."""


@dataclass(frozen=True)
class HfgiConfig:
    """The defaults are the official FFHQ-1024 model."""

    generator: GeneratorSizes = field(default_factory=StyleGAN2Config)
    encoder: E4eConfig = field(default_factory=E4eConfig)
    consultation: ConsultationConfig = field(default_factory=ConsultationConfig)

    def __post_init__(self) -> None:
        misfits(self.encoder.against(self.generator) | {"rows of an e4e encoder": (self.encoder.rows, "from_first")})
        sides = sorted({place.resolution for place in self.generator.places})
        if self.encoder.input_size % 8 or self.consultation.resolution not in sides:
            raise ValueError(
                f"expected images whose side is a multiple of 8 and features at one of {sides} px, "
                f"got {self.encoder.input_size} and {self.consultation.resolution}"
            )

    @property
    def input_size(self) -> int:
        return self.encoder.input_size

    @property
    def detail_shape(self) -> tuple[int, int, int]:
        return 3, self.encoder.input_size, self.encoder.input_size

    @property
    def injection_resolution(self) -> int:
        return self.consultation.resolution


def units(*channels: int, stride: int = 1) -> nn.Sequential:
    """IR units without squeeze-excitation from each number of channels to the next; the first has the stride."""
    strides = [stride, *[1] * (len(channels) - 2)]
    return nn.Sequential(*(IRUnit(a, b, s, squeeze=False) for (a, b), s in zip(pairwise(channels), strides, strict=True)))


class Alignment(nn.Module):
    """ADA: (residual image, edited image), both [N, 3, S, S] => the residual where the edited picture has it [N, 3, S, S]."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        one, two, three, four = widths
        self.conv_layer1 = stem(6, one)
        self.conv_layer2 = units(one, two, two, two, stride=2)
        self.conv_layer3 = units(two, three, three, three, stride=2)
        self.conv_layer4 = units(three, four, four, four, stride=2)
        self.dconv_layer1 = units(four + three, four, two, two)
        self.dconv_layer2 = units(two + two, two, one, one)
        self.dconv_layer3 = units(one + one, one, 3, 3)

    def forward(self, residual: Tensor, edited: Tensor) -> Tensor:
        f1 = self.conv_layer1(torch.cat([residual, edited], dim=1).contiguous(memory_format=torch.channels_last))
        f2 = self.conv_layer2(f1)
        f3 = self.conv_layer3(f2)
        a = self.conv_layer4(f3)
        for layer, skip in ((self.dconv_layer1, f3), (self.dconv_layer2, f2), (self.dconv_layer3, f1)):
            a = layer(torch.cat([bilinear(a, skip.shape[-1]), skip], dim=1))
        return a


class Consultation(nn.Module):
    """Ec: aligned residual image [N, 3, S, S] => (scale, shift) of the features, [N, C, R, R] each."""

    def __init__(self, config: ConsultationConfig, channels: int):
        super().__init__()
        one, two, three = config.widths
        self.resolution = config.resolution
        self.conv_layer1 = stem(3, one)
        self.conv_layer2 = units(one, two, two, two, stride=config.strides[0])
        self.conv_layer3 = units(two, three, three, three, stride=config.strides[1])
        self.condition_scale3 = Condition(three, channels)
        self.condition_shift3 = Condition(three, channels)

    def forward(self, aligned: Tensor) -> tuple[Tensor, Tensor]:
        x = aligned.contiguous(memory_format=torch.channels_last)
        f = self.conv_layer3(self.conv_layer2(self.conv_layer1(x)))
        return bilinear(self.condition_scale3(f), self.resolution), bilinear(self.condition_shift3(f), self.resolution)


class Condition(nn.ModuleDict):
    """conv, lrelu, conv, all equalised; named as members 0 and 2 of a sequence."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__({"0": EqualisedConv(in_channels, channels, 3), "2": EqualisedConv(channels, channels, 3)})

    def forward(self, x: Tensor) -> Tensor:
        return self["2"](self["0"](x), active=False)


@final
class Hfgi(Inverter):
    """W+ of e4e, and the residual image."""

    config: HfgiConfig

    def __init__(self, config: HfgiConfig, parts: Parts = "all"):
        super().__init__()
        self.config = config
        generates, sizes = parts != "invert", config.consultation
        self.encoder = E4eEncoder(config.encoder) if parts != "generate" else None
        self.alignment = Alignment(sizes.alignment_widths) if generates else None
        self.consultation = (
            Consultation(sizes, between_convolutions(config.generator, sizes.resolution).channels) if generates else None
        )
        self.generator = build_generator(config.generator)
        self.latent_avg = nn.Buffer(torch.zeros(config.generator.num_ws, config.generator.w_dim))

    def invert(self, images: Tensor) -> Inversion:
        encoder = only(self.encoder, "invert")
        check_images(images, 3, self.config.input_size)
        wplus_NLD, _ = self.encoded(encoder, images, self.latent_avg)
        return Inversion(wplus_NLD, images - self.shown(self.generator.styles(wplus_NLD)))

    def shown(self, styles: Sequence[Tensor]) -> Tensor:
        """G(S) as both networks see it: clipped, at the encoder's size, resized without anti-aliasing."""
        return bilinear(self.generator(styles, dtype=self.feature_dtype).clamp(-1, 1), self.config.input_size)

    def consult(self, residual: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        """(d, y') => scale and shift of the features."""
        alignment, consultation = only(self.alignment, "generate"), only(self.consultation, "generate")
        with self.reduced(residual.device):
            return consultation(alignment(residual, shown))

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
            raise ValueError("HFGI needs the residual image beside W+, got None; was this inverted with e4e?")
        styles = self.styles(wplus_NLD, style_offset_NS)
        scale, shift = self.consult(detail, self.shown(styles))
        return self.generator(styles, size=size, injection=self.fusion(scale, shift), dtype=self.feature_dtype)

    def fusion(self, scale: Tensor, shift: Tensor) -> Injection:
        """F (1 + scale) + shift (HFGI, Eq. 6 and the official program)."""

        def transform(x: Tensor) -> Tensor:
            return torch.addcmul(x + shift.to(x.dtype), x, scale.to(x.dtype))

        return Injection(between_convolutions(self.config.generator, self.config.consultation.resolution).name, transform)
