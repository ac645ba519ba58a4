"""From a recipe to codes: one track's base and edited W+, and what was applied to each frame.

Legend of axes: N frames, L rows of W+, D width of W+, E entries of a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ops.editing.editor import EditError, Editor
from ops.editing.recipe import EditRecipe
from ops.editing.smoothing import SmoothingSettings, smooth_codes

_FRAMES_AT_ONCE = 256  # bounds the memory of an editor's temporaries; rows do not know of each other


@dataclass(frozen=True, eq=False)
class PlannedEdits:
    """What one track's frames become."""

    base_NLD: np.ndarray
    """Codes before the edits, float32: the track's codes, smoothed as set. Paste-back compares with these."""
    edited_NLD: np.ndarray
    """Codes after all edits, float32; equal to `base_NLD`, bit for bit, where not active."""
    active_N: np.ndarray
    """bool: whether any entry acts on the frame. Where not, the source's own pixels pass."""
    edits: tuple[str, ...]
    """The entries' names, in order."""
    strength_NE: np.ndarray
    """float64: each entry's strength, in its editor's unit."""
    weight_NE: np.ndarray
    """float64 in [0, 1]: how much of each entry is there (span, fades, tracks)."""


def plan_edits(
    recipe: EditRecipe,
    editors: Mapping[str, Editor],
    wplus_NLD: np.ndarray,
    pts_seconds_N: np.ndarray,
    track_id: int,
    smoothing: SmoothingSettings,
) -> PlannedEdits:
    """W+ of one whole track => its planned edits. Smooths first, then edits in the recipe's order:

        w ← w + weight · (editor(w, strength) − w)        for each entry

    so a fade leads from the face as it is to the edited face for every editor, also for those whose strength
    0 is not "no edit".

    Raises:
        RecipeError: the recipe names edits that `editors` lacks (lists those it has).
        EditError: codes that the editors were not made for, or an edit that gives values that are not finite.
        SmoothingError: shapes that do not match, or times that do not increase.
    """
    recipe.require_known(editors.keys())
    base_NLD = smooth_codes(wplus_NLD, pts_seconds_N, smoothing)
    strength_NE = recipe.strengths(pts_seconds_N)
    weight_NE = recipe.weights(pts_seconds_N, track_id)
    acting_NE = weight_NE > 0
    for entry, name in enumerate(recipe.names):
        neutral = editors[name].neutral
        if neutral is not None:
            acting_NE[:, entry] &= strength_NE[:, entry] != neutral
    edited_NLD = base_NLD.copy()
    for entry, name in enumerate(recipe.names):
        acting = np.flatnonzero(acting_NE[:, entry])
        for begin in range(0, len(acting), _FRAMES_AT_ONCE):
            rows = acting[begin : begin + _FRAMES_AT_ONCE]
            edited_NLD[rows] = _edit(editors[name], edited_NLD[rows], strength_NE[rows, entry], weight_NE[rows, entry])
        if not np.isfinite(edited_NLD[acting]).all():
            raise EditError(f"{name}: gives codes that are not finite on track {track_id}; lower its strength")
    return PlannedEdits(
        base_NLD=base_NLD,
        edited_NLD=edited_NLD,
        active_N=np.asarray(acting_NE.any(axis=1)),
        edits=recipe.names,
        strength_NE=strength_NE,
        weight_NE=weight_NE,
    )


def _edit(editor: Editor, wplus_NLD: np.ndarray, strength_N: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
    """One entry on frames where it acts. `wplus_NLD` is a copy of the caller's rows."""
    with torch.no_grad():
        edited = editor.apply(torch.from_numpy(wplus_NLD), torch.from_numpy(strength_N.astype(np.float32)))
    edited_NLD = edited.numpy()
    weight_N11 = weight_N.astype(np.float32)[:, None, None]
    # Whole edits keep the editor's own bits: a + 1 · (b − a) is not b in floating point.
    return np.where(weight_N11 == 1, edited_NLD, wplus_NLD + weight_N11 * (edited_NLD - wplus_NLD))
