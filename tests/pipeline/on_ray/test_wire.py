"""What goes to a worker for an item does not grow with the length of its source."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np

from pipeline.engine.stage import Chunk, Source
from pipeline.on_ray import wire
from pipeline.on_ray.wire import Receiver, Sender
from tests.pipeline.engine.test_course import made

FRAMES_PER_SECOND = 25


def sent_bytes(source: Source, chunk_frames: int = 64) -> tuple[float, int]:
    """(bytes per item, items); what `put` gives is as large as an object reference."""
    sender = Sender(lambda source: bytes(28))
    sizes = [len(pickle.dumps(sender.sent(item))) for item in source.chunks(chunk_frames)]
    return sum(sizes) / len(sizes), len(sizes)


def test_an_hour_of_video_has_items_as_small_as_ten_seconds() -> None:
    (short, few), (long, many) = (sent_bytes(made(n, seconds * FRAMES_PER_SECOND)) for n, seconds in ((1, 10), (2, 3600)))
    assert few == 4 and many == 1407
    assert abs(long - short) <= 0.1 * short and long < 1000


def test_a_source_is_put_down_once_and_fetched_once_and_an_item_arrives_as_it_was(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    put: list[Source] = []
    got: list[object] = []

    def down(source: Source) -> int:
        put.append(source)
        return len(put) - 1

    def up(reference: int) -> Source:
        got.append(reference)
        return put[reference]

    sender, receiver = Sender(down), Receiver(up)
    source, picture = made(1, 1000), made(2, 1)
    for item in [*source.chunks(64), picture.whole()]:
        item = replace(item, key="k")
        there = receiver.item(pickle.loads(pickle.dumps(sender.sent(item))))
        assert isinstance(there, Chunk) and (there.start, there.stop, there.key) == (item.start, item.stop, "k")
        assert there.pts_range == item.pts_range and there.source.source_id == item.source.source_id
        np.testing.assert_array_equal(there.source.info.pts, item.source.info.pts)
    assert len(put) == len(got) == 1, "the picture went with its item"
    sender.forget(source.source_id)
    receiver.item(sender.sent(source.whole()))
    assert len(put) == len(got) == 2, "begun again, it is put down again, and the worker does not keep the old one"
    monkeypatch.setattr(wire, "MOST_KEPT", 1)
    other = made(3, 1000)
    receiver.item(sender.sent(other.whole()))
    receiver.item(sender.sent(source.whole()))
    assert len(got) == 4, "a worker keeps so many and no more"
