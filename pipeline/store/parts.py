"""Parquet parts of a store: rows in, a file with a checksum out, and back; whatever does not fit is refused with a sentence."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import schemas
from ops.files.digest import sha256_of
from pipeline.store.places import (
    TAIL_BYTES,
    Hashing,
    Listed,
    Place,
    contents,
    kept_contents,
    opened,
    size_of,
    tail_digest_of,
    writing,
)

FOOTER_BYTES = 256 << 10
"""A file up to this length is read whole where only its footer is needed: that is one request."""
KEY_COLUMNS = ("source_id", "track_id", "pts")
_RANGE = re.compile(r"(?:part|joined)-(\d+)-(\d+)")


class StoreError(ValueError):
    """The store, or what was to be written into it, is not as it must be; the message says what to do."""


class DamagedPart(StoreError):
    """A part, or several, that cannot be read or are not what was written."""

    def __init__(self, found: Mapping[Place, str]) -> None:
        super().__init__(found)
        self.found = found
        """Place => what is wrong there."""

    def __str__(self) -> str:
        return (
            f"{named(self.found)}; the file is damaged. `styleres store verify` puts it aside; then the same invert or edit "
            "command does what is missing, and only that"
        )


def named(found: Mapping[Place, str]) -> str:
    """`PLACE: cannot be read (WHY)` of the first few."""
    said = [f"{path}: cannot be read ({why})" for path, why in found.items()]
    return "; ".join(said[:3]) + (f"; and {len(said) - 3} more" if len(said) > 3 else "")


@dataclass(frozen=True)
class Part:
    """One Parquet file of one table and source."""

    name: str
    path: Place
    row_count: int
    size_bytes: int
    first_pts: int | None
    """Smallest pts in it; None where it has no row with a pts."""
    last_pts: int | None
    version: str = ""
    """As the listing showed it; empty where nobody listed it."""

    @property
    def listed(self) -> Listed:
        return Listed(self.path, self.size_bytes, self.version)


@dataclass(frozen=True)
class Written:
    """A file that a step has written, as its manifest will vouch for it."""

    path: str
    """Relative to the store's folder."""
    size_bytes: int
    sha256: str
    rows: int = 0
    tail_sha256: str = ""
    """SHA-256 of a part's last `places.TAIL_BYTES`, its footer, which pages' own checksums leave out. Empty for other files."""


def range_part(start: int, stop: int, *, joined: bool = False) -> str:
    """The name of the part for frames [start, stop) of a source, by ordinal; names sort in frame order.

    joined: it holds the rows of several, whose place it has taken.
    """
    if not 0 <= start < stop:
        raise StoreError(f"a part covers frames [start, stop) with 0 <= start < stop, got [{start}, {stop})")
    return f"{'joined' if joined else 'part'}-{start:09d}-{stop:09d}"


def range_of(name: str) -> tuple[int, int] | None:
    """The frames [start, stop) that a part's name speaks of; None for a name of another kind."""
    match = _RANGE.fullmatch(name)
    return None if match is None else (int(match[1]), int(match[2]))


def write_rows(path: Place, rows: pa.Table, table: str, group_rows: int | None = None, *, staged: bool = False) -> Hashing:
    """Write rows that conform to their table's schema, atomically; => size and digests of the file.

    group_rows: rows of a row group; None for one group of all. staged: they are read once, to be written again.
    """
    # W+ shrinks by a tenth as byte streams, feature maps do not shrink at all (schemas/README.md).
    split = ["wplus.list.element.list.element"] if table == "latents" else False
    with writing(path) as file:
        pq.write_table(
            rows,
            file,
            compression="none" if staged and table == "residuals" else "zstd",
            compression_level=None if staged and table == "residuals" else 1 if table == "residuals" else 3,
            use_dictionary=False,
            use_byte_stream_split=split,
            write_statistics=list(KEY_COLUMNS),
            write_page_checksum=True,
            row_group_size=max(1, group_rows or rows.num_rows),
        )
    return file


def conformed(rows: pa.Table, schema: pa.Schema, *, where: str) -> pa.Table:
    """The same rows in the schema's column order, types and metadata; refuses what would lose something."""
    absent = [name for name in schema.names if name not in rows.column_names]
    extra = [name for name in rows.column_names if name not in schema.names]
    if absent or extra or len(rows.column_names) != len(schema.names):
        raise StoreError(
            f"{where}: expected the columns {', '.join(schema.names)}; "
            f"missing {', '.join(absent) or 'none'}, not expected {', '.join(extra) or 'none'}"
        )
    columns = []
    for target in schema:
        column = rows.column(target.name)
        if column.type != target.type:
            try:
                column = column.cast(target.type)
            except pa.ArrowException as error:
                raise StoreError(f"{where}: column {target.name!r} is {target.type}, got {column.type} ({error})") from error
        layout = rows.schema.field(target.name).metadata
        if pa.types.is_fixed_size_binary(target.type) and layout != target.metadata:
            # Raw bytes of another shape or number type may be as many: only the metadata tells them apart.
            raise StoreError(
                f"{where}: column {target.name!r} must be laid out as {target.metadata}, got {layout}; "
                "build it with residuals_table(...)"
            )
        if column.null_count and not target.nullable:
            raise StoreError(f"{where}: column {target.name!r} has {column.null_count} nulls, may have none")
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)


