"""Defines the error of this package for files that cannot be used."""

from __future__ import annotations

from pathlib import Path


class MediaError(ValueError):
    """A media file cannot be read or written. The message names the file, the reason and what to do next."""

    def __init__(self, path: str | Path, reason: str, remedy: str = "") -> None:
        """`path`: the file; `reason`: what is wrong with it; `remedy`: what the user can do about it."""
        super().__init__(f"{path}: {reason}" + (f". Remedy: {remedy}" if remedy else ""))
        self.path = str(path)
        self.reason = reason
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str, str]]:
        # An exception pickles by its message alone unless told otherwise; workers send these to the driver.
        return MediaError, (self.path, self.reason, self.remedy)
