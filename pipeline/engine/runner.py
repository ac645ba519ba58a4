"""Runs a course. The interface, what a worker does, and the runner that needs nothing but this process."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, final

from pipeline.engine.course import Course, Event, Report, silent
from pipeline.engine.ledger import Ledger
from pipeline.engine.stage import Batched, Chunk, Item, Outcome, Result, Stage, failure_of
from pipeline.store.lock import fenced
from pipeline.store.parts import DamagedPart

__all__ = ["Event", "InProcessRunner", "Report", "ResourceError", "Runner", "Worker", "silent"]

STATUS_SECONDS = 30.0


class ResourceError(RuntimeError):
    """The machine or cluster cannot hold one worker of a stage; the message says what it lacks and what to do."""


class WorkersDie(RuntimeError):
    """Workers die one after the other and finish nothing: not an item's fault. The message has the last one's last lines."""


@final
class Worker:
    """Does any stage of a course. Each step is opened when its first item comes, and kept.

    Two threads may call it: one item is then loaded (read, decoded, cropped) while the one before it is computed. Loading and
    computing each happen to one item at a time.
    """

    def __init__(self, stages: Sequence[Stage], ledger: Ledger | None) -> None:
        self._steps = {stage.name: stage.step for stage in stages}
        self._ledger = ledger
        self._opened: dict[str, Callable[[Any], Result]] = {}
        self._loading, self._computing = threading.Lock(), threading.Lock()

    def run(self, stage: str, items: Sequence[Item]) -> list[Outcome]:
        """One outcome for each item, in their order. An item that raises is lost, not the others.

        Raises whatever opening the step raises: then no item of the stage can be done at all.
        """
        with fenced(None if self._ledger is None else self._ledger.fence):
            return self._run(stage, items)

    def _run(self, stage: str, items: Sequence[Item]) -> list[Outcome]:
        with self._loading:
            work = self._open(stage)
            loaded: list[tuple[Item, Any, Exception | None]] = []
            for item in items:
                value, problem = item, None
                if isinstance(work, Batched):
                    value, problem = attempted(work.load, item)
                loaded.append((item, value, problem))
        with self._computing:
            good = [value for _, value, problem in loaded if problem is None]
            together: Sequence[Result | Exception] | None = None
            if isinstance(work, Batched) and len(good) > 1:
                # Should one of them spoil it for all, each is done for itself below.
                together, _ = attempted(work.finish, good)
            results = iter(together or ())
            outcomes = []
            for item, value, problem in loaded:
                result: Result | Exception | None = None
                if problem is None and together is not None:
                    result = next(results)
                elif problem is None and isinstance(work, Batched):
                    one, problem = attempted(work.finish, [value])
                    result = one[0] if one else None
                elif problem is None:
                    result, problem = attempted(work, item)
                if isinstance(result, Exception):
                    result, problem = None, result
                if problem is None and isinstance(item, Chunk):
                    _, problem = attempted(self._record, (stage, item, result))
                lost = None if problem is None else failure_of(stage, item, problem)
                damaged = problem if isinstance(problem, DamagedPart) else None
                outcomes.append(Outcome(item, None if lost is not None else result, lost, damaged))
        return outcomes

    def _open(self, stage: str) -> Callable[[Any], Result]:
        if stage not in self._opened:
            self._opened[stage] = self._steps[stage].open()
        return self._opened[stage]

    def _record(self, entry: tuple[str, Chunk, Result]) -> None:
        if self._ledger is not None:
            self._ledger.record(*entry)


def attempted(function: Callable[[Any], Any], value: Any) -> tuple[Any, Exception | None]:
    """(result, None), or (None, the exception): a lost item is a row."""
    try:
        return function(value), None
    except Exception as error:
        return None, error


class Runner(ABC):
    """Abstract: takes a course to its end."""

    @abstractmethod
    def run(self, course: Course) -> None:
        """Settle every item of the course."""


@final
class InProcessRunner(Runner):
    """One item after the other, here. The default for a local run: models use all cores themselves."""

    def run(self, course: Course) -> None:
        worker = Worker(course.stages, course.ledger)
        # As many frames at hand as fill an item of one-frame images.
        course.look_ahead(max(stage.frames for stage in course.stages))
        told = time.monotonic()
        while (batch := course.take()) is not None:
            for outcome in worker.run(batch.stage.name, batch.items):
                course.settle(batch.stage, outcome)
            if time.monotonic() - told >= STATUS_SECONDS:
                told = time.monotonic()
                course.report(course.status())
        course.report(course.status())