def require_unique(rows: pa.Table, table: str, *, where: str) -> None:
    keys = list(schemas.primary_key(table))
    if not keys or rows.num_rows < 2:
        return
    counts = rows.select(keys).group_by(keys).aggregate([([], "count_all")])
    if counts.num_rows == rows.num_rows:
        return
    twice = counts.filter(pc.greater(counts.column("count_all"), 1)).select(keys).slice(0, 1).to_pylist()[0]
    raise StoreError(
        f"{where}: {rows.num_rows - counts.num_rows} rows stand there more than once, for instance {twice}; "
        "delete the source (--overwrite) and invert it again"
    )


def overlaps(part: Part, pts_range: tuple[int, int] | None) -> bool:
    if pts_range is None:
        return True
    if part.first_pts is None or part.last_pts is None:
        return False
    return part.first_pts <= pts_range[1] and part.last_pts >= pts_range[0]


def within(rows: pa.Table, part: Part, pts_range: tuple[int, int] | None) -> pa.Table:
    if pts_range is None:
        return rows
    pts = rows.column("pts")
    inside = part.first_pts is not None and pts_range[0] <= part.first_pts
    if inside and part.last_pts is not None and part.last_pts <= pts_range[1] and not pts.null_count:
        return rows  # the whole part: no copy of its tensors
    keep = pc.and_(pc.greater_equal(pts, pts_range[0]), pc.less_equal(pts, pts_range[1]))
    return rows.filter(keep)


def in_order(rows: pa.Table, table: str) -> pa.Table:
    keys = dict.fromkeys(("source_id", "pts", "track_id", *schemas.primary_key(table)))
    order = pc.sort_indices(rows.select(list(keys)), sort_keys=[(key, "ascending") for key in keys])
    # Parts are written in order, so this is the common case, and it spares a copy of every tensor.
    in_place = pc.all(pc.equal(order, pa.array(range(rows.num_rows), pa.uint64()))).as_py()
    return rows if in_place in (True, None) else rows.take(order)


def read_footer(one: Listed, *, whole: bool = False) -> Part:
    """What a part's footer says.

    whole: its rows are read next, so that a small file of a bucket may come as a whole.

    Raises DamagedPart.
    """
    path = one.path
    try:
        with opened(one) if whole or one.size_bytes <= FOOTER_BYTES else path.open("rb") as raw, pq.ParquetFile(raw) as file:
            footer = file.metadata
            version = (file.schema_arrow.metadata or {}).get(schemas.SCHEMA_VERSION_KEY, b"").decode()
            column = file.schema_arrow.names.index("pts")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DamagedPart({path: str(error)}) from error
    try:
        schemas.check_version(version, where=str(path))
    except schemas.SchemaError as error:
        raise StoreError(str(error)) from error
    bounds: list[int] = []
    for group in range(footer.num_row_groups):
        # Scalars come before the nested columns in every schema, so the field's index is the leaf's.
        statistics = footer.row_group(group).column(column).statistics
        if statistics is not None and statistics.has_min_max:
            bounds += [statistics.min, statistics.max]
    first, last = (min(bounds), max(bounds)) if bounds else (None, None)
    return Part(path.stem, path, footer.num_rows, one.size_bytes, first, last, one.version)


def footer_digest_of(one: Listed) -> str:
    """SHA-256 of a part's last `TAIL_BYTES`."""
    data = kept_contents(one)
    if data is None and (one.size_bytes > FOOTER_BYTES or isinstance(one.path, Path)):
        return tail_digest_of(one.path, one.size_bytes)
    return hashlib.sha256((contents(one) if data is None else data)[-TAIL_BYTES:]).hexdigest()


def read_rows(part: Part, columns: list[str], schema: pa.Schema) -> pa.Table:
    try:
        with opened(part.listed) as raw, pq.ParquetFile(raw, page_checksum_verification=True) as file:
            rows = file.read(columns=columns)
        for name in columns:
            if name not in rows.column_names and schema.field(name).nullable:  # written by an older minor version
                rows = rows.append_column(schema.field(name), pa.nulls(len(rows), schema.field(name).type))
    except (OSError, pa.ArrowException) as error:
        raise DamagedPart({part.path: str(error)}) from error
    try:
        return conformed(rows, pa.schema([schema.field(name) for name in columns]), where=str(part.path))
    except StoreError as error:
        raise StoreError(f"{error}; the part was not written for this store") from error


def as_written(path: Place, file: Written) -> bool:
    """Return whether what was recorded of a file is true of what is there.

    Of a part its length and its end are looked at: its pages have checksums, which every read verifies. Other files are read.
    """
    if size_of(path) != file.size_bytes:
        return False
    if file.tail_sha256:
        return tail_digest_of(path, file.size_bytes) == file.tail_sha256
    return not file.sha256 or sha256_of(path) == file.sha256
