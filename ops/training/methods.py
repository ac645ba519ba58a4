"""Trainings of the other methods on a frozen generator: one forward per method that gives its losses, and one task for all.

    part            learns                       frozen               losses beside those of the picture
    w-encoder       HyperStyle's encoder of w    -                    -
    hyperstyle      hypernetwork and maps        encoder of w         the picture's in every round
    hfgi            ADA and Ec                   e4e                  |ADA(warped residual) - residual|
    sfe-inverter    inverter and fuser           -                    the picture's of w alone; features near the generator's;
                                                                      adversarial, on both pictures
    sfe-editor      feature editor               inverter, fuser, e4e the picture's of edits of e4e's own images;
                                                                      adversarial, on the picture that is not edited

The picture's losses are L2, perceptual and identity, with the methods' common official weights 1, 0.8, 0.1. SFE's adversarial
losses come late, as officially, and with them a step of the discriminator follows every step. Left out: the Ranger optimiser,
for which Adam stands.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor, nn

from ops.generators.discriminator import Discriminator
from ops.inversion.hfgi import Hfgi
from ops.inversion.hyperstyle import DeltaMaps, HyperStyle
from ops.inversion.inverter import Inverter, only, pooled
from ops.inversion.sfe import Detail, Sfe
from ops.training.adversary import Adversary
from ops.training.distributed import Worker
from ops.training.losses import Embedder, adversarial_loss, identity_loss, pixel_loss
from ops.training.residual import Distance
from ops.training.trainer import Learner, Step, Task, TrainingError
from ops.training.warp import random_perspective

Part = Literal["w-encoder", "hyperstyle", "hfgi", "sfe-inverter", "sfe-editor"]


@dataclass(frozen=True)
class MethodSettings:
    """Settings of the training of one part. A part reads those that its losses use."""

    part: Part
    learning_rate: float = 1e-3
    pixel_weight: float = 1.0
    perceptual_weight: float = 0.8
    identity_weight: float = 0.0
    """0.1 officially; needs an identity network."""
    alignment_weight: float = 0.1
    """hfgi: on |ADA(warped residual, G(W)) - residual|."""
    distortion: float = 0.15
    """hfgi: how far corners move when the residual is warped, as a share of half the side."""
    distortion_share: float = 0.9
    """hfgi: share of residuals that are warped."""
    feature_weight: float = 0.01
    """sfe-inverter: on the squared distance of F from the generator's features of w."""
    feature_ramp_images: int = 4000
    """sfe-inverter: images until F replaces the generator's features entirely; 80,000 officially."""
    strength: tuple[float, float] = (0.7, 3.0)
    """sfe-editor: range of the strength of edits, either sign."""
    adversarial_weight: float = 0.01
    """sfe-inverter and sfe-editor, where the prior has a discriminator."""
    adversarial_from_images: int = 360_000
    """Images before the adversarial loss and the discriminator's steps begin: officially 45,000 steps of 8."""
    discriminator_learning_rate: float = 5e-4
    r1_gamma: float = 1.0
    """For 64 px, as in `ResidualSettings`; 20 officially, where it is 10 beside half of the logistic loss."""
    r1_every: int = 16

    def is_adversarial(self, images: int) -> bool:
        """Return whether a training of so many images reaches the adversarial loss."""
        has_it = self.part in ("sfe-inverter", "sfe-editor") and self.adversarial_weight > 0
        return has_it and images > self.adversarial_from_images


class PictureLoss:
    """Mean L2, perceptual and identity losses, weighted: (images, targets) => (sum, losses by name)."""

    def __init__(self, perceptual: Distance, embed: Embedder | None, settings: MethodSettings):
        if embed is None and settings.identity_weight > 0:
            raise TrainingError("an identity loss needs an identity network; give one (--identity-network) or weight 0")
        self.perceptual, self.embed, self.settings = perceptual, embed, settings

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        settings = self.settings
        losses = {"pixel": pixel_loss(images, targets).mean(), "perceptual": self.perceptual(images, targets).mean()}
        total = settings.pixel_weight * losses["pixel"] + settings.perceptual_weight * losses["perceptual"]
        if self.embed is not None and settings.identity_weight > 0:
            losses["identity"] = identity_loss(self.embed, images, targets).mean()
            total = total + settings.identity_weight * losses["identity"]
        return total, losses


@dataclass(frozen=True, eq=False)
class Batch:
    """This process's slice of a step."""

    images: Tensor
    """[n, 3, R, R] in [-1, 1]."""
    random: Mapping[str, Tensor]
    """The rows of this slice of what `Lesson.draw` drew."""
    seen: int
    """Images before this step."""


