"""Threads that work ahead change when something is done, and nothing of what."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest
import torch

from pipeline.engine.overlap import Turns, ahead, in_order, pool_of

RUN: ContextVar[str] = ContextVar("run", default="nobody's")


def counted(n: int, made: list[int]) -> Iterator[int]:
    for i in range(n):
        made.append(i)
        yield i


def test_elements_come_in_order_and_only_so_many_before_they_are_wanted() -> None:
    made: list[int] = []
    found = ahead(counted(50, made), 3)
    assert next(found) == 0
    time.sleep(0.3)
    assert len(made) <= 1 + 3 + 1, "one taken, three in the queue, one in the maker's hand"
    assert list(found) == list(range(1, 50))


def test_who_stops_iterating_stops_the_thread() -> None:
    made: list[int] = []
    before = threading.active_count()
    found = ahead(counted(10_000, made), 2)
    assert next(found) == 0
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before and len(made) < 10


def test_an_exception_is_raised_in_its_place() -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("broken there")

    found = ahead(broken(), 8)
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(ValueError, match="broken there"):
        next(found)


def test_results_are_in_order_whatever_takes_how_long() -> None:
    def slow(i: int) -> tuple[int, str]:
        time.sleep(0.01 * ((7 * i) % 5))
        return i, RUN.get()

    RUN.set("this one's")
    running, most = [0], [0]
    lock = threading.Lock()

    def watched(i: int) -> tuple[int, str]:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        try:
            return slow(i)
        finally:
            with lock:
                running[0] -= 1

    with ThreadPoolExecutor(4) as pool:
        found = list(in_order(watched, ahead(iter(range(40)), 4), pool, 4))
    assert found == [(i, "this one's") for i in range(40)], "threads work for the run that started them"
    assert 1 < most[0] <= 4


def test_who_stops_asking_for_results_leaves_nothing_at_work() -> None:
    begun: list[int] = []
    ended: list[int] = []

    def slow(i: int) -> int:
        begun.append(i)
        time.sleep(0.2 if i else 0.0)
        ended.append(i)
        return i

    with ThreadPoolExecutor(2) as pool:
        found = in_order(slow, range(40), pool, 8)
        assert next(found) == 0
        found.close()
        assert begun and sorted(ended) == sorted(begun) and len(begun) < 8, "those in work have ended, the others never began"


def test_threads_of_a_pool_compute_on_one_core_each() -> None:
    """torch's own number is that of the machine's cores, for each thread that was not told."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pool_of(2, "paste") as pool:
            found = list(in_order(lambda _: torch.get_num_threads(), range(8), pool, 4))
        assert found == [1] * 8 and torch.get_num_threads() == 3, "and the thread that made it keeps its own"
    finally:
        torch.set_num_threads(before)


def test_turns_go_to_threads_in_the_order_in_which_they_asked() -> None:
    turns, entered = Turns(), list[int]()

    def enter(number: int) -> None:
        with turns:
            entered.append(number)

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(20)]
    with turns:
        for number, thread in enumerate(threads):
            thread.start()
            while turns.asked != number + 2:
                time.sleep(0.001)
        assert not entered
    for thread in threads:
        thread.join()
    assert entered == list(range(20))


def test_a_turn_ends_with_an_exception() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="broken"), turns:
        raise ValueError("broken")
    with turns:
        pass
