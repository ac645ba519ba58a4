"""A training as values: what, on what, with which figures. Any process can run one, alone or as one of several."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

from ops.checkpoints.bundle import EditEntry, in_bytes, load_tensors, open_bundle
from ops.checkpoints.prior import ANCHOR, DISCRIMINATOR, GENERATOR, Prior, read_prior_config, read_prior_tensors, write_prior
from ops.data.faces import load_faces
from ops.device import channels_last, set_up
from ops.editing.definitions import DirectionDefinition
from ops.editing.direction import load_direction
from ops.editing.official_folder import definitions_in
from ops.files.digest import sha256_of
from ops.generators.discriminator import Discriminator
from ops.generators.mobile import Mobile, MobileConfig, Tail
from ops.generators.protocol import GeneratorConfig
from ops.generators.stylegan2 import StyleGAN2
from ops.generators.stylegan2_config import StyleGAN2Config
from ops.inversion.light import LightConfig, LightStyleRes
from ops.inversion.styleres import StyleRes
from ops.networks.ir import load_arcface
from ops.networks.lpips_alex import load_lpips
from ops.networks.mobilefacenet import load_mobilefacenet
from ops.networks.perceptual import LpipsPerceptual, Perceptual, VggPerceptual
from ops.networks.vgg16 import load_vgg16
from ops.networks.weights import read_tensors
from ops.nn.lite import load_imagenet
from ops.spaces import crops_from_images, images_from_crops
from ops.training.distributed import Worker
from ops.training.e0 import E0Settings, E0Task, start_near_the_mean
from ops.training.light import (
    LightE0Settings,
    LightE0Task,
    LightPictureSettings,
    LightPictureTask,
    LightResidualSettings,
    LightResidualTask,
    PictureParts,
    find_basis,
    keep_channels,
    start_light_encoder,
)
from ops.training.light import residual_parts as light_parts
from ops.training.presets import Preset, model_config
from ops.training.prior import Anchored, Features, PriorSettings, PriorTask
from ops.training.residual import Distance, ResidualSettings, ResidualTask, residual_parts
from ops.training.tail import TAILS, Inverted, TailSettings, TailTask, start_tail
from ops.training.trainer import LoopSettings, Progress, TrainingError, load_result, result_weights, save_result, train

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

DIRECTIONS, EDITS = "directions.safetensors", "edits.json"
PRIOR = "prior"
HELD_OUT_FACES = 512
HELD_OUT_LIGHT = 48
TYPICAL_STRENGTHS = {"smile": 1.5, "age": 2.0, "pose": 2.0}
PRIOR_CARD = """# A StyleGAN2 prior of {size} px

Trained by `styleres train prior` on {images} images of {data}, anchored by an encoder. `generator.safetensors` is the moving
average; `anchor.safetensors` is the encoder, where `styleres train e0` may start. It has the licence of its data.
"""
PREVIEW_FACES = 16
MEASURED_FACES = 128
"""Photographs that moments of errors and of channels are measured on."""
SettingsT = TypeVar("SettingsT", bound="DataclassInstance")


@dataclass(frozen=True)
class TrainingPlan:
    """Everything a process needs to know. Paths are absolute: several machines may read them."""

    data: str
    """As `load_faces` takes it."""
    prior: str
    """Folder with generator.safetensors, discriminator.safetensors and config.json."""
    out: str
    preset: Preset
    task: (
        E0Settings
        | ResidualSettings
        | LightE0Settings
        | LightResidualSettings
        | LightPictureSettings
        | PriorSettings
        | TailSettings
    )
    """Its type says what is trained. For a prior, `prior` is where it starts: a folder, or nothing."""
    loop: LoopSettings
    start_from: str | None = None
    """Weights to begin with, of the same part, when there is nothing to resume."""
    identity_network: str | None = None
    """MobileFaceNet's weights, or ArcFace's IR-SE50, for the identity loss; needed where one has a weight."""
    perceptual_weights: tuple[str, ...] = ()
    """VGG16's file for the tree's perceptual loss, or LPIPS-Alex's one or two; none: EfficientNet-Lite0, which a pip package
    brings."""
    ablation: bool = False
    """E2 is left out: the residual is added as it is."""
    sizes: StyleGAN2Config | None = None
    """Sizes of a new prior, or of one that grows by a block; those of `prior` if not given."""

    size: int = 0
    """Side of a tail's pictures, in pixels."""
    directions: str | None = None
    """Light presets: a folder of official edits, along which drawn faces are moved."""

    @property
    def name(self) -> str:
        """Name of its files in `out`."""
        match self.task:
            case E0Settings() | LightE0Settings():
                return "e0"
            case LightPictureSettings():
                return "picture"
            case ResidualSettings() | LightResidualSettings():
                return "residual"
            case PriorSettings():
                return "prior"
            case TailSettings():
                return f"tail{self.size}"


