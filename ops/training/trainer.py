"""The loop around every training here: what is drawn, when it stops, what is kept. What is learnt is a `Task`.

Exact resume: everything random in step k follows from (seed, k) alone, and learning rates from the images seen; the
checkpoint holds weights, their moving average, optimisers and the count of steps. So a run that was stopped and started
again has the same weights as one that was not.

Several processes: step k draws one global batch; each process takes its slice of it. Every loss is a mean over the batch,
so the averaged gradients are those of one process with the whole batch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer

from ops.data.faces import epoch_indices
from ops.device import set_up
from ops.inversion.session import Precision, feature_dtype
from ops.spaces import images_from_bytes
from ops.training.distributed import Worker

Schedule = Literal["cosine", "halving", "constant"]
Stateful = nn.Module | Optimizer | torch.amp.GradScaler
CHECKPOINT_FORMAT = 1


class TrainingError(RuntimeError):
    """A training that cannot start or go on; the message says what to do."""


@dataclass(frozen=True)
class LoopSettings:
    """When, how often, how much; the same for every task."""

    images: int
    """Length of the schedule. The run ends here; `max_minutes` may end it earlier, to be resumed."""
    batch: int
    """Images of one step over all processes."""
    seed: int = 0
    max_minutes: float | None = None
    """Minutes of this process's life; the schedule does not follow them."""
    precision: Precision = "bf16"
    """Precision of feature maps; parameters, losses and codes are float32."""
    schedule: Schedule = "cosine"
    warmup_images: int = 1000
    final_rate: float = 0.02
    """Share of the learning rate that a cosine ends on."""
    halve_at_images: tuple[int, ...] = ()
    """For the schedule "halving"."""
    ema_halflife_images: int = 2000
    """Half-life of the moving average of weights, which is the result of a training; 0 keeps the last weights themselves."""
    clip_norm: float = 1.0
    """Longest gradient that is followed as it is."""
    checkpoint_minutes: float = 5.0
    preview_images: int = 4000
    log_images: int = 400

    def learning_rate(self, seen: int) -> float:
        """The share of the peak learning rate after `seen` images."""
        warm = min(1.0, (seen + self.batch) / max(self.warmup_images, 1))
        match self.schedule:
            case "constant":
                return warm
            case "halving":
                return warm * 0.5 ** sum(seen >= at for at in self.halve_at_images)
            case "cosine":
                progress = min(seen / self.images, 1.0)
                return warm * (self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * progress)))

    @property
    def dtype(self) -> torch.dtype:
        return feature_dtype(self.precision)


@dataclass(frozen=True, eq=False)
class Step:
    """The input of one step of a task."""

    index: int
    images: Tensor
    """float32 [n, 3, R, R] in [-1, 1]: this process's slice of the global batch; [n, 0] for a task without faces."""
    draws: torch.Generator
    """For whatever else is random. Draw for the whole global batch, then take `mine`: see the module's head."""
    mine: slice
    batch: int
    """Images of all processes together."""


class Learner:
    """A module and what moves it."""

    def __init__(
        self,
        name: str,
        module: nn.Module,
        optimizer: Optimizer,
        dtype: torch.dtype,
        *,
        clip_norm: float = math.inf,
        prefix: str = "",
    ):
        """name: the module's in checkpoints. prefix: of the names `optimizer` and `scaler` there. dtype: of the feature maps
        that its loss is made of: the gradients of float16 are scaled. clip_norm: longest gradient that is followed as it is."""
        self.name, self.module, self.optimizer, self.clip_norm, self.prefix = name, module, optimizer, clip_norm, prefix
        device = next(module.parameters()).device
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def step(self, loss: Tensor) -> None:
        """Backward and one step of the optimiser."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state(self) -> dict[str, Stateful]:
        """Return what a checkpoint holds of it, by name; of a scaler that does not scale nothing."""
        moved: dict[str, Stateful] = {self.name: self.module, f"{self.prefix}optimizer": self.optimizer}
        return moved | ({f"{self.prefix}scaler": self.scaler} if self.scaler.is_enabled() else {})


class Task(ABC):
    """A training: its modules, its losses, its measures. Abstract."""

    name: str
    """Names the files: NAME.pt is the result, NAME.state.pt what a resume needs."""

    @abstractmethod
    def learners(self) -> Sequence[Learner]:
        """Everything that learns. The first is the result, which the moving average follows."""

    def beside(self) -> Mapping[str, nn.Module]:
        """Return other state that changes in training, by its name in the checkpoint; none in most tasks."""
        return {}

    def trained(self) -> nn.Module:
        """Return the module whose weights are the result."""
        return self.learners()[0].module

    def rate_groups(self) -> list[dict[str, Any]]:
        """The optimisers' groups of parameters, each with a learning rate. A resume puts others in their place."""
        return [group for learner in self.learners() for group in learner.optimizer.param_groups]

    def state(self) -> dict[str, Stateful]:
        """Everything that changes in training, by the name it has in the checkpoint."""
        return {name: part for learner in self.learners() for name, part in learner.state().items()} | dict(self.beside())

    @abstractmethod
    def step(self, step: Step) -> dict[str, Tensor]:
        """Run forward, backward and the optimisers once; => the losses, for the log. All must be finite: the loop checks."""

    @abstractmethod
    def pictures(self) -> np.ndarray | None:
        """A grid of pictures, uint8 [H, W, 3], of the present weights; None where the task has nothing to show."""

    def measures(self) -> dict[str, float]:
        """Measure the present weights, whenever pictures are made; most tasks measure nothing."""
        return {}


