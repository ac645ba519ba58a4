"""Records what is done of sources that are not finished: one entry for each item, written by rename after its data.

    STORE/ledger/<stage>/<source_id>/<start>-<stop>.json

An entry holds the item's key, a digest of everything that decides its result: the source's bytes, the settings of its stage
and of those before it, the model's weights, the schema's version. A run that finds an entry with the key it would have written,
and its files as they were written, takes the item for done. Any other file in the stage's folders of that source comes from
another run, or from a worker that was killed between its data and its entry, and is removed before anything is written: so no
row can stand there twice, whatever the length of chunks was. When a source is finished, its manifest takes the entries' place.

Nothing here looks at a clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, final

import schemas
from ops.files.atomic import PUBLISHING
from pipeline.engine.stage import Chunk, Outcome, Result, Source, Stage, gaps
from pipeline.store import upkeep
from pipeline.store.lock import Fence
from pipeline.store.packs import is_pack, members_of
from pipeline.store.parts import DamagedPart, Written, as_written, range_of
from pipeline.store.places import (
    Place,
    Remote,
    exists,
    folders,
    joined,
    listed,
    place,
    remove,
    remove_all,
    remove_tree,
    size_of,
    write_text,
)
from pipeline.store.records import BrokenRecord, digest, read_record, write_record
from pipeline.store.tables import Store
from schemas import Failure

PROBE = "probe"
"""The stage of failures of an input before its first item."""

BEGUN = "ledger/begun"
"""Folder with one folder for each render of pictures: places of files that it may have begun to write."""
MOST_FAILURES = 1000
"""Failures of a source that a manifest repeats, at most; the table `failures` has them all."""


def merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that touch: how frames were cut into chunks decides nothing."""
    result: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(stop, result[-1][1]))
        else:
            result.append((start, stop))
    return result


def _part_of(uri: str) -> str:
    """Return the number of an input's part of `failures`: two inputs of the same bytes are one source, with failures apart."""
    return schemas.source_id_of_unreadable(uri)


def key_of(stage: Stage, source: Source, upstream: str) -> str:
    """Return the digest of all that an item of this stage depends on; `upstream` comes from the stage before (`after`)."""
    return digest(schemas.SCHEMA_VERSION, stage.name, stage.decided_by, source.info.sha256, upstream)


def after(key: str, covered: Sequence[tuple[int, int]]) -> str:
    """Return the digest that the next stage depends on: this key, and which frames there are (a lost chunk leaves a gap)."""
    return digest(key, merged(covered))


def _is_of(folder: str, stages: Sequence[Stage]) -> bool:
    """Return whether a folder of the ledger belongs to these stages, for any name of a source."""
    return any(
        folder in (stage.name, stage.seals) or (stage.by_name and folder.startswith(f"{stage.seals}-")) for stage in stages
    )


