"""Trainings of the light StyleRes and of tails: they learn, and a run that was stopped is the run that was not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jobs.common.errors import UsageError
from jobs.train import mix
from ops.checkpoints.bundle import write_bundle
from ops.generators.mobile import Mobile, Window
from ops.inversion.light import FEATURE_SCALE, LightStyleRes, cells
from ops.spaces import images_from_crops
from ops.training.degrade import DegradeSettings, degraded
from ops.training.light import (
    LightE0Settings,
    LightE0Task,
    LightPictureSettings,
    LightPictureStep,
    LightPictureTask,
    LightResidualSettings,
    LightResidualTask,
    PictureParts,
    face_window,
    find_basis,
    keep_channels,
    residual_parts,
    sharpness,
    start_light_encoder,
)
from ops.training.looks import draw_looks
from ops.training.run import anchor_weights, light_residual_weights, light_weights, load_edits, prior_weights, unpack_light
from ops.training.synthetic import CodeSettings, draw_codes
from ops.training.tail import Inverted, PairPool, TailSettings, TailTask, counted, pair, start_tail
from ops.training.trainer import LoopSettings, Task, TrainingError, load_result, result_weights, save_result, train
from tests.small_light import CONFIG, GENERATOR, light_model

FACES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
LOOP = LoopSettings(
    images=16, batch=4, precision="fp32", warmup_images=1, ema_halflife_images=4, preview_images=8, log_images=4
)


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).abs().mean(dim=(1, 2, 3))


def e0_task() -> LightE0Task:
    model = light_model()
    assert model.encoder is not None
    start_light_encoder(model.encoder)
    settings = LightE0Settings(size=32, identity_weight=0.0, drawn_images=4)
    return LightE0Task(model, distance, settings, directions_KD=torch.randn(2, 12), held_out=FACES[:2])


def residual_task(learning_rate: float = 1e-3) -> LightResidualTask:
    settings = LightResidualSettings(learning_rate=learning_rate, size=32, side=12, pool=3, identity_weight=0.0)
    return LightResidualTask(light_model(), distance, settings, directions_KD=torch.randn(2, 12), held_out=FACES[:2])


def picture_task(learning_rate: float = 2e-3) -> LightPictureTask:
    model = light_model(trained=True)
    model.basis.copy_(find_basis(model, FACES))
    settings = LightPictureSettings(
        learning_rate=learning_rate, size=64, side=12, pool=3, identity_weight=0.0, wrong_person=0.0
    )
    return LightPictureTask(model, distance, settings, directions_KD=torch.randn(2, 12), held_out=FACES[:2])


def tail_task(size: int = 16) -> TailTask:
    torch.manual_seed(0)
    generator = light_model().generator
    assert isinstance(generator, Mobile)
    generator.synthesis.to_img.weight.data.mul_(20)  # random weights draw almost one colour
    start_tail(generator.synthesis.tails[f"px{size}"])  # type: ignore[arg-type]
    model = light_model(trained=True)
    model.generator = generator
    inverted = Inverted(model, FACES, torch.randn(2, 12, generator=torch.Generator().manual_seed(3)))
    return TailTask(
        generator, size, TailSettings(learning_rate=1e-2, pool=4, window=10, margin=2), inverted=inverted, held_out=inverted
    )


@pytest.mark.parametrize("build", [e0_task, residual_task, picture_task, tail_task])
def test_a_run_that_was_stopped_is_the_run_that_was_not(build: Callable[[], Task], tmp_path: Path) -> None:
    faces = None if build is tail_task else FACES
    straight = build()
    train(straight, faces, LOOP, tmp_path / "straight")
    for _ in range(40):
        stopped = build()
        if train(stopped, faces, LoopSettings(**{**vars(LOOP), "max_minutes": 0.002}), tmp_path / "stopped") >= LOOP.images:
            break
    for name, value in straight.trained().state_dict().items():
        torch.testing.assert_close(stopped.trained().state_dict()[name], value, msg=name)
    assert straight.pictures() is not None
    assert all(np.isfinite(value) for value in straight.measures().values()) and straight.measures()


def test_a_residual_learns_what_the_code_lacks(tmp_path: Path) -> None:
    task = residual_task(4e-2)
    before = task.measures()["held_out_square"]
    train(task, FACES, LoopSettings(**{**vars(LOOP), "images": 240, "preview_images": 1000}), tmp_path)
    assert task.measures()["held_out_square"] < 0.9 * before


def test_the_basis_holds_more_than_any_other_of_its_size() -> None:
    model = light_model(trained=True)

    def left(basis: torch.Tensor) -> float:
        model.basis.copy_(basis)
        images = images_from_crops(FACES)
        found = model.invert(images)
        return float((model.generate(found.wplus_NLD, found.detail, size=64) - images).square().mean())

    basis = find_basis(model, FACES)
    torch.testing.assert_close(basis @ basis.t(), torch.eye(20), atol=1e-5, rtol=1e-5)
    others = [torch.linalg.qr(torch.randn(48, 20, generator=torch.Generator().manual_seed(seed)))[0].t() for seed in range(3)]
    assert left(basis) < 0.7 * min(left(other) for other in others)


def test_fewer_channels_do_what_more_did() -> None:
    """Where E2 sees two mixtures of the four channels, two are enough."""
    model = light_model(trained=True)
    weights = {name: value.clone() for name, value in residual_parts(model).state_dict().items()}
    first = weights["transform.of_residual.weight"]
    mixtures = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    weights["transform.of_residual.weight"] = torch.einsum("okxy,kc->ocxy", first[:, :2], mixtures)
    fewer = keep_channels(weights, 2, model, FACES)
    assert fewer["extraction.last.weight"].shape[0] == fewer["transform.of_residual.weight"].shape[1] == 2
    images = images_from_crops(FACES[:2])
    features = model.features(model.generator.styles(model.code(images)))

    def seen(parts: dict[str, torch.Tensor]) -> torch.Tensor:
        inner = images.new_tensor(0) + model.extraction.blocks(  # type: ignore[union-attr]
            model.extraction.of_image(cells(images, CONFIG.cell))  # type: ignore[union-attr]
            + model.extraction.of_features(features * FEATURE_SCALE)  # type: ignore[union-attr]
        )
        last = torch.nn.functional.conv2d(inner, parts["extraction.last.weight"], parts["extraction.last.bias"])
        return torch.nn.functional.conv2d(last, parts["transform.of_residual.weight"], padding=1)

    torch.testing.assert_close(seen(fewer), seen(weights), atol=1e-4, rtol=1e-3)


def test_what_remains_after_an_edit_is_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.inversion.light.LARGE_CHANGE", 0.02)  # features of random weights change little
    task = picture_task(1e-2)
    pairs = task.pool.pairs(0, 3, torch.Generator().manual_seed(5))
    looks = draw_looks(3, pairs.pictures.shape[-1], 1.0, torch.Generator().manual_seed(6))

    def error() -> float:
        step = task.learn
        assert isinstance(step, LightPictureStep)
        return float(step(pairs, looks, Window(0, 0, 16), 64)[1]["pixel"])

    with torch.no_grad():
        before = error()
    train(task, FACES, LoopSettings(**{**vars(LOOP), "images": 400, "preview_images": 1000}), tmp_path)
    with torch.no_grad():
        assert error() < 0.95 * before


def test_a_tail_learns_the_averaged_picture(tmp_path: Path) -> None:
    task = tail_task()
    before = task.measures()
    train(task, None, LoopSettings(**{**vars(LOOP), "images": 800, "preview_images": 1000}), tmp_path)
    after = task.measures()
    assert after["psnr_db"] > before["psnr_db"] + 1 and after["psnr_inverted_db"] > before["psnr_inverted_db"]


def test_a_pool_follows_from_the_step_alone() -> None:
    generator = light_model().generator
    assert isinstance(generator, Mobile)
    (tail,) = GENERATOR.tails
    walked, jumped = (PairPool(generator, tail, TailSettings(pool=3, refresh_every=2), seed=1) for _ in range(2))
    for step in range(10):
        walked.at(step)
    jumped.at(9)
    for slot in range(3):
        assert torch.equal(walked.pictures[slot], jumped.pictures[slot])
        assert torch.equal(walked.rows[slot], jumped.rows[slot])
    code = walked.rows[0][None]
    features, picture = pair(generator, code, walked.place, 16)
    full = generator(generator.styles(code))
    torch.testing.assert_close(picture, torch.nn.functional.avg_pool2d(full, 4))
    torch.testing.assert_close(features, generator.features(generator.styles(code), "layers.1.conv2"))


def test_what_counts_of_a_window() -> None:
    """All but a margin at borders that are none of the picture's."""
    mask = counted(Window(0, 4, 8), 12, 2)
    assert mask.shape == (8, 8) and mask.sum() == (8 - 2) * (8 - 2)
    assert mask[0, 4] == 1 and mask[7, 4] == 0 and mask[4, 0] == 0 and mask[4, 7] == 1