def run(plan: TrainingPlan, worker: Worker | None = None, watch: Callable[[Progress], None] | None = None) -> int:
    """Train what the plan says; => images seen in all. Raises TrainingError or DataError with what to do."""
    worker = worker or Worker()
    set_up(worker.device)
    out, prior = Path(plan.out), Path(plan.prior)
    torch.manual_seed(plan.loop.seed)  # of the first weights; what is drawn later follows from seed and step
    if isinstance(plan.task, PriorSettings):
        return _run_prior(plan, plan.task, worker, watch)
    if isinstance(plan.task, TailSettings):
        return _run_tail(plan, plan.task, worker, watch)
    if isinstance(plan.task, LightE0Settings | LightResidualSettings | LightPictureSettings):
        return _run_light(plan, plan.task, worker, watch)
    model = model_on_prior(prior, plan.preset, without_e2=plan.ablation)
    faces = load_faces(plan.data, model.config.encoder.input_size, "train")
    picture = preview_of(model, plan.data) if worker.rank == 0 else None
    model.to(worker.device)
    perceptual, _ = perceptual_of(plan.perceptual_weights, model.config.encoder.input_size, worker.device)
    embed = None if plan.identity_network is None else identity_network(Path(plan.identity_network)).to(worker.device)
    common: dict[str, Any] = {"dtype": plan.loop.dtype, "clip_norm": plan.loop.clip_norm, "worker": worker, "picture": picture}
    common["embed"] = embed
    task: E0Task | ResidualTask
    match plan.task:
        case E0Settings():
            encoder = model.inverting()[0]
            if plan.start_from is None:
                start_near_the_mean(encoder)
            else:
                load_but(encoder, anchor_weights(plan.start_from), Path(plan.start_from), missing=())
            task = E0Task(model, perceptual, plan.task, **common)
        case ResidualSettings():
            load_result(model.inverting()[0], out / "e0.pt")
            if plan.start_from is not None:
                load_result(residual_parts(model), Path(plan.start_from))
            discriminator = discriminator_on_prior(prior, model.config.generator, model.config.encoder.input_size)
            discriminator.to(worker.device)
            directions = boundary_directions(edits_of(out, None)[1])
            task = ResidualTask(model, discriminator, perceptual, plan.task, directions_KD=directions, **common)
    about: dict[str, Any] = {"task": plan.task, "data": {"source": plan.data, "faces": len(faces.images)}}
    about["prior"] = {"generator": sha256_of(prior / GENERATOR)}
    return train(task, faces.images, plan.loop, out, worker=worker, watch=watch, about=about)


def _run_prior(plan: TrainingPlan, settings: PriorSettings, worker: Worker, watch: Callable[[Progress], None] | None) -> int:
    start = Path(plan.prior) if plan.prior else None
    config = plan.sizes or (None if start is None else stylegan2_sizes(start))
    if config is None:
        raise TrainingError("a prior needs sizes, or one to start from: give --resolution or --start-from")
    if plan.loop.precision != "fp16":
        # Clamping is for fp16, whose largest number is 65504; without it a step takes a tenth less.
        config = dataclasses.replace(config, conv_clamp=None)
    anchor = None if plan.start_from is None else anchor_weights(plan.start_from)
    learnt, discriminator = prior_parts(config, start, anchor)
    size = config.resolution
    faces = load_faces(plan.data, size, "train")
    held_out = load_faces(plan.data, size, "held_out", limit=HELD_OUT_FACES).images if worker.rank == 0 else None
    learnt.to(worker.device), discriminator.to(worker.device)
    perceptual, features = perceptual_of(plan.perceptual_weights, size, worker.device)
    task = PriorTask(
        learnt,
        discriminator,
        perceptual,
        settings,
        features=features,
        held_out=held_out,
        dtype=plan.loop.dtype,
        worker=worker,
    )
    about: dict[str, Any] = {"task": settings, "data": {"source": plan.data, "faces": len(faces.images)}}
    about["prior"] = {"generator": sha256_of(start / GENERATOR) if start else "", "config": dataclasses.asdict(config)}
    seen = train(task, faces.images, plan.loop, Path(plan.out), worker=worker, watch=watch, about=about)
    task.match_mapping()
    if worker.rank == 0:
        write_trained_prior(Path(plan.out) / PRIOR, plan, learnt, discriminator, seen)
    return seen


