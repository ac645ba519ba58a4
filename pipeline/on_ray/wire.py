"""Packs items for their way to a worker: small for a source of any length.

A source has the pts of every frame: 0.7 MB for an hour of video, whose thousands of items would each carry them, so that the
traffic grew with the square of the length. Here an item is its source's id, a range and a key. The source itself is stored
once (Ray's object store holds it, and each node fetches it once), and a worker keeps the last ones that it used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, final

from pipeline.engine.stage import Chunk, Item, Joining, Picture, Source

INLINE_FRAMES: Final = 64
"""Frames of a source that travels with its item, at most (a picture, above all): looking it up would cost more."""
MOST_KEPT: Final = 128
"""Sources that a worker keeps."""


@dataclass(frozen=True, eq=False)
class Sent:
    """A `Chunk` without its source."""

    source_id: str
    source: Any
    """The source itself if it is small; else the reference that `put` returned for it."""
    start: int
    stop: int
    key: str


@final
class Sender:
    """Packs items in the driver. put: stores a source => a small reference, which the receiver's `get` resolves."""

    def __init__(self, put: Callable[[Source], Any]) -> None:
        self._put = put
        self._there: dict[str, Any] = {}

    def sent(self, item: Item) -> Sent | Picture | Joining:
        if not isinstance(item, Chunk):
            return item  # some names and digests
        source = item.source
        if source.info.n_frames <= INLINE_FRAMES:
            return Sent(source.source_id, source, item.start, item.stop, item.key)
        if source.source_id not in self._there:
            self._there[source.source_id] = self._put(source)
        return Sent(source.source_id, self._there[source.source_id], item.start, item.stop, item.key)

    def forget(self, source_id: str) -> None:
        """Drop a source of which no more items will come."""
        self._there.pop(source_id, None)


@final
class Receiver:
    """Unpacks items in a worker; for several threads."""

    def __init__(self, get: Callable[[Any], Source]) -> None:
        self._get = get
        self._kept: OrderedDict[str, tuple[Any, Source]] = OrderedDict()
        self._lock = Lock()

    def item(self, sent: Sent | Picture | Joining) -> Item:
        if not isinstance(sent, Sent):
            return sent
        return Chunk(self._source(sent), sent.start, sent.stop, sent.key)

    def _source(self, sent: Sent) -> Source:
        if isinstance(sent.source, Source):
            return sent.source
        with self._lock:
            kept = self._kept.get(sent.source_id)
            # Stored anew: probed again, and perhaps at another place now.
            if kept is None or kept[0] != sent.source:
                kept = sent.source, self._get(sent.source)
            self._kept[sent.source_id] = kept
            self._kept.move_to_end(sent.source_id)
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
            return kept[1]
