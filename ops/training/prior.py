"""Training of a small StyleGAN2 prior from aligned images, anchored by an encoder.

A purely adversarial StyleGAN2 needs millions of images, and a projected one collapses early on few. Here an encoder E holds
the generator to the data while the discriminator teaches it detail:

    x -> E -> W+ -> G       must be x          L1, and distance in a network's features
    z -> M -> W             must lie where E's codes lie      recoloured now and then; sliced Wasserstein distance, whitened
    G(E(x)), G(M(z))        must look real     logistic loss, lazy R1, lightly augmented

E is E0 of the preset `mini`, so that what anchored the prior is where `train e0` starts.

Legend: N batch, Q codes in the queue, K directions, L rows of W+, D width of W, R resolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.generators.discriminator import Discriminator
from ops.generators.mapping import MappingNetwork
from ops.generators.stylegan2 import StyleGAN2
from ops.inversion.e4e import E4eEncoder
from ops.metrics.fid import frechet_distance
from ops.nn.equalised import LRELU_GAIN, LRELU_SLOPE, FullyConnected
from ops.spaces import crops_from_images, images_from_crops
from ops.training.augment import Augmentation, augment, draw_augmentation
from ops.training.distributed import Worker
from ops.training.losses import adversarial_loss, delta_regulariser, discriminator_loss, r1_penalty
from ops.training.residual import Distance
from ops.training.trainer import Learner, Step, Task

Features = Callable[[Tensor], list[Tensor]]
"""images in [-1, 1] => feature maps [N, C, H, W], fine to coarse."""
W_AVERAGE_DECAY = 0.99
"""Decay of the mean code, per step."""


@dataclass(frozen=True)
class PriorSettings:
    learning_rate: float = 2e-3
    """Learning rate of the synthesis network and the discriminator."""
    encoder_learning_rate: float = 1e-3
    mapping_rate: float = 1.0
    """The mapping network's learning rate over `learning_rate`. Before `recolour_every`, 20 was needed and did not suffice."""
    recolour_every: int = 50
    """Steps from one `recolour` of the mapping network to the next; it follows the encoder's codes, which move."""
    pixel_weight: float = 1.5
    perceptual_weight: float = 1.0
    wasserstein_weight: float = 2.0
    adversarial_weight: float = 0.3
    adversarial_every: int = 1
    """The adversarial losses and a step of the discriminator in one step of so many; they cost as much as all else."""
    delta_weight: float = 0.3
    """On the squared distance between rows of W+ (e4e's L_d-reg)."""
    rows: Literal["w", "w+"] = "w+"
    """w+: the anchor's rows of W+ may differ, and a prior that an encoder is to invert gets sharper."""
    queue: int = 2048
    """Q."""
    compared: int = 512
    """How many codes of either kind are compared in a step."""
    directions: int = 128
    """K: how many lines they are compared along."""
    settle_images: int = 0
    """For so many images the generator is held while a new anchor learns to reach it; for a warm start without an anchor."""
    r1_gamma: float = 0.5
    r1_every: int = 16
    """Steps of the discriminator."""
    augment_probability: float = 0.2


def sliced_wasserstein(a_ND: Tensor, b_ND: Tensor, directions_KD: Tensor) -> Tensor:
    """Mean over directions of the Wasserstein-1 distance between two sets of equal size, projected => scalar
    (Bonneel et al. 2015): in one dimension, that of the sorted values."""
    directions = F.normalize(directions_KD, dim=1)
    a, b = (x @ directions.t() for x in (a_ND, b_ND))
    return (a.sort(dim=0).values - b.sort(dim=0).values).abs().mean()


def whitening(codes_QD: Tensor, floor: float = 0.05) -> Tensor:
    """Codes => [D, D], after which they have unit variance in every direction, where that is over `floor` of the mean.

    A few directions hold most of the variance of codes. Lines drawn at random see little else, and samples that are far too
    wide along the rest, where pictures fall apart, would go unnoticed.
    """
    centred = codes_QD - codes_QD.mean(dim=0)
    variance_D, directions_DD = torch.linalg.eigh(centred.t() @ centred / max(len(codes_QD) - 1, 1))
    scale_D = (variance_D.clamp_min(0) + floor * variance_D.mean() + 1e-8).rsqrt()
    return directions_DD * scale_D @ directions_DD.t()


