"""Training of a tail of MobileStyleGAN: features of a lower layer => the full picture averaged down, at a fraction of its cost.

Pairs are made once and used many times: a pool of features and pictures, of which one is replaced every few steps.

A tail must do for inverted photographs too, whose features a residual has taken to where no code leads. So a part of the pairs
are photographs, inverted and edited by a model that is trained already, if there is one (`Inverted`).

Legend: N batch, C channels, R side of the features and of the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from ops.generators.mobile import Mobile, SeparableConv, Tail, TailConfig, ToImage, Window
from ops.inversion.inverter import pooled
from ops.inversion.light import LightStyleRes
from ops.spaces import crops_from_images, images_from_crops
from ops.training.distributed import Worker
from ops.training.synthetic import CodeSettings, Rotation, along_directions, draw_codes
from ops.training.trainer import Learner, Step, Task

TAILS = {128: TailConfig(128, (128,) * 3, (15, 11, 12, 13, 15)), 256: TailConfig(256, (64,) * 2, (15, 13, 14, 15))}
"""Tails of the published FFHQ-1024 network, with the rows of the layers that they stand for."""
HELD_OUT = 16
"""Pictures that are measured on, never trained on."""


@dataclass(frozen=True)
class TailSettings:
    learning_rate: float = 2e-3
    square_weight: float = 4.0
    """On the mean square; the mean magnitude has weight 1."""
    pool: int = 192
    """Pairs held at a time, in float16; 17 MB each at 256 px."""
    refresh_every: int = 6
    """Steps from one new pair to the next."""
    window: int = 64
    """Cells a side of the part of the features that a step sees."""
    margin: int = 4
    """Cells at a window's border that do not count: convolutions find zeros beyond it."""
    photograph_share: float = 0.4
    """Share of pairs that come from photographs, if there are any; the others come from drawn codes."""


