"""Settings of all trainings, which options they are, and their start: in this process, or on Ray with several."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import torch

from jobs.common.errors import UsageError
from jobs.common.lpips_files import require_alexnet
from jobs.common.values import Option, Shape, several
from ops.device import resolve_device
from ops.inversion.session import Precision
from ops.training.distributed import Worker
from ops.training.method_run import Plan, run_plan
from ops.training.presets import Preset
from ops.training.trainer import LoopSettings, Progress

LICENCE = "non-commercial research only (trained on CelebA)"


@dataclass(frozen=True)
class Faces:
    """Faces to learn from."""

    data: str
    """Aligned faces: a Parquet file, a folder of images, or hf:NAME."""


@dataclass(frozen=True)
class PriorFolder:
    """The generator that a training is on."""

    prior: Path
    """Folder with generator and discriminator .safetensors and config.json."""


@dataclass(frozen=True)
class Out:
    """The place of what a command leaves."""

    out: Path
    """Folder of checkpoints, logs and pictures; shared by all workers."""


@dataclass(frozen=True)
class Parts:
    """Places of the training of face parts."""

    data: Path
    """Parquet file with columns file, image and mask."""
    out: Path
    """Folder of checkpoints, logs and pictures."""
    weights: Path | None = None
    """Also write the trained network here, in half precision."""


@dataclass(frozen=True)
class PresetChoice:
    """Sizes of the model."""

    preset: Preset = "mini"
    """Sizes and figures: docs/training.md."""


@dataclass(frozen=True)
class PriorSizes:
    """The begin of a prior's training, and the sizes of a new prior."""

    start_from: Path | None = None
    """A prior's folder to continue from."""
    anchor_from: str | None = None
    """The encoder to begin with: a bundle, an e0.pt, an anchor.safetensors."""
    resolution: int | None = None
    """Side of its pictures: of a new prior (64 if not given), or twice that of --start-from, which adds a block."""
    channel_base: int = 4096
    """Channels are min(base / resolution, max)."""
    channel_max: int = 128
    """Channels at low resolutions."""
    w_dim: int = 256
    """Width of W and of z."""
    mapping_layers: int = 4
    """Layers of the mapping network."""


@dataclass(frozen=True)
class TailOptions:
    """A smaller output of a MobileStyleGAN."""

    size: int
    """Side of its pictures in pixels: 128, 256 or 512."""
    data: str | None = None
    """Aligned faces, which the model in --out inverts: the tail learns these too."""


@dataclass(frozen=True)
class Schedule:
    """Length of a training, and what of the preset is changed."""

    images: int | None = None
    """Length of the schedule; the preset's if not given."""
    max_minutes: float | None = None
    """Stop after so many minutes; the same command continues."""
    batch: int | None = None
    """Images of a step, over all workers."""
    seed: int = 0
    """Seed of everything that is drawn."""
    settings: tuple[str, ...] = ()
    """NAME=VALUE of the step's settings, several times."""

    def of(self, preset: LoopSettings, precision: Precision | None = None) -> LoopSettings:
        """Return the preset's loop with what was asked for in its place."""
        return replace(
            preset,
            images=self.images or preset.images,
            batch=self.batch or preset.batch,
            precision=precision or preset.precision,
            seed=self.seed,
            max_minutes=self.max_minutes,
        )


@dataclass(frozen=True)
class FeatureMaps:
    """Precision of a training; parameters, losses and codes are float32 in any."""

    precision: Precision | None = None
    """Precision of feature maps; the preset's if not given."""


@dataclass(frozen=True)
class StartFrom:
    """Weights to begin with."""

    start_from: str | None = None
    """Weights to begin with: an earlier result, or a bundle."""


@dataclass(frozen=True)
class Directions:
    """Edits of the preset light."""

    directions: Path | None = None
    """Preset light: folder of official edits, to move drawn faces along."""


@dataclass(frozen=True)
class IdentityFile:
    """Weights of the network of identity losses."""

    identity_network: Path | None = None
    """Weights of MobileFaceNet or ArcFace IR-SE50, for identity losses."""


@dataclass(frozen=True)
class PerceptualFiles:
    """Weights of the network of the perceptual loss: EfficientNet-Lite0, which comes with pip, if none is named."""

    vgg_weights: Path | None = None
    """VGG16, for the perceptual loss of the authors' training tree."""
    lpips_weights: Path | None = None
    """LPIPS-Alex v0.1 in one file, or torchvision's alexnet-owt-*.pth."""
    lpips_heads: Path | None = None
    """LPIPS's own alex.pth, beside torchvision's AlexNet."""

    def __post_init__(self) -> None:
        if self.vgg_weights is not None and self.lpips_weights is not None:
            raise UsageError("expected one perceptual network, got --vgg-weights and --lpips-weights; leave one of them out")
        require_alexnet(self.lpips_weights, self.lpips_heads)

    @property
    def paths(self) -> tuple[str, ...]:
        """Absolute paths of the files of the one perceptual network that was named; () for EfficientNet-Lite0."""
        return tuple(absolute(one) for one in (self.vgg_weights, self.lpips_weights, self.lpips_heads) if one is not None)


