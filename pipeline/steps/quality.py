"""Measures the rows of `quality`: by render, frame by frame; finalize puts them together, a part for each edited file.

Image sets, which are rendered in one step, have rows without thumbnails: a report reads their pictures from the files.
Flicker compares a frame with the one before it in the same segment, so that a segment's rows do not depend on the worker that
did the others; the first frame of a segment has none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import schemas
from ops.face.align import crop_face, quad_height_pixels, quad_side_pixels
from ops.metrics.edited_face import mean_change, measured, trouble
from ops.metrics.identity import IdentityNetwork, identity_crop
from pipeline.engine.stage import Chunk, Source
from pipeline.steps.sheet import sheet_moments
from pipeline.store.parts import Written
from pipeline.store.places import Listed, Place, joined, listed, opened, place, writing

THUMBNAILS: Final = 4
"""Small pictures of a source, evenly spread over its edited frames."""
THUMBNAIL_PIXELS: Final = 112
WORST_KEPT: Final = 6
"""Worst frames of a source that have a picture."""
PICTURE_PIXELS: Final = 512
"""Longer side of a picture of a part of a frame, at most; smaller parts keep their size."""
AROUND: Final = 1.25
"""Side of that part, as a multiple of the face's crop."""


@dataclass(frozen=True, eq=False)
class Compared:
    """Differences between a face's pictures."""

    layer: np.ndarray
    """Difference that the edit makes, levels [h, w, 3]."""
    edit_size: float
    inversion_error: float | None


def compared(source: np.ndarray, base: np.ndarray | None, edited: np.ndarray, quad_42: np.ndarray) -> Compared:
    """Compare a face's pictures.

    source: a frame, uint8 [H, W, 3]. base, edited: the model's pictures of the face in the quad, levels [h, w, 3].
    base: None if the render needed no reconstruction, because the model gives the source back; the edit is then measured
    against the source's own crop.
    """
    small_edited = measured(edited)
    seen = measured(crop_face(source, quad_42, small_edited.shape[:2]))
    small_base = seen if base is None else measured(base)
    error = None if base is None else mean_change(small_base, seen)
    return Compared(small_edited - small_base, mean_change(small_edited, small_base), error)


def kept_identity(
    network: IdentityNetwork | None, source: np.ndarray, result: np.ndarray, landmarks_52: np.ndarray
) -> float | None:
    """Return the cosine, -1..1, of a recogniser's vectors of a face in two frames."""
    if network is None:
        return None
    one, other = network.embed(np.stack([identity_crop(frame, landmarks_52) for frame in (source, result)]))
    return float(one @ other)


def row_of(pts: int, track: int, face: Compared, flicker: float | None, identity: float | None) -> dict[str, Any]:
    """Return a row of `quality` without pictures, and without the columns that name its file."""
    return {
        "track_id": track,
        "pts": pts,
        "inversion_error": face.inversion_error,
        "edit_size": face.edit_size,
        "flicker": flicker,
        "identity": identity,
        "trouble": trouble(face.inversion_error, flicker, identity),
        "thumbnail": None,
        "picture": None,
    }


@dataclass(frozen=True, eq=False)
class _Before:
    """A track's face in the frame before."""

    ordinal: int
    layer: np.ndarray