def inverted_faces(plan: TrainingPlan, generator: Mobile) -> dict[str, Inverted]:
    """Photographs as the E0, E1 and E2 in the plan's folder invert them, for training a tail and for measuring it."""
    model = channels_last(LightStyleRes(LightConfig(generator=generator.config)))
    assert model.encoder is not None
    load_result(model.encoder, Path(plan.out) / "e0.pt")
    load_result(light_parts(model), Path(plan.out) / "residual.pt")
    model.generator = generator
    model.latent_avg.copy_(generator.mapping.w_avg.expand_as(model.latent_avg))
    model.requires_grad_(False).eval()
    steps = None if plan.directions is None else typical_steps(Path(plan.directions))
    train_faces = load_faces(plan.data, model.config.input_size, "train").images
    held_out = load_faces(plan.data, model.config.input_size, "held_out", limit=HELD_OUT_LIGHT).images
    return {"inverted": Inverted(model, train_faces, steps), "held_out": Inverted(model, held_out, steps)}


def _run_light(
    plan: TrainingPlan,
    settings: LightE0Settings | LightResidualSettings | LightPictureSettings,
    worker: Worker,
    watch: Callable[[Progress], None] | None,
) -> int:
    out, prior = Path(plan.out), Path(plan.prior)
    model = light_on_prior(prior)
    encoder = model.encoder
    assert encoder is not None
    if isinstance(settings, LightE0Settings) and settings.size not in model.config.generator.sizes:
        raise TrainingError(f"{prior}: has no pictures of {settings.size} px; styleres train tail --size {settings.size} first")
    faces = load_faces(plan.data, model.config.input_size, "train")
    held_out = None
    if worker.rank == 0:
        held_out = load_faces(plan.data, model.config.input_size, "held_out", limit=HELD_OUT_LIGHT).images
    model.to(worker.device)
    perceptual, _ = perceptual_of(plan.perceptual_weights, 128, worker.device)
    embed = None if plan.identity_network is None else identity_network(Path(plan.identity_network)).to(worker.device)
    directions = None if plan.directions is None else typical_steps(Path(plan.directions))
    common: dict[str, Any] = {"embed": embed, "directions_KD": directions, "clip_norm": plan.loop.clip_norm}
    common |= {"worker": worker, "held_out": held_out}
    task: LightE0Task | LightResidualTask | LightPictureTask
    match settings:
        case LightE0Settings():
            load_imagenet(encoder.trunk)
            start_light_encoder(encoder)
            if plan.start_from is not None:
                load_but(encoder, anchor_weights(plan.start_from), Path(plan.start_from), missing=())
            task = LightE0Task(model, perceptual, settings, **common)
        case LightPictureSettings():
            load_result(encoder, out / "e0.pt")
            load_result(light_parts(model), out / "residual.pt")
            if plan.start_from is None:
                model.basis.copy_(find_basis(model, faces.images[:MEASURED_FACES]))
            else:
                load_result(PictureParts(model), Path(plan.start_from))
            task = LightPictureTask(model, perceptual, settings, seed=plan.loop.seed, **common)
        case LightResidualSettings():
            if (out / "e0.pt").is_file() or plan.start_from is None:
                load_result(encoder, out / "e0.pt")
            else:
                # A folder that begins with another model's E1 and E2 begins with its E0 too.
                load_but(encoder, anchor_weights(plan.start_from), Path(plan.start_from), missing=())
                save_result(out / "e0.pt", encoder.state_dict(), 0)
            if plan.start_from is not None:
                found = light_residual_weights(plan.start_from)
                count = model.config.residual.residual_channels
                if len(found["extraction.last.weight"]) > count:
                    found = keep_channels(found, count, model, faces.images[:MEASURED_FACES])
                load_but(light_parts(model), found, Path(plan.start_from), missing=())
            task = LightResidualTask(model, perceptual, settings, seed=plan.loop.seed, **common)
    about: dict[str, Any] = {"task": settings, "data": {"source": plan.data, "faces": len(faces.images)}}
    about["prior"] = {"generator": sha256_of(prior / GENERATOR)}
    return train(task, faces.images, plan.loop, out, worker=worker, watch=watch, about=about)


