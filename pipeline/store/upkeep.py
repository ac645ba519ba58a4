"""Maintains a store: joins parts, exports tables, removes people.

Hold the store's lock around whatever writes. What was killed is finished by the next command, whichever it is (`finish`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ops.files.atomic import exchange, replaced_file, sync_folder
from ops.video.probe import source_digest
from pipeline.store import journal
from pipeline.store.columns import array_from_column
from pipeline.store.deleted import deleted_from, deleted_of, detections, remember
from pipeline.store.packs import group_rows, is_pack, members_of, readable_rows
from pipeline.store.parts import (
    DamagedPart,
    Part,
    StoreError,
    Written,
    as_written,
    conformed,
    range_of,
    range_part,
    read_footer,
    read_rows,
    require_unique,
    write_rows,
)
from pipeline.store.places import (
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
    writing,
)
from pipeline.store.records import digest
from pipeline.store.tables import Store
from schemas import source_id_from_sha256

JOINED_BYTES = 64 << 20
"""A render reads whole parts, so they stay small enough to be read for one chunk."""
REPORT = "report.html"
"""The name of a report, in a folder of results or in a store; of one file's, what its name ends in."""
PICTURES = ("thumbnail", "picture")
"""Columns of `quality` that show a face and what is beside it."""
INVERTED_TABLES = ("sources", "frames", "faces", "tracks", "latents", "residuals")
"""Those with rows of every face or picture that was inverted."""
JOINED_TABLES = ("frames", "faces", "tracks", "latents", "residuals")


# --------------------------------------------------------------------------------------- what is finished once it is begun


def finish(root: Place) -> list[Finished]:
    """Make the changes that were begun and cut short; hold the store's lock. => what was done, for people."""
    names = journal.unfinished(root)
    store = Store.open(root, unfinished=True) if names else None
    done = []
    for name in names:
        assert store is not None
        job, source_id, *rest = name.split("-")
        content = journal.read(root, name)
        if job == "drop":
            drop_members(store, source_id, set((content or {}).get("members", ())))
            journal.end(root, name)
            done.append(Finished(f"pictures of {source_id} gave way to newer rows"))
        elif job == "delete":
            done.append(Finished(f"track {int(rest[0])} of {source_id} is deleted", *_delete(store, name, content)))
        else:
            _swap(store, source_id, content or {})
            done.append(Finished(f"the parts of {source_id} are joined"))
    return done


@dataclass(frozen=True)
class Finished:
    """A change that an earlier command had begun."""

    what: str
    removed: dict[str, int] = field(default_factory=dict)
    """Rows of each table."""
    made: list[str] = field(default_factory=list)
    """Edited files that still show who was deleted."""


# ------------------------------------------------------------------------------------------------------------- joining


def compact(store: Store, source_id: str, *, part_bytes: int = JOINED_BYTES) -> tuple[int, int]:
    """Join neighbouring parts of a finished source into larger ones; => parts before and after. Rows stay as they are.

    Joined parts are written outside the tables, then their folder and the table's trade places in one step, so that readers of
    the bare files find every row once at any time. Where the system has no such step (object stores, some network disks) the
    old parts go first, then the joined one comes: who is killed there leaves rows away, never twice, until any command is run.
    """
    if not store.is_complete(source_id):
        raise StoreError(f"{store.root}: {source_id} is not complete; run styleres invert again before compacting")
    for name in store.strangers(source_id):
        store.put_aside(name)
    before = len(store.vouched_parts(source_id))
    remove_tree(_staged(store, source_id))  # of a compaction that was killed before it had decided anything
    groups: list[dict[str, Any]] = []
    for table in JOINED_TABLES:
        schema = store.schema(table)
        for group in neighbours(store.parts(table, source_id), part_bytes):
            first, last = range_of(group[0].name), range_of(group[-1].name)
            assert first is not None and last is not None
            rows = conformed(pa.concat_tables(read_rows(part, schema.names, schema) for part in group), schema, where=table)
            require_unique(rows, table, where=f"{store.root}: {table} of {source_id}")
            name = f"{table}/{source_id}/{range_part(first[0], last[1], joined=True)}.parquet"
            file = write_rows(_staged(store, source_id, name), rows, table)
            written = Written(name, file.size_bytes, file.sha256, rows.num_rows, file.tail_sha256)
            groups.append({"file": asdict(written), "of": [f"{table}/{source_id}/{part.path.name}" for part in group]})
    if groups:
        content = {"groups": groups}
        journal.begin(store.root, f"compact-{source_id}", content)
        _swap(store, source_id, content)
    return before, len(store.vouched_parts(source_id))


