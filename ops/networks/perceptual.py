"""Perceptual distances: on EfficientNet-Lite0, which needs no download, on VGG16, which the paper trains with, and LPIPS.

EfficientNet-Lite0 has its ImageNet weights in a pip package; it is frozen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.networks.lpips_alex import LpipsAlex
from ops.networks.protocol import PROTOCOL_SIZE
from ops.networks.vgg16 import Vgg16Block4
from ops.nn.lite import LiteTrunk, load_imagenet


class EfficientNetFeatures(LiteTrunk):
    """images [N, 3, R, R] in [-1, 1] => features at strides 2, 4, 8 and 16, with 16, 24, 40 and 112 channels."""

    def __init__(self) -> None:
        super().__init__(taps=(0, 2, 4, 10))
        load_imagenet(self)
        self.requires_grad_(False)


def feature_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """LPIPS's form (Zhang et al. 2018, Eq. 1) with equal weights: features scaled to unit length over channels, squared
    distance summed over channels, averaged over pixels, averaged over taps. => [N], 0 (equal) to 4."""
    distances = []
    for x, y in zip(a, b, strict=True):
        difference = F.normalize(x.float(), dim=1) - F.normalize(y.float(), dim=1)
        distances.append(difference.square().sum(dim=1).mean(dim=(1, 2)))
    return torch.stack(distances).mean(dim=0)


class Perceptual(nn.Module):
    """(images, targets) [N, 3, R, R] in [-1, 1] => [N]: `feature_distance` on EfficientNet-Lite0's features.

    Images are doubled first: at 64 px the network's coarser features would see almost nothing.
    """

    def __init__(self, scale: int = 2):
        super().__init__()
        self.network = EfficientNetFeatures()
        self.scale = scale

    def features(self, images: Tensor) -> list[Tensor]:
        if self.scale != 1:
            images = F.interpolate(images, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return self.network(images)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            reference = self.features(targets)
        return feature_distance(self.features(images), reference)


class VggPerceptual(nn.Module):
    """(images, targets) [N, 3, R, R] in [-1, 1] => [N]: mean squared difference of VGG16's block4_conv3 features.

    The perceptual loss of the authors' training tree (weight 1e-3 there, at 256 px); `ops.networks.vgg16` loads it.
    """

    def __init__(self, network: Vgg16Block4):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            reference = self.network(targets)
        return (self.network(images) - reference).square().mean(dim=(1, 2, 3))


class LpipsPerceptual(nn.Module):
    """(images, targets) [N, 3, R, R] in [-1, 1] => [N]: LPIPS-Alex (Zhang et al. 2018, Eq. 1), which e4e trains with.

    Pictures below 256 px are enlarged to it: AlexNet's first layer leaves 15 places a side of 64 px, and its last one 3.
    """

    def __init__(self, network: LpipsAlex):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        if images.shape[-1] < PROTOCOL_SIZE:
            size = (PROTOCOL_SIZE, PROTOCOL_SIZE)
            images, targets = (F.interpolate(one, size=size, mode="bilinear", align_corners=False) for one in (images, targets))
        return self.network(images, targets.detach())
