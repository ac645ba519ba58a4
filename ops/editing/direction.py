"""Linear edits: a step along a fixed direction (InterFaceGAN, Shen et al., CVPR 2020, Sec. 3; users' files).

Legend of axes: N frames, L rows of W+, D width of W+.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, final

import torch

from ops.editing.definition import Count, Definition, Offer
from ops.editing.editor import AnyEditor, EditError, Editor, check_codes, check_rows
from ops.editing.files import one_tensor
from ops.generators.protocol import GeneratorConfig


@final
class DirectionEditor(Editor):
    """W+ + strength · direction, on rows [first, end).

    `strength` counts lengths of the direction as it was given: it is not normalised here. The official
    InterFaceGAN directions have unit length per row, and are shown from −5 to 5; −s undoes s.

    Args:
        direction: [D] or [1, D] (the same for every row), or [L, D]; leading axes of size 1 are dropped, so
            that the official (1, 18, 512) files pass.
        rows: rows [first, end) of W+ that move; None for all. A direction [L, D] is indexed by the same rows.
        name: for messages.

    Raises:
        EditError: a direction of another rank, without a finite non-zero value, or bad rows.
    """

    def __init__(self, direction: torch.Tensor, *, rows: tuple[int, int] | None = None, name: str = "direction") -> None:
        check_rows(rows, name)
        shape = tuple(direction.shape)
        while direction.ndim > 1 and direction.shape[0] == 1:
            direction = direction[0]
        if direction.ndim not in (1, 2) or direction.numel() == 0:
            raise EditError(f"{name}: a direction is [D], [1, D] or [L, D], got {list(shape)}")
        direction = direction.detach().to(torch.float32).clone()
        if not torch.isfinite(direction).all() or not direction.any():
            raise EditError(f"{name}: a direction is finite and not all zero, this one is not; find it again")
        if direction.ndim == 2 and rows is not None and rows[1] > direction.shape[0]:
            raise EditError(f"{name}: rows {rows} reach beyond the direction's {direction.shape[0]} rows")
        self._direction = direction
        self._rows = rows
        self._name = name

    @property
    def unit(self) -> str:
        """The meaning of a strength of 1."""
        return "lengths of the direction, added; 0 is no edit, −s undoes s"

    @property
    def neutral(self) -> float | None:
        """0: nothing is added."""
        return 0.0

    def apply(self, wplus_NLD: torch.Tensor, strength_N: torch.Tensor) -> torch.Tensor:
        """W+ => W+ + strength · direction; rows outside keep their bits. See `Editor.apply`."""
        direction = self._direction.to(wplus_NLD.device)
        check_codes(
            wplus_NLD,
            strength_N,
            what=self._name,
            width=direction.shape[-1],
            row_count=direction.shape[0] if direction.ndim == 2 else None,
            rows=self._rows,
        )
        first, end = (0, wplus_NLD.shape[1]) if self._rows is None else self._rows
        step_LD = direction[first:end] if direction.ndim == 2 else direction
        edited = wplus_NLD.clone()
        edited[:, first:end] += strength_N[:, None, None] * step_LD
        return edited


def load_direction(path: str | Path) -> torch.Tensor:
    """A direction from a user's file: the one tensor of a `.npy`, `.npz`, `.safetensors` or `.pt` (`ops.editing.files`).

    Raises:
        EditError: a file that cannot be read, or not exactly one tensor of floats.
    """
    return one_tensor(path, "a direction")


@final
class DirectionDefinition(Definition):
    """A step in W or W+ from a file of one tensor."""

    kind: Literal["direction"]
    rows: tuple[Count, Count] | None = None
    """Rows [first, end) of W+ that move; None for all."""

    def editor(self, offer: Offer, config: GeneratorConfig) -> AnyEditor:
        return DirectionEditor(load_direction(self.path), rows=self.rows, name=offer.name)