@torch.no_grad()
def recolour(mapping: MappingNetwork, codes_ND: Tensor, *, samples: int = 16_384) -> None:
    """Set the last layer so that samples of W have the mean and the covariance of some codes, but for the activation's kink.

    Whitening and colouring: with h what the last layer reads and y what its activation reads, both of covariance C and mean m,
    W = C_y^(1/2) C_h^(-1/2) and b = m_y - W m_h. In gradients the narrow directions of codes shout, a network heeds them first
    by making all samples the same, and the wide ones, in which faces differ, come last if ever.
    """
    draws = torch.Generator().manual_seed(0)
    first = mapping.get_submodule("fc0")
    assert isinstance(first, FullyConnected)
    z = torch.randn(samples, first.weight.shape[1], generator=draws).to(codes_ND.device)
    hidden = mapping.hidden(z).double()
    y = codes_ND.double() / LRELU_GAIN
    y = torch.where(y > 0, y, y / LRELU_SLOPE)
    turn = _power(torch.cov(y.t()), 0.5) @ _power(torch.cov(hidden.t()), -0.5)
    last = mapping.get_submodule(f"fc{mapping.num_layers - 1}")
    assert isinstance(last, FullyConnected)
    last.weight.copy_(turn * (turn.shape[1] ** 0.5 / last.lr_multiplier))
    last.bias.copy_((y.mean(dim=0) - turn @ hidden.mean(dim=0)) / last.lr_multiplier)
    mapping.w_avg.copy_(mapping(z).mean(dim=0))


def _power(symmetric: Tensor, exponent: float, floor: float = 1e-6) -> Tensor:
    """Raise a covariance matrix to a power; directions without variance keep none."""
    values, vectors = torch.linalg.eigh(symmetric)
    there = values > floor * values.mean()
    return (vectors * torch.where(there, values.clamp_min(1e-30) ** exponent, 0.0)) @ vectors.t()


