"""Training of the light StyleRes on a frozen generator (docs/training.md has the commands and what each term gives).

E0. Codes of drawn faces are known, photographs are what it is for; a batch has both.

    drawn W, degraded G(W) -> E0      W and the styles made of it must come back
    photograph x, degraded -> E0 -> G      must look like x; rows near each other and near the mean code (e4e)

E1 and E2. What an edited photograph looks like nobody knows; of a drawn face G(W) the edited one is G(W + d).

    x -> E0, E1, E2 without an edit -> G                must be x
    G(W) -> E0', E1, E2 with the edit d -> G            must be G(W + d), where E0' is as wrong as E0 on photographs

Both go through the generator's full path, averaged down to be compared: a residual that was fitted to a smaller output's
errors would carry them into the large one. Then, on frozen E1 and E2:

    G(W) -> E0', E1, E2 with the edit d, q -> G, dx     must be G(W + d): what of q remains after an edit

Pictures are generated in windows of the features' grid: a part costs its share. Legend: N batch, L rows of W+, D width of W.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.generators.mobile import Mobile, Window
from ops.inversion.inverter import only, pooled
from ops.inversion.light import LightEncoder, LightExtraction, LightStyleRes, Transformed, cells, changed_share
from ops.spaces import crops_from_images, images_from_crops
from ops.training.degrade import degraded
from ops.training.distributed import Worker
from ops.training.looks import Looks, draw_looks
from ops.training.losses import Embedder, identity_loss
from ops.training.synthetic import CodeSettings, Rotation, along_directions, draw_codes
from ops.training.trainer import Learner, Step, Task

Distance = Callable[[Tensor, Tensor], Tensor]
"""(images, targets) in [-1, 1] => [N]: the perceptual loss."""
STYLE_ENTRIES = 14
"""Entries of S that E0's style loss compares, from the coarsest: what lies behind decides colours and grain."""


@dataclass(frozen=True)
class LightE0Settings:
    learning_rate: float = 5e-4
    trunk_rate: float = 0.4
    """The trunk's learning rate over `learning_rate`."""
    drawn_weight: float = 0.3
    pixel_weight: float = 4.0
    perceptual_weight: float = 2.0
    identity_weight: float = 0.3
    rows_weight: float = 0.05
    """On the rows' distances from their mean."""
    mean_weight: float = 0.01
    """On their distance from the mean code."""
    drawn_images: int = 0
    """For so many images at first only drawn faces are learnt from."""
    size: int = 128
    """Side in pixels of the pictures that are compared: one of the generator's."""


@dataclass(frozen=True)
class PairSettings:
    """Drawn faces with edits whose truth is known, and what is made of a difference from it."""

    learning_rate: float = 1e-3
    pixel_weight: float = 4.0
    magnitude_weight: float = 0.5
    """On the mean absolute difference."""
    perceptual_weight: float = 2.0
    identity_weight: float = 0.5
    sharpness_weight: float = 0.5
    """On the difference of local gradient energy: what a mean of possible pictures lacks."""
    random_share: float = 0.25
    """Edits that go towards another drawn code (the paper's Eq. 2) instead of along the given directions."""
    rows_share: float = 0.25
    """Edits that move some of the rows only."""
    wrong: float = 0.6
    """How far a drawn face's code is taken towards the mean at most, as E0's codes of photographs are."""
    wrong_person: float = 0.3
    """How far it is taken towards another person's at most: E0's codes of photographs are wrong about who it is too."""
    size: int = 256
    """Side in pixels that pictures are averaged to, to be compared."""
    side: int = 32
    """Cells of a window's side."""
    margin: int = 2
    """Cells at a window's border that do not count."""
    pool: int = 192
    """Drawn faces held at a time."""
    refresh_every: int = 2
    """Steps from one new drawn face to the next."""


@dataclass(frozen=True)
class LightResidualSettings(PairSettings):
    photograph_weight: float = 1.0
    """Weight of all terms of photographs without an edit, over those of pairs."""
    poor_share: float = 0.3
    """Photographs that are degraded, in and out: a video's frames must come back as they are."""
    follow_weight: float = 3.0
    """Photographs with an edit, of which the truth is not known: E0 must see as much of the edit in them as in a drawn face
    that has it. Otherwise E2 tells photographs by their looks, and brings the face back as it was."""
    keep_weight: float = 1.0
    """... and the face may lose no more of its identity than the drawn one did."""


@dataclass(frozen=True)
class LightPictureSettings(PairSettings):
    learning_rate: float = 2e-3
    small_share: float = 0.5
    """Steps that go through the generator's smallest picture that is not below the images, so that both ways are corrected."""
    refresh_every: int = 1
    looks: float = 1.0
    """How far drawn faces and their edits are given the forms, contrasts and colours of photographs (`ops.training.looks`)."""
    changed_weight: float = 3.0
    """Weight of places that the edit changes, over that of the others, in the pixels' losses: a mouth is a hundredth of a
    picture, and there old lips stay behind."""