def _staged(store: Store, source_id: str, name: str = "") -> Place:
    """Return where a joined part waits, outside every table; without a name, the folder of all."""
    table = f"/{name}" if name else ""
    return joined(store.root, f".joining/{source_id}{table}")


def _swap(store: Store, source_id: str, content: Mapping[str, Any]) -> None:
    """Let joined parts take the place of what they were joined from. Whatever was done of it already stays done."""
    groups = [(Written(**group["file"]), list(group["of"])) for group in content.get("groups", ())]
    by_table: dict[str, list[tuple[Written, list[str]]]] = {}
    for written, old in groups:
        # One that was damaged while it waited is forgotten: what it was joined from is there.
        if as_written(_staged(store, source_id, written.path), written):
            by_table.setdefault(written.path.split("/")[0], []).append((written, old))
    for table, ready in by_table.items():
        if not _exchanged(store, source_id, table, ready):
            for written, old in ready:
                for name in old:
                    remove(joined(store.root, name))
                move(_staged(store, source_id, written.path), joined(store.root, written.path))
    vouched = {file.path: file for file in store.vouched_parts(source_id)}
    for written, old in groups:
        if exists(joined(store.root, written.path)):
            vouched = {name: file for name, file in vouched.items() if name not in old} | {written.path: written}
    rewrite_manifest(store, source_id, list(vouched.values()))
    remove_tree(_staged(store, source_id))
    journal.end(store.root, f"compact-{source_id}")


def _exchanged(store: Store, source_id: str, table: str, ready: Sequence[tuple[Written, list[str]]]) -> bool:
    """Swap a table's folder of a source for the staged one in one step; False where that cannot be done."""
    folder, staged = joined(store.root, f"{table}/{source_id}"), _staged(store, source_id, f"{table}/{source_id}")
    if isinstance(folder, Remote) or isinstance(staged, Remote):
        return False
    gone = {name.rsplit("/", 1)[1] for _, old in ready for name in old}
    joined_names = {written.path.rsplit("/", 1)[1] for written, _ in ready}
    there = {file.path.name for file in listed(folder)}
    if joined_names <= there:
        return True  # they have traded places already: what is staged are the old parts' neighbours
    for name in there - gone:
        try:
            os.link(folder / name, staged / name)
        except FileExistsError:
            continue
        except OSError:  # a disk without links: these are copied
            with replaced_file(staged / name) as temporary:
                shutil.copyfile(folder / name, temporary)
    for file in listed(staged):
        if file.path.name not in joined_names | (there - gone):
            remove(file.path)
    sync_folder(staged)
    return exchange(staged, folder)


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


# ------------------------------------------------------------------------------------------------------------ deleting


def delete_track(store: Store, source_id: str, track_id: int) -> tuple[dict[str, int], list[str]]:
    """Remove one person's track from everything that the store holds, detections and embeddings too, for good.

    What is to be deleted is written down first, so a command that is killed has deleted it as soon as any other is run; and
    where the person is in the frames is kept (`pipeline.store.deleted`), so that inverting the source again does not find them.

    Returns:
        rows removed from each table; edited files that the store knows of and that still show the track.

    Raises:
        StoreError: the source has no such track.
    """
    tracks = store.read("tracks", source_id)
    mine = tracks.filter(pc.equal(tracks["track_id"], track_id))
    if mine.num_rows == 0:
        there = sorted(set(tracks["track_id"].to_pylist()))
        deleted = ", and it was deleted before" if track_id in deleted_of(store, source_id).tracks else ""
        raise StoreError(f"{store.root}: {source_id} has no track {track_id}{deleted}; it has {there or 'none'}")
    record = f"delete-{source_id}-{track_id}"
    content = {"seen": detections(mine), "made": renders_of(store, source_id)}
    journal.begin(store.root, record, content)
    return _delete(store, record, content)


