"""One open reader per worker: chunks of one source come one after the other, and opening a file costs more than a chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ops.video.convert import Conversion, Picture
from ops.video.decode import Backend, FrameReader
from pipeline.engine.stage import Source
from pipeline.sources.fetch import FETCHER, require_unchanged
from pipeline.sources.sequences import is_sequence, read_frames


class Readers:
    """Keeps the reader of the last source open."""

    def __init__(self, backend: Backend, conversion: Conversion = "fast"):
        # Only PyAV converts exactly, whichever decoder is preferred for looking at frames.
        self._backend: Backend = "pyav" if conversion == "exact" else backend
        self._conversion: Conversion = conversion
        self._source_id: str | None = None
        self._reader: FrameReader | None = None

    def _opened(self, source: Source) -> FrameReader:
        path = FETCHER.path(source.uri)
        require_unchanged(source, path)
        if self._reader is None or self._source_id != source.source_id:
            if self._reader is not None:
                self._reader.close()
            self._reader = FrameReader(replace(source.info, uri=str(path)), self._backend, conversion=self._conversion)
            self._source_id = source.source_id
        return self._reader

    def read(self, source: Source, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """(pts, frame) of frames [start, stop).

        Raises MediaError, also where the file is not the one that was probed any more.
        """
        if is_sequence(source.info):
            return ((pts, loaded.image.frame) for pts, _, loaded in read_frames(source.info, start, stop))
        return self._opened(source).read(start, stop)

    def read_pictures(self, source: Source, start: int, stop: int) -> Iterator[tuple[int, Picture]]:
        """(pts, picture) of frames [start, stop) of a video; raises as `read` does. Needs the conversion "exact"."""
        return self._opened(source).read_pictures(start, stop)
