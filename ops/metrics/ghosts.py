"""Ghosts: what stays of the unedited picture where an edit changed it.

Legend: N faces; images [N, 3, R, R] in [-1, 1].

    x      the source                     g_0, g_e   what the code alone makes, before and after the edit
    x_e    the edited result              H(u)       u - its local mean over cells of R / 16 pixels (the fine content)
    d      H(x - g_0)                     what the code misses of the source: the detail that a residual brings back
    d_e    H(x_e - g_e)                   what the result has beyond the edited code
    c      |P(g_e - g_0)|^2               where the edit changed the coarse picture (P: mean over those cells)

    share(A) = sum over A of d_e . d / sum over A of |d|^2        a regression slope over all pixels of A and all faces

    ghost  = share(the tenth of each picture where c is largest)  0: nothing of the old picture is left where the edit is
    kept   = share(the half where c is smallest)                  1: all of it is where the edit is not

A result that pastes the unedited residual onto the edited code has 1 and 1, so has one that paints the source over the edit;
one that drops all detail, such as W+ alone, has 0 and 0. Good is a ghost well below `kept`. The measure is ours: StyleRes
(CVPR 2023, section 4) shows ghosts in pictures and has no number for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 16
CHANGED, UNCHANGED = 0.1, 0.5
"""Shares of a picture: where an edit counts as present, where as absent."""


@dataclass
class GhostSums:
    """Numerators and denominators over the faces so far."""

    changed: tuple[float, float] = (0.0, 0.0)
    unchanged: tuple[float, float] = (0.0, 0.0)
    count: int = 0

    @property
    def ghost(self) -> float | None:
        """None before there is a face whose code misses anything."""
        return self.changed[0] / self.changed[1] if self.changed[1] > 0 else None

    @property
    def kept(self) -> float | None:
        return self.unchanged[0] / self.unchanged[1] if self.unchanged[1] > 0 else None

    def add(self, source: Tensor, edited: Tensor, code_before: Tensor, code_after: Tensor) -> None:
        """x, x_e, g_0 and g_e of some faces."""
        if not len(source):
            return
        missed, beyond = fine(source - code_before), fine(edited - code_after)
        overlap, energy = (beyond * missed).sum(dim=1), missed.square().sum(dim=1)
        change = coarse(code_after - code_before).square().sum(dim=1)
        share = change.flatten(1).argsort(dim=1).argsort(dim=1).reshape(change.shape) / change[0].numel()
        self.changed = _plus(self.changed, overlap, energy, share >= 1 - CHANGED)
        self.unchanged = _plus(self.unchanged, overlap, energy, share < UNCHANGED)
        self.count += len(source)


def coarse(images: Tensor) -> Tensor:
    """Means over the cells, spread over them again bilinearly."""
    return F.interpolate(F.adaptive_avg_pool2d(images, CELLS), size=images.shape[-1], mode="bilinear", align_corners=False)


def fine(images: Tensor) -> Tensor:
    return images - coarse(images)


def _plus(sums: tuple[float, float], overlap: Tensor, energy: Tensor, where: Tensor) -> tuple[float, float]:
    zero = torch.zeros((), device=overlap.device)
    return (
        sums[0] + float(torch.where(where, overlap, zero).double().sum()),
        sums[1] + float(torch.where(where, energy, zero).double().sum()),
    )
