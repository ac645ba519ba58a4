"""FIR resampling of StyleGAN2 (Karras et al. 2020, section "upfirdn"), for the one filter shape it is used with.

Legend: N batch, C channels, H W; `fir` is the normalised 2-D kernel [4, 4], outer([1, 3, 3, 1]) / 64.
The kernel is symmetric, so convolution and correlation are the same here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def fir_kernel(taps: Sequence[float]) -> Tensor:
    """Separable taps => normalised 2-D kernel, sum 1. Four symmetric taps: the paddings below rely on it."""
    if len(taps) != 4 or list(taps) != list(taps)[::-1]:
        raise ValueError(f"expected four symmetric filter taps such as [1, 3, 3, 1], got {list(taps)}")
    # A constant, not a weight: it must have values on models that are built on the meta device.
    t = torch.tensor(taps, dtype=torch.float32, device="cpu")
    return torch.outer(t, t) / t.sum() ** 2


def depthwise(fir: Tensor, channels: int, gain: float, dtype: torch.dtype) -> Tensor:
    """[4, 4] => [channels, 1, 4, 4], scaled by `gain`."""
    return (fir * gain).to(dtype).expand(channels, 1, *fir.shape)


def upsample_2x(x: Tensor, fir: Tensor) -> Tensor:
    """[N, C, H, W] => [N, C, 2H, 2W]: zeros inserted, padded 2 before and 1 after, filtered with gain 4.

    A strided transposed convolution does the three steps at once.
    """
    channels = x.shape[1]
    return F.conv_transpose2d(x, depthwise(fir, channels, 4.0, x.dtype), stride=2, padding=1, groups=channels)


def blur(x: Tensor, fir: Tensor, *, padding: int, gain: float = 1.0, stride: int = 1) -> Tensor:
    """Zero-pad both sides by `padding`, filter, keep every `stride`-th pixel."""
    if x.requires_grad and torch.is_grad_enabled():
        return _Blur.apply(x, fir, padding, gain, stride)  # type: ignore[no-untyped-call,no-any-return]
    return _blur(x, fir, padding, gain, stride)


def _blur(x: Tensor, fir: Tensor, padding: int, gain: float, stride: int) -> Tensor:
    channels = x.shape[1]
    kernel = depthwise(fir, channels, gain, x.dtype)
    return F.conv2d(x, kernel, padding=padding, stride=stride, groups=channels)


class _Blur(torch.autograd.Function):
    """`blur` whose gradient is again a blur: torch's gradient of a depthwise convolution takes ten times as long on a CPU.

    The adjoint of padding by p and filtering with k symmetric taps is padding by k - 1 - p and filtering, of the gradient
    with zeros between its pixels where some were left out.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, fir: Tensor, padding: int, gain: float, stride: int) -> Tensor:
        ctx.fir, ctx.size, ctx.padding, ctx.gain, ctx.stride = fir, x.shape, padding, gain, stride
        return _blur(x, fir, padding, gain, stride)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        taps = ctx.fir.shape[-1]
        if ctx.stride > 1:
            height, width = (side + 2 * ctx.padding - taps + 1 for side in ctx.size[-2:])
            spread = grad.new_zeros((*grad.shape[:2], height, width)).to(memory_format=torch.channels_last)
            spread[:, :, :: ctx.stride, :: ctx.stride] = grad
            grad = spread
        return blur(grad, ctx.fir, padding=taps - 1 - ctx.padding, gain=ctx.gain), None, None, None, None