def light_on_prior(prior: Path) -> LightStyleRes:
    """An untrained light model on the prior's generator, starting from its mean code."""
    model = channels_last(LightStyleRes(LightConfig(generator=read_prior_config(prior))))
    model.generator.load_state_dict(prior_weights(prior / GENERATOR))
    model.latent_avg.copy_(model.generator.mapping.w_avg.expand_as(model.latent_avg))
    return model


def typical_steps(folder: Path) -> torch.Tensor:
    """The official InterFaceGAN directions in a folder, [K, D], each as long as an edit that one would use."""
    definitions = {one.name: one for one in definitions_in(folder).definitions}
    found = [
        strength * load_direction(one.path).reshape(-1, 512)[0]
        for name, strength in TYPICAL_STRENGTHS.items()
        if isinstance(one := definitions.get(name), DirectionDefinition)
    ]
    if not found:
        raise TrainingError(f"{folder}: holds none of {', '.join(TYPICAL_STRENGTHS)}.pt")
    return torch.stack(found)


def _run_tail(plan: TrainingPlan, settings: TailSettings, worker: Worker, watch: Callable[[Progress], None] | None) -> int:
    """Train one tail, then write OUT/prior: the prior with this tail, in place of one of that size or beside the others."""
    prior = Path(plan.prior)
    sizes = read_prior_config(prior)
    if not isinstance(sizes, MobileConfig):
        raise TrainingError(f"{prior}: tails are a MobileStyleGAN's; another architecture gives pictures of one size")
    if plan.size not in TAILS:
        raise TrainingError(f"expected a tail of one of {sorted(TAILS)} px, got {plan.size}")
    known = tuple(tail for tail in sizes.tails if tail.size != plan.size)
    config = dataclasses.replace(sizes, tails=(*known, TAILS[plan.size]))
    generator = Mobile(config)
    mine = f"synthesis.tails.px{plan.size}."
    tail = generator.synthesis.tails[f"px{plan.size}"]
    assert isinstance(tail, Tail)
    start_tail(tail)
    weights = prior_weights(prior / GENERATOR)
    load_but(generator, {name: v for name, v in weights.items() if not name.startswith(mine)}, prior, missing=(mine,))
    if plan.start_from is not None:
        load_but(tail, result_weights(Path(plan.start_from)), Path(plan.start_from), missing=("linear.",))
    channels_last(generator).to(worker.device)
    inverted = inverted_faces(plan, generator) if plan.data else {}
    task = TailTask(
        generator,
        plan.size,
        settings,
        seed=plan.loop.seed,
        dtype=plan.loop.dtype,
        clip_norm=plan.loop.clip_norm,
        worker=worker,
        **inverted,
    )
    about: dict[str, Any] = {"task": settings, "prior": {"generator": sha256_of(prior / GENERATOR), "size": plan.size}}
    if plan.data:
        about["data"] = {"source": plan.data, "faces": len(inverted["inverted"].faces)}
    seen = train(task, None, plan.loop, Path(plan.out), worker=worker, watch=watch, about=about)
    if worker.rank == 0:
        content = json.loads((prior / "config.json").read_text("utf-8"))
        write_prior(
            Path(plan.out) / PRIOR,
            Prior(config, _on_cpu(generator), None),
            licence=content["licence"],
            source=f"{content['source']}; a tail of {plan.size} px by styleres train tail, {seen} windows",
            card=(prior / "README.md").read_text("utf-8"),
        )
    return seen


