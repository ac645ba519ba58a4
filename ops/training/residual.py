"""Training of E1 and E2 on a frozen encoder and generator (StyleRes, section 3.3; figures in docs/training.md).

One step: a step of E1/E2, then a discriminator step on its outputs, with the same images, random codes and edit strengths.

    x -> E0 -> W, F0          W_a = W + a (W_r - W) / 10       x' = G(W_a; E2(G_a, E1(F0, F(W))))
    a = 0: pixel, perceptual        every x': adversarial, |dF|
    a > 0: x' -> E0 -> W'', undo the edit by subtracting the same vector, generate x''; x'' must be x (cycle)

Gradient stops: E0 and F run without gradients in both passes, so the cycle trains E1/E2 through the second pass only.
Precision: E0, E1, E2 under bf16 autocast, generator and discriminator feature maps bf16, losses and parameters float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ops.inversion.residual import fuse
from ops.inversion.styleres import StyleRes
from ops.stylegan2.discriminator import Discriminator
from ops.stylegan2.generator import Injection
from ops.training.data import shuffled_batches
from ops.training.loop import Budget, Log, save_checkpoint
from ops.training.losses import (
    adversarial_loss,
    discriminator_loss,
    edit_offset,
    feature_regulariser,
    pixel_loss,
    r1_penalty,
    sample_alpha,
)
from ops.training.perceptual import Perceptual

DTYPE = torch.bfloat16


@dataclass(frozen=True)
class ResidualSettings:
    batch: int = 16
    learning_rate: float = 5e-4
    discriminator_learning_rate: float = 5e-4
    pixel_weight: float = 3.0
    perceptual_weight: float = 1.0
    adversarial_weight: float = 0.02
    regulariser_weight: float = 0.02
    """On mean |dF|."""
    cycle_weight: float = 0.5
    """On the cycle's pixel and perceptual terms, each with its own weight above."""
    discriminator_every: int = 2
    """One discriminator step for so many steps of E1/E2: it starts from the prior's own and is ahead anyway."""
    r1_gamma: float = 1.0
    r1_every: int = 8
    """Lazy R1 (Karras et al. 2020): the penalty every so many discriminator steps, so many times as strong."""
    seed: int = 0
    max_minutes: float = 30.0


@dataclass(frozen=True, eq=False)
class Encoded:
    wplus_NLD: Tensor
    residual: Tensor
    """F_a, with gradients to E1."""


def encode(model: StyleRes, images: Tensor) -> Encoded:
    """images => W+ (no gradient) and F_a (gradients reach E1 only)."""
    with torch.no_grad():
        with torch.autocast(images.device.type, DTYPE):
            offsets_NLD, encoder_features = model.encoder(images)
        wplus_NLD = offsets_NLD.float() + model.latent_avg
        styles = model.generator.styles(wplus_NLD)
        features = model.generator.features(styles, model.config.residual.resolution, dtype=DTYPE)
    with torch.autocast(images.device.type, DTYPE):
        return Encoded(wplus_NLD, model.extraction(model.alignment(encoder_features, features)))


