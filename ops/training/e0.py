"""Training of the base encoder E0 on a frozen generator: image => W+ near W, so that edits found in W apply to it
(e4e, Tov et al. 2021).

Near W by e4e's two means: the rows' distances from the first row are penalised, and a discriminator on single rows tells
them from mapped codes. Rows may be freed one after the other (its progressive training).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from ops.inversion.e4e import E4eEncoder
from ops.inversion.styleres import StyleRes
from ops.training.distributed import Worker
from ops.training.losses import (
    Embedder,
    adversarial_loss,
    delta_regulariser,
    discriminator_loss,
    identity_loss,
    pixel_loss,
    r1_penalty,
)
from ops.training.residual import Distance, shown
from ops.training.trainer import Learner, Step, Task, TrainingError


@dataclass(frozen=True)
class E0Settings:
    learning_rate: float = 1e-3
    pixel_weight: float = 3.0
    perceptual_weight: float = 1.0
    identity_weight: float = 0.0
    delta_weight: float = 0.3
    """On the squared distance between rows of W+ (e4e's L_d-reg)."""
    prior_weight: float = 0.05
    """On the squared distance of the first row from the mean code."""
    latent_weight: float = 0.0
    """On e4e's latent discriminator; 0 leaves it out."""
    latent_learning_rate: float = 2e-5
    latent_r1_gamma: float = 10.0
    free_first_at_images: int = 0
    """Rows of W+ but the first equal the first until so many images; then one more is free every `free_every_images`."""
    free_every_images: int = 0
    """0: all rows are free from the start."""

    def free_rows(self, seen: int, rows: int) -> int:
        """How many rows may differ from the first, itself included."""
        if self.free_every_images == 0:
            return rows
        return 1 + min(rows - 1, max(0, (seen - self.free_first_at_images) // self.free_every_images + 1))


def start_near_the_mean(encoder: E4eEncoder) -> None:
    """Initialise a new encoder: equalised layers start at unit variance, codes at a standard deviation of about a quarter."""
    for head in encoder.heads():
        head.linear.weight.data.mul_(0.1)


class LatentDiscriminator(nn.Module):
    """A row of W+ => logit: four linear layers (e4e, section 3.2)."""

    def __init__(self, width: int):
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Linear(width, width), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, codes_ND: Tensor) -> Tensor:
        return self.layers(codes_ND)


class E0Step(nn.Module):
    """(images, free rows) => (weighted sum, losses, W+ without gradients)."""

    def __init__(
        self,
        model: StyleRes,
        discriminate: Callable[[Tensor], Tensor],
        perceptual: Distance,
        embed: Embedder | None,
        settings: E0Settings,
        dtype: torch.dtype,
    ):
        super().__init__()
        if embed is None and settings.identity_weight > 0:
            raise TrainingError("an identity loss needs an identity network; give one (--identity-network) or weight 0")
        self.model = [model]  # lists: not sub-modules, but for the encoder
        self.encoder = model.inverting()[0]
        self.discriminate, self.perceptual, self.embed = discriminate, [perceptual], [embed]
        self.settings, self.dtype = settings, dtype

    def forward(self, images: Tensor, free_rows: int) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        settings, model, embed = self.settings, self.model[0], self.embed[0]
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
            offsets_NLD, _ = self.encoder(images)
        offsets_NLD = offsets_NLD.float()
        if free_rows < offsets_NLD.shape[1]:
            held = offsets_NLD[:, :1].expand(-1, offsets_NLD.shape[1] - free_rows, -1)
            offsets_NLD = torch.cat([offsets_NLD[:, :free_rows], held], dim=1)
        wplus_NLD = offsets_NLD + model.latent_avg
        outputs = shown(model.generator(model.generator.styles(wplus_NLD), dtype=self.dtype), model)
        losses = {
            "pixel": pixel_loss(outputs, images).mean(),
            "perceptual": self.perceptual[0](outputs, images).mean(),
            "delta": delta_regulariser(offsets_NLD),
            "prior": offsets_NLD[:, 0].square().mean(),
        }
        weights = {
            "pixel": settings.pixel_weight,
            "perceptual": settings.perceptual_weight,
            "delta": settings.delta_weight,
            "prior": settings.prior_weight,
            "identity": settings.identity_weight,
            "latent": settings.latent_weight,
        }
        if embed is not None and settings.identity_weight > 0:
            losses["identity"] = identity_loss(embed, outputs, images).mean()
        if settings.latent_weight > 0:
            losses["latent"] = adversarial_loss(self.discriminate(wplus_NLD.flatten(0, 1)))
        total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        return total, losses, wplus_NLD.detach()


class LatentStep(nn.Module):
    """(real rows, fake rows) => the latent discriminator's loss, with R1 on the real ones in every step as e4e has it."""

    def __init__(self, discriminator: LatentDiscriminator, gamma: float):
        super().__init__()
        self.discriminator, self.gamma = discriminator, gamma

    def forward(self, real_ND: Tensor, fake_ND: Tensor) -> Tensor:
        real_ND = real_ND.detach().requires_grad_()
        real_logits = self.discriminator(real_ND)
        penalty = r1_penalty(real_logits, real_ND)
        return discriminator_loss(real_logits, self.discriminator(fake_ND)) + 0.5 * self.gamma * penalty


@final
class E0Task(Task):
    """The encoder of one model. See `ops.training.trainer`."""

    name = "e0"

    def __init__(
        self,
        model: StyleRes,
        perceptual: Distance,
        settings: E0Settings,
        *,
        embed: Embedder | None = None,
        dtype: torch.dtype = torch.bfloat16,
        clip_norm: float = 1.0,
        worker: Worker | None = None,
        picture: Callable[[], np.ndarray] | None = None,
    ):
        worker = worker or Worker()
        self.model, self.settings, self.picture = model, settings, picture
        self.device = worker.device
        model.requires_grad_(False).eval()
        encoder = model.inverting()[0].requires_grad_(True).train()
        judge = LatentDiscriminator(model.config.generator.w_dim).to(worker.device)
        self.learn = worker.wrap(E0Step(model, judge, perceptual, embed, settings, dtype))
        self.learn_latent = worker.wrap(LatentStep(judge, settings.latent_r1_gamma))
        optimizer = torch.optim.Adam(encoder.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
        d_optimizer = torch.optim.Adam(judge.parameters(), lr=settings.latent_learning_rate, betas=(0.9, 0.99))
        self.encoder = Learner("encoder", encoder, optimizer, dtype, clip_norm=clip_norm)
        self.judge = Learner("latent_discriminator", judge, d_optimizer, torch.float32, prefix="d_")

    def learners(self) -> list[Learner]:
        return [self.encoder, self.judge]

    def step(self, step: Step) -> dict[str, Tensor]:
        settings, model = self.settings, self.model
        rows = settings.free_rows(step.index * step.batch, model.config.generator.num_ws)
        self.judge.module.requires_grad_(False)
        total, losses, wplus_NLD = self.learn(step.images, rows)
        self.encoder.step(total)
        if settings.latent_weight > 0:
            z = torch.randn(step.batch, model.config.generator.z_dim, generator=step.draws)[step.mine]
            with torch.no_grad():
                real_ND = model.generator.mapping(z.to(self.device))
            self.judge.module.requires_grad_(True)
            losses["latent_discriminator"] = self.learn_latent(real_ND, wplus_NLD.flatten(0, 1))
            self.judge.step(losses["latent_discriminator"])
        return losses

    def pictures(self) -> np.ndarray | None:
        if self.picture is None:
            return None
        self.encoder.module.eval()
        try:
            return self.picture()
        finally:
            self.encoder.module.train()
