"""A training as values: what, on what, with which figures. Any process can run one, alone or as one of several."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import yaml
from safetensors.torch import load_file

from ops.checkpoints.prior import read_prior_config
from ops.device import channels_last, keep_freed_memory
from ops.inversion.styleres import StyleRes
from ops.metrics.networks.ir import load_arcface
from ops.metrics.networks.mobilefacenet import load_mobilefacenet
from ops.metrics.networks.vgg16 import load_vgg16
from ops.metrics.networks.weights import read_tensors
from ops.spaces import crops_from_images, images_from_crops
from ops.stylegan2.discriminator import Discriminator
from ops.training.data import load_faces
from ops.training.distributed import Worker
from ops.training.e0 import E0Settings, E0Task
from ops.training.methods import MethodSettings
from ops.training.perceptual import Perceptual, VggPerceptual
from ops.training.presets import Preset, model_config
from ops.training.residual import Distance, Features, ResidualSettings, ResidualTask, residual_parts
from ops.training.trainer import LoopSettings, Progress, TrainingError, load_result, train

DIRECTIONS = "directions.safetensors"
PREVIEW_FACES = 16
SettingsT = TypeVar("SettingsT", E0Settings, ResidualSettings, MethodSettings, LoopSettings)


@dataclass(frozen=True)
class TrainingPlan:
    """Everything a process needs to know. Paths are absolute: several machines may read them."""

    data: str
    """As `load_faces` takes it."""
    prior: str
    """Folder with generator.safetensors, discriminator.safetensors and config.json."""
    out: str
    preset: Preset
    task: E0Settings | ResidualSettings
    """Its type says what is trained."""
    loop: LoopSettings
    start_from: str | None = None
    """Weights to begin with, of the same part, when there is nothing to resume."""
    identity_network: str | None = None
    """MobileFaceNet's weights, or ArcFace's IR-SE50, for the identity loss; needed where one has a weight."""
    perceptual_weights: str | None = None
    """VGG16's, for the tree's perceptual loss; EfficientNet-Lite0, which comes with a pip package, if not given."""
    ablation: bool = False
    """E2 is left out: the residual is added as it is."""

    @property
    def name(self) -> Literal["e0", "residual"]:
        """Of its files in `out`."""
        return "e0" if isinstance(self.task, E0Settings) else "residual"


def run(plan: TrainingPlan, worker: Worker | None = None, watch: Callable[[Progress], None] | None = None) -> int:
    """Train what the plan says; => images seen in all. Raises TrainingError or DataError with what to do."""
    worker = worker or Worker()
    if worker.device.type == "cpu":
        keep_freed_memory()
    out, prior = Path(plan.out), Path(plan.prior)
    torch.manual_seed(plan.loop.seed)  # of the first weights; what is drawn later follows from seed and step
    model = model_on_prior(prior, plan.preset, without_e2=plan.ablation)
    faces = load_faces(plan.data, model.config.encoder.input_size, "train")
    picture = preview_of(model, plan.data) if worker.rank == 0 else None
    model.to(worker.device)
    perceptual, features = perceptual_of(plan.perceptual_weights, model.config.encoder.input_size, worker.device)
    embed = None if plan.identity_network is None else identity_network(Path(plan.identity_network)).to(worker.device)
    common: dict[str, Any] = {"dtype": plan.loop.dtype, "clip_norm": plan.loop.clip_norm, "worker": worker, "picture": picture}
    common["embed"] = embed
    task: E0Task | ResidualTask
    match plan.task:
        case E0Settings():
            if plan.start_from is not None:
                load_result(model.inverting()[0], Path(plan.start_from))
            task = E0Task(model, perceptual, plan.task, **common)
        case ResidualSettings():
            load_result(model.inverting()[0], out / "e0.pt")
            if plan.start_from is not None:
                load_result(residual_parts(model), Path(plan.start_from))
            discriminator = discriminator_on_prior(prior, model).to(worker.device)
            directions = boundary_directions(out)
            task = ResidualTask(
                model, discriminator, perceptual, plan.task, features=features, directions_KD=directions, **common
            )
    about = {"task": dataclasses.asdict(plan.task), "data": {"source": plan.data, "faces": len(faces.images)}}
    about["prior"] = {"generator": _digest(prior / "generator.safetensors")}
    return train(task, faces.images, plan.loop, out, worker=worker, watch=watch, about=about)


def perceptual_of(vgg_weights: str | None, size: int, device: torch.device) -> tuple[Distance, Features | None]:
    """The perceptual loss, and its network's features where it gives them."""
    if vgg_weights is not None:
        return channels_last(VggPerceptual(load_vgg16(Path(vgg_weights)))).to(device), None
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
    model.generator.load_state_dict(prior_weights(prior / "generator.safetensors"))
    model.latent_avg.copy_(model.generator.mapping.w_avg.expand_as(model.latent_avg))
    return model


def discriminator_on_prior(prior: Path, model: StyleRes) -> Discriminator:
    """The prior's discriminator, at the size of the encoder's images."""
    generator, size = model.config.generator, model.config.encoder.input_size
    channels = {res: count for res, count in generator.channels.items() if res <= size}
    discriminator = channels_last(Discriminator(dataclasses.replace(generator, resolution=size, channels=channels)))
    weights = prior_weights(prior / "discriminator.safetensors")
    try:
        discriminator.load_state_dict(weights)
    except RuntimeError as error:
        raise TrainingError(f"{prior}: expected a discriminator of {size} px images ({error})") from error
    return discriminator


def prior_weights(path: Path) -> dict[str, torch.Tensor]:
    """NVIDIA's names are ours; their per-layer filter buffers are the same constant everywhere and not kept."""
    if not path.is_file():
        raise TrainingError(f"{path}: no such file; --prior is a folder with generator and discriminator .safetensors")
    return {name: tensor for name, tensor in load_file(path).items() if not name.endswith("resample_filter")}


def boundary_directions(out: Path) -> torch.Tensor | None:
    """The boundaries' directions [K, D] that the `directions` step left, for simulated edits; None without that step."""
    if not (out / DIRECTIONS).is_file():
        return None
    tensors = load_file(out / DIRECTIONS)
    return torch.stack([tensor for name, tensor in tensors.items() if name.startswith("direction.")])


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
        if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if old is not None and type(value) is not type(old):
            raise TrainingError(f"{assignment!r}: expected a value like {old!r}")
        values[name] = value
    return dataclasses.replace(settings, **values)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
