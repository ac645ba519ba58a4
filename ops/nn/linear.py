"""Linear layers with the same bits for any number of rows and of threads.

On a CPU the program for a matrix product is chosen by its sizes: a row of 8 gets other last bits than the same row of 16 on
some processors, and a long sum is shared among threads. Here every product has 16 rows, what is missing is filled with zeros,
and long sums are taken in parts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 16
LONGEST_SUM = 512


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [N, I], weight [O, I], bias [O] => [N, O]. With gradients, or on a GPU, it is torch's own."""
    if x.device.type != "cpu" or x.ndim != 2 or (torch.is_grad_enabled() and _learns(x, weight)):
        return F.linear(x, weight, bias)
    missing = -len(x) % ROWS
    blocks = (F.pad(x, (0, 0, 0, missing)) if missing else x).split(ROWS)
    return torch.cat([_product(block, weight, bias) for block in blocks])[: len(x)]


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    parts = zip(x.split(LONGEST_SUM, dim=1), weight.split(LONGEST_SUM, dim=1), strict=True)
    first, *rest = [F.linear(a, b) for a, b in parts]
    for part in rest:
        first = first + part
    return first if bias is None else first + bias


def _learns(x: Tensor, weight: Tensor) -> bool:
    return x.requires_grad or weight.requires_grad


class Linear(nn.Linear):
    """nn.Linear's names and numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
