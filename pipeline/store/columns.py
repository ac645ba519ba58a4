"""numpy arrays ⇄ Arrow tables, for every table that a step writes by the array.

Legend of axes: N rows, L rows of W+, D width of W+, E entries of a recipe. `source_id` is one key for all rows, or N of them.
Arrays read from a table share
the table's memory where they can and are then read-only: copy before writing into one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

import schemas

SourceIds = str | Sequence[str]


INT8_STEPS = 31
"""Steps of a channel on either side of zero: what an edit shows of the rest is 54 dB below it (docs/decisions/0013)."""


class ColumnError(ValueError):
    """An array or column does not have the shape, length or range that its table needs."""


# -------------------------------------------------------------------------------------- arrays => tables


def frames_table(source_id: SourceIds, pts_N: np.ndarray, cut_score_N: np.ndarray, face_count_N: np.ndarray) -> pa.Table:
    """Rows of `frames`; a NaN cut score (the first frame has no predecessor) becomes null."""
    return _build(
        schemas.frames_schema(),
        source_id,
        schemas.NO_TRACK,
        pts_N,
        {
            "cut_score": _scalars(cut_score_N, pa.float32(), nan_is_null=True),
            "face_count": _scalars(face_count_N, pa.int32()),
        },
    )


def faces_table(
    source_id: SourceIds,
    pts_N: np.ndarray,
    face_N: np.ndarray,
    box_N4: np.ndarray,
    landmarks_N52: np.ndarray,
    score_N: np.ndarray,
    embedding_N: Sequence[np.ndarray | None],
    appearance_N: Sequence[np.ndarray | None] | None = None,
) -> pa.Table:
    """Rows of `faces`: `face_N` counts the faces of one frame from 0, best score first."""
    embeddings = [None if e is None else np.asarray(e, np.float32).tolist() for e in embedding_N]
    given = [None] * len(embeddings) if appearance_N is None else appearance_N
    appearances = [None if a is None else np.asarray(a, np.float32).tolist() for a in given]
    schema = schemas.faces_schema()
    return _build(
        schema,
        source_id,
        schemas.NO_TRACK,
        pts_N,
        {
            "face": _scalars(face_N, pa.int32()),
            "box": nested(box_N4, np.float32, (4,), "box"),
            "landmarks": nested(landmarks_N52, np.float32, (5, 2), "landmarks"),
            "score": _scalars(score_N, pa.float32()),
            "embedding": pa.array(embeddings, schema.field("embedding").type),
            "appearance": pa.array(appearances, schema.field("appearance").type),
        },
    )


def tracks_table(
    source_id: SourceIds,
    track_id: int | np.ndarray,
    pts_N: np.ndarray,
    shot: int | np.ndarray,
    box_N4: np.ndarray,
    landmarks_N52: np.ndarray,
    quad_N42: np.ndarray,
    interpolated_N: np.ndarray,
    score_N: np.ndarray,
) -> pa.Table:
    """Rows of `tracks`; a NaN score (an interpolated frame) becomes null. `track_id`, `shot`: one or N."""
    shots = np.broadcast_to(np.asarray(shot), np.asarray(pts_N).shape)
    return _build(
        schemas.tracks_schema(),
        source_id,
        track_id,
        pts_N,
        {
            "shot": _scalars(shots, pa.int32()),
            "box": nested(box_N4, np.float32, (4,), "box"),
            "landmarks": nested(landmarks_N52, np.float64, (5, 2), "landmarks"),
            "quad": nested(quad_N42, np.float64, (4, 2), "quad"),
            "interpolated": _scalars(interpolated_N, pa.bool_()),
            "score": _scalars(score_N, pa.float32(), nan_is_null=True),
        },
    )


def latents_table(source_id: SourceIds, track_id: int | np.ndarray, pts_N: np.ndarray, wplus_NLD: np.ndarray) -> pa.Table:
    """Rows of `latents` from W+ codes [N, L, D]. `track_id`: one for all rows, or N of them.

    Raises:
        ColumnError: not three axes, or a value that is not finite (the message names its track and pts).
    """
    wplus_NLD = np.asarray(wplus_NLD)
    if wplus_NLD.ndim != 3:
        raise ColumnError(f"W+ codes are [N, L, D], got an array of shape {wplus_NLD.shape}")
    _require_finite(wplus_NLD, track_id, pts_N, what="W+ code", remedy="record the frame as a failure")
    shape = (wplus_NLD.shape[1], wplus_NLD.shape[2])
    return _build(
        schemas.latents_schema(shape),
        source_id,
        track_id,
        pts_N,
        {"wplus": nested(wplus_NLD, np.float32, shape, "wplus")},
    )


def residuals_table(
    source_id: SourceIds,
    track_id: int | np.ndarray,
    pts_N: np.ndarray,
    residual: np.ndarray,
    codec: schemas.ResidualCodec,
) -> pa.Table:
    """Rows of `residuals` from N float32 arrays of one shape, [N, …] (feature maps: [N, C, H, W]).

    `float32` keeps every bit; `float16` rounds to nearest even, 11 significant bits; `int8` has 63 steps for each
    channel of each row, so that a row does not depend on those beside it.

    Raises:
        ColumnError: no axis after N, or a value that is not finite or that float16 cannot hold (±65504).
    """
    residual = np.asarray(residual)
    if residual.ndim < 2:
        raise ColumnError(f"residuals are [N, C, H, W] or [N, …], got an array of shape {residual.shape}")
    _require_finite(residual, track_id, pts_N, what="residual", remedy="record the frame as a failure")
    if codec == "int8":
        return _in_steps(source_id, track_id, pts_N, residual)
    dtype = _little_endian(codec)
    with np.errstate(over="ignore"):  # refused just below, with a sentence that says what to do
        stored = np.ascontiguousarray(residual, dtype=dtype)
    remedy = "make the store with residual codec float32"
    _require_finite(stored, track_id, pts_N, what="residual, rounded to float16,", remedy=remedy)
    schema = schemas.residuals_schema(residual.shape[1:], codec)
    return _build(schema, source_id, track_id, pts_N, {"residual": _raw(stored, schema)})


def _in_steps(source_id: SourceIds, track_id: int | np.ndarray, pts_N: np.ndarray, residual: np.ndarray) -> pa.Table:
    """Rows of the codec int8."""
    shape = residual.shape[1:]
    channels = schemas.residual_channels(shape)
    flat_NCX = residual.reshape(len(residual), channels, -1).astype(np.float32)
    scale_NC = np.abs(flat_NCX).max(axis=2, initial=0.0) / np.float32(INT8_STEPS)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps_NCX = np.nan_to_num(flat_NCX / scale_NC[:, :, None], nan=0.0, posinf=0.0, neginf=0.0)  # of a channel that is zero
    stored = np.clip(np.rint(steps_NCX), -INT8_STEPS, INT8_STEPS).astype(np.int8)
    schema = schemas.residuals_schema(shape, "int8")
    columns = {"residual": _raw(stored, schema), "scale": nested(scale_NC, np.float32, (channels,), "scale")}
    return _build(schema, source_id, track_id, pts_N, columns)


def _raw(stored: np.ndarray, schema: pa.Schema) -> pa.Array:
    """Arrays [N, …] as a column of their bytes."""
    data = np.ascontiguousarray(stored).reshape(-1).view(np.uint8)
    return pa.Array.from_buffers(schema.field("residual").type, len(stored), [None, pa.py_buffer(data)])


def edits_table(
    source_id: SourceIds,
    track_id: int | np.ndarray,
    pts_N: np.ndarray,
    recipe_id: str,
    names: Sequence[str],
    strength_NE: np.ndarray,
    weight_NE: np.ndarray,
    editors: Mapping[str, str] | None = None,
) -> pa.Table:
    """Rows of `edits`: entry e of the recipe is `names[e]`; ordered by frame, then entry.

    editors: name => what a user's editor is and from which bytes; names that it lacks are the model's own.
    """
    pts_N = np.asarray(pts_N)
    count = len(names)
    for what, array in (("strengths", strength_NE), ("weights", weight_NE)):
        if np.shape(array) != (len(pts_N), count):
            raise ColumnError(
                f"{what} are [N, E] = {(len(pts_N), count)} for {len(pts_N)} frames and {count} entries, got {np.shape(array)}"
            )
    return _build(
        schemas.edits_schema(),
        source_id if isinstance(source_id, str) else [one for one in source_id for _ in range(count)],
        np.repeat(np.broadcast_to(np.asarray(track_id), (len(pts_N),)), count),
        np.repeat(pts_N, count),
        {
            "recipe_id": pa.array([recipe_id] * (len(pts_N) * count), pa.string()),
            "position": _scalars(np.tile(np.arange(count), len(pts_N)), pa.int32()),
            "edit": pa.array(list(names) * len(pts_N), pa.string()),
            "strength": _scalars(np.reshape(strength_NE, -1), pa.float32()),
            "weight": _scalars(np.reshape(weight_NE, -1), pa.float32()),
            "editor": pa.array([(editors or {}).get(name) for name in names] * len(pts_N), pa.string()),
        },
    )


# -------------------------------------------------------------------------------------- tables => arrays


def wplus_from_table(table: pa.Table) -> np.ndarray:
    """Column `wplus` as float32 [N, L, D]; no copy when the table is one piece. Read-only."""
    return array_from_column(table, "wplus")


def rows_or_none(table: pa.Table, name: str) -> list[np.ndarray | None]:
    """A column of lists of floats, some of them null, as one array [S] or None per row. Read-only, without a copy."""
    rows: list[np.ndarray | None] = []
    for chunk in table.column(name).chunks:
        values, starts = chunk.values.to_numpy(), chunk.offsets.to_numpy()
        known = chunk.is_valid().to_numpy(zero_copy_only=False)
        rows += [values[a:b] if there else None for a, b, there in zip(starts[:-1], starts[1:], known, strict=True)]
    return rows


def residuals_from_table(table: pa.Table) -> np.ndarray:
    """Column `residual` as float32 [N, C, H, W] (or whatever shape its metadata states).

    No copy, and read-only, for the float32 codec in one piece; float16 is widened, which is exact; int8 is scaled.

    Raises:
        schemas.SchemaError: the field's metadata does not say how the bytes are laid out.
    """
    shape, codec = schemas.residual_layout(table.schema.field("residual"))
    dtype = _little_endian(codec)
    pieces = []
    for chunk in table.column("residual").chunks:
        width = chunk.type.byte_width
        if width != schemas.residual_bytes(shape, codec):
            raise ColumnError(f"a residual of shape {shape} in {codec} cannot take {width} bytes a row")
        data = chunk.buffers()[1]
        if len(chunk) == 0 or data is None:
            continue
        first = chunk.offset * width
        values = np.frombuffer(data, np.uint8)[first : first + len(chunk) * width].view(dtype)
        pieces.append(values.reshape(len(chunk), *shape))
    if not pieces:
        return np.zeros((0, *shape), np.float32)
    whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    if codec == "int8":
        scale_NC = array_from_column(table, "scale")
        channels = schemas.residual_channels(shape)
        flat_NCX = whole.reshape(len(whole), channels, -1).astype(np.float32) * scale_NC[:, :, None]
        return flat_NCX.reshape(len(whole), *shape)
    return whole.astype(np.float32, copy=False)


def array_from_column(table: pa.Table, name: str) -> np.ndarray:
    """Any column of numbers as an array [N, …]: scalars, or fixed-size lists however deep.

    Nulls of a floating column become NaN. No copy when the table is one piece and holds no null.

    Raises:
        ColumnError: nulls where the type has no NaN, or a column that is not of numbers.
    """
    column = table.column(name)
    chunk = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(chunk, pa.ChunkedArray):  # pyarrow keeps a column of no chunks chunked
        chunk = pa.concat_arrays(chunk.chunks) if chunk.num_chunks else pa.array([], chunk.type)
    shape: list[int] = [len(chunk)]
    while pa.types.is_fixed_size_list(chunk.type):
        if chunk.null_count:
            raise ColumnError(f"column {name!r} has {chunk.null_count} nulls among its lists")
        shape.append(chunk.type.list_size)
        chunk = chunk.flatten()
    numeric = pa.types.is_floating(chunk.type) or pa.types.is_integer(chunk.type)
    if not (numeric or pa.types.is_boolean(chunk.type)):
        raise ColumnError(f"column {name!r} of type {table.column(name).type} does not hold numbers")
    if chunk.null_count and not pa.types.is_floating(chunk.type):
        raise ColumnError(f"column {name!r} of type {chunk.type} has {chunk.null_count} nulls")
    return chunk.to_numpy(zero_copy_only=False).reshape(shape)


# --------------------------------------------------------------------------------------------- internals


def _build(
    schema: pa.Schema,
    source_id: SourceIds,
    track_id: int | np.ndarray,
    pts_N: np.ndarray,
    columns: dict[str, pa.Array],
) -> pa.Table:
    pts_N = np.asarray(pts_N)
    count = len(pts_N)
    if pts_N.ndim != 1 or (count and pts_N.dtype.kind not in "iu"):
        raise ColumnError(
            f"pts are integers [N] in units of the time base, got {pts_N.dtype} of shape {pts_N.shape}; "
            "seconds are derived from them, never the other way round"
        )
    if np.ndim(track_id) and len(np.asarray(track_id)) != count:
        raise ColumnError(f"track ids: one, or as many as pts ({count}); got {len(np.asarray(track_id))}")
    tracks = np.broadcast_to(np.asarray(track_id), (count,))
    arrays = {
        "source_id": pa.array([source_id] * count if isinstance(source_id, str) else source_id, pa.string()),
        "track_id": _scalars(tracks, pa.int32()),
        "pts": _scalars(pts_N, pa.int64()),
    } | columns
    for name, array in arrays.items():
        if len(array) != count:
            raise ColumnError(f"column {name!r} has {len(array)} rows where pts has {count}")
    return pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema)


def _scalars(values: np.ndarray, kind: pa.DataType, *, nan_is_null: bool = False) -> pa.Array:
    values = np.asarray(values)
    if pa.types.is_integer(kind) and values.size == 0:
        values = values.astype(np.int64)  # np.array([]) is float64
    if pa.types.is_floating(kind):
        values = values.astype(kind.to_pandas_dtype(), copy=False)
    return pa.array(np.ascontiguousarray(values), kind, from_pandas=nan_is_null)


def nested(values: np.ndarray, dtype: type, shape: tuple[int, ...], name: str) -> pa.Array:
    """Arrays [N, *shape] => a column of fixed-size lists. Raises ColumnError for another shape."""
    values = np.ascontiguousarray(values, dtype=dtype)
    if values.size == 0:
        values = values.reshape(0, *shape)
    if values.shape[1:] != shape:
        sizes = ", ".join(map(str, shape))
        raise ColumnError(f"column {name!r} holds arrays [N, {sizes}], got {values.shape}")
    array: pa.Array = pa.array(values.reshape(-1))
    kind = array.type
    for size in reversed(shape):
        kind = pa.list_(pa.field("element", kind, nullable=False), size)
        array = pa.FixedSizeListArray.from_arrays(array, type=kind)
    return array


def _require_finite(values: np.ndarray, track_id: int | np.ndarray, pts_N: np.ndarray, *, what: str, remedy: str) -> None:
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if finite.all():
        return
    row = int(np.argmin(finite))
    track = np.broadcast_to(np.asarray(track_id), (len(values),))[row]
    raise ColumnError(
        f"the {what} of track {track} at pts {np.asarray(pts_N)[row]} holds values that are not finite "
        f"({int((~finite).sum())} such rows of {len(values)}); {remedy}"
    )


def _little_endian(codec: schemas.ResidualCodec) -> np.dtype:
    match codec:
        case "float16":
            return np.dtype("<f2")
        case "float32":
            return np.dtype("<f4")
        case "int8":
            return np.dtype("i1")
    raise ColumnError(f"a residual codec is one of {', '.join(schemas.RESIDUAL_CODECS)}, got {codec!r}")