@dataclass(frozen=True, eq=False)
class Inverted:
    """Photographs as a trained model inverts them."""

    model: LightStyleRes
    faces: np.ndarray
    """uint8 [N, S, S, 3]."""
    directions_KD: Tensor | None

    @torch.no_grad()
    def draw(self, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """One photograph, maybe edited => (features with the residual at the model's place [1, C, R, R], W+ [1, L, D])."""
        model = self.model
        face = self.faces[int(torch.randint(0, len(self.faces), (), generator=draws))]
        images = images_from_crops(face[None])
        found = model.code(images)
        code = found + along_directions(1, self.directions_KD, draws, 0.4, found.device)
        before, edited = (model.features(model.generator.styles(one)) for one in (found, code))
        residual = model.residual(images, before)
        return model.with_residual(edited, before, residual).features, code


class PairPool:
    """Features and pictures of drawn codes, and of photographs."""

    def __init__(
        self, generator: Mobile, tail: TailConfig, settings: TailSettings, seed: int, inverted: Inverted | None = None
    ):
        self.generator, self.tail, self.inverted = generator, tail, inverted
        self.photograph_share = settings.photograph_share
        self.place = f"layers.{generator.config.layer_of(tail)}.conv2"
        self.rotation = Rotation(settings.pool, settings.refresh_every, seed)
        self.features: list[Tensor] = [torch.empty(0)] * settings.pool
        self.pictures: list[Tensor] = [torch.empty(0)] * settings.pool
        self.rows: list[Tensor] = [torch.empty(0)] * settings.pool

    def at(self, step: int) -> None:
        """Bring the pool to what it is in a step."""
        for slot, draws in self.rotation.due(step):
            self._fill(slot, draws)

    def _fill(self, slot: int, draws: torch.Generator) -> None:
        if self.inverted is not None and float(torch.rand((), generator=draws)) < self.photograph_share:
            x, wplus_NLD = self.inverted.draw(draws)
            features, picture = pair_of(
                self.generator, x, self.inverted.model.config.place, wplus_NLD, self.place, self.tail.size
            )
        else:
            wplus_NLD = draw_codes(self.generator, 1, draws, CodeSettings(truncation=(0.3, 1.1)))
            features, picture = pair(self.generator, wplus_NLD, self.place, self.tail.size)
        self.features[slot], self.pictures[slot], self.rows[slot] = features.half()[0], picture.half()[0], wplus_NLD[0]

    def part(self, slots: list[int], window: Window) -> tuple[Tensor, Tensor, Tensor]:
        """=> (features, W+, pictures) in float32, of a window."""
        features = torch.stack([window.of(self.features[slot]) for slot in slots]).float()
        pictures = torch.stack([window.of(self.pictures[slot]) for slot in slots]).float()
        features = features.contiguous(memory_format=torch.channels_last)
        return features, torch.stack([self.rows[slot] for slot in slots]), pictures


@torch.no_grad()
def pair(generator: Mobile, wplus_NLD: Tensor, place: str, size: int) -> tuple[Tensor, Tensor]:
    """=> (features [N, C, R, R] at a place, the full picture averaged to `size` px)."""
    styles = generator.styles(wplus_NLD)
    features = generator.features(styles, place)
    return features, averaged(generator, features, styles, place, size)


@torch.no_grad()
def pair_of(generator: Mobile, x: Tensor, below: str, wplus_NLD: Tensor, place: str, size: int) -> tuple[Tensor, Tensor]:
    """`pair` of features at an earlier place, that a residual has changed."""
    styles = generator.styles(wplus_NLD)
    features = generator.upward(x, styles, below, place)
    return features, averaged(generator, features, styles, place, size)


def averaged(generator: Mobile, features: Tensor, styles: list[Tensor], place: str, size: int) -> Tensor:
    """The full picture averaged to `size` px, by way of its exact half."""
    return pooled(generator.onward(features, styles, place, size=generator.config.half), size)


def start_tail(tail: Tail) -> None:
    """Initialise a new tail: styles near 1, filters that pass the features through, an output of 0."""
    for module in tail.modules():
        if isinstance(module, SeparableConv | ToImage):
            nn.init.normal_(module.affine.weight, std=0.01)
            nn.init.ones_(module.affine.bias)
        if isinstance(module, SeparableConv):
            nn.init.zeros_(module.depthwise)
            module.depthwise.data[:, :, 1, 1] = 1.0
        if isinstance(module, ToImage):
            nn.init.zeros_(module.weight)


def tail_loss(pictures: Tensor, targets: Tensor, counted: Tensor, square_weight: float) -> Tensor:
    """Mean magnitude + weighted mean square of the pixels that count, [H, W] of 0 and 1."""
    error = (pictures - targets) * counted
    share = counted.mean()
    return (error.abs().mean() + square_weight * error.square().mean()) / share


@final
class TailTask(Task):
    """One tail of a frozen generator. See `ops.training.trainer`; it draws its own pictures and needs no faces."""

    def __init__(
        self,
        generator: Mobile,
        size: int,
        settings: TailSettings,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        clip_norm: float = 1.0,
        worker: Worker | None = None,
        inverted: Inverted | None = None,
        held_out: Inverted | None = None,
    ):
        """inverted: photographs to train on; held_out: to measure on."""
        self.name = f"tail{size}"
        self.generator, self.settings, self.dtype = generator.requires_grad_(False).eval(), settings, dtype
        (self.tail,) = (tail for tail in generator.config.tails if tail.size == size)
        module = generator.synthesis.tails[f"px{size}"]
        assert isinstance(module, Tail)
        module.requires_grad_(True)
        self.pool = PairPool(generator, self.tail, settings, seed, inverted)
        self.judged = held_out
        self.first = generator.order[f"tails.px{size}.linear"]
        optimizer = torch.optim.AdamW(module.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
        self.learner = Learner("tail", module, optimizer, dtype, clip_norm=clip_norm)
        self.learn = (worker or Worker()).wrap(module)
        self.held_out: tuple[Tensor, Tensor, Tensor] | None = None

    def learners(self) -> list[Learner]:
        return [self.learner]

    def styles(self, wplus_NLD: Tensor) -> list[Tensor]:
        """Styles of the tail's own modules."""
        entries = self.generator.config.style_inputs[self.first : self.first + len(self.tail.rows)]
        return [self.generator.style(entry.name, wplus_NLD[:, entry.row]) for entry in entries]

    def step(self, step: Step) -> dict[str, Tensor]:
        settings = self.settings
        self.pool.at(step.index)
        slots = torch.randint(0, settings.pool, (step.batch,), generator=step.draws)[step.mine].tolist()
        side = self.tail.size
        window_side = min(settings.window, side)
        top, left = torch.randint(0, side - window_side + 1, (2,), generator=step.draws).tolist()
        window = Window(top, left, window_side)
        features, wplus_NLD, targets = self.pool.part(slots, window)
        pictures = self.learn(features, self.styles(wplus_NLD), window)
        loss = tail_loss(pictures, targets, counted(window, side, settings.margin), settings.square_weight)
        self.learner.step(loss)
        return {"tail": loss.detach()}

    @torch.no_grad()
    def unseen(self) -> tuple[Tensor, Tensor, Tensor]:
        """=> (features, W+, pictures) of codes, and behind them of photographs, that are never trained on."""
        if self.held_out is None:
            draws = torch.Generator().manual_seed(2**31 - 1)
            wplus_NLD = draw_codes(self.generator, HELD_OUT, draws, CodeSettings(truncation=(0.5, 1.0)))
            pairs = [(*pair(self.generator, one, self.pool.place, self.tail.size), one) for one in wplus_NLD.split(1)]
            if self.judged is not None:
                below, size = self.judged.model.config.place, self.tail.size
                for _ in range(HELD_OUT):
                    x, code = self.judged.draw(draws)
                    pairs.append((*pair_of(self.generator, x, below, code, self.pool.place, size), code))
            features, pictures, codes = (torch.cat(parts) for parts in zip(*pairs, strict=True))
            self.held_out = features, codes, pictures
        return self.held_out

    @torch.no_grad()
    def measures(self) -> dict[str, float]:
        """PSNR in dB to the averaged full picture, the mean over codes, and over photographs; peak 2."""
        features, wplus_NLD, targets = self.unseen()
        tail, found = self.learner.module, []
        for x, rows, target in zip(features.split(4), wplus_NLD.split(4), targets.split(4), strict=True):
            errors = (tail(x, self.styles(rows)) - target).square().mean(dim=(1, 2, 3))
            found += [10 * math.log10(4 / error) for error in errors.tolist()]
        measures = {"psnr_db": sum(found[:HELD_OUT]) / HELD_OUT}
        if self.judged is not None:
            measures["psnr_inverted_db"] = sum(found[HELD_OUT:]) / HELD_OUT
        return measures

    @torch.no_grad()
    def pictures(self) -> np.ndarray | None:
        """Rows: averaged full pictures, the tail's."""
        features, wplus_NLD, targets = self.unseen()
        some = [*range(4), *range(HELD_OUT, min(HELD_OUT + 4, len(targets)))]
        drawn = self.learner.module(features[some], self.styles(wplus_NLD[some]))
        return np.concatenate([np.concatenate(list(crops_from_images(row)), axis=1) for row in (targets[some], drawn)])


def counted(window: Window, side: int, margin: int) -> Tensor:
    """Return the pixels of a window that count, [w, w] of 0 and 1: all but those near a border inside the picture."""
    mask = torch.ones(window.side, window.side)
    for axis, first in enumerate((window.top, window.left)):
        if first > 0:
            mask.narrow(axis, 0, margin).zero_()
        if first + window.side < side:
            mask.narrow(axis, window.side - margin, margin).zero_()
    return mask
