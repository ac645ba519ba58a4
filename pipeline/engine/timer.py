"""Measures the time that each part of an item's work takes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
CLOCK = time.perf_counter
"""Clock in seconds; a benchmark of processor time puts `time.process_time` here."""


class Timer:
    """Sums of wall seconds by name. Parts may nest: each second is counted once, for the innermost part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner_seconds = 0.0  # seconds of the parts that ended inside the one that is running

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        before, self._inner_seconds = self._inner_seconds, 0.0
        started = CLOCK()
        try:
            yield
        finally:
            elapsed = CLOCK() - started
            self.seconds[name] += elapsed - self._inner_seconds
            self._inner_seconds = before + elapsed

    def timed(self, name: str, iterable: Iterable[T]) -> Iterator[T]:
        """Iterate, counting the time spent in producing items under `name`."""
        iterator = iter(iterable)
        while True:
            with self(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item
