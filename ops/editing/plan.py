"""From a recipe to codes: one track's base and edited W+, and what was applied to each frame.

Legend of axes: N frames, L rows of W+, D width of W+, S channels of the style space, E entries of a recipe,
A frames on which an edit in S acts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ops.editing.editor import AnyEditor, EditError, Editor, StyleEditor
from ops.editing.recipe import EditRecipe
from ops.editing.smoothing import SmoothingSettings, keeps_bits, smooth_codes

_FRAMES_AT_ONCE = 256  # bounds the memory of an editor's temporaries; rows do not know of each other


@dataclass(frozen=True, eq=False)
class PlannedEdits:
    """Codes and strengths of one track's frames."""

    unedited_NLD: np.ndarray
    """Codes before the edits, float32: the track's codes, or those smoothed as set. Paste-back compares with these."""
    edited_NLD: np.ndarray
    """Codes after all edits, float32; equal to `unedited_NLD`, bit for bit, where not active."""
    style_active_N: np.ndarray
    """bool: whether any entry in S acts on the frame."""
    style_offset_AS: np.ndarray
    """float32: what is added to S of the edited code on the frames of `style_active_N`, in order; [0, 0] if there are none."""
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
    editors: Mapping[str, AnyEditor],
    wplus_NLD: np.ndarray,
    pts_seconds_N: np.ndarray,
    track_id: int,
    smoothing: SmoothingSettings,
    *,
    smoothed_NLD: np.ndarray | None = None,
) -> PlannedEdits:
    """W+ of one whole track => its planned edits. Smooths first, then edits the smoothed codes w in the recipe's order:

        w ← w + weight · (editor(w, strength) − w)        for each entry

    so a fade leads from the face as it is to the edited face for every editor, also for those whose strength
    0 is not "no edit". Entries in S stand outside that order: weight · offset(strength) of each is added up, and to S of the
    code that the others leave. With the target "edit" what was added to w is then added to the track's own codes.

    smoothed_NLD: the smoothed codes of these frames, for whoever plans some of a track's.

    Raises:
        RecipeError: the recipe names edits that `editors` lacks (lists those it has).
        EditError: codes that the editors were not made for, or an edit that gives values that are not finite.
        SmoothingError: shapes that do not match, or times that do not increase.
    """
    recipe.require_known(editors.keys())
    unedited_NLD = smooth_codes(wplus_NLD, pts_seconds_N, smoothing) if smoothed_NLD is None else smoothed_NLD
    strength_NE = recipe.strengths(pts_seconds_N)
    weight_NE = recipe.weights(pts_seconds_N, track_id)
    acting_NE = weight_NE > 0
    for entry, name in enumerate(recipe.names):
        neutral = editors[name].neutral
        if neutral is not None:
            acting_NE[:, entry] &= strength_NE[:, entry] != neutral
    edited_NLD = unedited_NLD.copy()
    in_style = [entry for entry, name in enumerate(recipe.names) if isinstance(editors[name], StyleEditor)]
    style_active_N = np.asarray(acting_NE[:, in_style].any(axis=1))
    place_N = np.cumsum(style_active_N) - 1  # of a frame in style_offset_AS
    style_offset_AS = np.zeros((0, 0), np.float32)
    for entry, name in enumerate(recipe.names):
        acting = np.flatnonzero(acting_NE[:, entry])
        for begin in range(0, len(acting), _FRAMES_AT_ONCE):
            rows = acting[begin : begin + _FRAMES_AT_ONCE]
            strength_N, weight_N = strength_NE[rows, entry].astype(np.float32), weight_NE[rows, entry].astype(np.float32)
            match editors[name]:
                case Editor() as editor:
                    result = edited_NLD[rows] = _edit(editor, edited_NLD[rows], strength_N, weight_N)
                case StyleEditor() as editor:
                    result = weight_N[:, None] * editor.offset(torch.from_numpy(strength_N)).numpy()
                    if style_offset_AS.size == 0:
                        style_offset_AS = np.zeros((int(style_active_N.sum()), result.shape[1]), np.float32)
                    style_offset_AS[place_N[rows]] += result
            if not np.isfinite(result).all():
                raise EditError(f"{name}: gives codes that are not finite on track {track_id}; lower its strength")
    if smoothing.target == "edit" and not keeps_bits(smoothing):
        # Where nothing acts the difference is 0 and the code's own bits stay.
        edited_NLD = wplus_NLD + (edited_NLD - unedited_NLD)
        unedited_NLD = np.array(wplus_NLD, np.float32)
    return PlannedEdits(
        unedited_NLD=unedited_NLD,
        edited_NLD=edited_NLD,
        style_active_N=style_active_N,
        style_offset_AS=style_offset_AS,
        active_N=np.asarray(acting_NE.any(axis=1)),
        edits=recipe.names,
        strength_NE=strength_NE,
        weight_NE=weight_NE,
    )


def _edit(editor: Editor, wplus_NLD: np.ndarray, strength_N: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
    """One entry on frames where it acts. `wplus_NLD` is a copy of the caller's rows."""
    with torch.no_grad():
        edited_NLD = editor.apply(torch.from_numpy(wplus_NLD), torch.from_numpy(strength_N)).numpy()
    weight_N11 = weight_N[:, None, None]
    # Whole edits keep the editor's own bits: a + 1 · (b − a) is not b in floating point.
    return np.where(weight_N11 == 1, edited_NLD, wplus_NLD + weight_N11 * (edited_NLD - wplus_NLD))
