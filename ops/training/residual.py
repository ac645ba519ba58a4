"""Training of E1 and E2 on a frozen encoder and generator (StyleRes, section 3.3; figures in docs/training.md).

One step: a step of E1/E2, then a discriminator step on its outputs, with the same images, random codes and edit strengths.

    x -> E0 -> W, F0          W_a = W + a (W_r - W) / 10       x' = G(W_a; E2(G_a, E1(F0, F(W))))
    a = 0: pixel, perceptual, identity        every x': adversarial, |dF|
    a > 0: where the edit changes structure, x' must be the code's own picture, elsewhere x (composite, ours);
           x' -> E0 -> W'', undo the edit, generate x''; x'' must be x (cycle)

Gradient stops: E0 and F run without gradients in both passes, so the cycle trains E1/E2 through the second pass only.
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
from ops.generators.protocol import Injection
from ops.inversion.residual import fuse
from ops.inversion.styleres import StyleRes
from ops.training.adversary import Adversary
from ops.training.distributed import Worker
from ops.training.losses import (
    Embedder,
    adversarial_loss,
    affine_reversal,
    batch_mean,
    composite_loss,
    composite_target,
    edit_offset,
    feature_regulariser,
    identity_loss,
    pixel_loss,
    sample_alpha,
)
from ops.training.trainer import Learner, Step, Task, TrainingError

Distance = Callable[[Tensor, Tensor], Tensor]
"""(images, targets) in [-1, 1] => [N]: the perceptual loss."""


@dataclass(frozen=True)
class ResidualSettings:
    """Weights are per sample: a loss that concerns half of the samples counts half as much in the whole."""

    learning_rate: float = 8e-4
    discriminator_learning_rate: float = 5e-4
    pixel_weight: float = 6.0
    perceptual_weight: float = 2.0
    identity_weight: float = 0.0
    adversarial_weight: float = 0.03
    regulariser_weight: float = 0.1
    regularised: Literal["delta", "gated"] = "delta"
    """mean |dF|, or mean |g dF|."""
    edit_share: float = 0.65
    """Share of samples that are edited."""
    alpha: tuple[float, float] = (4.0, 5.0)
    composite_weight: float = 20.0
    """On `composite_loss`, which the paper does not have; 0 is the paper's loss. See docs/decisions/0005."""
    direction_share: float = 0.85
    """Share of simulated edits that go along one of the given directions instead of towards a random code."""
    direction_strength: tuple[float, float] = (0.7, 4.0)
    """Range of the strength of these, either sign."""
    cycle_pixel_weight: float = 0.5
    cycle_perceptual_weight: float = 0.25
    cycle_identity_weight: float = 0.0
    cycle_on: Literal["edited", "all"] = "edited"
    reversal: Literal["subtract", "affine"] = "subtract"
    """How the cycle undoes an edit: subtract the very same vector, or solve Eq. 2 for W."""
    stop_gradients: bool = True
    """E0 and F without gradients in the second pass, which then does not reach x'."""
    use_residual: bool = True
    """False: F_a is zero, for the ablation without E1's residual."""
    discriminator_every: int = 2
    """One discriminator step for so many steps of E1/E2: it starts from the prior's own and is ahead anyway."""
    r1_gamma: float = 1.0
    r1_every: int = 8
    """Lazy R1 (Karras et al. 2020): the penalty every so many discriminator steps, so many times as strong; 1 is every step."""

    @property
    def uses_cycle(self) -> bool:
        return max(self.cycle_pixel_weight, self.cycle_perceptual_weight, self.cycle_identity_weight) > 0


@dataclass(frozen=True, eq=False)
class SimulatedEdit:
    """The edits of one batch, drawn before the codes are known."""

    alpha_N: Tensor
    """a of Eq. 2; 0 without an edit, or with one along a direction."""
    random_w_ND: Tensor
    along_ND: Tensor
    """Steps along directions, 0 where there is none."""

    @property
    def edited_N(self) -> Tensor:
        return (self.alpha_N > 0) | self.along_ND.any(dim=1)

    def offset(self, wplus_NLD: Tensor) -> Tensor:
        """Return the offset that is added to the codes, [N, L, D]."""
        return edit_offset(wplus_NLD, self.random_w_ND, self.alpha_N) + self.along_ND[:, None, :]

    def undo(self, wplus_NLD: Tensor, offset_NLD: Tensor, reversal: Literal["subtract", "affine"]) -> Tensor:
        """Codes of edited images => codes without the edit."""
        match reversal:
            case "subtract":
                return wplus_NLD - offset_NLD
            case "affine":
                return affine_reversal(wplus_NLD - self.along_ND[:, None, :], self.random_w_ND, self.alpha_N)

    def part(self, rows: slice | Tensor, device: torch.device) -> SimulatedEdit:
        """The edits of some samples, on a device."""
        return SimulatedEdit(self.alpha_N[rows].to(device), self.random_w_ND[rows].to(device), self.along_ND[rows].to(device))


