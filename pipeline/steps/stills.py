"""Makes single frames as a render makes them: for a preview, for the studio, for a notebook.

The codes come from the same `SourceCodes.planned`, the pictures from the same functions and the frame from the same paste as in
the steps plan and render, so a still equals the frame of a render, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import final

import numpy as np

from ops.checkpoints.bundle import Bundle
from ops.editing.editor import AnyEditor
from ops.editing.recipe import EditRecipe
from ops.face.paste import PasteSettings
from ops.inversion.session import Session
from pipeline.engine.stage import Source
from pipeline.sources.inputs import Entry, probed
from pipeline.sources.readers import Readers
from pipeline.steps.plan import PlanSettings, SourceCodes
from pipeline.steps.render import Face, base_crops, edited_crops, paste_face, paste_needs_base, planned_faces
from pipeline.store.tables import Store, StoreError
from schemas import Failure


@dataclass(frozen=True, eq=False)
class Still:
    """One frame with its edit."""

    source: np.ndarray
    """uint8 [H, W, 3], upright."""
    result: np.ndarray
    """uint8 [H, W, 3] with the edits in it; pixels that no edit touches are the source's."""
    faces: tuple[EditedFace, ...]
    """Faces in order of track, without those that the recipe does not act on."""


@dataclass(frozen=True, eq=False)
class EditedFace:
    """A face of a still and the model's two pictures of it, float32 [h, w, 3] in 0..255."""

    face: Face
    base: np.ndarray | None
    """None if the paste needs no picture without the edit."""
    edited: np.ndarray


@final
class FrameReaders:
    """Reads frames as a render does, one at a time."""

    def __init__(self) -> None:
        self._readers = Readers("auto", "exact")  # a render converts exactly, too

    def frame(self, source: Source, ordinal: int) -> np.ndarray:
        """Read the frame at an ordinal, uint8 [H, W, 3], upright. Raises as `Readers.read`."""
        ((_, frame),) = self._readers.read(source, ordinal, ordinal + 1)
        return frame


def stored_source(store: Store, key: str) -> Source:
    """Return a source of a store, by its key, with the file at the place that the store has.

    Raises StoreError for a file that cannot be read or is another one by now.
    """
    row = store.read("sources", key, columns=["uri", "sha256"]).to_pylist()[0]
    found = probed(Entry(row["uri"], PurePath(row["uri"]).name), allow_hdr=True)
    if isinstance(found, Failure):
        raise StoreError(f"{found.message} (the store has its codes, but a frame needs its file)")
    if found.info.sha256 != row["sha256"]:
        raise StoreError(f"{row['uri']}: is not the file that was inverted any more; invert it again")
    return found


def stored_faces(
    store: Store,
    codes: SourceCodes,
    pts: int,
    recipe: EditRecipe,
    editors: Mapping[str, AnyEditor],
    settings: PlanSettings,
    bundle: Bundle,
    *,
    smoothed: Mapping[int, np.ndarray] | None = None,
    everyone: bool = False,
) -> list[Face]:
    """Return the faces on which a recipe acts in one frame, in order of track.

    smoothed: track => its smoothed codes, to plan one track many times; those of a missing track are computed.
    everyone: also faces on which the recipe does not act; their edited code is the unedited one.

    Raises as `SourceCodes.planned` and `planned_faces`.
    """
    known, found = smoothed or {}, []
    for track in codes.tracks:
        pts_N = codes.pts(track)
        at = int(np.searchsorted(pts_N, pts))
        if at == len(pts_N) or pts_N[at] != pts:
            continue
        planned = codes.planned(
            track, recipe, editors, settings, bundle.config, rows=slice(at, at + 1), smoothed_NLD=known.get(track)
        )
        if everyone or planned.active_N[0]:
            found.append(planned.rows)
    if not found:
        return []
    source_id, span = codes.source.source_id, (pts, pts)
    columns = ["track_id", "pts", "quad", "landmarks"]
    tracks, kept = store.read("tracks", source_id, span, columns), store.read("residuals", source_id, span)
    return [planned_faces(store, codes.source, rows, tracks, kept)[0] for rows in found]


def edited_still(
    frame: np.ndarray,
    faces: Sequence[Face],
    session: Session,
    bundle: Bundle,
    settings: PasteSettings,
    *,
    own_codes: bool = True,
) -> Still:
    """Make the still of a frame, uint8 [H, W, 3], and its faces, of one size. own_codes: as in `paste_needs_base`."""
    if not faces:
        return Still(frame, frame, ())
    edited = edited_crops(faces, session, bundle.framing)
    base = needed_bases(faces, session, bundle, settings, own_codes=own_codes)
    return pasted_still(frame, [EditedFace(*one) for one in zip(faces, base, edited, strict=True)], settings)


def needed_bases(
    faces: Sequence[Face], session: Session, bundle: Bundle, settings: PasteSettings, *, own_codes: bool = True
) -> Sequence[np.ndarray | None]:
    """Generate pictures without the edit of faces of one size, if a render needs them. own_codes: as in `paste_needs_base`."""
    if not paste_needs_base(settings, session, faces[0].size, own_codes=own_codes):
        return [None] * len(faces)
    return list(base_crops(faces, session, bundle.framing))


def pasted_still(frame: np.ndarray, faces: Sequence[EditedFace], settings: PasteSettings) -> Still:
    """Paste the pictures of faces, in order of track, into a frame, uint8 [H, W, 3] => the still."""
    result = frame
    for one in faces:
        result = paste_face(result, one.face, one.edited, one.base, settings)
    return Still(frame, result, tuple(faces))