def generate(model: StyleRes, wplus_NLD: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """=> (images, dF before the gate)."""
    deltas = []

    def transform(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, DTYPE):
            delta, gate = model.gates(x, residual)
        deltas.append(delta)
        return fuse(x, delta, gate)

    injection = Injection(model.config.residual.resolution, transform)
    images = model.generator(model.generator.styles(wplus_NLD), injection=injection, dtype=DTYPE)
    return images, deltas[0]


def residual_losses(
    model: StyleRes,
    discriminator: nn.Module,
    perceptual: Perceptual,
    images: Tensor,
    random_w_ND: Tensor,
    alpha_N: Tensor,
) -> tuple[dict[str, Tensor], Tensor]:
    """=> (losses, x'). Reconstruction terms are means over the unedited samples, cycle terms over the edited ones."""
    encoded = encode(model, images)
    offset_NLD = edit_offset(encoded.wplus_NLD, random_w_ND, alpha_N)
    outputs, delta = generate(model, encoded.wplus_NLD + offset_NLD, encoded.residual)
    plain, edited = alpha_N == 0, alpha_N > 0
    losses = {
        "adversarial": adversarial_loss(discriminator(outputs, dtype=DTYPE)),
        "regulariser": feature_regulariser(delta),
    }
    if plain.any():
        losses["pixel"] = pixel_loss(outputs[plain], images[plain]).mean()
        losses["perceptual"] = perceptual(outputs[plain], images[plain]).mean()
    if edited.any():
        back = encode(model, outputs[edited].detach())
        returned, _ = generate(model, back.wplus_NLD - offset_NLD[edited], back.residual)
        losses["cycle_pixel"] = pixel_loss(returned, images[edited]).mean()
        losses["cycle_perceptual"] = perceptual(returned, images[edited]).mean()
    return losses, outputs.detach()


def weighted_sum(losses: dict[str, Tensor], settings: ResidualSettings) -> Tensor:
    weights = {
        "pixel": settings.pixel_weight,
        "perceptual": settings.perceptual_weight,
        "adversarial": settings.adversarial_weight,
        "regulariser": settings.regulariser_weight,
        "cycle_pixel": settings.cycle_weight * settings.pixel_weight,
        "cycle_perceptual": settings.cycle_weight * settings.perceptual_weight,
    }
    return torch.stack([weights[name] * value for name, value in losses.items()]).sum()


def discriminator_step(
    discriminator: Discriminator, real: Tensor, fake: Tensor, penalise: bool, settings: ResidualSettings
) -> Tensor:
    """The discriminator's loss on detached outputs, with the lazy penalty if it is due."""
    discriminator.requires_grad_(True)
    real = real.detach().requires_grad_(penalise)
    # The penalty differentiates twice, where bf16's eight bits are too few.
    real_logits = discriminator(real, dtype=torch.float32 if penalise else DTYPE)
    loss = discriminator_loss(real_logits, discriminator(fake, dtype=DTYPE))
    if penalise:
        loss = loss + 0.5 * settings.r1_gamma * settings.r1_every * r1_penalty(real_logits, real)
    return loss


def train_residual(
    model: StyleRes,
    discriminator: Discriminator,
    faces: np.ndarray,
    settings: ResidualSettings,
    out: Path,
    preview: Callable[[StyleRes, str], None],
) -> None:
    """faces uint8 [N, R, R, 3]; trains E1 and E2 of `model` (and the discriminator) in place, saves `out/residual.pt`."""
    torch.manual_seed(settings.seed)
    draws = torch.Generator().manual_seed(settings.seed)
    model.requires_grad_(False).eval()
    parts = nn.ModuleDict({"alignment": model.alignment, "extraction": model.extraction, "gates": model.gates})
    parts.requires_grad_(True).train()
    perceptual = Perceptual().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(parts.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=settings.discriminator_learning_rate, betas=(0.0, 0.99))
    budget, log = Budget(settings.max_minutes), Log(out / "residual.jsonl", every=25)
    saved = 0.0
    for step, images in enumerate(shuffled_batches(faces, settings.batch, draws)):
        if budget.progress >= 1:
            break
        budget.apply(optimizer, settings.learning_rate)
        budget.apply(d_optimizer, settings.discriminator_learning_rate)
        alpha_N = sample_alpha(len(images), draws)
        with torch.no_grad():
            random_w_ND = model.generator.mapping(torch.randn(len(images), model.config.generator.z_dim, generator=draws))
        discriminator.requires_grad_(False)
        losses, outputs = residual_losses(model, discriminator, perceptual, images, random_w_ND, alpha_N)
        optimizer.zero_grad(set_to_none=True)
        weighted_sum(losses, settings).backward()
        torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()

        if step % settings.discriminator_every == 0:
            penalise = step % (settings.discriminator_every * settings.r1_every) == 0
            d_loss = discriminator_step(discriminator, images, outputs, penalise, settings)
            d_optimizer.zero_grad(set_to_none=True)
            d_loss.backward()
            d_optimizer.step()
            losses["discriminator"] = d_loss
        log.add(len(images), losses)
        if budget.progress - saved > 0.1:
            saved = budget.progress
            save_checkpoint(out / "residual.pt", {"residual": parts.state_dict(), "images": log.images})
            preview(model, f"residual_{log.images:07d}")
    parts.eval()
    save_checkpoint(out / "residual.pt", {"residual": parts.state_dict(), "images": log.images})
    preview(model, "residual_final")
