"""Layers with an equalised learning rate (Karras et al. 2018, section 4.1), and the constants of StyleGAN2's activation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ops.nn.linear import linear

LRELU_SLOPE = 0.2
LRELU_GAIN = 2.0**0.5


def equalised_linear(x: Tensor, weight: Tensor, bias: Tensor, *, lr_multiplier: float = 1.0) -> Tensor:
    """y = x (W * lr / sqrt(fan_in))^T + b * lr (Karras et al. 2018, section 4.1)."""
    return linear(x, weight * (lr_multiplier / weight.shape[1] ** 0.5), bias * lr_multiplier)


def normal_init(*shape: int, std: float = 1.0) -> Tensor:
    """Initial weights. On the meta device, where a model waits to be filled from a file, only their shape.

    Drawing numbers there, or scaling them, makes torch import its symbolic shapes: a second at every start, for nothing.
    """
    shaped = torch.empty(shape)
    return shaped if shaped.is_meta else torch.randn(shape) * std


class FullyConnected(nn.Module):
    """Parameters of an equalised linear layer."""

    def __init__(self, in_features: int, out_features: int, *, bias_init: float = 0.0, lr_multiplier: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(normal_init(out_features, in_features, std=1.0 / lr_multiplier))
        self.bias = nn.Parameter(torch.full((out_features,), bias_init))
        self.lr_multiplier = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        return equalised_linear(x, self.weight, self.bias, lr_multiplier=self.lr_multiplier)
