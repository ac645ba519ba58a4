"""`failures`: a lost item is a row, never only a log line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from schemas.common import NO_TRACK, key_fields, table_of

NEVER_ACTS = "never_acts"
"""The reason of an entry of a recipe whose span no face is seen in: people are told, and nothing is lost."""
TURNED_AWAY = "turned_away"
"""The reason of a stretch of a track without its edit: the head is turned too far for one."""
PASSED_THROUGH = frozenset({"no_face", "track_dropped", NEVER_ACTS, TURNED_AWAY})
"""Reasons of rows that say why pixels were left alone, and not that something went wrong."""


def failures_schema() -> pa.Schema:
    """One row per lost item. `pts` is null where the whole source, or the whole track, was lost."""
    return table_of(
        "failures",
        [
            *key_fields(pts_nullable=True),
            pa.field("last_pts", pa.int64(), nullable=True),
            pa.field("stage", pa.string(), nullable=False),
            pa.field("reason", pa.string(), nullable=False),
            pa.field("message", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("attempts", pa.int32(), nullable=False),
        ],
    )


@dataclass(frozen=True)
class Failure:
    """One lost item: a source, a chunk of it, a track, or one frame of a track."""

    source_id: str
    """Key of the source; `source_id_of_unreadable(uri)` where its bytes could not be read."""
    uri: str
    """The source as the user named it."""
    stage: str
    """The step that lost it: `probe`, `scan`, `track`, `invert`, `plan`, `render`, `finalize`."""
    reason: str
    """A short constant to group by: `no_face`, `track_dropped`, `media_error`, `worker_died`, …"""
    message: str = ""
    """The full sentence: expected, got, what to do next."""
    track_id: int = NO_TRACK
    pts: int | None = None
    """First pts that was lost; None: all of the source (or track)."""
    last_pts: int | None = None
    """Last pts that was lost, itself included; None where `pts` is None or one frame was lost."""
    attempts: int = 1
    """How many times it was tried."""


def failures_table(failures: Sequence[Failure]) -> pa.Table:
    """The rows of `failures`, in the order given."""
    rows = [
        {
            "source_id": f.source_id,
            "track_id": f.track_id,
            "pts": f.pts,
            "last_pts": f.last_pts,
            "stage": f.stage,
            "reason": f.reason,
            "message": f.message,
            "uri": f.uri,
            "attempts": f.attempts,
        }
        for f in failures
    ]
    return pa.Table.from_pylist(rows, schema=failures_schema())
