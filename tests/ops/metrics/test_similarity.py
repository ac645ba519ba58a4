"""SSIM, MS-SSIM and PSNR: what must hold of any, a case that can be solved on paper, and the official program's numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ops.metrics.metric import MetricError
from ops.metrics.similarity import decibels, guessed_range, ms_ssim, squared_error, ssim
from tests.golden import RTOL, SALT, draw, input_image


def close(got: float, expected: float) -> None:
    assert abs(got - expected) <= RTOL * abs(expected), f"{got} against {expected}"


def test_agree_with_the_official_program(shared: Path) -> None:
    expected = np.load(shared / "golden" / "public" / "styleres_metrics_ssim.npz")
    for j in range(4):
        first, second, share = expected[f"pair/{j}"]
        a, b = input_image(int(first)), input_image(int(second))
        noise = 0.03 * draw(f"{SALT}noise{j}", (1, 3, 256, 256))
        x = (a * (1 - share) + b * share + noise).clamp(-1, 1)
        close(float(ms_ssim(x, a)), float(expected[f"msssim/{j}"]))
        close(float(ssim(x, a)), float(expected[f"ssim/{j}"]))
    x, y = (input_image(0) + 1) / 2, (input_image(1) + 1) / 2
    y = 0.3 * y + 0.7 * x
    close(float(ms_ssim(y, x)), float(expected["msssim/range01"]))


def test_equal_pictures_are_alike() -> None:
    x = torch.cat([input_image(0), input_image(1)])
    for measure in (ssim, ms_ssim):
        assert torch.allclose(measure(x, x), torch.ones(2, dtype=torch.float64), atol=1e-12)


def test_a_batch_is_its_pictures() -> None:
    """The official program guesses one range and takes one mean for a whole batch; ours must not depend on company."""
    reference = input_image(0)
    dark, bright = 0.9 * reference, (reference + 1) / 2
    together = ms_ssim(torch.cat([dark, bright]), torch.cat([reference, reference]))
    apart = [float(ms_ssim(one, reference)) for one in (dark, bright)]
    assert apart[1] < 0.99
    assert together.tolist() == pytest.approx(apart, rel=1e-12)


def test_flat_pictures_as_on_paper() -> None:
    """Without structure only luminance counts: (2ab + c1) / (a^2 + b^2 + c1), c1 = (0.01 L)^2."""
    a, b = torch.full((1, 3, 32, 32), 0.2), torch.full((1, 3, 32, 32), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert float(ssim(a, b, data_range=1.0)) == pytest.approx(expected, rel=1e-6)


def test_scale_with_the_range() -> None:
    a, b = (input_image(0) + 1) / 2, (input_image(1) + 1) / 2
    b = 0.5 * a + 0.5 * b
    assert float(ssim(a * 7, b * 7, data_range=7.0)) == pytest.approx(float(ssim(a, b, data_range=1.0)), rel=1e-5)
    assert float(ms_ssim(a, b, data_range=1.0)) != pytest.approx(float(ms_ssim(a, b, data_range=2.0)), rel=1e-3)


def test_the_range_is_guessed_from_the_result() -> None:
    pictures = torch.stack([torch.full((3, 4, 4), v) for v in (-0.6, 0.0, 100.0, 129.0)])
    assert guessed_range(pictures).tolist() == [2, 1, 1, 255]
    dark = input_image(0)
    assert float(dark.min()) < -0.5
    bright = dark.clamp(min=-0.4)
    assert float(ssim(bright, dark)) == pytest.approx(float(ssim(bright, dark, data_range=1.0)))
    assert float(ssim(dark, bright)) == pytest.approx(float(ssim(dark, bright, data_range=2.0)))


def test_negative_contrast_is_not_hidden() -> None:
    x = input_image(0)
    assert math.isnan(float(ms_ssim(-x, x, data_range=2.0)))


def test_small_and_unequal_pictures_are_refused() -> None:
    x = torch.zeros(1, 3, 175, 200)
    with pytest.raises(MetricError, match="at least 176"):
        ms_ssim(x, x)
    with pytest.raises(MetricError, match="one shape"):
        ssim(x, x[:, :, :100])


def test_psnr() -> None:
    """An error of 255 everywhere is 0 dB, one of 25.5 is 20 dB, none is infinite."""
    black = np.zeros((4, 6, 3), np.uint8)
    assert decibels(float(squared_error(black, black).mean())) == math.inf
    assert decibels(float(squared_error(black, black + 255).mean())) == pytest.approx(0)
    assert decibels(25.5**2) == pytest.approx(20)
    changed = black.copy()
    changed[0, 0] = (3, 0, 3)
    assert squared_error(changed, black)[0, 0] == squared_error(black, changed)[0, 0] == pytest.approx(6)
    with pytest.raises(MetricError, match="one shape"):
        squared_error(black, black[:2])
