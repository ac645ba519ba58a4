"""The loop: a run that was stopped gives the weights of one that was not, and nothing is lost on the way."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ops.training.distributed import Worker
from ops.training.e0 import E0Settings, E0Task
from ops.training.residual import ResidualSettings, ResidualTask
from ops.training.trainer import Average, Learner, LoopSettings, Step, Task, TrainingError, load_result, train
from tests.small_model import SMALL

LOOP = LoopSettings(images=48, batch=4, warmup_images=8, ema_halflife_images=16, log_images=8, preview_images=16)
FACES = np.random.default_rng(0).integers(0, 256, (21, 8, 8, 3), dtype=np.uint8)


class Toy(Task):
    """One linear layer that learns the mean of the images, with noise from the step's draws."""

    name = "toy"

    def __init__(self, poison_at: int | None = None):
        torch.manual_seed(0)
        self.layer = nn.Linear(3 * 64, 4)
        self.learner = Learner("layer", self.layer, torch.optim.Adam(self.layer.parameters(), lr=1e-2), torch.float32)
        self.poison_at, self.seen = poison_at, list[Tensor]()
        self.rates: list[float] = []

    def learners(self) -> list[Learner]:
        return [self.learner]

    def step(self, step: Step) -> dict[str, Tensor]:
        noise = torch.randn(step.batch, 4, generator=step.draws)[step.mine]
        loss = (self.layer(step.images.flatten(1)) - noise).square().mean()
        self.learner.step(loss)
        self.seen.append(step.images)
        self.rates.append(self.learner.optimizer.param_groups[0]["lr"])
        return {"loss": loss * (float("nan") if step.index == self.poison_at else 1)}

    def pictures(self) -> np.ndarray | None:
        return np.full((8, 8, 3), 7, np.uint8)


class Stopped(Exception):
    pass


def crash_at(images: int):  # type: ignore[no-untyped-def]
    def watch(progress) -> None:  # type: ignore[no-untyped-def]
        if progress.images >= images:
            raise Stopped

    return watch


def weights(task: Task) -> list[Tensor]:
    return [value.clone() for value in task.trained().state_dict().values()]


