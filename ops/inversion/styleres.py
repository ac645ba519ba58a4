"""StyleRes (Pehlivan et al., CVPR 2023): W+ from E0, the aligned residual from E1, and E2 that transforms it for an edit.

Legend: N batch, L rows of W+, D width of W, C R R the shape of the residual.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from ops.generators.build import GeneratorSizes, build_generator
from ops.generators.protocol import Injection, between_convolutions
from ops.generators.stylegan2_config import StyleGAN2Config
from ops.inversion.e4e import E4eConfig, E4eEncoder
from ops.inversion.inverter import Inversion, Inverter, Parts, misfits, only, only_other
from ops.inversion.residual import Addition, Alignment, Extraction, Gates, ResidualConfig, fuse
from ops.inversion.wplus import E4e, WplusConfig


@dataclass(frozen=True)
class StyleResConfig:
    """The defaults are the official FFHQ-1024 model (the preset `ffhq1024`)."""

    generator: GeneratorSizes = field(default_factory=StyleGAN2Config)
    encoder: E4eConfig = field(default_factory=E4eConfig)
    residual: ResidualConfig = field(default_factory=ResidualConfig)

    def __post_init__(self) -> None:
        generator, encoder, residual = self.generator, self.encoder, self.residual
        misfits(
            encoder.against(generator)
            | {
                "rows of an e4e encoder": (encoder.rows, "from_first"),
                "encoder features' channels": (encoder.feature_channels, residual.encoder_channels),
                "encoder features' resolution": (encoder.feature_resolution, residual.resolution),
                "generator channels at the injection": (
                    between_convolutions(generator, residual.resolution).channels,
                    residual.generator_channels,
                ),
            }
        )

    @property
    def input_size(self) -> int:
        return self.encoder.input_size

    @property
    def detail_shape(self) -> tuple[int, int, int]:
        return self.residual.residual_channels, self.residual.resolution, self.residual.resolution

    @property
    def injection_resolution(self) -> int:
        return self.residual.resolution

    @property
    def place(self) -> str:
        """The place at which the generator's features are read and replaced."""
        return between_convolutions(self.generator, self.residual.resolution).name


def transform_of(config: ResidualConfig) -> Gates | Addition:
    """The networks between the residual and the generator."""
    match config.transform:
        case "gates":
            return Gates(config)
        case "add":
            return Addition(config)


@final
class StyleRes(Inverter):
    """W+ and the residual at the injection resolution."""

    config: StyleResConfig

    def __init__(self, config: StyleResConfig, parts: Parts = "all"):
        super().__init__()
        self.config = config
        inverts, generates = parts != "generate", parts != "invert"
        self.encoder = E4eEncoder(config.encoder) if inverts else None
        self.alignment = Alignment(config.residual) if inverts else None
        self.extraction = Extraction(config.residual) if inverts else None
        self.gates = transform_of(config.residual) if generates else None
        self.generator = build_generator(config.generator)
        self.latent_avg = nn.Buffer(torch.zeros(config.generator.num_ws, config.generator.w_dim))

    def invert(self, images: Tensor) -> Inversion:
        encoder, _, _ = self.inverting()
        wplus_NLD, encoder_features = self.encoded(encoder, images, self.latent_avg)
        return Inversion(wplus_NLD, self.residual(encoder_features, wplus_NLD))

    def code(self, images: Tensor) -> Tensor:
        """E0: images => W+ [N, L, D] float32."""
        return self.encoded(self.inverting()[0], images, self.latent_avg)[0]

    def inverting(self) -> tuple[E4eEncoder, Alignment, Extraction]:
        """E0 and the two halves of E1. Raises ValueError where they were not built."""
        return only(self.encoder, "invert"), only(self.alignment, "invert"), only(self.extraction, "invert")

    def generating(self) -> Gates | Addition:
        """E2. Raises ValueError where it was not built."""
        if self.gates is None:
            raise only_other("generate")
        return self.gates

    def wplus_only(self) -> E4e:
        """The same encoder and generator read as e4e: W+ and nothing else. Shares the weights. Raises ValueError without E0."""
        with torch.device("meta"):
            reading = E4e(WplusConfig(self.config.generator, self.config.encoder))
        reading.encoder, reading.generator, reading.latent_avg = self.inverting()[0], self.generator, self.latent_avg
        reading.feature_dtype = self.feature_dtype
        return reading.train(self.training)

    def residual(self, encoder_features: Tensor, wplus_NLD: Tensor) -> Tensor:
        """F_a = E1(F0, F), with F from the *unedited* code: only the generator's lower half runs."""
        _, alignment, extraction = self.inverting()
        styles = self.generator.styles(wplus_NLD)
        features = self.generator.features(styles, self.config.place, dtype=self.feature_dtype)
        with self.reduced(wplus_NLD.device):
            return extraction(alignment(encoder_features.to(features.dtype), features))

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
            raise ValueError("StyleRes needs the aligned residual F_a beside W+, got None; was this inverted with e4e?")
        gates, residual = self.generating(), detail.to(self.feature_dtype)

        def transform(features: Tensor) -> Tensor:
            with self.reduced(features.device):
                return fuse(features, *gates(features, residual))

        injection = Injection(self.config.place, transform)
        styles = self.styles(wplus_NLD, style_offset_NS)
        return self.generator(styles, size=size, injection=injection, dtype=self.feature_dtype)
