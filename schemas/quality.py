"""`quality`: how each edited face of a rendered file came out, and small pictures of some."""

from __future__ import annotations

import pyarrow as pa

from schemas.common import key_fields, table_of


def quality_schema() -> pa.Schema:
    """One row per edited face and frame of a rendered file."""
    return table_of(
        "quality",
        [
            *key_fields(),
            pa.field("recipe_id", pa.string(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("inversion_error", pa.float32(), nullable=True),
            pa.field("edit_size", pa.float32(), nullable=False),
            pa.field("flicker", pa.float32(), nullable=True),
            pa.field("identity", pa.float32(), nullable=True),
            pa.field("trouble", pa.float32(), nullable=False),
            pa.field("thumbnail", pa.binary(), nullable=True),
            pa.field("picture", pa.binary(), nullable=True),
        ],
    )
