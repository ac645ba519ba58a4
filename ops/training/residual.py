"""Training of E1 and E2 on a frozen encoder and generator (StyleRes, section 3.3; figures in docs/training.md).

One step: a step of E1/E2, then a discriminator step on its outputs, with the same images, random codes and edit strengths.

    x -> E0 -> W, F0          W_a = W + a (W_r - W) / 10       x' = G(W_a; E2(G_a, E1(F0, F(W))))
    a = 0: pixel, perceptual        every x': adversarial, |dF|
    a > 0: the coarse change must be the code's own (edit fidelity, ours);
           x' -> E0 -> W'', undo the edit by subtracting the same vector, generate x''; x'' must be x (cycle)

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

from ops.device import channels_last
from ops.inversion.residual import fuse
from ops.inversion.styleres import StyleRes
from ops.stylegan2.discriminator import Discriminator
from ops.stylegan2.generator import Injection
from ops.training.data import shuffled_batches
from ops.training.loop import Budget, Log, save_checkpoint
from ops.training.losses import (
    adversarial_loss,
    discriminator_loss,
    edit_fidelity_loss,
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
    adversarial_weight: float = 0.03
    regulariser_weight: float = 0.1
    """On mean |dF|."""
    edit_weight: float = 1.0
    """On `edit_fidelity_loss`, which the paper does not have; 0 is the paper's loss. See docs/decisions/0005."""
    direction_share: float = 0.75
    """Share of simulated edits that go along one of the given directions instead of towards a random code."""
    direction_strength: tuple[float, float] = (0.7, 4.0)
    """Range of the strength of these, either sign."""
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
class SimulatedEdit:
    """The edits of one batch, drawn before the codes are known."""

    alpha_N: Tensor
    """Eq. 2; 0 where there is no edit, or one along a direction."""
    random_w_ND: Tensor
    along_ND: Tensor
    """Steps along directions, 0 where there is none."""

    @property
    def edited_N(self) -> Tensor:
        return (self.alpha_N > 0) | self.along_ND.any(dim=1)

    def offset(self, wplus_NLD: Tensor) -> Tensor:
        """What is added to the codes, and subtracted again in the cycle: [N, L, D]."""
        return edit_offset(wplus_NLD, self.random_w_ND, self.alpha_N) + self.along_ND[:, None, :]


@torch.no_grad()
def draw_edits(
    model: StyleRes, batch: int, directions_KD: Tensor | None, settings: ResidualSettings, draws: torch.Generator
) -> SimulatedEdit:
    """Per sample: no edit with probability one half, else towards a random code or along a random direction."""
    alpha_N = sample_alpha(batch, draws)
    random_w_ND = model.generator.mapping(torch.randn(batch, model.config.generator.z_dim, generator=draws))
    along_ND = torch.zeros_like(random_w_ND)
    if directions_KD is not None:
        chosen = (alpha_N > 0) & (torch.rand(batch, generator=draws) < settings.direction_share)
        low, high = settings.direction_strength
        size = low + (high - low) * torch.rand(batch, 1, generator=draws)
        sign = torch.randint(0, 2, (batch, 1), generator=draws) * 2 - 1
        which = torch.randint(0, len(directions_KD), (batch,), generator=draws)
        along_ND = torch.where(chosen[:, None], size * sign * directions_KD[which], along_ND)
        alpha_N = torch.where(chosen, torch.zeros(()), alpha_N)
    return SimulatedEdit(alpha_N, random_w_ND, along_ND)


@dataclass(frozen=True, eq=False)
class Encoded:
    wplus_NLD: Tensor
    residual: Tensor
    """F_a, with gradients to E1."""


def encode(model: StyleRes, images: Tensor) -> Encoded:
    """images => W+ (no gradient) and F_a (gradients reach E1 only)."""
    encoder, alignment, extraction = model.inverting()
    with torch.no_grad():
        with torch.autocast(images.device.type, DTYPE):
            offsets_NLD, encoder_features = encoder(images)
        wplus_NLD = offsets_NLD.float() + model.latent_avg
        styles = model.generator.styles(wplus_NLD)
        features = model.generator.features(styles, model.config.residual.resolution, dtype=DTYPE)
    with torch.autocast(images.device.type, DTYPE):
        return Encoded(wplus_NLD, extraction(alignment(encoder_features, features)))


