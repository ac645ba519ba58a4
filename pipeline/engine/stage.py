"""Defines steps, stages and items as values, so that any runner can run them anywhere.

Step      frozen settings and one method, `open`, which loads models once per worker and returns item => Result
Stage     a step with its items and the resources of one worker; written in flow.py, beside the reason
Chunk     the item: a source and a range of its frames. Frames themselves never travel
Result    what came of an item: counts, seconds, files, lost frames
"""

from __future__ import annotations

import errno
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, ClassVar

from ops.video.probe import SourceInfo
from pipeline.store.parts import DamagedPart, Written
from schemas import Failure, source_id_of_unreadable

OUTPUT_EXISTS = "output_exists"
"""The reason of a failure that is none where the same command wrote the outputs."""
NO_SPACE = "no_space"
"""The reason of a failure that ends a run: every other item would fail of it too."""


@dataclass(frozen=True, eq=False)
class Source:
    """One input, probed."""

    source_id: str
    info: SourceInfo
    name: str = ""
    """Path of its results below the output folder, for instance `talks/a.mp4`; the file's own name if empty."""

    modified_ns: int | None = None
    """Time of the file's last change when it was probed, ns in its file system's own time; None where there is none."""

    @property
    def uri(self) -> str:
        return self.info.uri

    @property
    def kind(self) -> str:
        return self.info.kind

    @property
    def output_name(self) -> str:
        return self.name or PurePath(self.uri).name

    def whole(self) -> Chunk:
        """The item of a step that needs all (small) rows of a source at once."""
        return Chunk(self, 0, self.info.n_frames)

    def chunks(self, frames: int, start: int = 0, stop: int | None = None) -> list[Chunk]:
        """Items of at most `frames` frames, of all of the source or of a range of it."""
        end = self.info.n_frames if stop is None else stop
        return [Chunk(self, at, min(at + frames, end)) for at in range(start, end, frames)]


class Uncut:
    """What a `Chunk` says of its range, for items that are never cut. Abstract."""

    frames: ClassVar[int] = 1
    start: ClassVar[int] = 0
    stop: ClassVar[int] = 1
    key: ClassVar[str] = ""
    """Nobody keeps account of one item: `pipeline.engine.packs` does it for those that were done together."""
    pts_range: ClassVar[tuple[int, int]] = (0, 0)


@dataclass(frozen=True, eq=False)
class Picture(Uncut):
    """The item of an image set: one picture, which nobody needs to have opened yet.

    Its key is known beforehand where somebody has probed it, or where a store remembers a file of that place, length and time
    of change; else whoever reads its bytes finds it.
    """

    uri: str
    name: str
    """Path of its results below the output folder."""
    order: int = 0
    """Its place among the inputs of the run."""
    mark: int = 0
    """`pipeline.store.packs.mark_of` of its place, length and time of change; 0 where they are not known."""
    source_id: str = ""
    sha256: str = ""
    """Of the bytes that it must have; empty where any will do."""
    found: bool = False
    """Found in a folder or by a pattern, so that nobody has asked for this file by name."""

    @property
    def output_name(self) -> str:
        return self.name or PurePath(self.uri).name

    @property
    def known_as(self) -> str:
        """Its key, or what stands for it in `failures` while nobody has read it."""
        return self.source_id or source_id_of_unreadable(self.uri)

    @property
    def kind(self) -> str:
        return "image"

    def __str__(self) -> str:
        return PurePath(self.uri).name


@dataclass(frozen=True, eq=False)
class Joining(Uncut):
    """The item of the step that makes a pack of what was done together: the entries that say what that is."""

    pack_id: str
    entries: tuple[str, ...]
    """Names below `STORE/ledger/pictures`, in the order of the inputs."""
    rendering: str = ""
    """Name of the manifest for what was rendered; empty where nothing was."""
    recipe_id: str = ""
    failures: tuple[Failure, ...] = ()
    """Of pictures that no worker could write down itself."""
    done_inverting: frozenset[str] = frozenset()
    """Keys of pictures whose rows another pack has: of two inputs of the same bytes one counts."""

    @property
    def known_as(self) -> str:
        return self.pack_id

    @property
    def uri(self) -> str:
        return f"{len(self.entries)} groups of pictures"

    def __str__(self) -> str:
        return self.pack_id


@dataclass(frozen=True, eq=False)
class Chunk:
    """Frames [start, stop) of a source, by local ordinal; what is written down is always pts."""

    source: Source
    start: int
    stop: int
    key: str = ""
    """Digest of all that decides what comes of it; empty where nobody keeps account."""

    @property
    def frames(self) -> int:
        return self.stop - self.start

    @property
    def known_as(self) -> str:
        return self.source.source_id

    @property
    def uri(self) -> str:
        return self.source.uri

    @property
    def pts_range(self) -> tuple[int, int]:
        """First and last pts, both included."""
        pts = self.source.info.pts
        return int(pts[self.start]), int(pts[self.stop - 1])

    def __str__(self) -> str:
        return f"{PurePath(self.source.uri).name}[{self.start}:{self.stop}]"


Item = Chunk | Picture | Joining