@dataclass
class Progress:
    """Where a training stands; the loop reports it once per step."""

    images: int
    total: int
    losses: Mapping[str, float]
    images_per_minute: float


def train(
    task: Task,
    faces: np.ndarray | None,
    settings: LoopSettings,
    out: Path,
    *,
    worker: Worker | None = None,
    watch: Callable[[Progress], None] | None = None,
    about: Mapping[str, Any] | None = None,
) -> int:
    """Train until the schedule or the time is over; => images seen in all. Resumes if `out` holds this task's state.

    faces: uint8 [N, R, R, 3]; None for a task that draws its own pictures, whose steps have none.
    about: what must be the same when a run is resumed, by section: settings as the dataclass that they are, or JSON values
    (data, digests).

    Raises:
        TrainingError: a checkpoint of another run in `out`; a loss that is not finite (its batch is saved first).
    """
    worker = worker or Worker()
    set_up(worker.device)
    if settings.batch % worker.world:
        raise TrainingError(f"a batch of {settings.batch} does not divide over {worker.world} processes; change one of them")
    share = settings.batch // worker.world
    mine = slice(worker.rank * share, (worker.rank + 1) * share)
    out.mkdir(parents=True, exist_ok=True)
    run = Run.of({"loop": settings, **(about or {})})
    # Learning rates at build time are the peaks of the schedule.
    peaks = [float(group["lr"]) for group in task.rate_groups()]
    average = Average(task.trained(), settings.ema_halflife_images)
    first = _resume(task, average, out / f"{task.name}.state.pt", run, worker.device)
    log = Log(out, task.name, first * settings.batch) if worker.rank == 0 else None
    started = saved = time.monotonic()
    index, total = first, math.ceil(settings.images / settings.batch)
    batches = None if faces is None else Batches(faces, settings)
    while index < total:
        minutes = (time.monotonic() - started) / 60
        if worker.any(settings.max_minutes is not None and minutes >= settings.max_minutes):
            break
        draws = torch.Generator().manual_seed(settings.seed * 1_000_003 + index)
        images = torch.empty(share, 0) if batches is None else batches.at(index, mine, draws, worker.device)
        seen = index * settings.batch
        for group, peak in zip(task.rate_groups(), peaks, strict=True):
            group["lr"] = peak * settings.learning_rate(seen)
        losses = task.step(Step(index, images, draws, mine, settings.batch))
        values = _finite(losses, images, index, out / f"{task.name}.bad_step.pt", task)
        average.update(settings.batch, seen)
        index += 1
        seen = index * settings.batch
        minutes = (time.monotonic() - started) / 60
        speed = (index - first) * settings.batch / max(minutes, 1e-9)
        if log is not None:
            log.add(seen, settings, values, minutes, speed)
            if watch is not None:
                watch(Progress(seen, total * settings.batch, values, speed))
            if seen // settings.preview_images != (seen - settings.batch) // settings.preview_images:
                log.look(seen, task, average)
            if time.monotonic() - saved > 60 * settings.checkpoint_minutes:
                saved = time.monotonic()
                _save(task, average, out, index, seen, run)
    if log is not None:
        _save(task, average, out, index, index * settings.batch, run)
        log.look(index * settings.batch, task, average)
        log.close()
    worker.barrier()
    average.keep()
    return index * settings.batch


