"""styleres train: a StyleGAN2 prior where there is none; on a frozen one E0, edit directions, E1 and E2; a bundle of all.

styleres train prior      --data FACES --out runs/faces        (=> runs/faces/prior)
styleres train e0         --data FACES --prior DIR --out runs/mini64
styleres train directions --data FACES --prior DIR --out runs/mini64
styleres train residual   --data FACES --prior DIR --out runs/mini64
styleres train bundle     --prior DIR --out runs/mini64 --bundle DIR

The same command again goes on where it stopped. FACES: a Parquet file, a folder of images, or hf:NAME.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from jobs.common.errors import UsageError, explained
from jobs.common.evaluate_options import LpipsHeads, LpipsWeights
from jobs.common.train_options import (
    LICENCE,
    Batch,
    CpusPerWorker,
    Data,
    GpusPerWorker,
    IdentityNetwork,
    Images,
    MaxMinutes,
    Out,
    PrecisionName,
    Prior,
    ProgressMode,
    RayAddress,
    Seed,
    Set,
    Threads,
    VggWeights,
    Workers,
    absolute,
    absolute_or_name,
    absolute_or_none,
    faces_source,
    loop_from,
    perceptual_files,
    start,
    use_threads,
    watching,
)
from ops.checkpoints.bundle import write_bundle
from ops.data.faces import load_faces
from ops.generators.stylegan2_config import StyleGAN2Config
from ops.inversion.light import LightStyleRes
from ops.inversion.styleres import StyleRes
from ops.training.e0 import E0Settings
from ops.training.light import LightE0Settings, LightPictureSettings, LightResidualSettings, PictureParts
from ops.training.light import residual_parts as light_parts
from ops.training.official_edits import official_edits
from ops.training.presets import (
    Preset,
    e0_preset,
    parts_preset,
    picture_preset,
    prior_preset,
    prior_sizes,
    residual_preset,
    tail_preset,
)
from ops.training.prior import PriorSettings
from ops.training.residual import ResidualSettings, residual_parts
from ops.training.run import (
    EDITS,
    TrainingPlan,
    bundle_weights,
    changed,
    light_on_prior,
    light_weights,
    load_edits,
    model_on_prior,
    save_edits,
    unpack_light,
)
from ops.training.trainer import LoopSettings, images_seen, load_result, result_weights, save_result
from ops.training.trainer import train as train_task

app = typer.Typer(no_args_is_help=True, help=__doc__, rich_markup_mode="markdown")

PresetName = Annotated[Preset, typer.Option("--preset", help="Sizes and figures: docs/training.md.")]
StartFrom = Annotated[str | None, typer.Option("--start-from", help="Weights to begin with: an earlier result, or a bundle.")]


Directions = Annotated[
    Path | None,
    typer.Option("--directions", help="Preset light: folder of official edits, to move drawn faces along."),
]


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
    directions: Directions = None,
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
        loop = loop_from(loop, images, batch, seed, precision, max_minutes)
        files = perceptual_files(vgg_weights, lpips_weights, lpips_heads)
        plan = _plan(
            data, prior, out, preset, changed(task, settings), loop, start_from, identity_network, files, directions=directions
        )
        start(plan, threads, workers, gpus_per_worker, cpus_per_worker, ray_address, progress)


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
        loop = loop_from(loop, images, batch, seed, precision, max_minutes)
        sizes = prior_sizes(start_from, resolution, channel_base, channel_max, w_dim, mapping_layers)
        files = perceptual_files(vgg_weights, lpips_weights, lpips_heads)
        plan = _plan(data, start_from, out, "mini", changed(task, settings), loop, anchor_from, None, files, sizes=sizes)
        start(plan, threads, workers, gpus_per_worker, cpus_per_worker, ray_address, progress)


@app.command("tail")
def tail_command(
    prior: Prior,
    out: Out,
    size: Annotated[int, typer.Option("--size", help="Of its pictures: 128, 256 or 512 px.")],
    data: Annotated[
        str | None, typer.Option("--data", help="Aligned faces, which the model in --out inverts: the tail learns these too.")
    ] = None,
    directions: Directions = None,
    images: Images = None,
    max_minutes: MaxMinutes = None,
    batch: Batch = None,
    seed: Seed = 0,
    settings: Set = [],  # noqa: B006 - typer copies it
    start_from: StartFrom = None,
    threads: Threads = None,
    progress: ProgressMode = "auto",
) -> None:
    """Distil a smaller output of a MobileStyleGAN; OUT/prior is then the prior with it."""
    with explained():
        task, loop = tail_preset()
        loop = loop_from(loop, images, batch, seed, None, max_minutes)
        plan = TrainingPlan(
            data="" if data is None else faces_source(data),
            prior=absolute(prior),
            out=absolute(out),
            preset="mini",
            task=changed(task, settings),
            loop=loop,
            start_from=absolute_or_name(start_from),
            size=size,
            directions=absolute_or_none(directions),
        )
        start(plan, threads, 1, 0, 1, None, progress)


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
    directions: Directions = None,
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
        loop = loop_from(loop, images, batch, seed, precision, max_minutes)
        files = perceptual_files(vgg_weights, lpips_weights, lpips_heads)
        plan = _plan(
            data,
            prior,
            out,
            preset,
            changed(task, settings),
            loop,
            start_from,
            identity_network,
            files,
            without_e2,
            directions=directions,
        )
        start(plan, threads, workers, gpus_per_worker, cpus_per_worker, ray_address, progress)


@app.command("picture")
def picture_command(
    data: Data,
    prior: Prior,
    out: Out,
    images: Images = None,
    max_minutes: MaxMinutes = None,
    batch: Batch = None,
    seed: Seed = 0,
    precision: PrecisionName = None,
    settings: Set = [],  # noqa: B006 - typer copies it
    start_from: StartFrom = None,
    directions: Directions = None,
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
    """Preset light: train what of the picture's error remains after an edit, on what `residual` left in --out."""
    with explained():
        task, loop = picture_preset()
        loop = loop_from(loop, images, batch, seed, precision, max_minutes)
        files = perceptual_files(vgg_weights, lpips_weights, lpips_heads)
        plan = _plan(
            data, prior, out, "light", changed(task, settings), loop, start_from, identity_network, files, directions=directions
        )
        start(plan, threads, workers, gpus_per_worker, cpus_per_worker, ray_address, progress)


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
        use_threads(threads)
        model = model_on_prior(prior, preset)
        load_result(model.inverting()[0], out / "e0.pt")
        known = load_faces(data, model.config.encoder.input_size, "train", limit=faces)
        found = find_edits(model.eval(), known, CELEBA_EDITS, pose=True, components=GANSPACE_COMPONENTS)
        print("\n".join(found.lines))
        save_edits(out, found.entries, found.tensors)