@dataclass(frozen=True)
class Result:
    """The outcome of one item that succeeded."""

    counts: Mapping[str, int] = field(default_factory=dict)
    """frames, faces, edits, ..."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds by part: decode, detect, crop, model, paste, encode, store."""
    failures: tuple[Failure, ...] = ()
    """Frames or tracks of it that were lost, while the item itself was done."""
    files: tuple[Written, ...] = ()
    """Files that it wrote into the store: `pipeline.engine.ledger` vouches for them."""
    outputs: tuple[Written, ...] = ()
    """Files that it wrote elsewhere, by whole paths: the edited file and what goes with it."""
    devices: tuple[str, ...] = ()
    """Kinds of device that a model of it ran on (`cpu`, `cuda`); empty for a step without one. Part of no key: results differ
    in their last bits between kinds."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What whoever gave out a picture or a pack has to know of it: JSON values, see `pipeline.engine.packs`."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """An item after a stage: a result, or the failure it ended in."""

    item: Item
    result: Result | None
    failure: Failure | None
    damaged: DamagedPart | None = None
    """The damaged files of the store that it failed of, if it did."""
    resumed: bool = False
    """Done by an earlier run."""


@dataclass(frozen=True)
class Batched:
    """A step whose items are computed together, so that crops of many small clips and images fill a batch.

    `load` reads what one item needs, while the items before it compute: rows, and for `invert` the decoded crops. `finish`
    computes and writes what was loaded; `render` decodes there, so that no more than a batch of frames is in memory. The two
    run in different threads, so they share nothing that cannot be shared.
    """

    load: Callable[[Any], Any]
    finish: Callable[[Sequence[Any]], Sequence[Result | Exception]]
    """An exception stands for an item that is lost and leaves the others as they are."""
    overlaps: bool = False
    """Several threads may call `finish` at once, each with items of its own: while the last frames of one are encoded, the
    next one's are generated."""

    def __call__(self, item: Any) -> Result:
        (result,) = self.finish([self.load(item)])
        if isinstance(result, Exception):
            raise result
        return result


class Step(ABC):
    """Abstract. Final classes are frozen dataclasses of settings; they pickle."""

    VERSION: ClassVar[int] = 1
    """Version of the algorithm. Raise it by hand with every change of the rows or pixels that the same settings give: what
    earlier versions did then counts as done with other settings. `tests/pipeline/steps/test_versions.py` reminds of it."""

    @abstractmethod
    def open(self) -> Callable[[Any], Result]:
        """Load what the step needs, once per worker, and return the function that does one item; `Batched` for several.

        The function writes its rows or files itself, atomically, and may be run again for the same item.
        """


@dataclass(frozen=True)
class Stage:
    """A step, its items, and what one worker of it needs. `num_gpus` may be a share of one."""

    name: str
    step: Step
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    frames: int = 64
    """An item holds at most so many, and so do items that are sent to a worker together."""
    whole: bool = False
    """An item is a whole source, whatever its length: the step needs all of its (small) rows."""
    decides: Mapping[str, Any] = field(default_factory=dict)
    """Settings that decide its results; JSON values."""
    writes: tuple[str, ...] = ()
    """Folders of the store that hold its files, each with a folder for every source."""
    seals: str | None = None
    """Name of the manifest that is written when a source leaves it: all until here is done, and is not done again."""
    by_name: bool = False
    """Its results lie under the source's name, so what is finished is so under that name only: two inputs of the same bytes
    are two results."""
    vital: bool = False
    """A source that loses an item of it goes no further."""
    overlaps: bool = False
    """A worker has several cores or an accelerator, so that the parts of its work go on side by side."""
    counted: tuple[str, ...] = ()
    """Counts of its results that go into the job's summary."""

    def seal_of(self, source: Source) -> str | None:
        """Name of the manifest that finishes a source."""
        if self.seals is None or not self.by_name:
            return self.seals
        return f"{self.seals}-{hashlib.sha256(source.output_name.encode()).hexdigest()[:8]}"

    @property
    def decided_by(self) -> dict[str, Any]:
        """All that decides its results, besides its source and the stages before it: settings, and the step's version."""
        return {**self.decides, "version": self.step.VERSION}

    def chunks(self, source: Source, key: str, done: Sequence[tuple[int, int]] = ()) -> list[Chunk]:
        """The items of a source but for those ranges that are done."""
        if self.whole:
            return [] if done else [Chunk(source, 0, source.info.n_frames, key)]
        return [
            Chunk(source, chunk.start, chunk.stop, key)
            for start, stop in gaps(done, source.info.n_frames)
            for chunk in source.chunks(self.frames, start, stop)
        ]


def gaps(done: Sequence[tuple[int, int]], stop: int) -> Iterator[tuple[int, int]]:
    """The ranges of [0, stop) that disjoint ranges leave out."""
    at = 0
    for first, last in sorted(done):
        if at < first:
            yield at, first
        at = max(at, last)
    if at < stop:
        yield at, stop


def failure_of(stage: str, item: Item, error: BaseException, attempts: int = 1) -> Failure:
    """The row that an item becomes when its step raises."""
    reason = NO_SPACE if is_full(error) else snake_case(type(error).__name__)
    return lost(stage, item, reason, str(error) or type(error).__name__, attempts)


def is_full(error: BaseException) -> bool:
    """Return whether the error says that a disk or quota has no room left."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def lost(stage: str, item: Item, reason: str, message: str, attempts: int = 1) -> Failure:
    first, last = item.pts_range
    return Failure(
        source_id=item.known_as,
        uri=item.uri,
        stage=stage,
        reason=reason,
        message=message,
        pts=first,
        last_pts=last,
        attempts=attempts,
    )


def snake_case(name: str) -> str:
    """MediaError => media_error: a short constant to group by."""
    parts = ["_" + c.lower() if c.isupper() and i and not name[i - 1].isupper() else c.lower() for i, c in enumerate(name)]
    return "".join(parts)
