"""StyleRes (Pehlivan et al., CVPR 2023), and e4e as StyleRes without its residual, behind one interface.

    invert(images)               => Inversion(W+, detail)      what does not depend on the edit, computed once
    generate(W+', detail)        => images                     what does; generate(inversion.wplus, ...) is the reconstruction

Legend: N batch, L rows of W+, D width of W, S all channels of the style space, C R R the shape of the residual.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, final

import torch
from torch import Tensor, nn

from ops.inversion.e4e import E4eConfig, E4eEncoder
from ops.inversion.residual import Addition, Alignment, Extraction, Gates, ResidualConfig, fuse
from ops.stylegan2.config import StyleGAN2Config
from ops.stylegan2.generator import Generator, Injection


@dataclass(frozen=True, eq=False)
class Inversion:
    """What a method keeps of N images."""

    wplus_NLD: Tensor
    """float32; includes the mean code."""
    detail: Tensor | None
    """What W+ could not hold, in the method's own form: StyleRes's aligned residual F_a [N, C, R, R]; None for e4e."""


@dataclass(frozen=True)
class StyleResConfig:
    """The defaults are the official FFHQ-1024 model (the preset `ffhq1024`)."""

    generator: StyleGAN2Config = field(default_factory=StyleGAN2Config)
    encoder: E4eConfig = field(default_factory=E4eConfig)
    residual: ResidualConfig = field(default_factory=ResidualConfig)

    def __post_init__(self) -> None:
        generator, encoder, residual = self.generator, self.encoder, self.residual
        checks = {
            "rows of W+": (encoder.num_ws, generator.num_ws),
            "width of W": (encoder.w_dim, generator.w_dim),
            "encoder features' channels": (encoder.feature_channels, residual.encoder_channels),
            "encoder features' resolution": (encoder.feature_resolution, residual.resolution),
            "generator channels at the injection": (generator.channels[residual.resolution], residual.generator_channels),
        }
        wrong = [f"{what}: {a} against {b}" for what, (a, b) in checks.items() if a != b]
        if wrong:
            raise ValueError("the parts of the model do not fit together: " + "; ".join(wrong))


Parts = Literal["all", "invert", "generate"]
"""Which half of a model is built: a render never holds an encoder, an inversion never holds E2."""


class Inverter(nn.Module, ABC):
    """Abstract: an inversion method on one generator.

    `feature_dtype` is the type of the feature maps of E0, E1, E2 and the generator; styles, demodulation, RGB and W+ stay
    float32 whatever it is.
    """

    config: StyleResConfig
    feature_dtype: torch.dtype = torch.float32

    @abstractmethod
    def invert(self, images: Tensor) -> Inversion:
        """images [N, 3, S, S] in [-1, 1], S the encoder's input size => Inversion."""

    @abstractmethod
    def generate(self, wplus_NLD: Tensor, detail: Tensor | None, style_offset_NS: Tensor | None = None) -> Tensor:
        """W+ (edited or not) and the detail of the same images => images float32 [N, 3, R, R].

        style_offset_NS: added to S of the code, all layers one after the other (`StyleGAN2Config.style_channels`).
        """

    def reduced(self, device: torch.device) -> torch.autocast:
        """Around encoders and residual networks: their convolutions run in `feature_dtype`."""
        return torch.autocast(device.type, self.feature_dtype, enabled=self.feature_dtype != torch.float32)


def offset_styles(styles: Sequence[Tensor], style_offset_NS: Tensor | None) -> Sequence[Tensor]:
    """S + an offset given as one row of all channels.

    Raises:
        ValueError: another number of channels than S has.
    """
    if style_offset_NS is None:
        return styles
    sizes = [style.shape[1] for style in styles]
    if style_offset_NS.shape != (len(styles[0]), sum(sizes)):
        raise ValueError(f"expected an offset of S as [{len(styles[0])}, {sum(sizes)}], got {list(style_offset_NS.shape)}")
    return [style + part for style, part in zip(styles, style_offset_NS.split(sizes, dim=1), strict=True)]


