"""styleres train: E0, edit directions, then E1 and E2, on a frozen StyleGAN2; then a bundle of all.

styleres train e0         --data FACES.parquet --prior DIR --out runs/mini64
styleres train directions --data FACES.parquet --prior DIR --out runs/mini64
styleres train residual   --data FACES.parquet --prior DIR --out runs/mini64
styleres train bundle     --prior DIR --out runs/mini64 --bundle DIR
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from safetensors.torch import load_file, save_file

from jobs.errors import UsageError, explained
from ops.checkpoints.bundle import EditEntry, write_bundle
from ops.device import channels_last
from ops.inversion.presets import mini64
from ops.inversion.styleres import StyleRes
from ops.spaces import crops_from_images, images_from_crops
from ops.stylegan2.discriminator import Discriminator
from ops.training.data import Faces, load_faces
from ops.training.residual import residual_parts

app = typer.Typer(no_args_is_help=True, help=__doc__)

Data = Annotated[Path, typer.Option("--data", help="Parquet of aligned faces: image, identity, attributes.")]
Prior = Annotated[Path, typer.Option("--prior", help="Folder with generator.safetensors and discriminator.safetensors.")]
Run = Annotated[Path, typer.Option("--out", help="Folder of checkpoints, logs and previews.")]
MaxMinutes = Annotated[float, typer.Option("--max-minutes", min=0.01, help="The schedule fits itself to this.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Of torch; all cores if not given.")]

DIRECTIONS, EDITS = "directions.safetensors", "edits.json"
LICENCE = "non-commercial research only (trained on CelebA)"


@app.command("e0")
def e0_command(data: Data, prior: Prior, out: Run, max_minutes: MaxMinutes = 60, threads: Threads = None) -> None:
    """Train the base encoder: image => W+."""
    from ops.training.e0 import E0Settings, train_e0

    with explained():
        use_threads(threads)
        model = model_on_prior(prior)
        faces = load_faces(data, model.config.encoder.input_size, "train")
        train_e0(model, faces.images, E0Settings(max_minutes=max_minutes), out, previews(data, out))


@app.command("residual")
def residual_command(
    data: Data,
    prior: Prior,
    out: Run,
    start_from: Annotated[Path | None, typer.Option("--start-from", help="An earlier residual.pt to go on from.")] = None,
    max_minutes: MaxMinutes = 60,
    threads: Threads = None,
) -> None:
    """Train E1 and E2 on the encoder that `e0` left in --out."""
    from ops.training.residual import ResidualSettings, train_residual

    with explained():
        use_threads(threads)
        model = model_on_prior(prior)
        load_part(model.inverting()[0], out / "e0.pt", "encoder")
        if start_from is not None:
            load_part(residual_parts(model), start_from, "residual")
        discriminator = channels_last(Discriminator(model.config.generator))
        discriminator.load_state_dict(prior_weights(prior / "discriminator.safetensors"))
        faces = load_faces(data, model.config.encoder.input_size, "train")
        settings = ResidualSettings(max_minutes=max_minutes)
        directions = boundary_directions(out)
        train_residual(model, discriminator, faces.images, directions, settings, out, previews(data, out))


@app.command("directions")
def directions_command(
    data: Data,
    prior: Prior,
    out: Run,
    faces: Annotated[int, typer.Option("--faces", min=500, help="Training faces to find directions with.")] = 12_000,
    threads: Threads = None,
) -> None:
    """Find edit directions in the codes of the encoder that `e0` left in --out."""
    with explained():
        use_threads(threads)
        model = model_on_prior(prior)
        load_part(model.inverting()[0], out / "e0.pt", "encoder")
        model.eval()
        entries, tensors = find_edits(model, load_faces(data, model.config.encoder.input_size, "train", limit=faces))
        save_file(tensors, out / DIRECTIONS)
        (out / EDITS).write_text(json.dumps([asdict(entry) for entry in entries], indent=1) + "\n", "utf-8")


@app.command("bundle")
def bundle_command(prior: Prior, out: Run, bundle: Annotated[Path, typer.Option("--bundle", help="Folder to write.")]) -> None:
    """Write what was trained as a bundle; `styleres evaluate` then measures it into its card."""
    with explained():
        model = model_on_prior(prior)
        load_part(model.inverting()[0], out / "e0.pt", "encoder")
        load_part(residual_parts(model), out / "residual.pt", "residual")
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


def boundary_directions(out: Path) -> torch.Tensor | None:
    """The boundaries' directions [K, D] that the `directions` step left, for simulated edits; None without that step."""
    if not (out / DIRECTIONS).is_file():
        return None
    tensors = load_file(out / DIRECTIONS)
    return torch.stack([tensor for name, tensor in tensors.items() if name.startswith("direction.")])


