"""The mapping network, which StyleGAN2 and its students share: z => W."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.nn.equalised import LRELU_GAIN, LRELU_SLOPE, FullyConnected

MAPPING_LR_MULTIPLIER = 0.01


class MappingSizes(Protocol):
    """Sizes of a generator's mapping network."""

    @property
    def z_dim(self) -> int: ...

    @property
    def w_dim(self) -> int: ...

    @property
    def mapping_layers(self) -> int: ...


class MappingNetwork(nn.Module):
    """z => W. `w_avg` is the mean of W, for truncation and as the encoder's starting point."""

    w_avg: Tensor

    def __init__(self, config: MappingSizes):
        super().__init__()
        self.num_layers = config.mapping_layers
        for i in range(config.mapping_layers):
            in_features = config.z_dim if i == 0 else config.w_dim
            layer = FullyConnected(in_features, config.w_dim, lr_multiplier=MAPPING_LR_MULTIPLIER)
            self.add_module(f"fc{i}", layer)
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def hidden(self, z: Tensor) -> Tensor:
        """Return what the last layer reads."""
        x = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for i in range(self.num_layers - 1):
            x = F.leaky_relu(self.get_submodule(f"fc{i}")(x), LRELU_SLOPE) * LRELU_GAIN
        return x

    def forward(self, z: Tensor, *, truncation: float = 1.0) -> Tensor:
        last = self.get_submodule(f"fc{self.num_layers - 1}")
        x = F.leaky_relu(last(self.hidden(z)), LRELU_SLOPE) * LRELU_GAIN
        return x if truncation == 1.0 else self.w_avg + truncation * (x - self.w_avg)