@app.command("unpack")
def unpack_command(
    bundle: Annotated[str, typer.Argument(help="A bundle of the preset light, by name or folder.")],
    out: Out,
) -> None:
    """Write a bundle's prior, parts and edits as their trainings leave them, to train any of them further."""
    with explained():
        unpack_light(bundle, out)


@app.command("mix")
def mix_command(
    first: Annotated[Path, typer.Argument(help="A NAME.pt that a training left.")],
    second: Annotated[Path, typer.Argument(help="Another of the same part, whose training began with the first.")],
    out: Annotated[Path, typer.Argument(help="NAME.pt to write.")],
    share: Annotated[float, typer.Option("--share", min=0.0, max=1.0, help="Of the second in each weight.")] = 0.5,
) -> None:
    """Write weights between those of two trainings (Wortsman et al., CVPR 2022): what the second learnt, at half its price."""
    with explained():
        before, after = result_weights(first), result_weights(second)
        if {name: tensor.shape for name, tensor in before.items()} != {name: tensor.shape for name, tensor in after.items()}:
            raise UsageError(f"{first} and {second} hold other weights; give two results of one part and of one model's sizes")
        mixed = {name: torch.lerp(tensor, after[name], share) for name, tensor in before.items()}
        save_result(out, mixed, images_seen(first) + images_seen(second))