class Batches:
    """The faces of each step, known from its number alone; half of them mirrored."""

    def __init__(self, faces: np.ndarray, settings: LoopSettings):
        """Raises TrainingError for less than one batch."""
        self.raw, self.settings, self.per_epoch = torch.from_numpy(faces), settings, len(faces) // settings.batch
        self.epoch: tuple[int, Tensor] | None = None
        if self.per_epoch == 0:
            raise TrainingError(f"expected at least one batch of {settings.batch} faces, got {len(faces)}; lower --batch")

    def at(self, index: int, mine: slice, draws: torch.Generator, device: torch.device) -> Tensor:
        """This process's slice of a step's batch: float32 [n, 3, R, R] in [-1, 1]."""
        number, place = divmod(index, self.per_epoch)
        if self.epoch is None or self.epoch[0] != number:
            self.epoch = number, epoch_indices(len(self.raw), self.settings.seed, number)
        chosen = self.epoch[1][place * self.settings.batch : (place + 1) * self.settings.batch]
        mirrored = torch.rand(self.settings.batch, 1, 1, 1, generator=draws) < 0.5
        images = images_from_bytes(self.raw[chosen[mine]].to(device, non_blocking=True))
        return torch.where(mirrored[mine].to(device), images.flip(3), images)


class Average:
    """Exponential moving average of a module's parameters; its buffers are taken as they are."""

    def __init__(self, module: nn.Module, halflife_images: int):
        self.module, self.halflife = module, halflife_images
        self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, batch: int, seen: int) -> None:
        """After a step. The half-life is at most a twentieth of what was seen, so that the start is forgotten early."""
        halflife = min(self.halflife, max(seen, batch) / 20)
        decay = 0.0 if self.halflife == 0 else 0.5 ** (batch / halflife)
        for name, value in self.module.state_dict().items():
            if value.is_floating_point() and decay > 0:
                self.values[name].lerp_(value, 1 - decay)
            else:
                self.values[name].copy_(value)

    def applied(self) -> _Applied:
        """Within its block the module has the averaged weights."""
        return _Applied(self)

    def keep(self) -> None:
        """Leave the averaged weights in the module: training is over."""
        self.module.load_state_dict(self.values)


class _Applied:
    def __init__(self, average: Average):
        self.average = average

    def __enter__(self) -> None:
        self.trained = {name: value.detach().clone() for name, value in self.average.module.state_dict().items()}
        self.average.module.load_state_dict(self.average.values)

    def __exit__(self, *_: object) -> None:
        self.average.module.load_state_dict(self.trained)


