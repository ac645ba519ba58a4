"""Bytes of small files of a bucket that this process has read or written: steps read again what a step before them wrote.

Kept under the version that a listing shows, which on S3 is the MD5 of the bytes (but of what is encrypted by a key of its
owner's: that is read each time). So a file that somebody has replaced is read anew. Whoever verifies a file does not look here.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Final, final

KEPT_BYTES: Final = 64 << 20


_MD5 = re.compile("[0-9a-f]{32}")


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@final
class Kept:
    """The bytes that were used last, as many as fit. Threads may share it."""

    def __init__(self, limit_bytes: int = KEPT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._lock = Lock()
        self._kept: OrderedDict[Hashable, tuple[str, bytes]] = OrderedDict()
        self._size_bytes = 0

    def of(self, path: Hashable, version: str) -> bytes | None:
        """The bytes of a file of that version; None where they are not here."""
        with self._lock:
            found = self._kept.get(path)
            if found is None or not version or found[0] != version:
                return None
            self._kept.move_to_end(path)
            return found[1]

    def add(self, path: Hashable, version: str, data: bytes) -> None:
        """Bytes that were read; not kept where the version says that they are others, as after a fault on their way."""
        if _MD5.fullmatch(version) and version != md5_of(data):
            return
        with self._lock:
            self._forget(path)
            if not version or len(data) > self._limit_bytes:
                return
            self._kept[path] = (version, data)
            self._size_bytes += len(data)
            while self._size_bytes > self._limit_bytes:
                self._forget(next(iter(self._kept)))

    def add_written(self, path: Hashable, data: bytes) -> None:
        """Keep bytes that this process has written there."""
        self.add(path, md5_of(data), data)

    def _forget(self, path: Hashable) -> None:
        if (found := self._kept.pop(path, None)) is not None:
            self._size_bytes -= len(found[1])


KEPT: Final = Kept()
