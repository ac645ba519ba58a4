"""What every training loop here needs: a budget that sets the schedule, a log, a guard against NaN, atomic checkpoints."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer


@dataclass
class Budget:
    """Stops after `max_minutes`; learning rates follow the share of it that is spent (warm-up, then a half cosine)."""

    max_minutes: float
    warmup: float = 0.02
    floor: float = 0.02
    started: float = field(default_factory=time.monotonic)

    @property
    def progress(self) -> float:
        """0 at the start, 1 when the time is up."""
        return (time.monotonic() - self.started) / (60 * self.max_minutes)

    def learning_rate(self, peak: float) -> float:
        p = min(self.progress, 1.0)
        if p < self.warmup:
            return peak * max(p / self.warmup, 0.01)
        cosine = 0.5 * (1 + math.cos(math.pi * (p - self.warmup) / (1 - self.warmup)))
        return peak * (self.floor + (1 - self.floor) * cosine)

    def apply(self, optimizer: Optimizer, peak: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate(peak)


class Log:
    """Running means, printed as one JSON line every `every` steps and appended to `path`."""

    def __init__(self, path: Path, every: int = 50):
        self.path, self.every = path, every
        self.sums: dict[str, tuple[float, int]] = {}
        self.count = 0
        self.images = 0
        self.started = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, batch: int, losses: Mapping[str, Tensor]) -> None:
        """Raises FloatingPointError when a loss is not finite: nothing after such a step can be trusted."""
        self.count += 1
        self.images += batch
        for name, value in losses.items():
            number = float(value.detach())
            if not math.isfinite(number):
                raise FloatingPointError(f"{name} is {number} after {self.images} images; lower the learning rate")
            total, seen = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + number, seen + 1
        if self.count == self.every:
            minutes = (time.monotonic() - self.started) / 60
            row = {"images": self.images, "minutes": round(minutes, 2), "images_per_minute": round(self.images / minutes)}
            row |= {name: round(total / seen, 5) for name, (total, seen) in self.sums.items()}
            line = json.dumps(row)
            print(line, flush=True)
            with self.path.open("a") as file:
                file.write(line + "\n")
            self.sums, self.count = {}, 0


def save_checkpoint(path: Path, state: Mapping[str, object]) -> None:
    """Written beside, flushed, then renamed: a crash leaves the old checkpoint or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