@final
class E4e(Inverter):
    """W+ only."""

    def __init__(self, config: StyleResConfig, parts: Parts = "all"):
        super().__init__()
        self.config = config
        self.encoder = E4eEncoder(config.encoder) if parts != "generate" else None
        self.generator = Generator(config.generator)
        self.latent_avg = nn.Buffer(torch.zeros(config.generator.num_ws, config.generator.w_dim))

    def invert(self, images: Tensor) -> Inversion:
        if self.encoder is None:
            raise ValueError(NO_ENCODER)
        with self.reduced(images.device):
            offsets_NLD, _ = self.encoder(images)
        return Inversion(offsets_NLD.float() + self.latent_avg, None)

    def generate(self, wplus_NLD: Tensor, detail: Tensor | None, style_offset_NS: Tensor | None = None) -> Tensor:
        styles = offset_styles(self.generator.styles(wplus_NLD), style_offset_NS)
        return self.generator(styles, dtype=self.feature_dtype)


NO_ENCODER = "this model was loaded to generate only; load it with parts='invert' or 'all' to invert"


def transform_of(config: ResidualConfig) -> Gates | Addition:
    """What stands between the residual and the generator."""
    match config.transform:
        case "gates":
            return Gates(config)
        case "add":
            return Addition(config)


@final
class StyleRes(Inverter):
    """W+ and the residual at the injection resolution."""

    def __init__(self, config: StyleResConfig, parts: Parts = "all"):
        super().__init__()
        self.config = config
        inverts, generates = parts != "generate", parts != "invert"
        self.encoder = E4eEncoder(config.encoder) if inverts else None
        self.alignment = Alignment(config.residual) if inverts else None
        self.extraction = Extraction(config.residual) if inverts else None
        self.gates = transform_of(config.residual) if generates else None
        self.generator = Generator(config.generator)
        self.latent_avg = nn.Buffer(torch.zeros(config.generator.num_ws, config.generator.w_dim))

    def invert(self, images: Tensor) -> Inversion:
        encoder, _, _ = self.inverting()
        with self.reduced(images.device):
            offsets_NLD, encoder_features = encoder(images)
        wplus_NLD = offsets_NLD.float() + self.latent_avg
        return Inversion(wplus_NLD, self.residual(encoder_features, wplus_NLD))

    def inverting(self) -> tuple[E4eEncoder, Alignment, Extraction]:
        """E0 and the two halves of E1. Raises ValueError where they were not built."""
        if self.encoder is None or self.alignment is None or self.extraction is None:
            raise ValueError(NO_ENCODER)
        return self.encoder, self.alignment, self.extraction

    def generating(self) -> Gates | Addition:
        """E2. Raises ValueError where it was not built."""
        if self.gates is None:
            raise ValueError("this model was loaded to invert only; load it with parts='generate' or 'all' to generate")
        return self.gates

    def wplus_only(self) -> E4e:
        """The same encoder and generator read as e4e: W+ and nothing else. Shares the weights. Raises ValueError without E0."""
        with torch.device("meta"):
            reading = E4e(self.config)
        reading.encoder, reading.generator, reading.latent_avg = self.inverting()[0], self.generator, self.latent_avg
        reading.feature_dtype = self.feature_dtype
        return reading.train(self.training)

    def residual(self, encoder_features: Tensor, wplus_NLD: Tensor) -> Tensor:
        """F_a = E1(F0, F), with F from the *unedited* code: only the generator's lower half runs."""
        _, alignment, extraction = self.inverting()
        styles = self.generator.styles(wplus_NLD)
        features = self.generator.features(styles, self.config.residual.resolution, dtype=self.feature_dtype)
        with self.reduced(wplus_NLD.device):
            return extraction(alignment(encoder_features.to(features.dtype), features))

    def generate(self, wplus_NLD: Tensor, detail: Tensor | None, style_offset_NS: Tensor | None = None) -> Tensor:
        if detail is None:
            raise ValueError("StyleRes needs the aligned residual F_a beside W+, got None; was this inverted with e4e?")
        gates, residual = self.generating(), detail.to(self.feature_dtype)

        def transform(features: Tensor) -> Tensor:
            with self.reduced(features.device):
                return fuse(features, *gates(features, residual))

        injection = Injection(self.config.residual.resolution, transform)
        styles = offset_styles(self.generator.styles(wplus_NLD), style_offset_NS)
        return self.generator(styles, injection=injection, dtype=self.feature_dtype)