@dataclass(frozen=True)
class Threads:
    """How one process computes."""

    threads: int | None = None
    """Threads of torch; all cores if not given."""


@dataclass(frozen=True)
class Shown:
    """How a training shows where it is."""

    progress: Literal["auto", "bars", "json"] = "auto"
    """auto: a bar on a terminal."""


@dataclass(frozen=True)
class RayWorkers:
    """Processes of a training on Ray Train."""

    workers: int = 1
    """Processes; more than one run on Ray Train."""
    gpus_per_worker: float = 0
    """num_gpus of each."""
    cpus_per_worker: float = 1
    """num_cpus of each."""
    ray_address: str | None = None
    """Join a cluster ('auto' inside ray job submit)."""


@dataclass(frozen=True)
class Ablation:
    """Parts that are left out, to measure what they are worth."""

    without_e2: bool = False
    """Ablation: the residual is added as it is."""


@dataclass(frozen=True)
class DirectionSearch:
    """How many faces edit directions are found with."""

    faces: int = 12_000
    """Training faces to find directions with."""


@dataclass(frozen=True)
class Mixing:
    """A place between two trainings."""

    share: float = 0.5
    """Share of the second in each weight."""


@dataclass(frozen=True)
class BundleFolder:
    """A bundle to write."""

    bundle: Path
    """Folder to write."""


@dataclass(frozen=True)
class LeftOut:
    """Edits that a bundle of the preset light does not take up."""

    without: tuple[str, ...] = ()
    """Preset light: an official edit that is left out, several times."""


@dataclass(frozen=True)
class Base:
    """The bundle that a method's encoder is taken from."""

    base: str | None = None
    """A StyleRes or e4e bundle on the same prior, for its encoder."""


@dataclass(frozen=True)
class EarlierResult:
    """Weights that a method's training begins with."""

    start_from: Path | None = None
    """Weights to begin with: an earlier result."""


DATA, OUT = Option("--data"), Option("--out")
TABLE: Final[Mapping[type, Shape]] = {
    Faces: Shape({"data": DATA}),
    PriorFolder: Shape({"prior": Option("--prior")}),
    Out: Shape({"out": OUT}),
    Parts: Shape({"data": DATA, "out": OUT, "weights": Option("--weights")}),
    PresetChoice: Shape({"preset": Option("--preset")}),
    PriorSizes: Shape(
        {
            "start_from": Option("--start-from"),
            "anchor_from": Option("--anchor-from"),
            "resolution": Option("--resolution"),
            "channel_base": Option("--channel-base"),
            "channel_max": Option("--channel-max"),
            "w_dim": Option("--w-dim"),
            "mapping_layers": Option("--mapping-layers", min=1),
        }
    ),
    TailOptions: Shape({"size": Option("--size"), "data": DATA}),
    Schedule: Shape(
        {
            "images": Option("--images", min=1),
            "max_minutes": Option("--max-minutes", min=0.01),
            "batch": Option("--batch", min=1),
            "seed": Option("--seed"),
            "settings": several("--set"),
        }
    ),
    FeatureMaps: Shape({"precision": Option("--precision")}),
    StartFrom: Shape({"start_from": Option("--start-from")}),
    Directions: Shape({"directions": Option("--directions")}),
    IdentityFile: Shape({"identity_network": Option("--identity-network")}),
    PerceptualFiles: Shape(
        {
            "vgg_weights": Option("--vgg-weights"),
            "lpips_weights": Option("--lpips-weights"),
            "lpips_heads": Option("--lpips-heads"),
        }
    ),
    Threads: Shape({"threads": Option("--threads", min=1)}),
    Shown: Shape({"progress": Option("--progress")}),
    RayWorkers: Shape(
        {
            "workers": Option("--workers", min=1),
            "gpus_per_worker": Option("--gpus-per-worker", min=0),
            "cpus_per_worker": Option("--cpus-per-worker", min=0.1),
            "ray_address": Option("--ray-address"),
        }
    ),
    Ablation: Shape({"without_e2": Option("--without-e2")}),
    DirectionSearch: Shape({"faces": Option("--faces", min=500)}),
    Mixing: Shape({"share": Option("--share", min=0.0, max=1.0)}),
    BundleFolder: Shape({"bundle": Option("--bundle")}),
    LeftOut: Shape({"without": several("--without")}),
    Base: Shape({"base": Option("--base")}),
    EarlierResult: Shape({"start_from": Option("--start-from")}),
}


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


def start(plan: Plan, threads: Threads, shown: Shown, ray: RayWorkers = RayWorkers()) -> None:
    """Run a plan to its end, in this process or with workers on Ray, and print how many images it has seen."""
    use_threads(threads.threads)
    if ray.workers == 1 and ray.ray_address is None:
        with watching(shown.progress, plan.name) as watch:
            seen = run_plan(plan, Worker(device=torch.device(resolve_device("auto"))), watch)
    else:
        from pipeline.on_ray.training import train_on_ray  # Ray takes a second to import; one process does without

        seen = train_on_ray(
            plan,
            workers=ray.workers,
            gpus_per_worker=ray.gpus_per_worker,
            cpus_per_worker=ray.cpus_per_worker,
            address=ray.ray_address,
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
