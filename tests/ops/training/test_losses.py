"""Each loss against its formula, written out in float64."""

from __future__ import annotations

import numpy as np
import torch

from ops.training import losses


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))


def test_pixel() -> None:
    a, b = randn(3, 3, 8, 8), randn(3, 3, 8, 8, seed=1)
    expected = [((x - y) ** 2).mean() for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(losses.pixel_loss(a, b), expected)


def test_adversarial_pair() -> None:
    real, fake = randn(5, 1), randn(5, 1, seed=1)
    np.testing.assert_allclose(losses.adversarial_loss(fake), softplus(-fake.numpy()).mean())
    expected = softplus(fake.numpy()).mean() + softplus(-real.numpy()).mean()
    np.testing.assert_allclose(losses.discriminator_loss(real, fake), expected)


def test_r1_is_the_squared_gradient() -> None:
    """D(x) = <a, x> + |x|^2 / 2 has the gradient a + x."""
    a, x = randn(3, 4, 4), randn(2, 3, 4, 4, seed=1).requires_grad_()
    logits = (a * x).sum(dim=(1, 2, 3)) + 0.5 * x.square().sum(dim=(1, 2, 3))
    expected = np.mean([((a.numpy() + one) ** 2).sum() for one in x.detach().numpy()])
    np.testing.assert_allclose(losses.r1_penalty(logits[:, None], x).detach(), expected)


def test_delta_regulariser_measures_from_the_first_row() -> None:
    offsets = randn(2, 4, 5)
    rows = offsets.numpy()
    expected = np.mean([(rows[:, i] - rows[:, 0]) ** 2 for i in range(1, 4)])
    np.testing.assert_allclose(losses.delta_regulariser(offsets), expected)
    assert losses.delta_regulariser(offsets[:, :1].expand(-1, 4, -1)) == 0


def test_simulated_edit_is_equation_2_and_undoes() -> None:
    wplus, random_w, alpha = randn(2, 4, 5), randn(2, 5, seed=1), torch.tensor([0.0, 4.5], dtype=torch.float64)
    edited = losses.simulated_edit(wplus, random_w, alpha).numpy()
    np.testing.assert_array_equal(edited[0], wplus[0])
    np.testing.assert_allclose(edited[1], wplus.numpy()[1] + 4.5 * (random_w.numpy()[1] - wplus.numpy()[1]) / 10)
    affine = losses.affine_reversal(torch.from_numpy(edited), random_w, alpha)
    np.testing.assert_allclose(affine.numpy(), wplus.numpy(), rtol=0, atol=1e-6)
    back = torch.from_numpy(edited) - losses.edit_offset(wplus, random_w, alpha)
    np.testing.assert_allclose(back, wplus, atol=1e-12)


def test_alpha_is_zero_or_between_four_and_five() -> None:
    alpha = losses.sample_alpha(4000, torch.Generator().manual_seed(0))
    edited = alpha > 0
    assert 0.45 < edited.float().mean() < 0.55
    assert alpha[edited].min() >= 4 and alpha[edited].max() <= 5


def test_edit_fidelity_is_zero_for_a_whole_edit_and_one_for_none() -> None:
    change = randn(2, 3, 8, 8)
    whole, none = losses.edit_fidelity_loss(change, change), losses.edit_fidelity_loss(torch.zeros_like(change), change)
    np.testing.assert_allclose(whole, 0, atol=1e-12)
    np.testing.assert_allclose(none, 1, rtol=2e-3)  # the 1e-4 in the denominator
    half = losses.edit_fidelity_loss(change / 2, change)
    np.testing.assert_allclose(half, 0.25, rtol=2e-3)
