"""Depthwise convolutions whose gradient is fast on a CPU.

torch's own gradient of a convolution with one filter per channel takes one to nine times as long on a CPU as another depthwise
convolution (benchmarks/README.md). The adjoint of filtering is filtering with the filter turned round, of the gradient with
zeros where a stride left pixels out; a filter's gradient is a sum over pixels for each of its taps.

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
        y: Tensor = _Depthwise.apply(x, weight, stride, pad)  # type: ignore[no-untyped-call]
        return y if bias is None else y + bias[:, None, None]
    return _filtered(x, weight, bias, stride, pad)


def _filtered(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, pad: tuple[int, int]) -> Tensor:
    before, after = pad
    if before == after:
        return F.conv2d(x, weight, bias, stride, padding=before, groups=x.shape[1])
    return F.conv2d(F.pad(x, (before, after, before, after)), weight, bias, stride, groups=x.shape[1])


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, pad: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        ctx.stride, ctx.pad, ctx.size = stride, pad, x.shape[-2:]
        return _filtered(x, weight, None, stride, pad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        kernel, (before, after), (height, width) = weight.shape[-1], ctx.pad, ctx.size
        if ctx.stride > 1:
            rows, columns = (side + before + after - kernel + 1 for side in (height, width))
            spread = grad.new_zeros((*grad.shape[:2], rows, columns)).to(memory_format=torch.channels_last)
            spread[:, :, :: ctx.stride, :: ctx.stride] = grad
            grad = spread
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            padded = F.conv2d(grad, weight.flip(2, 3), padding=kernel - 1, groups=weight.shape[0])
            of_x = padded[:, :, before : before + height, before : before + width]
        if ctx.needs_input_grad[1]:
            framed = F.pad(x, (before, after, before, after))
            rows, columns = grad.shape[-2:]
            taps = [
                (framed[:, :, i : i + rows, j : j + columns] * grad).sum(dim=(0, 2, 3), dtype=torch.float32)
                for i in range(kernel)
                for j in range(kernel)
            ]
            of_weight = torch.stack(taps, dim=1).view_as(weight).to(weight.dtype)
        return of_x, of_weight, None, None
