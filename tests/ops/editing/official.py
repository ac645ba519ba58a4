"""The official editors with the golden set's synthetic weights, for more than one test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ops.editing.gradctrl import Heads
from ops.editing.styleclip_global import global_direction, text_direction
from ops.editing.styleclip_mapper import Group, MapperEditor
from ops.generators.stylegan2_config import StyleGAN2Config
from tests.golden import synthetic_weights

GROUPS: dict[Group, str] = {"coarse": "course", "medium": "medium", "fine": "fine"}
ATTRIBUTES = ("gender", "smile", "eyeglasses", "age", "pose")


def golden_code(golden: Path) -> torch.Tensor:
    """W+ of the golden set's picture, [1, 18, 512]."""
    return torch.from_numpy(np.load(golden / "public" / "styleres_e4e.npz")["full/w"])


def mapper(golden: Path, *groups: Group) -> MapperEditor:
    weights = synthetic_weights(golden, "styleclip_mapper")

    def layer(group: Group, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        name = f"{GROUPS[group]}_mapping.mapping.{index}"
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    return MapperEditor({group: [layer(group, index) for index in range(1, 5)] for group in groups})


def heads(golden: Path) -> Heads:
    weights = synthetic_weights(golden, "gradctrl_classifier")

    def stacked(layer: int, part: str) -> torch.Tensor:
        return torch.stack([weights[f"classifiers.{i}.classifier.{layer}.{part}"] for i in range(5)])

    output, output_bias = stacked(2, "weight").squeeze(1), stacked(2, "bias").squeeze(1)
    return Heads(ATTRIBUTES, stacked(0, "weight"), stacked(0, "bias"), output, output_bias)


def glasses_direction(golden: Path) -> torch.Tensor:
    """The global direction of the golden set's two text vectors, [9088]."""
    weights = synthetic_weights(golden, "styleclip_global")
    deviations_S = torch.cat([weights[f"s_std.{i}"] for i in range(26)])
    step_E = text_direction(weights["text_target"], weights["text_neutral"])
    return global_direction(weights["fs3"], step_E, deviations_S, 0.11, StyleGAN2Config())
