"""Light, differentiable augmentation of what a discriminator sees, real and fake alike (Zhao et al., NeurIPS 2020).

A discriminator that sees a small set many times learns it by heart; one that sees it slightly changed each time does so
later. Each change is made to a sample with a probability of its own, small enough that it does not leak into what is made.

Legend: N batch, H W.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT = 1 / 8
"""Longest translation, in shares of the side."""


@dataclass(frozen=True, eq=False)
class Augmentation:
    """Changes of each sample of one batch. 0 changes nothing in the first, 1 nothing in the next two."""

    brightness_N: Tensor
    saturation_N: Tensor
    contrast_N: Tensor
    shift_N2: Tensor
    """(down, right), in shares of the side."""

    def part(self, rows: slice, device: torch.device) -> Augmentation:
        """That of some samples, on a device."""
        values = (self.brightness_N, self.saturation_N, self.contrast_N, self.shift_N2)
        return Augmentation(*(value[rows].to(device) for value in values))


def draw_augmentation(batch: int, probability: float, draws: torch.Generator) -> Augmentation:
    """Brightness +-0.5 (of a range of 2), saturation 0 to 2, contrast 0.5 to 1.5, shift up to `SHIFT`; each for itself."""

    def some(low: float, high: float, neutral: float, width: int = 1) -> Tensor:
        value = low + (high - low) * torch.rand(batch, width, generator=draws)
        chosen = torch.rand(batch, 1, generator=draws) < probability
        return torch.where(chosen, value, torch.full((), neutral))

    return Augmentation(
        some(-0.5, 0.5, 0.0)[:, 0], some(0.0, 2.0, 1.0)[:, 0], some(0.5, 1.5, 1.0)[:, 0], some(-SHIFT, SHIFT, 0.0, width=2)
    )


def augment(images: Tensor, augmentation: Augmentation) -> Tensor:
    """images [N, 3, H, W] in [-1, 1] => the same, changed; what a shift uncovers is 0, grey."""
    x = images + augmentation.brightness_N[:, None, None, None]
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * augmentation.saturation_N[:, None, None, None]
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = mean + (x - mean) * augmentation.contrast_N[:, None, None, None]
    shifted = augmentation.shift_N2.any(dim=1).nonzero()[:, 0]
    if len(shifted) == 0:
        return x
    # affine_grid maps the output's coordinates, from -1 to 1, to the input's: right is the first of them.
    theta = torch.eye(2, 3, device=x.device).repeat(len(shifted), 1, 1)
    theta[:, :, 2] = -2 * augmentation.shift_N2[shifted].flip(1)
    grid = F.affine_grid(theta, [len(shifted), *x.shape[1:]], align_corners=False)
    moved = F.grid_sample(x[shifted], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return x.index_copy(0, shifted, moved)
