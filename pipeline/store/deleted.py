"""People who were deleted from a store stay deleted: which, and where they are in the frames, so that nothing finds them again.

    STORE/deleted/<source_id>.json

It holds numbers of tracks, instants and boxes, and neither landmarks nor codes. Whatever makes a source's rows again (a damaged
part, a lost manifest, other settings) leaves out the detections that lie there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ops.face.boxes import box_overlap
from pipeline.store.columns import array_from_column
from pipeline.store.places import Place, joined
from pipeline.store.records import read_record, write_record
from pipeline.store.tables import Store

SAME_PLACE = 0.5
"""Boxes of one frame that share so much of what both cover are of one face: a detector gives no two such."""


@dataclass(frozen=True)
class Deleted:
    """The people that were deleted from one source."""

    tracks: frozenset[int] = frozenset()
    places: dict[int, np.ndarray] = field(default_factory=dict)
    """pts => boxes, float32 [N, 4]."""

    def covers(self, pts: int, box_4: np.ndarray) -> bool:
        """Return whether a face there is one of theirs."""
        boxes_N4 = self.places.get(pts)
        return boxes_N4 is not None and bool((overlap(boxes_N4, box_4) >= SAME_PLACE).any())

    def numbers(self, tracks: int) -> list[int]:
        """Numbers for so many tracks of those who are left: the ones that they had before."""
        free = (number for number in count() if number not in self.tracks)
        return [next(free) for _ in range(tracks)]


def overlap(boxes_N4: np.ndarray, box_4: np.ndarray) -> np.ndarray:
    """Intersection over union of each box with one, [N]; 1 for equal ones, also if they are empty."""
    same_N = (boxes_N4 == box_4).all(axis=1)
    return np.where(same_N, 1.0, box_overlap(boxes_N4, box_4[None])[:, 0])


def detections(rows: pa.Table) -> dict[str, Any]:
    """Return the boxes of a track's detections as JSON values; interpolated rows are left out."""
    seen = rows.filter(pc.invert(rows["interpolated"]))
    return {"pts": seen["pts"].to_pylist(), "boxes": array_from_column(seen, "box").tolist()}


def deleted_of(store: Store, source_id: str) -> Deleted:
    """Read what was deleted of a source.

    Raises:
        BrokenRecord: nobody can tell any more.
    """
    try:
        found: dict[str, Any] = read_record(_path(store, source_id))
    except FileNotFoundError:
        return Deleted()
    return deleted_from(found)


def deleted_from(found: dict[str, Any]) -> Deleted:
    """number of a track => its `detections`."""
    by_pts: dict[int, list[Sequence[float]]] = {}
    for seen in found.values():
        for pts, box in zip(seen["pts"], seen["boxes"], strict=True):
            by_pts.setdefault(pts, []).append(box)
    return Deleted(frozenset(map(int, found)), {pts: np.array(boxes, np.float32) for pts, boxes in by_pts.items()})


def remember(store: Store, source_id: str, track_id: int, seen: dict[str, Any]) -> None:
    """Add a track to what was deleted of a source."""
    try:
        found = read_record(_path(store, source_id))
    except FileNotFoundError:
        found = {}
    write_record(_path(store, source_id), found | {str(track_id): seen})


def _path(store: Store, source_id: str) -> Place:
    return joined(store.root, f"deleted/{source_id}.json")
