"""Linear layers with the same bits for any number of rows.

On a CPU the program for a matrix product is chosen by its sizes: a row of 8 gets other last bits than the same row of 16 on
some processors. Here every product has 16 rows; what is missing is filled with zeros.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 16


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [N, I], weight [O, I], bias [O] => [N, O]. Where somebody differentiates, or on a GPU, torch's own."""
    if x.device.type != "cpu" or x.ndim != 2 or len(x) == ROWS or (torch.is_grad_enabled() and _learns(x, weight)):
        return F.linear(x, weight, bias)
    missing = -len(x) % ROWS
    blocks = (F.pad(x, (0, 0, 0, missing)) if missing else x).split(ROWS)
    return torch.cat([F.linear(block, weight, bias) for block in blocks])[: len(x)]


def _learns(x: Tensor, weight: Tensor) -> bool:
    return x.requires_grad or weight.requires_grad


class Linear(nn.Linear):
    """nn.Linear's names and numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