# name, positive attribute, negative attribute (None: its absence), projected out, what a positive strength does
ATTRIBUTE_EDITS = (
    ("smile", "smiling", None, ("gender", "age", "eyeglasses"), "more smile"),
    ("age", None, "young", ("eyeglasses", "smile"), "older"),
    ("gender", "male", None, ("smile",), "more masculine"),
    ("eyeglasses", "eyeglasses", None, ("gender", "age", "smile"), "eyeglasses appear"),
    ("hair_colour", "blond_hair", "black_hair", ("gender", "smile"), "from black towards blond hair"),
    ("bangs", "bangs", None, ("gender", "smile"), "bangs appear"),
)
UNIT = "; 1 leads from the average face without it to the average face with it"
GANSPACE_COMPONENTS = 10


def find_edits(model: StyleRes, faces: Faces) -> tuple[list[EditEntry], dict[str, torch.Tensor]]:
    """Entries and tensors for a bundle, printed with the accuracy of each boundary on faces it was not fitted on."""
    from ops.training.directions import find_boundary, ganspace_basis, labels_from, orthogonalised, scaled, yaw_proxy

    codes = codes_of(model, faces.images)
    labels: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, positive, negative, _, _ in ATTRIBUTE_EDITS:
        if positive is None:
            assert negative is not None
            labels[name] = (np.arange(len(codes)), ~faces.attributes[negative])
        else:
            labels[name] = labels_from(faces.attributes, positive, negative)
    yaw = yaw_proxy(faces.images[:6000])
    low, high = np.nanquantile(yaw, [0.25, 0.75])
    turned = np.flatnonzero((yaw < low) | (yaw > high))
    labels["pose"] = (turned, yaw[turned] > high)

    boundaries = {name: find_boundary(codes[rows], marked) for name, (rows, marked) in labels.items()}
    entries, tensors = [], {}
    abouts = {name: about for name, *_, about in ATTRIBUTE_EDITS} | {"pose": "the head turns to the right of the picture"}
    others = {name: projected for name, _, _, projected, _ in ATTRIBUTE_EDITS} | {"pose": ("smile", "gender")}
    for name, boundary in boundaries.items():
        rows, marked = labels[name]
        plain = orthogonalised(boundary.direction_D, [boundaries[other].direction_D for other in others[name]])
        direction = scaled(torch.nn.functional.normalize(plain, dim=0), codes[rows], torch.from_numpy(marked))
        print(f"{name}: balanced accuracy {boundary.accuracy:.3f}, {len(marked)} faces, length {direction.norm():.3f}")
        entries.append(EditEntry(name, "direction", abouts[name] + UNIT))
        tensors[f"direction.{name}"] = direction
    basis = ganspace_basis(model.generator, GANSPACE_COMPONENTS)
    tensors |= {
        "ganspace.mean": basis.mean_D,
        "ganspace.components": basis.components_KD,
        "ganspace.std": basis.std_K,
    }
    for component in range(GANSPACE_COMPONENTS):
        about = f"principal component {component} of W is set to this many standard deviations; 0 is not 'no edit'"
        entries.append(EditEntry(f"ganspace_{component}", "ganspace", about, component=component))
    return entries, tensors


@torch.no_grad()
def codes_of(model: StyleRes, crops: np.ndarray) -> torch.Tensor:
    """uint8 [N, R, R, 3] => W [N, D]: the mean row of each face's W+."""
    encoder = model.inverting()[0]
    parts = [encoder(images_from_crops(part))[0] for part in np.array_split(crops, max(1, len(crops) // 64))]
    return (torch.cat(parts) + model.latent_avg).mean(dim=1)


def model_on_prior(prior: Path) -> StyleRes:
    """An untrained mini64 on the prior's generator, starting from its mean code."""
    model = channels_last(StyleRes(mini64()))
    model.generator.load_state_dict(prior_weights(prior / "generator.safetensors"))
    model.latent_avg.copy_(model.generator.mapping.w_avg.expand_as(model.latent_avg))
    return model


def prior_weights(path: Path) -> dict[str, torch.Tensor]:
    """NVIDIA's names are ours; their per-layer filter buffers are the same constant everywhere and not kept."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; --prior is a folder with generator and discriminator .safetensors")
    return {name: tensor for name, tensor in load_file(path).items() if not name.endswith("resample_filter")}


def load_part(module: torch.nn.Module, path: Path, key: str) -> None:
    if not path.is_file():
        raise UsageError(f"{path}: no such checkpoint; run the training step before this one with the same --out")
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)[key])


def previews(data: Path, out: Path) -> Callable[[StyleRes, str], None]:
    """Writes source | W+ only | StyleRes of 16 held-out faces as a PNG."""
    held_out = load_faces(data, mini64().encoder.input_size, "held_out", limit=16)

    @torch.no_grad()
    def preview(model: StyleRes, name: str) -> None:
        encoder = model.inverting()[0]
        training = encoder.training
        model.eval()
        inversion = model.invert(images_from_crops(held_out.images))
        plain = model.generator(model.generator.styles(inversion.wplus_NLD))
        rows = [held_out.images, crops_from_images(plain)]
        rows.append(crops_from_images(model.generate(inversion.wplus_NLD, inversion.detail)))
        picture = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
        out.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(out / f"{name}.png")
        if training:
            encoder.train()

    return preview


def use_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
