"""The interface of every edit, and its errors: `Editor` moves codes of W+, `StyleEditor` gives an offset in S.

Legend of axes: N frames, L rows of W+, D width of W+, S all channels of S one after the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch

from ops.generators.protocol import GeneratorConfig, style_channels

BLOCK = 16
"""Codes of one call in `in_full_blocks`."""


class EditError(ValueError):
    """An edit cannot be built or applied as asked; the message says what to do."""


class AnyEditor(ABC):
    """Abstract: what both kinds of editors say of their strength."""

    @property
    @abstractmethod
    def unit(self) -> str:
        """The meaning of a strength of 1, as a phrase for people. It is not one unit for all editors."""

    @property
    @abstractmethod
    def neutral(self) -> float | None:
        """The strength at which nothing is changed; None where there is none."""


class Editor(AnyEditor):
    """Moves codes. Abstract; its final classes are one file each.

    An editor keeps no state between frames: row n of the result depends on row n of the code and of the
    strength only, so batches and chunks may be cut anywhere.
    """

    @abstractmethod
    def apply(self, wplus_NLD: torch.Tensor, strength_N: torch.Tensor) -> torch.Tensor:
        """W+ codes => edited W+ codes, [N, L, D] float32; the argument is not written to.

        Args:
            wplus_NLD: codes; N may be 0, and sizes are checked then too.
            strength_N: one strength per code, in the editor's `unit`, float32, on the same device.

        Raises:
            EditError: codes of other sizes than the editor was made for.
        """


class StyleEditor(AnyEditor):
    """Moves S, which W+ cannot express. Abstract; its final classes are one file each.

    It adds, and looks at no code: so several of them add up, in any order, and what fades is the offset.
    """

    @abstractmethod
    def offset(self, strength_N: torch.Tensor) -> torch.Tensor:
        """=> [N, S] float32: what is added to S, all layers one after the other in the order of
        `ops.generators.protocol.style_channels`. The channels of torgb are those that include its gain 1 / sqrt(C).

        Args:
            strength_N: one strength per frame, in the editor's `unit`, float32; N may be 0.
        """


def check_fits(editor: AnyEditor, config: GeneratorConfig, name: str) -> None:
    """Holds an edit against a generator, before any code is there.

    Raises:
        EditError: the edit was made for another generator; the message says which sizes differ.
    """
    none = torch.zeros(0)
    match editor:
        case Editor():
            editor.apply(torch.zeros(0, config.num_ws, config.w_dim), none)
        case StyleEditor():
            check_style_size(editor.offset(none).shape[1], config, name)


def check_style_size(found: int, config: GeneratorConfig, name: str) -> None:
    """Holds a number of channels against the generator's S.

    Raises:
        EditError: they differ.
    """
    expected = sum(style_channels(config).values())
    if found != expected:
        raise EditError(
            f"{name}: made for an S of {found} channels, this generator has {expected} in {len(config.style_inputs)} layers; "
            "an edit belongs to one generator: use one that was found in this model's style space"
        )


def in_full_blocks(
    step: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], codes_N: torch.Tensor, strength_N: torch.Tensor
) -> torch.Tensor:
    """`step` on blocks of `BLOCK` codes, the last one padded by repeating its last row.

    Matrix kernels are chosen by shape, so a code would otherwise get other last bits in another batch.
    """
    pieces = []
    for start in range(0, len(codes_N), BLOCK):
        rows = torch.arange(start, start + BLOCK, device=codes_N.device).clamp_(max=len(codes_N) - 1)
        pieces.append(step(codes_N[rows], strength_N[rows])[: len(codes_N) - start])
    return torch.cat(pieces) if pieces else step(codes_N, strength_N)


def check_rows(rows: tuple[int, int] | None, what: str) -> None:
    """Rows [first, end) of W+ that an edit may touch; None is all of them.

    Raises:
        EditError: not 0 <= first < end.
    """
    if rows is not None and not 0 <= rows[0] < rows[1]:
        raise EditError(f"{what}: rows are [first, end) with 0 <= first < end, got {rows}")


def check_codes(
    wplus_NLD: torch.Tensor,
    strength_N: torch.Tensor,
    *,
    what: str,
    width: int,
    row_count: int | None,
    rows: tuple[int, int] | None,
) -> None:
    """Holds codes and strengths against what an edit was made for (`row_count` None: any number of rows).

    Raises:
        EditError: sizes that differ.
    """
    if wplus_NLD.ndim != 3 or strength_N.shape != wplus_NLD.shape[:1]:
        raise EditError(
            f"{what}: expected codes [N, L, D] and N strengths, got {tuple(wplus_NLD.shape)} and {tuple(strength_N.shape)}"
        )
    found = tuple(wplus_NLD.shape[1:])
    if found[1] != width or (row_count is not None and found[0] != row_count):
        expected = f"[{'any' if row_count is None else row_count}, {width}]"
        raise EditError(
            f"{what}: made for W+ codes {expected}, got {list(found)}; an edit belongs to one generator: use "
            "one that was found in this model's latent space"
        )
    if rows is not None and rows[1] > found[0]:
        raise EditError(f"{what}: touches rows {rows[0]} to {rows[1] - 1}, the codes have {found[0]} rows")