@torch.no_grad()
def draw_edits(
    model: StyleRes, batch: int, directions_KD: Tensor | None, settings: ResidualSettings, draws: torch.Generator
) -> SimulatedEdit:
    """Per sample: no edit, or one towards a random code, or one along a random direction; on the model's device."""
    alpha_N = sample_alpha(batch, draws, share=settings.edit_share, between=settings.alpha)
    z = torch.randn(batch, model.config.generator.z_dim, generator=draws)
    along_ND = torch.zeros(batch, model.config.generator.w_dim)
    if directions_KD is not None:
        chosen = (alpha_N > 0) & (torch.rand(batch, generator=draws) < settings.direction_share)
        low, high = settings.direction_strength
        size = low + (high - low) * torch.rand(batch, 1, generator=draws)
        sign = torch.randint(0, 2, (batch, 1), generator=draws) * 2 - 1
        which = torch.randint(0, len(directions_KD), (batch,), generator=draws)
        along_ND = torch.where(chosen[:, None], size * sign * directions_KD[which].cpu(), along_ND)
        alpha_N = torch.where(chosen, torch.zeros(()), alpha_N)
    device = model.latent_avg.device
    return SimulatedEdit(alpha_N.to(device), model.generator.mapping(z.to(device)), along_ND.to(device))


@dataclass(frozen=True, eq=False)
class Encoded:
    wplus_NLD: Tensor
    residual: Tensor
    """F_a, with gradients to E1."""