@app.command("parts")
def parts_command(
    data: Annotated[Path, typer.Option("--data", help="Parquet file with columns file, image and mask.")],
    out: Out,
    images: Images = None,
    max_minutes: MaxMinutes = None,
    batch: Batch = None,
    seed: Seed = 0,
    settings: Set = [],  # noqa: B006 - typer copies it
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Also write the trained network here, in half precision.")
    ] = None,
    threads: Threads = None,
    progress: ProgressMode = "auto",
) -> None:
    """Train the network of face parts, by which a paste leaves hands and backgrounds alone."""
    from safetensors.torch import save_file

    from ops.training.parts import PartsSettings, PartsTask, load_parts

    with explained():
        use_threads(threads)
        loop = loop_from(parts_preset(), images, batch, seed, None, max_minutes)
        torch.manual_seed(loop.seed)
        faces, held_out = (load_parts(data, held_out=held) for held in (False, True))
        task = PartsTask(faces, held_out, changed(PartsSettings(), settings))
        with watching(progress, task.name) as watch:
            train_task(task, None, loop, out, watch=watch, about={"task": task.settings, "data": {"source": str(data)}})
        if weights is not None:
            save_file({name: value.half() for name, value in task.trained().state_dict().items()}, weights)


@app.command("bundle")
def bundle_command(
    prior: Prior,
    out: Out,
    bundle: Annotated[Path, typer.Option("--bundle", help="Folder to write.")],
    preset: PresetName = "mini",
    directions: Directions = None,
    without: Annotated[list[str], typer.Option("--without", help="Preset light: an official edit that is left out.")] = [],  # noqa: B006
) -> None:
    """Write what was trained as a bundle; `styleres evaluate` then measures it into its card."""
    with explained():
        model, weights = trained(prior, out, preset)
        entries, tensors = load_edits(out) if (out / EDITS).is_file() or directions is None else ([], {})
        if directions is not None:
            official, more = official_edits(directions, without)
            taken = {one.name for one in official}
            own = [one for one in entries if one.editor == "direction" and one.name not in taken]
            entries, tensors = [*official, *own], {**tensors, **more}
        card = bundle / "README.md"
        written = write_bundle(
            bundle,
            name=bundle.name,
            method="styleres_light" if isinstance(model, LightStyleRes) else "styleres",
            config=model.config,
            licence=LICENCE,
            edits=entries,
            weights=weights,
            directions=tensors,
            card=card.read_text("utf-8") if card.exists() else f"# {bundle.name}\n",
        )
        size = sum(file.stat().st_size for file in bundle.iterdir()) / 1e6
        print(f"{bundle}: {size:.1f} MB, digest {written.digest[:16]}")


def trained(prior: Path, out: Path, preset: Preset) -> tuple[StyleRes | LightStyleRes, dict[str, torch.Tensor]]:
    """=> the model that the trainings in `out` give on a prior, and its weights as a bundle stores them."""
    if preset == "light":
        light = light_on_prior(prior)
        assert light.encoder is not None
        load_result(light.encoder, out / "e0.pt")
        load_result(light_parts(light), out / "residual.pt")
        load_result(PictureParts(light), out / "picture.pt")
        return light, light_weights(light)
    without_e2 = "gates.projection.weight" in result_weights(out / "residual.pt")
    model = model_on_prior(prior, preset, without_e2=without_e2)
    load_result(model.inverting()[0], out / "e0.pt")
    load_result(residual_parts(model), out / "residual.pt")
    return model, bundle_weights(model)


def _plan(
    data: str,
    prior: Path | None,
    out: Path,
    preset: Preset,
    task: E0Settings | ResidualSettings | LightE0Settings | LightResidualSettings | LightPictureSettings | PriorSettings,
    loop: LoopSettings,
    start_from: str | None,
    identity_network: Path | None,
    perceptual: Sequence[Path],
    without_e2: bool = False,
    sizes: StyleGAN2Config | None = None,
    directions: Path | None = None,
) -> TrainingPlan:
    return TrainingPlan(
        data=faces_source(data),
        prior="" if prior is None else absolute(prior),
        out=absolute(out),
        preset=preset,
        task=task,
        loop=loop,
        start_from=absolute_or_name(start_from),
        identity_network=absolute_or_none(identity_network),
        perceptual_weights=tuple(map(absolute, perceptual)),
        ablation=without_e2,
        sizes=sizes,
        directions=absolute_or_none(directions),
    )


def main() -> None:
    app()


if __name__ == "__main__":
    main()