@final
@dataclass(eq=False)
class Quality:
    """Rows of one chunk, as its frames come. For one thread."""

    chunk: Chunk
    gop_frames: int
    moments: frozenset[int]
    """The pts of the thumbnails."""
    identity: IdentityNetwork | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    _before: dict[int, _Before] = field(default_factory=dict)
    _worst: dict[int, int] = field(default_factory=dict)
    """Segment => the place of its worst row, the only one that keeps a picture."""

    def anew(self) -> Quality:
        """Return a copy for the same chunk, without rows."""
        return Quality(self.chunk, self.gop_frames, self.moments, self.identity)

    def add(
        self,
        pts: int,
        track: int,
        source: np.ndarray,
        result: np.ndarray,
        base: np.ndarray | None,
        edited: np.ndarray,
        quad_42: np.ndarray,
        landmarks_52: np.ndarray,
    ) -> None:
        """Measure a face.

        source, result: the frame before and after, uint8 [H, W, 3]. base, edited, quad_42: as in `compared`.
        """
        info = self.chunk.source.info
        ordinal = int(np.searchsorted(info.pts, pts))
        face, before = compared(source, base, edited, quad_42), self._before.get(track)
        self._before[track] = _Before(ordinal, face.layer)
        follows = before is not None and before.ordinal == ordinal - 1 and ordinal % self.gop_frames
        flicker = mean_change(face.layer, before.layer) if before is not None and follows else None
        row = row_of(pts, track, face, flicker, kept_identity(self.identity, source, result, landmarks_52))
        if pts in self.moments:
            row["thumbnail"] = webp(*(thumbnail(frame, quad_42) for frame in (source, result)), quality=70)
        self.rows.append(row)
        segment = ordinal // self.gop_frames
        worst = self._worst.get(segment)
        if worst is None or row["trouble"] > self.rows[worst]["trouble"]:
            if worst is not None:
                self.rows[worst]["picture"] = None
            self._worst[segment] = len(self.rows) - 1
            row["picture"] = webp(*(surroundings(frame, quad_42) for frame in (source, result)), quality=80)

    def write(self, store: str) -> Written:
        """Write the rows into the work folder of a store."""
        name = f"{self.chunk.start:09d}-{self.chunk.stop:09d}.parquet"
        with writing(folder(store, self.chunk.source) / name) as file:
            pq.write_table(pa.Table.from_pylist(self.rows, schema=WORK_SCHEMA), file, use_dictionary=False)
        written = f"work/quality/{self.chunk.source.source_id}/{name}"
        return Written(written, file.size_bytes, file.sha256, len(self.rows), file.tail_sha256)


WORK_SCHEMA: Final = pa.schema([one for one in schemas.quality_schema() if one.name not in ("source_id", "recipe_id", "path")])
"""Columns that render writes; finalize adds those that name the edited file."""


def quality_moments(pts: np.ndarray) -> frozenset[int]:
    """Choose the pts of a source's thumbnails from all at which it is edited."""
    return sheet_moments(pts, THUMBNAILS)


def folder(store: str, source: Source) -> Place:
    return joined(place(store), f"work/quality/{source.source_id}")


def quality_table(store: str, source: Source, recipe_id: str, path: str) -> pa.Table:
    """Return all rows of an edited file, with pictures of its worst faces only."""
    pieces = [read(file) for file in listed(folder(store, source), ".parquet")]
    rows = pa.concat_tables(pieces) if pieces else WORK_SCHEMA.empty_table()
    trouble_N = rows["trouble"].to_numpy()
    pictures = rows["picture"].to_pylist()
    # The worst of each segment has a picture; of these, the worst.
    kept = set([at for at in np.argsort(-trouble_N, kind="stable").tolist() if pictures[at] is not None][:WORST_KEPT])
    rows = rows.set_column(
        rows.schema.get_field_index("picture"),
        rows.schema.field("picture"),
        pa.array([one if at in kept else None for at, one in enumerate(pictures)], pa.binary()),
    )
    for name, value in (("source_id", source.source_id), ("recipe_id", recipe_id), ("path", path)):
        rows = rows.append_column(pa.field(name, pa.string(), nullable=False), pa.array([value] * len(rows), pa.string()))
    return rows.select(schemas.quality_schema().names)


def read(one: Listed) -> pa.Table:
    with opened(one) as file:
        return pq.read_table(file)


# ------------------------------------------------------------------------------------------------------------ pictures


def thumbnail(frame: np.ndarray, quad_42: np.ndarray) -> np.ndarray:
    """Return the crop of a face, uint8 [THUMBNAIL_PIXELS, THUMBNAIL_PIXELS, 3]."""
    height, width = quad_height_pixels(quad_42), quad_side_pixels(quad_42)
    scale = THUMBNAIL_PIXELS / max(height, width)
    return crop_face(frame, quad_42, (max(1, round(height * scale)), max(1, round(width * scale))))


def surroundings(frame: np.ndarray, quad_42: np.ndarray) -> np.ndarray:
    """Return the upright part of a frame around a face, in the frame's own pixels if these are few enough."""
    centre, half = quad_42.mean(axis=0), AROUND / 2 * np.ptp(quad_42, axis=0)
    (left, top), (right, bottom) = np.floor(centre - half).astype(int), np.ceil(centre + half).astype(int)
    part = frame[max(top, 0) : max(bottom, 1), max(left, 0) : max(right, 1)]
    if 0 in part.shape:  # the face has left the picture
        part = frame
    picture = Image.fromarray(part)
    picture.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def webp(*pictures: np.ndarray, quality: int) -> bytes:
    """Return pictures side by side as a WebP file."""
    out = BytesIO()
    Image.fromarray(np.concatenate(pictures, axis=1)).save(out, "WEBP", quality=quality, method=2)
    return out.getvalue()
