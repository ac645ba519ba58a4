"""A discriminator that learns beside what it judges: logistic losses, with lazy R1 on real images (Karras et al. 2020)."""

from __future__ import annotations

from typing import Protocol, final

import torch
from torch import Tensor, nn

from ops.generators.discriminator import Discriminator
from ops.training.distributed import Worker
from ops.training.losses import discriminator_loss, r1_penalty
from ops.training.trainer import Learner


class AdversarySettings(Protocol):
    """Settings of a discriminator, as a task gives them."""

    @property
    def discriminator_learning_rate(self) -> float: ...
    @property
    def r1_gamma(self) -> float: ...
    @property
    def r1_every(self) -> int:
        """Discriminator steps that the penalty of one step stands for."""
        ...


class DiscriminatorStep(nn.Module):
    """(real, fake, whether the lazy penalty is due) => the discriminator's loss."""

    def __init__(self, discriminator: Discriminator, dtype: torch.dtype, *, r1_gamma: float, r1_every: int):
        super().__init__()
        self.discriminator, self.dtype = discriminator, dtype
        self.r1_weight = 0.5 * r1_gamma * r1_every

    def forward(self, real: Tensor, fake: Tensor, penalise: bool) -> Tensor:
        real = real.detach().requires_grad_(penalise)
        # The penalty differentiates twice, where bf16's eight bits are too few.
        real_logits = self.discriminator(real, dtype=torch.float32 if penalise else self.dtype)
        loss = discriminator_loss(real_logits, self.discriminator(fake, dtype=self.dtype))
        if penalise:
            loss = loss + self.r1_weight * r1_penalty(real_logits, real)
        return loss


@final
class Adversary:
    """A discriminator whose parameters have gradients in its own steps only."""

    def __init__(self, discriminator: Discriminator, settings: AdversarySettings, dtype: torch.dtype, worker: Worker):
        """dtype: of its feature maps."""
        self.discriminator, self.dtype = discriminator, dtype
        rate = settings.discriminator_learning_rate
        optimizer = torch.optim.Adam(discriminator.parameters(), lr=rate, betas=(0.0, 0.99))
        self.learner = Learner("discriminator", discriminator, optimizer, dtype, prefix="d_")
        step = DiscriminatorStep(discriminator, dtype, r1_gamma=settings.r1_gamma, r1_every=settings.r1_every)
        self.judge = worker.wrap(step)
        discriminator.requires_grad_(False)

    def logits(self, images: Tensor) -> Tensor:
        """images [N, 3, R, R] in [-1, 1] => [N, 1]; gradients reach the images."""
        return self.discriminator(images, dtype=self.dtype)

    def step(self, real: Tensor, fake: Tensor, *, penalise: bool) -> Tensor:
        """Learn to tell `fake`, which has no gradients, from `real`; => the loss."""
        self.discriminator.requires_grad_(True)
        loss: Tensor = self.judge(real, fake, penalise)
        self.learner.step(loss)
        self.discriminator.requires_grad_(False)
        return loss
