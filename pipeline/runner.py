"""Runs stages. The interface, and the runner that needs nothing but this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import final

from pipeline.stage import Chunk, Outcome, Stage, failure_of

Report = Callable[[Stage, int, int, Outcome | None], None]
"""Called with (stage, items done, items in all, the outcome that made it so; None at the start of the stage)."""


class ResourceError(RuntimeError):
    """The machine or cluster cannot hold one worker of a stage; the message says what it lacks and what to do."""


def silent(stage: Stage, done: int, count: int, outcome: Outcome | None) -> None:
    """A report that says nothing."""


class Runner(ABC):
    """Abstract: maps a stage over items, each to exactly one outcome. An item that raises is lost, not the others."""

    @abstractmethod
    def run(self, stage: Stage, items: Sequence[Chunk], report: Report) -> list[Outcome]:
        """One outcome for each item, in their order."""


@final
class InProcessRunner(Runner):
    """One item after the other, here. The default for a local run: models use all cores themselves."""

    def run(self, stage: Stage, items: Sequence[Chunk], report: Report) -> list[Outcome]:
        report(stage, 0, len(items), None)
        if not items:
            return []
        function = stage.step.open()
        outcomes = []
        for item in items:
            try:
                outcome = Outcome(item, function(item), None)
            except Exception as error:  # a lost item is a row
                outcome = Outcome(item, None, failure_of(stage.name, item, error))
            outcomes.append(outcome)
            report(stage, len(outcomes), len(items), outcome)
        return outcomes