class ResidualStep(nn.Module):
    """images and their edits => (losses, x', dF's weighted sum): everything that E1/E2 learn from, as one forward.

    The discriminator is a function here, not a part: its parameters are trained elsewhere.
    """

    def __init__(
        self,
        model: StyleRes,
        discriminate: Callable[[Tensor], Tensor],
        perceptual: Distance,
        embed: Embedder | None,
        settings: ResidualSettings,
        dtype: torch.dtype,
    ):
        super().__init__()
        if embed is None and max(settings.identity_weight, settings.cycle_identity_weight) > 0:
            raise TrainingError("an identity loss needs an identity network; give one (--identity-network) or weight 0")
        if not settings.use_residual:
            for parameter in model.inverting()[2].parameters():
                torch.nn.init.zeros_(parameter)  # nothing trains them: a bundle made of this has no residual either
        self.model = model
        self.discriminate = discriminate
        self.perceptual, self.embed = [perceptual], [embed]  # lists: not sub-modules
        self.settings, self.dtype = settings, dtype

    def forward(self, images: Tensor, edit: SimulatedEdit) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """=> (weighted sum, losses by name, x' without gradients)."""
        settings, embed = self.settings, self.embed[0]
        encoded = self.encode(images, stop=True)
        offset_NLD = edit.offset(encoded.wplus_NLD)
        outputs, delta, gate = self.generate(encoded.wplus_NLD + offset_NLD, encoded.residual)
        edited_N = edit.edited_N
        plain_N = ~edited_N
        losses = {
            "adversarial": adversarial_loss(self.discriminate(outputs)),
            "regulariser": batch_mean(feature_regulariser(delta * gate if settings.regularised == "gated" else delta)),
            "pixel": batch_mean(pixel_loss(outputs, images), plain_N),
        }
        rows = plain_N.nonzero()[:, 0]
        if len(rows):
            # Only the samples that it concerns, here and below: the rest would cost a pass and count nothing.
            share = len(rows) / len(images)
            losses["perceptual"] = share * self.distance(outputs[rows], images[rows]).mean()
            if embed is not None and settings.identity_weight > 0:
                losses["identity"] = share * identity_loss(embed, outputs[rows], images[rows]).mean()
        cycled_N = edited_N if settings.cycle_on == "edited" else torch.ones_like(edited_N)
        rows = cycled_N.nonzero()[:, 0]
        if settings.uses_cycle and len(rows):
            share = len(rows) / len(images)
            again = outputs[rows].detach() if settings.stop_gradients else outputs[rows]
            back = self.encode(again, stop=settings.stop_gradients)
            code = edit.part(rows, images.device).undo(back.wplus_NLD, offset_NLD[rows], settings.reversal)
            returned, _, _ = self.generate(code, back.residual)
            losses["cycle_pixel"] = share * pixel_loss(returned, images[rows]).mean()
            losses["cycle_perceptual"] = share * self.distance(returned, images[rows]).mean()
            if embed is not None and settings.cycle_identity_weight > 0:
                losses["cycle_identity"] = share * identity_loss(embed, returned, images[rows]).mean()
        rows = edited_N.nonzero()[:, 0]
        if settings.composite_weight > 0 and len(rows):
            target, mask = self.composite(images[rows], encoded.wplus_NLD[rows], offset_NLD[rows])
            losses["composite"] = len(rows) / len(images) * composite_loss(outputs[rows], target, mask).mean()
        return weighted_sum(losses, settings), losses, outputs.detach()

    @torch.no_grad()
    def composite(self, images: Tensor, wplus_NLD: Tensor, offset_NLD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the target of edited samples and the mask where it is the code's own: `composite_target`."""
        generator = self.model.generator
        both = generator(generator.styles(torch.cat([wplus_NLD, wplus_NLD + offset_NLD])), dtype=self.dtype)
        before, after = shown(both, self.model).chunk(2)
        return composite_target(images, before, after)

    def distance(self, images: Tensor, targets: Tensor) -> Tensor:
        """The perceptual loss [N]; its network's feature maps are of the step's precision too, what is summed is float32."""
        with self.reduced(images):
            return self.perceptual[0](images, targets).float()

    def encode(self, images: Tensor, *, stop: bool) -> Encoded:
        """images => W+ and F_a (gradients reach E1, and with `stop` nothing else)."""
        model = self.model
        encoder, alignment, extraction = model.inverting()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not stop):
            with self.reduced(images):
                offsets_NLD, encoder_features = encoder(images)
            wplus_NLD = offsets_NLD.float() + model.latent_avg
            styles = model.generator.styles(wplus_NLD)
            features = model.generator.features(styles, model.config.place, dtype=self.dtype)
        with self.reduced(images):
            residual = extraction(alignment(encoder_features.to(features.dtype), features))
        return Encoded(wplus_NLD, residual if self.settings.use_residual else torch.zeros_like(residual))

    def generate(self, wplus_NLD: Tensor, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """=> (images, dF, gate)."""
        model, gates, parts = self.model, self.model.generating(), []

        def transform(x: Tensor) -> Tensor:
            with self.reduced(x):
                delta, gate = gates(x, residual)
            parts.append((delta, gate))
            return fuse(x, delta, gate)

        injection = Injection(model.config.place, transform)
        images = model.generator(model.generator.styles(wplus_NLD), injection=injection, dtype=self.dtype)
        return shown(images, model), *parts[0]

    def reduced(self, x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32)


def shown(images: Tensor, model: StyleRes) -> Tensor:
    """The generator's images at the size of the encoder's, where all losses and the discriminator see them."""
    size = model.config.encoder.input_size
    return images if images.shape[-1] == size else F.adaptive_avg_pool2d(images, size)


def residual_parts(model: StyleRes) -> nn.ModuleDict:
    """Modules that this trains, under the names of its checkpoint."""
    _, alignment, extraction = model.inverting()
    return nn.ModuleDict({"alignment": alignment, "extraction": extraction, "gates": model.generating()})


def weighted_sum(losses: dict[str, Tensor], settings: ResidualSettings) -> Tensor:
    weights = {
        "pixel": settings.pixel_weight,
        "perceptual": settings.perceptual_weight,
        "identity": settings.identity_weight,
        "adversarial": settings.adversarial_weight,
        "regulariser": settings.regulariser_weight,
        "composite": settings.composite_weight,
        "cycle_pixel": settings.cycle_pixel_weight,
        "cycle_perceptual": settings.cycle_perceptual_weight,
        "cycle_identity": settings.cycle_identity_weight,
    }
    return torch.stack([weights[name] * value for name, value in losses.items()]).sum()


@final
class ResidualTask(Task):
    """E1, E2 and the discriminator of one model. See `ops.training.trainer`."""

    name = "residual"

    def __init__(
        self,
        model: StyleRes,
        discriminator: Discriminator,
        perceptual: Distance,
        settings: ResidualSettings,
        *,
        embed: Embedder | None = None,
        directions_KD: Tensor | None = None,
        dtype: torch.dtype = torch.bfloat16,
        clip_norm: float = 1.0,
        worker: Worker | None = None,
        picture: Callable[[], np.ndarray] | None = None,
    ):
        """directions_KD: as `draw_edits` uses them. picture: draws the grid of the present weights."""
        worker = worker or Worker()
        self.model, self.settings, self.directions_KD, self.picture = model, settings, directions_KD, picture
        model.requires_grad_(False).eval()
        parts = residual_parts(model).requires_grad_(True)
        optimizer = torch.optim.Adam(parts.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
        self.parts = Learner("parts", parts, optimizer, dtype, clip_norm=clip_norm)
        self.adversary = Adversary(discriminator, settings, dtype, worker)
        self.learn = worker.wrap(ResidualStep(model, self.adversary.logits, perceptual, embed, settings, dtype))

    def learners(self) -> list[Learner]:
        return [self.parts, self.adversary.learner]

    def step(self, step: Step) -> dict[str, Tensor]:
        settings = self.settings
        edit = draw_edits(self.model, step.batch, self.directions_KD, settings, step.draws)
        edit = edit.part(step.mine, step.images.device)
        total, losses, outputs = self.learn(step.images, edit)
        self.parts.step(total)
        if step.index % settings.discriminator_every == 0:
            penalise = step.index % (settings.discriminator_every * settings.r1_every) == 0
            losses["discriminator"] = self.adversary.step(step.images, outputs, penalise=penalise)
        return losses

    def pictures(self) -> np.ndarray | None:
        return None if self.picture is None else self.picture()
