"""The one interface of every edit, and its errors.

Legend of axes: N frames, L rows of W+, D width of W+.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch


class EditError(ValueError):
    """An edit cannot be built or applied as asked; the message says what to do."""


class Editor(ABC):
    """Moves codes. Abstract; its final classes are one file each.

    An editor keeps no state between frames: row n of the result depends on row n of the code and of the
    strength only, so batches and chunks may be cut anywhere.
    """

    @property
    @abstractmethod
    def unit(self) -> str:
        """What a strength of 1 means, as a phrase for people. It is not one unit for all editors."""

    @property
    @abstractmethod
    def neutral(self) -> float | None:
        """The strength at which `apply` returns the code it was given; None where there is none."""

    @abstractmethod
    def apply(self, wplus_NLD: torch.Tensor, strength_N: torch.Tensor) -> torch.Tensor:
        """W+ codes => edited W+ codes, [N, L, D] float32; the argument is not written to.

        Args:
            wplus_NLD: codes.
            strength_N: one strength per code, in the editor's `unit`, float32, on the same device.

        Raises:
            EditError: codes of other sizes than the editor was made for.
        """


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