def prior_parts(
    config: StyleGAN2Config, start: Path | None, anchor: Mapping[str, torch.Tensor] | None
) -> tuple[Anchored, Discriminator]:
    """New networks, or those of a prior's folder, of which `config` may have one block more. Raises TrainingError where
    they do not fit."""
    generator = channels_last(StyleGAN2(config))
    encoder = channels_last(StyleRes(model_config("mini", config), "invert").inverting()[0])
    discriminator = channels_last(Discriminator(config))
    if start is not None:
        before = stylegan2_sizes(start)
        grown = config.resolution == 2 * before.resolution
        if not grown and config.resolution != before.resolution:
            raise TrainingError(
                f"{start}: has {before.resolution} px; a prior grows by one block at a time, to {2 * before.resolution} px"
            )
        new, gone = f"b{config.resolution}.", f"b{before.resolution}.fromrgb."
        anchor = anchor if anchor is not None else read_prior_tensors(start, ANCHOR)
        load_but(generator, prior_weights(start / GENERATOR), start, missing=(f"synthesis.{new}",) if grown else ())
        if grown:
            # The new block adds nothing at first: the picture is the old one, enlarged.
            torch.nn.init.zeros_(generator.block(config.resolution).torgb.weight)
        judge = read_prior_tensors(start, DISCRIMINATOR)
        if judge is not None:
            kept = {name: tensor for name, tensor in judge.items() if not (grown and name.startswith(gone))}
            load_but(discriminator, kept, start, missing=(new,) if grown else ())
    if anchor is not None:
        sizes = {name: tensor.shape for name, tensor in encoder.state_dict().items()}
        # The body of an encoder of smaller images fits, and so do heads of the same depth.
        fitting = {name: tensor.float() for name, tensor in anchor.items() if sizes.get(name) == tensor.shape}
        if not fitting:
            raise TrainingError("the anchor's weights are of another encoder: not one of its tensors fits")
        encoder.load_state_dict(fitting, strict=False)
    else:
        start_near_the_mean(encoder)
    return Anchored(generator, encoder), discriminator


def stylegan2_sizes(prior: Path) -> StyleGAN2Config:
    """Sizes of a prior that must be a StyleGAN2. Raises TrainingError for another architecture."""
    sizes = read_prior_config(prior)
    if not isinstance(sizes, StyleGAN2Config):
        raise TrainingError(f"{prior}: this training needs a StyleGAN2 prior, and this one is of another architecture")
    return sizes


def load_but(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], where: Path, *, missing: tuple[str, ...]) -> None:
    """Load strictly, but for what begins with one of `missing`. Raises TrainingError with the names that are wrong."""
    try:
        lost, unknown = module.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise TrainingError(f"{where}: of other sizes ({error})") from error
    wrong = [*unknown, *(name for name in lost if not name.startswith(missing or ("-",)))]
    if wrong:
        raise TrainingError(f"{where}: missing or unknown tensors: {', '.join(sorted(wrong)[:8])}")


def anchor_weights(source: str) -> dict[str, torch.Tensor]:
    """An encoder's: of an `e0.pt`, an `anchor.safetensors`, or a bundle by name or folder."""
    path = Path(source)
    if path.suffix == ".pt":
        return result_weights(path)
    if path.suffix == ".safetensors":
        if (tensors := read_prior_tensors(path.parent, path.name)) is None:
            raise TrainingError(f"{path}: no such file; give an e0.pt, an anchor.safetensors or a bundle")
        return tensors
    inverter = open_bundle(source).load("all")
    if isinstance(inverter, LightStyleRes) and inverter.encoder is not None:
        return inverter.encoder.state_dict()
    if not isinstance(inverter, StyleRes):
        raise TrainingError(f"{source}: expected a StyleRes bundle to take the encoder from")
    return inverter.inverting()[0].state_dict()


def light_residual_weights(source: str) -> dict[str, torch.Tensor]:
    """E1's and E2's: of a `residual.pt`, or of a light bundle by name or folder. Raises TrainingError for anything else."""
    if source.endswith(".pt"):
        return result_weights(Path(source))
    inverter = open_bundle(source).load("all")
    if not isinstance(inverter, LightStyleRes):
        raise TrainingError(f"{source}: expected a residual.pt, or a bundle of the preset light, to go on from")
    return light_parts(inverter).state_dict()


