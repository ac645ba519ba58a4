"""Schemas of the store: the Arrow schema of every table, its keys, units and version. See `README.md`.

Imports pyarrow and the standard library only, so that any program can read the store with it.
"""

from __future__ import annotations

import pyarrow as pa

from schemas.common import (
    NO_TRACK,
    SCHEMA_VERSION,
    SCHEMA_VERSION_KEY,
    TABLE_KEY,
    TABLES,
    SchemaError,
    TableName,
    check_version,
    source_id_from_sha256,
    source_id_of_unreadable,
)
from schemas.edits import edits_schema, segments_schema
from schemas.faces import faces_schema, frames_schema
from schemas.failures import NEVER_ACTS, PASSED_THROUGH, TURNED_AWAY, Failure, failures_schema, failures_table
from schemas.latents import (
    RESIDUAL_CODECS,
    ResidualCodec,
    latents_schema,
    residual_bytes,
    residual_channels,
    residual_layout,
    residuals_schema,
)
from schemas.quality import quality_schema
from schemas.sources import sources_schema
from schemas.tracks import tracks_schema

__all__ = [
    "NEVER_ACTS",
    "NO_TRACK",
    "PASSED_THROUGH",
    "RESIDUAL_CODECS",
    "SCHEMA_VERSION",
    "SCHEMA_VERSION_KEY",
    "TABLES",
    "TABLE_KEY",
    "TURNED_AWAY",
    "Failure",
    "ResidualCodec",
    "SchemaError",
    "TableName",
    "check_version",
    "edits_schema",
    "faces_schema",
    "failures_schema",
    "failures_table",
    "frames_schema",
    "latents_schema",
    "primary_key",
    "quality_schema",
    "residual_bytes",
    "residual_channels",
    "residual_layout",
    "residuals_schema",
    "segments_schema",
    "source_id_from_sha256",
    "source_id_of_unreadable",
    "sources_schema",
    "table_schema",
    "tracks_schema",
]


def table_schema(
    name: str,
    *,
    wplus_shape: tuple[int, int],
    residual_shape: tuple[int, ...],
    residual_codec: ResidualCodec,
) -> pa.Schema:
    """The schema of one table of a store whose model has these shapes.

    Raises:
        SchemaError: no table of that name.
    """
    match name:
        case "sources":
            return sources_schema()
        case "frames":
            return frames_schema()
        case "faces":
            return faces_schema()
        case "tracks":
            return tracks_schema()
        case "latents":
            return latents_schema(wplus_shape)
        case "residuals":
            return residuals_schema(residual_shape, residual_codec)
        case "edits":
            return edits_schema()
        case "segments":
            return segments_schema()
        case "quality":
            return quality_schema()
        case "failures":
            return failures_schema()
    raise SchemaError(f"no table {name!r}; the tables are {', '.join(TABLES)}")


def primary_key(name: str) -> tuple[str, ...]:
    """The columns that together name one row; empty for `failures`, where an item may fail twice.

    Raises:
        SchemaError: no table of that name.
    """
    match name:
        case "sources":
            return ("source_id",)
        case "frames":
            return ("source_id", "pts")
        case "faces":
            return ("source_id", "pts", "face")
        case "tracks" | "latents" | "residuals":
            return ("source_id", "track_id", "pts")
        case "edits":
            return ("source_id", "track_id", "pts", "recipe_id", "position")
        case "segments":
            return ("source_id", "pts", "recipe_id", "path")
        case "quality":
            return ("source_id", "track_id", "pts", "recipe_id", "path")
        case "failures":
            return ()
    raise SchemaError(f"no table {name!r}; the tables are {', '.join(TABLES)}")