def drop_members(store: Store, pack_id: str, source_ids: Collection[str]) -> None:
    """Remove all rows of some pictures from a pack, and from what renders vouch for, because newer ones take their place.

    Once begun it is finished, by this command or the next. A part that nobody can read is put aside, and what can be read of it
    stays: pictures whose rows are lost go, too, so that they are made again.
    """
    record = f"drop-{pack_id}"
    journal.begin(store.root, record, {"members": sorted(source_ids)})
    changed: dict[str, Written | None] = {}
    try:
        for table in (*JOINED_TABLES, "sources", "failures"):
            changed |= _without_rows(store, pack_id, table, source_ids)
    except _Hit as hit:
        drop_members(store, pack_id, {*source_ids, *hit.source_ids})
        return
    revouch(store, pack_id, changed, "invert", source_ids)
    _forget_renders(store, source_ids)
    journal.end(store.root, record)


class _Hit(Exception):
    """Damage has cost more pictures their rows than are to go."""

    def __init__(self, source_ids: set[str]) -> None:
        super().__init__(source_ids)
        self.source_ids = source_ids


def drop_rows(store: Store, pack_id: str, table: str, source_ids: Collection[str], part: str | None = None) -> None:
    """Remove the rows of some pictures from one table of a pack, or from one part of it."""
    _revouch_all(store, pack_id, _without_rows(store, pack_id, table, source_ids, part))


def drop_files(store: Store, pack_id: str, paths: Collection[str], part: str) -> None:
    """Remove what one part of a pack's table `quality` says of edited files that were made anew."""
    gone = pa.array(sorted(paths), pa.string())
    changed = _filtered(store, pack_id, "quality", lambda rows: pc.invert(pc.is_in(rows["path"], gone)), part)
    _revouch_all(store, pack_id, changed)


def _without_rows(
    store: Store, pack_id: str, table: str, source_ids: Collection[str], part: str | None = None
) -> dict[str, Written | None]:
    """Parts of a pack's table that were written anew => what they are now, None where nothing is left."""
    gone = pa.array(sorted(source_ids), pa.string())

    def kept(rows: pa.Table) -> pa.Array:
        return pc.invert(pc.is_in(rows["source_id"], gone))

    return _filtered(store, pack_id, table, kept, part, source_ids)


def _filtered(
    store: Store,
    pack_id: str,
    table: str,
    kept: Callable[[pa.Table], Any],
    only: str | None = None,
    going: Collection[str] | None = None,
) -> dict[str, Written | None]:
    """As `_without_rows`. going: the pictures whose rows go, so that those of a damaged part stay that can be read.

    Raises _Hit for a damaged part with rows of others that cannot be read, before it is touched.
    """
    schema = store.schema(table)
    changed: dict[str, Written | None] = {}
    for file in listed(joined(store.root, f"{table}/{pack_id}"), ".parquet"):
        name = f"{table}/{pack_id}/{file.path.name}"
        if only is not None and file.path.stem != only:
            continue
        try:
            rows = read_rows(read_footer(file), schema.names, schema)
        except DamagedPart:
            rows = schema.empty_table()
            if going is not None and table in INVERTED_TABLES:
                rows, hit = readable_rows(file, schema, members_of(store.read_manifest("invert", pack_id)))
                if not hit <= set(going):
                    raise _Hit(hit) from None
            store.put_aside(name)
            changed[name] = None
        left = rows.filter(kept(rows))
        if len(left):
            # Also where nothing goes: who was killed has written it, and its manifest does not know.
            changed[name] = store.write_part(table, pack_id, file.path.stem, left, group_rows=group_rows(left))
        else:
            remove(file.path)
            changed[name] = None
    if not listed(joined(store.root, f"{table}/{pack_id}")):
        remove_tree(joined(store.root, f"{table}/{pack_id}"))
    return changed


def revouch(
    store: Store, pack_id: str, changed: Mapping[str, Written | None], stage: str, without: Collection[str] = ()
) -> None:
    """The manifest of a pack for other files and fewer pictures; no manifest where nothing is left."""
    content = store.read_manifest(stage, pack_id)
    if content is None:
        return
    files = [changed.get(file.path, file) for file in store.vouched_parts(pack_id, stage)]
    left = [file for file in files if file is not None]
    members = {one: said for one, said in members_of(content).items() if one not in without}
    if members or left:
        store.write_manifest(stage, pack_id, content | {"members": members}, left)
    else:
        store.remove_manifest(stage, pack_id)


