"""Ghosts that were made on purpose, and results without any."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ops.metrics.ghosts import GhostSums

SIDE = 64


def blob(row: int, column: int) -> Tensor:
    """A soft white spot: what a code draws, [4, 3, 64, 64]."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    spot = torch.exp(-((y - row) ** 2 + (x - column) ** 2) / 80.0)
    return spot.expand(4, 3, SIDE, SIDE).clone()


def made_up() -> dict[str, Tensor]:
    """A face whose mouth is moved by an edit from row 20 to row 44, with fine detail that the code misses."""
    texture = 0.2 * torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    before, after = blob(20, 32), blob(44, 32)
    return {"texture": texture, "before": before, "after": after, "source": before + texture}


def measured(edited: Tensor, faces: dict[str, Tensor]) -> tuple[float, float]:
    sums = GhostSums()
    for part in (slice(0, 1), slice(1, 4)):  # in pieces, as an evaluation does
        sums.add(faces["source"][part], edited[part], faces["before"][part], faces["after"][part])
    assert sums.count == 4 and sums.ghost is not None and sums.kept is not None
    return sums.ghost, sums.kept


def test_a_pasted_residual_is_a_ghost() -> None:
    faces = made_up()
    assert measured(faces["after"] + faces["texture"], faces) == pytest.approx((1, 1), abs=1e-4)


def test_a_double_exposure_is_half_a_ghost() -> None:
    faces = made_up()
    assert measured(faces["after"] + 0.5 * faces["texture"], faces) == pytest.approx((0.5, 0.5), abs=1e-4)


def test_painting_over_the_edit_is_a_ghost_too() -> None:
    faces = made_up()
    ghost, kept = measured(faces["source"], faces)
    assert ghost > 0.9 and kept == pytest.approx(1, abs=0.02)


def test_a_residual_that_gives_way_leaves_none() -> None:
    """Detail stays away from the edit and gives way at both places that the mouth had: other detail, or none, is no ghost."""
    faces = made_up()
    away = ((faces["before"] < 0.05) & (faces["after"] < 0.05)).float()
    other = 0.2 * torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    for new in (torch.zeros(()), other):
        ghost, kept = measured(faces["after"] + away * faces["texture"] + (1 - away) * new, faces)
        assert abs(ghost) < 0.1 and kept > 0.9


def test_a_ghost_of_the_old_mouth_alone_is_seen() -> None:
    """All detail gives way but what lay at the old mouth, half of what changed."""
    faces = made_up()
    old = (faces["before"] > 0.05).float()
    ghost, kept = measured(faces["after"] + old * faces["texture"], faces)
    assert 0.35 < ghost < 0.65 and kept < 0.2


def test_the_code_alone_has_neither() -> None:
    faces = made_up()
    assert measured(faces["after"], faces) == pytest.approx((0, 0), abs=1e-6)
    assert GhostSums().ghost is None, "no face, no number"
