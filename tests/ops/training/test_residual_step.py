"""The training step: what learns, what stays, and that edits and cycle are where they should be."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ops.data.faces import split_of
from ops.generators.discriminator import Discriminator
from ops.inversion.styleres import StyleRes
from ops.training import losses
from ops.training.adversary import DiscriminatorStep
from ops.training.residual import (
    ResidualSettings,
    ResidualStep,
    SimulatedEdit,
    draw_edits,
    residual_parts,
    weighted_sum,
)
from ops.training.trainer import TrainingError
from tests.small_model import SMALL

PLAIN, EDITED = 0.0, 4.5


@pytest.fixture(scope="module")
def model() -> StyleRes:
    torch.manual_seed(0)
    model = StyleRes(SMALL).eval().requires_grad_(False)
    model.latent_avg.normal_()
    residual_parts(model).requires_grad_(True)
    return model


def l1(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean(dim=(1, 2, 3))


def edits(alpha: list[float], along: float = 0.0) -> SimulatedEdit:
    count = len(alpha)
    draws = torch.Generator().manual_seed(1)
    return SimulatedEdit(torch.tensor(alpha), torch.randn(count, 16, generator=draws), torch.full((count, 16), along))


def step_of(model: StyleRes, settings: ResidualSettings | None = None, **changes: object) -> ResidualStep:
    torch.manual_seed(2)
    discriminator = Discriminator(model.config.generator).requires_grad_(False)
    settings = replace(settings or ResidualSettings(), **changes)  # type: ignore[arg-type]
    return ResidualStep(model, discriminator, l1, None, settings, torch.float32)


def images_of(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(3)).clamp(-1, 1)


def learnt(model: StyleRes) -> set[str]:
    return {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def test_only_e1_and_e2_learn(model: StyleRes) -> None:
    model.zero_grad()
    total, found, outputs = step_of(model)(images_of(4), edits([PLAIN, PLAIN, EDITED, EDITED]))
    assert set(found) == {
        "adversarial",
        "regulariser",
        "pixel",
        "perceptual",
        "cycle_pixel",
        "cycle_perceptual",
        "composite",
    }
    total.backward()
    assert learnt(model) == {"alignment", "extraction", "gates"}
    assert not outputs.requires_grad


def test_every_term_is_what_the_equations_say(model: StyleRes) -> None:
    """The whole step against a slow one, written out image by image with the model's own invert and generate."""
    images, edit = images_of(4), edits([PLAIN, EDITED, EDITED, PLAIN])
    step = step_of(model)
    with torch.no_grad():
        total, found, outputs = step(images, edit)
        expected = dict.fromkeys(found, 0.0)
        for n in range(4):
            x = images[n : n + 1]
            inversion = model.invert(x)
            assert inversion.detail is not None
            code, detail = inversion.wplus_NLD, inversion.detail
            offset = edit.alpha_N[n] * (edit.random_w_ND[n] - code) / 10
            out = model.generate(code + offset, detail)
            torch.testing.assert_close(out, outputs[n : n + 1], rtol=1e-4, atol=1e-5)
            styles = model.generator.styles(code + offset)
            generated = model.generator.features(styles, model.config.place)
            delta, _ = model.generating()(generated, detail)
            expected["regulariser"] += float(delta.abs().mean()) / 4
            if edit.alpha_N[n] == 0:
                expected["pixel"] += float((out - x).square().mean()) / 4
                expected["perceptual"] += float((out - x).abs().mean()) / 4
                continue
            again = model.invert(out)
            returned = model.generate(again.wplus_NLD - offset, again.detail)
            expected["cycle_pixel"] += float((returned - x).square().mean()) / 4
            expected["cycle_perceptual"] += float((returned - x).abs().mean()) / 4
            plain = model.generator(model.generator.styles(code))
            moved = model.generator(model.generator.styles(code + offset))
            target, mask = losses.composite_target(x, plain, moved)
            expected["composite"] += float(((1 + 4 * mask) * (out - target) ** 2).mean()) / 4
        logits = step.discriminate(outputs).numpy()
        expected["adversarial"] = float(np.log1p(np.exp(-logits)).mean())
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-4), name
    weights = {"adversarial": 0.03, "regulariser": 0.1, "pixel": 6, "perceptual": 2}
    weights |= {"cycle_pixel": 0.5, "cycle_perceptual": 0.25, "composite": 20}
    assert float(total) == pytest.approx(sum(weights[name] * value for name, value in expected.items()), rel=1e-4)


def test_two_slices_learn_what_the_whole_batch_does(model: StyleRes) -> None:
    """What several processes average; without the discriminator, whose minibatch statistics are a slice's own."""
    images, edit = images_of(4), edits([PLAIN, EDITED, PLAIN, PLAIN])
    step = step_of(model, adversarial_weight=0.0)

    def gradient(rows: slice) -> Tensor:
        model.zero_grad()
        step(images[rows], edit.part(rows, torch.device("cpu")))[0].backward()
        return torch.cat([p.grad.flatten().clone() for p in residual_parts(model).parameters() if p.grad is not None])

    whole = gradient(slice(0, 4))
    slices = (gradient(slice(0, 2)) + gradient(slice(2, 4))) / 2
    torch.testing.assert_close(slices, whole, rtol=1e-3, atol=1e-6)


