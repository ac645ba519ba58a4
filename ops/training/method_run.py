"""Training of the other methods as values: which part, on which prior, from which encoder; and the bundle that comes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import torch
from torch import nn

from ops.checkpoints.bundle import Bundle, open_bundle, write_bundle
from ops.checkpoints.prior import DISCRIMINATOR, GENERATOR
from ops.data.faces import load_faces
from ops.device import channels_last, set_up
from ops.files.digest import sha256_of
from ops.generators.discriminator import Discriminator
from ops.generators.stylegan2_config import StyleGAN2Config
from ops.inversion.hfgi import ConsultationConfig, Hfgi, HfgiConfig
from ops.inversion.hyperstyle import HypernetConfig, HyperStyleConfig, WEncoderConfig
from ops.inversion.inverter import Inverter, only, pooled
from ops.inversion.methods import Method, MethodConfig, build_inverter
from ops.inversion.sfe import FeatureConfig, Sfe, SfeConfig
from ops.inversion.styleres import StyleRes
from ops.inversion.wplus import E4e, WplusConfig
from ops.spaces import crops_from_images, images_from_crops
from ops.training.distributed import Worker
from ops.training.methods import MethodSettings, MethodTask, Part, parts_of, start_gently
from ops.training.presets import model_config
from ops.training.run import (
    TrainingPlan,
    boundary_directions,
    bundle_weights,
    discriminator_on_prior,
    edits_of,
    identity_network,
    perceptual_of,
    prior_weights,
    run,
    stylegan2_sizes,
)
from ops.training.trainer import LoopSettings, Progress, TrainingError, load_result, train

PREVIEW_FACES = 16


@dataclass(frozen=True)
class MethodPlan:
    """Everything a process needs to know. Paths are absolute: several machines may read them."""

    data: str
    """As `load_faces` takes it."""
    prior: str
    """Folder with generator.safetensors and config.json; for adversarial losses with discriminator.safetensors."""
    out: str
    task: MethodSettings
    loop: LoopSettings
    base: str | None = None
    """A StyleRes or e4e bundle on the same prior, for its encoder and edits; None: what e0 and directions left in `out`."""
    start_from: str | None = None
    """Weights to begin with, of the same part, when there is nothing to resume."""
    identity_network: str | None = None
    perceptual_weights: tuple[str, ...] = ()
    """VGG16's file, or LPIPS-Alex's one or two; none: EfficientNet-Lite0, which comes with a pip package."""

    @property
    def name(self) -> Part:
        """Name of its files in `out`."""
        return self.task.part


Plan = TrainingPlan | MethodPlan


def run_plan(plan: Plan, worker: Worker | None = None, watch: Callable[[Progress], None] | None = None) -> int:
    """Train what any plan says; => images seen in all. Raises as `run` and `run_method` do."""
    match plan:
        case TrainingPlan():
            return run(plan, worker, watch)
        case MethodPlan():
            return run_method(plan, worker, watch)


def run_method(plan: MethodPlan, worker: Worker | None = None, watch: Callable[[Progress], None] | None = None) -> int:
    """Train what the plan says; => images seen in all. Raises TrainingError or DataError with what to do."""
    worker = worker or Worker()
    set_up(worker.device)
    out, prior, part = Path(plan.out), Path(plan.prior), plan.task.part
    torch.manual_seed(plan.loop.seed)  # of the first weights; what is drawn later follows from seed and step
    model = model_for(method_of(part), prior, out, plan.base, needed_before(part))
    if plan.start_from is None:
        start_gently(model, part)
    else:
        load_result(parts_of(model, part), Path(plan.start_from))
    size = model.config.input_size
    faces = load_faces(plan.data, size, "train")
    picture = preview(model, plan.data) if worker.rank == 0 else None
    model.to(worker.device)
    perceptual, _ = perceptual_of(plan.perceptual_weights, size, worker.device)
    discriminator = adversary_of(plan, model)
    task = MethodTask(
        model,
        perceptual,
        plan.task,
        discriminator=None if discriminator is None else discriminator.to(worker.device),
        embed=None if plan.identity_network is None else identity_network(Path(plan.identity_network)).to(worker.device),
        directions_KD=boundary_directions(edits_of(out, plan.base)[1]) if part == "sfe-editor" else None,
        dtype=plan.loop.dtype,
        clip_norm=plan.loop.clip_norm,
        worker=worker,
        picture=picture,
    )
    digests = {"generator": sha256_of(prior / GENERATOR)}
    if discriminator is not None:
        digests["discriminator"] = sha256_of(prior / DISCRIMINATOR)
    about: dict[str, Any] = {
        "task": plan.task,
        "data": {"source": plan.data, "faces": len(faces.images)},
        "prior": digests,
        "base": {"bundle": None if plan.base is None else open_bundle(plan.base).digest},
    }
    return train(task, faces.images, plan.loop, out, worker=worker, watch=watch, about=about)


def adversary_of(plan: MethodPlan, model: Inverter) -> Discriminator | None:
    """The prior's discriminator, for the parts that have an adversarial loss and run long enough to come to it."""
    if not plan.task.is_adversarial(plan.loop.images):
        return None
    if not (Path(plan.prior) / DISCRIMINATOR).is_file():
        logging.getLogger(__name__).warning("%s has no %s: no adversarial loss", plan.prior, DISCRIMINATOR)
        return None
    return discriminator_on_prior(Path(plan.prior), model.config.generator, model.config.input_size)


