"""Small JSON files that later runs trust. Each holds a SHA-256 of what it says, so that a bit that flips there is noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from pipeline.store.parts import StoreError
from pipeline.store.places import Place, write_text

CHECK = "check"


class BrokenRecord(StoreError):
    """A file that is not what was written: no JSON, cut short, of another form, or changed since."""

    def __init__(self, path: Place, why: str) -> None:
        super().__init__(path, why)
        self.path, self.why = path, why

    def __str__(self) -> str:
        return f"{self.path}: is not as it was written ({self.why})"


def write_record(path: Place, content: Mapping[str, Any]) -> None:
    """Write JSON values with their check, atomically.

    Raises:
        StoreError: a value that JSON cannot hold.
    """
    try:
        text = json.dumps(dict(content) | {CHECK: _check(content)}, sort_keys=True, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise StoreError(f"{path}: only finite JSON values can be kept ({error})") from error
    write_text(path, text + "\n")


def read_record(path: Place, *, unchecked: Collection[str] = ()) -> dict[str, Any]:
    """Read what `write_record` was given.

    unchecked: the names in a file that an earlier version wrote, before there were checks.

    Raises:
        FileNotFoundError: there is none.
        BrokenRecord: it is not what was written.
    """
    try:
        found = json.loads(path.read_bytes().decode("utf-8"))
    except ValueError as error:
        raise BrokenRecord(path, f"no JSON: {error}") from error
    if not isinstance(found, dict):
        raise BrokenRecord(path, f"expected an object, found {type(found).__name__}")
    if CHECK not in found:
        if unchecked and set(found) == set(unchecked):
            return found
        raise BrokenRecord(path, "its checksum is missing")
    said = found.pop(CHECK)
    if said != _check(found):
        raise BrokenRecord(path, "its checksum is another")
    return found


def _check(content: Mapping[str, Any]) -> str:
    text = json.dumps(dict(content), sort_keys=True, allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def digest(*values: Any) -> str:
    """32 hex digits of the SHA-256 of JSON values."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
