"""`sources`: one row per video or image, as it was probed."""

from __future__ import annotations

import pyarrow as pa

from schemas.common import key_fields, table_of


def sources_schema() -> pa.Schema:
    """One row per source; `track_id` is −1 and `pts` that of the first frame.

    Rationals are two integer columns, `*_num` and `*_den`; colour columns are FFmpeg's enum values.
    """
    return table_of(
        "sources",
        [
            *key_fields(),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("kind", pa.string(), nullable=False),
            pa.field("sha256", pa.string(), nullable=False),
            pa.field("size_bytes", pa.int64(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("frame_count", pa.int64(), nullable=False),
            pa.field("last_pts", pa.int64(), nullable=False),
            pa.field("time_base_num", pa.int64(), nullable=False),
            pa.field("time_base_den", pa.int64(), nullable=False),
            pa.field("average_rate_num", pa.int64(), nullable=True),
            pa.field("average_rate_den", pa.int64(), nullable=True),
            pa.field("rotation_degrees", pa.int32(), nullable=False),
            pa.field("sample_aspect_num", pa.int64(), nullable=True),
            pa.field("sample_aspect_den", pa.int64(), nullable=True),
            pa.field("codec", pa.string(), nullable=False),
            pa.field("pix_fmt", pa.string(), nullable=False),
            pa.field("color_primaries", pa.int32(), nullable=False),
            pa.field("color_trc", pa.int32(), nullable=False),
            pa.field("color_space", pa.int32(), nullable=False),
            pa.field("color_range", pa.int32(), nullable=False),
            pa.field("audio_streams", pa.int32(), nullable=False),
            pa.field("subtitle_streams", pa.int32(), nullable=False),
        ],
    )
