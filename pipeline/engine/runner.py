"""Runs a course: the interface, the worker, and the runner that needs nothing but this process."""

from __future__ import annotations

import contextvars
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from typing import Any, Final, final

import torch

from pipeline.engine.course import Course, Event, ItemBatch, Report, silent
from pipeline.engine.ledger import Ledger
from pipeline.engine.overlap import Turns
from pipeline.engine.stage import Batched, Chunk, Item, Outcome, Result, Stage, failure_of
from pipeline.store.lock import fenced
from pipeline.store.parts import DamagedPart

__all__ = ["Event", "InProcessRunner", "Report", "ResourceError", "Runner", "Worker", "silent"]

STATUS_SECONDS = 30.0
OVERLAPPING: Final = 3
"""Items that a worker has at a time if their parts overlap: one is read while the faces of another are generated and the frames
of a third are encoded."""


class ResourceError(RuntimeError):
    """The machine or cluster cannot hold one worker of a stage; the message says what it lacks and what to do."""


class WorkersDie(RuntimeError):
    """Workers die one after the other and finish nothing, whichever items they have. The message has the last one's output."""


@final
class Worker:
    """Does any stage of a course. Each step is opened when its first item comes, and kept.

    Several threads may call it: one item is then loaded (read, decoded, cropped) while the one before it is computed. Loading
    and computing each happen to one item at a time; where stages overlap, to one of each stage, and a step that says so
    (`Batched.overlaps`) may compute several.
    """

    def __init__(self, stages: Sequence[Stage], ledger: Ledger | None) -> None:
        self._steps = {stage.name: stage.step for stage in stages}
        self._ledger = ledger
        self._opened: dict[str, Callable[[Any], Result]] = {}
        alike = Turns(), Turns()
        self._turns = {stage.name: (Turns(), Turns()) if stage.overlaps else alike for stage in stages}
        """Stage => the locks of loading and of computing."""
        self._side_by_side = {stage.name for stage in stages if stage.overlaps}

    def run(self, stage: str, items: Sequence[Item]) -> list[Outcome]:
        """Do items => one outcome for each, in their order. An item that raises is lost, and no other.

        Raises what opening the step raises: then no item of the stage can be done.
        """
        with fenced(None if self._ledger is None else self._ledger.fence):
            return self._run(stage, items)

    def _run(self, stage: str, items: Sequence[Item]) -> list[Outcome]:
        loading, computing = self._turns[stage]
        with loading:
            work = self._open(stage)
            loaded: list[tuple[Item, Any, Exception | None]] = []
            for item in items:
                value, problem = item, None
                if isinstance(work, Batched):
                    value, problem = attempted(work.load, item)
                loaded.append((item, value, problem))
        side_by_side = stage in self._side_by_side and isinstance(work, Batched) and work.overlaps
        with nullcontext() if side_by_side else computing:
            good = [value for _, value, problem in loaded if problem is None]
            together: Sequence[Result | Exception] | None = None
            if isinstance(work, Batched) and len(good) > 1:
                # If one of them makes all fail, each is done by itself below.
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
    """Call a function => (result, None), or (None, the exception): a lost item becomes a row."""
    try:
        return function(value), None
    except Exception as error:
        return None, error


class Runner(ABC):
    """Takes a course to its end. Abstract."""

    @abstractmethod
    def run(self, course: Course) -> None:
        """Settle every item of the course."""


@final
class InProcessRunner(Runner):
    """Does everything in this process, by one worker. The default of a local run: one item after the other, as models use all
    cores themselves; with an accelerator, or several cores for a worker, so many at a time that neither waits."""

    def run(self, course: Course) -> None:
        worker = Worker(course.stages, course.ledger)
        at_once = items_at_once(course.stages, 1)
        # As many frames ready as fill a batch of one-frame images.
        course.look_ahead(at_once * max(stage.frames for stage in course.stages))
        self._told = time.monotonic()
        if at_once == 1:
            while (batch := course.take()) is not None:
                self._settle(course, batch, worker.run(batch.stage.name, batch.items))
        else:
            # Its threads compute with as many torch threads as this one: each thread has the setting for itself.
            with ThreadPoolExecutor(at_once, "item", torch.set_num_threads, (torch.get_num_threads(),)) as pool:
                self._run_side_by_side(course, worker, pool, at_once)
        course.report(course.status())

    def _run_side_by_side(self, course: Course, worker: Worker, pool: ThreadPoolExecutor, at_once: int) -> None:
        flying: dict[Future[list[Outcome]], ItemBatch] = {}
        while True:
            while len(flying) < at_once and (batch := course.take()) is not None:
                context = contextvars.copy_context()  # which run's files may appear
                flying[pool.submit(context.run, worker.run, batch.stage.name, batch.items)] = batch
            if not flying:
                return
            for done in wait(flying, STATUS_SECONDS, FIRST_COMPLETED).done:
                self._settle(course, flying.pop(done), done.result())

    def _settle(self, course: Course, batch: ItemBatch, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            course.settle(batch.stage, outcome)
        if time.monotonic() - self._told >= STATUS_SECONDS:
            self._told = time.monotonic()
            course.report(course.status())


def items_at_once(stages: Sequence[Stage], otherwise: int) -> int:
    """Return how many items a worker of these stages has at a time; `otherwise` if their parts do not overlap."""
    return OVERLAPPING if any(stage.overlaps for stage in stages) else otherwise
