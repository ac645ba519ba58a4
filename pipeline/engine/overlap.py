"""Lets the parts of a worker's work overlap: what is needed next is made in threads, in order, with bounded queues between.

Results come in the order of what they are made from, so that nothing depends on the number of threads. A thread works for the
run of whoever started it: it has the same context variables (which run's files may appear) and torch's number of threads.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
WAIT_SECONDS = 0.1
"""How often a thread that waits looks whether anybody still wants what it makes."""


def ahead(made: Iterable[T], depth: int) -> Iterator[T]:
    """The same elements, made in a thread of their own, at most `depth` of them before they are asked for.

    An exception there is raised here, in its place. Who stops iterating stops the thread.
    """
    queue: Queue[tuple[bool, Any]] = Queue(depth)
    unwanted = Event()
    threads = torch.get_num_threads()

    def put(said: tuple[bool, Any]) -> bool:
        while not unwanted.is_set():
            try:
                queue.put(said, timeout=WAIT_SECONDS)
                return True
            except Full:
                continue
        return False

    def make() -> None:
        torch.set_num_threads(threads)  # the setting is a thread's own
        try:
            for one in made:
                if not put((True, one)):
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))
        finally:
            if isinstance(made, Generator):
                made.close()

    context = contextvars.copy_context()
    thread = Thread(target=context.run, args=(make,), daemon=True, name="ahead")
    thread.start()
    try:
        while True:
            try:
                going_on, one = queue.get(timeout=10 * WAIT_SECONDS)
            except Empty:
                continue
            if going_on:
                yield one
            elif one is None:
                return
            else:
                raise one
    finally:
        unwanted.set()
        thread.join()


def in_order(function: Callable[[T], R], given: Iterable[T], pool: Executor, depth: int) -> Iterator[R]:
    """function(one) of each element, in the order of the elements; at most `depth` are in work."""
    waiting: deque[Future[R]] = deque()
    elements = iter(given)
    try:
        for one in elements:
            waiting.append(pool.submit(contextvars.copy_context().run, function, one))
            if len(waiting) >= depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        if isinstance(elements, Generator):
            elements.close()
