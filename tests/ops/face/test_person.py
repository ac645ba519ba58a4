"""Where an edit may show: not on what lies before the face, and a little beyond the outline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ops.data.faces import load_faces
from ops.face.mask import around_face
from ops.face.paste import PasteSettings, paste
from ops.face.person import allowed, people_weights, person_weights
from ops.networks.parts import PARTS_SIZE, SEEN_SIZE
from tests.ops.face.test_paste import FACE, QUAD


def test_what_lies_before_the_face_stays_and_the_outline_is_let_out() -> None:
    side = PARTS_SIZE
    y, x = np.mgrid[:side, :side] / side
    seen = (np.hypot((x - 0.5) / 0.36, (y - 0.55) / 0.42) < 1).astype(np.float32)
    hand = (np.abs(x - 0.5) < 0.1) & (np.abs(y - 0.7) < 0.06)
    seen[hand] = 0.0
    weight = allowed(seen)
    assert weight[hand].max() == 0.0, "the hand lies within the face's oval"
    assert (weight[(seen == 1) & (around_face(side) == 0)] == 1.0).all()
    just_beyond = (np.hypot((x - 0.5) / 0.36, (y - 0.55) / 0.42) < 1.05) & (seen == 0) & (around_face(side) == 1)
    assert just_beyond.any() and weight[just_beyond].min() > 0.2
    assert weight[:4].max() < 0.05 and weight[:, :4].max() < 0.05, "far from the person nothing shows"


def test_a_picture_of_a_kind_that_the_network_does_not_know_is_edited() -> None:
    assert (allowed(np.zeros((PARTS_SIZE, PARTS_SIZE), np.float32)) == 1.0).all()


def test_a_paste_leaves_alone_what_is_not_the_person() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    reference = np.full((64, 64, 3), 90.0, np.float32)
    person = np.ones((PARTS_SIZE, PARTS_SIZE), np.float32)
    whole = paste(frame, reference + 60, reference, QUAD, PasteSettings("delta"), FACE.landmarks_52)
    same = paste(frame, reference + 60, reference, QUAD, PasteSettings("delta"), FACE.landmarks_52, person=person)
    np.testing.assert_array_equal(same, whole)
    none = paste(frame, reference + 60, reference, QUAD, PasteSettings("delta"), FACE.landmarks_52, person=0 * person)
    np.testing.assert_array_equal(none, frame)


@pytest.mark.slow
def test_the_network_finds_faces_and_a_bar_before_them(shared: Path) -> None:
    """Held-out faces; a flat bar is put before the mouth."""
    side = SEEN_SIZE
    crops = load_faces(shared / "data" / "faces256.parquet", side, "held_out", limit=12).images
    barred = crops.copy()
    bar = (slice(round(0.66 * side), round(0.8 * side)), slice(0, side))
    barred[:, *bar] = (110, 80, 60)
    inner = around_face(PARTS_SIZE) == 0
    row = slice(round(0.7 * PARTS_SIZE), round(0.76 * PARTS_SIZE))
    middle = slice(PARTS_SIZE // 2 - 8, PARTS_SIZE // 2 + 8)
    free, covered = (np.stack([person_weights(crop) for crop in some]) for some in (crops, barred))
    assert free[:, inner].mean() > 0.95
    assert covered[:, row, middle].mean() < 0.35 < 0.9 < free[:, row, middle].mean()


def test_weights_do_not_depend_on_threads() -> None:
    crop = np.random.default_rng(1).integers(0, 256, (SEEN_SIZE, SEEN_SIZE, 3), dtype=np.uint8)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = person_weights(crop)
        torch.set_num_threads(2)
        np.testing.assert_allclose(person_weights(crop), one, atol=1e-5)
    finally:
        torch.set_num_threads(before)


def test_many_at_once_are_as_each_alone() -> None:
    """As on an accelerator; last bits apart."""
    crops = np.random.default_rng(2).integers(0, 256, (3, SEEN_SIZE, SEEN_SIZE, 3), dtype=np.uint8)
    crops[1] = 128
    found = people_weights(crops, torch.device("cpu"))
    assert found.shape == (3, PARTS_SIZE, PARTS_SIZE) and found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack([person_weights(crop) for crop in crops]), atol=1e-4)
