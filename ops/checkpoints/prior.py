"""A generator without an encoder on disk: what `styleres train --prior` starts from.

    config.json                  {"kind": "generator", sizes, licence, where it came from}
    generator.safetensors        a StyleGAN2's state dict by NVIDIA's names, `mapping.w_avg` included
    discriminator.safetensors    the same for its discriminator, where the source had one
    README.md                    where it came from, in words

It is no bundle: nothing in it can invert a picture.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from ops.checkpoints.errors import CheckpointError
from ops.stylegan2.config import StyleGAN2Config

KIND = "generator"
GENERATOR, DISCRIMINATOR = "generator.safetensors", "discriminator.safetensors"


@dataclass(frozen=True, eq=False)
class Prior:
    """A StyleGAN2 in our names, and its discriminator where the source had one."""

    config: StyleGAN2Config
    generator: Mapping[str, Tensor]
    discriminator: Mapping[str, Tensor] | None


def write_prior(path: Path, prior: Prior, *, licence: str, source: str, card: str) -> None:
    """Write into a folder, made if needed. `source`: what it was converted from, for config.json."""
    path.mkdir(parents=True, exist_ok=True)
    config = prior.config
    content = {
        "kind": KIND,
        "naming": "NVIDIA stylegan2-ada/3",
        **dataclasses.asdict(config),
        "num_ws": config.num_ws,
        "licence": licence,
        "source": source,
    }
    (path / "config.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    safetensors.torch.save_file({k: v.contiguous() for k, v in prior.generator.items()}, path / GENERATOR)
    if prior.discriminator is not None:
        safetensors.torch.save_file({k: v.contiguous() for k, v in prior.discriminator.items()}, path / DISCRIMINATOR)
    (path / "README.md").write_text(card, "utf-8")


def read_prior_config(path: Path) -> StyleGAN2Config:
    """Sizes of the generator in such a folder. Raises CheckpointError where it is none."""
    try:
        content: dict[str, Any] = json.loads((path / "config.json").read_text("utf-8"))
        return StyleGAN2Config(
            resolution=content["resolution"],
            w_dim=content["w_dim"],
            z_dim=content["z_dim"],
            mapping_layers=content["mapping_layers"],
            channels={int(res): count for res, count in content["channels"].items()},
            conv_clamp=content["conv_clamp"],
            resample_filter=tuple(content["resample_filter"]),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: expected a generator's folder with config.json ({error!r})") from error


def is_prior(path: Path) -> bool:
    """Whether a folder holds a generator without an encoder."""
    return (path / GENERATOR).is_file() and not (path / "weights.safetensors").exists()
