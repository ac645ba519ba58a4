"""Parts that every table shares: the version, the key columns, and the shapes of nested columns.

Legend of axes: L rows of W+, D width of W+, C H W of a feature map.
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal, get_args

import pyarrow as pa

SCHEMA_VERSION = "1.2"
"""`major.minor`. A minor step only appends columns; a reader refuses a major above its own."""

SCHEMA_VERSION_KEY = b"styleres.schema_version"
TABLE_KEY = b"styleres.table"

TableName = Literal["sources", "frames", "faces", "tracks", "latents", "residuals", "edits", "segments", "quality", "failures"]
TABLES: tuple[TableName, ...] = get_args(TableName)

NO_TRACK = -1
"""`track_id` of a row that belongs to no track."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class SchemaError(ValueError):
    """A table, column, shape or version is not what this version of the schemas describes."""


def source_id_from_sha256(sha256: str) -> str:
    """The key of a readable source: the first 16 hex digits of the SHA-256 of the file's bytes.

    It follows the content: a file keeps its key when it is moved or renamed, and two copies share one.
    64 bits: the chance of any collision among a million sources is about 3e-8.

    Raises:
        SchemaError: `sha256` is not 64 lower-case hex digits.
    """
    if not _SHA256.fullmatch(sha256):
        raise SchemaError(
            f"a source's digest is 64 lower-case hex digits of SHA-256, got {sha256!r}; "
            "pass hashlib.sha256(...).hexdigest() of the file's bytes"
        )
    return sha256[:16]


def source_id_of_unreadable(uri: str) -> str:
    """The key of a source whose bytes cannot be read: `x` and 15 hex digits of the SHA-256 of its name.

    Only `failures` holds such keys. `x` is not a hex digit, so they never meet those of readable sources.
    """
    return "x" + hashlib.sha256(uri.encode("utf-8", "surrogateescape")).hexdigest()[:15]


def nested(value: pa.DataType, *shape: int) -> pa.DataType:
    """A fixed-size list of fixed-size lists: `nested(float32, L, D)` is one [L, D] array per row.

    The one layout that pandas, polars, duckdb and Hugging Face datasets all open with the right shape.
    """
    kind = value
    for size in reversed(shape):
        kind = pa.list_(pa.field("element", kind, nullable=False), size)
    return kind


def key_fields(*, pts_nullable: bool = False) -> list[pa.Field]:
    """The columns that every table begins with: `source_id`, `track_id`, `pts`."""
    return [
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("track_id", pa.int32(), nullable=False),
        pa.field("pts", pa.int64(), nullable=pts_nullable),
    ]


def table_of(name: TableName, fields: list[pa.Field]) -> pa.Schema:
    """A schema that carries its table's name and the version in its metadata."""
    return pa.schema(fields, metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode(), TABLE_KEY: name.encode()})


def check_version(version: str, *, where: str) -> None:
    """Accepts every version of our major, refuses the rest.

    Raises:
        SchemaError: not `major.minor`, or of another major; `where` says what was being opened.
    """
    match = re.fullmatch(r"(\d+)\.(\d+)", version)
    if match is None:
        raise SchemaError(f"{where}: schema version must read like {SCHEMA_VERSION!r}, got {version!r}")
    theirs, ours = int(match[1]), int(SCHEMA_VERSION.split(".")[0])
    if theirs > ours:
        raise SchemaError(
            f"{where}: written with schema version {version}, this code reads up to {ours}.x; upgrade styleres-video to open it"
        )
    if theirs < ours:
        raise SchemaError(
            f"{where}: written with schema version {version}, this code reads {ours}.x; "
            "invert the sources again into a new store"
        )
