"""What the other methods learn: losses against formulas written out, gradients where they belong, exact resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from ops.generators.discriminator import Discriminator
from ops.inversion.hfgi import Hfgi
from ops.inversion.hyperstyle import HyperStyle
from ops.inversion.inverter import Inverter
from ops.inversion.methods import build_inverter
from ops.inversion.sfe import Sfe
from ops.training.method_run import method_of
from ops.training.methods import Batch, Lesson, MethodSettings, MethodTask, Part, RefinedDeltas, parts_of, start_gently
from ops.training.trainer import LoopSettings, Step, TrainingError, train
from ops.training.warp import homography, random_perspective
from tests.small_model import SMALL, small

PARTS: tuple[Part, ...] = get_args(Part)
DIRECTIONS_KD = torch.randn(3, 16, generator=torch.Generator().manual_seed(4))
LOOP = LoopSettings(images=16, batch=4, precision="fp32", warmup_images=0, log_images=8, preview_images=100)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """In a perceptual network's place."""
    return (a - b).abs().mean(dim=(1, 2, 3))


def model_of(part: Part, seed: int = 0) -> Inverter:
    torch.manual_seed(seed)
    return build_inverter(method_of(part), small(method_of(part)))


def task_of(part: Part, seed: int = 0, judge: Discriminator | None = None, **settings: float) -> MethodTask:
    chosen = replace(MethodSettings(part), **settings)  # type: ignore[arg-type]
    model = model_of(part, seed)
    return MethodTask(model, distance, chosen, discriminator=judge, directions_KD=DIRECTIONS_KD, dtype=torch.float32)


def judge_of(seed: int = 5) -> Discriminator:
    torch.manual_seed(seed)
    return Discriminator(SMALL.generator)


def lesson_of(part: Part, **settings: float) -> tuple[Lesson, Inverter]:
    """In evaluation mode, so that batch normalisation is the same in two passes."""
    task = task_of(part, **settings)
    task.lesson.learnt.eval()
    return task.lesson, task.model


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def batch_of(lesson: Lesson, seen: int = 0, count: int = 2) -> Batch:
    return Batch(images(count), lesson.draw(count, torch.Generator().manual_seed(2)), seen)


