"""Recognisers behind one interface: aligned crops, cosines, faces that are not found."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ops.data.faces import load_faces
from ops.face.detect import ARCFACE_TEMPLATE_52, DetectorError, DetectorSettings, build_detector
from ops.files.errors import CheckpointError
from ops.metrics.identity import (
    IdentityNetwork,
    IdentitySettings,
    face_landmarks,
    faces_at,
    identity_crop,
    open_identity,
)


class Colours(IdentityNetwork):
    """An identity is a face's mean colour."""

    name = "mean colour"  # type: ignore[assignment]

    def embed(self, faces: np.ndarray) -> np.ndarray:
        vectors = faces.astype(np.float64).mean(axis=(1, 2))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_crop_puts_landmarks_on_the_template() -> None:
    """Turned by 30 degrees, 2.5 times as large, elsewhere: white dots on the landmarks come out on the template."""
    angle = np.radians(30)
    turn = 2.5 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = ARCFACE_TEMPLATE_52 @ turn.T + (150, 20)
    frame = np.zeros((480, 480, 3), np.uint8)
    for x, y in landmarks:
        cv2.circle(frame, (round(x), round(y)), 6, (255, 255, 255), -1)
    crop = identity_crop(frame, landmarks)
    assert crop.shape == (112, 112, 3)
    for x, y in ARCFACE_TEMPLATE_52:
        assert crop[round(y), round(x)].min() == 255
    assert crop[60, 10].max() == 0


def test_faces_are_cut_at_the_landmarks_of_the_enlarged_crop() -> None:
    """A crop of 128 px whose landmarks are given at 256 px: dots at half their places come out on the template."""
    crop = np.zeros((1, 128, 128, 3), np.uint8)
    landmarks = ARCFACE_TEMPLATE_52 + np.array([70, 60])
    for x, y in landmarks / 2:
        cv2.circle(crop[0], (round(x), round(y)), 3, (255, 255, 255), -1)
    (face,) = faces_at(crop, [landmarks])
    for x, y in ARCFACE_TEMPLATE_52:
        assert face[round(y), round(x)].min() > 200


@pytest.fixture(params=["mobilefacenet", "insightface"])
def recogniser(request: pytest.FixtureRequest, shared: Path) -> IdentityNetwork:
    paths = {"mobilefacenet": "identity/mobilefacenet.pt", "insightface": "insightface_root/models/face_default"}
    return open_identity(IdentitySettings(request.param, shared / "models" / paths[request.param]))


def test_recognisers_tell_people_apart(recogniser: IdentityNetwork, shared: Path) -> None:
    """Two pictures of one person are more alike than those of two, on average over real people."""
    faces = load_faces(shared / "data" / "faces128.parquet", 128, "held_out", limit=150)
    people = [np.flatnonzero(faces.identity == one)[:2] for one in np.unique(faces.identity)]
    chosen = [pair for pair in people if len(pair) == 2][:8]
    pictures = faces.images[np.concatenate(chosen)]
    found = face_landmarks(build_detector(DetectorSettings()), pictures)
    assert all(five is not None for five in found)
    embedded = recogniser.embed(faces_at(pictures, [five for five in found if five is not None]))
    first, second = embedded[0::2], embedded[1::2]
    same, other = (first * second).sum(axis=1), (first * np.roll(second, 1, axis=0)).sum(axis=1)
    assert same.mean() > other.mean() + 0.2
    assert (first * first).sum(axis=1) == pytest.approx(np.ones(len(first)))


def test_names_say_which_network_it_is(recogniser: IdentityNetwork) -> None:
    assert recogniser.name in ("MobileFaceNet", "recogniser of insightface pack face_default")


def test_a_face_is_not_made_up() -> None:
    empty = np.full((1, 128, 128, 3), 128, np.uint8)
    assert face_landmarks(build_detector(DetectorSettings()), empty) == [None]


def test_wrong_files_are_refused(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="IRBackbone"):
        open_identity(IdentitySettings("curricularface", shared / "models" / "identity" / "mobilefacenet.pt"))
    with pytest.raises(DetectorError, match="expected a folder"):
        open_identity(IdentitySettings("insightface", tmp_path))
