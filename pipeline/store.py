"""The store: a folder of Parquet tables, and the only seam between inverting and editing.

    STORE/
      README.md                          dataset card
      meta/info.json                     schema version, model, shapes, codec
      <table>/<source_id>/<part>.parquet one part per chunk, one row group per part
      manifests/<stage>/<source_id>.json written last: the stage is complete

A file appears whole or not at all: written under a temporary name, fsynced, renamed. A manifest speaks only
of what is already on the disk, so a run killed at any instant leaves a store that the same command resumes.
Parts are named by their chunk, so writing one twice leaves one. Several processes may write parts of one
store at a time; one process (the driver) creates it and writes its manifests.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import schemas
from pipeline.dataset_card import dataset_card

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_KEY_COLUMNS = ("source_id", "track_id", "pts")


class StoreError(ValueError):
    """The store, or what was to be written into it, is not as it must be; the message says what to do."""


@dataclass(frozen=True)
class StoreInfo:
    """What is true of a whole store. All but `code_version` and `settings` must match to add to it."""

    model_name: str
    """Name of the model bundle, for people."""
    model_digest: str
    """SHA-256 of the bundle: the model's identity."""
    wplus_shape: tuple[int, int]
    """(L, D) of a W+ code."""
    residual_shape: tuple[int, ...]
    """Shape of one residual: (C, H, W) for a feature map, (0,) where the method keeps nothing beside W+."""
    residual_codec: schemas.ResidualCodec
    """How residuals are stored: `float32` keeps every bit, `float16` takes half the space."""
    injection_resolution: int
    """Side, in features, of the generator's maps that the residual belongs to; 0 where it belongs to none."""
    code_version: str
    """Version of styleres-video that created the store."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings at creation (JSON values), for the record; a source's manifest holds its own."""
    schema_version: str = schemas.SCHEMA_VERSION

    def __post_init__(self) -> None:
        # Builds both schemas once, so that a wrong shape or codec is refused before a folder is made.
        # JSON gives lists.
        object.__setattr__(self, "wplus_shape", tuple(self.wplus_shape))
        object.__setattr__(self, "residual_shape", tuple(self.residual_shape))
        object.__setattr__(self, "settings", dict(self.settings))
        schemas.latents_schema(self.wplus_shape)
        schemas.residuals_schema(self.residual_shape, self.residual_codec)


@dataclass(frozen=True)
class Part:
    """One Parquet file of one table and source."""

    name: str
    path: Path
    row_count: int
    size_bytes: int
    first_pts: int | None
    """Smallest pts in it; None where it has no row with a pts."""
    last_pts: int | None


def range_part(start: int, stop: int) -> str:
    """The name of the part for frames [start, stop) of a source, by ordinal; names sort in frame order."""
    if not 0 <= start < stop:
        raise StoreError(f"a part covers frames [start, stop) with 0 <= start < stop, got [{start}, {stop})")
    return f"part-{start:09d}-{stop:09d}"