def picture_losses(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    a, b = output.double(), target.double()
    return ((a - b) ** 2).mean(), (a - b).abs().mean()


# ------------------------------------------------------------------------------------------------------------ every part


@pytest.mark.parametrize(
    ("part", "adversarial"), [*((part, False) for part in PARTS), ("sfe-inverter", True), ("sfe-editor", True)]
)
def test_a_part_alone_changes_and_a_resumed_run_has_its_weights(tmp_path: Path, part: Part, adversarial: bool) -> None:
    """So has its discriminator, where there is one."""
    faces = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    whole, first, second = (
        task_of(part, judge=judge_of() if adversarial else None, adversarial_from_images=4, r1_every=2) for _ in range(3)
    )
    before = {name: value.clone() for name, value in model_of(part).state_dict().items()}
    train(whole, faces, LOOP, tmp_path / "a")

    class Stopped(Exception):
        pass

    def crash(progress: object) -> None:
        if progress.images >= 8:  # type: ignore[attr-defined]
            raise Stopped

    with pytest.raises(Stopped):
        train(first, faces, replace(LOOP, checkpoint_minutes=0), tmp_path / "b", watch=crash)
    train(second, faces, LOOP, tmp_path / "b")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    if adversarial:
        judges = [learner.module.state_dict() for task in (whole, second) for learner in task.learners()[1:]]
        assert all(torch.equal(value, judges[1][name]) for name, value in judges[0].items())
        assert not any(torch.equal(value, judges[0][name]) for name, value in judge_of().named_parameters())
    learnt = tuple(f"{name}." for name in whole.lesson.learnt)
    changed = {name for name, value in whole.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith(learnt) for name in changed)
    of_part = [name for name in before if name.startswith(learnt)]
    assert len(changed) > 0.9 * len(of_part), sorted(set(of_part) - changed)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_learns_a_picture(part: Part) -> None:
    """Thirty steps on two pictures, the same random draws: the weighted sum falls."""
    task = task_of(part, learning_rate=3e-3, feature_ramp_images=0)
    lesson = task.lesson
    totals = []
    for _ in range(30):
        total, _, _ = lesson(batch_of(lesson, seen=1))
        task.parts.step(total)
        totals.append(float(total.detach()))
    assert totals[-1] < 0.9 * totals[0], totals[::5]


def test_a_gentle_start_is_near_what_the_code_alone_gives() -> None:
    """Else the first steps unlearn noise: at 64 px an L2 of 0.96 where the code alone has 0.05."""
    model = model_of("hfgi").eval()
    assert isinstance(model, Hfgi)
    found = model.invert(images())
    plain = model.generator(model.generator.styles(found.wplus_NLD))
    distances = [(model.generate(found.wplus_NLD, found.detail) - plain).abs().mean()]
    start_gently(model, "hfgi")
    again = model.invert(images())
    distances.append((model.generate(again.wplus_NLD, again.detail) - plain).abs().mean())
    assert distances[1] < 0.3 * distances[0], distances


def test_an_identity_loss_needs_its_network() -> None:
    with pytest.raises(TrainingError, match="--identity-network"):
        task_of("hfgi", identity_weight=0.1)


def test_a_part_of_another_method_is_refused() -> None:
    with pytest.raises(TrainingError, match="a Hfgi model has no part sfe-editor"):
        parts_of(model_of("hfgi"), "sfe-editor")


# ------------------------------------------------------------------------------------------------------------ HyperStyle


def test_every_round_counts_and_none_sends_gradients_to_the_one_before() -> None:
    lesson, model = lesson_of("hyperstyle")
    assert isinstance(model, HyperStyle) and model.hypernet is not None
    total, losses, _ = lesson(batch_of(lesson))
    total.backward()
    found = {name: p.grad.clone() for name, p in lesson.learnt.named_parameters() if p.grad is not None}
    # The official program's steps, layer by layer, with what came before detached as one sum of deltas.
    model.zero_grad()
    with torch.no_grad():
        code = model.encode(images())
        shown = model.start(code).shown
    sums = {layer.name: torch.zeros(()) for layer in model.config.tuned}
    expected = torch.zeros((), dtype=torch.float64)
    for _ in range(model.config.hypernet.rounds):
        codes = model.hypernet(images(), shown)
        deltas = {name: sums[name] + model.deltas.layer(codes, name, 1) for name in sums}
        image = model.generator(model.generator.styles(code), weight_deltas=deltas)
        pixel, perceptual = picture_losses(image, images())
        expected = expected + pixel + 0.8 * perceptual
        sums = {name: value.detach() for name, value in deltas.items()}
        shown = image.detach()
    expected.backward()
    assert abs(float(total.detach()) - float(expected.detach())) < 1e-5 * abs(float(expected.detach()))
    assert abs(float(losses["pixel"].detach()) - float(pixel.detach())) < 1e-5
    for name, p in lesson.learnt.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(found[name], p.grad, rtol=1e-3, atol=1e-6)


def test_refined_deltas_are_the_sum_of_both() -> None:
    model = model_of("hyperstyle")
    assert isinstance(model, HyperStyle)
    before, now = torch.randn(2, 2, *model.config.detail_shape).unbind(0)
    for name, value in RefinedDeltas(model.deltas, before, now, 3).items():
        torch.testing.assert_close(value, model.deltas.layer(before + now, name, 4))


# ------------------------------------------------------------------------------------------------------------------ HFGI


def test_hfgi_lays_a_warped_residual_back() -> None:
    lesson, model = lesson_of("hfgi")
    assert isinstance(model, Hfgi) and model.alignment is not None and model.consultation is not None
    batch = batch_of(lesson)
    total, losses, _ = lesson(batch)
    found = model.invert(images())
    residual = found.detail
    assert residual is not None
    warped = random_perspective(residual, batch.random["corners_N42"])
    assert (warped - residual).abs().max() > 0.1, "the premise"
    styles = model.generator.styles(found.wplus_NLD)
    aligned = model.alignment(warped, model.shown(styles))
    image = model.generator(styles, injection=model.fusion(*model.consultation(aligned)))
    pixel, perceptual = picture_losses(image, images())
    alignment = (aligned.double() - residual.double()).abs().mean()
    assert abs(float(losses["alignment"].detach()) - float(alignment.detach())) < 1e-5
    assert abs(float(total.detach()) - float((pixel + 0.8 * perceptual + 0.1 * alignment).detach())) < 1e-4


def test_how_often_and_how_far_residuals_are_warped() -> None:
    lesson, _ = lesson_of("hfgi")
    corners = lesson.draw(4000, torch.Generator().manual_seed(0))["corners_N42"]
    warped = corners.flatten(1).any(dim=1)
    assert abs(float(warped.float().mean()) - 0.9) < 0.02
    assert float(corners.min()) >= 0 and 0.14 < float(corners.max()) <= 0.15


def test_a_perspective_is_opencvs_and_no_perspective_is_none() -> None:
    smooth = torch.nn.functional.interpolate(torch.randn(2, 3, 6, 6), size=(40, 40), mode="bicubic")
    assert torch.equal(random_perspective(smooth, torch.zeros(2, 4, 2)), smooth)
    share = torch.tensor([[[0.1, 0.0], [0.05, 0.12], [0.0, 0.1], [0.15, 0.03]]]).repeat(2, 1, 1)
    ours = random_perspective(smooth, share)
    # Corners of the picture's area in OpenCV's coordinates, where pixel centres are whole numbers.
    start = np.array([[-0.5, -0.5], [39.5, -0.5], [39.5, 39.5], [-0.5, 39.5]], np.float32)
    inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], np.float32)
    end = start + 20 * inwards * share[0].numpy()
    matrix = cv2.getPerspectiveTransform(start, end)
    theirs = cv2.warpPerspective(smooth[0].permute(1, 2, 0).numpy(), matrix, (40, 40), flags=cv2.INTER_LINEAR)
    inside = (slice(8, 32), slice(8, 32))
    np.testing.assert_allclose(ours[0].permute(1, 2, 0).numpy()[inside], theirs[inside], atol=0.05)


