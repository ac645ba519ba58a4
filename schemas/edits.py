"""`edits` and `segments`: what a render applied to each frame, and the files that it encoded."""

from __future__ import annotations

import pyarrow as pa

from schemas.common import key_fields, table_of


def edits_schema() -> pa.Schema:
    """One row per recipe, track, frame and entry of the recipe: long, so that SQL needs no unnesting."""
    return table_of(
        "edits",
        [
            *key_fields(),
            pa.field("recipe_id", pa.string(), nullable=False),
            pa.field("position", pa.int32(), nullable=False),
            pa.field("edit", pa.string(), nullable=False),
            pa.field("strength", pa.float32(), nullable=False),
            pa.field("weight", pa.float32(), nullable=False),
            pa.field("editor", pa.string()),
        ],
    )


def segments_schema() -> pa.Schema:
    """One row per encoded chunk of an edited video; `track_id` is −1 and `pts` that of its first frame."""
    return table_of(
        "segments",
        [
            *key_fields(),
            pa.field("recipe_id", pa.string(), nullable=False),
            pa.field("last_pts", pa.int64(), nullable=False),
            pa.field("frame_count", pa.int32(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("codec", pa.string(), nullable=False),
            pa.field("size_bytes", pa.int64(), nullable=False),
        ],
    )