Losses = tuple[Tensor, dict[str, Tensor]]
Judged = tuple[Tensor, dict[str, Tensor], Tensor | None]
Discriminate = Callable[[Tensor], Tensor]
"""Images [N, 3, S, S] in [-1, 1] => logits [N, 1]."""


class Lesson(nn.Module, ABC):
    """Abstract: one part of one method. `forward` is the whole loss of a batch."""

    def __init__(
        self, model: Inverter, picture: PictureLoss, settings: MethodSettings, discriminate: Discriminate | None = None
    ):
        super().__init__()
        self.learnt = parts_of(model, settings.part).requires_grad_(True)
        self.everything, self.picture = [model], [picture]  # lists: not sub-modules
        self.settings, self.discriminate = settings, discriminate

    def draw(self, batch: int, draws: torch.Generator) -> dict[str, Tensor]:
        """Everything random of a global batch, by name, a row per image."""
        return {}

    @abstractmethod
    def forward(self, batch: Batch) -> Judged:
        """=> (weighted sum, losses by name, the pictures that the discriminator learns to tell from real ones: None until it
        is asked)."""

    def compared(self, image: Tensor, targets: Tensor, model: Inverter) -> Losses:
        """The picture's losses at the size of the encoder's images."""
        return self.picture[0](pooled(image, model.config.input_size), targets)

    def judged(self, total: Tensor, losses: dict[str, Tensor], pictures: Tensor, batch: Batch) -> Judged:
        """With the adversarial loss on some pictures, once it has begun."""
        if self.discriminate is None or batch.seen < self.settings.adversarial_from_images:
            return total, losses, None
        fakes = pooled(pictures, self.everything[0].config.input_size)
        losses["adversarial"] = adversarial_loss(self.discriminate(fakes))
        return total + self.settings.adversarial_weight * losses["adversarial"], losses, fakes.detach()


@final
class WEncoderLesson(Lesson):
    def forward(self, batch: Batch) -> Judged:
        model = self.everything[0]
        assert isinstance(model, HyperStyle)
        wplus_NLD = model.encode(batch.images)
        image = model.generator(model.generator.styles(wplus_NLD), dtype=model.feature_dtype)
        return *self.compared(image, batch.images, model), None


class RefinedDeltas(Mapping[str, Tensor]):
    """Deltas after a round, of which only this round's have gradients: the official program detaches the sums so far."""

    def __init__(self, maps: DeltaMaps, before_NTK: Tensor, now_NTK: Tensor, times: int):
        self.maps, self.before_NTK, self.now_NTK, self.times = maps, before_NTK, now_NTK, times

    def __getitem__(self, name: str) -> Tensor:
        now = self.maps.layer(self.now_NTK, name, 1)
        if self.times == 0:
            return now
        with torch.no_grad():
            before = self.maps.layer(self.before_NTK, name, self.times)
        return before + now

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps.layers)

    def __len__(self) -> int:
        return len(self.maps.layers)


@final
class HyperStyleLesson(Lesson):
    """Every round's picture is compared; gradients do not pass from one round to the next (section 3.3)."""

    def forward(self, batch: Batch) -> Judged:
        model = self.everything[0]
        assert isinstance(model, HyperStyle)
        rounds = model.config.hypernet.rounds
        with torch.no_grad():
            wplus_NLD = model.encode(batch.images)
            styles = model.generator.styles(wplus_NLD)
            state = model.start(wplus_NLD)
        codes_NTK, shown = state.codes_NTK, state.shown
        totals: list[Tensor] = []
        losses: dict[str, Tensor] = {}
        for times in range(rounds):
            with model.reduced(batch.images.device):
                now_NTK = only(model.hypernet, "invert")(batch.images, shown)
            deltas = RefinedDeltas(model.deltas, codes_NTK, now_NTK.float(), times)
            image = model.generator(styles, weight_deltas=deltas, dtype=model.feature_dtype)
            total, losses = self.compared(image, batch.images, model)
            totals.append(total)
            losses["first_round"] = totals[0]
            codes_NTK, shown = (codes_NTK + now_NTK).detach(), pooled(image, model.config.input_size).detach()
        return torch.stack(totals).sum(), losses, None