class Store:
    """A store on a local or shared disk. Cheap to open, picklable, safe to read from many processes.

    Make one with `Store.create`, `Store.open` or `Store.open_or_create`.
    """

    def __init__(self, root: Path, info: StoreInfo) -> None:
        self.root = root
        self.info = info
        # (table, source) -> {part name: (mtime_ns, size, Part)}: footers are read once per file and process.
        self._footers: dict[tuple[str, str], dict[str, tuple[int, int, Part]]] = {}

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r}, model={self.info.model_name!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "info": self.info, "_footers": {}}

    # ------------------------------------------------------------------------------- making and opening

    @classmethod
    def create(cls, root: str | Path, info: StoreInfo) -> Store:
        """Makes an empty store in a new or empty folder.

        Raises:
            StoreError: `root` is a file, or a folder that holds something already.
        """
        root = Path(root).absolute()
        if root.exists() and not root.is_dir():
            raise StoreError(f"{root}: a store is a folder, this is a file; name another place")
        if root.is_dir() and not _is_blank(root):
            raise StoreError(
                f"{root}: expected a new or empty folder for a new store, this one holds "
                f"{sorted(p.name for p in root.iterdir())[:5]}; open the store that is there, or name another"
            )
        _write_text(root / "meta" / "info.json", _to_json(asdict(info), f"{root}: settings"))
        store = cls(root, info)
        store._write_card()
        return store

    @classmethod
    def open(cls, root: str | Path) -> Store:
        """Opens an existing store.

        Raises:
            StoreError: no store there, its `meta/info.json` cannot be read, or its schema's major version is
                newer than this code's.
        """
        root = Path(root).absolute()
        path = root / "meta" / "info.json"
        if not path.is_file():
            what = "no such folder" if not root.exists() else "no meta/info.json in it"
            raise StoreError(f"{root}: expected a store, found {what}; `styleres invert` makes one")
        try:
            fields = json.loads(path.read_text("utf-8"))
            version = str(fields["schema_version"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path}: not a store's info ({error!r}); restore it from a copy") from error
        try:
            schemas.check_version(version, where=str(root))
            # A newer minor version may say more than we know: what we do not know, we leave.
            known = {name: fields[name] for name in StoreInfo.__dataclass_fields__}
            info = StoreInfo(**known)
        except (KeyError, TypeError) as error:
            raise StoreError(f"{path}: not a store's info ({error!r}); restore it from a copy") from error
        except schemas.SchemaError as error:
            raise StoreError(str(error)) from error
        return cls(root, info)

    @classmethod
    def open_or_create(cls, root: str | Path, info: StoreInfo) -> Store:
        """Opens the store at `root` if there is one and it is of the same model, else makes it.

        Raises:
            StoreError: as `create`, `open` and `require_same_model`.
        """
        root = Path(root).absolute()
        if not (root / "meta" / "info.json").exists():
            return cls.create(root, info)
        store = cls.open(root)
        store.require_same_model(info)
        if not (root / "README.md").exists():  # whoever created it died in between
            store._write_card()
        return store

    def require_same_model(self, info: StoreInfo) -> None:
        """Codes of two models in one table would look alike and mean different things: refuses.

        Raises:
            StoreError: the model's digest, a shape, the codec or the injection resolution differs.
        """
        names = ("model_digest", "wplus_shape", "residual_shape", "residual_codec", "injection_resolution")
        ours, theirs = asdict(self.info), asdict(info)
        differing = [f"{n}: store {ours[n]!r}, now {theirs[n]!r}" for n in names if ours[n] != theirs[n]]
        if differing:
            raise StoreError(
                f"{self.root}: made with model {self.info.model_name!r}, now {info.model_name!r} is used; "
                f"they differ in {'; '.join(differing)}. Use that model and codec, or another --store"
            )

    def schema(self, table: str) -> pa.Schema:
        """The Arrow schema of a table of this store."""
        try:
            return schemas.table_schema(
                table,
                wplus_shape=self.info.wplus_shape,
                residual_shape=self.info.residual_shape,
                residual_codec=self.info.residual_codec,
            )
        except schemas.SchemaError as error:
            raise StoreError(str(error)) from error

    # --------------------------------------------------------------------------------------------- parts

    def write_part(self, table: str, source_id: str, part: int | str, rows: pa.Table) -> Path:
        """Writes the rows of one chunk, atomically; the same part again replaces the former.

        Columns may come in any order and in any type that converts without loss. A table without rows is
        written too: its file says that the chunk was done.

        Args:
            part: a number (`part-00007`), or a name such as `range_part(start, stop)`.

        Raises:
            StoreError: an unknown table, a bad name, columns that do not fit the table's schema, a null where
                there may be none, rows of another source, or two rows with one primary key.
        """
        path = self._folder(table, source_id) / f"{_part_name(part)}.parquet"
        conformed = _conform(rows, self.schema(table), where=f"{table} of {source_id}")
        others = set(pc.unique(conformed.column("source_id")).to_pylist()) - {source_id}
        if others:
            raise StoreError(f"{table} of {source_id}: rows of other sources are in it: {sorted(others)[:3]}")
        _require_unique(conformed, table, where=f"{table} of {source_id}, part {part}")
        # W+ shrinks by a tenth as byte streams, feature maps do not shrink at all (schemas/README.md).
        split = ["wplus.list.element.list.element"] if table == "latents" else False
        with _atomic(path) as temporary, open(temporary, "wb") as file:
            pq.write_table(
                conformed,
                file,
                compression="zstd",
                compression_level=1 if table == "residuals" else 3,
                use_dictionary=False,
                use_byte_stream_split=split,
                write_statistics=list(_KEY_COLUMNS),
                write_page_checksum=True,
                row_group_size=max(1, conformed.num_rows),
            )
            file.flush()
            os.fsync(file.fileno())
        return path

    def has_part(self, table: str, source_id: str, part: int | str) -> bool:
        """Whether that chunk's rows are on the disk."""
        return (self._folder(table, source_id) / f"{_part_name(part)}.parquet").is_file()

    def parts(self, table: str, source_id: str) -> list[Part]:
        """The parts of one table and source, by name; reads only footers, and each only once.

        Raises:
            StoreError: a part that is no whole Parquet file.
        """
        folder = self._folder(table, source_id)
        known = self._footers.get((table, source_id), {})
        found: dict[str, tuple[int, int, Part]] = {}
        for path in sorted(folder.glob("*.parquet")):
            stat = path.stat()
            entry = known.get(path.name)
            if entry is None or entry[:2] != (stat.st_mtime_ns, stat.st_size):
                entry = (stat.st_mtime_ns, stat.st_size, _read_part(path, stat.st_size))
            found[path.name] = entry
        self._footers[(table, source_id)] = found
        return [entry[2] for entry in found.values()]

    def read(
        self,
        table: str,
        source_id: str | None = None,
        pts_range: tuple[int, int] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Rows of one table, sorted by (source, pts, track); only the parts that can hold them are opened.

        Args:
            source_id: of one source; None for all of them.
            pts_range: (first, last), **both included**. Rows without a pts, which speak of a whole source
                (`failures`), are left out then.
            columns: which, in that order; None for all.

        Returns:
            A table of the store's schema, without rows where nothing is stored.

        Raises:
            StoreError: an unknown table or column, a damaged part, or two parts that hold the same row.
        """
        schema = self.schema(table)
        wanted = list(schema.names if columns is None else columns)
        unknown = [name for name in wanted if name not in schema.names]
        if unknown:
            raise StoreError(f"{table}: no column {', '.join(unknown)}; there are {', '.join(schema.names)}")
        if pts_range is not None and pts_range[0] > pts_range[1]:
            raise StoreError(f"{table}: pts_range is (first, last) with first <= last, got {pts_range}")
        needed = [*wanted, *(n for n in (*_KEY_COLUMNS, *schemas.primary_key(table)) if n not in wanted)]
        needed = list(dict.fromkeys(needed))
        pieces = []
        for each in self.stored_source_ids(table) if source_id is None else [source_id]:
            for part in self.parts(table, each):
                if _overlaps(part, pts_range):
                    pieces.append(_within(_read_rows(part, needed, schema), part, pts_range))
        if not pieces:
            return pa.schema([schema.field(n) for n in wanted], metadata=schema.metadata).empty_table()
        rows = pa.concat_tables(pieces)
        if len(pieces) > 1:
            _require_unique(rows, table, where=f"{self.root}: {table} of {source_id or 'all sources'}")
        return _sorted(rows, table).select(wanted).replace_schema_metadata(schema.metadata)

    # ---------------------------------------------------------------------------------------- manifests

    def write_manifest(self, stage: str, source_id: str, content: Mapping[str, Any]) -> Path:
        """Declares a stage of a source complete. Call it last: it lists the parts that are there now.

        Args:
            stage: `scan`, `track`, `invert`, `render`, or a name of your own (which lists no parts).
            content: what the caller wants kept (settings, counts, timings): JSON values.

        Raises:
            StoreError: a bad name, content that JSON cannot hold, or parts of one table that overlap in rows.
        """
        tables: dict[str, dict[str, dict[str, int]]] = {}
        for table in _tables_of(stage):
            parts = self.parts(table, source_id)
            # A chunk written under two names (the chunk length was changed between two runs) must be found
            # here, not by whoever reads the store.
            keys = [_read_rows(p, list(schemas.primary_key(table)), self.schema(table)) for p in parts]
            if len(keys) > 1:
                _require_unique(pa.concat_tables(keys), table, where=f"{self.root}: {table} of {source_id}")
            for leftover in self._folder(table, source_id).glob(".*.tmp"):  # of workers that were killed
                leftover.unlink(missing_ok=True)
            tables[table] = {p.name: {"rows": p.row_count, "bytes": p.size_bytes} for p in parts}
        manifest = {
            "stage": stage,
            "source_id": source_id,
            "schema_version": schemas.SCHEMA_VERSION,
            "parts": tables,
            "content": dict(content),
        }
        path = self._manifest_path(stage, source_id)
        _write_text(path, _to_json(manifest, f"manifest {stage} of {source_id}"))
        return path

    def read_manifest(self, stage: str, source_id: str) -> dict[str, Any] | None:
        """The `content` that `write_manifest` was given; None while the stage is not complete."""
        manifest = self._manifest(stage, source_id)
        return None if manifest is None else manifest["content"]

    def is_complete(self, source_id: str, stage: str = "invert") -> bool:
        """Whether the manifest is there and every part that it lists is, with the size that it had."""
        manifest = self._manifest(stage, source_id)
        if manifest is None:
            return False
        for table, parts in manifest["parts"].items():
            folder = self._folder(table, source_id)
            for name, facts in parts.items():
                try:
                    if (folder / f"{name}.parquet").stat().st_size != facts["bytes"]:
                        return False
                except FileNotFoundError:
                    return False
        return True

    # ------------------------------------------------------------------------------------------- sources

    def sources(self) -> pa.Table:
        """The `sources` table: every source that was probed into this store, complete or not."""
        return self.read("sources")

    def stored_source_ids(self, table: str = "sources") -> list[str]:
        """Keys of the sources that have a folder in a table, sorted."""
        self.schema(table)
        folder = self.root / table
        if not folder.is_dir():
            return []
        return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))

    def complete_source_ids(self, stage: str = "invert") -> list[str]:
        """Keys of the sources whose stage is complete, sorted."""
        folder = self.root / "manifests" / _checked_name(stage, "stage")
        names = sorted(p.stem for p in folder.glob("*.json")) if folder.is_dir() else []
        return [name for name in names if self.is_complete(name, stage)]

    def failures(self, source_id: str | None = None) -> pa.Table:
        """Every lost item of one source, or of all."""
        return self.read("failures", source_id)

    def write_failures(self, stage: str, failures: Sequence[schemas.Failure], part: int | str = 0) -> None:
        """Records the items that one stage lost, replacing what the same stage and part recorded before.

        Args:
            part: tells apart the writers of one stage and source, as in `write_part`.
        """
        by_source: dict[str, list[schemas.Failure]] = {}
        for failure in failures:
            by_source.setdefault(failure.source_id, []).append(failure)
        for source_id, rows in by_source.items():
            name = f"{_checked_name(stage, 'stage')}-{_part_name(part)}"
            self.write_part("failures", source_id, name, schemas.failures_table(rows))

    def clear_failures(self, stage: str, source_ids: Sequence[str], part: int | str = 0) -> None:
        """Forgets what one stage lost of some sources, before it is run for them again."""
        for source_id in source_ids:
            name = f"{_checked_name(stage, 'stage')}-{_part_name(part)}.parquet"
            (self._folder("failures", source_id) / name).unlink(missing_ok=True)
            self._footers.pop(("failures", source_id), None)

    def delete_source(self, source_id: str, tables: Sequence[str] | None = None) -> None:
        """Removes what is stored of a source: all of it, or some tables. No error where there is nothing.

        Its manifests go first, all of them, so that a deletion cut short leaves an incomplete source and not
        one that claims to be whole.

        Args:
            tables: which; None for all, failures included.
        """
        _checked_name(source_id, "source")
        chosen = schemas.TABLES if tables is None else tables
        folders = [self._folder(table, source_id) for table in chosen]
        manifests = self.root / "manifests"
        for stage in sorted(manifests.iterdir()) if manifests.is_dir() else []:
            (stage / f"{source_id}.json").unlink(missing_ok=True)
            _sync_folder(stage)
        # Renamed out of the tables first, so that no reader meets half of a source, even if we die here;
        # what an earlier deletion left goes with it.
        trash = self.root / ".deleted" / secrets.token_hex(4)
        for table, folder in zip(chosen, folders, strict=True):
            if folder.is_dir():
                trash.mkdir(parents=True, exist_ok=True)
                os.replace(folder, trash / table)
                _sync_folder(folder.parent)
            self._footers.pop((table, source_id), None)
        if trash.exists():
            shutil.rmtree(trash)
        shutil.rmtree(trash.parent, ignore_errors=True)

    # --------------------------------------------------------------------------------------- measurement

    def sizes_bytes(self) -> dict[str, int]:
        """Bytes on the disk of each table, all sources together."""
        return {table: sum(p.size_bytes for p in self._all_parts(table)) for table in schemas.TABLES}

    def row_counts(self) -> dict[str, int]:
        """Rows of each table, all sources together, from the footers alone."""
        return {table: sum(p.row_count for p in self._all_parts(table)) for table in schemas.TABLES}

    def bytes_per_face_frame(self) -> dict[str, float]:
        """Bytes that each table takes per row of `latents`, that is per face and frame; empty without any."""
        count = self.row_counts()["latents"]
        return {table: size / count for table, size in self.sizes_bytes().items()} if count else {}

    def verify(self, source_id: str) -> list[str]:
        """Reads every page of a source, checksums included; one sentence per damaged part, [] if sound."""
        damaged = []
        for table in schemas.TABLES:
            for path in sorted(self._folder(table, source_id).glob("*.parquet")):
                try:
                    part = _read_part(path, path.stat().st_size)
                    _read_rows(part, self.schema(table).names, self.schema(table))
                except StoreError as error:
                    damaged.append(str(error))
        return damaged

    # ----------------------------------------------------------------------------------------- internals

    def _write_card(self) -> None:
        card = dataset_card(
            model_name=self.info.model_name,
            model_digest=self.info.model_digest,
            wplus_shape=self.info.wplus_shape,
            residual_shape=self.info.residual_shape,
            residual_codec=self.info.residual_codec,
        )
        _write_text(self.root / "README.md", card)

    def _all_parts(self, table: str) -> Iterator[Part]:
        for source_id in self.stored_source_ids(table):
            yield from self.parts(table, source_id)

    def _folder(self, table: str, source_id: str) -> Path:
        self.schema(table)
        return self.root / table / _checked_name(source_id, "source")

    def _manifest_path(self, stage: str, source_id: str) -> Path:
        folder = self.root / "manifests" / _checked_name(stage, "stage")
        return folder / f"{_checked_name(source_id, 'source')}.json"

    def _manifest(self, stage: str, source_id: str) -> dict[str, Any] | None:
        path = self._manifest_path(stage, source_id)
        try:
            manifest = json.loads(path.read_text("utf-8"))
            return {"parts": dict(manifest["parts"]), "content": dict(manifest["content"])}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path}: not a manifest ({error!r}); delete it and run the same command again") from error


def _tables_of(stage: str) -> tuple[str, ...]:
    """The tables that a stage's manifest vouches for."""
    match stage:
        case "scan":
            return ("sources", "frames", "faces")
        case "track":
            return ("tracks",)
        case "invert":
            return ("sources", "frames", "faces", "tracks", "latents", "residuals")
        case "render":
            return ("edits", "segments")
        case _:
            return ()


def _checked_name(name: str, what: str) -> str:
    """Names become folders and files, so only plain ones pass: no dots, no separators, nothing empty."""
    if not _NAME.fullmatch(name):
        raise StoreError(
            f"a {what} name is up to 100 letters, digits, '-' and '_' and begins with a letter or digit, got {name!r}"
        )
    return name


def _part_name(part: int | str) -> str:
    if isinstance(part, str):
        return _checked_name(part, "part")
    if part < 0:
        raise StoreError(f"a part's number is 0 or more, got {part}")
    return f"part-{part:05d}"


# ------------------------------------------------------------------------------------------------- tables


def _conform(rows: pa.Table, schema: pa.Schema, *, where: str) -> pa.Table:
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


def _require_unique(rows: pa.Table, table: str, *, where: str) -> None:
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


def _overlaps(part: Part, pts_range: tuple[int, int] | None) -> bool:
    if pts_range is None:
        return True
    if part.first_pts is None or part.last_pts is None:
        return False
    return part.first_pts <= pts_range[1] and part.last_pts >= pts_range[0]


def _within(rows: pa.Table, part: Part, pts_range: tuple[int, int] | None) -> pa.Table:
    if pts_range is None:
        return rows
    pts = rows.column("pts")
    inside = part.first_pts is not None and pts_range[0] <= part.first_pts
    if inside and part.last_pts is not None and part.last_pts <= pts_range[1] and not pts.null_count:
        return rows  # the whole part: no copy of its tensors
    keep = pc.and_(pc.greater_equal(pts, pts_range[0]), pc.less_equal(pts, pts_range[1]))
    return rows.filter(keep)


def _sorted(rows: pa.Table, table: str) -> pa.Table:
    keys = dict.fromkeys(("source_id", "pts", "track_id", *schemas.primary_key(table)))
    order = pc.sort_indices(rows.select(list(keys)), sort_keys=[(key, "ascending") for key in keys])
    # Parts are written in order, so this is the common case, and it spares a copy of every tensor.
    in_place = pc.all(pc.equal(order, pa.array(range(rows.num_rows), pa.uint64()))).as_py()
    return rows if in_place in (True, None) else rows.take(order)


# -------------------------------------------------------------------------------------------------- files


def _read_part(path: Path, size_bytes: int) -> Part:
    try:
        with pq.ParquetFile(path) as file:
            footer = file.metadata
            version = (file.schema_arrow.metadata or {}).get(schemas.SCHEMA_VERSION_KEY, b"").decode()
            column = file.schema_arrow.names.index("pts")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(path, error) from error
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
    return Part(path.stem, path, footer.num_rows, size_bytes, first, last)


def _read_rows(part: Part, columns: list[str], schema: pa.Schema) -> pa.Table:
    try:
        with pq.ParquetFile(part.path, page_checksum_verification=True) as file:
            rows = file.read(columns=columns)
        for name in columns:
            if name not in rows.column_names and schema.field(name).nullable:  # written by an older minor version
                rows = rows.append_column(schema.field(name), pa.nulls(len(rows), schema.field(name).type))
    except (OSError, pa.ArrowException) as error:
        raise _damaged(part.path, error) from error
    try:
        return _conform(rows, pa.schema([schema.field(name) for name in columns]), where=str(part.path))
    except StoreError as error:
        raise StoreError(f"{error}; the part was not written for this store") from error


def _damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"{path}: cannot be read ({error}); the file is damaged. Delete its source (--overwrite) and invert it again"
    )


@contextlib.contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder; renamed to `path` if the body succeeds, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut, where the system can open folders at all."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse; their rename is as durable as they make it
    finally:
        os.close(descriptor)


def _write_text(path: Path, text: str) -> None:
    with _atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _to_json(value: Any, what: str) -> str:
    try:
        return json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise StoreError(f"{what}: only finite JSON values can be kept ({error})") from error


def _is_blank(folder: Path) -> bool:
    """Nothing in it but folders and the temporary files of a creation that was killed."""
    return all(p.is_dir() or p.name.endswith(".tmp") for p in folder.rglob("*"))
