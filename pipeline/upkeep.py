"""What is done to a store besides running jobs on it: damaged parts put aside, parts joined, tables exported, people removed.

Hold the store's lock around whatever writes. What was killed is finished by the same command.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.columns import array_from_column
from pipeline.ledger import Ledger, digest
from pipeline.parts import DamagedPart, Part, StoreError, Written, range_of, range_part, read_rows
from pipeline.places import folders, joined, listed, place, remove, writing
from pipeline.store import Store

JOINED_BYTES = 64 << 20
"""A render reads whole parts, so they stay small enough to be read for one chunk."""
JOINED_TABLES = ("frames", "faces", "tracks", "latents", "residuals")


def put_aside(store: Store, source_id: str) -> list[str]:
    """Take damaged files of a source away, so that the next invert or edit makes them again; => what was wrong."""
    damaged, ledger = store.verify(source_id), Ledger(store)
    for name in damaged:
        kind, stage, _ = name.split("/")
        if kind == "manifests" and stage.startswith("render-"):  # what it vouched for is there, and stays that command's own
            ledger.begin(stage, source_id)
        store.put_aside(name)
    return list(damaged.values())


def compact(store: Store, source_id: str, *, part_bytes: int = JOINED_BYTES) -> tuple[int, int]:
    """Join neighbouring parts of a finished source into larger ones; => parts before and after. Rows stay as they are.

    First all joined parts are written, each of which takes the place of its parts as it appears (`parts.in_force`); then the
    manifest vouches for them; then what they were joined from goes. Killed in between, the source is whole to every step and
    every reader of ours; readers of the bare files meet rows twice until this is run again.
    """
    if not store.is_complete(source_id):
        raise StoreError(f"{store.root}: {source_id} is not complete; run styleres invert again before compacting")
    vouched = {file.path: file for file in store.vouched_parts(source_id)}
    remove_unvouched(store, source_id, vouched)
    before, joined_from = len(vouched), []
    for table in JOINED_TABLES:
        for group in neighbours(store.parts(table, source_id), part_bytes):
            first, last = range_of(group[0].name), range_of(group[-1].name)
            assert first is not None and last is not None
            rows = pa.concat_tables(read_rows(part, store.schema(table).names, store.schema(table)) for part in group)
            written = store.write_part(table, source_id, range_part(first[0], last[1], joined=True), rows)
            for part in group:
                del vouched[f"{table}/{source_id}/{part.path.name}"]
            vouched[written.path] = written
            joined_from += [part.path for part in group]
    if joined_from:
        rewrite_manifest(store, source_id, list(vouched.values()))
        for path in joined_from:
            remove(path)
    return before, len(vouched)


def remove_unvouched(store: Store, source_id: str, vouched: Mapping[str, Written]) -> None:
    """What a killed `compact` of a finished source has left: joined parts that came to nothing, or parts that were joined."""
    for table in JOINED_TABLES:
        for file in listed(joined(store.root, f"{table}/{source_id}"), ".parquet"):
            if f"{table}/{source_id}/{file.path.name}" not in vouched:
                remove(file.path)


def neighbours(parts: Sequence[Part], part_bytes: int) -> Iterator[list[Part]]:
    """Runs of two and more parts, each of which begins where the one before ends, and which together are small enough."""
    group: list[Part] = []
    for part in [*sorted(parts, key=lambda one: range_of(one.name) or (-1, -1)), None]:
        span = None if part is None else range_of(part.name)
        end = range_of(group[-1].name) if group else None
        fits = part is not None and sum(one.size_bytes for one in group) + part.size_bytes <= part_bytes
        # A chunk without rows leaves no part, so the next one need not begin where this one ends.
        if part is not None and span is not None and fits and (end is None or end[1] <= span[0]):
            group.append(part)
            continue
        if len(group) > 1:
            yield group
        group = [part] if part is not None and span is not None else []


def delete_track(store: Store, source_id: str, track_id: int) -> tuple[dict[str, int], list[str]]:
    """Remove one person's track from every table, detections and embeddings too; the source is not inverted again for it.

    Returns:
        rows removed from each table; edited files that the store knows of and that still show the track.

    Raises:
        StoreError: the source has no such track.
    """
    tracks = store.read("tracks", source_id)
    mine = tracks.filter(pc.equal(tracks["track_id"], track_id))
    if mine.num_rows == 0:
        there = sorted(set(tracks["track_id"].to_pylist()))
        raise StoreError(f"{store.root}: {source_id} has no track {track_id}; it has {there or 'none'}")
    removed: dict[str, int] = {}
    seen = {(pts, box.tobytes()) for pts, box in zip(mine["pts"].to_pylist(), array_from_column(mine, "box"), strict=True)}
    vouched = {file.path: file for file in store.vouched_parts(source_id)}
    # The codes go first: whatever happens then, nobody renders this person any more.
    for table in ("latents", "residuals", "edits", "faces", "failures", "tracks"):
        for part in store.parts(table, source_id, superseded=True):
            rows = read_rows(part, store.schema(table).names, store.schema(table))
            if table == "faces":
                keys = zip(rows["pts"].to_pylist(), array_from_column(rows, "box"), strict=True)
                keep = np.array([(pts, box.tobytes()) not in seen for pts, box in keys], bool)
            else:
                keep = rows["track_id"].to_numpy() != track_id
            if keep.all():
                continue
            removed[table] = removed.get(table, 0) + int((~keep).sum())
            written = store.write_part(table, source_id, part.name, rows.filter(pa.array(keep)))
            if written.path in vouched:
                vouched[written.path] = written
    made = forget_renders(store, source_id)
    rewrite_manifest(store, source_id, list(vouched.values()), without=track_id)
    return removed, made


def forget_renders(store: Store, source_id: str) -> list[str]:
    """Renders of a source count as not done any more; => the files that they made."""
    made = []
    for stage in folders(store.root / "manifests"):
        if stage.startswith("render-"):
            content = store.read_manifest(stage, source_id) or {}
            made += [file["path"] for file in content.get("outputs", [])]
            store.remove_manifest(stage, source_id)
    return made


def rewrite_manifest(store: Store, source_id: str, files: list[Written], *, without: int | None = None) -> None:
    """The same manifest of an inversion for other files. Renders depend on which tracks are gone."""
    content: dict[str, Any] | None = store.read_manifest("invert", source_id)
    if content is None:
        return
    if without is not None:
        content["deleted_tracks"] = sorted({*content.get("deleted_tracks", []), without})
        content["after"] = digest(content.get("after", ""), "deleted", without)
    store.write_manifest("invert", source_id, content, files)


def export(store: Store, table: str, out: str, source_ids: list[str] | None = None) -> tuple[int, list[str]]:
    """All rows of a table, or those of some sources, as one Parquet or Arrow IPC file (by its suffix).

    Returns:
        how many rows; what is wrong with the sources that are left out because they are damaged. A part at a time is in memory.

    Raises:
        DamagedPart: a part is found damaged when rows of its source are written already; there is no file then.
    """
    where, schema, count = place(out), store.schema(table), 0
    if where.suffix not in (".parquet", ".arrow"):
        raise StoreError(f"{out}: expected a file called .parquet or .arrow")
    chosen = store.stored_source_ids(table) if source_ids is None else source_ids
    damaged: list[str] = []
    with writing(where) as file:
        writer: Any = (
            pq.ParquetWriter(file, schema, compression="zstd") if where.suffix == ".parquet" else pa.ipc.new_file(file, schema)
        )
        with writer:
            for source_id in chosen:
                broken = store.broken_manifests(source_id, ["invert"])
                try:
                    store.require_sound(source_id, [table])
                    parts = store.parts(table, source_id)
                except DamagedPart as error:
                    broken[source_id] = str(error)
                if broken:
                    damaged += broken.values()
                    continue
                for part in parts:
                    rows = read_rows(part, schema.names, schema)
                    writer.write_table(rows.replace_schema_metadata(schema.metadata))
                    count += rows.num_rows
    return count, damaged
