"""Training of the base encoder E0 on a frozen generator: image => W+ near W, so that edits found in W apply to it.

Precision: encoder under bf16 autocast, generator feature maps bf16, losses and parameters float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ops.device import channels_last
from ops.inversion.styleres import StyleRes
from ops.training.data import shuffled_batches
from ops.training.loop import Budget, Log, save_checkpoint
from ops.training.losses import delta_regulariser, pixel_loss
from ops.training.perceptual import Perceptual


@dataclass(frozen=True)
class E0Settings:
    batch: int = 32
    learning_rate: float = 1e-3
    pixel_weight: float = 3.0
    perceptual_weight: float = 1.0
    delta_weight: float = 0.3
    """On the squared distance between rows of W+."""
    prior_weight: float = 0.05
    """On the squared distance of the first row from the mean code."""
    seed: int = 0
    max_minutes: float = 30.0


def train_e0(
    model: StyleRes, faces: np.ndarray, settings: E0Settings, out: Path, preview: Callable[[StyleRes, str], None]
) -> None:
    """faces uint8 [N, R, R, 3]; trains `model.encoder` in place and saves `out/e0.pt` every few minutes."""
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    model.requires_grad_(False)
    encoder = model.inverting()[0].requires_grad_(True).train()
    for head in encoder.heads():
        # Equalised layers start at unit variance; codes have a standard deviation of about a quarter. Start near the mean code.
        head.linear.weight.data.mul_(0.1)
    perceptual = channels_last(Perceptual())
    optimizer = torch.optim.Adam(encoder.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
    budget, log = Budget(settings.max_minutes), Log(out / "e0.jsonl")
    saved = 0.0
    for images in shuffled_batches(faces, settings.batch, generator):
        if budget.progress >= 1:
            break
        budget.apply(optimizer, settings.learning_rate)
        losses = e0_losses(model, perceptual, images)
        total = (
            settings.pixel_weight * losses["pixel"]
            + settings.perceptual_weight * losses["perceptual"]
            + settings.delta_weight * losses["delta"]
            + settings.prior_weight * losses["prior"]
        )
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        log.add(len(images), losses)
        if budget.progress - saved > 0.1:
            saved = budget.progress
            save_checkpoint(out / "e0.pt", {"encoder": encoder.state_dict(), "images": log.images})
            preview(model, f"e0_{log.images:07d}")
    encoder.eval()
    save_checkpoint(out / "e0.pt", {"encoder": encoder.state_dict(), "images": log.images})
    preview(model, "e0_final")


def e0_losses(model: StyleRes, perceptual: Perceptual, images: Tensor) -> dict[str, Tensor]:
    with torch.autocast(images.device.type, torch.bfloat16):
        offsets_NLD, _ = model.inverting()[0](images)
    offsets_NLD = offsets_NLD.float()
    styles = model.generator.styles(offsets_NLD + model.latent_avg)
    reconstruction = model.generator(styles, dtype=torch.bfloat16)
    return {
        "pixel": pixel_loss(reconstruction, images).mean(),
        "perceptual": perceptual(reconstruction, images).mean(),
        "delta": delta_regulariser(offsets_NLD),
        "prior": offsets_NLD[:, 0].square().mean(),
    }
