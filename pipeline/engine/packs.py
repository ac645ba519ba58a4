"""Keeps where every picture of a run stands, and has those that are done stored in packs.

    STORE/ledger/pictures/<entry>.json   results of some dozen pictures that one worker did together (`steps/pictures.py`)
    STORE/ledger/begun/<render>/…        places of edited pictures that a run may have begun to write
    STORE/work/pictures/<entry>/         their rows, until a pack takes them over
    STORE/work/sheet/pictures/           strips of a job's contact sheet, until its end

A picture is one item: a worker reads it once and does all that is wanted of it. An entry vouches for pictures that a worker did
together; entries are joined to a pack when there are enough of them, and a manifest takes their place (`steps/join.py`). A run
that is killed leaves entries; the next one that wants the same of its pictures has them joined, whichever inputs it is given,
and removes the others. Where several packs would have one picture's rows, the older one gives them up before the newer gets
them.

Memory does not grow with the number of pictures but for some bytes each: `Known`.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, final

import numpy as np

from pipeline.engine.ledger import BEGUN, differences
from pipeline.engine.stage import OUTPUT_EXISTS, Joining, Outcome, Picture, Source, Stage
from pipeline.store import upkeep
from pipeline.store.packs import Numbers, is_pack, mark_of, members_of, number_of, pack_id_of
from pipeline.store.parts import DamagedPart, Written, as_written
from pipeline.store.places import Remote, folders, joined, listed, place, remove, remove_tree, size_of, sizes_below
from pipeline.store.records import BrokenRecord, digest, read_record
from pipeline.store.tables import Store
from schemas import PASSED_THROUGH, SCHEMA_VERSION, TABLES, Failure

PACK_PICTURES: Final = 2048
PACK_BYTES: Final = 512 << 20
"""A pack is closed when it has so many pictures, or bytes: the worker that joins it holds it in memory."""
ENTRIES: Final = "ledger/pictures"
STAGED: Final = "work/pictures"
STRIPS: Final = "work/sheet/pictures"
RENDERED: Final = ("edits", "quality")
"""Tables whose rows are a render's; a pack has one part of each, named after its recipe."""


@dataclass(frozen=True)
class Wanted:
    """Results that a run wants of every picture, by the settings that decide them."""

    inverting: str = ""
    """Digest of all that decides a picture's rows, but for its bytes; empty for a run that only renders."""
    rendering: str = ""
    """Name of the manifest of these renders; empty for a run that only inverts."""
    recipe_id: str = ""
    decides: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the inversion by stage; to be read by people, and to report what has changed."""
    overwrite: bool = False
    out: str = ""
    """Folder of the edited files."""


def packs_in(store: Store, stage: str) -> list[str]:
    """Return the packs that have a manifest of a stage."""
    names = (one.path.stem for one in listed(joined(store.root, f"manifests/{stage}"), ".json"))
    return [one for one in names if is_pack(one)]


def place_number(text: str) -> int:
    """Return 64 bits of a text's digest, never 0."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little") or 1