def _forget_renders(store: Store, source_ids: Collection[str]) -> None:
    """Remove the results of renders of some pictures in packs from their manifests."""
    for stage in folders(store.root / "manifests"):
        if stage.startswith("render-"):
            there = store.packs_of(stage)
            for pack_id in {there[one] for one in source_ids if one in there}:
                revouch(store, pack_id, {}, stage, source_ids)


def _delete(store: Store, record: str, content: Mapping[str, Any] | None) -> tuple[dict[str, int], list[str]]:
    """The deletion of that name. Whatever was done of it already stays done."""
    _, source_id, number = record.split("-")
    track_id = int(number)
    if is_pack(store.holder_of(source_id)):
        return _delete_from_packs(store, record, source_id, track_id, content)
    if content is None:  # the journal was damaged: its name says whom, and the track itself says where, if it is there
        tracks = store.read("tracks", source_id)
        mine = tracks.filter(pc.equal(tracks["track_id"], track_id))
        content = {"seen": detections(mine), "made": renders_of(store, source_id)}
    remember(store, source_id, track_id, content["seen"])
    # Plans and strips show the person; entries speak of parts as they were; what is damaged cannot be looked through.
    for kind in ("ledger", "work", ".damaged"):
        for stage in folders(store.root / kind):
            remove_tree(joined(store.root, f"{kind}/{stage}/{source_id}"))
    vouched = {file.path: file for file in store.vouched_parts(source_id)}
    removed: dict[str, int] = {}
    places = deleted_from({number: content["seen"]})
    # The codes go first: whatever happens then, nobody renders this person any more.
    for table in ("latents", "residuals", "quality", "edits", "faces", "failures", "tracks"):
        schema = store.schema(table)
        for file in listed(joined(store.root, f"{table}/{source_id}"), ".parquet"):
            try:
                rows = read_rows(read_footer(file), schema.names, schema)
            except DamagedPart:
                remove(file.path)  # with whoever is in it; the next inversion makes it again, without the person
                continue
            if table == "faces":
                found = zip(rows["pts"].to_pylist(), array_from_column(rows, "box"), strict=True)
                keep = np.array([not places.covers(pts, box_4) for pts, box_4 in found], bool)
            else:
                keep = rows["track_id"].to_numpy() != track_id
            shows = table == "quality" and any(rows[name].null_count < len(rows) for name in PICTURES)
            if shows:
                rows = without_pictures(rows, set(content["seen"]["pts"]))
            name = f"{table}/{source_id}/{file.path.name}"
            # One that a killed deletion has rewritten is vouched for as it was before.
            if keep.all() and not shows and (name not in vouched or as_written(file.path, vouched[name])):
                continue
            removed[table] = removed.get(table, 0) + int((~keep).sum())
            written = store.write_part(table, source_id, file.path.stem, rows.filter(pa.array(keep)))
            if name in vouched:
                vouched[name] = written
    for written in _recount(store, source_id, vouched):
        if written.path in vouched:
            vouched[written.path] = written
    for stage in folders(store.root / "manifests"):
        if stage.startswith("render-"):
            store.remove_manifest(stage, source_id)
    rewrite_manifest(store, source_id, list(vouched.values()), without=track_id)
    journal.end(store.root, record)
    return {table: count for table, count in removed.items() if count}, list(content["made"])