def test_drawn_codes_are_mixed_and_moved() -> None:
    generator = light_model().generator
    draws = torch.Generator().manual_seed(0)
    plain = draw_codes(generator, 64, draws, CodeSettings(mixed_share=0.0, moved_share=0.0))
    assert torch.equal(plain, plain[:, :1].expand_as(plain))
    mixed = draw_codes(generator, 64, draws, CodeSettings(mixed_share=1.0, mixed_from=(2, 6)))
    assert torch.equal(mixed[:, 0], mixed[:, 1]) and not torch.equal(mixed[:, 0], mixed[:, 7])
    along = torch.eye(12)[:1] * 100
    moved = draw_codes(generator, 64, draws, CodeSettings(moved_share=0.5), along)
    assert 16 < int((moved[:, 0, 0].abs() > 10).sum()) < 48


def test_poor_pictures_are_of_the_same_face() -> None:
    images = torch.nn.functional.interpolate(torch.rand(3, 3, 6, 6) * 2 - 1, size=64, mode="bicubic").clamp(-1, 1)
    poor = degraded(images, torch.Generator().manual_seed(0), DegradeSettings(fewer_pixels=1, noise=1, compression=1))
    assert poor.shape == images.shape and poor.abs().max() <= 1
    assert 0.01 < (poor - images).abs().mean() < 0.3
    none = DegradeSettings(fewer_pixels=0, blur=0, noise=0, compression=0, cast=0)
    assert torch.equal(degraded(images, torch.Generator(), none), images)