def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, first, second = Toy(), Toy(), Toy()
    assert train(whole, FACES, LOOP, tmp_path / "a") == 48
    # Stopped by its time in the middle, then killed right after a checkpoint, then run to the end.
    assert train(first, FACES, replace(LOOP, max_minutes=1e-9), tmp_path / "b") == 0
    with pytest.raises(Stopped):
        train(first, FACES, replace(LOOP, checkpoint_minutes=0), tmp_path / "b", watch=crash_at(24))
    assert train(second, FACES, LOOP, tmp_path / "b") == 48
    assert len(second.seen) < len(whole.seen)
    for a, b in zip(weights(whole), weights(second), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(whole.seen[-len(second.seen) :], second.seen, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("kind", "entries"),
    [
        ("e0", {"encoder", "optimizer", "latent_discriminator", "d_optimizer"}),
        ("residual", {"parts", "optimizer", "discriminator", "d_optimizer"}),
    ],
)
def test_the_real_tasks_resume_exactly(tmp_path: Path, kind: str, entries: set[str]) -> None:
    from ops.generators.discriminator import Discriminator
    from ops.inversion.styleres import StyleRes

    faces = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    loop = replace(LOOP, images=16, precision="bf16")

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().mean(dim=(1, 2, 3))

    def build() -> Task:
        torch.manual_seed(0)
        model = StyleRes(SMALL)
        if kind == "e0":
            settings = E0Settings(latent_weight=0.1, free_first_at_images=8, free_every_images=4)
            return E0Task(model, distance, settings, dtype=loop.dtype)
        discriminator = Discriminator(model.config.generator)
        return ResidualTask(model, discriminator, distance, ResidualSettings(r1_every=2), dtype=loop.dtype)

    whole, first, second = build(), build(), build()
    train(whole, faces, loop, tmp_path / "a")
    with pytest.raises(Stopped):
        train(first, faces, replace(loop, checkpoint_minutes=0), tmp_path / "b", watch=crash_at(12))
    state = torch.load(tmp_path / "b" / f"{kind}.state.pt", weights_only=True)["state"]
    assert set(state) == entries, "states of earlier versions have these"
    train(second, faces, loop, tmp_path / "b")
    for name, value in whole.trained().state_dict().items():
        assert torch.equal(value, second.trained().state_dict()[name]), name
    before = build().trained().state_dict()
    still = [name for name, value in second.trained().state_dict().items() if torch.equal(value, before[name])]
    # Rows 3 and later of W+ never became free: their heads, and the layers that only they read, stay as they were.
    unread = ("latlayer", *(f"styles.{row}." for row in range(3, 8)))
    assert all(kind == "e0" and name.startswith(unread) for name in still), still


def test_the_gradients_of_float16_are_scaled_and_the_scale_is_kept() -> None:
    layers = [nn.Linear(1, 1, bias=False) for _ in range(2)]
    half, full = (
        Learner("layer", layer, torch.optim.SGD(layer.parameters(), lr=1.0), dtype, clip_norm=2.0, prefix="d_")
        for layer, dtype in zip(layers, (torch.float16, torch.float32), strict=True)
    )
    assert set(half.state()) == {"layer", "d_optimizer", "d_scaler"} and set(full.state()) == {"layer", "d_optimizer"}
    for learner, layer in ((half, layers[0]), (full, layers[1])):
        before = layer.weight.item()
        learner.step(3 * layer(torch.ones(1)).sum())
        assert before - layer.weight.item() == pytest.approx(2, rel=1e-5), "along a gradient of 3, cut to 2"


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    train(Toy(), FACES, replace(LOOP, images=16), tmp_path)
    with pytest.raises(TrainingError, match=r"loop\.images: 16 then, 48 now"):
        train(Toy(), FACES, LOOP, tmp_path)


def test_a_setting_that_is_younger_than_a_state_was_at_its_default(tmp_path: Path) -> None:
    """Else every new setting would refuse the runs that are under way."""

    @dataclass(frozen=True)
    class Before:
        rate: float = 0.5
        range: tuple[float, float] = (0.0, 1.0)

    @dataclass(frozen=True)
    class Now(Before):
        late_weight: float = 0.01

    halfway = replace(LOOP, max_minutes=1e-9)
    train(Toy(), FACES, halfway, tmp_path, about={"task": Before(), "data": {"faces": 21}})
    train(Toy(), FACES, halfway, tmp_path, about={"task": Now(), "data": {"faces": 21}})
    for about, said in (
        ({"task": Now(rate=0.25), "data": {"faces": 21}}, r"task\.rate: 0\.5 then, 0\.25 now"),
        ({"task": Now(), "data": {"faces": 22}}, r"data\.faces: 21 then, 22 now"),
    ):
        with pytest.raises(TrainingError, match=said):
            train(Toy(), FACES, halfway, tmp_path, about=about)
    with pytest.raises(TrainingError, match=r"task\.late_weight: 0\.01 then, 0\.02 now"):
        train(Toy(), FACES, LOOP, tmp_path, about={"task": Now(late_weight=0.02), "data": {"faces": 21}})
    assert train(Toy(), FACES, LOOP, tmp_path, about={"task": Now(), "data": {"faces": 21}}) == 48


def test_every_face_once_an_epoch_and_mirrored_half_the_time(tmp_path: Path) -> None:
    task = Toy()
    train(task, FACES, LOOP, tmp_path)
    epoch = torch.cat(task.seen[:5])
    left = epoch[:, :, :, :1].flatten(1)
    known = torch.from_numpy(FACES).permute(0, 3, 1, 2).float().sub(127.5).div(127.5)
    whose = [
        int(((known - image).abs().sum(dim=(1, 2, 3)) == 0).nonzero()) if _in(known, image) else -1 - int(_at(known, image))
        for image in epoch
    ]
    faces = [face if face >= 0 else -1 - face for face in whose]
    assert len(set(faces)) == 20 and 4 <= sum(face < 0 for face in whose) <= 16
    assert left.shape[0] == 20
    assert not torch.equal(torch.cat(task.seen[5:10]), epoch)


def _in(known: Tensor, image: Tensor) -> bool:
    return bool(((known - image).abs().sum(dim=(1, 2, 3)) == 0).any())


def _at(known: Tensor, image: Tensor) -> int:
    return int(((known - image.flip(2)).abs().sum(dim=(1, 2, 3)) == 0).nonzero())


def test_the_learning_rate_follows_the_images(tmp_path: Path) -> None:
    task = Toy()
    train(task, FACES, LOOP, tmp_path)
    assert task.rates[0] < 1e-2 and max(task.rates) == task.rates[1] and task.rates[-1] < 1e-3
    halving = replace(LOOP, schedule="halving", halve_at_images=(16, 32), warmup_images=0)
    assert [halving.learning_rate(seen) for seen in (0, 15, 16, 32, 47)] == [1, 1, 0.5, 0.25, 0.25]


def test_a_loss_that_is_not_finite_stops_with_its_batch_saved(tmp_path: Path) -> None:
    task = Toy(poison_at=5)
    with pytest.raises(TrainingError, match=r"step 5: loss nan.*toy\.bad_step\.pt"):
        train(task, FACES, replace(LOOP, checkpoint_minutes=0), tmp_path)
    saved = torch.load(tmp_path / "toy.bad_step.pt", weights_only=True)
    assert saved["step"] == 5 and torch.equal(saved["images"], task.seen[-1])
    assert torch.load(tmp_path / "toy.state.pt", weights_only=True)["step"] == 5, "the last whole step is kept"


def test_what_is_written_down(tmp_path: Path) -> None:
    task = Toy()
    train(task, FACES, LOOP, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "toy.jsonl").read_text().splitlines()]
    assert [row["images"] for row in rows] == [8, 16, 24, 32, 40, 48] and all(row["loss"] > 0 for row in rows)
    assert [path.name for path in sorted(tmp_path.glob("*.png"))] == [f"toy_{n:08d}.png" for n in (16, 32, 48)]
    other = nn.Linear(3 * 64, 4)
    load_result(other, tmp_path / "toy.pt")
    assert all(torch.equal(a, b) for a, b in zip(weights(task), other.state_dict().values(), strict=True))
    with pytest.raises(TrainingError, match="other sizes"):
        load_result(nn.Linear(3, 4), tmp_path / "toy.pt")
    with pytest.raises(TrainingError, match="no such checkpoint"):
        load_result(other, tmp_path / "nothing.pt")


