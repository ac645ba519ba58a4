"""styleres train: a StyleGAN2 prior where there is none; on a frozen one E0, edit directions, E1 and E2; a bundle of all.

styleres train prior      --data FACES --out runs/faces        (=> runs/faces/prior)
styleres train e0         --data FACES --prior DIR --out runs/mini64
styleres train directions --data FACES --prior DIR --out runs/mini64
styleres train residual   --data FACES --prior DIR --out runs/mini64
styleres train bundle     --prior DIR --out runs/mini64 --bundle DIR

The same command again goes on where it stopped. FACES: a Parquet file, a folder of images, or hf:NAME.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from safetensors.torch import load_file, save_file

from jobs.errors import UsageError, explained
from jobs.evaluate_options import LpipsHeads, LpipsWeights
from ops.checkpoints.bundle import EditEntry, write_bundle
from ops.device import resolve_device
from ops.inversion.session import Precision
from ops.stylegan2.config import StyleGAN2Config
from ops.training.data import load_faces
from ops.training.distributed import Worker
from ops.training.e0 import E0Settings
from ops.training.presets import Preset, e0_preset, prior_preset, prior_sizes, residual_preset
from ops.training.prior import PriorSettings
from ops.training.residual import ResidualSettings, residual_parts
from ops.training.run import DIRECTIONS, TrainingPlan, changed, model_on_prior, run
from ops.training.trainer import LoopSettings, Progress, load_result

app = typer.Typer(no_args_is_help=True, help=__doc__, rich_markup_mode="markdown")

Data = Annotated[str, typer.Option("--data", help="Aligned faces: a Parquet file, a folder of images, or hf:NAME.")]
Prior = Annotated[Path, typer.Option("--prior", help="Folder with generator and discriminator .safetensors and config.json.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of checkpoints, logs and pictures; shared by all workers.")]
PresetName = Annotated[Preset, typer.Option("--preset", help="Sizes and figures: docs/training.md.")]
Images = Annotated[int | None, typer.Option("--images", min=1, help="Length of the schedule; the preset's if not given.")]
MaxMinutes = Annotated[float | None, typer.Option("--max-minutes", min=0.01, help="Stop then; the same command goes on.")]
Batch = Annotated[int | None, typer.Option("--batch", min=1, help="Images of a step, over all workers.")]
Seed = Annotated[int, typer.Option("--seed")]
PrecisionName = Annotated[Precision | None, typer.Option("--precision", help="Of feature maps; the preset's if not given.")]
Set = Annotated[list[str], typer.Option("--set", help="NAME=VALUE of the step's settings, several times.")]
StartFrom = Annotated[str | None, typer.Option("--start-from", help="Weights to begin with: an earlier result, or a bundle.")]
IdentityNetwork = Annotated[
    Path | None, typer.Option("--identity-network", help="Weights of MobileFaceNet or ArcFace IR-SE50, for identity losses.")
]
VggWeights = Annotated[Path | None, typer.Option("--vgg-weights", help="VGG16, for the tree's perceptual loss.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Of torch; all cores if not given.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes; more than one run on Ray Train.")]
GpusPerWorker = Annotated[float, typer.Option("--gpus-per-worker", min=0, help="num_gpus of each.")]
CpusPerWorker = Annotated[float, typer.Option("--cpus-per-worker", min=0.1, help="num_cpus of each.")]
RayAddress = Annotated[str | None, typer.Option("--ray-address", help="Join a cluster ('auto' inside ray job submit).")]
ProgressMode = Annotated[Literal["auto", "bars", "json"], typer.Option("--progress", help="auto: a bar on a terminal.")]

EDITS = "edits.json"
LICENCE = "non-commercial research only (trained on CelebA)"


@app.command("e0")
def e0_command(
    data: Data,
    prior: Prior,
    out: Out,
    preset: PresetName = "mini",
    images: Images = None,
    max_minutes: MaxMinutes = None,
    batch: Batch = None,
    seed: Seed = 0,
    precision: PrecisionName = None,
    settings: Set = [],  # noqa: B006 - typer copies it
    start_from: StartFrom = None,
    identity_network: IdentityNetwork = None,
    vgg_weights: VggWeights = None,
    lpips_weights: LpipsWeights = None,
    lpips_heads: LpipsHeads = None,
    threads: Threads = None,
    workers: Workers = 1,
    gpus_per_worker: GpusPerWorker = 0,
    cpus_per_worker: CpusPerWorker = 1,
    ray_address: RayAddress = None,
    progress: ProgressMode = "auto",
) -> None:
    """Train the base encoder: image => W+."""
    with explained():
        task, loop = e0_preset(preset)
        loop = _loop(loop, images, batch, seed, precision, max_minutes)
        files = perceptual_files(vgg_weights, lpips_weights, lpips_heads)
        plan = _plan(data, prior, out, preset, changed(task, settings), loop, start_from, identity_network, files)
        _train(plan, threads, workers, gpus_per_worker, cpus_per_worker, ray_address, progress)


@app.command("prior")
def prior_command(
    data: Data,
    out: Out,
    start_from: Annotated[Path | None, typer.Option("--start-from", help="A prior's folder to go on with.")] = None,
    anchor_from: Annotated[
        str | None, typer.Option("--anchor-from", help="The encoder to begin with: a bundle, an e0.pt, an anchor.safetensors.")
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option("--resolution", help="Of a new prior (64 if not given), or twice that of --start-from: a block more."),
    ] = None,
    channel_base: Annotated[int, typer.Option("--channel-base", help="Channels are min(base / resolution, max).")] = 4096,
    channel_max: Annotated[int, typer.Option("--channel-max")] = 128,
    w_dim: Annotated[int, typer.Option("--w-dim", help="Of W and of z.")] = 256,
    mapping_layers: Annotated[int, typer.Option("--mapping-layers", min=1)] = 4,
    images: Images = None,
    max_minutes: MaxMinutes = None,
    batch: Batch = None,
    seed: Seed = 0,
    precision: PrecisionName = None,
    settings: Set = [],  # noqa: B006 - typer copies it
    vgg_weights: VggWeights = None,
    lpips_weights: LpipsWeights = None,
    lpips_heads: LpipsHeads = None,
    threads: Threads = None,
    workers: Workers = 1,
    gpus_per_worker: GpusPerWorker = 0,
    cpus_per_worker: CpusPerWorker = 1,
    ray_address: RayAddress = None,
    progress: ProgressMode = "auto",
) -> None:
    """Train a small StyleGAN2 from aligned images, for domains that have none; OUT/prior is then a --prior."""
    with explained():
        task, loop = prior_preset()
        loop = _loop(loop, images, batch, seed, precision, max_minutes)
        sizes = prior_sizes(start_from, resolution, channel_base, channel_max, w_dim, mapping_layers)
        files = perceptual_files(vgg_weights, lpips_weights, lpips_heads)
        plan = _plan(data, start_from, out, "mini", changed(task, settings), loop, anchor_from, None, files, sizes=sizes)
        _train(plan, threads, workers, gpus_per_worker, cpus_per_worker, ray_address, progress)


@app.command("residual")
def residual_command(
    data: Data,
    prior: Prior,
    out: Out,
    preset: PresetName = "mini",
    images: Images = None,
    max_minutes: MaxMinutes = None,
    batch: Batch = None,
    seed: Seed = 0,
    precision: PrecisionName = None,
    settings: Set = [],  # noqa: B006 - typer copies it
    without_e2: Annotated[bool, typer.Option("--without-e2", help="Ablation: the residual is added as it is.")] = False,
    start_from: StartFrom = None,
    identity_network: IdentityNetwork = None,
    vgg_weights: VggWeights = None,
    lpips_weights: LpipsWeights = None,
    lpips_heads: LpipsHeads = None,
    threads: Threads = None,
    workers: Workers = 1,
    gpus_per_worker: GpusPerWorker = 0,
    cpus_per_worker: CpusPerWorker = 1,
    ray_address: RayAddress = None,
    progress: ProgressMode = "auto",
) -> None:
    """Train E1 and E2 on the encoder that `e0` left in --out."""
    with explained():
        task, loop = residual_preset(preset)
        loop = _loop(loop, images, batch, seed, precision, max_minutes)
        files = perceptual_files(vgg_weights, lpips_weights, lpips_heads)
        plan = _plan(data, prior, out, preset, changed(task, settings), loop, start_from, identity_network, files, without_e2)
        _train(plan, threads, workers, gpus_per_worker, cpus_per_worker, ray_address, progress)


@app.command("directions")
def directions_command(
    data: Data,
    prior: Prior,
    out: Out,
    preset: PresetName = "mini",
    *,
    faces: Annotated[int, typer.Option("--faces", min=500, help="Training faces to find directions with.")] = 12_000,
    threads: Threads = None,
) -> None:
    """Find edit directions in the codes of the encoder that `e0` left in --out."""
    from ops.training.directions import CELEBA_EDITS, GANSPACE_COMPONENTS, find_edits

    with explained():
        _use_threads(threads)
        model = model_on_prior(prior, preset)
        load_result(model.inverting()[0], out / "e0.pt")
        known = load_faces(data, model.config.encoder.input_size, "train", limit=faces)
        found = find_edits(model.eval(), known, CELEBA_EDITS, pose=True, components=GANSPACE_COMPONENTS)
        print("\n".join(found.lines))
        save_file(found.tensors, out / DIRECTIONS)
        (out / EDITS).write_text(json.dumps([asdict(entry) for entry in found.entries], indent=1) + "\n", "utf-8")


@app.command("bundle")
def bundle_command(
    prior: Prior,
    out: Out,
    bundle: Annotated[Path, typer.Option("--bundle", help="Folder to write.")],
    preset: PresetName = "mini",
) -> None:
    """Write what was trained as a bundle; `styleres evaluate` then measures it into its card."""
    with explained():
        model = model_on_prior(prior, preset)
        load_result(model.inverting()[0], out / "e0.pt")
        load_result(residual_parts(model), out / "residual.pt")
        entries = [EditEntry(**entry) for entry in json.loads((out / EDITS).read_text("utf-8"))]
        weights = {
            # Trained parts in half the space; the generator stays as it was given. Integer counters stay integers.
            name: tensor.half() if tensor.is_floating_point() and not name.startswith("generator.") else tensor
            for name, tensor in model.state_dict().items()
        }
        card = bundle / "README.md"
        written = write_bundle(
            bundle,
            name=bundle.name,
            method="styleres",
            config=model.config,
            licence=LICENCE,
            edits=entries,
            weights=weights,
            directions=load_file(out / DIRECTIONS),
            card=card.read_text("utf-8") if card.exists() else f"# {bundle.name}\n",
        )
        size = sum(file.stat().st_size for file in bundle.iterdir()) / 1e6
        print(f"{bundle}: {size:.1f} MB, digest {written.digest[:16]}")


def _train(
    plan: TrainingPlan,
    threads: int | None,
    workers: int,
    gpus_per_worker: float,
    cpus_per_worker: float,
    ray_address: str | None,
    progress: str,
) -> None:
    _use_threads(threads)
    if workers == 1 and ray_address is None:
        with watching(progress, plan.name) as watch:
            seen = run(plan, Worker(device=torch.device(resolve_device("auto"))), watch)
    else:
        from pipeline.train_ray import train_on_ray  # Ray takes a second to import; one process does without

        seen = train_on_ray(
            plan,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            cpus_per_worker=cpus_per_worker,
            address=ray_address,
        )
    total = plan.loop.images
    print(f"{seen} of {total} images" + ("" if seen >= total else "; the same command goes on from here"))


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


def _loop(
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


def perceptual_files(vgg: Path | None, lpips: Path | None, heads: Path | None) -> tuple[Path, ...]:
    """Of the one perceptual network that was named; () for EfficientNet-Lite0. Raises UsageError for two."""
    if vgg is not None and lpips is not None:
        raise UsageError("expected one perceptual network, got --vgg-weights and --lpips-weights; leave one of them out")
    if heads is not None and lpips is None:
        raise UsageError("--lpips-heads holds only LPIPS's heads; give AlexNet's file with --lpips-weights too")
    return tuple(file for file in (vgg, lpips, heads) if file is not None)


def _plan(
    data: str,
    prior: Path | None,
    out: Path,
    preset: Preset,
    task: E0Settings | ResidualSettings | PriorSettings,
    loop: LoopSettings,
    start_from: str | None,
    identity_network: Path | None,
    perceptual: Sequence[Path],
    without_e2: bool = False,
    sizes: StyleGAN2Config | None = None,
) -> TrainingPlan:
    """With absolute paths: workers on other machines have other working directories. A name stays as it is."""

    def absolute(path: Path | None) -> str | None:
        return None if path is None else str(path.absolute())

    if start_from is not None and Path(start_from).exists():
        start_from = absolute(Path(start_from))

    return TrainingPlan(
        data=data if data.startswith("hf:") else str(Path(data).absolute()),
        prior=absolute(prior) or "",
        out=str(out.absolute()),
        preset=preset,
        task=task,
        loop=loop,
        start_from=start_from,
        identity_network=absolute(identity_network),
        perceptual_weights=tuple(str(file.absolute()) for file in perceptual),
        ablation=without_e2,
        sizes=sizes,
    )


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
