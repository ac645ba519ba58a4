"""MobileFaceNet (Chen et al. 2018): a small face recogniser, used where CurricularFace's weights are not at hand.

Names are those of foamliu's published PyTorch model (128 numbers, ImageNet normalisation of the input).
"""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from ops.networks.weights import load_strict, read_tensors

FACE_SIZE = 112
BLOCKS = ((64, 2, 5, 2), (128, 4, 1, 2), (128, 2, 6, 1), (128, 4, 1, 2), (128, 2, 2, 1))
"""(channels, expansion, blocks, stride of the first), Table 1 of the paper."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def conv_norm(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU6."""
    conv = nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU6())


class Separable(nn.Module):
    """3x3 in each channel, then 1x1 across them; ReLU after both."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.pointwise(F.relu(self.bn1(self.depthwise(x))))))


class InvertedResidual(nn.Module):
    """Expand, 3x3 in each channel, project (Sandler et al. 2018); a shortcut where the shape stays."""

    def __init__(self, channels: int, out: int, stride: int, expansion: int):
        super().__init__()
        wide = channels * expansion
        self.shortcut = stride == 1 and channels == out
        self.conv = nn.Sequential(
            conv_norm(channels, wide, 1),
            conv_norm(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class GlobalDepthwise(nn.Module):
    """The 7x7 map => one number per channel, each place with a weight of its own (section 3.1)."""

    def __init__(self, channels: int):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.depthwise(x))


class MobileFaceNet(nn.Module):
    """faces [N, 3, 112, 112] RGB in [-1, 1] => embeddings [N, 128] of unit length. Normalises its input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv_norm(3, 64, 3, stride=2)
        self.dw_conv = Separable(64, 64)
        blocks = []
        channels = 64
        for out, expansion, count, stride in BLOCKS:
            for i in range(count):
                blocks.append(InvertedResidual(channels, out, stride if i == 0 else 1, expansion))
                channels = out
        self.features = nn.Sequential(*blocks)
        self.conv2 = conv_norm(channels, 512, 1)
        self.gdconv = GlobalDepthwise(512)
        self.conv3 = nn.Conv2d(512, 128, 1)
        self.bn = nn.BatchNorm2d(128)

    def forward(self, faces: Tensor) -> Tensor:
        if faces.shape[1:] != (3, FACE_SIZE, FACE_SIZE):
            raise ValueError(f"expected faces as [N, 3, {FACE_SIZE}, {FACE_SIZE}], got {list(faces.shape)}; align them first")
        x = ((faces + 1) / 2 - faces.new_tensor(MEAN)[:, None, None]) / faces.new_tensor(DEVIATION)[:, None, None]
        x = self.features(self.dw_conv(self.conv1(x)))
        return F.normalize(self.bn(self.conv3(self.gdconv(self.conv2(x)))).flatten(1), dim=1)


def load_mobilefacenet(path: Path) -> MobileFaceNet:
    """Raises CheckpointError."""
    return load_strict(MobileFaceNet, read_tensors(path), str(path))
