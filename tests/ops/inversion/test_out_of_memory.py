"""A batch that does not fit is halved, once and for all, and the results are the same."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from ops.inversion.session import Session
from tests import tiny

ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    MemoryError(),
)


@pytest.mark.parametrize("error", ERRORS)
def test_a_batch_that_does_not_fit_is_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    model = tiny.tiny_bundle(tmp_path / "b").load("all")
    crops = np.random.default_rng(0).integers(0, 256, (21, 32, 32, 3), np.uint8)
    reference, detail = Session(model, device="cpu", precision="fp32", batch_size=4).invert(crops)
    session = Session(model, device="cpu", precision="fp32", batch_size=16)
    whole = type(session.model).invert
    asked = []

    def tight(self: object, images: torch.Tensor) -> object:
        asked.append(len(images))
        if len(images) > 4:
            raise error
        return whole(session.model, images)

    monkeypatch.setattr(type(session.model), "invert", tight)
    with caplog.at_level(logging.WARNING):
        codes, residual = session.invert(crops)
        session.invert(crops)
    assert np.array_equal(codes, reference) and residual is not None and np.array_equal(residual, detail)
    assert asked[:3] == [16, 8, 4] and set(asked[3:]) == {4} and session.batch_size == 4
    assert len(caplog.records) == 2, "each halving is said once"


def test_other_errors_are_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(tiny.tiny_bundle(tmp_path / "b").load("all"), device="cpu", precision="fp32", batch_size=4)

    def broken(self: object, images: torch.Tensor) -> object:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(type(session.model), "invert", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        session.invert(np.zeros((3, 32, 32, 3), np.uint8))
    assert session.batch_size == 4
