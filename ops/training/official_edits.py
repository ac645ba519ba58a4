"""The authors' edits of FFHQ's W as a bundle's own: they fit every generator that shares StyleGAN2-FFHQ's W.

What lives in S (StyleCLIP's global directions) or was learnt with one generator's pictures (its mappers) does not carry over.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from torch import Tensor

from ops.checkpoints.bundle import EditEntry
from ops.editing.definitions import DirectionDefinition, GanSpaceDefinition, GradCtrlDefinition
from ops.editing.direction import load_direction
from ops.editing.ganspace import load_basis, read_ganspace_table
from ops.editing.gradctrl import CONTROLS, load_heads
from ops.editing.official_folder import definitions_in

ABOUT = {
    "smile": "more smile; 1 is a plain one, up to 2 (0.9 of the authors' unit)",
    "age": "older; 4 is about eleven years, -3 ten years younger",
    "pose": "the head turns",
}
ROWS = {"age": (4, 18)}
"""Rows of W+ that an official direction moves here, where not all: on the coarsest rows age puts eyeglasses on, and the fourth
costs more of who it is than the years that it adds."""
UNITS = {"smile": 0.9}
"""Of the authors' units, where 1 is another amount here: at their 1 a face of a clip loses more of its identity than 0.15."""


def official_edits(folder: Path, left_out: Collection[str] = ()) -> tuple[list[EditEntry], dict[str, Tensor]]:
    """InterFaceGAN's directions, GANSpace's table and GradCtrl's attributes in a folder, but for those left out.

    Raises EditError where the folder holds none, or files of other kinds.
    """
    entries: list[EditEntry] = []
    tensors: dict[str, Tensor] = {}
    for definition in definitions_in(folder).definitions:
        match definition:
            case DirectionDefinition(name=name, path=path):
                direction = load_direction(path)
                tensors[f"direction.{name}"] = UNITS.get(name, 1.0) * direction.reshape(-1, direction.shape[-1])
                entries.append(EditEntry(name, "direction", ABOUT.get(name, f"InterFaceGAN's {name}"), ROWS.get(name)))
            case GanSpaceDefinition(path=path, table=table):
                assert table is not None, "of an official folder"
                basis = load_basis(path)
                tensors |= {
                    "ganspace.mean": basis.mean_D,
                    "ganspace.components": basis.components_KD,
                    "ganspace.std": basis.std_K,
                }
                for edit in read_ganspace_table(table):
                    about = f"GANSpace's {edit.name.replace('_', ' ')}: a target, not an amount; 0 is the average face"
                    entries.append(EditEntry(f"ganspace.{edit.name}", "ganspace", about, edit.rows, edit.component))
            case GradCtrlDefinition(path=path, params=params):
                assert params is not None, "of an official folder"
                heads = load_heads(path, params)
                for index, name in enumerate(heads.names):
                    tensors[f"gradctrl.{name}.hidden"] = heads.hidden_AHD[index]
                    tensors[f"gradctrl.{name}.hidden_bias"] = heads.hidden_bias_AH[index]
                    tensors[f"gradctrl.{name}.output"] = heads.output_AH[index]
                    tensors[f"gradctrl.{name}.output_bias"] = heads.output_bias_A[index]
                for name in CONTROLS:
                    about = f"GradCtrl's {name}: length of a path in W; the authors' demo goes 4.5"
                    about += " (positive is younger)" if name == "age" else ""
                    entries.append(EditEntry(f"gradctrl.{name}", "gradctrl", about))
    return [entry for entry in entries if entry.name not in left_out], tensors
