"""Training of a prior: its distance and queue against closed forms, exact resume, warm start and growth, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from jobs.train import app
from ops.checkpoints.prior import read_prior_config
from ops.generators.discriminator import Discriminator
from ops.generators.stylegan2_config import StyleGAN2Config
from ops.inversion.styleres import StyleRes
from ops.training.augment import Augmentation, augment, draw_augmentation
from ops.training.prior import Anchored, CodeQueue, PriorSettings, PriorTask, recolour, sliced_wasserstein, whitening
from ops.training.run import model_on_prior, prior_parts
from ops.training.trainer import LoopSettings, TrainingError, train
from tests.small_model import SMALL
from tests.tiny import CONFIG

LOOP = LoopSettings(images=16, batch=4, warmup_images=8, ema_halflife_images=16, log_images=8, preview_images=8)


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean(dim=(1, 2, 3))


def faces(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def small_task(settings: PriorSettings | None = None, held_out: np.ndarray | None = None) -> PriorTask:
    torch.manual_seed(0)
    model = StyleRes(SMALL)
    learnt = Anchored(model.generator, model.inverting()[0])
    settings = settings or PriorSettings(queue=8, compared=8, directions=4, r1_every=2, recolour_every=3)
    pooled = lambda images: [images[:, :, ::4, ::4]]  # noqa: E731
    return PriorTask(learnt, Discriminator(SMALL.generator), distance, settings, features=pooled, held_out=held_out)


def test_the_distance_of_a_shifted_set_is_the_shift_seen_along_the_directions() -> None:
    a = torch.randn(64, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    directions = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    shift = torch.arange(8, dtype=torch.float64)
    expected = (directions / directions.norm(dim=1, keepdim=True) @ shift).abs().mean()
    torch.testing.assert_close(sliced_wasserstein(a, (a + shift)[torch.randperm(64)], directions), expected)
    assert sliced_wasserstein(a, a.flip(0), directions) == 0


def test_whitened_codes_have_unit_variance_where_they_had_any() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(4000, 6, generator=generator) * torch.tensor([2.0, 1.0, 1.0, 0.5, 0.5, 0.001])
    mixed = codes @ torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    spread = torch.linalg.eigvalsh(torch.cov((mixed @ whitening(mixed)).t()))
    assert spread[0] < 0.001 and spread[1] > 0.7 and spread[-1] < 1.0


def test_the_queue_keeps_the_last_codes() -> None:
    queue = CodeQueue(4, 1)
    assert queue.add(torch.tensor([[1.0], [2.0], [3.0]]))[:, 0].tolist() == [1, 2, 3]
    assert sorted(queue.add(torch.tensor([[4.0], [5.0], [6.0]]))[:, 0].tolist()) == [3, 4, 5, 6]


def test_no_augmentation_changes_nothing_and_a_shift_moves_by_its_share() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(augment(images, draw_augmentation(2, 0.0, torch.Generator())), images)
    down_and_left = torch.tensor([[2 / 16, -1 / 16], [0, 0]])
    moved = augment(images, Augmentation(torch.zeros(2), torch.ones(2), torch.ones(2), down_and_left))
    torch.testing.assert_close(moved[0, :, 2:, :-1], images[0, :, :-2, 1:])
    assert moved[0, :, :2].abs().max() < 1e-6
    torch.testing.assert_close(moved[1], images[1])
    always = draw_augmentation(64, 1.0, torch.Generator().manual_seed(3))
    assert always.brightness_N.abs().max() <= 0.5 and always.brightness_N.std() > 0.2
    assert (draw_augmentation(1000, 0.2, torch.Generator().manual_seed(3)).contrast_N != 1).float().mean() == pytest.approx(
        0.2, abs=0.04
    )


def test_a_prior_resumes_exactly(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(progress: object) -> None:
        if getattr(progress, "images") == 12:  # noqa: B009
            raise Stopped

    images = faces(9, 32)
    whole, first, second = small_task(), small_task(), small_task()
    train(whole, images, LOOP, tmp_path / "a")
    with pytest.raises(Stopped):
        train(first, images, replace(LOOP, checkpoint_minutes=0), tmp_path / "b", watch=stop)
    state = torch.load(tmp_path / "b" / "prior.state.pt", weights_only=True)["state"]
    assert set(state) == {"learnt", "optimizer", "discriminator", "d_optimizer", "queue"}, (
        "states of earlier versions have these"
    )
    train(second, images, LOOP, tmp_path / "b")
    before, after = small_task().trained().state_dict(), second.trained().state_dict()
    for name, value in whole.trained().state_dict().items():
        assert torch.equal(value, after[name]), name
    assert {name for name in before if torch.equal(before[name], after[name])} <= {
        "origin_D",
        *(name for name in before if name.endswith("noise_const")),
    }


def test_a_held_generator_stays_while_the_anchor_learns(tmp_path: Path) -> None:
    task = small_task(PriorSettings(queue=8, compared=8, directions=4, settle_images=16))
    before = {name: value.clone() for name, value in task.learnt.state_dict().items()}
    train(task, faces(9, 32), replace(LOOP, ema_halflife_images=0), tmp_path)
    after = task.learnt.state_dict()
    for name, value in before.items():
        assert torch.equal(value, after[name]) or not name.startswith("generator.synthesis."), name
    assert not torch.equal(before["encoder.styles.0.linear.bias"], after["encoder.styles.0.linear.bias"])


def test_recoloured_samples_have_the_mean_and_covariance_of_the_codes() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    mapping = StyleRes(SMALL).generator.mapping
    spread = torch.logspace(-2, 0, 16)
    turned = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q
    # Away from the activation's kink, where the match is exact: some channels positive, some negative.
    codes = (torch.randn(5000, 16, generator=generator) * spread) @ turned * 0.1 + torch.tensor([1.0, -1.0]).repeat(8)
    recolour(mapping, codes)
    with torch.no_grad():
        mapped = mapping(torch.randn(20_000, SMALL.generator.z_dim, generator=generator))
    torch.testing.assert_close(mapped.mean(dim=0), codes.mean(dim=0), atol=0.01, rtol=0)
    torch.testing.assert_close(torch.cov(mapped.t()), torch.cov(codes.t()), atol=5e-4, rtol=0)
    torch.testing.assert_close(mapping.w_avg, mapped.mean(dim=0), atol=0.01, rtol=0)


def test_the_whitened_distance_brings_samples_to_the_codes() -> None:
    """Codes with a tenth of the spread in half of their directions: too wide there is what plain lines do not see."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.cat([torch.full((8,), 0.3), torch.full((8,), 0.03)])
    codes = 0.5 + torch.randn(512, 16, generator=generator) * spread
    white, directions = whitening(codes), torch.randn(64, 16, generator=generator)
    scale, shift = torch.full((16,), 0.3, requires_grad=True), torch.zeros(16, requires_grad=True)
    optimizer = torch.optim.Adam([scale, shift], lr=0.02)
    for _ in range(150):
        mapped = shift + scale * torch.randn(512, 16, generator=generator)
        loss = sliced_wasserstein(mapped @ white, codes @ white, directions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(shift.detach(), torch.full((16,), 0.5), atol=0.1, rtol=0)
    assert scale[8:].abs().max() < 0.1
    assert scale[:8].abs().min() > 0.15


def test_what_it_measures_is_zero_for_equal_pictures() -> None:
    task = small_task(held_out=faces(40, 32))
    measures = task.measures()
    assert measures["held_out_l2"] > 0 and measures["frechet_features_sampled"] > 0
    task._reconstructed = lambda images: images  # type: ignore[method-assign]
    perfect = task.measures()
    assert perfect["held_out_l2"] == 0 and perfect["frechet_features_reconstructed"] == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command: a new prior of 32 px on a folder of pictures."""
    from PIL import Image

    root = tmp_path_factory.mktemp("prior")
    (root / "faces").mkdir()
    for i, picture in enumerate(faces(150, 32)):
        Image.fromarray(picture).save(root / "faces" / f"{i}.png")
    arguments = ["prior", "--data", str(root / "faces"), "--out", str(root / "run"), "--images", "16", "--batch", "8"]
    sizes = ["--resolution", "32", "--channel-base", "256", "--channel-max", "16", "--w-dim", "32", "--mapping-layers", "2"]
    result = CliRunner().invoke(app, [*arguments, *sizes, "--set", "queue=16", "--set", "compared=16"])
    assert result.exit_code == 0, result.output
    return root


def test_the_command_leaves_a_prior_that_training_and_growth_start_from(trained: Path) -> None:
    folder = trained / "run" / "prior"
    config = read_prior_config(folder)
    assert (config.resolution, config.w_dim, config.channels[4], config.channels[32]) == (32, 32, 16, 8)
    rows = [json.loads(line) for line in (trained / "run" / "prior.jsonl").read_text().splitlines()]
    assert any("frechet_features_sampled" in row for row in rows)
    assert (trained / "run" / "prior_00000016.png").exists()
    # The anchor's codes are counted from the mean code, as an encoder's are on this prior.
    learnt, _ = prior_parts(config, folder, None)
    result = torch.load(trained / "run" / "prior.pt", weights_only=True)["weights"]
    mean = load_file(folder / "generator.safetensors")["mapping.w_avg"]
    moved = result["origin_D"] - mean
    # Its samples follow the last codes, which the average of a mapping network that is recoloured now and then does not; but
    # for the activation's kink, near which these small codes lie.
    codes = torch.load(trained / "run" / "prior.state.pt", weights_only=True)["state"]["queue"]["codes_QD"]
    assert (mean - codes.mean(dim=0)).norm() < 0.7 * (result["generator.mapping.w_avg"] - codes.mean(dim=0)).norm()
    bias = learnt.encoder.heads()[0].linear.bias
    torch.testing.assert_close(bias.detach(), result["encoder.styles.0.linear.bias"] + moved)
    model = model_on_prior(folder, "mini")
    model.inverting()[0].load_state_dict(load_file(folder / "anchor.safetensors"))


def test_a_prior_grows_by_one_block_that_adds_nothing_at_first(trained: Path) -> None:
    folder = trained / "run" / "prior"
    before = read_prior_config(folder)
    small, _ = prior_parts(before, folder, None)
    large, judge = prior_parts(replace(before, resolution=64, channels={**before.channels, 64: 4}), folder, None)
    w = torch.randn(2, before.w_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        old = small.pictures(small.repeated(w), dtype=torch.float32)
        new = large.pictures(large.repeated(w), dtype=torch.float32)
        enlarged = torch.nn.functional.avg_pool2d(new, 2)
    assert new.shape[-1] == 64
    # Twice the size through StyleGAN2's own filter, which blurs a little.
    assert (enlarged - old).abs().mean() < 0.5 * old.std()
    assert judge(new).shape == (2, 1)


def test_what_does_not_fit_is_said(trained: Path) -> None:
    folder = trained / "run" / "prior"
    with pytest.raises(TrainingError, match="one block at a time, to 64 px"):
        prior_parts(StyleGAN2Config(resolution=128, channels={4: 4, 8: 4, 16: 4, 32: 4, 64: 4, 128: 4}), folder, None)
    with pytest.raises(TrainingError, match="of other sizes"):
        prior_parts(replace(read_prior_config(folder), w_dim=16, z_dim=16), folder, None)
    with pytest.raises(TrainingError, match="another encoder"):
        prior_parts(CONFIG.generator, None, {"nothing": torch.zeros(3)})
    result = CliRunner().invoke(
        app, ["prior", "--data", str(trained / "faces"), "--out", str(trained / "x"), "--resolution", "48"]
    )
    assert result.exit_code == 2 and "expected a resolution of 32, 64" in result.output
