"""Users' steps in S, the space of channel-wise styles (Wu et al., StyleSpace Analysis, CVPR 2021).

Legend of axes: N frames, S all channels of S one after the other, C channels of one layer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, final

import torch

from ops.editing.definition import Definition, Offer
from ops.editing.editor import AnyEditor, EditError, StyleEditor, check_style_size
from ops.editing.files import read_tensors
from ops.generators.protocol import GeneratorConfig, style_channels


@final
class StyleDirectionEditor(StyleEditor):
    """S + strength · direction. −s undoes s.

    Args:
        direction_S: finite, not all zero.

    Raises:
        EditError: a direction of another rank, or without a finite non-zero value.
    """

    def __init__(self, direction_S: torch.Tensor, *, name: str = "style direction") -> None:
        if direction_S.ndim != 1 or not torch.isfinite(direction_S).all() or not direction_S.any():
            raise EditError(f"{name}: a direction of S is [S], finite and not all zero; got {list(direction_S.shape)}")
        self._direction_S = direction_S.detach().float().clone()

    @property
    def unit(self) -> str:
        """The meaning of a strength of 1."""
        return "lengths of the direction, added to S; 0 is no edit, −s undoes s"

    @property
    def neutral(self) -> float | None:
        """0: nothing is added."""
        return 0.0

    def offset(self, strength_N: torch.Tensor) -> torch.Tensor:
        """strength · direction. See `StyleEditor.offset`."""
        return strength_N[:, None] * self._direction_S.to(strength_N.device)


def load_style_direction(path: str | Path, config: GeneratorConfig, *, name: str = "style direction") -> torch.Tensor:
    """A direction [S] from a user's file: one flat tensor [S], or tensors [C] by layer (`b64.conv1`, `b8.torgb`, …).

    Layers that the file does not name do not move.

    Raises:
        EditError: a file that cannot be read, layers that the generator does not have, or sizes that are not its own.
    """
    tensors = read_tensors(path, "a direction of S")
    sizes = style_channels(config)
    if len(tensors) == 1 and not tensors.keys() & sizes.keys():
        (flat,) = tensors.values()
        check_style_size(flat.numel(), config, name)
        return flat.reshape(-1)
    unknown = sorted(tensors.keys() - sizes.keys())
    if unknown:
        raise EditError(
            f"{path}: expected one tensor, or tensors by layer of this generator: {', '.join(sizes)}; "
            f"found {', '.join(unknown[:5])}"
        )
    wrong = [
        f"{layer} {tensors[layer].numel()} for {sizes[layer]}"
        for layer in sizes
        if layer in tensors and tensors[layer].numel() != sizes[layer]
    ]
    if wrong:
        raise EditError(f"{path}: made for another generator: {', '.join(wrong[:5])} channels")
    return torch.cat([tensors[layer].reshape(-1) if layer in tensors else torch.zeros(size) for layer, size in sizes.items()])


@final
class StyleDirectionDefinition(Definition):
    """A step in S from a file: one flat tensor, or tensors by layer."""

    kind: Literal["style-direction"]

    def editor(self, offer: Offer, config: GeneratorConfig) -> AnyEditor:
        return StyleDirectionEditor(load_style_direction(self.path, config, name=offer.name), name=offer.name)