def generate(model: StyleRes, wplus_NLD: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """=> (images, dF before the gate)."""
    gates, deltas = model.generating(), []

    def transform(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, DTYPE):
            delta, gate = gates(x, residual)
        deltas.append(delta)
        return fuse(x, delta, gate)

    injection = Injection(model.config.residual.resolution, transform)
    images = model.generator(model.generator.styles(wplus_NLD), injection=injection, dtype=DTYPE)
    return images, deltas[0]


def residual_losses(
    model: StyleRes, discriminator: nn.Module, perceptual: Perceptual, images: Tensor, edit: SimulatedEdit
) -> tuple[dict[str, Tensor], Tensor]:
    """=> (losses, x'). Reconstruction terms are means over the unedited samples, the others over the edited ones."""
    encoded = encode(model, images)
    offset_NLD = edit.offset(encoded.wplus_NLD)
    outputs, delta = generate(model, encoded.wplus_NLD + offset_NLD, encoded.residual)
    plain, edited = ~edit.edited_N, edit.edited_N
    losses = {
        "adversarial": adversarial_loss(discriminator(outputs, dtype=DTYPE)),
        "regulariser": feature_regulariser(delta),
    }
    if plain.any():
        losses["pixel"] = pixel_loss(outputs[plain], images[plain]).mean()
        losses["perceptual"] = perceptual(outputs[plain], images[plain]).mean()
    if edited.any():
        code, offset, residual = encoded.wplus_NLD[edited], offset_NLD[edited], encoded.residual[edited]
        back = encode(model, outputs[edited].detach())
        returned, _ = generate(model, back.wplus_NLD - offset, back.residual)
        losses["cycle_pixel"] = pixel_loss(returned, images[edited]).mean()
        losses["cycle_perceptual"] = perceptual(returned, images[edited]).mean()
        with torch.no_grad():
            generator = model.generator
            unedited, _ = generate(model, code, residual)
            both = generator(generator.styles(torch.cat([code, code + offset])), dtype=DTYPE)
            before, after = both.chunk(2)
        losses["edit"] = edit_fidelity_loss(outputs[edited] - unedited, after - before).mean()
    return losses, outputs.detach()


def residual_parts(model: StyleRes) -> nn.ModuleDict:
    """What this trains, under the names of its checkpoint."""
    _, alignment, extraction = model.inverting()
    return nn.ModuleDict({"alignment": alignment, "extraction": extraction, "gates": model.generating()})


def weighted_sum(losses: dict[str, Tensor], settings: ResidualSettings) -> Tensor:
    weights = {
        "pixel": settings.pixel_weight,
        "perceptual": settings.perceptual_weight,
        "adversarial": settings.adversarial_weight,
        "regulariser": settings.regulariser_weight,
        "edit": settings.edit_weight,
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
    directions_KD: Tensor | None,
    settings: ResidualSettings,
    out: Path,
    preview: Callable[[StyleRes, str], None],
) -> None:
    """Trains E1 and E2 of `model` (and the discriminator) in place; saves `out/residual.pt`.

    faces: uint8 [N, R, R, 3]. directions_KD: as `draw_edits` uses them, or None.
    """
    torch.manual_seed(settings.seed)
    draws = torch.Generator().manual_seed(settings.seed)
    model.requires_grad_(False).eval()
    parts = residual_parts(model)
    parts.requires_grad_(True).train()
    perceptual = channels_last(Perceptual())
    optimizer = torch.optim.Adam(parts.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=settings.discriminator_learning_rate, betas=(0.0, 0.99))
    budget, log = Budget(settings.max_minutes), Log(out / "residual.jsonl", every=25)
    saved = 0.0
    for step, images in enumerate(shuffled_batches(faces, settings.batch, draws)):
        if budget.progress >= 1:
            break
        budget.apply(optimizer, settings.learning_rate)
        budget.apply(d_optimizer, settings.discriminator_learning_rate)
        edit = draw_edits(model, len(images), directions_KD, settings, draws)
        discriminator.requires_grad_(False)
        losses, outputs = residual_losses(model, discriminator, perceptual, images, edit)
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
