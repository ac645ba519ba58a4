"""Options of all trainings, and their start: in this process, or on Ray with several."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from jobs.common.errors import UsageError
from ops.device import resolve_device
from ops.inversion.session import Precision
from ops.training.distributed import Worker
from ops.training.method_run import Plan, run_plan
from ops.training.trainer import LoopSettings, Progress

Data = Annotated[str, typer.Option("--data", help="Aligned faces: a Parquet file, a folder of images, or hf:NAME.")]
Prior = Annotated[Path, typer.Option("--prior", help="Folder with generator and discriminator .safetensors and config.json.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of checkpoints, logs and pictures; shared by all workers.")]
Images = Annotated[int | None, typer.Option("--images", min=1, help="Length of the schedule; the preset's if not given.")]
MaxMinutes = Annotated[float | None, typer.Option("--max-minutes", min=0.01, help="Stop then; the same command goes on.")]
Batch = Annotated[int | None, typer.Option("--batch", min=1, help="Images of a step, over all workers.")]
Seed = Annotated[int, typer.Option("--seed")]
PrecisionName = Annotated[
    Precision | None, typer.Option("--precision", help="Precision of feature maps; the preset's if not given.")
]
Set = Annotated[list[str], typer.Option("--set", help="NAME=VALUE of the step's settings, several times.")]
IdentityNetwork = Annotated[
    Path | None, typer.Option("--identity-network", help="Weights of MobileFaceNet or ArcFace IR-SE50, for identity losses.")
]
VggWeights = Annotated[Path | None, typer.Option("--vgg-weights", help="VGG16, for the tree's perceptual loss.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads of torch; all cores if not given.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes; more than one run on Ray Train.")]
GpusPerWorker = Annotated[float, typer.Option("--gpus-per-worker", min=0, help="num_gpus of each.")]
CpusPerWorker = Annotated[float, typer.Option("--cpus-per-worker", min=0.1, help="num_cpus of each.")]
RayAddress = Annotated[str | None, typer.Option("--ray-address", help="Join a cluster ('auto' inside ray job submit).")]
ProgressMode = Annotated[Literal["auto", "bars", "json"], typer.Option("--progress", help="auto: a bar on a terminal.")]

LICENCE = "non-commercial research only (trained on CelebA)"


def loop_from(
    loop: LoopSettings,
    images: int | None,
    batch: int | None,
    seed: int,
    precision: Precision | None,
    max_minutes: float | None,
) -> LoopSettings:
    """The preset's, where nothing else is asked for."""
    return replace(
        loop,
        images=images or loop.images,
        batch=batch or loop.batch,
        precision=precision or loop.precision,
        seed=seed,
        max_minutes=max_minutes,
    )


def absolute(path: Path) -> str:
    """For a plan: workers on other machines have other working directories."""
    return str(path.absolute())


def absolute_or_none(path: Path | None) -> str | None:
    return None if path is None else absolute(path)


def absolute_or_name(text: str | None) -> str | None:
    """A file or folder that is there; anything else is a bundle's name and stays as it is."""
    return absolute(Path(text)) if text is not None and Path(text).exists() else text


def faces_source(data: str) -> str:
    """--data; the name of a data set stays as it is."""
    return data if data.startswith("hf:") else absolute(Path(data))


def perceptual_files(vgg: Path | None, lpips: Path | None, heads: Path | None) -> tuple[Path, ...]:
    """Return the files of the one perceptual network that was named; () for EfficientNet-Lite0. Raises UsageError for two."""
    if vgg is not None and lpips is not None:
        raise UsageError("expected one perceptual network, got --vgg-weights and --lpips-weights; leave one of them out")
    if heads is not None and lpips is None:
        raise UsageError("--lpips-heads holds only LPIPS's heads; give AlexNet's file with --lpips-weights too")
    return tuple(file for file in (vgg, lpips, heads) if file is not None)


def start(
    plan: Plan,
    threads: int | None,
    workers: int,
    gpus_per_worker: float,
    cpus_per_worker: float,
    ray_address: str | None,
    progress: str,
) -> None:
    """Run a plan to its end, and say how far it came."""
    use_threads(threads)
    if workers == 1 and ray_address is None:
        with watching(progress, plan.name) as watch:
            seen = run_plan(plan, Worker(device=torch.device(resolve_device("auto"))), watch)
    else:
        from pipeline.on_ray.training import train_on_ray  # Ray takes a second to import; one process does without

        seen = train_on_ray(
            plan,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            cpus_per_worker=cpus_per_worker,
            address=ray_address,
        )
    total = plan.loop.images
    print(f"{seen} of {total} images" + ("" if seen >= total else "; the same command goes on from here"))


def use_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


@contextmanager
def watching(mode: str, name: str) -> Iterator[Callable[[Progress], None]]:
    """A bar with losses and time left, or one line of JSON every few seconds."""
    import time

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if mode == "json" or (mode == "auto" and not console.is_terminal):
        last = [0.0]

        def line(progress: Progress) -> None:
            if time.monotonic() - last[0] < 10 and progress.images < progress.total:
                return
            last[0] = time.monotonic()
            row = {"images": progress.images, "total": progress.total, "per_minute": round(progress.images_per_minute)}
            print(json.dumps(row | {key: round(value, 5) for key, value in progress.losses.items()}), flush=True)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bars(*columns, TextColumn("{task.fields[losses]}"), console=console) as bars:
        shown = bars.add_task(name, total=None, losses="")

        def bar(progress: Progress) -> None:
            losses = " ".join(f"{key} {value:.3f}" for key, value in progress.losses.items())
            bars.update(shown, completed=progress.images, total=progress.total, losses=losses)

        yield bar