def mini_sizes(method: Method, generator: StyleGAN2Config) -> MethodConfig:
    """Sizes for a small generator, so that a CPU trains them; features of 32 px at 64 px, as the embedded StyleRes has them.

    Raises TrainingError for methods that `styleres train` has no losses for.
    """
    styleres = model_config("mini", generator)
    encoder, size = styleres.encoder, styleres.encoder.input_size
    match method:
        case "styleres":
            return styleres
        case "e4e":
            return WplusConfig(generator, encoder)
        case "hfgi":
            return HfgiConfig(generator, encoder, ConsultationConfig(resolution=size // 2, strides=(2, 1)))
        case "hyperstyle":
            reads = WEncoderConfig(size, encoder.stem_channels, encoder.groups, generator.w_dim)
            groups = ((32, 32, 2), (32, 64, 2), (64, 128, 3), (128, 128, 2))
            hypernet = HypernetConfig(32, groups, code_width=128, shared_width=64, plane_width=96, rounds=3)
            return HyperStyleConfig(generator, reads, hypernet)
        case "sfe":
            blocks = ((32, 2, 2), (64, 3, 1), (128, 4, 1), (128, 2, 2))
            features = FeatureConfig(size, 32, blocks, depth=2)
            return SfeConfig(generator, features, encoder, image_size=size)
        case "psp" | "restyle" | "styleres_light":
            raise TrainingError(
                f"{method} is not trained by this command; e4e, hfgi, hyperstyle and sfe are (docs/training.md)"
            )
        case other:
            assert_never(other)


def method_of(part: Part) -> Method:
    """Return the method that a part belongs to."""
    match part:
        case "w-encoder" | "hyperstyle":
            return "hyperstyle"
        case "hfgi":
            return "hfgi"
        case "sfe-inverter" | "sfe-editor":
            return "sfe"


def needed_before(part: Part) -> tuple[Part, ...]:
    """Parts of the same model that must have been trained."""
    match part:
        case "hyperstyle":
            return ("w-encoder",)
        case "sfe-editor":
            return ("sfe-inverter",)
        case "w-encoder" | "hfgi" | "sfe-inverter":
            return ()


def parts_in(method: Method) -> tuple[Part, ...]:
    """Everything of a method that is trained, in order."""
    match method:
        case "hyperstyle":
            return ("w-encoder", "hyperstyle")
        case "hfgi":
            return ("hfgi",)
        case "sfe":
            return ("sfe-inverter", "sfe-editor")
        case _:
            return ()


def method_loop(part: Part) -> LoopSettings:
    """Lengths for two CPU cores."""
    return LoopSettings(images=20_000, batch=32 if part == "w-encoder" else 16)


def model_for(method: Method, prior: Path, out: Path, base: str | None, parts: tuple[Part, ...]) -> Inverter:
    """A model on the prior's generator, with e4e's encoder from `base` or `out`, and with those parts that were trained.

    Raises TrainingError for parts that were not, and where `base` has another generator or encoder.
    """
    model = channels_last(build_inverter(method, mini_sizes(method, stylegan2_sizes(prior))))
    generator = model.get_submodule("generator")
    generator.load_state_dict(prior_weights(prior / GENERATOR))
    mean = generator.get_submodule("mapping").get_buffer("w_avg")
    model.get_buffer("latent_avg").copy_(mean.expand_as(model.get_buffer("latent_avg")))
    if isinstance(model, E4e | Hfgi | Sfe):
        load_encoder(only(model.encoder, "invert"), generator, out, base)
    for part in parts:
        load_result(parts_of(model, part), out / f"{part}.pt")
    return model


def load_encoder(encoder: nn.Module, generator: nn.Module, out: Path, base: str | None) -> None:
    """E0, from a bundle or from what `styleres train e0` left."""
    if base is None:
        load_result(encoder, out / "e0.pt")
        return
    bundle = open_bundle(base)
    found = bundle.load()
    if not isinstance(found, StyleRes | E4e):
        raise TrainingError(f"--base {base}: a {bundle.method} bundle; expected a StyleRes or e4e bundle, for its encoder")
    for name, ours in generator.state_dict().items():
        theirs = found.generator.state_dict().get(name)
        if theirs is None or not torch.equal(ours, theirs):
            raise TrainingError(f"--base {base}: its generator is not the prior's ({name} differs); name that bundle's prior")
    try:
        encoder.load_state_dict(only(found.encoder, "invert").state_dict())
    except RuntimeError as error:
        raise TrainingError(f"--base {base}: an encoder of other sizes ({error})") from error


def preview(model: Inverter, data: str) -> Callable[[], np.ndarray]:
    """Rows of held-out faces: source | W+ without the detail's method, where that is a picture | the reconstruction."""
    held_out = load_faces(data, model.config.input_size, "held_out", limit=PREVIEW_FACES)

    @torch.no_grad()
    def picture() -> np.ndarray:
        images = images_from_crops(held_out.images, model.get_buffer("latent_avg").device)
        found = model.invert(images)
        generator = model.get_submodule("generator")
        plain = generator(generator.styles(found.wplus_NLD))  # type: ignore[operator]
        rows = [images, plain, model.generate(found.wplus_NLD, found.detail)]
        shown = [crops_from_images(pooled(row, images.shape[-1])) for row in rows]
        return np.concatenate([np.concatenate(list(row), axis=1) for row in shown], axis=0)

    return picture


def method_bundle(method: Method, prior: Path, out: Path, base: str | None, folder: Path, licence: str) -> Bundle:
    """Write what was trained of a method as a bundle, with the edits of its base. Raises TrainingError for missing parts."""
    model = model_for(method, prior, out, base, parts_in(method))
    entries, directions = edits_of(out, base)
    card = f"# {folder.name}\n\nA {method} model trained by `styleres train method`, on the prior and encoder of its base.\n"
    return write_bundle(
        folder,
        name=folder.name,
        method=method,
        config=mini_sizes(method, stylegan2_sizes(prior)),
        licence=licence,
        edits=entries,
        weights=bundle_weights(model),
        directions=directions,
        card=card,
    )
