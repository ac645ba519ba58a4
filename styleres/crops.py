"""Editing aligned faces that are arrays already: no files, no store, no detector."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from jobs.common.errors import UsageError
from jobs.common.prepare import require_size
from ops.checkpoints.bundle import DEFAULT, Bundle, open_bundle
from ops.device import Device, resolve_device
from ops.editing.library import load_edits
from ops.editing.plan import plan_edits
from ops.editing.smoothing import SmoothingSettings
from ops.inversion.session import Session
from styleres.recipes import Edits, recipe_of


@dataclass(frozen=True)
class EditedCrops:
    """Faces before and after, as the model draws them."""

    reconstruction: np.ndarray
    """uint8 [N, R, R, 3] RGB: without an edit."""
    edited: np.ndarray
    """The same with it."""
    codes: np.ndarray
    """W+ of the faces, float32 [N, L, D], before the edit."""


def edit_crops(
    crops: np.ndarray, edits: Edits, *, model: str = DEFAULT, size: int | None = None, device: Device = "auto"
) -> EditedCrops:
    """Invert and edit aligned faces; the model stays loaded for the next call.

    crops: uint8 [N, S, S, 3] RGB, cut as `ops.face.align.ffhq_quad` says, S the model's input size (256 for `ffhq`). Each is a
    picture of its own: nothing is smoothed, keyframes are taken at 0 s. size: R, one of the model's; S if not given.

    Raises UsageError for arrays of another shape or type.
    """
    bundle, session = loaded(model, resolve_device(device))
    side = session.input_size
    if crops.ndim != 4 or crops.shape[1:] != (side, side, 3) or crops.dtype != np.uint8:
        raise UsageError(f"expected crops uint8 [N, {side}, {side}, 3] RGB, got {crops.dtype} {list(crops.shape)}")
    wanted = side if size is None and side in bundle.config.generator.sizes else size
    require_size(wanted, bundle)
    recipe = recipe_of(edits, bundle)
    editors = load_edits(recipe.names, bundle.editors(), recipe.editors, bundle.config.generator)
    codes, detail = session.invert(crops)
    # Rows do not know of each other without smoothing, and plan_edits wants increasing times: one face at a time.
    planned = [
        plan_edits(recipe, {name: one.editor for name, one in editors.items()}, code[None], np.zeros(1), 0, SmoothingSettings())
        for code in codes
    ]
    edited = np.concatenate([one.edited_NLD for one in planned])
    offsets = None
    if any(one.style_active_N.any() for one in planned):
        width = max(one.style_offset_AS.shape[1] for one in planned)
        none = np.zeros((1, width), np.float32)
        offsets = np.concatenate([one.style_offset_AS if one.style_active_N.any() else none for one in planned])
    before = session.generate_levels(codes, detail, size=wanted)
    after = session.generate_levels(edited, detail, offsets, unedited_NLD=codes, size=wanted)
    return EditedCrops(as_bytes(before), as_bytes(after), codes)


def as_bytes(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def loaded(model: str, device: str) -> tuple[Bundle, Session]:
    bundle = open_bundle(model)
    return bundle, Session(bundle.load(), device=device, precision="fp32", batch_size=16)
