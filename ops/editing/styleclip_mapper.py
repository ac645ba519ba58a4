"""StyleCLIP's latent mapper (Patashnik et al., ICCV 2021, Sec. 5): a small network from a code to its own step.

Legend of axes: N frames, L rows of W+, D width of W+, G rows of one group.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, final

import torch

from ops.editing.definition import Definition, Offer
from ops.editing.editor import AnyEditor, EditError, Editor, check_codes, in_full_blocks
from ops.editing.files import read_tensors
from ops.generators.protocol import GeneratorConfig
from ops.nn.equalised import LRELU_GAIN, LRELU_SLOPE, equalised_linear

Group = Literal["coarse", "medium", "fine"]
GROUP_ROWS: dict[Group, tuple[int, int | None]] = {"coarse": (0, 4), "medium": (4, 8), "fine": (8, None)}
"""Rows [first, end) of W+ that a group reads and moves; None is the last row."""

LAYERS = 4
LEARNING_RATE_MULTIPLIER = 0.01
_OFFICIAL_NAMES: dict[str, Group] = {"course": "coarse", "medium": "medium", "fine": "fine"}  # "course" is the files' own


@final
class MapperEditor(Editor):
    """W+ + strength · M(W+), where M is one network for each group of rows; rows of an absent group stay.

    Per group, x its rows [G, D] of one code:

        x ← x · rsqrt(mean over the G rows of x² + 1e−8)       (over rows, not over channels: as the official program does)
        x ← lrelu₀.₂(x (W · 0.01/√D)ᵀ + 0.01 b) · √2           four times

    In float64 and in blocks of one size, so that a code comes out of any batch with the same bits.

    Args:
        groups: per group its layers, in order, as (weight [D, D], bias [D]).

    Raises:
        EditError: no group, or layers of other shapes.
    """

    def __init__(self, groups: Mapping[Group, list[tuple[torch.Tensor, torch.Tensor]]], *, name: str = "mapper") -> None:
        if not groups:
            raise EditError(f"{name}: a mapper has at least one of the groups {', '.join(GROUP_ROWS)}, this one has none")
        self._width = next(iter(groups.values()))[0][0].shape[-1]
        for group, layers in groups.items():
            for weight, bias in layers:
                if weight.shape != (self._width, self._width) or bias.shape != (self._width,):
                    shapes = f"{list(weight.shape)} and {list(bias.shape)}"
                    raise EditError(f"{name}: layers of a mapper are [D, D] and [D], D = {self._width}; {group} has {shapes}")
        self._groups = {
            group: [(weight.double(), bias.double()) for weight, bias in groups[group]]
            for group in GROUP_ROWS
            if group in groups
        }
        self._name = name

    @property
    def unit(self) -> str:
        """The meaning of a strength of 1."""
        return "times the step that the mapper chooses for each code; 0 is no edit, 0.08 to 0.2 is usual"

    @property
    def neutral(self) -> float | None:
        """0: nothing is added."""
        return 0.0

    def apply(self, wplus_NLD: torch.Tensor, strength_N: torch.Tensor) -> torch.Tensor:
        """W+ => W+ + strength · M(W+); rows of absent groups keep their bits. See `Editor.apply`."""
        least = max(GROUP_ROWS[group][0] for group in self._groups)
        check_codes(wplus_NLD, strength_N, what=self._name, width=self._width, row_count=None, rows=(least, least + 1))
        return in_full_blocks(self._apply_block, wplus_NLD, strength_N)

    def _apply_block(self, wplus_NLD: torch.Tensor, strength_N: torch.Tensor) -> torch.Tensor:
        edited = wplus_NLD.clone()
        for group, layers in self._groups.items():
            first, end = GROUP_ROWS[group]
            x_NGD = wplus_NLD[:, first:end].double()
            x_NGD = x_NGD * (x_NGD.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
            for weight, bias in layers:
                x_NGD = equalised_linear(
                    x_NGD, weight.to(x_NGD.device), bias.to(x_NGD.device), lr_multiplier=LEARNING_RATE_MULTIPLIER
                )
                x_NGD = torch.nn.functional.leaky_relu(x_NGD, LRELU_SLOPE) * LRELU_GAIN
            edited[:, first:end] += (strength_N.double()[:, None, None] * x_NGD).float()
        return edited


def load_mapper(path: str | Path, *, name: str = "mapper") -> MapperEditor:
    """A mapper from the official file: `{course|medium|fine}_mapping.mapping.{1..4}.{weight|bias}`; groups may be absent.

    Raises:
        EditError: a file that cannot be read, keys other than a mapper's, or a group without all of its layers.
    """
    tensors = read_tensors(path, "a StyleCLIP mapper")
    pattern = rf"({'|'.join(_OFFICIAL_NAMES)})_mapping\.mapping\.([1-{LAYERS}])\.(weight|bias)"
    matched = {key: re.fullmatch(pattern, key) for key in tensors}
    unknown = sorted(key for key, match in matched.items() if match is None)
    if unknown:
        found = ", ".join(key or "a tensor without a name" for key in unknown[:5])
        raise EditError(f"{path}: expected a mapper's tensors, such as course_mapping.mapping.1.weight; found {found}")
    present = {match[1] for match in matched.values() if match is not None}
    groups: dict[Group, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for official in sorted(present):
        keys = [f"{official}_mapping.mapping.{layer}" for layer in range(1, LAYERS + 1)]
        absent = [f"{key}.{part}" for key in keys for part in ("weight", "bias") if f"{key}.{part}" not in tensors]
        if absent:
            raise EditError(f"{path}: the group {official} lacks {', '.join(absent)}; the file is not whole")
        groups[_OFFICIAL_NAMES[official]] = [(tensors[f"{key}.weight"], tensors[f"{key}.bias"]) for key in keys]
    return MapperEditor(groups, name=name)


@final
class MapperDefinition(Definition):
    """A StyleCLIP mapper's checkpoint."""

    kind: Literal["mapper"]

    def editor(self, offer: Offer, config: GeneratorConfig) -> AnyEditor:
        return load_mapper(self.path, name=offer.name)