class LightE0Step(nn.Module):
    """(photographs, degraded photographs, drawn codes, degraded drawn faces) => (weighted sum, losses)."""

    def __init__(self, model: LightStyleRes, distance: Distance, embed: Embedder | None, settings: LightE0Settings):
        super().__init__()
        self.encoder = model.encoder
        self.model, self.distance, self.embed, self.settings = [model], [distance], [embed], settings
        with torch.no_grad():
            draws = torch.Generator().manual_seed(0)
            w_ND = model.generator.mapping(torch.randn(4096, model.config.generator.z_dim, generator=draws))
            entries = model.config.generator.style_inputs[:STYLE_ENTRIES]
            self.of_w = w_ND.std(dim=0)
            self.of_styles = [model.generator.style(entry.name, w_ND).std(dim=0).mean() for entry in entries]

    def forward(
        self, images: Tensor, poor: Tensor, drawn_NLD: Tensor, drawn_poor: Tensor, whole: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        settings, model, embed = self.settings, self.model[0], self.embed[0]
        count = len(drawn_NLD)
        wplus = model.code(torch.cat([drawn_poor, poor]) if whole else drawn_poor)
        losses = {"code": ((wplus[:count] - drawn_NLD) / self.of_w).square().mean()}
        losses["styles"] = self.style_loss(wplus[:count], drawn_NLD)
        weights = {"code": settings.drawn_weight, "styles": settings.drawn_weight}
        if whole:
            found = wplus[count:]
            targets = pooled(images, settings.size)
            pictures = model.generator(model.generator.styles(found), size=settings.size)
            losses["pixel"] = (pictures - targets).square().mean()
            losses["perceptual"] = self.distance[0](pictures, targets).mean()
            losses["rows"] = ((found - found.mean(dim=1, keepdim=True)) / self.of_w).square().mean()
            losses["mean"] = ((found - model.latent_avg) / self.of_w).square().mean()
            weights |= {"pixel": settings.pixel_weight, "perceptual": settings.perceptual_weight}
            weights |= {"rows": settings.rows_weight, "mean": settings.mean_weight, "identity": settings.identity_weight}
            if embed is not None and settings.identity_weight > 0:
                losses["identity"] = identity_loss(embed, pictures, targets).mean()
        total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        return total, losses

    def style_loss(self, a_NLD: Tensor, b_NLD: Tensor) -> Tensor:
        generator = self.model[0].generator
        entries = generator.config.style_inputs[:STYLE_ENTRIES]
        terms = []
        for entry, deviation in zip(entries, self.of_styles, strict=True):
            a, b = (generator.style(entry.name, code[:, entry.row]) for code in (a_NLD, b_NLD))
            terms.append(((a - b) / deviation).square().mean())
        return torch.stack(terms).mean()


@final
class LightE0Task(Task):
    """E0 of a light StyleRes. See `ops.training.trainer`."""

    name = "e0"

    def __init__(
        self,
        model: LightStyleRes,
        distance: Distance,
        settings: LightE0Settings,
        *,
        embed: Embedder | None = None,
        directions_KD: Tensor | None = None,
        clip_norm: float = 5.0,
        worker: Worker | None = None,
        held_out: np.ndarray | None = None,
    ):
        worker = worker or Worker()
        self.model, self.settings, self.directions_KD = model, settings, directions_KD
        model.requires_grad_(False).eval()
        encoder = model.encoder
        assert encoder is not None
        # Stem, filters and the first blocks see edges as well as they ever will; their gradients cost half of a step.
        trunk = [p for name, p in encoder.trunk.named_parameters() if ".expand." in name or ".project." in name]
        first = {id(p) for block in encoder.trunk.blocks[:3] for p in block.parameters()}
        trunk = [p for p in trunk if id(p) not in first]
        head = [p for name, p in encoder.named_parameters() if not name.startswith("trunk.")]
        for parameter in (*trunk, *head):
            parameter.requires_grad_(True)
        rate = settings.learning_rate
        groups = [{"params": trunk, "lr": rate * settings.trunk_rate}, {"params": head, "lr": rate}]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-4)
        self.encoder = Learner("encoder", encoder, optimizer, torch.float32, clip_norm=clip_norm)
        self.learn = worker.wrap(LightE0Step(model, distance, embed, settings))
        self.held_out = Judged(model, distance, embed, held_out, settings.size)

    def learners(self) -> list[Learner]:
        return [self.encoder]

    def step(self, step: Step) -> dict[str, Tensor]:
        settings, generator = self.settings, self.model.generator
        drawn_NLD = draw_codes(generator, step.batch, step.draws, CodeSettings(), self.directions_KD)[step.mine]
        with torch.no_grad():
            drawn = generator(generator.styles(drawn_NLD), size=settings.size)
            drawn = F.interpolate(drawn, size=step.images.shape[-1], mode="bilinear", align_corners=False)
        whole = step.index * step.batch >= settings.drawn_images
        poor = degraded(step.images, step.draws)
        total, losses = self.learn(step.images, poor, drawn_NLD, degraded(drawn, step.draws), whole)
        self.encoder.step(total)
        return {name: value.detach() for name, value in losses.items()}

    def measures(self) -> dict[str, float]:
        return self.held_out.measures(residual=False)

    def pictures(self) -> np.ndarray | None:
        return self.held_out.pictures({})