def unpack_light(source: str, out: Path) -> None:
    """A light bundle => `out` as its trainings leave it: prior, e0.pt, residual.pt, picture.pt, a NAME.pt of each tail, edits.

    Weights are the bundle's, so rounded as it stores them. Raises TrainingError for another bundle, and for an `out` where a
    training has left one of these.
    """
    bundle = open_bundle(source)
    model = bundle.load("all")
    if not isinstance(model, LightStyleRes) or model.encoder is None or not isinstance(model.generator, Mobile):
        raise TrainingError(f"{source}: expected a bundle of the preset light, this is one of {bundle.method}")
    parts: dict[str, torch.nn.Module] = {
        "e0": model.encoder,
        "residual": light_parts(model),
        "picture": PictureParts(model),
        **{f"tail{tail.size}": model.generator.synthesis.tails[f"px{tail.size}"] for tail in model.generator.config.tails},
    }
    there = [name for name in parts if (out / f"{name}.pt").exists()]
    if there or (out / PRIOR).exists():
        raise TrainingError(f"{out}: expected an empty folder, it holds {', '.join(there) or PRIOR}; give another --out")
    for name, part in parts.items():
        save_result(out / f"{name}.pt", part.state_dict(), 0)
    prior = Prior(model.generator.config, _on_cpu(model.generator), None)
    write_prior(
        out / PRIOR,
        prior,
        licence=bundle.licence,
        source=f"the bundle {bundle.name}",
        card=f"# The generator of the bundle {bundle.name}\n",
    )
    save_edits(out, bundle.edits, load_file(bundle.path / DIRECTIONS))


def write_trained_prior(path: Path, plan: TrainingPlan, learnt: Anchored, discriminator: Discriminator, seen: int) -> None:
    """The averaged networks as a prior's folder, with the anchor's codes counted from the mean code as E0's are."""
    generator, encoder = learnt.generator, learnt.encoder
    weights = {name: tensor.detach().cpu().clone() for name, tensor in encoder.state_dict().items()}
    # Every row is the first head's plus its own, so the first head's bias moves them all.
    weights["styles.0.linear.bias"] += (learnt.origin_D - generator.mapping.w_avg).detach().cpu()
    prior = Prior(generator.config, _on_cpu(generator), _on_cpu(discriminator), weights)
    card = PRIOR_CARD.format(size=generator.config.resolution, images=seen, data=Path(plan.data).name)
    write_prior(
        path, prior, licence="that of the data it was trained on", source=f"styleres train prior, {seen} images", card=card
    )


def _on_cpu(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}


def perceptual_of(weights: Sequence[str], size: int, device: torch.device) -> tuple[Distance, Features | None]:
    """The perceptual loss, and its network's features where it gives them."""
    files = [Path(file) for file in weights]
    if files:
        is_vgg = len(files) == 1 and any(name.startswith("layer0.") for name in read_tensors(files[0]))
        network = VggPerceptual(load_vgg16(files[0])) if is_vgg else LpipsPerceptual(load_lpips(*files))
        return channels_last(network).to(device), None
    perceptual = channels_last(Perceptual(scale=2 if size <= 64 else 1)).to(device)
    return perceptual, perceptual.features


def identity_network(path: Path) -> torch.nn.Module:
    """MobileFaceNet or ArcFace's IR-SE50, whichever the file holds. Raises CheckpointError where it is neither."""
    return load_mobilefacenet(path) if any(name.startswith("gdconv") for name in read_tensors(path)) else load_arcface(path)


def model_on_prior(prior: Path, preset: Preset, *, without_e2: bool = False) -> StyleRes:
    """An untrained model on the prior's generator, starting from its mean code."""
    config = model_config(preset, read_prior_config(prior))
    if without_e2:
        config = dataclasses.replace(config, residual=dataclasses.replace(config.residual, transform="add"))
    model = channels_last(StyleRes(config))
    model.generator.load_state_dict(prior_weights(prior / GENERATOR))
    model.latent_avg.copy_(model.generator.mapping.w_avg.expand_as(model.latent_avg))
    return model


def bundle_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Trained parts in half the space; the generator stays as it was given, and integer counters stay integers."""
    return {
        name: tensor.half() if tensor.is_floating_point() and not name.startswith("generator.") else tensor
        for name, tensor in model.state_dict().items()
    }


def light_weights(model: LightStyleRes) -> dict[str, torch.Tensor]:
    """All in float16, and the two matrices that hold most of E0 in 8 bits with a scale for each row."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name in ("encoder.read.weight", "encoder.rows.weight"):
            found |= in_bytes(name, tensor)
        else:
            found[name] = tensor.half() if tensor.is_floating_point() else tensor
    return found


