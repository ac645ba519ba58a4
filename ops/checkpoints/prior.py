"""A generator without an encoder on disk: what `styleres train --prior` starts from.

    config.json                  {"kind": "generator", sizes, licence, where it came from}
    generator.safetensors        its state dict, `mapping.w_avg` included; a StyleGAN2's by NVIDIA's names
    discriminator.safetensors    the same for its discriminator, where the source had one
    anchor.safetensors           the E0 that was trained with it, if `styleres train prior` made it: `train e0` may start there
    README.md                    where it came from, in words

It cannot invert a picture, as a bundle can.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from ops.files.atomic import replaced_folder
from ops.files.errors import CheckpointError
from ops.generators.build import GeneratorSizes, sizes_among, sizes_to_json

KIND = "generator"
GENERATOR, DISCRIMINATOR, ANCHOR = "generator.safetensors", "discriminator.safetensors", "anchor.safetensors"


@dataclass(frozen=True, eq=False)
class Prior:
    """A generator in our names, and its discriminator where the source had one."""

    config: GeneratorSizes
    generator: Mapping[str, Tensor]
    discriminator: Mapping[str, Tensor] | None
    anchor: Mapping[str, Tensor] | None = None


def write_prior(path: Path, prior: Prior, *, licence: str, source: str, card: str) -> None:
    """Write into a folder, made if needed. `source`: what it was converted from, for config.json.

    One that is there is replaced in one step; a discriminator or anchor of another generator does not outlive it.
    """
    config = prior.config
    content = {
        "kind": KIND,
        **sizes_to_json(config),
        "num_ws": config.num_ws,
        "licence": licence,
        "source": source,
    }
    with replaced_folder(path, ours=("config.json", GENERATOR, DISCRIMINATOR, ANCHOR, "README.md")) as folder:
        (folder / "config.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        for name, tensors in ((GENERATOR, prior.generator), (DISCRIMINATOR, prior.discriminator), (ANCHOR, prior.anchor)):
            if tensors is not None:
                safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, folder / name)
        (folder / "README.md").write_text(card, "utf-8")


def read_prior_config(path: Path) -> GeneratorSizes:
    """Sizes of the generator in such a folder. Raises CheckpointError where it is none."""
    try:
        content: dict[str, Any] = json.loads((path / "config.json").read_text("utf-8"))
        return sizes_among(content)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: expected a generator's folder with config.json ({error!r})") from error


def read_prior_tensors(path: Path, name: str) -> dict[str, Tensor] | None:
    """One of the files above; None where the folder has it not.

    Without NVIDIA's per-layer filter buffers, which are the same constant everywhere.
    """
    if not (path / name).is_file():
        return None
    return {
        key: tensor for key, tensor in safetensors.torch.load_file(path / name).items() if not key.endswith("resample_filter")
    }


def is_prior(path: Path) -> bool:
    """Return whether a folder holds a generator without an encoder."""
    return (path / GENERATOR).is_file() and not (path / "weights.safetensors").exists()
