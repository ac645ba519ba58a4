"""Defines steps, stages and items as values, so that any runner can run them anywhere.

Step      frozen settings and one method, `open`, which loads models once per worker and returns item => Result
Stage     a step with its items and the resources of one worker; written in flow.py, beside the reason
Chunk     the item: a source and a range of its frames. Frames themselves never travel
Result    the result of an item: counts, seconds, files, lost frames
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
"""The reason of a failure that does not count if the same command wrote the outputs."""
NO_SPACE = "no_space"
"""The reason of a failure that ends a run: every other item would fail for it too."""


@dataclass(frozen=True, eq=False)
class Source:
    """A probed input."""

    source_id: str
    info: SourceInfo
    name: str = ""
    """Path of its results below the output folder, for instance `talks/a.mp4`; the file's own name if empty."""

    modified_ns: int | None = None
    """Time of the file's last change when it was probed, ns in its file system's own time; None if it has none."""

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
        """Return the item of a step that needs all (small) rows of a source at once."""
        return Chunk(self, 0, self.info.n_frames)

    def chunks(self, frames: int, start: int = 0, stop: int | None = None) -> list[Chunk]:
        """Return items of at most `frames` frames, for the whole source or for the range [start, stop) of ordinals."""
        end = self.info.n_frames if stop is None else stop
        return [Chunk(self, at, min(at + frames, end)) for at in range(start, end, frames)]


class Uncut:
    """The range fields of a `Chunk`, for items that are never cut. Abstract."""

    frames: ClassVar[int] = 1
    start: ClassVar[int] = 0
    stop: ClassVar[int] = 1
    key: ClassVar[str] = ""
    """Empty, as no entry is written for one item: `pipeline.engine.packs` has one for those that were done together."""
    pts_range: ClassVar[tuple[int, int]] = (0, 0)


@dataclass(frozen=True, eq=False)
class Picture(Uncut):
    """The item of an image set: one picture, which need not have been opened yet.

    Its key is known beforehand if it was probed, or if a store remembers a file of that place, length and time of change; else
    the worker that reads its bytes computes it.
    """

    uri: str
    name: str
    """Path of its results below the output folder."""
    order: int = 0
    """Its place among the inputs of the run."""
    mark: int = 0
    """`pipeline.store.packs.mark_of` of its place, length and time of change; 0 if they are not known."""
    source_id: str = ""
    sha256: str = ""
    """SHA-256 that its bytes must have; empty if any bytes will do."""
    found: bool = False
    """True if it was found in a folder or by a pattern: the user has not named this file."""

    @property
    def output_name(self) -> str:
        return self.name or PurePath(self.uri).name

    @property
    def known_as(self) -> str:
        """Its key, or its stand-in in `failures` until it is read."""
        return self.source_id or source_id_of_unreadable(self.uri)

    @property
    def kind(self) -> str:
        return "image"

    def __str__(self) -> str:
        return PurePath(self.uri).name