def test_a_homography_sends_its_four_points_where_they_belong() -> None:
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    source, target = (square + 0.3 * torch.rand(2, 5, 4, 2, generator=torch.Generator().manual_seed(0))).unbind(0)
    matrices = homography(source, target)
    sent = torch.cat([source, torch.ones(5, 4, 1)], dim=2) @ matrices.transpose(1, 2)
    torch.testing.assert_close(sent[..., :2] / sent[..., 2:], target, rtol=1e-3, atol=1e-3)


# ------------------------------------------------------------------------------------------------------------------- SFE


def test_sfes_features_take_over_gradually() -> None:
    lesson, model = lesson_of("sfe-inverter", feature_ramp_images=100)
    assert isinstance(model, Sfe)
    _, begin, _ = lesson(batch_of(lesson, seen=0))
    assert torch.equal(begin["pixel"], begin["w_pixel"]), "features do not count yet"
    total, end, _ = lesson(batch_of(lesson, seen=1000))
    code, features = model.features_of(images())
    styles = model.generator.styles(code)
    own = model.own_features(styles)
    pixel, perceptual = picture_losses(model.inserted(styles, features), images())
    w_pixel, w_perceptual = picture_losses(model.generator(styles), images())
    near = ((features.double() - own.double()) ** 2).mean()
    expected = pixel + 0.8 * perceptual + w_pixel + 0.8 * w_perceptual + 0.01 * near
    assert abs(float(total.detach()) - float(expected.detach())) < 1e-4 and not torch.equal(end["pixel"], end["w_pixel"])


def test_sfes_editor_learns_from_pairs_that_the_generator_makes() -> None:
    lesson, model = lesson_of("sfe-editor")
    assert isinstance(model, Sfe) and model.editor is not None
    batch = batch_of(lesson)
    total, losses, _ = lesson(batch)
    along = batch.random["along_ND"][:, None]
    sizes = torch.linalg.lstsq(DIRECTIONS_KD.T, along[:, 0].T).solution.abs().max(dim=0).values
    assert ((sizes > 0.7) & (sizes < 3.0)).all(), "one direction, within the range of strengths"
    twin = model.twin(images())
    before, after = (model.generator(model.generator.styles(code)) for code in (twin, twin + along))
    code, features = model.features_of(before)
    change = model.own_features(model.generator.styles(twin)) - model.own_features(model.generator.styles(twin + along))
    edited = model.inserted(model.generator.styles(code + along), model.editor(features, change))
    pixel, perceptual = picture_losses(edited, after)
    assert abs(float(losses["edit_pixel"].detach()) - float(pixel)) < 1e-4 * max(1, float(pixel))
    own_code, own = model.features_of(images())
    still = model.inserted(model.generator.styles(own_code), model.editor(own, torch.zeros_like(own)))
    still_pixel, still_perceptual = picture_losses(still, images())
    expected = still_pixel + 0.8 * still_perceptual + pixel + 0.8 * perceptual
    assert abs(float(total.detach()) - float(expected.detach())) < 1e-4 * max(1, float(expected.detach()))


def test_sfes_editor_without_edits_says_where_they_come_from() -> None:
    with pytest.raises(TrainingError, match="styleres train directions"):
        MethodTask(model_of("sfe-editor"), distance, MethodSettings("sfe-editor"))