def _delete_from_packs(
    store: Store, record: str, source_id: str, track_id: int, content: Mapping[str, Any] | None
) -> tuple[dict[str, int], list[str]]:
    """`_delete` of a picture that lies in packs with others, whose rows stay."""
    if content is None:
        tracks = store.read("tracks", source_id)
        mine = tracks.filter(pc.equal(tracks["track_id"], track_id))
        content = {"seen": detections(mine), "made": renders_of(store, source_id)}
    remember(store, source_id, track_id, content["seen"])
    places = deleted_from({str(track_id): content["seen"]})
    # What waits to be joined shows the person, or may.
    for kind in ("ledger", "work"):
        remove_tree(joined(store.root, f"{kind}/pictures"))
    remove_tree(joined(store.root, "work/sheet"))
    remove_tree(joined(store.root, ".damaged"))
    removed: dict[str, int] = {}

    def kept(rows: pa.Table) -> pa.Array:
        other = [one != source_id for one in rows["source_id"].to_pylist()]
        if "box" in rows.column_names and "face" in rows.column_names:
            found = zip(other, rows["pts"].to_pylist(), array_from_column(rows, "box"), strict=True)
            stays = [not_mine or not places.covers(pts, box_4) for not_mine, pts, box_4 in found]
        else:
            stays = [a or track != track_id for a, track in zip(other, rows["track_id"].to_pylist(), strict=True)]
        removed[table] = removed.get(table, 0) + stays.count(False)
        return pa.array(stays)

    for table in ("latents", "residuals", "quality", "edits", "faces", "failures", "tracks"):
        for holder in store.holders(table):
            if is_pack(holder) and source_id in store.members(holder, table):
                _revouch_all(store, holder, _filtered(store, holder, table, kept))
    pack_id = store.holder_of(source_id)
    faces = store.read("faces", source_id, columns=["face"]).num_rows
    schema = store.schema("frames")
    for part in store.parts("frames", pack_id):
        rows = read_rows(part, schema.names, schema)
        ids = rows["source_id"].to_pylist()
        counts = [faces if one == source_id else count for one, count in zip(ids, rows["face_count"].to_pylist(), strict=True)]
        at = schema.names.index("face_count")
        rows = rows.set_column(at, schema.field(at), pa.array(counts, pa.int32()))
        name = f"frames/{pack_id}/{part.path.name}"
        _revouch_all(store, pack_id, {name: store.write_part("frames", pack_id, part.name, rows, group_rows=group_rows(rows))})
    _forget_renders(store, [source_id])
    journal.end(store.root, record)
    return {table: count for table, count in removed.items() if count}, list(content["made"])


def _revouch_all(store: Store, pack_id: str, changed: Mapping[str, Written | None]) -> None:
    for stage in folders(store.root / "manifests"):
        if store.has_manifest(stage, pack_id):
            revouch(store, pack_id, changed, stage)


def _recount(store: Store, source_id: str, vouched: Mapping[str, Written]) -> Iterator[Written]:
    """`face_count` of every frame whose faces are fewer now; => parts written anew."""
    schema = store.schema("frames")
    try:
        counted = Counter(store.read("faces", source_id, columns=["pts"])["pts"].to_pylist())
        for part in store.parts("frames", source_id):
            rows = read_rows(part, schema.names, schema)
            counts = pa.array([counted[pts] for pts in rows["pts"].to_pylist()], pa.int32())
            file = vouched.get(f"frames/{source_id}/{part.path.name}")
            rewritten = file is not None and not as_written(part.path, file)
            if rewritten or not rows["face_count"].combine_chunks().equals(counts):
                at = schema.names.index("face_count")
                yield store.write_part("frames", source_id, part.name, rows.set_column(at, schema.field(at), counts))
    except DamagedPart:
        return  # whoever makes the part again counts anew


def without_pictures(rows: pa.Table, pts: Collection[int]) -> pa.Table:
    """Rows of `quality` without pictures at those pts: a picture of one face may show another beside it."""
    shown_N = np.array([at in pts for at in rows["pts"].to_pylist()], bool)
    for name in PICTURES:
        kept = [None if gone else one for one, gone in zip(rows[name].to_pylist(), shown_N, strict=True)]
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at), pa.array(kept, pa.binary()))
    return rows


def renders_of(store: Store, source_id: str) -> list[str]:
    """The files that renders of a source made, and the reports beside them, which show its worst frames."""
    stages = [stage for stage in folders(store.root / "manifests") if stage.startswith("render-")]
    made: list[str] = []
    for stage in stages:
        content = store.read_manifest(stage, store.holder_of(source_id, stage)) or {}
        outputs = content.get("outputs", [])
        mine = members_of(content).get(source_id)
        made += [one["path"] for one in (outputs if mine is None else [outputs[at] for at in mine])]
    beside = [place(path).with_name(name) for path in made for name in (REPORT, f"{place(path).stem}.{REPORT}")]
    reports = dict.fromkeys(str(path) for path in [*beside, joined(store.root, REPORT)] if exists(path))
    return [*made, *reports]