@dataclass(frozen=True, eq=False)
class Joining(Uncut):
    """The item of the step that makes a pack: entries of pictures that were done together."""

    pack_id: str
    entries: tuple[str, ...]
    """Names below `STORE/ledger/pictures`, in the order of the inputs."""
    rendering: str = ""
    """Name of the manifest of the rendered pictures; empty if none were rendered."""
    recipe_id: str = ""
    failures: tuple[Failure, ...] = ()
    """Failures of pictures that no worker could write down itself."""
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
    """Digest of all that decides its result; empty if no ledger is kept."""

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
    """Counts by name: frames, faces, edits, ..."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds by part: decode, detect, crop, model, paste, encode, store."""
    failures: tuple[Failure, ...] = ()
    """Losses of single frames or tracks, while the item itself was done."""
    files: tuple[Written, ...] = ()
    """Files that it wrote into the store: its entry vouches for them (`pipeline.engine.ledger`)."""
    outputs: tuple[Written, ...] = ()
    """Files that it wrote elsewhere, by whole paths: the edited file and what goes with it."""
    devices: tuple[str, ...] = ()
    """Kinds of device that its models ran on (`cpu`, `cuda`); empty for a step without one. Not in the key: results differ in
    their last bits between kinds."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Facts about a picture or a pack for the driver: JSON values, see `pipeline.engine.packs`."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """An item after a stage, with its result or its failure."""

    item: Item
    result: Result | None
    failure: Failure | None
    damaged: DamagedPart | None = None
    """The damaged files of the store that made it fail, if that was the reason."""
    resumed: bool = False
    """True if an earlier run did it."""


@dataclass(frozen=True)
class Batched:
    """A step whose items are computed together, so that crops of many small clips and images fill a batch.

    `load` reads what one item needs, while the items before it compute: rows, and for `invert` the decoded crops. `finish`
    computes and writes what was loaded; `render` decodes there, so that no more than a batch of frames is in memory. The two
    run in different threads, so they share nothing that cannot be shared.
    """

    load: Callable[[Any], Any]
    finish: Callable[[Sequence[Any]], Sequence[Result | Exception]]
    """Returns a result for each item; an exception in its place means that this item is lost, and no other."""
    overlaps: bool = False
    """True if several threads may call `finish` at once, each with items of its own: while the last frames of one are encoded,
    the next one's are generated."""

    def __call__(self, item: Any) -> Result:
        (result,) = self.finish([self.load(item)])
        if isinstance(result, Exception):
            raise result
        return result


class Step(ABC):
    """Settings of a stage's work, and the method that starts it. Abstract; final classes are frozen dataclasses that pickle."""

    VERSION: ClassVar[int] = 1
    """Version of the algorithm. Raise it by hand with every change of the rows or pixels that the same settings give: results
    of earlier versions then count as done with other settings. `tests/pipeline/steps/test_versions.py` reminds of it."""

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
    """Frames that an item has at most; items that are sent to a worker together have no more."""
    whole: bool = False
    """True if an item is a whole source, whatever its length: the step needs all of its (small) rows."""
    decides: Mapping[str, Any] = field(default_factory=dict)
    """Settings that decide its results; JSON values."""
    writes: tuple[str, ...] = ()
    """Folders of the store that hold its files, each with a folder for every source."""
    seals: str | None = None
    """Name of the manifest that is written when a source leaves it: all stages until here are done, and not done again."""
    by_name: bool = False
    """True if its results lie under the source's name: two inputs of the same bytes are then two results, and one is finished
    only under its own name."""
    vital: bool = False
    """True if a source that loses an item of it goes no further."""
    overlaps: bool = False
    """True if a worker has several cores or an accelerator, so that the parts of its work go on side by side."""
    counted: tuple[str, ...] = ()
    """Counts of its results that go into the job's summary."""

    def seal_of(self, source: Source) -> str | None:
        """Return the name of the manifest that finishes a source."""
        if self.seals is None or not self.by_name:
            return self.seals
        return f"{self.seals}-{hashlib.sha256(source.output_name.encode()).hexdigest()[:8]}"

    @property
    def decided_by(self) -> dict[str, Any]:
        """Return what decides its results besides the source and the stages before it: settings, and the step's version."""
        return {**self.decides, "version": self.step.VERSION}

    def chunks(self, source: Source, key: str, done: Sequence[tuple[int, int]] = ()) -> list[Chunk]:
        """Return the items of a source without the ranges that are done."""
        if self.whole:
            return [] if done else [Chunk(source, 0, source.info.n_frames, key)]
        return [
            Chunk(source, chunk.start, chunk.stop, key)
            for start, stop in gaps(done, source.info.n_frames)
            for chunk in source.chunks(self.frames, start, stop)
        ]


def gaps(done: Sequence[tuple[int, int]], stop: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of [0, stop) that disjoint ranges leave out."""
    at = 0
    for first, last in sorted(done):
        if at < first:
            yield at, first
        at = max(at, last)
    if at < stop:
        yield at, stop


def failure_of(stage: str, item: Item, error: BaseException, attempts: int = 1) -> Failure:
    """Return the row of an item whose step raised an error."""
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
    """Convert a class's name to a short constant to group by: MediaError => media_error."""
    parts = ["_" + c.lower() if c.isupper() and i and not name[i - 1].isupper() else c.lower() for i, c in enumerate(name)]
    return "".join(parts)
