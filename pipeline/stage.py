"""What a step of the flow is: values only, so that any runner can run it anywhere.

Step      frozen settings and one method, `open`, which loads models once per worker and returns item => Result
Stage     a step with the resources of one worker; written in flow.py, beside the reason
Chunk     the item: a source and a range of its frames. Frames themselves never travel
Result    what came of an item: counts, seconds, lost items
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ops.video.probe import SourceInfo
from schemas import Failure


@dataclass(frozen=True, eq=False)
class Source:
    """One input, probed."""

    source_id: str
    info: SourceInfo

    @property
    def uri(self) -> str:
        return self.info.uri

    def whole(self) -> Chunk:
        """The item of a step that needs all (small) rows of a source at once."""
        return Chunk(self, 0, self.info.n_frames)

    def chunks(self, frames: int) -> list[Chunk]:
        """Items of at most `frames` frames."""
        total = self.info.n_frames
        return [Chunk(self, start, min(start + frames, total)) for start in range(0, total, frames)]


@dataclass(frozen=True, eq=False)
class Chunk:
    """Frames [start, stop) of a source, by local ordinal; what is written down is always pts."""

    source: Source
    start: int
    stop: int

    @property
    def pts_range(self) -> tuple[int, int]:
        """First and last pts, both included."""
        pts = self.source.info.pts
        return int(pts[self.start]), int(pts[self.stop - 1])

    def __str__(self) -> str:
        return f"{Path(self.source.uri).name}[{self.start}:{self.stop}]"


@dataclass(frozen=True)
class Result:
    """What came of one item."""

    counts: Mapping[str, int] = field(default_factory=dict)
    """frames, faces, edits, ..."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Where the time went: decode, detect, crop, model, paste, encode, store."""
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, eq=False)
class Outcome:
    """An item after a stage: a result, or the failure it ended in."""

    item: Chunk
    result: Result | None
    failure: Failure | None


class Step(ABC):
    """Abstract. Final classes are frozen dataclasses of settings; they pickle."""

    @abstractmethod
    def open(self) -> Callable[[Chunk], Result]:
        """Load what the step needs, once per worker, and return the function that does one item.

        The function writes its rows or files itself, atomically, and may be run again for the same item.
        """


@dataclass(frozen=True)
class Stage:
    """A step, and what one worker of it needs. `num_gpus` may be a share of one."""

    name: str
    step: Step
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    driver: bool = False
    """Runs in the driver: its rows are small and it is a barrier anyway."""


def failure_of(stage: str, item: Chunk, error: BaseException, attempts: int = 1) -> Failure:
    """The row that an item becomes when its step raises."""
    first, last = item.pts_range
    return Failure(
        source_id=item.source.source_id,
        uri=item.source.uri,
        stage=stage,
        reason=snake_case(type(error).__name__),
        message=str(error) or type(error).__name__,
        pts=first,
        last_pts=last,
        attempts=attempts,
    )


def snake_case(name: str) -> str:
    """MediaError => media_error: a short constant to group by."""
    parts = ["_" + c.lower() if c.isupper() and i and not name[i - 1].isupper() else c.lower() for i, c in enumerate(name)]
    return "".join(parts)
