"""Counts what a job did, for its last line, in memory that does not grow with the number of inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.engine.stage import Outcome, Stage
from schemas import PASSED_THROUGH, Failure

MOST_KEPT = 10_000


@dataclass
class Summary:
    """Counts of a job: of items that this run did, not of those that it found done."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    """The first `MOST_KEPT` failures; the store's table has all of them."""
    lost_count: int = 0
    """Number of failures proper, those that are not kept here included."""
    sources_done: int = 0
    sources_failed: int = 0
    """Inputs with a loss, those that could not be read included."""
    sources_skipped: int = 0
    """Part of `sources_done`: sources that an earlier run finished."""

    def fail(self, failures: Iterable[Failure]) -> None:
        for failure in failures:
            self.lost_count += failure.reason not in PASSED_THROUGH
            if len(self.failures) < MOST_KEPT:
                self.failures.append(failure)

    def add(self, stage: Stage, outcome: Outcome) -> None:
        """Add one item: its failures, and those counts that are taken from its stage."""
        if outcome.failure is not None:
            self.fail([outcome.failure])
        if outcome.result is not None:
            self.fail(outcome.result.failures)
            if not outcome.resumed:
                self.counts.update({name: outcome.result.counts.get(name, 0) for name in stage.counted})
                self.seconds.update(outcome.result.seconds)  # type: ignore[arg-type]

    @property
    def lost(self) -> list[Failure]:
        """Failures proper: not the frames that have no face to edit."""
        return lost_of(self.failures)


def lost_of(failures: Iterable[Failure]) -> list[Failure]:
    """Return the failures without the rows that only say why there was nothing to edit."""
    return [failure for failure in failures if failure.reason not in PASSED_THROUGH]
