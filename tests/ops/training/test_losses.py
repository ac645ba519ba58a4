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


def test_r1_of_codes_too() -> None:
    a, x = randn(4), randn(3, 4, seed=1).requires_grad_()
    np.testing.assert_allclose(losses.r1_penalty((x * a).sum(dim=1), x).detach(), (a.numpy() ** 2).sum())


def test_batch_mean_of_slices_is_that_of_the_batch() -> None:
    values, concerned = randn(6), torch.tensor([True, False, False, True, True, False])
    whole = losses.batch_mean(values, concerned)
    np.testing.assert_allclose(whole, (values.numpy() * concerned.numpy()).sum() / 6)
    slices = [losses.batch_mean(values[part], concerned[part]) for part in (slice(0, 3), slice(3, 6))]
    np.testing.assert_allclose(torch.stack(slices).mean(), whole)
    assert losses.batch_mean(torch.full((2,), torch.nan), torch.tensor([False, False])) == 0


def test_feature_regulariser() -> None:
    delta = randn(2, 3, 4, 4)
    np.testing.assert_allclose(losses.feature_regulariser(delta), np.abs(delta.numpy()).mean(axis=(1, 2, 3)), rtol=1e-6)


def test_identity_is_one_minus_the_cosine() -> None:
    weights = randn(7, 3 * 112 * 112)

    def embed(faces: torch.Tensor) -> torch.Tensor:
        return faces.flatten(1) @ weights.t()

    a, b = randn(2, 3, 256, 256), randn(2, 3, 256, 256, seed=1)
    x, y = (embed(losses.face_of(images)).numpy() for images in (a, b))
    cosine = (x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    np.testing.assert_allclose(losses.identity_loss(embed, a, b), 1 - cosine)
    np.testing.assert_allclose(losses.identity_loss(embed, a, a), 0, atol=1e-12)


def test_the_face_is_the_trees_crop() -> None:
    """Rows 35 to 223, columns 32 to 220 of 256; 112 pixels whatever the size."""
    images = torch.zeros(1, 1, 256, 256)
    images[:, :, 35:223, 32:220] = 1
    assert (losses.face_of(images) == 1).all()
    assert losses.face_of(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 112, 112)


def test_delta_regulariser_measures_from_the_first_row() -> None:
    offsets = randn(2, 4, 5)
    rows = offsets.numpy()
    expected = np.mean([(rows[:, i] - rows[:, 0]) ** 2 for i in range(1, 4)])
    np.testing.assert_allclose(losses.delta_regulariser(offsets), expected)
    assert losses.delta_regulariser(offsets[:, :1].expand(-1, 4, -1)) == 0


def test_simulated_edit_is_equation_2_and_undoes() -> None:
    wplus, random_w, alpha = randn(2, 4, 5), randn(2, 5, seed=1), torch.tensor([0.0, 4.5], dtype=torch.float64)
    edited = (wplus + losses.edit_offset(wplus, random_w, alpha)).numpy()
    np.testing.assert_array_equal(edited[0], wplus[0])
    np.testing.assert_allclose(edited[1], wplus.numpy()[1] + 4.5 * (random_w.numpy()[1] - wplus.numpy()[1]) / 10)
    back = torch.from_numpy(edited) - losses.edit_offset(wplus, random_w, alpha)
    np.testing.assert_allclose(back, wplus, atol=1e-12)


def test_the_affine_inverse_solves_equation_2() -> None:
    wplus, random_w, alpha = randn(3, 4, 5), randn(3, 5, seed=1), torch.tensor([0.0, 4.2, 5.0], dtype=torch.float64)
    edited = wplus + losses.edit_offset(wplus, random_w, alpha)
    np.testing.assert_allclose(losses.affine_reversal(edited, random_w, alpha), wplus, atol=1e-12)
    # Where the edited code is not what was re-encoded, the two readings of the paper differ.
    other = edited + 0.1
    assert not torch.allclose(
        losses.affine_reversal(other, random_w, alpha), other - losses.edit_offset(wplus, random_w, alpha)
    )


def test_alpha_is_zero_or_between_four_and_five() -> None:
    alpha = losses.sample_alpha(4000, torch.Generator().manual_seed(0))
    edited = alpha > 0
    assert 0.45 < edited.float().mean() < 0.55
    assert alpha[edited].min() >= 4 and alpha[edited].max() <= 5


def test_a_composite_is_the_source_without_an_edit_and_the_code_where_structure_changes() -> None:
    generator = torch.Generator().manual_seed(0)
    x, code = (torch.rand(2, 3, 64, 64, generator=generator, dtype=torch.float64) for _ in range(2))
    target, mask = losses.composite_target(x, code, code)
    torch.testing.assert_close(target, x)
    assert not mask.any()
    # A change of light alone is taken over as it is, and nothing of the source's structure is lost.
    target, mask = losses.composite_target(x, code, code + 0.25)
    torch.testing.assert_close(target, x + 0.25)
    assert not mask.any()
    # A new structure in one place: there the code's picture in the source's tone, far from it the source.
    edited = code.clone()
    checks = 0.5 * (-1.0) ** (torch.arange(16)[:, None] + torch.arange(16))
    edited[:, :, 24:40, 24:40] += checks
    bright = x + 0.1
    target, mask = losses.composite_target(bright, code, edited)
    inner = (slice(None), slice(None), slice(30, 34), slice(30, 34))
    assert (mask[inner] == 1).all() and not mask[:, :, :8].any()
    torch.testing.assert_close(target[:, :, :8], bright[:, :, :8], atol=1e-2, rtol=0)
    structure = target[inner] - losses._smooth(target, 9, 1.0)[inner]
    expected = edited[inner] - losses._smooth(edited, 9, 1.0)[inner]
    assert (structure - expected).abs().mean() < 0.1 * expected.abs().mean()


def test_a_code_that_sees_something_else_has_to_change_the_more() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, 64, 64, generator=generator, dtype=torch.float64)
    wrong = 0.4 * (-1.0) ** (torch.arange(64)[:, None] + torch.arange(64))

    def masks_of(change: float, doubt: float) -> tuple[float, float]:
        """In the middle of the face, and beside it."""
        code = x + doubt * wrong
        moved = code + change * (-1.0) ** (torch.arange(64)[:, None] + torch.arange(64))
        mask = losses.composite_target(x, code, moved)[1]
        return float(mask[:, :, 32:40, 28:36].mean()), float(mask[:, :, 16:48, :6].mean())

    assert min(masks_of(0.125, 0.0)) > 0.95
    face, beside = masks_of(0.125 + losses.COMPOSITE_DOUBT_FACE * 0.4, 1.0)
    assert face > 0.95 and beside < 0.05
    assert masks_of(0.125 + losses.COMPOSITE_DOUBT_AROUND * 0.4, 1.0)[1] > 0.95


def test_the_composite_loss_counts_the_place_of_the_edit_five_times() -> None:
    outputs = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    mask[..., 0, 0] = 1
    target = torch.zeros_like(outputs)
    target[..., 0, 0], target[..., 3, 3] = 2.0, 2.0
    torch.testing.assert_close(
        losses.composite_loss(outputs, target, mask), torch.tensor([(5 * 4.0 + 4.0) / 16], dtype=torch.float64)
    )
