"""LPIPS v0.1 on AlexNet (Zhang et al. 2018; Krizhevsky 2014): features, and the learnt weight of every channel.

Three forms of the weights are read:
    one file with both, named as in e4e's copy of LPIPS      net.layers.{0,3,6,8,10}.*   lin.{0..4}.1.weight
    torchvision's `alexnet-owt-*.pth`                        features.{0,3,6,8,10}.*     (classifier.* is never run)
      with LPIPS's heads `lpips/weights/v0.1/alex.pth`       lin{0..4}.model.1.weight
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ops.networks.weights import load_strict, read_tensors

TAPS = (1, 4, 7, 9, 11)
WIDTHS = (64, 192, 384, 256, 256)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation per channel, for pictures in [-1, 1]."""
UNUSED = ("classifier.", "net.mean", "net.std")
RENAMES = ((r"features\.(\d+)\.", r"net.layers.\1."), (r"lin(\d)\.model\.1\.", r"lin.\1.1."))


class Trunk(nn.Module):
    """pictures [N, 3, R, R] RGB in [-1, 1] => AlexNet's five maps after ReLU, each scaled to unit length over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, pictures: Tensor) -> list[Tensor]:
        x = (pictures - pictures.new_tensor(SHIFT)[:, None, None]) / pictures.new_tensor(SCALE)[:, None, None]
        found = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in TAPS:
                found.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return found


class LpipsAlex(nn.Module):
    """(pictures, references) [N, 3, R, R] RGB in [-1, 1] => distance [N] (Eq. 1): 0 for equal pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Trunk()
        # Index 0 is dropout in training.
        self.lin = nn.ModuleList(nn.Sequential(nn.Identity(), nn.Conv2d(width, 1, 1, bias=False)) for width in WIDTHS)

    def forward(self, pictures: Tensor, references: Tensor) -> Tensor:
        pairs = zip(self.lin, self.net(pictures), self.net(references), strict=True)
        per_tap = [head((a - b).square()).mean(dim=(1, 2, 3)) for head, a, b in pairs]
        return torch.stack(per_tap).sum(dim=0)


def load_lpips(path: Path, heads: Path | None = None) -> LpipsAlex:
    """One file, or AlexNet's and the heads' apart; see the module's text. Raises CheckpointError."""
    tensors = renamed(read_tensors(path))
    where = str(path)
    if heads is not None:
        tensors |= renamed(read_tensors(heads))
        where += f" with {heads}"
    elif not any(name.startswith("lin.") for name in tensors):
        where += " (LPIPS's heads are a file of their own for these weights: name it too)"
    return load_strict(LpipsAlex, tensors, where, dropped=UNUSED)


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's and LPIPS's own names => those of the one-file form."""
    result = {}
    for name, tensor in tensors.items():
        for pattern, ours in RENAMES:
            name = re.sub("^" + pattern, ours, name)
        result[name] = tensor
    return result
