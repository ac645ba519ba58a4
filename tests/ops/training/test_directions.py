"""Edits are found where they are, and only where the data can say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ops.data.faces import DataError, Faces
from ops.inversion.styleres import StyleRes
from ops.training import directions
from ops.training.directions import AttributeEdit, find_edits, ganspace_basis
from tests.small_model import SMALL


@pytest.fixture(scope="module")
def model() -> StyleRes:
    torch.manual_seed(0)
    return StyleRes(SMALL).eval().requires_grad_(False)


@pytest.fixture
def faces(monkeypatch: pytest.MonkeyPatch) -> Faces:
    """Codes are made here, not inverted: `warm` moves axis 0, `tall` axis 1, and warm faces are often tall."""
    rng = np.random.default_rng(0)
    warm = rng.random(2000) < 0.5
    tall = np.where(rng.random(2000) < 0.8, warm, ~warm)
    codes = torch.from_numpy(rng.normal(size=(2000, 16)).astype(np.float32))
    codes[:, 0] += 3 * torch.from_numpy(warm)
    codes[:, 1] += 2 * torch.from_numpy(tall)
    monkeypatch.setattr(directions, "codes_of", lambda _model, _images: codes)
    images = np.zeros((2000, 32, 32, 3), np.uint8)
    return Faces(images, np.arange(2000), {"warm": warm, "tall": tall, "rare": np.arange(2000) < 5})


WARM = AttributeEdit("warmth", "warm", None, (), "warmer")
TALL = AttributeEdit("height", "tall", None, ("warmth",), "taller")


def test_a_boundary_points_along_its_attribute_and_is_as_long_as_it(model: StyleRes, faces: Faces) -> None:
    found = find_edits(model, faces, [WARM, TALL], pose=False, components=0)
    warmth, height = found.tensors["direction.warmth"], found.tensors["direction.height"]
    assert warmth.argmax() == 0 and 2.4 < warmth.norm() < 3.6
    assert height.argmax() == 1 and abs(float(torch.cosine_similarity(warmth, height, dim=0))) < 1e-5
    assert [entry.name for entry in found.entries] == ["warmth", "height"]
    assert "balanced accuracy 0.9" in found.lines[0]
    opposite = replace(WARM, positive=None, negative="warm")
    cold = find_edits(model, faces, [opposite], pose=False, components=0).tensors["direction.warmth"]
    torch.testing.assert_close(cold, -warmth, rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (AttributeEdit("x", "blue", None, (), ""), "no attribute blue; it has: rare, tall, warm"),
        (AttributeEdit("x", "rare", None, (), ""), "5 faces on one side"),
        (AttributeEdit("x", "warm", None, ("smile",), ""), "without smile, which must be sought beside"),
    ],
)
def test_what_the_data_cannot_say_is_refused(model: StyleRes, faces: Faces, edit: AttributeEdit, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_edits(model, faces, [edit], pose=False, components=0)


def test_components_are_those_of_w(model: StyleRes) -> None:
    basis = ganspace_basis(model.generator, 3, samples=4000)
    draws = torch.Generator().manual_seed(0)
    codes = model.generator.mapping(torch.randn(4000, 16, generator=draws))
    _, values, vectors = np.linalg.svd((codes - codes.mean(dim=0)).numpy(), full_matrices=False)
    np.testing.assert_allclose(basis.std_K, values[:3] / np.sqrt(3999), rtol=1e-3)
    cosines = np.abs((basis.components_KD.numpy() * vectors[:3]).sum(axis=1))
    np.testing.assert_allclose(cosines, 1, atol=1e-3)