@final
class HfgiLesson(Lesson):
    """The residual is warped, and ADA must lay it back where the picture is (section 3.3): no edit is seen in training."""

    def draw(self, batch: int, draws: torch.Generator) -> dict[str, Tensor]:
        corners_N42 = torch.rand(batch, 4, 2, generator=draws) * self.settings.distortion
        warped_N = torch.rand(batch, generator=draws) < self.settings.distortion_share
        return {"corners_N42": corners_N42 * warped_N[:, None, None]}

    def forward(self, batch: Batch) -> Judged:
        model = self.everything[0]
        assert isinstance(model, Hfgi)
        with torch.no_grad():
            inversion = model.invert(batch.images)
            residual = inversion.detail
            assert residual is not None
            styles = model.generator.styles(inversion.wplus_NLD)
            shown = batch.images - residual  # what `invert` made, and would make again
            warped = random_perspective(residual, batch.random["corners_N42"])
        with model.reduced(batch.images.device):
            aligned = only(model.alignment, "generate")(warped, shown)
            scale, shift = only(model.consultation, "generate")(aligned)
        image = model.generator(styles, injection=model.fusion(scale, shift), dtype=model.feature_dtype)
        total, losses = self.compared(image, batch.images, model)
        losses["alignment"] = (aligned.float() - residual).abs().mean()
        return total + self.settings.alignment_weight * losses["alignment"], losses, None


@final
class SfeInverterLesson(Lesson):
    """Phase 1: the picture from features and w, and from w alone."""

    def forward(self, batch: Batch) -> Judged:
        model, settings = self.everything[0], self.settings
        assert isinstance(model, Sfe)
        wplus_NLD, features = model.features_of(batch.images)
        styles = model.generator.styles(wplus_NLD)
        own = model.own_features(styles)
        share = min(1.0, batch.seen / max(settings.feature_ramp_images, 1))
        whole = model.inserted(styles, own + share * (features - own))
        plain = model.generator(styles, dtype=model.feature_dtype)
        total, losses = self.compared(whole, batch.images, model)
        of_w, found = self.compared(plain, batch.images, model)
        losses |= {f"w_{name}": value for name, value in found.items()}
        losses["features"] = (features.float() - own.float()).square().mean()
        total = total + of_w + settings.feature_weight * losses["features"]
        return self.judged(total, losses, torch.cat([whole, plain]), batch)


@final
class SfeEditorLesson(Lesson):
    """Phase 2: the picture itself, and edits of e4e's images, whose edited versions are known (SFE, section 3.3)."""

    def __init__(
        self,
        model: Inverter,
        picture: PictureLoss,
        settings: MethodSettings,
        discriminate: Discriminate | None,
        directions_KD: Tensor | None,
    ):
        super().__init__(model, picture, settings, discriminate)
        if directions_KD is None:
            raise TrainingError("SFE's editor learns from edits: run styleres train directions first, or name --base")
        self.directions_KD = directions_KD

    def draw(self, batch: int, draws: torch.Generator) -> dict[str, Tensor]:
        low, high = self.settings.strength
        size = low + (high - low) * torch.rand(batch, 1, generator=draws)
        sign = torch.randint(0, 2, (batch, 1), generator=draws) * 2 - 1
        which = torch.randint(0, len(self.directions_KD), (batch,), generator=draws)
        return {"along_ND": size * sign * self.directions_KD.cpu()[which]}

    def forward(self, batch: Batch) -> Judged:
        model = self.everything[0]
        assert isinstance(model, Sfe)
        along_NLD = batch.random["along_ND"][:, None]
        with torch.no_grad():
            wplus_NLD, features = model.features_of(batch.images)
            twin_NLD = model.twin(batch.images)
            # Pairs of a picture and its edit, by the generator alone.
            both = torch.cat([twin_NLD, twin_NLD + along_NLD])
            before, after = pooled(
                model.generator(model.generator.styles(both), dtype=model.feature_dtype), model.config.input_size
            ).chunk(2)
            made_NLD, made_features = model.features_of(before)
            made = Detail(made_features, made_NLD, twin_NLD)
            change = model.change(made, made_NLD + along_NLD, None)
        kept = Detail(features, wplus_NLD, twin_NLD)
        still = self.picture_of(model, kept, wplus_NLD, torch.zeros_like(change))
        total, losses = self.compared(still, batch.images, model)
        edited = self.picture_of(model, made, made_NLD + along_NLD, change)
        of_edits, found = self.compared(edited, after, model)
        losses |= {f"edit_{name}": value for name, value in found.items()}
        return self.judged(total + of_edits, losses, still, batch)

    def picture_of(self, model: Sfe, kept: Detail, wplus_NLD: Tensor, change: Tensor) -> Tensor:
        return model.inserted(model.generator.styles(wplus_NLD), model.edited(kept, change))