@final
class Known:
    """Index of a store's pictures, in some bytes each. The driver keeps it up to date, a worker reads it once."""

    def __init__(self, store: Store, wanted: Wanted) -> None:
        self.store, self.wanted = store, wanted
        self.packs: list[str] = []
        """Packs that have an inversion's manifest."""
        self.decides: list[Mapping[str, Any]] = []
        self._good: list[bool] = []
        """For each pack, whether it has the wanted settings and is whole."""
        self._same: list[bool] = []
        self.inverted, self.edited, self.rendered, self.own = Numbers(), Numbers(), Numbers(), Numbers()
        """Numbers of: inverted pictures; pictures with rows of this recipe; a picture with its file and that file's length;
        places of files that are this run's own."""
        self.alone = Numbers()
        """Sources with a folder of their own: clips, and pictures of earlier versions."""
        for file in listed(joined(store.root, "manifests/invert"), ".json"):
            if not is_pack(file.path.stem):
                self.alone.add(number_of(file.path.stem))
        self._made: dict[str, int] | None = None
        self.failed: dict[str, set[str]] = {}
        """Key of a picture => packs that have rows of its losses."""
        numbers: list[int] = []
        packs: list[int] = []
        marks: list[int] = []
        inverted = packs_in(store, "invert")
        there: dict[str, dict[str, int]] = (
            {table: sizes_below(joined(store.root, table)) for table in TABLES} if inverted else {}
        )
        for pack_id in inverted:
            content = store.read_manifest("invert", pack_id) or {}
            parts = [(part.path.partition("/"), part.size_bytes) for part in store.vouched_parts(pack_id)]
            whole = all(there[table].get(name) == size_bytes for (table, _, name), size_bytes in parts)
            same = content.get("key") == wanted.inverting or not wanted.inverting
            members = members_of(content)
            numbers += [number_of(one) for one in members]
            marks += [int(mark, 16) for mark in members.values()]
            packs += [len(self.packs)] * len(members)
            self.packs.append(pack_id)
            self.decides.append(content.get("decides", {}))
            self._same.append(same)
            self._good.append(whole and same)
            if whole and same:
                for one in members:
                    self.inverted.add(number_of(one))
        self._numbers, self._packs = sorted_pair(numbers, packs)
        self._marks, self._of_marks = sorted_pair(marks, numbers)
        self._look_at_renders()
        for holder in store.holders("failures"):
            if is_pack(holder):
                with suppress(DamagedPart):
                    rows = store.read("failures", holder, columns=["source_id", "reason"]).to_pylist()
                    for one in (row["source_id"] for row in rows if row["reason"] not in PASSED_THROUGH):
                        self.failed.setdefault(one, set()).add(holder)

    def _look_at_renders(self) -> None:
        store, wanted = self.store, self.wanted
        if not wanted.rendering:
            return
        for pack_id in packs_in(store, wanted.rendering):
            content = store.read_manifest(wanted.rendering, pack_id) or {}
            outputs = content.get("outputs", [])
            for one, places in members_of(content).items():
                for at in places:
                    self.add_render(one, outputs[at]["path"], outputs[at]["size_bytes"])
        for pack_id in store.holders("edits"):
            if is_pack(pack_id):
                for part, ids in zip(store.parts("edits", pack_id), store.ids("edits", pack_id), strict=True):
                    if part.name == wanted.recipe_id:
                        for one in np.unique(ids).tolist():
                            self.edited.add(number_of(one.decode()))
        self.look_at_begun()

    def look_at_begun(self) -> None:
        """Read the places that a run with these settings may have written before it was killed, or is writing now."""
        for file in listed(joined(self.store.root, f"{BEGUN}/{self.wanted.rendering}"), ".json"):
            with suppress(BrokenRecord, FileNotFoundError):
                for one in read_record(file.path)["places"]:
                    self.own.add(place_number(one))

    def add_render(self, source_id: str, path: str, size_bytes: int) -> None:
        self.rendered.add(place_number(f"{source_id} {size_bytes} {path}"))
        self.own.add(place_number(path))

    def owns(self, path: str) -> bool:
        """Return whether a run with these settings may have written that file."""
        return place_number(path) in self.own

    def own_places(self, paths: Sequence[str]) -> None:
        for one in paths:
            self.own.add(place_number(one))

    def is_rendered(self, source_id: str, path: str) -> bool:
        """Return whether these settings have made that file of the picture, and it is there, as long as it was."""
        size_bytes = self._size_of(path) if len(self.rendered) else None
        return size_bytes is not None and place_number(f"{source_id} {size_bytes} {path}") in self.rendered

    def _size_of(self, path: str) -> int | None:
        """Return the length of an edited file, or None. A bucket is listed once: asking for each is as slow as reading it."""
        where, folder = place(path), place(self.wanted.out) if self.wanted.out else None
        if not isinstance(where, Remote) or not isinstance(folder, Remote):
            return size_of(where)
        if self._made is None:
            self._made = sizes_below(folder)
        return self._made.get(where.key.removeprefix(f"{folder.key}/"))

    def is_inverted(self, source_id: str, sha256: str = "") -> bool:
        """Return whether a picture's rows are there, of the settings that are wanted."""
        number = number_of(source_id)
        if number in self.inverted or number not in self.alone:
            return number in self.inverted
        content = self.store.read_manifest("invert", source_id) or {}
        wanted = not self.wanted.inverting or content.get("key") == key_alone(self.wanted.decides, sha256)
        return wanted and not content.get("failed") and self.store.is_complete(source_id)

    def holds(self, source_id: str) -> list[str]:
        """Return the packs of earlier runs that have its rows, damaged or of other settings included."""
        number = np.uint64(number_of(source_id))
        span = slice(np.searchsorted(self._numbers, number, "left"), np.searchsorted(self._numbers, number, "right"))
        return [self.packs[at] for at in self._packs[span].tolist()]

    def other_settings(self, source_id: str) -> Mapping[str, Any] | None:
        """Return the settings of its rows if they differ from those that are wanted; None if it may be inverted."""
        if number_of(source_id) in self.alone:
            content = self.store.read_manifest("invert", source_id) or {}
            decides: Mapping[str, Any] = content.get("decides", {})
            return decides if content and not content.get("failed") and decides != self.wanted.decides else None
        held = [self.packs.index(one) for one in self.holds(source_id)]
        if not held or any(self._same[at] for at in held):
            return None
        return self.decides[held[0]]

    def of_mark(self, mark: int) -> str:
        """Return the key of the picture whose file had that mark; "" if none had."""
        if not mark or not len(self._marks):
            return ""
        at = int(np.searchsorted(self._marks, np.uint64(mark)))
        if at == len(self._marks) or int(self._marks[at]) != mark:
            return ""
        return f"{int(self._of_marks[at]):016x}"


