"""Sources as the store knows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

import schemas
from pipeline.engine.stage import Source


def source_row(source: Source) -> pa.Table:
    """The row of `sources`."""
    return source_rows([source])


def source_rows(sources: Sequence[Source]) -> pa.Table:
    """The rows of `sources`, in one table: of each picture one, to be joined, takes ten times as long."""
    return pa.Table.from_pylist([_row(source) for source in sources], schema=schemas.sources_schema())


def _row(source: Source) -> dict[str, Any]:
    info = source.info
    rate, aspect = info.average_rate, info.sample_aspect_ratio
    return {
        "source_id": source.source_id,
        "track_id": schemas.NO_TRACK,
        "pts": int(info.pts[0]),
        "uri": info.uri,
        "kind": info.kind,
        "sha256": info.sha256,
        "size_bytes": info.size_bytes,
        "width": info.width,
        "height": info.height,
        "frame_count": info.n_frames,
        "last_pts": int(info.pts[-1]),
        "time_base_num": info.time_base.numerator,
        "time_base_den": info.time_base.denominator,
        "average_rate_num": rate.numerator if rate else None,
        "average_rate_den": rate.denominator if rate else None,
        "rotation_degrees": info.rotation_degrees,
        "sample_aspect_num": aspect.numerator if aspect else None,
        "sample_aspect_den": aspect.denominator if aspect else None,
        "codec": info.codec,
        "pix_fmt": info.pix_fmt,
        "color_primaries": info.color.primaries,
        "color_trc": info.color.trc,
        "color_space": info.color.space,
        "color_range": info.color.range,
        "audio_streams": info.audio_streams,
        "subtitle_streams": info.subtitle_streams,
    }