def parts_of(model: Inverter, part: Part) -> nn.ModuleDict:
    """Modules that a part's training changes, under the names of its checkpoint, which are the model's."""
    match part, model:
        case "w-encoder", HyperStyle():
            return nn.ModuleDict({"encoder": only(model.encoder, "invert")})
        case "hyperstyle", HyperStyle():
            return nn.ModuleDict({"hypernet": only(model.hypernet, "invert"), "deltas": model.deltas})
        case "hfgi", Hfgi():
            return nn.ModuleDict(
                {
                    "alignment": only(model.alignment, "generate"),
                    "consultation": only(model.consultation, "generate"),
                }
            )
        case "sfe-inverter", Sfe():
            return nn.ModuleDict({"inverter": only(model.inverter, "invert"), "fuser": only(model.fuser, "invert")})
        case "sfe-editor", Sfe():
            return nn.ModuleDict({"editor": only(model.editor, "generate")})
        case _:
            raise TrainingError(f"a {type(model).__name__} model has no part {part}")


def lesson_of(
    model: Inverter,
    perceptual: Distance,
    embed: Embedder | None,
    settings: MethodSettings,
    discriminate: Discriminate | None,
    directions_KD: Tensor | None,
) -> Lesson:
    """The one place where a part's name becomes what is learnt."""
    picture = PictureLoss(perceptual, embed, settings)
    match settings.part:
        case "w-encoder":
            return WEncoderLesson(model, picture, settings)
        case "hyperstyle":
            return HyperStyleLesson(model, picture, settings)
        case "hfgi":
            return HfgiLesson(model, picture, settings)
        case "sfe-inverter":
            return SfeInverterLesson(model, picture, settings, discriminate)
        case "sfe-editor":
            return SfeEditorLesson(model, picture, settings, discriminate, directions_KD)


@final
class MethodTask(Task):
    """One part of one method. See `ops.training.trainer`."""

    def __init__(
        self,
        model: Inverter,
        perceptual: Distance,
        settings: MethodSettings,
        *,
        discriminator: Discriminator | None = None,
        embed: Embedder | None = None,
        directions_KD: Tensor | None = None,
        dtype: torch.dtype = torch.bfloat16,
        clip_norm: float = 1.0,
        worker: Worker | None = None,
        picture: Callable[[], np.ndarray] | None = None,
    ):
        """discriminator: of images of the model's input size; None without an adversarial loss."""
        worker = worker or Worker()
        self.name = settings.part
        self.model, self.settings, self.picture = model, settings, picture
        self.device = worker.device
        model.requires_grad_(False).eval()
        model.feature_dtype = dtype
        self.adversary = None if discriminator is None else Adversary(discriminator, settings, dtype, worker)
        discriminate = None if self.adversary is None else self.adversary.logits
        self.lesson = lesson_of(model, perceptual, embed, settings, discriminate, directions_KD)
        self.lesson.learnt.train()
        self.learn = worker.wrap(self.lesson)
        optimizer = torch.optim.Adam(self.lesson.learnt.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
        self.parts = Learner("parts", self.lesson.learnt, optimizer, dtype, clip_norm=clip_norm)

    def learners(self) -> list[Learner]:
        return [self.parts] if self.adversary is None else [self.parts, self.adversary.learner]

    def step(self, step: Step) -> dict[str, Tensor]:
        drawn = {name: rows[step.mine].to(self.device) for name, rows in self.lesson.draw(step.batch, step.draws).items()}
        total, losses, fakes = self.learn(Batch(step.images, drawn, step.index * step.batch))
        self.parts.step(total)
        if fakes is not None:
            assert self.adversary is not None
            penalise = step.index % self.settings.r1_every == 0
            losses["discriminator"] = self.adversary.step(step.images, fakes, penalise=penalise)
        return losses

    def pictures(self) -> np.ndarray | None:
        if self.picture is None:
            return None
        self.lesson.learnt.eval()
        try:
            return self.picture()
        finally:
            self.lesson.learnt.train()


@torch.no_grad()
def start_gently(model: Inverter, part: Part) -> None:
    """Begin near what the model gives without the part: last layers are made small. Officially only HyperStyle's are."""
    match part, model:
        case "w-encoder", HyperStyle():
            only(model.encoder, "invert").linear.weight.mul_(0.1)
        case "hyperstyle", HyperStyle():
            for plane in model.deltas.planes.values():
                plane.weight.mul_(0.1)  # type: ignore[operator, union-attr]
                plane.bias.zero_()  # type: ignore[operator, union-attr]
        case "hfgi", Hfgi():
            consultation = only(model.consultation, "generate")
            for condition in (consultation.condition_scale3, consultation.condition_shift3):
                condition["2"].weight.mul_(0.1)  # type: ignore[operator, union-attr]
        case "sfe-inverter", Sfe():
            for head in only(model.inverter, "invert").styles:
                head.weight.mul_(0.1)  # type: ignore[operator, union-attr]
                head.bias.zero_()  # type: ignore[operator, union-attr]
        case _:
            pass
