"""Changes forms, contrasts and colours of generated pictures at random, as photographs have them and a generator does not.

The same change is applied to a drawn face and to its known edit, so that the truth stays known. Without it the part of a drawn
face that W+ and F_a do not encode is smaller than that of a photograph, and has hardly any colour: a network that learns from
it what to remove after an edit removes too little of a photograph's.

Legend: N batch, S side of a whole picture, s side of a window of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BEND_GRID = 14
"""Points a side of the grid at which a shift is drawn; it is smooth between them."""


@dataclass(frozen=True)
class Looks:
    """Looks of one batch, one for each picture."""

    shift_N2SS: Tensor
    """Shifts (x, y) in pixels."""
    sharper_N111: Tensor
    """Share of the difference from a blurred picture that is added."""
    gain_N311: Tensor
    offset_N311: Tensor

    def of(self, pictures: Tensor, shift_at: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
        """Apply the looks to pictures [N, 3, s, s] in [-1, 1] => of the same size.

        shift_at: cuts the window's part out of an array as large as the whole picture.
        A window is bent within itself, so its border is exact only where the shift takes no pixel from outside it.
        """
        side = pictures.shape[-1]
        shift_N2ss = shift_at(self.shift_N2SS).to(pictures)
        at = (torch.arange(side, device=pictures.device, dtype=pictures.dtype) + 0.5) * (2 / side) - 1
        y, x = torch.meshgrid(at, at, indexing="ij")
        where = torch.stack([x, y], dim=-1) + shift_N2ss.permute(0, 2, 3, 1) * (2 / side)
        bent = F.grid_sample(pictures, where, mode="bicubic", padding_mode="reflection", align_corners=False)
        soft = F.avg_pool2d(F.pad(bent, (1, 1, 1, 1), mode="replicate"), 3, 1)
        sharp = bent + self.sharper_N111.to(bent) * (bent - soft)
        return (sharp * self.gain_N311.to(bent) + self.offset_N311.to(bent)).clamp(-1, 1)

    def part(self, rows: slice) -> Looks:
        return Looks(self.shift_N2SS[rows], self.sharper_N111[rows], self.gain_N311[rows], self.offset_N311[rows])


def draw_looks(count: int, side: int, strength: float, draws: torch.Generator) -> Looks:
    """Draw the looks of `count` pictures at random.

    strength: 1 shifts by 2.5 pixels in 256 (a standard deviation), sharpens by up to 1.2 and recolours by up to a fifth; 0
    does nothing. A third of the pictures stays as drawn.
    """
    touched = strength * (torch.rand(count, 1, 1, 1, generator=draws) < 2 / 3)
    shift = F.interpolate(torch.randn(count, 2, BEND_GRID, BEND_GRID, generator=draws), size=(side, side), mode="bicubic")
    amount = torch.rand(count, 1, 1, 1, generator=draws)
    return Looks(
        touched * amount * (5.0 * side / 256) * shift,
        1.2 * touched * torch.rand(count, 1, 1, 1, generator=draws),
        1 + 0.2 * touched * (2 * torch.rand(count, 3, 1, 1, generator=draws) - 1),
        0.1 * touched * (2 * torch.rand(count, 3, 1, 1, generator=draws) - 1),
    )
