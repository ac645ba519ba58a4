"""How large a worker should be, from the seconds that a probe took, so that neither its cores nor its accelerator wait."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.engine.runner import OVERLAPPING

ACCELERATED: Final = ("detect", "model")
"""Parts of a worker's time in which an accelerator computes, where there is one."""
MOST_CORES: Final = 16
"""Cores of one worker at most."""
SLACK: Final = 0.05
"""Share of its time that an accelerator may wait before another worker is put beside."""
WRITTEN_AT_ONCE: Final = OVERLAPPING - 1
"""Items of a worker that are encoded or written while another is read: one after the other are only their frames."""


@dataclass(frozen=True)
class WorkerSize:
    """`--cpus-per-worker` and `--gpus-per-worker`, and what follows from them."""

    cpus_per_worker: int
    gpus_per_worker: float
    workers_per_gpu: int = 0
    cores_per_gpu: int = 0
    """Cores that the workers of one accelerator take; with fewer it waits."""
    gpu_busy: float = 0.0
    """Share of the time in which it computes, 0..1, of as many workers."""


def recommended(seconds: Mapping[str, Mapping[str, float]], *, accelerator: bool) -> WorkerSize:
    """The fewest cores for each accelerator with which it does not wait; of equal ones, the fewest workers.

    seconds: step => part => seconds, of one worker whose parts came one after the other.
    """
    busy = sum(parts.get(name, 0.0) for parts in seconds.values() for name in ACCELERATED)
    if not accelerator or busy <= 0:
        return WorkerSize(1, 0.0)  # models compute on the cores themselves: a core for each worker is never idle
    sizes = []
    for cores in range(1, MOST_CORES + 1):
        lap = sum(lap_seconds(step, parts, cores) for step, parts in seconds.items())
        workers = max(1, math.ceil((1 - SLACK) * lap / busy))
        share = math.floor(100 / workers) / 100
        sizes.append(WorkerSize(cores, share, workers, workers * cores, min(1.0, workers * busy / lap)))
    return min(sizes, key=lambda size: (size.cores_per_gpu, size.workers_per_gpu))


def lap_seconds(step: str, parts: Mapping[str, float], cores: int) -> float:
    """Seconds that a step takes a worker with so many cores and an accelerator: as long as the longest of what overlaps."""
    accelerated = sum(parts.get(name, 0.0) for name in ACCELERATED)
    rest = sum(parts.values()) - accelerated
    decode, crop = parts.get("decode", 0.0), parts.get("crop", 0.0)
    paste = parts.get("paste", 0.0) + parts.get("person", 0.0)
    match step:
        case "render":  # a decoder, the model, a pool that pastes, an encoder of each item (steps/render.py)
            lines = [decode, accelerated, (rest - decode - paste) / WRITTEN_AT_ONCE, paste / max(1, cores - 1)]
        case "scan" | "invert":  # what reads and crops, the detector or the encoder, what writes
            lines = [decode + crop, accelerated, (rest - decode - crop) / WRITTEN_AT_ONCE]
        case _:
            lines = [accelerated + rest]
    return max(*lines, rest / cores)