class Judged:
    """Faces that are never trained on: what a model makes of them, in figures and pictures."""

    def __init__(self, model: LightStyleRes, distance: Distance, embed: Embedder | None, crops: np.ndarray | None, size: int):
        self.model, self.distance, self.embed, self.crops, self.size = model, distance, embed, crops, size

    def of_code(self, wplus_NLD: Tensor) -> Tensor:
        """Return the pictures of W+ alone, at the size of the comparison."""
        generator = self.model.generator
        size = self.size if self.size in generator.config.sizes else None
        return pooled(generator(generator.styles(wplus_NLD), size=size), self.size)

    def of_residual(self, wplus_NLD: Tensor, detail: Tensor | None, unedited_NLD: Tensor | None = None) -> Tensor:
        """Return the pictures of W+ and F_a, by the full path."""
        made = self.model.generate(wplus_NLD, detail, unedited_NLD=unedited_NLD, size=half_of(self.model))
        return pooled(made, self.size)

    @torch.no_grad()
    def measures(self, *, residual: bool) -> dict[str, float]:
        """Means over the faces: square, perceptual distance, cosine of identities."""
        if self.crops is None:
            return {}
        sums: dict[str, float] = {}
        for first in range(0, len(self.crops), 8):
            images = images_from_crops(self.crops[first : first + 8])
            targets = pooled(images, self.size)
            found = self.model.invert(images) if residual else None
            code = self.model.code(images) if found is None else found.wplus_NLD
            made = self.of_code(code) if found is None else self.of_residual(code, found.detail)
            values = {"square": (made - targets).square().mean(dim=(1, 2, 3)), "perceptual": self.distance(made, targets)}
            if self.embed is not None:
                values["identity"] = 1 - identity_loss(self.embed, made, targets)
            for name, value in values.items():
                sums[f"held_out_{name}"] = sums.get(f"held_out_{name}", 0.0) + float(value.sum())
        return {name: value / len(self.crops) for name, value in sums.items()}

    @torch.no_grad()
    def pictures(self, edits: dict[str, Tensor]) -> np.ndarray | None:
        """Columns of faces: source, W+ alone, and with E1 and E2 trained the inversion and each edit."""
        if self.crops is None:
            return None
        images = images_from_crops(self.crops[:8])
        model = self.model
        code = model.code(images)
        rows = [pooled(images, self.size), self.of_code(code)]
        if edits:
            found = model.invert(images)
            rows += [
                self.of_residual(code + step, found.detail, unedited_NLD=code) for step in (torch.zeros(1), *edits.values())
            ]
        return np.concatenate([np.concatenate(list(crops_from_images(row)), axis=1) for row in rows])


def half_of(model: LightStyleRes) -> int:
    """`MobileConfig.half` of a model's generator: photographs and drawn faces go through it where nobody needs the whole."""
    assert isinstance(model.generator, Mobile), "half of a picture is exact with this architecture alone"
    return model.generator.config.half


def start_light_encoder(encoder: LightEncoder) -> None:
    """Initialise a new encoder: its codes are near the mean one."""
    nn.init.normal_(encoder.rows.weight, std=0.01)
    nn.init.zeros_(encoder.rows.bias)


def sharpness(pictures: Tensor) -> Tensor:
    """Local gradient energy of luminance, its square root [N, 1, h, w]: how much fine structure there is, whatever it is."""
    grey = pictures.mean(dim=1, keepdim=True)
    across, down = grey.diff(dim=3)[:, :, :-1], grey.diff(dim=2)[:, :, :, :-1]
    return (F.avg_pool2d(across.square() + down.square(), 8, 4) + 1e-5).sqrt()


