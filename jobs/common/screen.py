"""Gives the studio what it shows of a store: sources as far as they are inverted, and frames as a render edits them.

One generator serves all pages, one picture after the other; what was made is kept a while, so that going back is free.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePath
from typing import Final, TypeVar, final

import numpy as np
from PIL import Image

from ops.checkpoints.bundle import Bundle
from ops.device import resolve_device
from ops.editing.definitions import Definition
from ops.editing.editor import AnyEditor
from ops.editing.library import load_edits, offers
from ops.editing.recipe import EditRecipe
from ops.face.align import crop_face
from ops.face.paste import PasteSettings
from ops.inversion.session import QUANTUM, Session
from pipeline.engine.stage import Source
from pipeline.steps.plan import PlanSettings, SourceCodes
from pipeline.steps.render import edited_crops
from pipeline.steps.stills import EditedFace, FrameReaders, needed_bases, pasted_still, stored_faces, stored_source
from pipeline.store.columns import array_from_column
from pipeline.store.tables import Store

KEPT: Final = 400
"""Pictures and codes that are kept, of all pages."""
FACE_PIXELS: Final = 72
T = TypeVar("T")


@dataclass(frozen=True)
class Offer:
    """An edit that can be chosen."""

    name: str
    unit: str
    neutral: float | None
    about: str = ""


@dataclass(frozen=True, eq=False)
class Clip:
    """A source as far as it is inverted."""

    source: Source
    codes: SourceCodes
    complete: bool

    @property
    def name(self) -> str:
        return PurePath(self.source.uri).name

    @property
    def seconds_N(self) -> np.ndarray:
        """Seconds of every frame, from 0."""
        info = self.source.info
        return (info.pts - info.pts[0]) * float(info.time_base)

    @property
    def duration(self) -> float:
        return float(self.seconds_N[-1])

    def ordinal(self, seconds: float) -> int:
        """The frame that is shown then."""
        return max(int(np.searchsorted(self.seconds_N, seconds + 1e-9, side="right")) - 1, 0)

    def spans(self) -> dict[int, tuple[float, float]]:
        """Track => seconds of its first and last frame with a code."""
        begin, tick = int(self.source.info.pts[0]), float(self.source.info.time_base)
        found = {track: self.codes.pts(track) for track in self.codes.tracks}
        return {track: ((int(pts[0]) - begin) * tick, (int(pts[-1]) - begin) * tick) for track, pts in found.items()}

    def shots(self) -> list[tuple[float, float]]:
        begin, tick = int(self.source.info.pts[0]), float(self.source.info.time_base)
        return [((first - begin) * tick, (last - begin) * tick) for first, last in self.codes.shots]


@dataclass(frozen=True)
class Look:
    """All that decides a picture, beside the recipe and the frame."""

    paste: PasteSettings
    size: int | None
    exact: bool
    """With the bits of a render; False at a third of the cost, with other last bits."""


@final
class Screen:
    """Thread-safe; pictures are made one at a time."""

    def __init__(self, store: Store, bundle: Bundle, definitions: list[Definition], device: str = "auto") -> None:
        self.store, self.bundle, self.definitions = store, bundle, definitions
        self._device = resolve_device(device)  # type: ignore[arg-type]
        self._own = bundle.editors()
        self._loaded: dict[str, AnyEditor] = {}
        self._lock = threading.RLock()
        self._sessions: tuple[Session, Session] | None = None
        self._readers = FrameReaders()
        self._kept: OrderedDict[Hashable, object] = OrderedDict()
        self._clips: dict[str, tuple[int, Clip]] = {}

    # --------------------------------------------------------------------------------------------------- what there is

    def offers(self) -> list[Offer]:
        """Every edit of the model and of the user's files; those that do not fit the model are left out."""
        abouts = {entry.name: entry.about for entry in self.bundle.edits}
        found = [Offer(name, one.unit, one.neutral, abouts.get(name, "")) for name, one in self._own.items()]
        for name in offers(self.definitions):
            editor = self._editor(name)
            found.append(Offer(name, editor.unit, editor.neutral))
        return found

    def _editor(self, name: str) -> AnyEditor:
        if name not in self._loaded:
            loaded = load_edits([name], self._own, self.definitions, self.bundle.config.generator)
            self._loaded[name] = loaded[name].editor
        return self._loaded[name]

    def names(self) -> dict[str, str]:
        """Key => file name, of every source that has frames in the store."""
        rows, _ = self.store.readable_sources()
        return {key: PurePath(row["uri"]).name for key, row in rows.items()}

    def count(self) -> int:
        """How many sources there are, without looking into them."""
        return len(self.store.stored_source_ids())

    def clip(self, key: str) -> Clip:
        """A source. Read again when more of it has been inverted.

        Raises StoreError where its file cannot be read or is another now.
        """
        with self._lock:
            known = self._clips.get(key)
            if known is not None and known[1].complete:
                return known[1]
            # A picture's rows lie in a pack, among those of others.
            seen = sum(len(self.store.read(table, key, columns=["track_id"])) for table in ("tracks", "latents"))
            complete = self.store.is_complete(key)
            if known is not None and known[0] == seen and known[1].complete == complete:
                return known[1]
            source = known[1].source if known is not None else stored_source(self.store, key)
            found = Clip(source, SourceCodes(self.store, source), complete)
            self._clips[key] = (seen, found)
            return found

    # -------------------------------------------------------------------------------------------------------- pictures

    def frame(self, clip: Clip, ordinal: int) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return self._remembered(("frame", clip.source.source_id, ordinal), lambda: self._readers.frame(clip.source, ordinal))

    def edited(self, clip: Clip, ordinal: int, recipe: EditRecipe | None, look: Look) -> np.ndarray:
        """The frame as a render makes it, uint8 [H, W, 3]."""
        if recipe is None:
            return self.frame(clip, ordinal)
        key = ("edited", clip.source.source_id, clip.complete, ordinal, recipe.to_yaml(), look)
        return self._remembered(key, lambda: self._edited(clip, ordinal, recipe, look))

    def _edited(self, clip: Clip, ordinal: int, recipe: EditRecipe, look: Look) -> np.ndarray:
        frame, pts = self.frame(clip, ordinal), int(clip.source.info.pts[ordinal])
        editors = {name: self._editor(name) for name in recipe.names}
        settings = PlanSettings(recipe, size=look.size)
        smoothed = {track: self._smoothed(clip, track, settings) for track in clip.codes.tracks}
        faces = stored_faces(self.store, clip.codes, pts, recipe, editors, settings, self.bundle, smoothed=smoothed)
        if not faces:
            return frame
        session = self._session(exact=look.exact)
        made = edited_crops(faces, session, self.bundle.framing)
        paste = look.paste.fitted(self.bundle.framing.crop)
        tracks = tuple(face.track for face in faces)
        place = ("base", clip.source.source_id, ordinal, tracks, faces[0].size, look.exact, paste.mode)
        base = self._remembered(place, lambda: needed_bases(faces, session, self.bundle, paste))
        edited = [EditedFace(*one) for one in zip(faces, base, made, strict=True)]
        return pasted_still(frame, edited, paste).result

    def _smoothed(self, clip: Clip, track: int, settings: PlanSettings) -> np.ndarray:
        """The whole track's codes as a render smooths them; which edits are made of them does not matter."""
        place = ("codes", clip.source.source_id, track, len(clip.codes.pts(track)))
        return self._remembered(place, lambda: clip.codes.smoothed(track, settings.recipe, settings))

    def face(self, clip: Clip, track: int) -> np.ndarray:
        """A small picture of a track's face, from its middle; uint8 [FACE_PIXELS, FACE_PIXELS, 3]."""

        def made() -> np.ndarray:
            rows = self.store.read("tracks", clip.source.source_id, columns=["track_id", "pts", "quad", "interpolated"])
            mine = np.flatnonzero((rows["track_id"].to_numpy() == track) & ~rows["interpolated"].to_numpy(zero_copy_only=False))
            at = int(mine[len(mine) // 2])
            ordinal = int(np.searchsorted(clip.source.info.pts, rows["pts"][at].as_py()))
            return crop_face(self.frame(clip, ordinal), array_from_column(rows, "quad")[at], FACE_PIXELS)

        return self._remembered(("face", clip.source.source_id, track), made)

    def _session(self, *, exact: bool) -> Session:
        if self._sessions is None:
            model = self.bundle.load("generate")
            both = [Session(model, device=self._device, precision="fp32", batch_size=16, quantum=one) for one in (QUANTUM, 1)]
            self._sessions = (both[0], both[1])
        return self._sessions[0 if exact else 1]

    def warm_up(self) -> None:
        """Load the generator, so that the first picture does not wait for it."""
        with self._lock:
            self._session(exact=True)

    def _remembered(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]  # type: ignore[return-value]
            found = make()
            self._kept[key] = found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return found


def png(picture: np.ndarray) -> bytes:
    """Without loss: what is seen is what is made."""
    out = BytesIO()
    Image.fromarray(picture).save(out, "PNG", compress_level=1)
    return out.getvalue()


def webp(picture: np.ndarray, quality: int = 82) -> bytes:
    out = BytesIO()
    Image.fromarray(picture).save(out, "WEBP", quality=quality, method=1)
    return out.getvalue()