class CodeQueue(nn.Module):
    """The last codes of the encoder, oldest overwritten first."""

    codes_QD: Tensor
    written: Tensor

    def __init__(self, size: int, width: int):
        super().__init__()
        self.register_buffer("codes_QD", torch.zeros(size, width))
        self.register_buffer("written", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def add(self, codes_ND: Tensor) -> Tensor:
        """Take up some codes; => all that are there, [up to Q, D]."""
        size, written = len(self.codes_QD), int(self.written)
        places = (torch.arange(len(codes_ND), device=codes_ND.device) + written) % size
        self.codes_QD[places] = codes_ND.float()
        self.written += len(codes_ND)
        return self.codes_QD[: min(size, int(self.written))].clone()

    def codes(self) -> Tensor | None:
        """All, once it is full."""
        return self.codes_QD if int(self.written) >= len(self.codes_QD) else None


class Anchored(nn.Module):
    """Modules that are learnt, under the names of its checkpoint."""

    def __init__(self, generator: StyleGAN2, encoder: E4eEncoder):
        super().__init__()
        self.generator, self.encoder = generator, encoder
        self.origin_D: Tensor
        self.register_buffer("origin_D", generator.mapping.w_avg.clone())
        """The encoder's codes are offsets from it. It stays where it was at the start, while the mean code moves."""

    def encoded(self, images: Tensor, *, rows: str, dtype: torch.dtype) -> Tensor:
        """images [N, 3, R, R] => W+ [N, L, D] float32."""
        size = self.encoder.config.input_size
        seen = images if images.shape[-1] == size else F.adaptive_avg_pool2d(images, size)
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            offsets_NLD, _ = self.encoder(seen)
        offsets_NLD = offsets_NLD.float()
        if rows == "w":
            offsets_NLD = offsets_NLD[:, :1].expand_as(offsets_NLD)
        return offsets_NLD + self.origin_D

    def pictures(self, wplus_NLD: Tensor, *, dtype: torch.dtype) -> Tensor:
        return self.generator(self.generator.styles(wplus_NLD), dtype=dtype)

    def repeated(self, w_ND: Tensor) -> Tensor:
        """W => W+ with equal rows."""
        return w_ND[:, None, :].expand(-1, self.generator.config.num_ws, -1)


@dataclass(frozen=True, eq=False)
class PriorDraws:
    """Everything random in one step, for this process's samples."""

    z_ND: Tensor
    many_z_ND: Tensor
    which_N: Tensor
    """Places of codes in the queue, in 0..1."""
    directions_KD: Tensor
    real: Augmentation
    fake: tuple[Augmentation, Augmentation]
    """Augmentations of G(E(x)) and of G(M(z))."""


def draw(step: Step, z_dim: int, w_dim: int, settings: PriorSettings) -> PriorDraws:
    """From the step's generator, the whole batch first: see `ops.training.trainer`."""
    device = step.images.device
    z_ND = torch.randn(step.batch, z_dim, generator=step.draws)[step.mine].to(device)
    many_z_ND = torch.randn(settings.compared, z_dim, generator=step.draws).to(device)
    which_N = torch.rand(settings.compared, generator=step.draws).to(device)
    directions_KD = torch.randn(settings.directions, w_dim, generator=step.draws).to(device)
    real, anchored, free = (
        draw_augmentation(step.batch, settings.augment_probability, step.draws).part(step.mine, device) for _ in range(3)
    )
    return PriorDraws(z_ND, many_z_ND, which_N, directions_KD, real, (anchored, free))


class PriorStep(nn.Module):
    """(images, draws, whether adversarial losses are due) => (weighted sum, losses, and then G(E(x)) and G(M(z)))."""

    def __init__(
        self,
        learnt: Anchored,
        queue: CodeQueue,
        discriminate: Callable[[Tensor], Tensor],
        perceptual: Distance,
        settings: PriorSettings,
        dtype: torch.dtype,
    ):
        super().__init__()
        self.learnt, self.queue = learnt, queue
        self.discriminate, self.perceptual = discriminate, [perceptual]  # a list: no sub-module
        self.settings, self.dtype = settings, dtype

    def forward(
        self, images: Tensor, draws: PriorDraws, adversarial: bool
    ) -> tuple[Tensor, dict[str, Tensor], tuple[Tensor, Tensor] | None]:
        settings, learnt = self.settings, self.learnt
        wplus_NLD = learnt.encoded(images, rows=settings.rows, dtype=self.dtype)
        wplus_BLD = wplus_NLD
        if adversarial:
            # One pass for both kinds: the mapping network's codes have equal rows.
            wplus_BLD = torch.cat([wplus_NLD, learnt.repeated(learnt.generator.mapping(draws.z_ND))])
        pictures = learnt.pictures(wplus_BLD, dtype=self.dtype)
        anchored = pictures[: len(images)]
        # M follows E, E does not follow M: the codes are constants here.
        codes_QD = self.queue.add(wplus_NLD.detach().mean(dim=1))
        white_DD = whitening(codes_QD)
        chosen_ND = codes_QD[(draws.which_N * len(codes_QD)).long()]
        many_ND = learnt.generator.mapping(draws.many_z_ND)
        losses = {
            "pixel": (anchored - images).abs().mean(),
            "perceptual": self.perceptual[0](anchored, images).mean(),
            "wasserstein": sliced_wasserstein(many_ND @ white_DD, chosen_ND @ white_DD, draws.directions_KD),
            "delta": delta_regulariser(wplus_NLD),
        }
        fakes = None
        if adversarial:
            free = pictures[len(images) :]
            losses["adversarial_anchored"] = adversarial_loss(self.discriminate(augment(anchored, draws.fake[0])))
            losses["adversarial"] = adversarial_loss(self.discriminate(augment(free, draws.fake[1])))
            fakes = (anchored.detach(), free.detach())
        with torch.no_grad():
            learnt.generator.mapping.w_avg.lerp_(many_ND.mean(dim=0), 1 - W_AVERAGE_DECAY)
        weights = {
            "pixel": settings.pixel_weight,
            "perceptual": settings.perceptual_weight,
            "wasserstein": settings.wasserstein_weight,
            "delta": settings.delta_weight,
            "adversarial_anchored": settings.adversarial_weight,
            "adversarial": settings.adversarial_weight,
        }
        total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        return total, losses, fakes


class PriorJudgeStep(nn.Module):
    """(real, both kinds of fakes, draws, whether R1 is due) => the discriminator's loss; each kind counts as one half."""

    def __init__(self, discriminator: Discriminator, settings: PriorSettings, dtype: torch.dtype):
        super().__init__()
        self.discriminator, self.settings, self.dtype = discriminator, settings, dtype

    def forward(self, real: Tensor, fakes: tuple[Tensor, Tensor], draws: PriorDraws, penalise: bool) -> Tensor:
        real = augment(real, draws.real).detach().requires_grad_(penalise)
        # The penalty differentiates twice, where bf16's eight bits are too few.
        real_logits = self.discriminator(real, dtype=torch.float32 if penalise else self.dtype)
        # Each kind by itself: the minibatch statistics of a mixture would give it away.
        fake_logits = [
            self.discriminator(augment(fake, how), dtype=self.dtype) for fake, how in zip(fakes, draws.fake, strict=True)
        ]
        loss = discriminator_loss(real_logits, torch.cat(fake_logits))
        if penalise:
            loss = loss + 0.5 * self.settings.r1_gamma * self.settings.r1_every * r1_penalty(real_logits, real)
        return loss


@final
class PriorTask(Task):
    """Generator, encoder and discriminator. See `ops.training.trainer`."""

    name = "prior"

    def __init__(
        self,
        learnt: Anchored,
        discriminator: Discriminator,
        perceptual: Distance,
        settings: PriorSettings,
        *,
        features: Features | None = None,
        held_out: np.ndarray | None = None,
        dtype: torch.dtype = torch.bfloat16,
        worker: Worker | None = None,
    ):
        """held_out: uint8 [N, R, R, 3], for pictures and the Frechet distance on `features`; without it, neither is made."""
        worker = worker or Worker()
        self.learnt, self.settings, self.dtype = learnt, settings, dtype
        self.features, self.held_out, self.device, self.worker = features, held_out, worker.device, worker
        config = learnt.generator.config
        self.queue = CodeQueue(settings.queue, config.w_dim).to(worker.device)
        learnt.requires_grad_(True).train()

        def discriminate(images: Tensor) -> Tensor:
            return discriminator(images, dtype=dtype)

        self.learn = worker.wrap(PriorStep(learnt, self.queue, discriminate, perceptual, settings, dtype))
        self.judge = worker.wrap(PriorJudgeStep(discriminator, settings, dtype))
        rate = settings.learning_rate
        groups = [
            {"params": list(learnt.generator.synthesis.parameters()), "lr": rate},
            {"params": list(learnt.generator.mapping.parameters()), "lr": rate * settings.mapping_rate},
            {"params": list(learnt.encoder.parameters()), "lr": settings.encoder_learning_rate, "betas": (0.9, 0.99)},
        ]
        optimizer = torch.optim.Adam(groups, lr=rate, betas=(0.0, 0.99))
        d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=rate, betas=(0.0, 0.99))
        self.learner = Learner("learnt", learnt, optimizer, dtype)
        self.discriminator = Learner("discriminator", discriminator, d_optimizer, dtype, prefix="d_")

    def learners(self) -> list[Learner]:
        return [self.learner, self.discriminator]

    def beside(self) -> dict[str, nn.Module]:
        return {"queue": self.queue}

    def step(self, step: Step) -> dict[str, Tensor]:
        config, settings = self.learnt.generator.config, self.settings
        draws = draw(step, config.z_dim, config.w_dim, settings)
        self.discriminator.module.requires_grad_(False)
        self.learnt.generator.synthesis.requires_grad_(step.index * step.batch >= settings.settle_images)
        if step.index % settings.recolour_every == 0 and (codes_QD := self.queue.codes()) is not None:
            recolour(self.learnt.generator.mapping, codes_QD)
            self.worker.share(self.learnt.generator.mapping)
        due = settings.adversarial_weight > 0 and step.index % settings.adversarial_every == 0
        total, losses, fakes = self.learn(step.images, draws, due)
        self.learner.step(total)
        if fakes is not None:
            penalise = step.index % (settings.adversarial_every * settings.r1_every) == 0
            self.discriminator.module.requires_grad_(True)
            losses["discriminator"] = self.judge(step.images, fakes, draws, penalise)
            self.discriminator.step(losses["discriminator"])
        return losses

    def match_mapping(self) -> None:
        """Recolour what training gives: the average of a mapping network that was recoloured now and then is none that was."""
        if (codes_QD := self.queue.codes()) is not None:
            recolour(self.learnt.generator.mapping, codes_QD)

    @torch.no_grad()
    def pictures(self) -> np.ndarray | None:
        """Rows: held-out faces, their reconstruction, and samples, truncated by 0.7 and whole."""
        if self.held_out is None:
            return None
        count = min(16, len(self.held_out))
        images = images_from_crops(self.held_out[:count], self.device)
        w_ND = self._mapped(count, seed=5)
        mean_D = self.learnt.generator.mapping.w_avg
        codes = (mean_D + 0.7 * (w_ND - mean_D), w_ND)
        rows = [images, self._reconstructed(images)] + [self._sampled(code) for code in codes]
        return np.concatenate([np.concatenate(list(crops_from_images(row)), axis=1) for row in rows], axis=0)

    @torch.no_grad()
    def measures(self) -> dict[str, float]:
        """Frechet distances, on the pooled last features of the perceptual network, of held-out images to samples and to
        their reconstructions; and the reconstruction's mean squared error."""
        if self.held_out is None or self.features is None:
            return {}
        found: dict[str, list[np.ndarray]] = {"real": [], "reconstructed": [], "sampled": []}
        errors = []
        w_ND = self._mapped(len(self.held_out), seed=6)
        for start in range(0, len(self.held_out), 16):
            images = images_from_crops(self.held_out[start : start + 16], self.device)
            rebuilt = self._reconstructed(images)
            errors.append((rebuilt.clamp(-1, 1) - images).square().mean(dim=(1, 2, 3)).cpu())
            sampled = self._sampled(w_ND[start : start + 16])
            for name, pictures in (("real", images), ("reconstructed", rebuilt), ("sampled", sampled)):
                pooled = self.features(pictures.clamp(-1, 1))[-1].float().mean(dim=(2, 3))
                found[name].append(pooled.double().cpu().numpy())
        real, rebuilt_features, sampled_features = (np.concatenate(parts) for parts in found.values())
        return {
            "held_out_l2": float(torch.cat(errors).mean()),
            "frechet_features_reconstructed": frechet_distance(real, rebuilt_features),
            "frechet_features_sampled": frechet_distance(real, sampled_features),
        }

    def _mapped(self, count: int, seed: int) -> Tensor:
        z = torch.randn(count, self.learnt.generator.config.z_dim, generator=torch.Generator().manual_seed(seed))
        return self.learnt.generator.mapping(z.to(self.device))

    def _sampled(self, w_ND: Tensor) -> Tensor:
        return self.learnt.pictures(self.learnt.repeated(w_ND), dtype=self.dtype)

    def _reconstructed(self, images: Tensor) -> Tensor:
        self.learnt.eval()
        try:
            wplus_NLD = self.learnt.encoded(images, rows=self.settings.rows, dtype=self.dtype)
        finally:
            self.learnt.train()
        return self.learnt.pictures(wplus_NLD, dtype=self.dtype)