class Log:
    """NAME.jsonl, TensorBoard scalars and pictures where tensorboard is installed, NAME_*.png."""

    def __init__(self, out: Path, name: str, seen: int):
        self.out, self.name = out, name
        self.sums: dict[str, tuple[float, int]] = {}
        self.board = _board(out / "tensorboard" / name, seen)

    def add(self, seen: int, settings: LoopSettings, values: Mapping[str, float], minutes: float, speed: float) -> None:
        """One row, of means, every `log_images` images."""
        for name, value in values.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + value, count + 1
        if seen // settings.log_images == (seen - settings.batch) // settings.log_images:
            return
        means = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        self._write({"images": seen, "minutes": round(minutes, 2), "images_per_minute": round(speed)}, means, seen)

    def look(self, seen: int, task: Task, average: Average) -> None:
        """Pictures and measures of the averaged weights."""
        with average.applied():
            self.picture(seen, task.pictures())
            measures = task.measures()
        if measures:
            self._write({"images": seen}, measures, seen)

    def _write(self, row: dict[str, float], values: Mapping[str, float], seen: int) -> None:
        with (self.out / f"{self.name}.jsonl").open("a") as file:
            file.write(json.dumps(row | {name: round(value, 6) for name, value in values.items()}) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"{self.name}/{name}", value, seen)

    def picture(self, seen: int, grid: np.ndarray | None) -> None:
        if grid is None:
            return
        Image.fromarray(grid).save(self.out / f"{self.name}_{seen:08d}.png")
        if self.board is not None:
            self.board.add_image(f"{self.name}/pictures", grid, seen, dataformats="HWC")

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def _board(folder: Path, seen: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the extra [train] has it; the JSON lines say the same
        return None
    return SummaryWriter(str(folder), purge_step=seen)


def _finite(losses: Mapping[str, Tensor], images: Tensor, index: int, path: Path, task: Task) -> dict[str, float]:
    """The losses as numbers. Raises TrainingError if one is not finite; the batch is then in `path`."""
    names = list(losses)
    values = dict(zip(names, torch.stack([losses[name].detach().float() for name in names]).tolist(), strict=True))
    wrong = [f"{name} {value}" for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        save_atomic(path, {"step": index, "images": images.cpu(), "losses": values})
        raise TrainingError(
            f"{task.name}, step {index}: {', '.join(wrong)}. The batch is in {path}. The last checkpoint is whole: start "
            "again from it with a lower learning rate, or with --precision fp32 to see whether the precision is to blame"
        )
    return values


FREE_TO_CHANGE = {"max_minutes", "checkpoint_minutes", "preview_images", "log_images"}


@dataclass(frozen=True)
class Run:
    """Facts that a resumed run must share with the run that was stopped: JSON values by section."""

    facts: Mapping[str, Mapping[str, Any]]
    defaults: Mapping[str, Mapping[str, Any]]
    """Values of the sections that are settings."""

    @staticmethod
    def of(about: Mapping[str, Any]) -> Run:
        facts, defaults = dict(about), {}
        for section, part in about.items():
            if dataclasses.is_dataclass(part):
                fields = [field for field in dataclasses.fields(part) if field.name not in FREE_TO_CHANGE]
                facts[section] = {field.name: getattr(part, field.name) for field in fields}
                defaults[section] = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
        return Run(*json.loads(json.dumps([facts, defaults])))

    def changes(self, before: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Name the facts in which a state differs, for people.

        A setting that the state does not know is younger than it, and its default is what was done before there was one.
        """
        changes = []
        for section in sorted({*before, *self.facts}):
            then, now = {**self.defaults.get(section, {}), **before.get(section, {})}, self.facts.get(section, {})
            differing = sorted(key for key in {*then, *now} if then.get(key) != now.get(key))
            changes += [f"{section}.{key}: {then.get(key)!r} then, {now.get(key)!r} now" for key in differing]
        return changes


def _save(task: Task, average: Average, out: Path, index: int, seen: int, run: Run) -> None:
    """The result first, the state last: a state never names a result that is not there."""
    save_result(out / f"{task.name}.pt", average.values, seen)
    state = {name: part.state_dict() for name, part in task.state().items()}
    content = {"format": CHECKPOINT_FORMAT, "step": index, "run": json.dumps(run.facts), "state": state}
    save_atomic(out / f"{task.name}.state.pt", content | {"average": average.values})


def _resume(task: Task, average: Average, path: Path, run: Run, device: torch.device) -> int:
    """=> the step to continue with: 0 without a state."""
    if not path.exists():
        return 0
    content = torch.load(path, map_location=device, weights_only=True)
    if changed := run.changes(json.loads(content["run"])):
        raise TrainingError(f"{path} belongs to another run ({'; '.join(changed)}); use the same settings or another --out")
    for name, part in task.state().items():
        part.load_state_dict(content["state"][name])
    for name, value in content["average"].items():
        average.values[name].copy_(value)
    return int(content["step"])


def save_result(path: Path, weights: Mapping[str, Tensor], images: int) -> None:
    """Write a NAME.pt, as `load_result` reads it. images: how many the training behind it has seen."""
    save_atomic(path, {"format": CHECKPOINT_FORMAT, "images": images, "weights": dict(weights)})


def load_result(module: nn.Module, path: Path) -> None:
    """The weights that a training left in NAME.pt. Raises TrainingError for a missing file or another one's."""
    try:
        module.load_state_dict(_result(path)["weights"])
    except RuntimeError as error:
        raise TrainingError(f"{path}: belongs to a model of other sizes ({error})") from error


def result_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a NAME.pt, by name. Raises as `load_result`."""
    weights: dict[str, Tensor] = _result(path)["weights"]
    return weights


def images_seen(path: Path) -> int:
    """How many images the training behind a NAME.pt has seen. Raises as `load_result`."""
    return int(_result(path)["images"])


def _result(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise TrainingError(f"{path}: no such checkpoint; run the training step before this one with the same --out")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or content.get("format") != CHECKPOINT_FORMAT:
        raise TrainingError(f"{path}: not a result of `styleres train` of this version")
    return content


def save_atomic(path: Path, content: Mapping[str, Any]) -> None:
    """Written beside, flushed, then renamed: a crash leaves the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(dict(content), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
