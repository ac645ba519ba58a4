"""The Haar transform of MobileStyleGAN (Belousov 2021, section 3.1): four channels of one cell are a 2x2 block of one channel.

C/4 channels LL come first; the rest, as [C/4, 3], are (v, h, d). Of each block, rows first:

    [0,0] = (LL + h + v + d)/2    [0,1] = (LL - h + v - d)/2    [1,0] = (LL + h - v - d)/2    [1,1] = (LL - h - v + d)/2

The transform is orthonormal: its inverse is its adjoint, so each direction is the other's gradient.

Legend: N batch, C channels, H W.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def haar_up(x: Tensor, gain: float = 1.0) -> Tensor:
    """Inverse transform: [N, 4C, H, W] => [N, C, 2H, 2W], times `gain`."""
    if x.requires_grad and torch.is_grad_enabled():
        return _HaarUp.apply(x, gain)  # type: ignore[no-untyped-call,no-any-return]
    return _up(x, gain)


def haar_down(x: Tensor, gain: float = 1.0) -> Tensor:
    """Transform: [N, C, 2H, 2W] => [N, 4C, H, W], times `gain`. Without a gradient of its own."""
    ul, ur, ll, lr = x[:, :, 0::2, 0::2], x[:, :, 0::2, 1::2], x[:, :, 1::2, 0::2], x[:, :, 1::2, 1::2]
    left, right, left_change, right_change = ul + ll, ur + lr, ul - ll, ur - lr
    half, channels = 0.5 * gain, x.shape[1]
    y = x.new_empty(x.shape[0], 4 * channels, x.shape[2] // 2, x.shape[3] // 2)
    y = y.contiguous(memory_format=torch.channels_last)
    torch.mul(left + right, half, out=y[:, :channels])
    torch.mul(left_change + right_change, half, out=y[:, channels::3])  # v
    torch.mul(left - right, half, out=y[:, channels + 1 :: 3])  # h
    torch.mul(left_change - right_change, half, out=y[:, channels + 2 :: 3])  # d
    return y


def _up(x: Tensor, gain: float) -> Tensor:
    channels = x.shape[1] // 4
    mean = x[:, :channels]
    v, h, d = x[:, channels::3], x[:, channels + 1 :: 3], x[:, channels + 2 :: 3]
    half = 0.5 * gain
    left, right = (mean + h).mul_(half), (mean - h).mul_(half)
    left_change, right_change = (v + d).mul_(half), (v - d).mul_(half)
    y = x.new_empty(x.shape[0], channels, 2 * x.shape[2], 2 * x.shape[3]).contiguous(memory_format=torch.channels_last)
    torch.add(left, left_change, out=y[:, :, 0::2, 0::2])
    torch.add(right, right_change, out=y[:, :, 0::2, 1::2])
    torch.sub(left, left_change, out=y[:, :, 1::2, 0::2])
    torch.sub(right, right_change, out=y[:, :, 1::2, 1::2])
    return y


class _HaarUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: float) -> Tensor:
        ctx.gain = gain
        return _up(x, gain)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return haar_down(grad, ctx.gain), None
