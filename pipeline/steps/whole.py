"""Reads what belongs to a source and not to a chunk, once: tables of small rows, and lists of the parts of large tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import pyarrow as pa

from pipeline.engine.stage import Chunk
from pipeline.store.parts import DamagedPart, Written, range_of
from pipeline.store.places import Listed
from pipeline.store.tables import Store


@final
class WholeTable:
    """Keeps a table's rows of the last source that was read; for one thread.

    `tracks` of a source are one part, so that a chunk that reads its own rows reads all of them: an hour of video would read
    its tracks once for each of a thousand chunks.
    """

    def __init__(self, store: Store, table: str, columns: Sequence[str]) -> None:
        self._store, self._table, self._columns = store, table, list(columns)
        self._of: tuple[str, str] | None = None
        self._rows: pa.Table | None = None
        self._pts_N = np.zeros(0, np.int64)

    def rows(self, chunk: Chunk, pts_range: tuple[int, int]) -> pa.Table:
        """Return rows with first <= pts <= last, in order of pts, then track. Raises as `Store.read`."""
        source_id = chunk.source.source_id
        if not chunk.key:  # without a key the rows may change
            return self._store.read(self._table, source_id, pts_range, self._columns)
        if self._rows is None or self._of != (source_id, chunk.key):
            self._rows = self._store.read(self._table, source_id, columns=self._columns)
            self._pts_N, self._of = self._rows["pts"].to_numpy(), (source_id, chunk.key)
        start = int(np.searchsorted(self._pts_N, pts_range[0], "left"))
        stop = int(np.searchsorted(self._pts_N, pts_range[1], "right"))
        return self._rows.slice(start, stop - start)


@final
class PartsOf:
    """Keeps the list of a table's parts of the last source that was read; for one thread.

    A chunk that looks for its own parts lists those of all chunks: for an hour of video a thousand times a thousand.
    """

    def __init__(self, store: Store, table: str) -> None:
        self._store, self._table = store, table
        self._of: tuple[str, str] | None = None
        self._files: list[Listed] = []
        self._vouched: dict[str, Written] = {}

    def rows(self, chunk: Chunk, pts_range: tuple[int, int]) -> pa.Table:
        """Return the chunk's rows with first <= pts <= last, in order of pts, then track; opens only parts that can hold them.

        Raises as `Store.read`, and DamagedPart for a footer that differs from the one that was written.
        """
        source_id = chunk.source.source_id
        if not chunk.key:  # without a key the parts may change
            return self._store.read(self._table, source_id, pts_range)
        if self._of != (source_id, chunk.key):
            self._files, self._of = self._store.listing(self._table, source_id), (source_id, chunk.key)
            self._vouched = {file.path: file for file in self._store.vouched_parts(source_id)}
        near = [file for file in self._files if _may_hold(file, chunk)]
        try:
            for file in near:
                if (vouched := self._vouched.get(f"{self._table}/{source_id}/{file.path.name}")) is not None:
                    self._store.require_footer(file, vouched)
            parts = [self._store.part(self._table, source_id, file, whole=True) for file in near]
            return self._store.read(self._table, source_id, pts_range, parts=parts)
        except DamagedPart:
            self._of = None  # others may take their places
            raise


def _may_hold(file: Listed, chunk: Chunk) -> bool:
    """Return whether a part may have rows of a chunk's frames, by the range in its name."""
    span = range_of(file.path.stem)
    return span is None or (span[0] < chunk.stop and chunk.start < span[1])