def test_the_average_follows_with_its_half_life() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    average = Average(layer, halflife_images=10)
    nn.init.ones_(layer.weight)
    average.update(batch=10, seen=10_000)
    assert float(average.values["weight"]) == pytest.approx(0.5)
    with average.applied():
        assert float(layer.weight.detach()) == pytest.approx(0.5)
    assert float(layer.weight.detach()) == 1
    last = Average(layer, halflife_images=0)
    nn.init.zeros_(layer.weight)
    last.update(batch=10, seen=0)
    assert float(last.values["weight"]) == 0


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="does not divide over 3"):
        train(Toy(), FACES, LOOP, tmp_path, worker=Worker(rank=0, world=3))
    with pytest.raises(TrainingError, match="at least one batch of 4 faces, got 3"):
        train(Toy(), FACES[:3], LOOP, tmp_path)


def test_training_on_cuda_computes_float32_in_float32(tmp_path: Path) -> None:
    """Convolutions of float32 run in TF32 unless a process says otherwise; training said nothing. Needs no GPU to see."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, cudnn.deterministic
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, cudnn.deterministic = True, True, True, False
    try:
        on_cuda = Worker(rank=0, world=3, device=torch.device("cuda"))
        with pytest.raises(TrainingError, match="does not divide"):  # nothing of the GPU is touched before this
            train(Toy(), FACES, LOOP, tmp_path, worker=on_cuda)
        assert not cudnn.allow_tf32 and not matmul.allow_tf32 and not cudnn.benchmark and cudnn.deterministic
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, cudnn.deterministic = before
