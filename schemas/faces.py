"""`frames` and `faces`: what the scan saw, before anything is tracked.

Two tables, because a frame without a face is a fact too: it has a row in `frames` and none in `faces`.
"""

from __future__ import annotations

import pyarrow as pa

from schemas.common import key_fields, nested, table_of


def frames_schema() -> pa.Schema:
    """One row per decoded frame; `track_id` is −1."""
    return table_of(
        "frames",
        [
            *key_fields(),
            pa.field("cut_score", pa.float32(), nullable=True),
            pa.field("face_count", pa.int32(), nullable=False),
        ],
    )


def faces_schema() -> pa.Schema:
    """One row per detected face and frame; `track_id` is −1: `tracks` says who it became."""
    return table_of(
        "faces",
        [
            *key_fields(),
            pa.field("face", pa.int32(), nullable=False),
            pa.field("box", nested(pa.float32(), 4), nullable=False),
            pa.field("landmarks", nested(pa.float32(), 5, 2), nullable=False),
            pa.field("score", pa.float32(), nullable=False),
            pa.field("embedding", pa.list_(pa.field("element", pa.float32(), nullable=False)), nullable=True),
            pa.field("appearance", pa.list_(pa.field("element", pa.float32(), nullable=False)), nullable=True),
        ],
    )
