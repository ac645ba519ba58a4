"""Perceptual distances: formulas written out in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jobs.common.errors import UsageError
from jobs.common.train_options import PerceptualFiles
from ops.files.errors import CheckpointError
from ops.networks.lpips_alex import LpipsAlex
from ops.networks.perceptual import (
    LpipsPerceptual,
    Perceptual,
    VggPerceptual,
    feature_distance,
)
from ops.networks.vgg16 import Vgg16Block4
from ops.training.presets import Preset, residual_preset
from ops.training.run import perceptual_of


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
    vgg, lpips, heads = Path("/vgg"), Path("/lpips"), Path("/heads")
    assert PerceptualFiles().paths == ()
    assert PerceptualFiles(vgg_weights=vgg).paths == ("/vgg",)
    assert PerceptualFiles(lpips_weights=lpips, lpips_heads=heads).paths == ("/lpips", "/heads")
    for wrong in ({"vgg_weights": vgg, "lpips_weights": lpips}, {"lpips_heads": heads}):
        with pytest.raises(UsageError):
            PerceptualFiles(**wrong)


@pytest.mark.parametrize("preset", ["paper", "tree"])
def test_the_paper_s_presets_have_the_paper_s_losses_only(preset: Preset) -> None:
    settings, _ = residual_preset(preset)
    assert settings.composite_weight == settings.direction_share == 0
    assert settings.stop_gradients and settings.use_residual and settings.alpha == (4.0, 5.0) and settings.edit_share == 0.5
