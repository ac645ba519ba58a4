"""Methods that keep W+ and nothing else: e4e (Tov et al. 2021), pSp (Richardson et al. 2021), ReStyle (Alaluf et al. 2021).

An edit is one pass of the generator, and a face and frame takes a row of `latents` and none of `residuals`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from ops.generators.build import GeneratorSizes, build_generator
from ops.generators.stylegan2_config import StyleGAN2Config
from ops.inversion.e4e import E4eConfig, E4eEncoder
from ops.inversion.inverter import Inversion, Inverter, Parts, misfits, only, pooled


@dataclass(frozen=True)
class WplusConfig:
    """Sizes of e4e and of pSp, which differ in `encoder.rows`; the defaults are e4e's official FFHQ-1024 model."""

    generator: GeneratorSizes = field(default_factory=StyleGAN2Config)
    encoder: E4eConfig = field(default_factory=E4eConfig)

    def __post_init__(self) -> None:
        misfits(self.encoder.against(self.generator))

    @property
    def input_size(self) -> int:
        return self.encoder.input_size

    @property
    def detail_shape(self) -> None:
        return None

    @property
    def injection_resolution(self) -> int:
        return 0


class WplusOnly(Inverter):
    """Abstract: one encoder, one generator. An edit is a pass of the generator."""

    def __init__(self, generator: GeneratorSizes, encoder: E4eConfig, parts: Parts):
        super().__init__()
        self.encoder = E4eEncoder(encoder) if parts != "generate" else None
        self.generator = build_generator(generator)
        self.latent_avg = nn.Buffer(torch.zeros(generator.num_ws, generator.w_dim))

    def code(self, images: Tensor, start_NLD: Tensor) -> Tensor:
        """Add what the encoder says to a code: [N, L, D]."""
        return self.encoded(only(self.encoder, "invert"), images, start_NLD)[0]

    def generate(
        self,
        wplus_NLD: Tensor,
        detail: Tensor | None,
        style_offset_NS: Tensor | None = None,
        *,
        unedited_NLD: Tensor | None = None,
        size: int | None = None,
    ) -> Tensor:
        return self.generator(self.styles(wplus_NLD, style_offset_NS), size=size, dtype=self.feature_dtype)


@final
class E4e(WplusOnly):
    """Rows near the first row, so that edits found in W apply."""

    config: WplusConfig

    def __init__(self, config: WplusConfig, parts: Parts = "all"):
        super().__init__(config.generator, config.encoder, parts)
        misfits({"rows of an e4e encoder": (config.encoder.rows, "from_first")})
        self.config = config

    def invert(self, images: Tensor) -> Inversion:
        return Inversion(self.code(images, self.latent_avg), None)


@final
class Psp(WplusOnly):
    """Every row on its own: closer to the picture, further from where edits were found."""

    config: WplusConfig

    def __init__(self, config: WplusConfig, parts: Parts = "all"):
        super().__init__(config.generator, config.encoder, parts)
        misfits({"rows of a pSp encoder": (config.encoder.rows, "each")})
        self.config = config

    def invert(self, images: Tensor) -> Inversion:
        return Inversion(self.code(images, self.latent_avg), None)


@dataclass(frozen=True)
class RestyleConfig:
    """The defaults are the official ReStyle-e4e FFHQ-1024 model."""

    generator: GeneratorSizes = field(default_factory=StyleGAN2Config)
    encoder: E4eConfig = field(default_factory=lambda: E4eConfig(coarse_rows=18, middle_rows=0, image_channels=6))
    rounds: int = 5

    def __post_init__(self) -> None:
        alike = self.encoder.against(self.generator, image_channels=6)
        misfits(alike | {"a pyramid in the encoder": (self.encoder.has_pyramid, False)})
        if self.rounds < 1:
            raise ValueError(f"expected at least one round, got {self.rounds}")

    @property
    def input_size(self) -> int:
        return self.encoder.input_size

    @property
    def detail_shape(self) -> None:
        return None

    @property
    def injection_resolution(self) -> int:
        return 0


@final
class Restyle(WplusOnly):
    """The encoder sees the picture and what the code so far makes of it, and says how the code should change."""

    config: RestyleConfig

    def __init__(self, config: RestyleConfig, parts: Parts = "all"):
        super().__init__(config.generator, config.encoder, parts)
        self.config = config

    def invert(self, images: Tensor) -> Inversion:
        return Inversion(self.rounds(images)[-1], None)

    def rounds(self, images: Tensor) -> list[Tensor]:
        """The codes after each round: W_{t+1} = W_t + E(x, G(W_t)), from the mean code (ReStyle, Eq. 2 and 3)."""
        size = self.config.encoder.input_size
        codes: list[Tensor] = []
        wplus_NLD = self.latent_avg.expand(len(images), -1, -1)
        for round_ in range(self.config.rounds):
            # The mean code's image is the same for all: one pass makes it.
            shown = pooled(self.generate(wplus_NLD[:1] if round_ == 0 else wplus_NLD, None), size)
            wplus_NLD = self.code(torch.cat([images, shown.expand(len(images), -1, -1, -1)], dim=1), wplus_NLD)
            codes.append(wplus_NLD)
        return codes
