"""Seconds by part: nested parts count each second once."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from pipeline.engine.timer import Timer


def test_a_part_inside_a_part_takes_its_seconds_from_the_outer_one() -> None:
    timer = Timer()
    started = time.perf_counter()
    with timer("encode"):
        time.sleep(0.02)
        with timer("model"):
            time.sleep(0.05)
            with timer("store"):
                time.sleep(0.03)
        with timer("paste"):
            time.sleep(0.01)
    whole = time.perf_counter() - started
    assert sum(timer.seconds.values()) == pytest.approx(whole, abs=2e-3)
    assert timer.seconds["model"] == pytest.approx(0.05, abs=0.02)
    assert timer.seconds["encode"] == pytest.approx(0.02, abs=0.02)


def test_an_iterable_is_timed_while_it_makes_items_and_not_while_they_are_used() -> None:
    timer = Timer()

    def slow() -> Iterator[int]:
        for item in range(2):
            time.sleep(0.02)
            yield item

    for _ in timer.timed("decode", slow()):
        time.sleep(0.05)
    assert 0.03 < timer.seconds["decode"] < 0.08


def test_a_part_that_raises_is_counted() -> None:
    timer = Timer()
    with pytest.raises(ValueError, match="no"), timer("crop"):
        raise ValueError("no")
    assert "crop" in timer.seconds
