"""One run at a time on a store: the second is told who holds it, and a lock whose holder is dead is taken over.

On a disk the lock is the operating system's (`flock`), which ends with its process, whatever kills it. An object store has
none: there the holder renews a small object, and who wants the lock looks whether it changes. Both measure waiting by their own
monotonic clock and compare no times of two machines, so a clock that is wrong or goes backwards decides nothing.
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
from pathlib import Path
from typing import Any

from pipeline.parts import StoreError
from pipeline.places import Place, Remote, remove, writing

NAME = ".lock"
BEAT_SECONDS = 10.0
PATIENCE_BEATS = 4
"""A remote lock that did not change for so many beats has lost its holder."""
SETTLE_SECONDS = 1.0


class StoreBusy(StoreError):
    """Another run works on the store."""


@contextmanager
def held(root: Place, job: str, *, beat_seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Hold the store for as long as the body runs.

    Raises:
        StoreBusy: another run holds it; the message says which.
    """
    me = {"owner": secrets.token_hex(8), "job": job, "host": socket.gethostname(), "pid": os.getpid()}
    if isinstance(root, Remote):
        with _leased(root / NAME, me, beat_seconds):
            yield
        return
    with _flocked(root / NAME, me):
        yield


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
        yield
    finally:
        path.unlink(missing_ok=True)
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
        with writing(path) as file:
            file.write(json.dumps(me | {"beat": beat}).encode())

    write()
    time.sleep(SETTLE_SECONDS)  # of two that began at once, the one who wrote last has it
    found = _read(path)
    if found is None or found["owner"] != me["owner"]:
        raise StoreBusy(_busy(path, json.dumps(found).encode()))
    ended = threading.Event()

    def renew() -> None:
        nonlocal beat
        while not ended.wait(beat_seconds):
            beat += 1
            try:
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
