"""GANSpace (Härkönen et al., NeurIPS 2020): principal components of W, in the official program's semantics.

The strength is a *target*, not a step: the code is moved until its coordinate along the component, measured
on one row of W+, is that many standard deviations. So 0 is not "no edit", and applying twice changes nothing
more.

Legend of axes: N frames, L rows of W+, D width of W+, K components.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import pydantic
import torch

from ops.editing.definition import Count, Definition, Offer
from ops.editing.editor import AnyEditor, EditError, Editor, check_codes, check_rows
from ops.editing.files import read_tensors
from ops.generators.protocol import GeneratorConfig


@dataclass(frozen=True)
class GanSpaceEdit:
    """One named edit: which component moves which rows."""

    name: str
    component: int
    """Index into the basis's components, from 0."""
    rows: tuple[int, int]
    """Rows [first, end) of W+ that move."""
    measured_row: int = 0
    """The row whose coordinate is measured and set; the others move by the same vector."""


@dataclass(frozen=True, eq=False)
class GanSpaceBasis:
    """Principal components of W: mean [D], components [K, D] of unit length, standard deviations [K]."""

    mean_D: torch.Tensor
    components_KD: torch.Tensor
    std_K: torch.Tensor

    def __post_init__(self) -> None:
        # The official file keeps an axis of size 1 for rows: (1, D), (K, 1, D).
        mean = self.mean_D.detach().to(torch.float32).reshape(-1)
        components = self.components_KD.detach().to(torch.float32)
        if components.ndim == 3 and components.shape[1] == 1:
            components = components[:, 0]
        std = self.std_K.detach().to(torch.float32).reshape(-1)
        if components.shape != (len(std), len(mean)):
            raise EditError(
                "a GANSpace basis has mean [D], components [K, D] and std [K], got "
                f"{list(self.mean_D.shape)}, {list(self.components_KD.shape)}, {list(self.std_K.shape)}"
            )
        if not (std > 0).all():
            raise EditError("a GANSpace basis has positive standard deviations, this one has others")
        object.__setattr__(self, "mean_D", mean)
        object.__setattr__(self, "components_KD", components)
        object.__setattr__(self, "std_K", std)


@final
class GanSpaceEditor(Editor):
    """Sets one coordinate of the code, measured on one row, to a target.

        c = ⟨w[measured_row] − mean, v⟩ / σ          w[first:end] += (target − c) · σ · v

    Raises:
        EditError: a component that the basis does not have, or bad rows.
    """

    def __init__(self, basis: GanSpaceBasis, edit: GanSpaceEdit) -> None:
        check_rows(edit.rows, edit.name)
        count = len(basis.std_K)
        if not 0 <= edit.component < count:
            raise EditError(f"{edit.name}: component {edit.component}, the basis has 0 to {count - 1}")
        if edit.measured_row < 0:
            raise EditError(f"{edit.name}: measured row {edit.measured_row}; rows count from 0")
        self._edit = edit
        self._mean_D = basis.mean_D
        self._component_D = basis.components_KD[edit.component]
        self._std = basis.std_K[edit.component]

    @property
    def unit(self) -> str:
        """The meaning of a strength of 1."""
        return "target in standard deviations of the component; 0 is the average face, not “no edit”"

    @property
    def neutral(self) -> float | None:
        """None: which target changes nothing depends on the code."""
        return None

    def apply(self, wplus_NLD: torch.Tensor, strength_N: torch.Tensor) -> torch.Tensor:
        """W+ => W+ whose coordinate is `strength`; rows outside keep their bits. See `Editor.apply`."""
        row = self._edit.measured_row
        first, end = self._edit.rows
        check_codes(
            wplus_NLD,
            strength_N,
            what=self._edit.name,
            width=len(self._mean_D),
            row_count=None,
            rows=(min(first, row), max(end, row + 1)),
        )
        component_D = self._component_D.to(wplus_NLD.device)
        std = self._std.to(wplus_NLD.device)
        # In float64, and a sum rather than a matrix product: the order of summation may follow N, and the
        # same code must come out of any batch with the same bits.
        offset_ND = (wplus_NLD[:, row] - self._mean_D.to(wplus_NLD.device)).double()
        coordinate_N = ((offset_ND * component_D).sum(dim=1) / std).float()
        edited = wplus_NLD.clone()
        edited[:, first:end] += ((strength_N - coordinate_N) * std)[:, None, None] * component_D
        return edited


def read_ganspace_table(path: str | Path) -> list[GanSpaceEdit]:
    """The official table: tab separated, no header: name, component, first row, end row, default strength.

    The default strength is read past, as the official program does: it is always given.

    Raises:
        EditError: a missing file, or a line that is not such a row (named by number).
    """
    path = Path(path)
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EditError(f"{path}: cannot be read as a GANSpace table ({error})") from error
    edits = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        cells = line.split("\t")
        try:
            name, component, first, end, _ = cells
            edits.append(GanSpaceEdit(name.strip(), int(component), (int(first), int(end))))
        except ValueError as error:
            raise EditError(
                f"{path}, line {number}: expected name, component, first row, end row and default strength, "
                f"separated by tabs, got {line!r}"
            ) from error
    return edits


def load_basis(path: str | Path) -> GanSpaceBasis:
    """Principal components from a file of the tensors `mean`, `comp` and `std` (the official `ffhq_pca.pt`).

    Raises:
        EditError: a file that cannot be read, or without these.
    """
    tensors = read_tensors(path, "GANSpace components")
    absent = [key for key in ("mean", "comp", "std") if key not in tensors]
    if absent:
        raise EditError(f"{path}: expected tensors mean, comp and std, lacks {', '.join(absent)}")
    return GanSpaceBasis(tensors["mean"], tensors["comp"], tensors["std"])


@final
class GanSpaceDefinition(Definition):
    """Principal components: with `table`, NAME.EDIT for each of its rows; with `component`, NAME."""

    kind: Literal["ganspace"]
    table: Path | None = None
    component: Count | None = None
    rows: tuple[Count, Count] | None = None
    """With `component`: rows [first, end) of W+ that move."""

    @pydantic.model_validator(mode="after")
    def _one_way(self) -> GanSpaceDefinition:
        if (self.table is None) == (self.component is None):
            raise ValueError("give either a table of edits, or one component (and rows), and not both")
        if self.table is not None and self.rows is not None:
            raise ValueError("the table says which rows move; leave rows out")
        return self

    def files(self) -> dict[str, Path]:
        """The components, and the table if there is one."""
        return super().files() | ({} if self.table is None else {"table": self.table})

    def offers(self) -> list[Offer]:
        """NAME, or NAME.EDIT for each row of the table."""
        if self.table is None:
            return super().offers()
        rows = read_ganspace_table(self.table)
        return [Offer(f"{self.name}.{row.name}", self, (("component", row.component), ("rows", row.rows))) for row in rows]

    def editor(self, offer: Offer, config: GeneratorConfig) -> AnyEditor:
        chosen: dict[str, Any] = dict(offer.chosen)
        component, rows = chosen.get("component", self.component or 0), chosen.get("rows", self.rows or (0, config.num_ws))
        return GanSpaceEditor(load_basis(self.path), GanSpaceEdit(offer.name, component, rows))
