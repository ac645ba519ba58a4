"""`latents` and `residuals`: the inversion of each crop, which is all that a later edit needs.

Two tables with the same keys: the codes are small and asked for often (18 KiB to 36 KiB per face and
frame at 1024 px), the residuals are large (megabytes) and streamed one chunk at a time.
"""

from __future__ import annotations

import json
import math
from typing import Literal, get_args

import pyarrow as pa

from schemas.common import SchemaError, key_fields, nested, table_of

ResidualCodec = Literal["float16", "float32", "int8"]
RESIDUAL_CODECS: tuple[ResidualCodec, ...] = get_args(ResidualCodec)


def latents_schema(wplus_shape: tuple[int, int]) -> pa.Schema:
    """One W+ code [L, D] float32 per track and frame.

    Raises:
        SchemaError: not two positive sizes.
    """
    if len(wplus_shape) != 2 or min(wplus_shape) < 1:
        raise SchemaError(f"a W+ code has shape (L, D), both positive, for instance (18, 512); got {wplus_shape}")
    return table_of("latents", [*key_fields(), pa.field("wplus", nested(pa.float32(), *wplus_shape), nullable=False)])


def residual_bytes(residual_shape: tuple[int, ...], codec: ResidualCodec) -> int:
    """Bytes of one stored residual before compression."""
    match codec:
        case "float16":
            return 2 * math.prod(residual_shape)
        case "float32":
            return 4 * math.prod(residual_shape)
        case "int8":
            return math.prod(residual_shape)
    raise SchemaError(f"a residual codec is one of {', '.join(RESIDUAL_CODECS)}, got {codec!r}")


def residual_channels(residual_shape: tuple[int, ...]) -> int:
    """How many scales an int8 residual has: one for each channel of a map [C, H, W], one for a residual without channels."""
    return residual_shape[0] if len(residual_shape) > 1 else 1


def residuals_schema(residual_shape: tuple[int, ...], codec: ResidualCodec) -> pa.Schema:
    """One residual per track and frame, as raw bytes; the field's metadata says how to read them.

    `fixed_size_binary`, not nested lists: a map of half floats writes at 190 MB/s this way, 41 as lists.

    int8 has a column more, `scale`: a residual is its numbers times their channel's scale.

    residual_shape: (0,) for methods that keep nothing beside W+; the table then has no rows, and no files.

    Raises:
        SchemaError: an empty or non-positive shape, or an unknown codec.
    """
    if residual_shape != (0,) and (not residual_shape or min(residual_shape) < 1):
        raise SchemaError(f"a residual has positive sizes, for instance (512, 64, 64); got {residual_shape}")
    metadata = {
        "shape": json.dumps(list(residual_shape)),
        "dtype": codec,
        "order": "C",
        "endian": "little",
    }
    width = residual_bytes(residual_shape, codec)
    fields = [*key_fields(), pa.field("residual", pa.binary(width), nullable=False, metadata=metadata)]
    if codec == "int8":
        fields.append(pa.field("scale", nested(pa.float32(), residual_channels(residual_shape)), nullable=False))
    return table_of("residuals", fields)


def residual_layout(field: pa.Field) -> tuple[tuple[int, ...], ResidualCodec]:
    """Shape and codec that a `residual` field's metadata states.

    Raises:
        SchemaError: the metadata is missing, or names an order, byte order or dtype that we do not write.
    """
    metadata = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    absent = {"shape", "dtype", "order", "endian"} - metadata.keys()
    if absent:
        raise SchemaError(
            f"field {field.name!r} lacks the metadata {', '.join(sorted(absent))} that says how its bytes "
            "are laid out; read it from the Parquet file rather than from a table rebuilt without metadata"
        )
    if (metadata["order"], metadata["endian"]) != ("C", "little"):
        raise SchemaError(
            f"residual bytes are C order and little-endian, the field says {metadata['order']}, {metadata['endian']}"
        )
    shape = tuple(int(size) for size in json.loads(metadata["shape"]))
    match metadata["dtype"]:
        case "float16":
            return shape, "float16"
        case "float32":
            return shape, "float32"
        case "int8":
            return shape, "int8"
        case other:
            raise SchemaError(f"a residual codec is one of {', '.join(RESIDUAL_CODECS)}, got {other!r}")
