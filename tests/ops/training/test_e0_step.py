"""The base encoder's step: every term against the same one written out face by face, and what learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ops.inversion.styleres import StyleRes
from ops.training.e0 import E0Settings, E0Step, LatentDiscriminator, LatentStep
from ops.training.losses import face_of
from ops.training.trainer import TrainingError
from tests.small_model import SMALL

SETTINGS = E0Settings(identity_weight=0.5, latent_weight=0.1)


@pytest.fixture(scope="module")
def model() -> StyleRes:
    torch.manual_seed(0)
    model = StyleRes(SMALL).eval().requires_grad_(False)
    model.latent_avg.normal_()
    model.inverting()[0].requires_grad_(True)
    return model


def l1(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean(dim=(1, 2, 3))


def embed(faces: Tensor) -> Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(faces, 2).flatten(1)


def latent() -> LatentDiscriminator:
    torch.manual_seed(1)
    return LatentDiscriminator(SMALL.generator.w_dim)


def step_of(model: StyleRes, settings: E0Settings = SETTINGS) -> E0Step:
    return E0Step(model, latent().requires_grad_(False), l1, embed, settings, torch.float32)


def images_of(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(3)).clamp(-1, 1)


@pytest.mark.parametrize("free", [1, 3, SMALL.generator.num_ws])
def test_every_term_is_what_the_equations_say(model: StyleRes, free: int) -> None:
    images = images_of(3)
    rows, generator, judge = SMALL.generator.num_ws, model.generator, latent()
    with torch.no_grad():
        total, found, codes = step_of(model)(images, free)
        expected = dict.fromkeys(("pixel", "perceptual", "identity", "delta", "prior", "latent"), 0.0)
        for n in range(3):
            x = images[n : n + 1]
            offsets = model.inverting()[0](x)[0][0].double().numpy()
            # Rows that are not free yet equal the first (e4e, section 3.3.1: one vector for all styles to begin with).
            held = np.stack([offsets[row] if row < free else offsets[0] for row in range(rows)])
            code = torch.from_numpy(held).float()[None] + model.latent_avg
            torch.testing.assert_close(code[0], codes[n], rtol=1e-4, atol=1e-5)
            out = generator(generator.styles(code)).double().numpy()
            source = x.double().numpy()
            expected["pixel"] += ((out - source) ** 2).mean() / 3
            expected["perceptual"] += np.abs(out - source).mean() / 3
            a, b = (embed(face_of(torch.from_numpy(one).float()))[0].double().numpy() for one in (out, source))
            expected["identity"] += (1 - a @ b / np.sqrt((a @ a) * (b @ b))) / 3
            expected["delta"] += ((held[1:] - held[:1]) ** 2).mean() / 3
            expected["prior"] += (held[0] ** 2).mean() / 3
            logits = judge(code[0]).double().numpy()
            expected["latent"] += np.log1p(np.exp(-logits)).mean() / 3
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-4, abs=1e-7), name
    weights = {"pixel": 3.0, "perceptual": 1.0, "delta": 0.3, "prior": 0.05, "identity": 0.5, "latent": 0.1}
    assert float(total) == pytest.approx(sum(weights[name] * value for name, value in expected.items()), rel=1e-4)


def test_only_the_encoder_learns(model: StyleRes) -> None:
    model.zero_grad()
    total, _, codes = step_of(model)(images_of(2), 2)
    total.backward()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()} == {"encoder"}
    assert not codes.requires_grad, "the discriminator's step does not reach the encoder"
    heads = [head.linear.weight.grad for head in model.inverting()[0].heads()]
    assert heads[1] is not None and heads[1].any()
    assert all(grad is None or not grad.any() for grad in heads[2:]), "rows that are not free do not learn"


def test_the_latent_discriminator_s_loss(model: StyleRes) -> None:
    """softplus(D(fake)) + softplus(-D(real)) + gamma / 2 |grad D(real)|^2, row by row."""
    judge = latent()
    draws = torch.Generator().manual_seed(4)
    real, fake = (torch.randn(5, SMALL.generator.w_dim, generator=draws) for _ in range(2))
    loss = LatentStep(judge, gamma=10.0)(real, fake)
    expected = 0.0
    for n in range(5):
        row = real[n : n + 1].clone().requires_grad_()
        logit = judge(row)
        (gradient,) = torch.autograd.grad(logit.sum(), row)
        losses = torch.log1p(torch.exp(judge(fake[n : n + 1]))) + torch.log1p(torch.exp(-logit))
        expected += float(losses.detach()) / 5
        expected += 5.0 * float(gradient.square().sum()) / 5
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in judge.parameters())


def test_rows_are_freed_one_after_the_other() -> None:
    """e4e's progressive training: the first alone, from 100 images on one more every 50, until all are free."""
    settings = replace(SETTINGS, free_first_at_images=100, free_every_images=50)
    assert [settings.free_rows(seen, 5) for seen in (0, 49, 50, 99)] == [1, 1, 1, 1]
    assert [settings.free_rows(seen, 5) for seen in (100, 149, 150, 200, 250, 9999)] == [2, 2, 3, 4, 5, 5]
    assert SETTINGS.free_rows(0, 5) == 5, "all from the start, unless told otherwise"


def test_losses_that_need_more_say_so(model: StyleRes) -> None:
    with pytest.raises(TrainingError, match="identity network"):
        E0Step(model, latent(), l1, None, SETTINGS, torch.float32)
    plain = E0Step(model, latent(), l1, None, E0Settings(), torch.float32)
    assert plain(images_of(1), 2)[1].keys() == {"pixel", "perceptual", "delta", "prior"}
