"""The blur with a gradient of its own against torch's."""

from __future__ import annotations

import pytest
import torch

from ops.nn.resample import _blur, blur, fir_kernel


@pytest.mark.parametrize(("padding", "stride"), [(1, 1), (2, 1), (1, 2)])
def test_the_blur_with_its_own_gradient_is_the_convolution(padding: int, stride: int) -> None:
    fir = fir_kernel([1, 3, 3, 1]).double()
    x = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    ours = blur(x, fir, padding=padding, gain=4.0, stride=stride)
    torchs = _blur(x, fir, padding, 4.0, stride)
    assert torch.equal(ours, torchs)
    weight = torch.randn_like(ours)
    (gradient,) = torch.autograd.grad((ours * weight).sum(), x)
    (expected,) = torch.autograd.grad((torchs * weight).sum(), x)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("padding", "stride"), [(1, 1), (2, 1), (1, 2)])
def test_the_gradient_of_the_blur_has_a_gradient(padding: int, stride: int) -> None:
    """R1 differentiates the discriminator twice."""
    fir = fir_kernel([1, 3, 3, 1]).double()
    x = torch.randn(1, 2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda t: blur(t, fir, padding=padding, stride=stride), x)
