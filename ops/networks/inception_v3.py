"""Inception v3 (Szegedy et al. 2016) up to its pooled features: FID's network in the official evaluation.

torchvision's weights (`inception_v3_google-*.pth`) and names, not TensorFlow's: numbers do not compare with pytorch-fid's or
clean-fid's. The classifier and the auxiliary head are in the file and never run.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.networks.weights import load_strict, read_tensors

INPUT_SIZE = 299
UNUSED = ("AuxLogits.", "fc.")


class ConvNorm(nn.Module):
    """Convolution, batch normalisation (eps 0.001), ReLU."""

    def __init__(self, channels: int, out: int, kernel: int | tuple[int, int], *, stride: int = 1, same: bool = True):
        """same: pad so that the size stays (for odd kernels at stride 1); else no padding."""
        super().__init__()
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (size[0] // 2, size[1] // 2) if same else (0, 0)
        self.conv = nn.Conv2d(channels, out, size, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class MixedA(nn.Module):
    """35x35: 1x1 | 5x5 | two 3x3 | average pool."""

    def __init__(self, channels: int, pool: int):
        super().__init__()
        self.branch1x1 = ConvNorm(channels, 64, 1)
        self.branch5x5_1 = ConvNorm(channels, 48, 1)
        self.branch5x5_2 = ConvNorm(48, 64, 5)
        self.branch3x3dbl_1 = ConvNorm(channels, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3)
        self.branch_pool = ConvNorm(channels, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, self.branch_pool(smooth(x))], 1)


class MixedB(nn.Module):
    """35x35 => 17x17: 3x3 | two 3x3 | maximum pool."""

    def __init__(self, channels: int):
        super().__init__()
        self.branch3x3 = ConvNorm(channels, 384, 3, stride=2, same=False)
        self.branch3x3dbl_1 = ConvNorm(channels, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, stride=2, same=False)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, halve(x)], 1)


class MixedC(nn.Module):
    """17x17: 1x1 | 7x7 as 1x7 and 7x1 | two of them | average pool."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.branch1x1 = ConvNorm(channels, 192, 1)
        self.branch7x7_1 = ConvNorm(channels, width, 1)
        self.branch7x7_2 = ConvNorm(width, width, (1, 7))
        self.branch7x7_3 = ConvNorm(width, 192, (7, 1))
        self.branch7x7dbl_1 = ConvNorm(channels, width, 1)
        self.branch7x7dbl_2 = ConvNorm(width, width, (7, 1))
        self.branch7x7dbl_3 = ConvNorm(width, width, (1, 7))
        self.branch7x7dbl_4 = ConvNorm(width, width, (7, 1))
        self.branch7x7dbl_5 = ConvNorm(width, 192, (1, 7))
        self.branch_pool = ConvNorm(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(smooth(x))], 1)


class MixedD(nn.Module):
    """17x17 => 8x8: 3x3 | 7x7 then 3x3 | maximum pool."""

    def __init__(self, channels: int):
        super().__init__()
        self.branch3x3_1 = ConvNorm(channels, 192, 1)
        self.branch3x3_2 = ConvNorm(192, 320, 3, stride=2, same=False)
        self.branch7x7x3_1 = ConvNorm(channels, 192, 1)
        self.branch7x7x3_2 = ConvNorm(192, 192, (1, 7))
        self.branch7x7x3_3 = ConvNorm(192, 192, (7, 1))
        self.branch7x7x3_4 = ConvNorm(192, 192, 3, stride=2, same=False)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, halve(x)], 1)


class MixedE(nn.Module):
    """8x8: 1x1 | 1x3 beside 3x1 | 3x3 then 1x3 beside 3x1 | average pool."""

    def __init__(self, channels: int):
        super().__init__()
        self.branch1x1 = ConvNorm(channels, 320, 1)
        self.branch3x3_1 = ConvNorm(channels, 384, 1)
        self.branch3x3_2a = ConvNorm(384, 384, (1, 3))
        self.branch3x3_2b = ConvNorm(384, 384, (3, 1))
        self.branch3x3dbl_1 = ConvNorm(channels, 448, 1)
        self.branch3x3dbl_2 = ConvNorm(448, 384, 3)
        self.branch3x3dbl_3a = ConvNorm(384, 384, (1, 3))
        self.branch3x3dbl_3b = ConvNorm(384, 384, (3, 1))
        self.branch_pool = ConvNorm(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(smooth(x))]
        return torch.cat(parts, 1)


class InceptionV3(nn.Module):
    """pictures [N, 3, 299, 299] RGB, normalised with ImageNet's mean and deviation => pooled Mixed_7c [N, 2048]."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2, same=False)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3, same=False)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3, same=False)
        self.Mixed_5b = MixedA(192, 32)
        self.Mixed_5c = MixedA(256, 64)
        self.Mixed_5d = MixedA(288, 64)
        self.Mixed_6a = MixedB(288)
        self.Mixed_6b = MixedC(768, 128)
        self.Mixed_6c = MixedC(768, 160)
        self.Mixed_6d = MixedC(768, 160)
        self.Mixed_6e = MixedC(768, 192)
        self.Mixed_7a = MixedD(768)
        self.Mixed_7b = MixedE(1280)
        self.Mixed_7c = MixedE(2048)

    def forward(self, pictures: Tensor) -> Tensor:
        if pictures.shape[1:] != (3, INPUT_SIZE, INPUT_SIZE):
            raise ValueError(f"expected pictures as [N, 3, {INPUT_SIZE}, {INPUT_SIZE}], got {list(pictures.shape)}")
        x = self.Conv2d_1a_3x3(pictures.contiguous(memory_format=torch.channels_last))
        x = halve(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(x)))
        x = halve(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        x = self.Mixed_6e(self.Mixed_6d(x))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean(dim=(2, 3))


def smooth(x: Tensor) -> Tensor:
    """3x3 mean at stride 1; the zeros beyond the edge count."""
    return F.avg_pool2d(x, 3, stride=1, padding=1)


def halve(x: Tensor) -> Tensor:
    """3x3 maximum at stride 2."""
    return F.max_pool2d(x, 3, stride=2)


def load_inception(path: Path) -> InceptionV3:
    """From torchvision's published file. Raises CheckpointError."""
    return load_strict(InceptionV3, read_tensors(path), str(path), dropped=UNUSED)
