"""What a face becomes does not depend on threads, on its place in a batch, nor on the batch's size: the store's promise."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from ops.checkpoints.bundle import open_bundle
from ops.inversion.session import Session


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def found(crops: np.ndarray, batch: int, threads: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    torch.set_num_threads(threads)
    session = Session(open_bundle("mini64").load("all"), device="cpu", precision="fp32", batch_size=batch)
    wplus, detail = session.invert(crops)
    return wplus, detail, session.generate_levels(wplus + 0.1, detail)


@pytest.mark.parametrize(("batch", "count"), [(16, 1), (16, 3), (8, 2), (4, 1), (4, 2), (12, 2)])
def test_threads_places_and_sizes_of_batches(threads: None, batch: int, count: int) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (21, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    expected = found(crops, 16, 2)
    for ours, theirs in zip(found(np.roll(crops, 5, 0), batch, count), expected, strict=True):
        assert ours is not None and theirs is not None
        np.testing.assert_array_equal(np.roll(ours, -5, 0), theirs)
