"""Settings of the trainings that have a name.

mini     the embedded 64 px model on two CPU cores; ours
light    the embedded model `ffhq` on a MobileStyleGAN, on two CPU cores; ours
paper    every loss of StyleRes's Eq. 4-9, the pixel term of the cycle included. The paper's weights are in a supplement that
         is not public: these are those of its group's training tree, where that has them
tree     that tree's: no pixel term in the cycle, the cycle on every sample, R1 in every step
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from ops.checkpoints.prior import read_prior_config
from ops.generators.build import GeneratorSizes
from ops.generators.protocol import between_convolutions
from ops.generators.stylegan2_config import StyleGAN2Config, channels_by_rule
from ops.inversion.e4e import E4eConfig
from ops.inversion.presets import mini64
from ops.inversion.residual import ResidualConfig
from ops.inversion.styleres import StyleResConfig
from ops.training.e0 import E0Settings
from ops.training.light import LightE0Settings, LightPictureSettings, LightResidualSettings
from ops.training.prior import PriorSettings
from ops.training.residual import ResidualSettings
from ops.training.tail import TailSettings
from ops.training.trainer import LoopSettings, TrainingError

Preset = Literal["mini", "light", "paper", "tree"]


def model_config(preset: Preset, generator: GeneratorSizes) -> StyleResConfig:
    """Return the sizes of E0, E1 and E2 for a generator. Raises TrainingError for a generator that the preset does not fit."""
    match preset:
        case "mini":
            mini = mini64()
            size = min(generator.resolution, 128)
            channels = between_convolutions(generator, size // 2).channels
            return StyleResConfig(
                generator=generator,
                encoder=replace(mini.encoder, input_size=size, w_dim=generator.w_dim, num_ws=generator.num_ws),
                residual=replace(mini.residual, resolution=size // 2, generator_channels=channels),
            )
        case "light":
            raise TrainingError("preset light: trains a method of its own; give it to train e0, residual and bundle alone")
        case "paper" | "tree":
            if generator.resolution < 256:
                raise TrainingError(
                    f"preset {preset}: made for 256 to 1024 px, this generator has {generator.resolution}; use mini"
                )
            return StyleResConfig(
                generator=generator,
                encoder=replace(E4eConfig(), w_dim=generator.w_dim, num_ws=generator.num_ws),
                residual=replace(ResidualConfig(), generator_channels=between_convolutions(generator, 64).channels),
            )


def e0_preset(preset: Preset) -> tuple[E0Settings | LightE0Settings, LoopSettings]:
    match preset:
        case "light":
            return LightE0Settings(), LoopSettings(
                images=60_000, batch=8, precision="fp32", ema_halflife_images=2000, clip_norm=5.0
            )
        case "mini":
            return E0Settings(), LoopSettings(images=30_000, batch=32)
        case "paper" | "tree":  # e4e's released figures
            settings = E0Settings(
                learning_rate=1e-4,
                pixel_weight=1.0,
                perceptual_weight=0.8,
                identity_weight=0.1,
                delta_weight=2e-4,
                prior_weight=0.0,
                latent_weight=0.1,
                free_first_at_images=160_000,
                free_every_images=16_000,
            )
            loop = LoopSettings(images=1_600_000, batch=8, schedule="constant", precision="fp32", clip_norm=float("inf"))
            return settings, loop


def prior_preset() -> tuple[PriorSettings, LoopSettings]:
    """Return the settings found at 64 px on two cores: diverse samples after 24,000 images, still better after 150,000."""
    loop = LoopSettings(images=150_000, batch=16, ema_halflife_images=10_000, clip_norm=float("inf"))
    return PriorSettings(), loop


def tail_preset() -> tuple[TailSettings, LoopSettings]:
    """Return the settings of the tails; its counts are of windows, not of pictures."""
    return TailSettings(), LoopSettings(images=80_000, batch=8, precision="fp32", preview_images=8000, log_images=800)


def picture_preset() -> tuple[LightPictureSettings, LoopSettings]:
    loop = LoopSettings(
        images=12_000, batch=4, precision="fp32", ema_halflife_images=1000, warmup_images=400, preview_images=2000
    )
    return LightPictureSettings(), loop


def parts_preset() -> LoopSettings:
    """Return the settings of the network of parts: every labelled face about forty times, half of them behind a drawn hand."""
    return LoopSettings(images=32_000, batch=8, precision="fp32", warmup_images=400, preview_images=4000, log_images=800)


def prior_sizes(
    start: Path | None, resolution: int | None, channel_base: int, channel_max: int, w_dim: int, mapping_layers: int
) -> StyleGAN2Config:
    """Return the sizes of a new prior, or of `start` as it is or with one more block.

    Raises TrainingError for sizes that a StyleGAN2 cannot have.
    """
    try:
        if start is None:
            size = resolution or 64
            channels = channels_by_rule(size, channel_base, channel_max)
            return StyleGAN2Config(size, w_dim, w_dim, mapping_layers, channels)
        before = read_prior_config(start)
        if not isinstance(before, StyleGAN2Config):
            raise TrainingError(f"{start}: a prior is trained from a StyleGAN2, this is another architecture")
        size = resolution or before.resolution
        new = {res: min(channel_base // res, channel_max) for res in (size,) if res not in before.channels}
        return replace(before, resolution=size, channels={**before.channels, **new})
    except ValueError as error:
        raise TrainingError(str(error)) from error


def residual_preset(preset: Preset) -> tuple[ResidualSettings | LightResidualSettings, LoopSettings]:
    tree = ResidualSettings(
        learning_rate=1e-4,
        discriminator_learning_rate=1e-4,
        pixel_weight=1.0,
        perceptual_weight=1e-3,
        identity_weight=0.1,
        adversarial_weight=0.1,
        regulariser_weight=5.0,
        edit_share=0.5,
        composite_weight=0.0,
        direction_share=0.0,
        cycle_pixel_weight=0.0,
        cycle_perceptual_weight=1e-4,
        cycle_identity_weight=0.1,
        cycle_on="all",
        discriminator_every=1,
        r1_gamma=10.0,
        r1_every=1,
    )
    loop = LoopSettings(
        images=500_000,
        batch=8,
        precision="fp32",
        schedule="halving",
        halve_at_images=(40_000, 80_000, 120_000),
        ema_halflife_images=0,
        clip_norm=float("inf"),
    )
    match preset:
        case "light":
            return LightResidualSettings(), LoopSettings(
                images=12_000, batch=4, precision="fp32", ema_halflife_images=1000, preview_images=1500
            )
        case "mini":
            return ResidualSettings(), LoopSettings(images=30_000, batch=16)
        case "tree":
            return tree, loop
        case "paper":
            cycle = replace(tree, cycle_pixel_weight=1.0, cycle_perceptual_weight=1e-3, cycle_on="edited")
            return cycle, replace(loop, schedule="constant", halve_at_images=())
