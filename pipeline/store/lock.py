"""One run at a time on a store: the second is told who holds it, and a lock whose holder is dead is taken over.

On a disk the lock is the operating system's (`flock`), which ends with its process, whatever kills it. An object store has
none: there the holder renews a small object, and who wants the lock looks whether it changes. Both measure waiting by their own
monotonic clock and compare no times of two machines, so a clock that is wrong or goes backwards decides nothing.

Workers may outlive the run that sent them, and still write when the next one has begun. So whoever writes for a run carries its
`Fence`, and at the moment in which a file is to appear looks whether that run still holds the store. On a disk the next holder
waits until whoever is in that moment has left it. An object store has no such moment: whoever writes there looks again after
`SETTLE_SECONDS`, and the next holder waits for as long before it begins. What a worker was uploading just then may still come,
and is put aside by the next run that comes past the source (`Ledger.intact`), or by `store verify`.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from ops.files.atomic import PUBLISHING, Publishing
from pipeline.store.parts import StoreError
from pipeline.store.places import Place, Remote, remove, upload

NAME = ".lock"
WRITERS = ".writers.lock"
"""Shared by those who let a file appear; a new holder has it alone for a moment, so that none of an earlier run is left."""
BEAT_SECONDS = 10.0
PATIENCE_BEATS = 4
"""A remote lock that did not change for so many beats has lost its holder."""
SETTLE_SECONDS = 2.0
"""A new holder of a remote lock waits so long before it begins, and who has seen that a run holds it need not look again."""
WRITER_SECONDS = 60.0
"""A rename takes no time: a worker that is in the middle of one for so long was stopped."""


class StoreBusy(StoreError):
    """Another run works on the store."""


class Superseded(StoreError):
    """Another run has the store now."""


@final
@dataclass(frozen=True)
class Fence:
    """Lets the files of one run appear for as long as that run holds the store. Picklable: workers carry it."""

    root: Place
    owner: str

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Around the moment in which a file appears. Raises Superseded."""
        if isinstance(self.root, Remote):
            now = time.monotonic()
            if now - _SEEN.get(self, -SETTLE_SECONDS) >= SETTLE_SECONDS:
                _SEEN.pop(self, None)
                self._require_held()
                _SEEN[self] = now
            yield
            return
        try:
            descriptor = os.open(self.root / WRITERS, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            raise Superseded(f"{self.root}: the store is gone, and the run that this was written for") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            self._require_held()
            yield
        finally:
            os.close(descriptor)

    def _require_held(self) -> None:
        try:
            owner = json.loads((self.root / NAME).read_text())["owner"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            owner = None
        if owner != self.owner:
            raise Superseded(
                f"{self.root}: the run that this was written for does not hold the store any more; nothing was written. If it "
                "was stopped for a while, run the same command again"
            )


_SEEN: dict[Fence, float] = {}
"""When this process last saw that a run holds a remote store."""


@contextmanager
def held(root: Place, job: str, *, beat_seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Hold the store for as long as the body runs; files that it writes appear only while it does.

    Raises:
        StoreBusy: another run holds it; the message says which.
    """
    me = {"owner": secrets.token_hex(8), "job": job, "host": socket.gethostname(), "pid": os.getpid()}
    locked = _leased(root / NAME, me, beat_seconds) if isinstance(root, Remote) else _flocked(root / NAME, me)
    fence = Fence(root, str(me["owner"]))
    try:
        with locked, fenced(fence):
            yield
    finally:
        _SEEN.pop(fence, None)


@contextmanager
def fenced(fence: Publishing | None) -> Iterator[None]:
    """Write for a run, wherever this is. None: for nobody in particular."""
    if fence is None:
        yield
        return
    before = PUBLISHING.set(fence)
    try:
        yield
    finally:
        PUBLISHING.reset(before)


@contextmanager
def _flocked(path: Path, me: dict[str, Any]) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 4096, 0)
            os.close(descriptor)
            raise StoreBusy(_busy(path.parent, holder)) from None
        # Whoever let go has removed the file: ours must be the one that is there now.
        if _is_there(descriptor, path):
            break
        os.close(descriptor)
    try:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(me).encode(), 0)
        _wait_for_writers(path.with_name(WRITERS))
        yield
    finally:
        _let_go(path)
        os.close(descriptor)


def _wait_for_writers(path: Path) -> None:
    """Until nobody is left who looked before this run had the store, and lets a file appear now."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    deadline = time.monotonic() + WRITER_SECONDS
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreBusy(
                        f"{path.parent}: waited {WRITER_SECONDS:g} s for a worker of an earlier run that is in the middle of a "
                        f"write (`fuser {path}` says which, unless it is on another machine); end it, and run this again"
                    ) from None
                time.sleep(0.01)
    finally:
        os.close(descriptor)


def _let_go(path: Path) -> None:
    """Remove the lock, and with it the writers' file, unless a worker is just writing: nobody may come to have another one."""
    writers = path.with_name(WRITERS)
    try:
        descriptor = os.open(writers, os.O_RDWR)
    except FileNotFoundError:  # the store is gone
        path.unlink(missing_ok=True)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        writers.unlink(missing_ok=True)
    except BlockingIOError:
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _is_there(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


@contextmanager
def _leased(path: Remote, me: dict[str, Any], beat_seconds: float) -> Iterator[None]:
    holder = _read(path)
    if holder is not None and not _is_dead_here(holder):
        deadline = time.monotonic() + PATIENCE_BEATS * beat_seconds
        while (now := _read(path)) == holder:
            if time.monotonic() > deadline:
                break
            time.sleep(min(beat_seconds, 1.0))
        else:
            if now is not None:
                raise StoreBusy(_busy(path, json.dumps(now).encode()))
    beat = 0

    def write() -> None:
        upload(memoryview(json.dumps(me | {"beat": beat}).encode()), path)

    def is_ours() -> bool:
        found = _read(path)
        return found is not None and found.get("owner") == me["owner"]

    write()
    time.sleep(SETTLE_SECONDS)  # of two that began at once, the one who wrote last has it
    if not is_ours():
        raise StoreBusy(_busy(path, json.dumps(_read(path)).encode()))
    ended = threading.Event()

    def renew() -> None:
        nonlocal beat
        while not ended.wait(beat_seconds):
            beat += 1
            try:
                if not is_ours():
                    return  # this process was stopped for so long that another took over; the fence keeps it from writing
                write()
            except OSError:
                continue  # tried again at the next beat, of which the others grant several

    thread = threading.Thread(target=renew, daemon=True, name="store lock")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(2 * beat_seconds)
        if is_ours():
            remove(path)


def _read(path: Remote) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _is_dead_here(holder: dict[str, Any]) -> bool:
    """The holder was a process of this machine, and there is none of that number."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError):
        return False
    return False


def _busy(root: Place, holder: bytes) -> str:
    try:
        facts = json.loads(holder)
        who = f"styleres {facts['job']}, process {facts['pid']} on {facts['host']}"
    except (ValueError, KeyError, TypeError):
        who = "another run"
    where = str(root).removesuffix(f"/{NAME}")
    return f"{where}: {who} works on this store; wait for it to end, or use another --store"
