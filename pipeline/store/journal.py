"""Changes to a store that are always finished once they are begun: what is to be done is written down before anything is done.

    STORE/.journal/<job>-<source_id>-….json

While there is such a file nobody may read or write the store but whoever finishes the change (`upkeep.finish`), and every
command does that first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.store.parts import StoreError
from pipeline.store.places import Place, joined, listed, remove
from pipeline.store.records import BrokenRecord, read_record, write_record

FOLDER = ".journal"


class Unfinished(StoreError):
    """A change of the store was cut short."""

    def __init__(self, root: Place, names: list[str]) -> None:
        super().__init__(root, names)
        self.root, self.names = root, names

    def __str__(self) -> str:
        return (
            f"{self.root}: a change was cut short ({', '.join(self.names[:3])}); every styleres command finishes it before "
            f"anything else, `styleres store verify {self.root}` for instance"
        )


def begin(root: Place, name: str, content: Mapping[str, Any]) -> None:
    """From now on the change is made, whatever happens."""
    write_record(_path(root, name), content)


def end(root: Place, name: str) -> None:
    """The change is made."""
    remove(_path(root, name))


def unfinished(root: Place) -> list[str]:
    """Names of the changes that were begun and not ended."""
    return [file.path.stem for file in listed(root / FOLDER, ".json")]


def read(root: Place, name: str) -> dict[str, Any] | None:
    """Read what was to be done; None where the file is broken: then its name must do."""
    try:
        return read_record(_path(root, name))
    except BrokenRecord:
        return None


def _path(root: Place, name: str) -> Place:
    return joined(root, f"{FOLDER}/{name}.json")