def rewrite_manifest(store: Store, source_id: str, files: list[Written], *, without: int | None = None) -> None:
    """The same manifest of an inversion for other files. Renders depend on which tracks are gone."""
    content: dict[str, Any] | None = store.read_manifest("invert", source_id)
    if content is None:
        return
    if without is not None and without not in content.get("deleted_tracks", []):
        content["deleted_tracks"] = sorted({*content.get("deleted_tracks", []), without})
        content["after"] = digest(content.get("after", ""), "deleted", without)
    store.write_manifest("invert", source_id, content, files)


# ------------------------------------------------------------------------------------------------------ other places


def relink(store: Store, files: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Find the files of sources where they are now, by their bytes.

    `files`: local paths of files. Returns what was changed, as (old place, new place), and a sentence for each file that is of
    no source of this store. What is vouched for stays vouched for.
    """
    moved: list[tuple[str, str]] = []
    unknown: list[str] = []
    known = set(store.stored_source_ids())
    for given in files:
        path = Path(given).absolute()
        try:
            source_id = source_id_from_sha256(source_digest(path))
        except OSError as error:
            unknown.append(f"{given}: it cannot be read ({error.strerror})")
            continue
        if source_id not in known:
            unknown.append(f"{given}: no source of {store.root} has these bytes; invert it")
            continue
        old = move_source(store, source_id, str(path))
        if old != str(path):
            moved.append((old, str(path)))
    return moved, unknown


def move_source(store: Store, source_id: str, uri: str) -> str:
    """Write down where the file of a source is now; return where it was. Raises DamagedPart where the row cannot be read."""
    holder = store.holder_of(source_id)
    store.require_sound(holder, ["sources"])
    old: str = store.read("sources", source_id)["uri"][0].as_py()
    if old == uri:
        return old
    at, schema = store.schema("sources").names.index("uri"), store.schema("sources")
    vouched = {file.path: file for file in store.vouched_parts(holder)}
    for part in store.parts("sources", holder):
        rows = read_rows(part, schema.names, schema)
        named = zip(rows["source_id"].to_pylist(), rows["uri"].to_pylist(), strict=True)
        together = rows.set_column(at, schema.field("uri"), pa.array([uri if one == source_id else had for one, had in named]))
        written = store.write_part("sources", holder, part.name, together, group_rows=group_rows(rows))
        if written.path in vouched:
            vouched |= {written.path: written}
            rewrite_manifest(store, holder, list(vouched.values()))
    return old


def is_writable(root: Place) -> bool:
    """Whether files can be written into a store; of one in a cloud nobody knows before it is tried."""
    if not isinstance(root, Path):
        return True
    try:
        with tempfile.TemporaryFile(dir=root):
            return True
    except OSError:
        return False


def lay_over(root: Path, folder: Path) -> None:
    """Make `folder` a store that reads the rows of the read-only one at `root` and takes what a render writes itself.

    Tables that a render reads are links; those that it writes to have folders of their own. May be called again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for entry in root.iterdir():
        if entry.name.startswith(".") or entry.name in ("ledger", "work", "edits", "segments", "quality"):
            continue
        if entry.name in ("manifests", "failures"):
            for below in entry.iterdir():
                if below.name.startswith("render-"):
                    continue
                _link(below, folder / entry.name / below.name, deep=entry.name == "failures")
        else:
            _link(entry, folder / entry.name, deep=False)


def _link(target: Path, link: Path, *, deep: bool) -> None:
    """A link to a file or folder; `deep`: a folder of links to the files in it."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if deep and target.is_dir():
        for entry in target.iterdir():
            _link(entry, link / entry.name, deep=True)
    elif not link.exists():
        link.symlink_to(target)


# ----------------------------------------------------------------------------------------------------------- exporting


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
    chosen = store.holders(table) if source_ids is None else list(dict.fromkeys(map(store.holder_of, source_ids)))
    wanted = None if source_ids is None else set(source_ids)
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
                    if wanted is not None and is_pack(source_id):
                        rows = rows.filter(pc.is_in(rows["source_id"], pa.array(sorted(wanted), pa.string())))
                    writer.write_table(rows.replace_schema_metadata(schema.metadata))
                    count += rows.num_rows
    return count, damaged