def test_sharpness_sees_blur_and_no_shift_of_tone() -> None:
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    blurred = torch.nn.functional.avg_pool2d(images, 3, 1, 1)
    assert sharpness(blurred).mean() < 0.6 * sharpness(images).mean()
    torch.testing.assert_close(sharpness(images * 1.0 + 0.1), sharpness(images), atol=1e-4, rtol=1e-3)


def test_the_face_lies_in_its_window() -> None:
    window = face_window(64, 32)
    assert window == Window(20, 16, 32)


def test_a_bundle_is_where_a_training_may_begin(tmp_path: Path) -> None:
    """Its E0, E1 and E2 are those of the model that was written, to half precision."""
    model = light_model(trained=True)
    written(tmp_path / "light", model)
    found = light_residual_weights(str(tmp_path / "light"))
    for name, value in residual_parts(model).state_dict().items():
        torch.testing.assert_close(found[name], value, atol=1e-2, rtol=1e-2)
    assert model.encoder is not None
    assert anchor_weights(str(tmp_path / "light")).keys() == model.encoder.state_dict().keys()


def test_an_unpacked_bundle_gives_the_same_bundle(tmp_path: Path) -> None:
    written(tmp_path / "light", light_model(trained=True))
    out = tmp_path / "out"
    unpack_light(str(tmp_path / "light"), out)
    model = light_model()
    assert model.encoder is not None
    load_result(model.encoder, out / "e0.pt")
    load_result(residual_parts(model), out / "residual.pt")
    load_result(PictureParts(model), out / "picture.pt")
    model.generator.load_state_dict(prior_weights(out / "prior" / "generator.safetensors"))
    again, before = light_weights(model), load_file(tmp_path / "light" / "weights.safetensors")
    assert again.keys() == before.keys() and all(torch.equal(again[name], value) for name, value in before.items())
    tail = result_weights(out / "tail16.pt")
    assert torch.equal(tail["to_img.weight"], model.generator.state_dict()["synthesis.tails.px16.to_img.weight"])
    assert load_edits(out)[1].keys() == {"none"}
    with pytest.raises(TrainingError, match="expected an empty folder, it holds e0, residual, picture, tail16"):
        unpack_light(str(tmp_path / "light"), out)


def written(folder: Path, model: LightStyleRes) -> None:
    write_bundle(
        folder,
        name="light",
        method="styleres_light",
        config=CONFIG,
        licence="none",
        edits=[],
        weights=light_weights(model),
        directions={"none": torch.zeros(1)},
        card="# light\n",
    )


def test_weights_between_two_trainings(tmp_path: Path) -> None:
    low, high = ({"a": torch.full((2, 2), value)} for value in (1.0, 3.0))
    save_result(tmp_path / "low.pt", low, 10)
    save_result(tmp_path / "high.pt", high, 20)
    mix(tmp_path / "low.pt", tmp_path / "high.pt", tmp_path / "mixed.pt", 0.25)
    assert torch.equal(result_weights(tmp_path / "mixed.pt")["a"], torch.full((2, 2), 1.5))
    save_result(tmp_path / "other.pt", {"b": torch.zeros(1)}, 0)
    with pytest.raises(UsageError, match="other weights"):
        mix(tmp_path / "low.pt", tmp_path / "other.pt", tmp_path / "none.pt", 0.5)


def test_a_window_gets_the_looks_of_its_whole() -> None:
    draws = torch.Generator().manual_seed(3)
    smooth = torch.nn.functional.interpolate(
        torch.rand(4, 3, 9, 9, generator=draws) * 1.2 - 0.6, size=(128, 128), mode="bicubic"
    )
    looks, window = draw_looks(4, 128, 1.0, draws), Window(24, 40, 64)
    whole, part = looks.of(smooth), looks.of(window.of(smooth).contiguous(), window.of)
    assert (whole - smooth).abs().amax(dim=(1, 2, 3)).tolist().count(0.0) < 4, "some are touched"
    inner = (..., slice(8, -8), slice(8, -8))
    torch.testing.assert_close(part[inner], window.of(whole)[inner], atol=1e-4, rtol=0)
    torch.testing.assert_close(draw_looks(4, 128, 0.0, draws).of(smooth), smooth, atol=1e-5, rtol=0)