def logistic(logits: Tensor) -> Tensor:
    return logits.double().exp().log1p().mean()


def test_sfes_inverter_is_judged_by_both_its_pictures() -> None:
    """Weight 0.01 on -log D of a batch of G(F, w) and G(w); the discriminator learns from both, with R1 on real pictures."""
    judge, real = judge_of(), images(4)
    settings = {"adversarial_from_images": 8, "feature_ramp_images": 0, "r1_gamma": 3.0, "r1_every": 4}
    task, without = (task_of("sfe-inverter", judge=one, **settings) for one in (judge, None))
    for one in (task, without):
        one.lesson.learnt.eval()
    batch = Batch(real, {}, 8)
    total, losses, fakes = task.lesson(batch)
    plain, plain_losses, _ = without.lesson(batch)
    model = task.model
    assert isinstance(model, Sfe) and fakes is not None and not fakes.requires_grad
    code, features = model.features_of(real)
    styles = model.generator.styles(code)
    torch.testing.assert_close(fakes, torch.cat([model.inserted(styles, features), model.generator(styles)]))
    expected = logistic(-judge(fakes))
    assert abs(float(losses["adversarial"].detach()) - float(expected.detach())) < 1e-5
    assert abs(float(total - plain) - 0.01 * float(expected.detach())) < 1e-5
    assert set(losses) - set(plain_losses) == {"adversarial"}
    losses["adversarial"].backward()
    assert any(p.grad is not None and p.grad.any() for p in task.lesson.learnt.parameters())
    assert all(p.grad is None for p in judge.parameters()), "it learns in its own step"

    seen = real.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(judge(seen).sum(), seen)
    penalty = 0.5 * 3.0 * 4 * gradient.double().square().sum(dim=(1, 2, 3)).mean()
    expected = logistic(judge(fakes)) + logistic(-judge(real))
    for index, due in ((4, penalty), (5, 0)):
        task = task_of("sfe-inverter", judge=judge_of(), **settings)
        task.lesson.learnt.eval()
        found = task.step(Step(index, real, torch.Generator(), slice(0, 4), 4))["discriminator"]
        assert abs(float(found) - float(expected + due)) < 1e-4 * float(expected + due)
    assert float(penalty) > 0.01, "the premise"


def test_sfes_editor_is_judged_by_the_picture_that_is_not_edited() -> None:
    judge = judge_of()
    task, without = (task_of("sfe-editor", judge=one, adversarial_from_images=0) for one in (judge, None))
    batch = batch_of(task.lesson)
    for one in (task, without):
        one.lesson.learnt.eval()
    total, losses, fakes = task.lesson(batch)
    model = task.model
    assert isinstance(model, Sfe) and model.editor is not None
    code, features = model.features_of(images())
    still = model.inserted(model.generator.styles(code), model.editor(features, torch.zeros_like(features)))
    torch.testing.assert_close(fakes, still)
    expected = logistic(-judge(still))
    assert abs(float(losses["adversarial"].detach()) - float(expected.detach())) < 1e-5
    assert abs(float(total - without.lesson(batch)[0]) - 0.01 * float(expected.detach())) < 1e-5


def test_sfe_is_judged_late_and_other_parts_never() -> None:
    """Officially from step 45,000 of 8 images on: before, a run with a discriminator is the run without."""
    task, without = (task_of("sfe-inverter", judge=one) for one in (judge_of(), None))
    before = judge_of().state_dict()
    for one in (task, without):
        assert "adversarial" not in one.step(Step(44_999, images(8), torch.Generator(), slice(0, 8), 8))
    for name, value in without.model.state_dict().items():
        assert torch.equal(task.model.state_dict()[name], value), name
    assert task.adversary is not None
    assert all(torch.equal(value, before[name]) for name, value in task.adversary.discriminator.state_dict().items())
    assert "adversarial" in task.step(Step(45_000, images(8), torch.Generator(), slice(0, 8), 8))
    assert "adversarial" not in without.step(Step(45_000, images(8), torch.Generator(), slice(0, 8), 8))

    def comes_to_it(part: Part, images: int, **changes: float) -> bool:
        return replace(MethodSettings(part), **changes).is_adversarial(images)  # type: ignore[arg-type]

    assert [part for part in PARTS if comes_to_it(part, 360_001)] == ["sfe-inverter", "sfe-editor"]
    assert not comes_to_it("sfe-editor", 360_000) and not comes_to_it("sfe-editor", 10**6, adversarial_weight=0.0)
