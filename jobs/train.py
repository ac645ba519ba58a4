"""styleres train: a StyleGAN2 prior where there is none; on a frozen one E0, edit directions, E1 and E2; a bundle of all.

styleres train prior      --data FACES --out runs/faces        (=> runs/faces/prior)
styleres train e0         --data FACES --prior DIR --out runs/mini64
styleres train directions --data FACES --prior DIR --out runs/mini64
styleres train residual   --data FACES --prior DIR --out runs/mini64
styleres train bundle     --prior DIR --out runs/mini64 --bundle DIR

The same command again goes on where it stopped. FACES: a Parquet file, a folder of images, or hf:NAME.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from jobs.common.errors import UsageError, explained
from jobs.common.train_options import (
    LICENCE,
    TABLE,
    Ablation,
    BundleFolder,
    Directions,
    DirectionSearch,
    Faces,
    FeatureMaps,
    IdentityFile,
    LeftOut,
    Mixing,
    Out,
    Parts,
    PerceptualFiles,
    PresetChoice,
    PriorFolder,
    PriorSizes,
    RayWorkers,
    Schedule,
    Shown,
    StartFrom,
    TailOptions,
    Threads,
    absolute,
    absolute_or_name,
    absolute_or_none,
    faces_source,
    start,
    use_threads,
    watching,
)
from jobs.common.values import Chosen, options_of
from ops.checkpoints.bundle import write_bundle
from ops.data.faces import load_faces
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

TaskSettings = E0Settings | ResidualSettings | LightE0Settings | LightResidualSettings | LightPictureSettings
OF_MOST = (
    *(Faces, PriorFolder, Out, Schedule, FeatureMaps, StartFrom, Directions),
    *(IdentityFile, PerceptualFiles, Threads, Shown, RayWorkers),
)
"""Settings of a training on a prior."""


@app.command("e0")
@options_of(TABLE, PresetChoice, *OF_MOST)
def e0_command(chosen: Chosen) -> None:
    """Train the base encoder: image => W+."""
    with explained():
        preset = chosen.make(PresetChoice).preset
        task, loop = e0_preset(preset)
        run_on_prior(chosen, preset, task, loop)


@app.command("prior")
@options_of(TABLE, Faces, Out, PriorSizes, Schedule, FeatureMaps, PerceptualFiles, Threads, Shown, RayWorkers)
def prior_command(chosen: Chosen) -> None:
    """Train a small StyleGAN2 from aligned images, for domains that have none; OUT/prior is then a --prior."""
    with explained():
        sizes, schedule = chosen.make(PriorSizes), chosen.make(Schedule)
        task, loop = prior_preset()
        plan = TrainingPlan(
            data=faces_source(chosen.make(Faces).data),
            prior="" if sizes.start_from is None else absolute(sizes.start_from),
            out=absolute(chosen.make(Out).out),
            preset="mini",
            task=changed(task, schedule.settings),
            loop=schedule.of(loop, chosen.make(FeatureMaps).precision),
            start_from=absolute_or_name(sizes.anchor_from),
            perceptual_weights=chosen.make(PerceptualFiles).paths,
            sizes=prior_sizes(
                sizes.start_from,
                sizes.resolution,
                sizes.channel_base,
                sizes.channel_max,
                sizes.w_dim,
                sizes.mapping_layers,
            ),
        )
        start(plan, chosen.make(Threads), chosen.make(Shown), chosen.make(RayWorkers))


@app.command("tail")
@options_of(TABLE, PriorFolder, Out, TailOptions, Directions, Schedule, StartFrom, Threads, Shown)
def tail_command(chosen: Chosen) -> None:
    """Distil a smaller output of a MobileStyleGAN; OUT/prior is then the prior with it."""
    with explained():
        tail, schedule = chosen.make(TailOptions), chosen.make(Schedule)
        task, loop = tail_preset()
        plan = TrainingPlan(
            data="" if tail.data is None else faces_source(tail.data),
            prior=absolute(chosen.make(PriorFolder).prior),
            out=absolute(chosen.make(Out).out),
            preset="mini",
            task=changed(task, schedule.settings),
            loop=schedule.of(loop),
            start_from=absolute_or_name(chosen.make(StartFrom).start_from),
            size=tail.size,
            directions=absolute_or_none(chosen.make(Directions).directions),
        )
        start(plan, chosen.make(Threads), chosen.make(Shown))


@app.command("residual")
@options_of(TABLE, PresetChoice, Ablation, *OF_MOST)
def residual_command(chosen: Chosen) -> None:
    """Train E1 and E2 on the encoder that `e0` left in --out."""
    with explained():
        preset = chosen.make(PresetChoice).preset
        task, loop = residual_preset(preset)
        run_on_prior(chosen, preset, task, loop, without_e2=chosen.make(Ablation).without_e2)


@app.command("picture")
@options_of(TABLE, *OF_MOST)
def picture_command(chosen: Chosen) -> None:
    """Preset light: train what of the picture's error remains after an edit, on what `residual` left in --out."""
    with explained():
        task, loop = picture_preset()
        run_on_prior(chosen, "light", task, loop)