def key_alone(decides: Mapping[str, Any], sha256: str) -> str:
    """Return the key under which an earlier version inverted a picture, which was a source of its own then."""
    key = upstream = ""
    for name, decided in decides.items():
        key = digest(SCHEMA_VERSION, name, decided, sha256, upstream)
        upstream = digest(key, [(0, 1)])
    return key


def sorted_pair(keys: Sequence[int], values: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys, uint64 [N] in ascending order, and the value of each."""
    keys_N, values_N = np.array(keys, np.uint64), np.array(values, np.uint64)
    order = np.argsort(keys_N, kind="stable")
    return keys_N[order], values_N[order]


def picture_of(source: Source) -> Picture:
    """Return a probed picture as an item."""
    modified_ns = source.modified_ns
    mark = 0 if modified_ns is None else mark_of(source.uri, source.info.size_bytes, modified_ns)
    return Picture(source.uri, source.output_name, 0, mark, source.source_id, source.info.sha256)


def other_settings(source: Source, store: Store, before: Mapping[str, Any], now: Mapping[str, Any]) -> Failure:
    """Return the failure of a source with rows of other settings: they are hours of work, and replaced only on request."""
    message = (
        f"{source.uri} is in {store.root} already, inverted with other settings ({'; '.join(differences(before, now))}); use "
        "--overwrite to invert it again, or another --store"
    )
    return Failure(source.source_id, source.uri, "probe", "other_settings", message)


@dataclass(eq=False)
class Strip:
    """A row of the job's contact sheet, and what it is chosen by."""

    source_id: str
    name: str
    path: str
    """Path relative to the store's folder."""
    worst: float
    """Difference of its worst reconstruction from the source, in levels."""


@dataclass
class Waiting:
    """An entry that waits to be joined."""

    first: int
    """Place of its first picture among the inputs."""
    pictures: int
    size_bytes: int
    group: tuple[str, str]
    """Its render and recipe: a pack holds one of each."""


@final
class Packs:
    """Moves pictures from their files to packs.

    pictures, joining: the stages.
    outputs_of: returns the places of a picture's edited files.
    ended: called with the strips of the rendered pictures when the last pack is stored.
    """

    def __init__(
        self,
        pictures: Stage,
        joining: Stage,
        store: Store,
        wanted: Wanted,
        outputs_of: Callable[[Picture], Sequence[str]] = lambda picture: (),
        sheet_rows: int = 0,
        ended: Callable[[Sequence[Strip]], None] = lambda strips: None,
    ) -> None:
        self.pictures, self.joining, self.store, self.wanted = pictures, joining, store, wanted
        self._outputs_of, self._sheet_rows, self._ended = outputs_of, sheet_rows, ended
        self.known: Known | None = None
        """None until there is a picture: most runs have only clips."""
        self.queue: deque[Picture] = deque()
        self._joins: deque[Joining] = deque()
        self._flying = 0
        self._order = 0
        self._entries: dict[str, Waiting] = {}
        self._failures: list[Failure] = []
        self._taken = Numbers()
        """Pictures whose rows a pack of this run has or gets: of two inputs of the same bytes one counts."""
        self._sample: list[Strip] = []
        self._worst: list[Strip] = []

    @property
    def stages(self) -> list[Stage]:
        return [self.pictures, self.joining]

    def refusal(self, source: Source, admit: Callable[[Source], Failure | None]) -> Failure | None:
        """Return why a probed picture would be refused, or None; changes nothing."""
        known = self.known or Known(self.store, self.wanted)
        if self._is_done(known, source.source_id, picture_of(source)):
            return None
        failure = admit(source)
        if failure is not None:
            owned = failure.reason == OUTPUT_EXISTS and all(known.owns(one) for one in self._outputs_of(picture_of(source)))
            return None if owned else failure
        if not self.wanted.inverting or self.wanted.overwrite or known.is_inverted(source.source_id, source.info.sha256):
            return None
        before = known.other_settings(source.source_id)
        return None if before is None else other_settings(source, self.store, before, self.wanted.decides)

    # ------------------------------------------------------------------------------------------------------ beginning

    def open(self) -> Known:
        """Read the store's index of pictures, after taking over or removing what a killed run has left."""
        if self.known is None:
            self._remove_orphans()
            self.known = Known(self.store, self.wanted)
            self._adopt()
        return self.known

    def _remove_orphans(self) -> None:
        """Remove parts of packs that a killed run had begun to write: their entries are there, and are joined again."""
        inverted = set(packs_in(self.store, "invert"))
        renders = [one for one in folders(self.store.root / "manifests") if one.startswith("render-")]
        rendered = {pack_id for one in renders for pack_id in packs_in(self.store, one)}
        for table in TABLES:
            vouched = rendered if table in RENDERED else inverted
            for holder in self.store.holders(table):
                if is_pack(holder) and holder not in vouched:
                    remove_tree(joined(self.store.root, f"{table}/{holder}"))

    def _adopt(self) -> None:
        """Have the entries of a killed run joined. A run that inverts removes those of other settings."""
        assert self.known is not None
        for file in listed(joined(self.store.root, ENTRIES), ".json"):
            entry, content = file.path.stem, None
            with suppress(BrokenRecord, FileNotFoundError):
                content = read_record(file.path)
            if content is not None and content["inverting"] and not self.wanted.inverting:
                continue
            if content is None or not self._is_whole(content):
                self._forget([entry], self.wanted.rendering)
                continue
            for one in content["members"]:
                self.known.inverted.add(number_of(one))
            if content["rendering"] == self.wanted.rendering:
                for one, made in content["rendered"].items():
                    for facts in made:
                        self.known.add_render(one, facts["path"], facts["size_bytes"])
                self._see_strips(content["strips"])
            size_bytes = sum(one["size_bytes"] for one in content["files"])
            group = (content["rendering"], content["recipe_id"])
            self._entries[entry] = Waiting(-1, len(content["pictures"]), size_bytes, group)

    def _is_whole(self, content: Mapping[str, Any]) -> bool:
        """Return whether an entry has the settings that are wanted, and its files are as they were written."""
        files = [(joined(self.store.root, one["path"]), Written(**one)) for one in content["files"]]
        return content["inverting"] in ("", self.wanted.inverting) and all(as_written(path, file) for path, file in files)

    # -------------------------------------------------------------------------------------------------------- pictures

    def add(self, picture: Picture) -> str | None:
        """Queue a picture; => its key if it is done already, else None."""
        known = self.open()
        source_id = picture.source_id or known.of_mark(picture.mark)
        if source_id and self._is_done(known, source_id, picture):
            return source_id
        self.queue.append(picture)
        return None

    def _is_done(self, known: Known, source_id: str, picture: Picture) -> bool:
        if self.wanted.inverting and not known.is_inverted(source_id, picture.sha256):
            return False
        return not self.wanted.rendering or all(known.is_rendered(source_id, one) for one in self._outputs_of(picture))

    def take(self, fits: Callable[[Stage], bool]) -> tuple[Stage, list[Any]] | None:
        """Return the next items for one worker."""
        if self._joins and fits(self.joining):
            self._flying += 1
            return self.joining, [self._joins.popleft()]
        if not self.queue or not fits(self.pictures):
            return None
        items = [self.queue.popleft() for _ in range(min(len(self.queue), self.pictures.frames))]
        self._flying += len(items)
        return self.pictures, items

    def give_back(self, stage: Stage, items: Sequence[Any]) -> None:
        (self._joins if stage is self.joining else self.queue).extendleft(reversed(items))
        self._flying -= len(items)

    def batches(self, can: Callable[[Stage], bool]) -> int:
        """Return how many workers the waiting items could keep busy."""
        pictures = -(-len(self.queue) // self.pictures.frames) if can(self.pictures) else 0
        return pictures + (len(self._joins) if can(self.joining) else 0)

    @property
    def busy(self) -> bool:
        return bool(self.queue or self._joins or self._flying)

    @property
    def pending(self) -> int:
        """Number of pictures without an outcome."""
        return len(self.queue) + self._flying

    def settle(self, outcome: Outcome) -> bool:
        """Take over an item's outcome; => whether it is a picture that an earlier run did."""
        self._flying -= 1
        if isinstance(outcome.item, Joining):
            if outcome.result is not None:
                self._seal(outcome.item, outcome.result.about, outcome.result.files)
            return False
        assert self.known is not None and isinstance(outcome.item, Picture)
        if outcome.result is None:
            assert outcome.failure is not None
            self._failures.append(outcome.failure)
            return False
        about = outcome.result.about
        if not about.get("entry"):
            self._failures += outcome.result.failures
            return bool(about.get("done"))
        waits = self._entries.setdefault(
            about["entry"], Waiting(outcome.item.order, 0, 0, (self.wanted.rendering, self.wanted.recipe_id))
        )
        waits.first = min(waits.first, outcome.item.order)
        waits.pictures += 1
        waits.size_bytes += sum(one.size_bytes for one in outcome.result.files)
        self._see_strips(about.get("strips", ()))
        return False

    def close_pack(self, *, last: bool = False) -> int:
        """Have waiting entries joined if they fill a pack, or nothing more will come; => the number of packs."""
        count = sum(one.pictures for one in self._entries.values()) + len(self._failures)
        size_bytes = sum(one.size_bytes for one in self._entries.values())
        if not count or not (last or count >= PACK_PICTURES or size_bytes >= PACK_BYTES):
            return 0
        waiting = sorted(self._entries.items(), key=lambda one: (one[1].group, one[1].first, one[0]))
        group = waiting[0][1].group if waiting else ("", "")
        chosen: list[str] = []
        pictures = taken_bytes = 0
        for entry, waits in waiting:
            full = pictures + waits.pictures > PACK_PICTURES or taken_bytes + waits.size_bytes > PACK_BYTES
            if chosen and (full or waits.group != group):
                break
            chosen.append(entry)
            pictures, taken_bytes = pictures + waits.pictures, taken_bytes + waits.size_bytes
        for entry in chosen:
            del self._entries[entry]
        failures, self._failures = self._failures[:PACK_PICTURES], self._failures[PACK_PICTURES:]
        names = [*chosen, *(f"{one.source_id} {one.uri} {one.message}" for one in failures)]
        given_up = self._make_way(chosen, failures, group[1])
        self._joins.append(Joining(pack_id_of(names), tuple(chosen), *group, tuple(failures), given_up))
        return 1 + (self.close_pack(last=True) if last else 0)

    def _make_way(self, entries: Sequence[str], failures: Sequence[Failure], recipe_id: str) -> frozenset[str]:
        """Remove from older packs the rows that these entries have anew; => pictures with rows in another pack of this run."""
        assert self.known is not None
        twice: set[str] = set()
        mine: set[str] = set()
        gone: list[tuple[str, str]] = []
        members: dict[str, set[str]] = {}
        edits: set[str] = set()
        made_anew: set[str] = set()
        touched = {one.source_id for one in failures}
        for entry in entries:
            content = read_record(joined(self.store.root, f"{ENTRIES}/{entry}.json"))
            touched |= {*content["members"], *content["known_as"]}
            for one in content["members"]:
                if not self._taken.add(number_of(one)):
                    twice |= {one} - mine
                    continue
                mine.add(one)
                for pack_id in self.known.holds(one):
                    members.setdefault(pack_id, set()).add(one)
                if number_of(one) in self.known.alone:
                    self.store.delete_source(one)
            if recipe_id == self.wanted.recipe_id:
                edits |= {one for one in content["edited"] if number_of(one) in self.known.edited}
                made_anew |= {file["path"] for made in content["rendered"].values() for file in made}
        for pack_id, ids in members.items():
            upkeep.drop_members(self.store, pack_id, ids)
        if edits:
            for pack_id in filter(is_pack, self.store.holders("edits")):
                upkeep.drop_rows(self.store, pack_id, "edits", edits, recipe_id)
            for pack_id in filter(is_pack, self.store.holders("quality")):
                upkeep.drop_files(self.store, pack_id, made_anew, recipe_id)
        for one in touched & self.known.failed.keys():
            gone += [(pack_id, one) for pack_id in self.known.failed.pop(one)]
        for pack_id in {pack_id for pack_id, _ in gone}:
            upkeep.drop_rows(self.store, pack_id, "failures", {one for at, one in gone if at == pack_id})
        return frozenset(twice)

    # ---------------------------------------------------------------------------------------------------------- sealing

    def _seal(self, item: Joining, about: Mapping[str, Any], files: Sequence[Written]) -> None:
        """Write the manifests of a pack, and remove the entries that it was made of."""
        assert self.known is not None
        members, rendered = about["members"], about["rendered"]
        common = {"failures": [], "failed": False, "after": "", "devices": about["devices"], "uri": item.uri}
        losses = [file for file in files if file.path.startswith("failures/")]
        of_render = [file for file in files if file.path.partition("/")[0] in RENDERED]
        mine = [file for file in files if file not in of_render and file not in losses]
        if members or losses:
            content = common | {
                "key": self.wanted.inverting,
                "decides": dict(self.wanted.decides),
                "outputs": [],
                "members": members,
            }
            self.store.write_manifest("invert", item.pack_id, content, mine + losses)
        if rendered:
            outputs: list[dict[str, Any]] = []
            places: dict[str, list[int]] = {}
            for source_id, made in rendered.items():
                places[source_id] = list(range(len(outputs), len(outputs) + len(made)))
                outputs += made
            content = common | {"key": item.rendering, "decides": {}, "outputs": outputs, "members": places}
            self.store.write_manifest(item.rendering, item.pack_id, content, of_render)
        for source_id in members:
            self.known.inverted.add(number_of(source_id))
        if item.rendering == self.wanted.rendering:
            for source_id, made in rendered.items():
                for one in made:
                    self.known.add_render(source_id, one["path"], one["size_bytes"])
            for source_id in about["edited"]:
                self.known.edited.add(number_of(source_id))
        for source_id in about["failed"]:
            self.known.failed.setdefault(source_id, set()).add(item.pack_id)
        self._forget(item.entries, item.rendering)

    def _forget(self, entries: Sequence[str], rendering: str) -> None:
        """Remove rows, and after them the entries that vouch for them."""
        for entry in entries:
            remove_tree(joined(self.store.root, f"{STAGED}/{entry}"))
            remove(joined(self.store.root, f"{BEGUN}/{rendering or 'none'}/{entry}.json"))
            remove(joined(self.store.root, f"{ENTRIES}/{entry}.json"))

    def _see_strips(self, strips: Sequence[Mapping[str, Any]]) -> None:
        """Keep a fair sample of the strips (keys are as good as random) and the worst."""
        found = [Strip(**one) for one in strips]
        self._sample = sorted([*self._sample, *found], key=lambda one: one.source_id)[: self._sheet_rows]
        self._worst = sorted([*self._worst, *found], key=lambda one: (-one.worst, one.source_id))[: self._sheet_rows]

    def end(self) -> None:
        """Clean up, and report the strips: all pictures are stored."""
        if self.known is None:
            return
        chosen = {one.source_id for one in self._sample}
        self._ended(
            [*self._sample, *islice((one for one in self._worst if one.source_id not in chosen), self._sheet_rows // 2)]
        )
        for folder in (STAGED, STRIPS, f"{BEGUN}/{self.wanted.rendering or 'none'}"):
            remove_tree(joined(self.store.root, folder))
        if not listed(joined(self.store.root, ENTRIES), ".json"):
            remove_tree(joined(self.store.root, ENTRIES))  # what killed workers had begun to write