class LightResidualStep(nn.Module):
    """E1 and E2 as one module whose forward is a whole loss."""

    def __init__(self, model: LightStyleRes, distance: Distance, embed: Embedder | None, settings: LightResidualSettings):
        super().__init__()
        self.extraction, self.transform = model.extraction, model.transform
        generator = model.generator
        assert isinstance(generator, Mobile), "windows of features are this architecture's"
        self.model, self.generator, self.distance, self.embed = [model], [generator], [distance], [embed]
        self.settings = settings

    def forward(self, images: Tensor, pair: Pair, window: Window) -> tuple[Tensor, dict[str, Tensor]]:
        settings = self.settings
        with torch.set_grad_enabled(settings.photograph_weight > 0):
            made, targets = self.photographs(images, window)
        losses = self.compared(made, targets, window) if settings.photograph_weight > 0 else {}
        with_edit, truth = self.drawn(pair, window)
        losses |= {f"pair_{name}": value for name, value in self.compared(with_edit, truth, window).items()}
        if settings.follow_weight > 0 and window == face_window(self.model[0].config.residual.resolution, window.side):
            losses |= self.edited_photographs(images, made.detach(), pair, truth, window)
        total = torch.stack([self.weight_of(name) * value for name, value in losses.items()]).sum()
        return total, losses

    def weight_of(self, name: str) -> float:
        settings = self.settings
        if name in ("follow", "keep"):
            return settings.follow_weight if name == "follow" else settings.keep_weight
        share = 1.0 if name.startswith("pair_") else settings.photograph_weight
        return share * loss_weights(settings)[name.removeprefix("pair_")]

    def photographs(self, images: Tensor, window: Window) -> tuple[Tensor, Tensor]:
        """=> (what E1 and E2 make of a window without an edit, the window itself)."""
        model, generator = self.model[0], self.generator[0]
        with torch.no_grad():
            styles = generator.styles(model.code(images))
            features = cut(generator.features(styles, model.config.place), window)
        return self.made(images, features, features, styles, window), self.part(images, window)

    def drawn(self, pair: Pair, window: Window) -> tuple[Tensor, Tensor]:
        """=> (what E1 and E2 make of a window of a drawn face with an edit, the known truth)."""
        model, generator = self.model[0], self.generator[0]
        place = model.config.place
        with torch.no_grad():
            code = pair.as_wrong(model.code(pair.pictures), model.latent_avg)
            features = cut(generator.features(generator.styles(code), place), window)
            styles = generator.styles(code + pair.step_NLD)
            edited = cut(generator.features(styles, place), window)
            true_styles = generator.styles(pair.wplus_NLD + pair.step_NLD)
            true = cut(generator.features(true_styles, place), window)
            truth = self.reduced(generator.onward(true, true_styles, place, size=generator.config.half, window=window), window)
        return self.made(pair.pictures, features, edited, styles, window), truth

    def edited_photographs(
        self, images: Tensor, unedited: Tensor, pair: Pair, truth: Tensor, window: Window
    ) -> dict[str, Tensor]:
        """Losses of edited photographs: what E0 sees of the pairs' edits in them, and what the identity network does.

        unedited: what E1 and E2 make of the window without an edit; its error, q, is added as `LightStyleRes.generate` adds it.
        """
        model, generator, embed = self.model[0], self.generator[0], self.embed[0]
        place, step_NLD = model.config.place, pair.step_NLD
        seen = images
        images, drawn = (pooled(one, self.settings.size) for one in (images, pair.pictures))
        at = window.at(self.settings.size // model.config.residual.resolution)
        with torch.no_grad():
            code = model.code(images)
            before = cut(generator.features(generator.styles(code), place), window)
            styles = generator.styles(code + step_NLD)
            edited = cut(generator.features(styles, place), window)
            rest = at.of(images) - unedited
            wanted = seen_of(model.code(within(drawn, truth, at)) - model.code(drawn), step_NLD)
        shown = self.made(seen, before, edited, styles, window) + rest
        found = seen_of(model.code(within(images, shown, at)) - code, step_NLD)
        follow = (1 - found / wanted.clamp(min=LEAST_SEEN)).clamp(min=0).square() * (wanted > LEAST_SEEN)
        losses = {"follow": follow.mean()}
        if embed is not None and self.settings.keep_weight > 0:
            with torch.no_grad():
                source, plain, kept = (embed(face(one)) for one in (at.of(images), at.of(drawn), truth))
            lost = 1 - F.cosine_similarity(embed(face(shown)), source, dim=1)
            losses["keep"] = (lost - (1 - F.cosine_similarity(kept, plain, dim=1))).clamp(min=0).mean()
        return losses

    def made(self, images: Tensor, features: Tensor, edited: Tensor, styles: list[Tensor], window: Window) -> Tensor:
        """The picture of a window, at the settings' size; everything behind E0 sees the window alone."""
        model, generator = self.model[0], self.generator[0]
        seen = window.at(model.config.cell).of(images)
        x = model.with_residual(edited, features, model.residual(seen, features)).features
        return self.reduced(generator.onward(x, styles, model.config.place, size=generator.config.half, window=window), window)

    def compared(self, made: Tensor, targets: Tensor, window: Window) -> dict[str, Tensor]:
        resolution, settings = self.model[0].config.residual.resolution, self.settings
        embed = self.embed[0] if settings.identity_weight > 0 else None
        return compared(made, targets, window, resolution, settings.margin, self.distance[0], embed)

    def reduced(self, picture: Tensor, window: Window) -> Tensor:
        """A window's picture of any size, averaged to the settings' size."""
        return pooled(picture, window.side * self.settings.size // self.model[0].config.residual.resolution)

    def part(self, images: Tensor, window: Window) -> Tensor:
        images = pooled(images, self.settings.size)
        return window.at(self.settings.size // self.model[0].config.residual.resolution).of(images)


def loss_weights(settings: PairSettings) -> dict[str, float]:
    """Return the weights of the losses that `compared` gives."""
    return {
        "pixel": settings.pixel_weight,
        "magnitude": settings.magnitude_weight,
        "perceptual": settings.perceptual_weight,
        "identity": settings.identity_weight,
        "sharpness": settings.sharpness_weight,
    }


def compared(
    made: Tensor,
    targets: Tensor,
    window: Window,
    resolution: int,
    margin: int,
    distance: Distance,
    embed: Embedder | None,
    weight: Tensor | None = None,
) -> dict[str, Tensor]:
    """Losses over what counts of a window of a grid: all but a margin of cells at borders that are none of the picture's.

    weight [N, 1, cells, cells]: of the cells, in the losses that go pixel by pixel.

    The identity's is there for the window of the face alone, if at all.
    """
    scale = made.shape[-1] // window.side
    before = [margin * scale if first > 0 else 0 for first in (window.top, window.left)]
    after = [margin * scale if first + window.side < resolution else 0 for first in (window.top, window.left)]
    length = window.side * scale
    inner = (..., slice(before[0], length - after[0]), slice(before[1], length - after[1]))
    a, b = made[inner], targets[inner]
    over = 1.0 if weight is None else F.interpolate(weight.float(), scale_factor=scale, mode="nearest")[inner]
    losses = {
        "pixel": (over * (a - b).square()).mean(),
        "magnitude": (over * (a - b).abs()).mean(),
        "perceptual": distance(a, b).mean(),
        "sharpness": (sharpness(a) - sharpness(b)).abs().mean(),
    }
    if embed is not None and window == face_window(resolution, window.side):
        with torch.no_grad():
            reference = embed(face(b))
        losses["identity"] = (1 - F.cosine_similarity(embed(face(a)), reference, dim=1)).mean()
    return losses


LEAST_SEEN = 0.1
"""An edit of which E0 sees less in its drawn face asks nothing of a photograph."""


def seen_of(moved_NLD: Tensor, step_NLD: Tensor) -> Tensor:
    """How much of a step is in a change of codes, [N]: 1 is all."""
    return (moved_NLD * step_NLD).sum(dim=(1, 2)) / step_NLD.square().sum(dim=(1, 2)).clamp(min=1e-6)


def within(pictures: Tensor, part: Tensor, window: Window) -> Tensor:
    """Pictures with another content in a window; all in pixels."""
    whole = pictures.clone()
    window.of(whole).copy_(part)
    return whole


def face(part: Tensor) -> Tensor:
    """The face's window at the side that identity networks see."""
    return F.interpolate(part, size=(112, 112), mode="bilinear", align_corners=False, antialias=True)


def face_window(resolution: int, side: int) -> Window:
    """The window in the middle of the face of an FFHQ crop, whose eyes lie at 0.46 and mouth at 0.72 of its height."""
    return Window(round(0.57 * resolution) - side // 2, resolution // 2 - side // 2, side)


def cut(features: Tensor, window: Window) -> Tensor:
    return window.of(features).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, eq=False)
class Pair:
    """Drawn faces and edits of them."""

    pictures: Tensor
    """Pictures of the faces without the edit, at the size of the model's input."""
    wplus_NLD: Tensor
    step_NLD: Tensor
    towards_mean_N11: Tensor
    noise_NLD: Tensor

    def as_wrong(self, found_NLD: Tensor, mean_LD: Tensor) -> Tensor:
        """The code that E0 found for a drawn face, which it knows too well, made as wrong as that of a photograph."""
        return found_NLD + self.towards_mean_N11 * (mean_LD - found_NLD) + self.noise_NLD

    def part(self, rows: slice) -> Pair:
        return Pair(
            self.pictures[rows], self.wplus_NLD[rows], self.step_NLD[rows], self.towards_mean_N11[rows], self.noise_NLD[rows]
        )


class FacePool:
    """Drawn faces, of which one is replaced every few steps: a full picture costs as much as all else in a step."""

    def __init__(self, model: LightStyleRes, directions_KD: Tensor | None, settings: PairSettings, seed: int):
        self.model, self.directions_KD, self.settings = model, directions_KD, settings
        self.rotation = Rotation(settings.pool, settings.refresh_every, seed)
        self.codes: list[Tensor] = [torch.empty(0)] * settings.pool
        self.pictures: list[Tensor] = [torch.empty(0)] * settings.pool

    def at(self, step: int) -> None:
        """Bring the pool to what it is in a step."""
        generator = self.model.generator
        for slot, draws in self.rotation.due(step):
            with torch.no_grad():
                code = draw_codes(generator, 1, draws, CodeSettings(), self.directions_KD)
                picture = generator(generator.styles(code), size=half_of(self.model))
                self.pictures[slot] = pooled(picture, self.model.config.input_size)[0].half()
            self.codes[slot] = code[0]

    def pairs(self, step: int, count: int, draws: torch.Generator) -> Pair:
        """Some of the faces with edits along directions or towards other codes, of all rows or of some."""
        self.at(step)
        settings = self.settings
        slots = torch.randint(0, settings.pool, (count,), generator=draws).tolist()
        wplus_NLD = torch.stack([self.codes[slot] for slot in slots])
        pictures = torch.stack([self.pictures[slot] for slot in slots]).float()
        rows = wplus_NLD.shape[1]
        along = 1.3 * along_directions(count, self.directions_KD, draws, 0.5, wplus_NLD.device)
        other = draw_codes(self.model.generator, count, draws, CodeSettings(mixed_share=0.0, moved_share=0.0))
        share = 0.15 + 0.35 * torch.rand(count, 1, 1, generator=draws)
        towards = share.to(wplus_NLD) * (other - wplus_NLD)
        random = torch.rand(count, 1, 1, generator=draws).to(wplus_NLD) < settings.random_share
        step_NLD = torch.where(random, towards, along.expand_as(towards))
        first = torch.randint(0, 9, (count, 1), generator=draws)
        end = first + torch.randint(2, rows, (count, 1), generator=draws)
        inside = (torch.arange(rows) >= first) & (torch.arange(rows) < end)
        some = torch.rand(count, 1, generator=draws) < settings.rows_share
        step_NLD = step_NLD * (inside | ~some)[:, :, None].to(step_NLD)
        toward_mean = settings.wrong * torch.rand(count, 1, 1, generator=draws)
        another = draw_codes(self.model.generator, count, draws, CodeSettings(mixed_share=0.0, moved_share=0.0))
        away = settings.wrong_person * torch.rand(count, 1, 1, generator=draws).to(wplus_NLD) * (another - wplus_NLD)
        noise = 0.15 * torch.rand(count, 1, 1, generator=draws) * torch.randn(wplus_NLD.shape, generator=draws)
        return Pair(pictures, wplus_NLD, step_NLD, toward_mean.to(step_NLD), noise.to(step_NLD) + away)


class PictureParts(nn.Module):
    """Modules that the training of q changes, under the names of its checkpoint; they are the model's own."""

    def __init__(self, model: LightStyleRes):
        super().__init__()
        self.correction = only(model.correction, "generate")
        self.basis = nn.Buffer(model.basis)


def residual_parts(model: LightStyleRes) -> nn.ModuleDict:
    """Modules that this trains, under the names of its checkpoint."""
    assert model.extraction is not None
    return nn.ModuleDict({"extraction": model.extraction, "transform": model.transform})


class PairTask(Task):
    """Parts of a light StyleRes that learn from drawn pairs. Abstract."""

    def __init__(
        self,
        model: LightStyleRes,
        distance: Distance,
        settings: PairSettings,
        parts: nn.Module,
        learn: nn.Module,
        *,
        learner: str,
        size: int,
        embed: Embedder | None,
        directions_KD: Tensor | None,
        clip_norm: float,
        worker: Worker,
        held_out: np.ndarray | None,
        seed: int,
    ):
        """parts: what learns, under the name `learner` in checkpoints. learn: its loss. size: of the pictures that are judged.

        directions_KD: steps of a typical strength each; shown, the first three of them, in pictures.
        """
        self.model, self.directions_KD = model, directions_KD
        model.requires_grad_(False).eval()
        parts.requires_grad_(True)
        optimizer = torch.optim.Adam(parts.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
        self.parts = Learner(learner, parts, optimizer, torch.float32, clip_norm=clip_norm)
        self.learn = worker.wrap(learn)
        self.pool = FacePool(model, directions_KD, settings, seed)
        self.held_out = Judged(model, distance, embed, held_out, size)

    def learners(self) -> list[Learner]:
        return [self.parts]

    def measures(self) -> dict[str, float]:
        return self.held_out.measures(residual=True)

    def pictures(self) -> np.ndarray | None:
        edits = {} if self.directions_KD is None else {str(k): step for k, step in enumerate(self.directions_KD[:3])}
        return self.held_out.pictures(edits or {"none": torch.zeros(1)})


def window_of(step: Step, settings: PairSettings, resolution: int) -> Window:
    """The face's in every other step, any in those between."""
    top, left = torch.randint(0, resolution - settings.side + 1, (2,), generator=step.draws).tolist()
    return face_window(resolution, settings.side) if step.index % 2 == 0 else Window(top, left, settings.side)


@final
class LightResidualTask(PairTask):
    """E1 and E2 of a light StyleRes. See `ops.training.trainer`."""

    name = "residual"

    def __init__(
        self,
        model: LightStyleRes,
        distance: Distance,
        settings: LightResidualSettings,
        *,
        embed: Embedder | None = None,
        directions_KD: Tensor | None = None,
        clip_norm: float = 1.0,
        worker: Worker | None = None,
        held_out: np.ndarray | None = None,
        seed: int = 0,
    ):
        """directions_KD: as `PairTask` takes them."""
        self.settings = settings
        super().__init__(
            model,
            distance,
            settings,
            residual_parts(model),
            LightResidualStep(model, distance, embed, settings),
            learner="parts",
            size=settings.size,
            embed=embed,
            directions_KD=directions_KD,
            clip_norm=clip_norm,
            worker=worker or Worker(),
            held_out=held_out,
            seed=seed,
        )

    def step(self, step: Step) -> dict[str, Tensor]:
        settings, resolution = self.settings, self.model.config.residual.resolution
        pair = self.pool.pairs(step.index, step.batch, step.draws).part(step.mine)
        poor = torch.rand(len(step.images), 1, 1, 1, generator=step.draws) < settings.poor_share
        images = torch.where(poor.to(step.images.device), degraded(step.images, step.draws), step.images)
        total, losses = self.learn(images, pair, window_of(step, settings, resolution))
        self.parts.step(total)
        return {name: value.detach() for name, value in losses.items()}


class LightPictureStep(nn.Module):
    """The training of what remains of q after an edit, as one module whose forward is a whole loss."""

    def __init__(self, model: LightStyleRes, distance: Distance, embed: Embedder | None, settings: LightPictureSettings):
        super().__init__()
        self.correction = only(model.correction, "generate")
        generator = model.generator
        assert isinstance(generator, Mobile), "windows of features are this architecture's"
        self.model, self.generator, self.distance, self.embed = [model], [generator], [distance], [embed]
        self.settings = settings

    def forward(self, pair: Pair, looks: Looks, window: Window, size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """size: that the generator draws at, one of its own."""
        model, config, settings = self.model[0], self.model[0].config, self.settings
        with torch.no_grad():
            rest, transformed, picture, truth = self.known(pair, looks, window, size)
        made = model.corrected(picture, rest, transformed)
        embed = self.embed[0] if settings.identity_weight > 0 else None
        weight = 1 + (settings.changed_weight - 1) * changed_share(transformed.change)
        losses = compared(made, truth, window, config.residual.resolution, settings.margin, self.distance[0], embed, weight)
        weights = loss_weights(settings)
        return torch.stack([weights[name] * value for name, value in losses.items()]).sum(), losses

    def known(self, pair: Pair, looks: Looks, window: Window, size: int) -> tuple[Tensor, Transformed, Tensor, Tensor]:
        """=> (q, what E2 gives at the place, the edited picture without dx, the truth), of a window."""
        model, generator = self.model[0], self.generator[0]
        place, cell = model.config.place, model.config.cell
        pictures = looks.of(pair.pictures)
        seen = window.at(cell).of(pictures)

        def picture(x: Tensor, styles: list[Tensor], size: int) -> Tensor:
            return pooled(generator.onward(x, styles, place, size=size, window=window), window.side * cell)

        code = pair.as_wrong(model.code(pictures), model.latent_avg)
        styles = generator.styles(code)
        features = cut(generator.features(styles, place), window)
        residual = model.residual(seen, features)
        rest = model.rest(seen, picture(model.with_residual(features, features, residual).features, styles, size))
        styles = generator.styles(code + pair.step_NLD)
        transformed = model.with_residual(cut(generator.features(styles, place), window), features, residual)
        edited = picture(transformed.features, styles, size)
        styles = generator.styles(pair.wplus_NLD + pair.step_NLD)
        truth = picture(cut(generator.features(styles, place), window), styles, generator.config.half)
        return rest, transformed, edited, looks.of(truth, window.at(cell).of)


@final
class LightPictureTask(PairTask):
    """Trains what remains of q after an edit. See `ops.training.trainer`; it learns from drawn faces, and shows photographs."""

    name = "picture"

    def __init__(
        self,
        model: LightStyleRes,
        distance: Distance,
        settings: LightPictureSettings,
        *,
        embed: Embedder | None = None,
        directions_KD: Tensor | None = None,
        clip_norm: float = 1.0,
        worker: Worker | None = None,
        held_out: np.ndarray | None = None,
        seed: int = 0,
    ):
        """directions_KD: as `PairTask` takes them. The model has the basis of q already (`find_basis`)."""
        self.settings = settings
        super().__init__(
            model,
            distance,
            settings,
            PictureParts(model),
            LightPictureStep(model, distance, embed, settings),
            learner="picture",
            size=model.config.input_size,
            embed=embed,
            directions_KD=directions_KD,
            clip_norm=clip_norm,
            worker=worker or Worker(),
            held_out=held_out,
            seed=seed,
        )

    def step(self, step: Step) -> dict[str, Tensor]:
        settings, config = self.settings, self.model.config
        pair = self.pool.pairs(step.index, step.batch, step.draws).part(step.mine)
        window = window_of(step, settings, config.residual.resolution)
        small = float(torch.rand((), generator=step.draws)) < settings.small_share
        looks = draw_looks(step.batch, config.input_size, settings.looks, step.draws).part(step.mine)
        total, losses = self.learn(pair, looks, window, config.drawn_size if small else half_of(self.model))
        self.parts.step(total)
        losses.setdefault("identity", torch.zeros(()))
        return {name: value.detach() for name, value in losses.items()}


@torch.no_grad()
def find_basis(model: LightStyleRes, crops: np.ndarray) -> Tensor:
    """The directions in which errors of inverted photographs, uint8 [N, S, S, 3], vary most in a cell => [K, pixels of a cell],
    the first most."""
    cell, config = model.config.cell, model.config
    total = torch.zeros(3 * cell**2, 3 * cell**2, dtype=torch.float64)
    for first in range(0, len(crops), 4):
        images = images_from_crops(crops[first : first + 4])

        def unedited(features: Tensor, images: Tensor = images) -> Tensor:
            return model.with_residual(features, features, model.residual(images, features)).features

        picture = model.drawn(model.generator.styles(model.code(images)), unedited, config.drawn_size)
        error = cells(images - pooled(picture, images.shape[-1]), cell).transpose(0, 1).flatten(1).double()
        total += error @ error.t()
    directions = torch.linalg.eigh(total).eigenvectors.flip(1)
    return directions[:, : config.residual.picture_channels].t().float().contiguous()


@torch.no_grad()
def keep_channels(weights: Mapping[str, Tensor], count: int, model: LightStyleRes, crops: np.ndarray) -> dict[str, Tensor]:
    """E1 and E2 of more channels of F_a, with the `count` mixtures of them by which E2 sees most of photographs.

    The channels' second moments on photographs are C = L L^T; the singular vectors of (E2's first filter) L say which.
    weights: as `residual_parts` names them. model: E0 and the generator.
    """
    last, first = weights["extraction.last.weight"], weights["transform.of_residual.weight"]
    config = replace(model.config.residual, residual_channels=len(last))
    extraction = LightExtraction(config, model.config.input_size)
    prefix = "extraction."
    extraction.load_state_dict({name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)})
    moments = 1e-6 * torch.eye(len(last), dtype=torch.float64)
    for start in range(0, len(crops), 4):
        images = images_from_crops(crops[start : start + 4])
        features = model.features(model.generator.styles(model.code(images)))
        found = extraction(images, features).transpose(0, 1).flatten(1).double()
        moments += found @ found.t() / found.shape[1]
    lower = torch.linalg.cholesky(moments)
    kept = torch.linalg.svd(first.permute(0, 2, 3, 1).flatten(0, 2).double() @ lower, full_matrices=False)[2][:count]
    to_kept = (kept @ torch.linalg.inv(lower)).float()
    from_kept = (lower @ kept.t()).float()
    changed = dict(weights)
    changed["extraction.last.weight"] = torch.einsum("kc,cixy->kixy", to_kept, last)
    changed["extraction.last.bias"] = to_kept @ weights["extraction.last.bias"]
    changed["transform.of_residual.weight"] = torch.einsum("oixy,ik->okxy", first, from_kept)
    return changed
