"""Fixtures shared by all tests: where the real material is, and that nothing leaks from one test to the next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import lanes, needs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = set(lanes.listed())
    for item in items:
        if item.nodeid in slow:
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        needs.require(*mark.args)


@pytest.fixture
def shared() -> Path:
    """The folder of real material (golden vectors, clips, models)."""
    return needs.shared(".")


@pytest.fixture
def shared_videos(shared: Path) -> Path:
    return shared / "videos"


@pytest.fixture(autouse=True)
def restored_random_state() -> Iterator[None]:
    """A test that seeds torch does not decide the numbers of the next one."""
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)
