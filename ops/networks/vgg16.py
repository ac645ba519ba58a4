"""VGG16 (Simonyan & Zisserman 2015) up to block4_conv3 and its ReLU: features of the training's perceptual loss.

The weights are Keras's, as published for genforce's training code: pictures are BGR in 0..255 less ImageNet's mean.
torchvision's VGG16 has other weights for another input and is refused by its names.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from ops.networks.weights import load_strict, read_tensors

BLOCKS: Final = ((64, 2), (128, 2), (256, 3), (512, 3))
"""(channels, convolutions) of each block; a maximum pool stands between two blocks."""
MEAN_BGR: Final = (103.939, 116.779, 123.68)


class Vgg16Block4(nn.Sequential):
    """images [N, 3, R, R] RGB in [-1, 1] => features [N, 512, R / 8, R / 8]."""

    def __init__(self) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 3
        for block, (width, count) in enumerate(BLOCKS):
            if block:
                layers[f"layer{len(layers)}"] = nn.MaxPool2d(2)
            for _ in range(count):
                layers[f"layer{len(layers)}"] = nn.Conv2d(channels, width, 3, padding=1)
                layers[f"layer{len(layers)}"] = nn.ReLU()
                channels = width
        super().__init__(layers)

    def forward(self, images: Tensor) -> Tensor:
        levels = (images.flip(1) + 1) * (255 / 2) - images.new_tensor(MEAN_BGR)[:, None, None]
        return super().forward(levels.contiguous(memory_format=torch.channels_last))


def load_vgg16(path: Path) -> Vgg16Block4:
    """Raises CheckpointError."""
    return load_strict(Vgg16Block4, read_tensors(path), str(path))