def test_gradient_stops_can_be_lifted(model: StyleRes) -> None:
    """With only the cycle's loss: with stops E1/E2 learn from the second pass alone, without them from both."""
    only_cycle = ResidualSettings(
        pixel_weight=0,
        perceptual_weight=0,
        adversarial_weight=0,
        regulariser_weight=0,
        composite_weight=0,
    )

    def gradient(stop: bool) -> Tensor:
        model.zero_grad()
        step_of(model, only_cycle, stop_gradients=stop)(images_of(2), edits([EDITED, EDITED]))[0].backward()
        return torch.cat([p.grad.flatten().clone() for p in residual_parts(model).parameters() if p.grad is not None])

    stopped, through = gradient(True), gradient(False)
    assert stopped.any() and not torch.allclose(stopped, through, rtol=1e-2)


def test_settings_switch_terms(model: StyleRes) -> None:
    images, edit = images_of(2), edits([PLAIN, EDITED])
    assert "composite" not in step_of(model, composite_weight=0.0)(images, edit)[1]
    no_cycle = step_of(model, cycle_pixel_weight=0.0, cycle_perceptual_weight=0.0)(images, edit)[1]
    assert not any(name.startswith("cycle") for name in no_cycle)
    one, all_ = (step_of(model, cycle_on=on)(images, edit)[1]["cycle_pixel"] for on in ("edited", "all"))
    assert all_ > one
    subtract, affine = (step_of(model, reversal=r)(images, edit)[1]["cycle_pixel"] for r in ("subtract", "affine"))
    assert not torch.isclose(subtract, affine)
    delta, gated = (step_of(model, regularised=r)(images, edit)[1]["regulariser"] for r in ("delta", "gated"))
    assert gated < delta
    with pytest.raises(TrainingError, match="identity network"):
        step_of(model, identity_weight=0.1)
    plain = step_of(model, use_residual=False)
    assert not plain.encode(images, stop=True).residual.any()
    found = model.invert(images)
    assert found.detail is not None and not found.detail.any(), "as the bundle of such a training has it"


def test_discriminator_step_reaches_the_discriminator_and_penalises(model: StyleRes) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(model.config.generator)
    real, fake = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)
    step = DiscriminatorStep(discriminator, torch.float32, r1_gamma=1.0, r1_every=8)
    plain, penalised = step(real, fake, False), step(real, fake, True)
    gradient = real.clone().requires_grad_()
    expected = 0.5 * 1.0 * 8 * losses.r1_penalty(discriminator(gradient), gradient)
    torch.testing.assert_close(penalised - plain, expected, rtol=1e-4, atol=1e-6)
    penalised.backward()
    assert all(p.grad is not None for p in discriminator.parameters())


def test_edits_along_directions_replace_their_share(model: StyleRes) -> None:
    directions = torch.eye(16)[:3]
    settings = ResidualSettings(edit_share=0.5, direction_share=0.5, direction_strength=(1.0, 2.0))
    drawn = draw_edits(model, 2000, directions, settings, torch.Generator().manual_seed(0))
    along = drawn.along_ND.any(dim=1)
    assert not (along & (drawn.alpha_N > 0)).any(), "a sample has one edit or none"
    assert 0.2 < along.float().mean() < 0.3 and 0.45 < drawn.edited_N.float().mean() < 0.55
    size = drawn.along_ND[along].abs().sum(dim=1)
    assert size.min() >= 1 and size.max() <= 2
    assert (drawn.along_ND[along].sum(dim=1) > 0).float().mean() == pytest.approx(0.5, abs=0.1)
    assert not draw_edits(model, 50, None, settings, torch.Generator().manual_seed(0)).along_ND.any()
    none = draw_edits(model, 50, directions, replace(settings, edit_share=0.0), torch.Generator().manual_seed(0))
    assert not none.edited_N.any()


def test_a_weight_for_every_loss() -> None:
    names = ("pixel", "perceptual", "identity", "adversarial", "regulariser", "composite", "cycle_pixel", "cycle_identity")
    values = {name: torch.tensor(1.0) for name in names}
    settings = ResidualSettings(identity_weight=0.5, cycle_identity_weight=0.25)
    assert math.isclose(float(weighted_sum(values, settings)), 6 + 2 + 0.5 + 0.03 + 0.1 + 20 + 0.5 + 0.25, rel_tol=1e-6)


def test_identities_never_cross_splits() -> None:
    splits = [split_of(identity) for identity in range(5000)]
    shares = {name: splits.count(name) / len(splits) for name in ("train", "classifier", "held_out")}
    assert shares["train"] == pytest.approx(0.80, abs=0.02)
    assert shares["held_out"] == pytest.approx(0.05, abs=0.01)
