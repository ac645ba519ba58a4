"""A tiny model, a marked clip, and its store: made once, read by many tests."""

from __future__ import annotations

import pytest

from ops.checkpoints.bundle import Bundle
from pipeline.engine.stage import Source
from pipeline.store.tables import Store
from tests import tiny


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny.tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """42 frames, two people; the left one is away for 0.6 s, so it comes back as a track of its own."""
    return tiny.source_of(tiny.marked_clip(tmp_path_factory.mktemp("clip") / "marked.mp4", 42, absent=range(15, 30)))


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, source: Source) -> Store:
    """The clip's store with float32 residuals. Renders only add `edits` to it."""
    store, summary = tiny.inverted(tmp_path_factory.mktemp("kept") / "store", [source], bundle)
    assert not summary.lost
    return store