def discriminator_on_prior(prior: Path, generator: GeneratorConfig, size: int) -> Discriminator:
    """The prior's discriminator, of images of `size` px. Raises TrainingError where it has none, or one of others."""
    if not isinstance(generator, StyleGAN2Config):
        raise TrainingError(f"{prior}: only a StyleGAN2 brings a discriminator, which this method is trained with")
    channels = {res: count for res, count in generator.channels.items() if res <= size}
    discriminator = channels_last(Discriminator(dataclasses.replace(generator, resolution=size, channels=channels)))
    weights = prior_weights(prior / DISCRIMINATOR)
    try:
        discriminator.load_state_dict(weights)
    except RuntimeError as error:
        raise TrainingError(f"{prior}: expected a discriminator of {size} px images ({error})") from error
    return discriminator


def prior_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights in a file of a prior's folder. Raises TrainingError where it is not there."""
    tensors = read_prior_tensors(path.parent, path.name)
    if tensors is None:
        raise TrainingError(f"{path}: no such file; --prior is a folder with generator and discriminator .safetensors")
    return tensors


def save_edits(out: Path, entries: Sequence[EditEntry], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write edits and their tensors to a training's folder, as a bundle has them."""
    save_file(dict(tensors), out / DIRECTIONS)
    (out / EDITS).write_text(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=1) + "\n", "utf-8")


def load_edits(out: Path) -> tuple[list[EditEntry], dict[str, torch.Tensor]]:
    """Read what `save_edits` wrote. Raises OSError where there is nothing."""
    entries = json.loads((out / EDITS).read_text("utf-8"))
    return [EditEntry(**entry) for entry in entries], load_file(out / DIRECTIONS)


def edits_of(out: Path, base: str | None) -> tuple[list[EditEntry], dict[str, torch.Tensor]]:
    """Edit directions of the base bundle, or those that `styleres train directions` left; none without either."""
    if base is not None:
        bundle = open_bundle(base)
        return list(bundle.edits), load_tensors(bundle.path / DIRECTIONS)
    return load_edits(out) if (out / DIRECTIONS).is_file() else ([], {})


def boundary_directions(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """Return the directions in W that simulated edits may follow, [K, D], from the tensors of a bundle or a training."""
    found = [tensor for name, tensor in tensors.items() if name.startswith("direction.") and tensor.ndim == 1]
    return torch.stack(found) if found else None


def preview_of(model: StyleRes, data: str) -> Callable[[], np.ndarray]:
    """Rows of held-out faces: source | W+ only | StyleRes | edited towards a random code | the edit undone (cycle)."""
    held_out = load_faces(data, model.config.encoder.input_size, "held_out", limit=PREVIEW_FACES)
    z = torch.randn(len(held_out.images), model.config.generator.z_dim, generator=torch.Generator().manual_seed(5))

    @torch.no_grad()
    def picture() -> np.ndarray:
        device = model.latent_avg.device
        images = images_from_crops(held_out.images, device)
        inversion = model.invert(images)
        code = inversion.wplus_NLD
        offset = 0.45 * (model.generator.mapping(z.to(device))[:, None, :] - code)
        edited = model.generate(code + offset, inversion.detail)
        size = images.shape[-1]
        again = model.invert(torch.nn.functional.adaptive_avg_pool2d(edited, size))
        rows = [
            images,
            model.generator(model.generator.styles(code)),
            model.generate(code, inversion.detail),
            edited,
            model.generate(again.wplus_NLD - offset, again.detail),
        ]
        shown = [crops_from_images(torch.nn.functional.adaptive_avg_pool2d(row, size)) for row in rows]
        return np.concatenate([np.concatenate(list(row), axis=1) for row in shown], axis=0)

    return picture


def changed(settings: SettingsT, assignments: Sequence[str]) -> SettingsT:
    """`settings` with `NAME=VALUE` of each assignment. Raises TrainingError for unknown names and values of another kind."""
    values: dict[str, Any] = {}
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name not in fields:
            raise TrainingError(f"{assignment!r}: expected NAME=VALUE with one of {', '.join(fields)}")
        value, old = yaml.safe_load(text), fields[name]
        if isinstance(old, tuple) and isinstance(value, list):
            value = tuple(value)
        if isinstance(old, float) and not isinstance(value, bool):
            with suppress(TypeError, ValueError):
                value = float(value)  # of an integer, or of 1e-3, which is text to YAML
        if old is not None and type(value) is not type(old):
            raise TrainingError(f"{assignment!r}: expected a value like {old!r}")
        values[name] = value
    return dataclasses.replace(settings, **values)
