"""The store: a folder of Parquet tables, and the only seam between inverting and editing.

    STORE/
      README.md                          dataset card
      meta/info.json                     schema version, model, shapes, codec
      <table>/<source_id>/<part>.parquet one part per chunk, one row group per part; pictures lie in packs (`packs.py`)
      manifests/<stage>/<source_id>.json written last: the stage is complete
      ledger/, work/                     of runs that are not finished (`pipeline.engine.ledger`); gone afterwards

A file appears whole or not at all: written under a temporary name, fsynced, renamed. A manifest speaks only
of what is already on the disk, so a run killed at any instant leaves a store that the same command resumes.
Parts are named by their chunk, so writing one twice leaves one. Several processes may write parts of one
store at a time; one process (the driver) creates it and writes its manifests.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import schemas
from ops.files.atomic import sync_folder
from ops.files.digest import sha256_of
from pipeline.store import journal
from pipeline.store.dataset_card import dataset_card
from pipeline.store.packs import ids_in, is_pack, members_of, read_members
from pipeline.store.parts import (
    KEY_COLUMNS,
    DamagedPart,
    Part,
    StoreError,
    Written,
    conformed,
    footer_digest_of,
    in_order,
    overlaps,
    range_part,
    read_footer,
    read_rows,
    require_unique,
    within,
    write_rows,
)
from pipeline.store.places import (
    Listed,
    Place,
    Remote,
    exists,
    folders,
    joined,
    listed,
    move,
    place,
    remove,
    remove_tree,
    size_of,
    tail_digest_of,
    write_text,
)
from pipeline.store.records import BrokenRecord, read_record, write_record

__all__ = ["DamagedPart", "Part", "Store", "StoreError", "StoreInfo", "Written", "range_part"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True)
class StoreInfo:
    """Facts of a whole store. All but `code_version` and `settings` must match to add to it."""

    model_name: str
    """Name of the model bundle, for people."""
    model_digest: str
    """SHA-256 of the bundle: the model's identity."""
    wplus_shape: tuple[int, int]
    """(L, D) of a W+ code."""
    residual_shape: tuple[int, ...]
    """Shape of one residual: (C, H, W) for a feature map, (0,) where the method keeps nothing beside W+."""
    residual_codec: schemas.ResidualCodec
    """Storage of residuals: `float32` keeps every bit, `float16` takes half the space, `int8` a quarter, compressed less."""
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


