"""Depthwise convolutions whose gradient is fast on a CPU.

torch's own gradient of a convolution with one filter per channel takes one to nine times as long on a CPU as another depthwise
convolution (benchmarks/README.md). The adjoint of filtering is filtering with the filter turned round, of the gradient with
zeros where a stride left pixels out. The gradient of the filters themselves, and that of a stride, are torch's.

Legend: N batch, C channels, H W, k kernel.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, pad: tuple[int, int] = (1, 1)
) -> Tensor:
    """x [N, C, H, W], weight [C, 1, k, k], bias [C] => filtered; pad: zeros (left and above, right and below)."""
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        y: Tensor = _Depthwise.apply(x, weight, bias, stride, pad)  # type: ignore[no-untyped-call]
        return y
    return _filtered(x, weight, bias, stride, pad)


def _filtered(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, pad: tuple[int, int]) -> Tensor:
    before, after = pad
    if before == after:
        return F.conv2d(x, weight, bias, stride, padding=before, groups=x.shape[1])
    return F.conv2d(F.pad(x, (before, after, before, after)), weight, bias, stride, groups=x.shape[1])


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, pad: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        ctx.stride, ctx.pad, ctx.shape = stride, pad, x.shape
        return _filtered(x, weight, bias, stride, pad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        kernel, (before, after), (height, width) = weight.shape[-1], ctx.pad, ctx.shape[-2:]
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0] and ctx.stride == 1:
            padded = F.conv2d(grad, weight.flip(2, 3), padding=kernel - 1, groups=weight.shape[0])
            of_x = padded[:, :, before : before + height, before : before + width]
        elif ctx.needs_input_grad[0]:
            # torch's own is faster where a stride leaves pixels out.
            framed = grad.new_empty(ctx.shape[0], ctx.shape[1], height + before + after, width + before + after)
            of_framed = _torchs(grad, framed.contiguous(memory_format=torch.channels_last), weight, ctx.stride, of_x=True)
            of_x = of_framed[:, :, before : before + height, before : before + width]
        if ctx.needs_input_grad[1]:
            framed = F.pad(x, (before, after, before, after))
            of_weight = _torchs(grad, framed, weight, ctx.stride, of_x=False)
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum(dim=(0, 2, 3))
        return of_x, of_weight, of_bias, None, None


def _torchs(grad: Tensor, framed: Tensor, weight: Tensor, stride: int, *, of_x: bool) -> Tensor:
    """torch's gradient of the framed input, or of the filters."""
    channels, which = weight.shape[0], [of_x, not of_x, False]
    found = torch.ops.aten.convolution_backward(
        grad, framed, weight, None, [stride] * 2, [0, 0], [1, 1], False, [0, 0], channels, which
    )
    gradient: Tensor = found[0] if of_x else found[1]
    return gradient