@dataclass(frozen=True)
class Seal:
    """A manifest's content: what finished a source, and what it lost on the way."""

    key: str
    uri: str
    decides: Mapping[str, Any]
    """Settings of every stage until here, by name; to be read by people, and to report what has changed."""
    failures: tuple[Failure, ...] = ()
    failed: bool = False
    """An item was lost, so the same command tries again."""
    outputs: tuple[Written, ...] = ()
    """Files outside the store that it vouches for."""
    after: str = ""
    """The digest that the stages after it depend on."""
    devices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Stage => kinds of device that its models ran on; to be read by people."""


@final
class Ledger:
    """Entries and manifests of one store. Picklable: workers write the entries, the driver reads them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        holds = PUBLISHING.get()
        self.fence = holds if isinstance(holds, Fence) else None
        """The fence of the run that holds the store; None if no run does."""

    # ------------------------------------------------------------------------------------------------------- items

    def record(self, stage: str, item: Chunk, result: Result) -> None:
        """Write an item's entry, after its files are there."""
        if not item.key:
            return
        content = {
            "key": item.key,
            "start": item.start,
            "stop": item.stop,
            "counts": dict(result.counts),
            "failures": [asdict(one) for one in result.failures],
            "files": [asdict(one) for one in result.files],
            "outputs": [asdict(one) for one in result.outputs],
            "devices": list(result.devices),
        }
        write_record(self._entry_path(stage, item), content)

    def _entry_path(self, stage: str, item: Chunk) -> Place:
        return self._folder(stage, item.source.source_id) / f"{item.start:09d}-{item.stop:09d}.json"

    def resume(self, stage: Stage, source: Source, key: str, sealed_by: str | None = None) -> list[Outcome]:
        """Return the items of this stage that are done already; remove its other files, so that the rest can be done.

        sealed_by: the name of a manifest of the same key: all of the stage was done once, and only damaged parts are missing.
        """
        found: list[Outcome] = []
        for file in listed(self._folder(stage.name, source.source_id), ".json"):
            outcome = self._entry(file.path, source, key)
            if outcome is None:
                remove(file.path)
            else:
                found.append(outcome)
        if not found and sealed_by is not None:
            found = self._undamaged(stage, source, key, sealed_by)
            for outcome in found:
                assert outcome.result is not None and isinstance(outcome.item, Chunk)
                self.record(stage.name, outcome.item, outcome.result)
        kept = {file.path for outcome in found if outcome.result is not None for file in outcome.result.files}
        for name in stage.writes:
            for file in listed(joined(self.store.root, f"{name}/{source.source_id}")):
                if f"{name}/{source.source_id}/{file.path.name}" not in kept:
                    remove(file.path)
        return found

    def _undamaged(self, stage: Stage, source: Source, key: str, manifest: str) -> list[Outcome]:
        """Return the ranges of a finished stage whose files are all there, as they were written."""
        files, damaged = [], []
        for file in self.store.vouched_parts(source.source_id, manifest):
            table, _, name = file.path.split("/")
            sound = as_written(joined(self.store.root, file.path), file)
            if table == "failures" and name.startswith(f"{stage.name}-") and not sound:
                return []  # it is not known which frames were lost
            span = range_of(name.removesuffix(".parquet"))
            if table not in stage.writes or span is None:
                continue
            start, stop = span
            if sound:
                files.append((start, stop, file))
            else:
                damaged.append((start, stop))
        if stage.whole and damaged:
            return []
        try:
            rows = [Failure(**row) for row in self.store.failures(source.source_id).to_pylist() if row["stage"] == stage.name]
        except DamagedPart:
            return []
        found = []
        devices = tuple((self.store.read_manifest(manifest, source.source_id) or {}).get("devices", {}).get(stage.name, ()))
        for start, stop in gaps(damaged, source.info.n_frames):
            item = Chunk(source, start, stop, key)
            first, last = item.pts_range
            inside = tuple(file for a, b, file in files if start <= a and b <= stop)
            failures = tuple(row for row in rows if row.pts is not None and first <= row.pts <= last)
            found.append(Outcome(item, Result({}, {}, failures, inside, devices=devices), None, resumed=True))
        return found

    def _entry(self, path: Place, source: Source, key: str) -> Outcome | None:
        """Read an entry; None for one of another key, a torn one, and one whose files are not there as they were written."""
        try:
            content = read_record(path)
            files = tuple(Written(**one) for one in content["files"])
            outputs = tuple(Written(**one) for one in content["outputs"])
            failures = tuple(Failure(**one) for one in content["failures"])
            item = Chunk(source, content["start"], content["stop"], content["key"])
            devices = tuple(content.get("devices", ()))
        except (BrokenRecord, KeyError, TypeError, FileNotFoundError):
            return None
        if item.key != key:
            return None
        there = [joined(self.store.root, file.path) for file in files] + [place(file.path) for file in outputs]
        if not all(as_written(one, file) for one, file in zip(there, (*files, *outputs), strict=True)):
            return None
        return Outcome(item, Result(content["counts"], {}, failures, files, outputs, devices), None, resumed=True)

    def put_aside(self, stages: Sequence[Stage], source_id: str, places: Iterable[Place]) -> list[Place]:
        """Take away those files of a source that differ from what these stages or an inversion wrote; => these files.

        The stages that make them find them missing then. No item of the source may be in work.
        """
        vouched = {file.path: file for file in self.store.vouched_parts(source_id)}
        for stage in stages:
            for item in listed(self._folder(stage.name, source_id), ".json"):
                with suppress(BrokenRecord, KeyError, TypeError):  # a torn entry vouches for nothing
                    vouched |= {one["path"]: Written(**one) for one in read_record(item.path)["files"]}
        gone = []
        for path in places:
            name = str(path).removeprefix(f"{self.store.root}/")
            try:
                if self.store.damage_of(name, [vouched[name]] if name in vouched else []) is not None:
                    self.store.put_aside(name)
                    gone.append(path)
            except OSError:
                continue  # a place that cannot be reached now says nothing about the file
        return gone

    # ------------------------------------------------------------------------------------------------------ losses

    def lose(self, stage: str, source_id: str, failures: Sequence[Failure], *, before: bool = True) -> list[Written]:
        """Write a stage's rows of `failures` of a source, in place of those that it wrote before; => their file.

        before: the stage may have written such rows before.
        """
        if before:
            self.store.clear_failures(stage, [source_id])
        return self.store.write_failures(stage, failures) if failures else []

    def refuse(self, failure: Failure) -> None:
        """Write the row of an input that cannot be read or must not be touched, in place of an earlier such row."""
        self.store.write_failures(failure.stage, [failure], part=_part_of(failure.uri))

    def refused(self) -> set[str]:
        """Return the keys of the sources that have rows of `failures`: `admit` is needed for no others."""
        return set(self.store.stored_source_ids("failures"))

    def admit(self, source: Source) -> None:
        """Remove an earlier run's refusals of an input whose source is begun, or finished already."""
        for source_id in (source.source_id, schemas.source_id_of_unreadable(source.uri)):
            for part in (_part_of(source.uri), 0):  # 0: earlier versions wrote it
                self.store.clear_failures(PROBE, [source_id], part=part)

    def put_damaged_aside(self, source_id: str) -> list[str]:
        """Take damaged files of a source away, so that the next invert or edit makes them again; => what was wrong."""
        damaged = self.store.verify(source_id)
        for name in damaged:
            kind, stage, _ = name.split("/")
            renders = kind == "manifests" and stage.startswith("render-")
            if renders and is_pack(source_id):
                self._give_up_renders(stage, source_id, name)
                continue
            if renders:  # the files that it vouched for are there, and stay that command's own
                self.begin(stage, source_id)
            self.store.put_aside(name)
        return list(damaged.values())

    def _give_up_renders(self, stage: str, pack_id: str, name: str) -> None:
        """Count pictures of a pack whose edited files are not as they were written as not rendered; the others stay."""
        content = self.store.read_manifest(stage, pack_id)
        if content is None:
            self.store.put_aside(name)
            return
        changed = self.store.changed_outputs(content)
        places = [content["outputs"][at]["path"] for at in changed]
        write_record(joined(self.store.root, f"{BEGUN}/{stage}/{pack_id}.json"), {"places": places})
        gone = {one for one, made in members_of(content).items() if not changed.isdisjoint(made)}
        upkeep.revouch(self.store, pack_id, {}, stage, gone)

    def makes(self, stages: Sequence[Stage], path: Place) -> bool:
        """Return whether a file of the store is one that these stages write."""
        folders = [f"{self.store.root}/{name}/" for stage in stages for name in stage.writes]
        return str(path).startswith(tuple(folders))

    def begin(self, name: str, source_id: str) -> None:
        """Record that from now on files at the places that this render writes may be its own."""
        write_text(self._folder(name, source_id) / "begun.json", "{}")

    def owns(self, name: str, source_id: str) -> bool:
        """Return whether a render of this name, finished or killed, may have written the outputs that are there."""
        return exists(self._folder(name, source_id) / "begun.json") or self.store.has_manifest(name, source_id)

    def put_manifests_aside(self, stages: Sequence[Stage], source: Source) -> list[str]:
        """Take away damaged manifests; => messages of what was wrong. Their stages of this source are done again then."""
        said: list[str] = []
        for stage in stages:
            if (seal := stage.seal_of(source)) is not None:
                broken = self.store.broken_manifests(source.source_id, [seal])
                for name in broken:
                    if stage.vital:  # the outputs that it vouched for are there: they stay this command's own
                        self.begin(seal, source.source_id)
                    self.store.put_aside(name)
                said += broken.values()
        return said

    def forget(self, stages: Sequence[Stage], source: Source, outcomes: Sequence[tuple[Stage, Outcome]] = ()) -> None:
        """Remove entries whose place a manifest has taken, and files that were only needed until then.

        outcomes: of all items of these stages, if this run has seen them: then nothing is listed, which takes long in a bucket.
        """
        source_id, root = source.source_id, self.store.root
        if outcomes and isinstance(root, Remote) and root.access is not None:
            done = [(stage, outcome.item, outcome.result) for stage, outcome in outcomes if outcome.result is not None]
            work = [joined(root, file.path) for _, _, result in done for file in result.files if file.path.startswith("work/")]
            entries = [self._entry_path(stage.name, item) for stage, item, _ in done if isinstance(item, Chunk)]
            begun = [
                self._folder(name, source_id) / "begun.json" for one in stages if (name := one.seal_of(source)) is not None
            ]
            remove_all(work)
            remove_all([*entries, *begun])  # the last, as below
            return
        for stage in stages:
            # Entries last: as long as there are any, `left` knows of the rest.
            for name in stage.writes:
                if name.startswith("work/"):
                    remove_tree(joined(self.store.root, f"{name}/{source_id}"))
            for folder in (stage.name, stage.seal_of(source)):
                if folder is not None:
                    remove_tree(self._folder(folder, source_id))

    def left(self, stages: Sequence[Stage]) -> set[str]:
        """Return sources with entries of these stages: unfinished, or of a run that was killed before it forgot them."""
        begun = [name for name in folders(joined(self.store.root, "ledger")) if _is_of(name, stages)]
        return {source_id for name in begun for source_id in folders(joined(self.store.root, f"ledger/{name}"))}

    def _folder(self, stage: str, source_id: str) -> Place:
        return joined(self.store.root, f"ledger/{stage}/{source_id}")

    # ----------------------------------------------------------------------------------------------------- sources

    def seal(self, name: str, source: Source, seal: Seal, files: Sequence[Written]) -> None:
        content = asdict(seal) | {"failures": [asdict(one) for one in seal.failures[:MOST_FAILURES]]}
        self.store.write_manifest(name, source.source_id, content, files)

    def sealed(self, name: str, source_id: str) -> Seal | None:
        """Read a manifest; None if there is none, or one of an earlier version."""
        content = self.store.read_manifest(name, source_id)
        if content is None:
            return None
        try:
            return Seal(
                content["key"],
                content["uri"],
                content["decides"],
                tuple(Failure(**one) for one in content["failures"]),
                content["failed"],
                tuple(Written(**one) for one in content["outputs"]),
                content["after"],
                content.get("devices", {}),
            )
        except (KeyError, TypeError):
            return None

    def intact(self, name: str, source_id: str, seal: Seal, *, tidy: bool) -> bool:
        """Return whether all that the manifest vouches for is there, as long as it was.

        tidy: put aside files beside it that nothing vouches for, as a worker of a run that was given up may have left them.
        """
        lacking, strangers = self.store.compared(source_id, name)
        if tidy and not lacking:
            for stranger in strangers:
                self.store.put_aside(stranger)
        return not lacking and all(size_of(place(file.path)) == file.size_bytes for file in seal.outputs)


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return `scan.detector.min_score was 0.5, is 0.6`, for each value that differs."""
    said = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            said += differences(old, new, f"{prefix}{name}.")
        elif json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
            said.append(f"{prefix}{name} was {old!r}, is {new!r}")
    return said
