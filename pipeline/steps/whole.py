"""What is a source's and not a chunk's, looked for once: tables of small rows, and which parts there are of large ones."""

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
    """Keeps the rows of the source that it was asked for last; for one thread.

    `tracks` of a source are one part, so that a chunk that reads its own rows reads all of them: an hour of video would read
    its tracks once for each of a thousand chunks.
    """

    def __init__(self, store: Store, table: str, columns: Sequence[str]) -> None:
        self._store, self._table, self._columns = store, table, list(columns)
        self._of: tuple[str, str] | None = None
        self._rows: pa.Table | None = None
        self._pts_N = np.zeros(0, np.int64)

    def rows(self, chunk: Chunk, pts_range: tuple[int, int]) -> pa.Table:
        """Rows with first <= pts <= last, in order of pts, then track. Raises as `Store.read`."""
        source_id = chunk.source.source_id
        if not chunk.key:  # nobody vouches that the rows stay as they are
            return self._store.read(self._table, source_id, pts_range, self._columns)
        if self._rows is None or self._of != (source_id, chunk.key):
            self._rows = self._store.read(self._table, source_id, columns=self._columns)
            self._pts_N, self._of = self._rows["pts"].to_numpy(), (source_id, chunk.key)
        start = int(np.searchsorted(self._pts_N, pts_range[0], "left"))
        stop = int(np.searchsorted(self._pts_N, pts_range[1], "right"))
        return self._rows.slice(start, stop - start)


@final
class PartsOf:
    """Keeps which parts of a table there are of the source that it was asked for last; for one thread.

    A chunk that looks for its own parts lists those of all chunks: of an hour of video a thousand times a thousand.
    """

    def __init__(self, store: Store, table: str) -> None:
        self._store, self._table = store, table
        self._of: tuple[str, str] | None = None
        self._files: list[Listed] = []
        self._vouched: dict[str, Written] = {}

    def rows(self, chunk: Chunk, pts_range: tuple[int, int]) -> pa.Table:
        """Rows of the chunk with first <= pts <= last, in order of pts, then track; only parts that can hold them are opened.

        Raises as `Store.read`, and DamagedPart for a footer that is not the one that was written.
        """
        source_id = chunk.source.source_id
        if not chunk.key:  # nobody vouches that the parts stay as they are
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
    """Whether a part has rows of a chunk's frames, as far as its name says it."""
    span = range_of(file.path.stem)
    return span is None or (span[0] < chunk.stop and chunk.start < span[1])
