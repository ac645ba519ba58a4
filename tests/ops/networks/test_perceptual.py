"""Perceptual distances: gradients of our own convolution, and formulas written out in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.common.errors import UsageError
from jobs.common.train_options import perceptual_files
from ops.files.errors import CheckpointError
from ops.networks.lpips_alex import LpipsAlex
from ops.networks.perceptual import (
    EfficientNetFeatures,
    LpipsPerceptual,
    Perceptual,
    VggPerceptual,
    _Depthwise,
    feature_distance,
    same_conv,
)
from ops.networks.vgg16 import Vgg16Block4
from ops.training.presets import Preset, residual_preset
from ops.training.run import perceptual_of


@pytest.mark.parametrize(("kernel", "stride", "side"), [(3, 1, 8), (5, 1, 7), (3, 2, 8), (5, 2, 8), (3, 2, 7)])
def test_the_gradient_of_a_depthwise_convolution(kernel: int, stride: int, side: int) -> None:
    """Against torch's own and, for one value, against a difference quotient."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, side, side, dtype=torch.float64, generator=draws)
    weight, bias = torch.randn(3, 1, kernel, kernel, dtype=torch.float64, generator=draws), torch.randn(3).double()
    total = kernel - stride
    pad = (total // 2, total - total // 2)

    def gradient(ours: bool) -> tuple[Tensor, Tensor]:
        leaf = x.clone().requires_grad_()
        y = _Depthwise.apply(leaf, weight, bias, stride, pad) if ours else same_conv(leaf, weight, bias, stride, pad, 3)
        weights = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).reshape(y.shape)
        (found,) = torch.autograd.grad((y * weights).sum(), leaf)
        return y, found

    ours, theirs = gradient(True), gradient(False)
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1])
    moved = x.clone()
    moved[0, 1, 2, 3] += 1e-6
    y, y_moved = (same_conv(one, weight, bias, stride, pad, 3) for one in (x, moved))
    weights = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).reshape(y.shape)
    assert float(((y_moved - y) * weights).sum() / 1e-6) == pytest.approx(float(ours[1][0, 1, 2, 3]), rel=1e-5, abs=1e-7)


def test_the_whole_network_has_torch_s_gradient() -> None:
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
        patch.setattr(
            _Depthwise, "apply", lambda x, weight, bias, stride, pad: same_conv(x, weight, bias, stride, pad, len(weight))
        )
        theirs = gradient(torch.float32)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert F.cosine_similarity(reduced.flatten(), ours.flatten(), dim=0) > 0.98


def test_feature_distance_is_lpips_s_form() -> None:
    """Zhang et al. 2018, Eq. 1 with equal weights, written out."""
    rng = np.random.default_rng(0)
    a = [rng.normal(size=(2, 3, 4, 4)), rng.normal(size=(2, 5, 2, 2))]
    b = [rng.normal(size=one.shape) for one in a]
    expected = np.zeros(2)
    for x, y in zip(a, b, strict=True):
        for n in range(2):
            for i in range(x.shape[2]):
                for j in range(x.shape[3]):
                    u, v = x[n, :, i, j], y[n, :, i, j]
                    apart = u / np.sqrt((u**2).sum()) - v / np.sqrt((v**2).sum())
                    expected[n] += (apart**2).sum() / (x.shape[2] * x.shape[3]) / len(a)
    found = feature_distance([torch.from_numpy(one) for one in a], [torch.from_numpy(one) for one in b])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_equal_pictures_are_not_apart() -> None:
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    perceptual = Perceptual()
    assert perceptual(images, images).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert (perceptual(images, images.flip(3)) > 0.05).all()


def test_lpips_by_path_is_a_training_loss(tmp_path: Path) -> None:
    """One file or two, whichever kind they are; its gradient reaches the images and not the targets."""
    torch.manual_seed(0)
    network = LpipsAlex()
    torch.save(network.state_dict(), tmp_path / "lpips.pth")
    lpips, features = perceptual_of((str(tmp_path / "lpips.pth"),), 64, torch.device("cpu"))
    assert isinstance(lpips, LpipsPerceptual) and features is None
    images = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_()
    targets = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_()
    distance = lpips(images, targets)
    enlarged = [F.interpolate(one, size=(256, 256), mode="bilinear") for one in (images, targets)]
    torch.testing.assert_close(distance, network.eval()(*enlarged), rtol=1e-4, atol=1e-6)
    distance.sum().backward()
    assert images.grad is not None and images.grad.any() and targets.grad is None
    torch.save(Vgg16Block4().state_dict(), tmp_path / "vgg.pth")
    vgg, _ = perceptual_of((str(tmp_path / "vgg.pth"),), 64, torch.device("cpu"))
    assert isinstance(vgg, VggPerceptual)
    with pytest.raises(CheckpointError, match="heads"):
        torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "alexnet.pth")
        perceptual_of((str(tmp_path / "alexnet.pth"),), 64, torch.device("cpu"))


def test_one_perceptual_network_at_a_time() -> None:
    vgg, lpips, heads = Path("vgg"), Path("lpips"), Path("heads")
    assert perceptual_files(None, None, None) == ()
    assert perceptual_files(vgg, None, None) == (vgg,)
    assert perceptual_files(None, lpips, heads) == (lpips, heads)
    for wrong in ((vgg, lpips, None), (None, None, heads)):
        with pytest.raises(UsageError):
            perceptual_files(*wrong)


@pytest.mark.parametrize("preset", ["paper", "tree"])
def test_the_paper_s_presets_have_the_paper_s_losses_only(preset: Preset) -> None:
    settings, _ = residual_preset(preset)
    assert settings.composite_weight == settings.direction_share == 0
    assert settings.stop_gradients and settings.use_residual and settings.alpha == (4.0, 5.0) and settings.edit_share == 0.5
