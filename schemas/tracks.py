"""`tracks`: one identity within one shot, a row per frame of it."""

from __future__ import annotations

import pyarrow as pa

from schemas.common import key_fields, nested, table_of


def tracks_schema() -> pa.Schema:
    """One row per track and frame, the interpolated ones included (`interpolated`, `score` null)."""
    return table_of(
        "tracks",
        [
            *key_fields(),
            pa.field("shot", pa.int32(), nullable=False),
            pa.field("box", nested(pa.float32(), 4), nullable=False),
            pa.field("landmarks", nested(pa.float64(), 5, 2), nullable=False),
            pa.field("quad", nested(pa.float64(), 4, 2), nullable=False),
            pa.field("interpolated", pa.bool_(), nullable=False),
            pa.field("score", pa.float32(), nullable=True),
        ],
    )
