"""SHA-256 of files: the one way in which bytes are identified."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Protocol

BLOCK_BYTES = 1 << 20


class Opens(Protocol):
    """A path, or whatever opens like one."""

    def open(self, mode: str) -> IO[Any]: ...


def sha256_of(path: Opens) -> str:
    """64 hex digits of a file's bytes; a block at a time is in memory. Raises OSError where it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_together(files: Sequence[Path]) -> str:
    """64 hex digits over several files, each with its name and length, in the order given; raises OSError.

    A process reads them once: again only when one of them has another inode, length or time of change.
    """
    facts = [(path, path.stat()) for path in files]
    return _together(tuple((path, one.st_ino, one.st_size, one.st_mtime_ns) for path, one in facts))


@lru_cache(maxsize=64)
def _together(files: tuple[tuple[Path, int, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _, size_bytes, _ in files:
        digest.update(f"{path.name}:{size_bytes}:".encode())
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()
