"""Depthwise convolutions: values and gradients against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ops.networks.perceptual import EfficientNetFeatures
from ops.nn import depthwise as module
from ops.nn.depthwise import depthwise


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int = 1, pad: tuple[int, int] = (1, 1)) -> Tensor:
    before, after = pad
    return F.conv2d(F.pad(x, (before, after, before, after)), weight, bias, stride, groups=x.shape[1])


@pytest.mark.parametrize(("kernel", "stride", "side"), [(3, 1, 8), (5, 1, 7), (3, 2, 8), (5, 2, 8), (3, 2, 7)])
def test_the_gradients_of_a_depthwise_convolution(kernel: int, stride: int, side: int) -> None:
    """Of the input, the filters and the bias; for one value also against a difference quotient."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, side, side, dtype=torch.float64, generator=draws)
    weight, bias = torch.randn(3, 1, kernel, kernel, dtype=torch.float64, generator=draws), torch.randn(3).double()
    total = kernel - stride
    pad = (total // 2, total - total // 2)

    def gradients(ours: bool) -> list[Tensor]:
        leaves = [one.clone().requires_grad_() for one in (x, weight, bias)]
        y = (depthwise if ours else plain)(*leaves, stride=stride, pad=pad)
        weights = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).reshape(y.shape)
        return [y, *torch.autograd.grad((y * weights).sum(), leaves)]

    ours = gradients(True)
    for found, expected in zip(ours, gradients(False), strict=True):
        torch.testing.assert_close(found, expected)
    moved = x.clone()
    moved[0, 1, 2, 3] += 1e-6
    y, y_moved = (plain(one, weight, bias, stride=stride, pad=pad) for one in (x, moved))
    weights = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).reshape(y.shape)
    assert float(((y_moved - y) * weights).sum() / 1e-6) == pytest.approx(float(ours[1][0, 1, 2, 3]), rel=1e-5, abs=1e-7)


def test_a_whole_network_has_torch_s_gradient() -> None:
    """In float32, and in bf16 to its noise."""
    network = EfficientNetFeatures().to(memory_format=torch.channels_last)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def gradient(dtype: torch.dtype) -> Tensor:
        leaf = images.clone().requires_grad_()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            taps = network(leaf)
        (found,) = torch.autograd.grad(sum(tap.float().square().mean() for tap in taps), leaf)
        return found

    ours, reduced = gradient(torch.float32), gradient(torch.bfloat16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Depthwise, "apply", lambda x, w, b, stride, pad: plain(x, w, b, stride=stride, pad=pad))
        theirs = gradient(torch.float32)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert F.cosine_similarity(reduced.flatten(), ours.flatten(), dim=0) > 0.98
