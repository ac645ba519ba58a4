"""Packs: pictures whose rows are stored together, so that a million pictures are some thousand files and not nine million.

    <table>/<pack_id>/part-000000000-00000N.parquet   the rows of N pictures, in the order in which they were given
    manifests/<stage>/<pack_id>.json                  written last; its `members` are the pictures that it speaks of

A pack is an economy and no identity: every picture keeps the key of its bytes, no key contains the pack, and which pictures lie
in one follows what was missing when a run began. Row groups hold some dozen pictures each, so that one is read without all.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable
from typing import Any, Final, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.parts import DamagedPart, Part, conformed
from pipeline.store.places import Listed, opened

MARK_BYTES: Final = 8
GROUP_ROWS: Final = 64
GROUP_BYTES: Final = 16 << 20
"""A row group of a pack has so many rows, or bytes, at most: whoever wants one picture reads its group."""


def is_pack(holder: str) -> bool:
    """Whether a folder of a table is a pack's: keys of sources are hexadecimal digits, or an x and such."""
    return holder.startswith("p")


def pack_id_of(names: Iterable[str]) -> str:
    """A name for the pack of what these names stand for."""
    return "p" + hashlib.sha256("\n".join(names).encode()).hexdigest()[:15]


def mark_of(uri: str, size_bytes: int, modified_ns: int) -> int:
    """64 bits that tell a file of that place, length and time of change from any other; never 0."""
    text = os.fsencode(f"{uri}\0{size_bytes}\0{modified_ns}")
    return int.from_bytes(hashlib.blake2b(text, digest_size=MARK_BYTES).digest(), "little") or 1


def number_of(source_id: str) -> int:
    """The 64 bits of a source's key."""
    return int(source_id, 16)


@final
class Numbers:
    """A set of 64-bit numbers in ten bytes each or so, of which a million are to be remembered; 0 is never in it."""

    def __init__(self, capacity: int = 1 << 10) -> None:
        self._slots = np.zeros(capacity, np.uint64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, number: int) -> bool:
        return bool(number) and int(self._slots[self._place(number)]) == number

    def add(self, number: int) -> bool:
        """Return whether it is new."""
        place = self._place(number)
        if not number or int(self._slots[place]) == number:
            return False
        self._slots[place] = number
        self._count += 1
        if 5 * self._count > 4 * len(self._slots):
            kept, self._slots, self._count = self._slots[self._slots != 0], np.zeros(2 * len(self._slots), np.uint64), 0
            for one in kept.tolist():
                self.add(one)
        return True

    def _place(self, number: int) -> int:
        """Return its place, or the free place where it would be."""
        mask = len(self._slots) - 1
        place = (number * 0x9E3779B97F4A7C15 >> 20) & mask
        while (there := int(self._slots[place])) and there != number:
            place = (place + 1) & mask
        return place


def ids_in(part: Part) -> np.ndarray:
    """The key of every row of a part, bytes [N]. Raises DamagedPart."""
    try:
        with opened(part.listed) as raw, pq.ParquetFile(raw, page_checksum_verification=True) as file:
            column = file.read(columns=["source_id"])["source_id"]
    except (OSError, pa.ArrowException) as error:
        raise DamagedPart({part.path: str(error)}) from error
    return np.array(column.to_pylist(), "S16")


def read_members(part: Part, columns: list[str], schema: pa.Schema, source_ids: Collection[str], ids_N: np.ndarray) -> pa.Table:
    """The rows of some pictures; only the row groups that hold them are read.

    `ids_N`: the part's `ids_in`. Raises DamagedPart.
    """
    wanted_N = np.isin(ids_N, np.array(sorted(source_ids), "S16"))
    try:
        with opened(part.listed) as raw, pq.ParquetFile(raw, page_checksum_verification=True, pre_buffer=True) as file:
            rows = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            stops = np.cumsum(rows)
            groups = [at for at, stop in enumerate(stops) if wanted_N[stop - rows[at] : stop].any()]
            found = file.read_row_groups(groups, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise DamagedPart({part.path: str(error)}) from error
    mask_M = np.concatenate([wanted_N[stops[at] - rows[at] : stops[at]] for at in groups] or [np.zeros(0, bool)])
    found = conformed(found, pa.schema([schema.field(name) for name in columns]), where=str(part.path))
    return found if mask_M.all() else found.filter(pa.array(mask_M))


def readable_rows(one: Listed, schema: pa.Schema, members: Collection[str]) -> tuple[pa.Table, set[str]]:
    """Read a damaged part => (the rows of its sound row groups, the pictures whose rows are lost).

    members: who has rows in it, where it does not say it itself any more.
    """
    pieces, hit = [schema.empty_table()], set[str]()
    try:
        with opened(one) as raw, pq.ParquetFile(raw, page_checksum_verification=True) as file:
            for group in range(file.metadata.num_row_groups):
                ids = file.read_row_group(group, columns=["source_id"])["source_id"].to_pylist()
                try:
                    pieces.append(conformed(file.read_row_group(group), schema, where=str(one.path)))
                except (OSError, pa.ArrowException):
                    hit.update(ids)
    except (OSError, ValueError, pa.ArrowException):
        return schema.empty_table(), set(members)
    return pa.concat_tables(pieces), hit


def group_rows(rows: pa.Table) -> int:
    """How many rows of a pack's part make a row group."""
    each = max(1, rows.nbytes // max(1, rows.num_rows))
    return max(1, min(GROUP_ROWS, GROUP_BYTES // each))


def members_of(content: dict[str, Any] | None) -> dict[str, Any]:
    """Return the pictures in a pack's manifest, each with its content; {} for a manifest of another kind."""
    found = (content or {}).get("members", {})
    return found if isinstance(found, dict) else {}
