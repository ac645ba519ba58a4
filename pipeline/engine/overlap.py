"""Lets the parts of a worker's work overlap: what is needed next is made in threads, in order, with bounded queues between.

Results come in the order of what they are made from, so that nothing depends on the number of threads. A thread has the context
variables of the thread that started it (the run whose files may appear) and its number of torch threads.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from queue import Empty, Full, Queue
from threading import Condition, Event, Thread
from types import TracebackType
from typing import Any, TypeVar, final

import torch

T = TypeVar("T")
R = TypeVar("R")
WAIT_SECONDS = 0.1
"""Seconds after which a waiting thread looks whether its results are still wanted."""


@final
class Turns:
    """Lock that threads get in the order in which they asked for it.

    Items of a source that are decoded one after the other, in order, need no seek between them.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self.asked = 0
        """Threads that have asked for it so far."""
        self._ended = 0

    def __enter__(self) -> None:
        with self._changed:
            mine = self.asked
            self.asked += 1
            self._changed.wait_for(lambda: self._ended == mine)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._changed:
            self._ended += 1
            self._changed.notify_all()


def pool_of(threads: int, name: str) -> ThreadPoolExecutor:
    """Create a pool whose threads compute on one core each: there are as many of them as cores, or nearly.

    By default torch would start as many threads for each of them as the machine has cores.
    """
    return ThreadPoolExecutor(threads, name, torch.set_num_threads, (1,))


def ahead(made: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Yield the same elements, made in a thread of their own, at most `depth` of them before they are asked for.

    An exception in the thread is raised here, at its place among the elements. Close the generator to stop the thread:
    otherwise it goes on, with what it holds, for as long as an exception's traceback refers to it.
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


def in_order(function: Callable[[T], R], given: Iterable[T], pool: Executor, depth: int) -> Generator[R, None, None]:
    """Yield function(element) in the order of the elements; at most `depth` are in work, and none once it is closed."""
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
        for future in waiting:
            future.cancel()
        wait(waiting)  # a run that begins again must not meet files that these still write
        if isinstance(elements, Generator):
            elements.close()
