"""The official edit files in a folder: which editors they make complete, and what the others lack.

Both layouts are known: all files side by side, and the `editings` folder of the authors' repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import pydantic

from ops.editing.definition import Definition, Offer
from ops.editing.direction import DirectionDefinition
from ops.editing.editor import AnyEditor, EditError
from ops.editing.ganspace import GanSpaceDefinition
from ops.editing.gradctrl import GradCtrlDefinition
from ops.editing.styleclip_mapper import MapperDefinition
from ops.editing.values import NAME_PATTERN
from ops.generators.protocol import GeneratorConfig

_STYLECLIP = "styleclip_directions/styleclip_directions/global_directions"
_PLACES: Mapping[str, tuple[str, ...]] = {
    # file                            side by side                      in the authors' `editings`
    "age.pt": ("age.pt", "interfacegan_directions/age.pt"),
    "smile.pt": ("smile.pt", "interfacegan_directions/smile.pt"),
    "pose.pt": ("pose.pt", "interfacegan_directions/pose.pt"),
    "ffhq_pca.pt": ("ffhq_pca.pt", "ganspace_pca/ffhq_pca.pt"),
    "ganspace_configs.csv": ("ganspace_configs.csv", "ganspace_pca/ganspace_configs.csv"),
    "gradctrl_model.pth": ("gradctrl_model.pth", "gradctrl_manipulator/model_ffhq/model.pth"),
    "gradctrl_model_params.pkl": ("gradctrl_model_params.pkl", "gradctrl_manipulator/model_ffhq/model_params.pkl"),
    "styleclip_mapping_configs.csv": ("styleclip_mapping_configs.csv", "styleclip_directions/styleclip_mapping_configs.csv"),
    "S_mean_std": ("S_mean_std", f"{_STYLECLIP}/ffhq/S_mean_std"),
    "fs3.npy": ("fs3.npy", f"{_STYLECLIP}/ffhq/fs3.npy"),
    "templates.txt": ("templates.txt", f"{_STYLECLIP}/templates.txt"),
}
DIRECTIONS = ("age", "smile", "pose")


@dataclass(frozen=True)
class FolderContent:
    """Edits that a folder of official files gives."""

    definitions: tuple[Definition, ...]
    notes: Mapping[str, str]
    """Editor => what it lacks, or how to name what it needs beside files."""


def definitions_in(folder: Path, prefix: str = "") -> FolderContent:
    """Definitions of every official editor that is complete in a folder; their names begin with `prefix` and a dot.

    `age`, `smile`, `pose`; `ganspace` with all of its table; `gradctrl` with all of its attributes; `mapper.NAME` for each
    mapper of the table whose file is there.

    Raises:
        EditError: no such folder, or no official file in it.
    """
    if not folder.is_dir():
        raise EditError(
            f"{folder}: expected a folder of official edit files, found {'a file' if folder.exists() else 'nothing'}"
        )
    at: dict[str, Path] = {}
    for name, places in _PLACES.items():
        for place in reversed(places):
            if (folder / place).is_file():
                at[name] = folder / place
    if not at:
        raise EditError(f"{folder}: holds none of the official edit files: {', '.join(_PLACES)}")
    definitions: list[Definition] = []
    notes: dict[str, str] = {}

    def named(name: str) -> str:
        return f"{prefix}.{name}" if prefix else name

    def lacking(name: str, *files: str) -> bool:
        absent = [file for file in files if file not in at]
        if absent:
            notes[named(name)] = f"lacks {', '.join(absent)}"
        return bool(absent)

    for name in DIRECTIONS:
        if not lacking(name, f"{name}.pt"):
            definitions.append(DirectionDefinition(kind="direction", name=named(name), path=at[f"{name}.pt"]))
    if not lacking("ganspace", "ffhq_pca.pt", "ganspace_configs.csv"):
        path, table = at["ffhq_pca.pt"], at["ganspace_configs.csv"]
        definitions.append(GanSpaceDefinition(kind="ganspace", name=named("ganspace"), path=path, table=table))
    if not lacking("gradctrl", "gradctrl_model.pth", "gradctrl_model_params.pkl"):
        path, params = at["gradctrl_model.pth"], at["gradctrl_model_params.pkl"]
        definitions.append(GradCtrlDefinition(kind="gradctrl", name=named("gradctrl"), path=path, params=params))
    if not lacking("mapper", "styleclip_mapping_configs.csv"):
        absent = []
        for edit in _mapper_names(at["styleclip_mapping_configs.csv"]):
            found = sorted(folder.rglob(f"{edit}.pt"))
            if len(found) > 1:
                raise EditError(f"{folder}: several files are called {edit}.pt: {', '.join(map(str, found))}; keep one")
            if found:
                definitions.append(MapperDefinition(kind="mapper", name=named(f"mapper.{edit}"), path=found[0]))
            else:
                absent.append(f"{edit}.pt")
        if absent:
            notes[named("mapper")] = f"lacks {', '.join(absent)}"
    if not lacking("styleclip-global", "fs3.npy", "S_mean_std"):
        where, templates = at["fs3.npy"], at.get("templates.txt")
        more = f"@templates={templates}" if templates is not None and templates.parent != where.parent else ""
        notes[named("styleclip-global")] = (
            f"needs texts: --editor 'NAME=styleclip-global:{where.parent}{more}@target=TEXT@neutral=TEXT@disentanglement=0.11'"
        )
    return FolderContent(tuple(definitions), notes)


def _mapper_names(table: Path) -> list[str]:
    """The first column of the official table: name, no_coarse, no_medium, no_fine. The checkpoints tell the rest."""
    return [line.split(",")[0].strip() for line in table.read_text("utf-8").splitlines() if line.strip()]


@final
class FolderDefinition(Definition):
    """A folder of official files: everything in it that is complete, each under NAME., or as it is where NAME is empty."""

    kind: Literal["folder"]
    name: str = pydantic.Field(pattern=f"^({NAME_PATTERN})?$")

    def offers(self) -> list[Offer]:
        """The edits of every definition inside."""
        return [offer for one in definitions_in(self.path, self.name).definitions for offer in one.offers()]

    def editor(self, offer: Offer, config: GeneratorConfig) -> AnyEditor:
        raise AssertionError(f"{offer.name}: its own definition opens it")