@app.command("directions")
@options_of(TABLE, Faces, PriorFolder, Out, PresetChoice, DirectionSearch, Threads)
def directions_command(chosen: Chosen) -> None:
    """Find edit directions in the codes of the encoder that `e0` left in --out."""
    from ops.training.directions import CELEBA_EDITS, GANSPACE_COMPONENTS, find_edits

    with explained():
        data, out = chosen.make(Faces).data, chosen.make(Out).out
        use_threads(chosen.make(Threads).threads)
        model = model_on_prior(chosen.make(PriorFolder).prior, chosen.make(PresetChoice).preset)
        load_result(model.inverting()[0], out / "e0.pt")
        known = load_faces(data, model.config.encoder.input_size, "train", limit=chosen.make(DirectionSearch).faces)
        found = find_edits(model.eval(), known, CELEBA_EDITS, pose=True, components=GANSPACE_COMPONENTS)
        print("\n".join(found.lines))
        save_edits(out, found.entries, found.tensors)


@app.command("unpack")
@options_of(TABLE, Out)
def unpack_command(
    bundle: Annotated[str, typer.Argument(help="A bundle of the preset light, by name or folder.")], chosen: Chosen
) -> None:
    """Write a bundle's prior, parts and edits as their trainings leave them, to train any of them further."""
    with explained():
        unpack_light(bundle, chosen.make(Out).out)


@app.command("mix")
@options_of(TABLE, Mixing)
def mix_command(
    first: Annotated[Path, typer.Argument(help="A NAME.pt that a training left.")],
    second: Annotated[Path, typer.Argument(help="Another of the same part, whose training began with the first.")],
    out: Annotated[Path, typer.Argument(help="NAME.pt to write.")],
    chosen: Chosen,
) -> None:
    """Write weights between those of two trainings (Wortsman et al., CVPR 2022): what the second learnt, at half its price."""
    with explained():
        mix(first, second, out, chosen.make(Mixing).share)


def mix(first: Path, second: Path, out: Path, share: float) -> None:
    """Write `share` of the second result and the rest of the first. Raises UsageError for results of other shapes."""
    before, after = result_weights(first), result_weights(second)
    if {name: tensor.shape for name, tensor in before.items()} != {name: tensor.shape for name, tensor in after.items()}:
        raise UsageError(f"{first} and {second} hold other weights; give two results of one part and of one model's sizes")
    mixed = {name: torch.lerp(tensor, after[name], share) for name, tensor in before.items()}
    save_result(out, mixed, images_seen(first) + images_seen(second))


@app.command("parts")
@options_of(TABLE, Parts, Schedule, Threads, Shown)
def parts_command(chosen: Chosen) -> None:
    """Train the network of face parts, by which a paste leaves hands and backgrounds alone."""
    from safetensors.torch import save_file

    from ops.training.parts import PartsSettings, PartsTask, load_parts

    with explained():
        places, schedule = chosen.make(Parts), chosen.make(Schedule)
        use_threads(chosen.make(Threads).threads)
        loop = schedule.of(parts_preset())
        torch.manual_seed(loop.seed)
        faces, held_out = (load_parts(places.data, held_out=held) for held in (False, True))
        task = PartsTask(faces, held_out, changed(PartsSettings(), schedule.settings))
        about = {"task": task.settings, "data": {"source": str(places.data)}}
        with watching(chosen.make(Shown).progress, task.name) as watch:
            train_task(task, None, loop, places.out, watch=watch, about=about)
        if places.weights is not None:
            save_file({name: value.half() for name, value in task.trained().state_dict().items()}, places.weights)


@app.command("bundle")
@options_of(TABLE, PriorFolder, Out, BundleFolder, LeftOut, PresetChoice, Directions)
def bundle_command(chosen: Chosen) -> None:
    """Write what was trained as a bundle; `styleres evaluate` then measures it into its card."""
    with explained():
        out, bundle, directions = chosen.make(Out).out, chosen.make(BundleFolder).bundle, chosen.make(Directions).directions
        model, weights = trained(chosen.make(PriorFolder).prior, out, chosen.make(PresetChoice).preset)
        has_edits = (out / EDITS).is_file() or directions is None
        entries, tensors = load_edits(out) if has_edits else ([], {})
        if directions is not None:
            official, more = official_edits(directions, chosen.make(LeftOut).without)
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


def run_on_prior(chosen: Chosen, preset: Preset, task: TaskSettings, loop: LoopSettings, *, without_e2: bool = False) -> None:
    """Run a training of `OF_MOST` with the user's settings. task, loop: the preset's."""
    schedule = chosen.make(Schedule)
    plan = TrainingPlan(
        data=faces_source(chosen.make(Faces).data),
        prior=absolute(chosen.make(PriorFolder).prior),
        out=absolute(chosen.make(Out).out),
        preset=preset,
        task=changed(task, schedule.settings),
        loop=schedule.of(loop, chosen.make(FeatureMaps).precision),
        start_from=absolute_or_name(chosen.make(StartFrom).start_from),
        identity_network=absolute_or_none(chosen.make(IdentityFile).identity_network),
        perceptual_weights=chosen.make(PerceptualFiles).paths,
        ablation=without_e2,
        directions=absolute_or_none(chosen.make(Directions).directions),
    )
    start(plan, chosen.make(Threads), chosen.make(Shown), chosen.make(RayWorkers))


def main() -> None:
    app()


if __name__ == "__main__":
    main()