class Store:
    """A store on a disk or in an object store. Cheap to open, picklable, safe to read from many processes.

    Make one with `Store.create`, `Store.open` or `Store.open_or_create`.
    """

    def __init__(self, root: Place, info: StoreInfo) -> None:
        self.root = root
        self.info = info
        # (table, source) -> {a part's file name: Part}: footers are read once per file and process.
        self._footers: dict[tuple[str, str], dict[str, Part]] = {}
        # (table, pack) -> (its parts' versions, the key of each row): which pictures lie there.
        self._ids: dict[tuple[str, str], tuple[list[Part], list[np.ndarray]]] = {}
        # stage -> (its packs' manifests as listed, picture -> pack).
        self._packs: dict[str, tuple[list[tuple[str, str]], dict[str, str]]] = {}
        # source -> stage -> its manifest, of those that are read once.
        self._once: dict[str, dict[str, Manifest | BrokenRecord | None]] = {}

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r}, model={self.info.model_name!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "info": self.info, "_footers": {}, "_ids": {}, "_packs": {}, "_once": {}}

    # ------------------------------------------------------------------------------- making and opening

    @classmethod
    def create(cls, root: str | Place, info: StoreInfo) -> Store:
        """Makes an empty store in a new or empty folder.

        Raises:
            StoreError: `root` is a file, or a folder that holds something already.
        """
        root = place(root)
        if isinstance(root, Path) and root.exists() and not root.is_dir():
            raise StoreError(f"{root}: a store is a folder, this is a file; name another place")
        there = _contents(root)
        if there:
            raise StoreError(
                f"{root}: expected a new or empty folder for a new store, this one holds "
                f"{there[:5]}; open the store that is there, or name another"
            )
        write_record(joined(root, "meta/info.json"), asdict(info))
        store = cls(root, info)
        store._write_card()
        return store

    @classmethod
    def open(cls, root: str | Place, *, unfinished: bool = False) -> Store:
        """Opens an existing store.

        Args:
            unfinished: also one with a change that was cut short; for whoever finishes it.

        Raises:
            Unfinished: somebody has begun to delete or to join, and was killed.
            StoreError: no store there, its `meta/info.json` cannot be read, or its schema's major version is
                newer than this code's.
        """
        root = place(root)
        path = joined(root, "meta/info.json")
        if not exists(path):
            what = "no such folder" if not isinstance(root, Path) or not root.exists() else "no meta/info.json in it"
            raise StoreError(f"{root}: expected a store, found {what}; `styleres invert` makes one")
        try:
            fields = read_record(path, unchecked=StoreInfo.__dataclass_fields__)
            version = str(fields["schema_version"])
        except BrokenRecord as error:
            raise StoreError(f"{path}: not a store's info ({error.why}); restore it from a copy") from error
        except KeyError as error:
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
        if not unfinished and (names := journal.unfinished(root)):
            raise journal.Unfinished(root, names)
        return cls(root, info)

    @classmethod
    def open_or_create(cls, root: str | Place, info: StoreInfo) -> Store:
        """Opens the store at `root` if there is one and it is of the same model, else makes it.

        Raises:
            StoreError: as `create`, `open` and `require_same_model`.
        """
        root = place(root)
        if not exists(joined(root, "meta/info.json")):
            return cls.create(root, info)
        store = cls.open(root)
        store.require_same_model(info)
        if not exists(root / "README.md"):  # whoever created it died in between
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

    def write_part(
        self, table: str, source_id: str, part: int | str, rows: pa.Table, *, group_rows: int | None = None
    ) -> Written:
        """Writes the rows of one chunk, atomically; the same part again replaces the former.

        Columns may come in any order and in any type that converts without loss. A table without rows is
        written too: its file says that the chunk was done.

        Args:
            source_id: or a pack, whose rows are of many pictures.
            part: a number (`part-00007`), or a name such as `range_part(start, stop)`.
            group_rows: rows of a row group; None for one group of all.

        Returns:
            What a manifest has to know of the file.

        Raises:
            StoreError: an unknown table, a bad name, columns that do not fit the table's schema, a null where
                there may be none, rows of another source, or two rows with one primary key.
        """
        name = f"{_part_name(part)}.parquet"
        path = self._folder(table, source_id) / name
        ready = conformed(rows, self.schema(table), where=f"{table} of {source_id}")
        others = set() if is_pack(source_id) else set(pc.unique(ready.column("source_id")).to_pylist()) - {source_id}
        if others:
            raise StoreError(f"{table} of {source_id}: rows of other sources are in it: {sorted(others)[:3]}")
        require_unique(ready, table, where=f"{table} of {source_id}, part {part}")
        file = write_rows(path, ready, table, group_rows)
        return Written(f"{table}/{source_id}/{name}", file.size_bytes, file.sha256, ready.num_rows, file.tail_sha256)

    def parts(self, table: str, source_id: str) -> list[Part]:
        """The parts of one table and source, by name; reads only footers, and each only once.

        Raises:
            StoreError: a part that is not a whole Parquet file.
        """
        return [self.part(table, source_id, file) for file in self.listing(table, source_id)]

    def listing(self, table: str, source_id: str) -> list[Listed]:
        """The files of one table and source, by name, of which `part` tells more."""
        files = listed(self._folder(table, source_id), ".parquet")
        if (known := self._footers.get((table, source_id))) is not None:
            there = {file.path.name for file in files}
            for name in [name for name in known if name not in there]:
                del known[name]
        return files

    def part(self, table: str, source_id: str, file: Listed, *, whole: bool = False) -> Part:
        """Return the part in a file of `listing`; whole: its rows are read next. Raises as `parts`."""
        known = self._footers.setdefault((table, source_id), {})
        part = known.get(file.path.name)
        if part is None or part.listed != file:
            part = known[file.path.name] = read_footer(file, whole=whole)
        return part

    def read(
        self,
        table: str,
        source_id: str | None = None,
        pts_range: tuple[int, int] | None = None,
        columns: Sequence[str] | None = None,
        *,
        parts: Sequence[Part] | None = None,
    ) -> pa.Table:
        """Rows of one table, sorted by (source, pts, track); only the parts that can hold them are opened.

        Args:
            source_id: of one source; None for all of them.
            pts_range: (first, last), **both included**. Rows without a pts, which speak of a whole source
                (`failures`), are left out then.
            columns: which, in that order; None for all.
            parts: what `parts` gave for that source, for whoever reads many ranges of it; None to look.

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
        needed = [*wanted, *(n for n in (*KEY_COLUMNS, *schemas.primary_key(table)) if n not in wanted)]
        needed = list(dict.fromkeys(needed))
        pieces = []
        if source_id is not None and parts is not None:
            holders = [source_id]
        else:
            own_files = [] if source_id is None else self.listing(table, source_id)
            holders = self.holders(table) if source_id is None else self._holders_of(table, source_id, bool(own_files))
        for each in holders:
            if parts is not None:
                files = [part.listed for part in parts]
            else:
                files = own_files if each == source_id else self.listing(table, each)
            own = source_id in (None, each)
            for at, file in enumerate(files):
                part = self.part(table, each, file, whole=own and pts_range is None)
                if not overlaps(part, pts_range):
                    continue
                if source_id is None or own:
                    rows = read_rows(part, needed, schema)
                else:
                    rows = read_members(part, needed, schema, [source_id], self.ids(table, each)[at])
                pieces.append(within(rows, part, pts_range))
        if not pieces:
            return pa.schema([schema.field(n) for n in wanted], metadata=schema.metadata).empty_table()
        rows = pa.concat_tables(pieces)
        if len(pieces) > 1:
            require_unique(rows, table, where=f"{self.root}: {table} of {source_id or 'all sources'}")
        return in_order(rows, table).select(wanted).replace_schema_metadata(schema.metadata)

    def read_some(self, table: str, holder: str, source_ids: Collection[str], columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of some sources of one folder of a table, in the order in which they lie there; of a pack only those row groups.

        Raises:
            DamagedPart: a part that cannot be read.
        """
        schema = self.schema(table)
        wanted = list(schema.names if columns is None else columns)
        pieces = []
        for at, part in enumerate(self.parts(table, holder)):
            if is_pack(holder):
                pieces.append(read_members(part, wanted, schema, source_ids, self.ids(table, holder)[at]))
            else:
                pieces.append(read_rows(part, wanted, schema))
        return pa.concat_tables(pieces) if pieces else pa.schema([schema.field(name) for name in wanted]).empty_table()

    # ---------------------------------------------------------------------------------------- manifests

    def write_manifest(
        self, stage: str, source_id: str, content: Mapping[str, Any], files: Sequence[Written] | None = None
    ) -> Place:
        """Declares a stage of a source complete. Call it last: it lists the parts that are there now.

        Args:
            stage: `scan`, `track`, `invert`, or a name of your own (which lists no parts but those given).
            content: what the caller wants kept (settings, counts): JSON values.
            files: what the stage's steps have written; None to look at what is there, and read it.

        Raises:
            StoreError: a bad name, content that JSON cannot hold, or parts of one table that overlap in rows.
        """
        parts: dict[str, dict[str, dict[str, Any]]] = {table: {} for table in _tables_of(stage)}
        for file in self._written(stage, source_id) if files is None else files:
            table, _, name = file.path.split("/")
            parts.setdefault(table, {})[name.removesuffix(".parquet")] = {
                "rows": file.rows,
                "bytes": file.size_bytes,
                "sha256": file.sha256,
                "tail_sha256": file.tail_sha256,
            }
        for table in parts:
            folder = self._folder(table, source_id)
            if isinstance(folder, Path):
                for leftover in folder.glob(".*.tmp"):  # of workers that were killed
                    leftover.unlink(missing_ok=True)
        manifest = {
            "stage": stage,
            "source_id": source_id,
            "schema_version": schemas.SCHEMA_VERSION,
            "parts": parts,
            "content": dict(content),
        }
        path = self._manifest_path(stage, source_id)
        self._once.get(source_id, {}).pop(stage, None)
        write_record(path, manifest)
        return path

    def _written(self, stage: str, source_id: str) -> Iterator[Written]:
        """The parts that are there. A chunk written under two names must be found here, not by whoever reads the store."""
        for table in _tables_of(stage):
            parts = self.parts(table, source_id)
            spans = sorted((p.first_pts, p.last_pts) for p in parts if p.first_pts is not None and p.last_pts is not None)
            if any(last >= first for (_, last), (first, _) in pairwise(spans)):
                keys = [read_rows(p, list(schemas.primary_key(table)), self.schema(table)) for p in parts]
                require_unique(pa.concat_tables(keys), table, where=f"{self.root}: {table} of {source_id}")
            for part in parts:
                name = f"{table}/{source_id}/{part.name}.parquet"
                tail = tail_digest_of(part.path, part.size_bytes)
                yield Written(name, part.size_bytes, sha256_of(part.path), part.row_count, tail)

    def remove_manifest(self, stage: str, source_id: str) -> None:
        """The stage of the source counts as not done from now on."""
        self._once.get(source_id, {}).pop(stage, None)
        remove(self._manifest_path(stage, source_id))

    def read_manifests_once(self, source_id: str) -> None:
        """From now on each manifest of a source is read once, for whoever holds the store: nobody else writes one."""
        self._once.setdefault(source_id, {})

    def read_manifests_again(self, source_id: str) -> None:
        """The end of `read_manifests_once`."""
        self._once.pop(source_id, None)

    def read_manifest(self, stage: str, source_id: str) -> dict[str, Any] | None:
        """The `content` that `write_manifest` was given; None while the stage is not complete, or where nobody can read it."""
        manifest = self._manifest(stage, source_id)
        return None if manifest is None else manifest.content

    def has_manifest(self, stage: str, source_id: str) -> bool:
        """Return whether the file is there, readable or not."""
        return exists(self._manifest_path(stage, source_id))

    def broken_manifests(self, source_id: str, stages: Sequence[str] | None = None) -> dict[str, str]:
        """Manifests of a source that are not what was written, by their names relative to the store => what they are instead.

        Everything else takes them for absent, so that a broken file costs its own source and no other.

        Args:
            stages: which; None for all that there are.
        """
        found = {}
        for stage in folders(self.root / "manifests") if stages is None else stages:
            try:
                self._read_manifest(stage, source_id)
            except BrokenRecord as error:
                found[f"manifests/{stage}/{source_id}.json"] = str(error)
        return found

    def is_complete(self, source_id: str, stage: str = "invert") -> bool:
        """Return whether the manifest is there and every part that it lists is, with the size that it had."""
        manifest = self._manifest(stage, self.holder_of(source_id, stage))
        return manifest is not None and not self._compared(manifest.files).lacking

    def lacking(self, source_id: str, stage: str = "invert") -> dict[Place, str]:
        """Parts that a manifest vouches for and that are not there as long as they were => what is; {} without a manifest."""
        return self._compared(self.vouched_parts(source_id, stage)).lacking

    def strangers(self, source_id: str) -> list[str]:
        """Parts of a finished source that nobody vouches for, by their names relative to the store: of a run that was given up.

        Only beside parts that are vouched for; [] for a source that is not finished.
        """
        return self.compared(source_id)[1]

    def compared(self, source_id: str, stage: str = "invert") -> tuple[dict[Place, str], list[str]]:
        """`lacking` and `strangers` with one look at each folder; both empty without a manifest."""
        found = self._compared(self.vouched_parts(source_id, stage))
        return found.lacking, found.strangers

    def _compared(self, vouched: Sequence[Written]) -> _Compared:
        there: dict[str, dict[str, Listed]] = {}
        lacking: dict[Place, str] = {}
        for file in vouched:
            folder, _, name = file.path.rpartition("/")
            if folder not in there:
                there[folder] = {one.path.name: one for one in listed(joined(self.root, folder), ".parquet")}
            here = there[folder].get(name)
            if here is None or here.size_bytes != file.size_bytes:
                what = "it is missing" if here is None else f"{here.size_bytes} bytes instead of {file.size_bytes}"
                lacking[joined(self.root, file.path)] = what
        known = {file.path for file in vouched}
        found = {f"{folder}/{name}": one for folder, names in there.items() for name, one in names.items()}
        strangers = [name for name in found if name not in known and name.split("/")[0] in _tables_of("invert")]
        return _Compared(lacking, strangers, found)

    def require_sound(self, source_id: str, tables: Sequence[str], *, unread: Sequence[str] = ()) -> None:
        """Every part of these tables that the inversion's manifest vouches for is there, and its footer is what was written.

        Reads the end of each file. Pages have checksums of their own, which every read verifies; footers have none, and a bit
        that flips there may hide rows, or make a library that reads it end the process.

        Args:
            unread: more tables, whose footers are looked at by whoever reads them (`require_footer`).

        Raises:
            DamagedPart: names all those that are not.
        """
        vouched = [file for file in self.vouched_parts(source_id) if file.path.split("/")[0] in (*tables, *unread)]
        compared = self._compared(vouched)
        found = compared.lacking
        for file in vouched:
            path = joined(self.root, file.path)
            if path in found or file.path.split("/")[0] in unread:
                continue
            try:
                self.require_footer(compared.there[file.path], file)
            except DamagedPart as damaged:
                found |= damaged.found
        if found:
            raise DamagedPart(found)

    def require_footer(self, one: Listed, vouched: Written) -> None:
        """Raise DamagedPart for a part whose footer is not the one that was written."""
        if vouched.tail_sha256 and footer_digest_of(one) != vouched.tail_sha256:
            raise DamagedPart({one.path: "its footer is not the one that was written"})

    def vouched_parts(self, source_id: str, stage: str = "invert") -> list[Written]:
        """The files that a manifest vouches for; [] without one. Digests are empty where earlier versions wrote it."""
        manifest = self._manifest(stage, source_id)
        return [] if manifest is None else list(manifest.files)

    # ------------------------------------------------------------------------------------------- sources

    def sources(self) -> pa.Table:
        """The `sources` table: every source that was probed into this store, complete or not."""
        return self.read("sources")

    def holders(self, table: str = "sources") -> list[str]:
        """The folders of a table, sorted: a source's own, or a pack's, which has the rows of many pictures."""
        self.schema(table)
        return folders(self.root / table)

    def holders_of(self, table: str, source_id: str) -> list[str]:
        """The folders of a table that have rows of a source: its own, or the packs that a picture lies in."""
        return self._holders_of(table, source_id, is_pack(source_id) or bool(self.listing(table, source_id)))

    def _holders_of(self, table: str, source_id: str, has_own: bool) -> list[str]:
        """has_own: there are files in the source's own folder."""
        if is_pack(source_id):
            return [source_id]
        own = [source_id] if has_own else []
        # A picture of an earlier version's store has a folder of its own, and what was rendered of it since lies in a pack.
        if own and table not in ("failures", "edits", "quality"):
            return own
        key = source_id.encode()
        return own + [
            holder for holder in self.holders(table) if is_pack(holder) and any(key in ids for ids in self.ids(table, holder))
        ]

    def ids(self, table: str, pack_id: str) -> list[np.ndarray]:
        """The key of each row of each part of a pack, bytes [N]. Raises DamagedPart."""
        parts = self.parts(table, pack_id)
        known = self._ids.get((table, pack_id))
        if known is None or any(a is not b for a, b in zip_longest(known[0], parts)):
            known = parts, [ids_in(part) for part in parts]
            self._ids[table, pack_id] = known
        return known[1]

    def members(self, pack_id: str, table: str = "sources") -> list[str]:
        """Keys of the pictures that have rows in a pack, in their order there; of a damaged one those that it was made of."""
        try:
            return list(dict.fromkeys(one.decode() for ids in self.ids(table, pack_id) for one in ids.tolist()))
        except DamagedPart:
            return list(members_of(self.read_manifest("invert", pack_id)))

    def packs_of(self, stage: str = "invert") -> dict[str, str]:
        """Picture => the pack in whose manifest of a stage it is."""
        folder = joined(self.root, f"manifests/{_checked_name(stage, 'stage')}")
        there = [(one.path.stem, one.version) for one in listed(folder, ".json") if is_pack(one.path.stem)]
        known = self._packs.get(stage)
        if known is None or known[0] != there:
            found = {one: pack_id for pack_id, _ in there for one in members_of(self.read_manifest(stage, pack_id))}
            known = self._packs[stage] = there, found
        return known[1]

    def holder_of(self, source_id: str, stage: str = "invert") -> str:
        """Return the holder of the manifest that names a source: the source, or the pack in which it lies."""
        if is_pack(source_id) or self.has_manifest(stage, source_id):
            return source_id
        return self.packs_of(stage).get(source_id, source_id)

    def readable_sources(self) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """(key => its row of `sources`, key => why that cannot be read): a damaged file costs its own source."""
        rows: dict[str, dict[str, Any]] = {}
        damaged: dict[str, str] = {}
        for holder in self.holders():
            try:
                rows |= {row["source_id"]: row for row in self.read("sources", holder).to_pylist()}
            except DamagedPart as error:
                damaged |= dict.fromkeys(self.members(holder) if is_pack(holder) else [holder], str(error))
        return rows, damaged

    def stored_source_ids(self, table: str = "sources") -> list[str]:
        """Keys of the sources that have a folder in a table, or rows in a pack, sorted."""
        found: set[str] = set()
        for holder in self.holders(table):
            found.update(self.members(holder, table) if is_pack(holder) else [holder])
        return sorted(found)

    def failures(self, source_id: str | None = None) -> pa.Table:
        """Every lost item of one source, or of all."""
        return self.read("failures", source_id)

    def write_failures(self, stage: str, failures: Sequence[schemas.Failure], part: int | str = 0) -> list[Written]:
        """Records the items that one stage lost, replacing what the same stage and part recorded before; => a file per source.

        Args:
            part: tells apart the writers of one stage and source, as in `write_part`.
        """
        by_source: dict[str, list[schemas.Failure]] = {}
        for failure in failures:
            by_source.setdefault(failure.source_id, []).append(failure)
        name = f"{_checked_name(stage, 'stage')}-{_part_name(part)}"
        return [
            self.write_part("failures", source_id, name, schemas.failures_table(rows)) for source_id, rows in by_source.items()
        ]

    def clear_failures(self, stage: str, source_ids: Sequence[str], part: int | str = 0) -> None:
        """Forgets what one stage lost of some sources, before it is run for them again."""
        for source_id in source_ids:
            name = f"{_checked_name(stage, 'stage')}-{_part_name(part)}.parquet"
            remove(self._folder("failures", source_id) / name)
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
        paths = {table: self._folder(table, source_id) for table in chosen}
        for stage in folders(self.root / "manifests"):
            remove(joined(self.root, f"manifests/{stage}/{source_id}.json"))
        for name in ("ledger", "work"):
            for stage in folders(self.root / name):
                remove_tree(joined(self.root, f"{name}/{stage}/{source_id}"))
        for table, folder in paths.items():
            if isinstance(folder, Remote):
                remove_tree(folder)
            self._footers.pop((table, source_id), None)
        if isinstance(self.root, Path):
            self._delete_locally({table: folder for table, folder in paths.items() if isinstance(folder, Path)})

    def _delete_locally(self, paths: Mapping[str, Path]) -> None:
        # Renamed out of the tables first, so that no reader meets half of a source, even if we die here;
        # what an earlier deletion left goes with it.
        assert isinstance(self.root, Path)
        trash = self.root / ".deleted" / secrets.token_hex(4)
        for table, folder in paths.items():
            if folder.is_dir():
                trash.mkdir(parents=True, exist_ok=True)
                os.replace(folder, trash / table)
                sync_folder(folder.parent)
        if trash.exists():
            shutil.rmtree(trash)
        shutil.rmtree(trash.parent, ignore_errors=True)

    # --------------------------------------------------------------------------------------- measurement

    def sizes_bytes(self) -> dict[str, int]:
        """Bytes on the disk of each table, all sources together, damaged files too."""
        return {
            table: sum(
                file.size_bytes for each in self.holders(table) for file in listed(self._folder(table, each), ".parquet")
            )
            for table in schemas.TABLES
        }

    def row_counts(self, source_id: str | None = None) -> dict[str, int]:
        """Rows of each table, of one source or of all together, from the footers alone. Raises DamagedPart."""
        counts: dict[str, int] = {}
        for table in schemas.TABLES:
            holders = self.holders(table) if source_id is None else self.holders_of(table, source_id)
            counts[table] = sum(
                part.row_count if source_id is None or each == source_id else int((ids == source_id.encode()).sum())
                for each in holders
                for part, ids in zip_longest(self.parts(table, each), self.ids(table, each) if is_pack(each) else [])
            )
        return counts

    def bytes_per_face_frame(self, faces: int | None = None) -> dict[str, float]:
        """Bytes that each table takes per row of `latents`, that is per face and frame; empty without any.

        faces: how many these are, where that is known.
        """
        count = self.row_counts()["latents"] if faces is None else faces
        return {table: size / count for table, size in self.sizes_bytes().items()} if count else {}

    def verify(self, source_id: str) -> dict[str, str]:
        """Reads every byte of a source's parts, manifests and edited files, and compares them with what is vouched for.

        Returns:
            path relative to the store => what is wrong with it; {} if sound. Parts that no manifest lists are read page by
            page, checksums included. An edited file that is not as it was written is named as its manifest.
        """
        vouched: dict[str, list[Written]] = {}
        found: dict[str, str | None] = {}
        for stage in folders(self.root / "manifests"):
            for file in self.vouched_parts(source_id, stage):
                vouched.setdefault(file.path, []).append(file)  # the same recipe's, perhaps, encoded otherwise
            content = self.read_manifest(stage, source_id) or {}
            for at in self.changed_outputs(content):
                said = self._changed_output(Written(**content["outputs"][at]))
                found[f"manifests/{stage}/{source_id}.json"] = said
        there = [
            f"{table}/{source_id}/{file.path.name}"
            for table in schemas.TABLES
            for file in listed(self._folder(table, source_id), ".parquet")
        ]
        found |= {name: self.damage_of(name, vouched.get(name, ())) for name in dict.fromkeys([*there, *vouched])}
        found |= {name: f"{joined(self.root, name)}: nobody vouches for it" for name in self.strangers(source_id)}
        return self.broken_manifests(source_id) | {name: said for name, said in found.items() if said is not None}

    def changed_outputs(self, content: Mapping[str, Any]) -> set[int]:
        """Return the places, in a manifest's content, of edited files that are not as they were written."""
        outputs = content.get("outputs", ())
        return {at for at, one in enumerate(outputs) if self._changed_output(Written(**one)) is not None}

    def _changed_output(self, written: Written) -> str | None:
        """Say what is wrong with a file outside the store that a render's manifest vouches for; whoever moved it away may."""
        path = place(written.path)
        if exists(path) and (size_of(path), sha256_of(path)) != (written.size_bytes, written.sha256):
            return f"{path}: its SHA-256 is not the one that it was written with; the render counts as not done"
        return None

    def damage_of(self, name: str, written: Sequence[Written]) -> str | None:
        """Say what is wrong with a file, by its name relative to the store; None for one that is as it was written.

        written: what it may be; without, a part is read page by page, checksums included.
        """
        path = joined(self.root, name)
        size_bytes = size_of(path)
        if size_bytes is None:
            return f"{path}: is missing"
        if any(one.sha256 for one in written):
            if (size_bytes, sha256_of(path)) in [(one.size_bytes, one.sha256) for one in written]:
                return None
            return f"{path}: its SHA-256 is not the one that it was written with; the file is damaged"
        try:
            schema = self.schema(name.split("/")[0])
            read_rows(read_footer(Listed(path, size_bytes, "")), schema.names, schema)
        except StoreError as error:
            return str(error)
        return None

    def put_aside(self, name: str) -> None:
        """Move a file, by its name relative to the store, to `STORE/.damaged`, for whoever wants to look at it."""
        path = joined(self.root, name)
        if exists(path):
            kind, *_, file = name.split("/")
            if kind == "manifests":
                self._once.pop(file.removesuffix(".json"), None)
            move(path, joined(self.root, f".damaged/{name}"))

    # ----------------------------------------------------------------------------------------- internals

    def _write_card(self) -> None:
        card = dataset_card(
            model_name=self.info.model_name,
            model_digest=self.info.model_digest,
            wplus_shape=self.info.wplus_shape,
            residual_shape=self.info.residual_shape,
            residual_codec=self.info.residual_codec,
        )
        write_text(self.root / "README.md", card)

    def _folder(self, table: str, source_id: str) -> Place:
        self.schema(table)
        return joined(self.root, f"{table}/{_checked_name(source_id, 'source')}")

    def _manifest_path(self, stage: str, source_id: str) -> Place:
        return joined(self.root, f"manifests/{_checked_name(stage, 'stage')}/{_checked_name(source_id, 'source')}.json")

    def _manifest(self, stage: str, source_id: str) -> Manifest | None:
        """None where there is none, or a broken one."""
        try:
            return self._read_manifest(stage, source_id)
        except BrokenRecord:
            return None

    def _read_manifest(self, stage: str, source_id: str) -> Manifest | None:
        """Raises BrokenRecord."""
        known = self._once.get(source_id)
        if known is None:
            return self._manifest_there(stage, source_id)
        if stage not in known:
            try:
                known[stage] = self._manifest_there(stage, source_id)
            except BrokenRecord as error:
                known[stage] = error
        found = known[stage]
        if isinstance(found, BrokenRecord):
            raise found
        return found

    def _manifest_there(self, stage: str, source_id: str) -> Manifest | None:
        path = self._manifest_path(stage, source_id)
        try:
            found = read_record(path, unchecked=_MANIFEST)
        except FileNotFoundError:
            return None
        if (found.get("stage"), found.get("source_id")) != (stage, source_id):
            raise BrokenRecord(path, f"it is of {found.get('stage')} and {found.get('source_id')}")
        try:
            files = [
                Written(
                    f"{table}/{source_id}/{name}.parquet",
                    facts["bytes"],
                    facts.get("sha256", ""),
                    facts["rows"],
                    facts.get("tail_sha256", ""),
                )
                for table, parts in found["parts"].items()
                for name, facts in parts.items()
            ]
            return Manifest(tuple(files), dict(found["content"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BrokenRecord(path, f"not a manifest: {error!r}") from error


@dataclass(frozen=True)
class _Compared:
    """Files that an entry or a manifest vouches for, compared with what is there."""

    lacking: dict[Place, str]
    """Those that are not there as long as they were => what is."""
    strangers: list[str]
    """Names of parts beside them that nobody vouches for, relative to the store."""
    there: dict[str, Listed]
    """All files of their folders, by their names relative to the store."""


_MANIFEST = ("stage", "source_id", "schema_version", "parts", "content")


@dataclass(frozen=True)
class Manifest:
    """The record of a complete stage of a source."""

    files: tuple[Written, ...]
    """Digests are empty where an earlier version wrote it."""
    content: dict[str, Any]


def _tables_of(stage: str) -> tuple[str, ...]:
    """The tables that a stage's manifest vouches for."""
    match stage:
        case "scan":
            return ("sources", "frames", "faces")
        case "track":
            return ("tracks",)
        case "invert":
            return ("sources", "frames", "faces", "tracks", "latents", "residuals")
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


def _contents(root: Place) -> list[str]:
    """List what a folder holds besides folders and the temporary files of a creation that was killed."""
    if isinstance(root, Remote):
        return [file.path.name for file in listed(root)] + folders(root)
    if not root.is_dir() or all(p.is_dir() or p.name.endswith((".tmp", ".lock")) for p in root.rglob("*")):
        return []
    return sorted(p.name for p in root.iterdir())
