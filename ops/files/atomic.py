"""Files appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path

Publishing = Callable[[], AbstractContextManager[None]]
PUBLISHING: ContextVar[Publishing] = ContextVar("publishing", default=nullcontext)
"""Entered around the moment in which a file appears under its name; whoever may not write any more raises there."""


def beginning(name: str, most_bytes: int = 200) -> str:
    """As much of a name as leaves room for a mark behind it: file systems take 255 bytes."""
    return os.fsencode(name)[:most_bytes].decode("utf-8", "ignore")


@contextmanager
def replaced_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success sync it to disk and rename it to `path`.

    If the body raises, or `PUBLISHING` does, the temporary file is removed and `path` stays as it was. The temporary name is
    unique, so two writers of one path do not mix; the later rename wins.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{beginning(final.name)}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        _sync(temporary)
        with PUBLISHING.get()():
            os.replace(temporary, final)
        _sync(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
