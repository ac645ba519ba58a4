"""Alignment against the authors' golden vectors, and the geometry that everything else stands on."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ops.face import align
from ops.face.align import (
    AlignError,
    crop_face,
    crop_from_source,
    ffhq_quad,
    official_crop,
    official_pretransform,
    quad_side_pixels,
    source_from_crop,
    transform_points,
)
from tests.ops.face.media import face_at

CASES = ["center", "tilt_pad", "corner_pad", "shrink", "small"]
TILTED = ffhq_quad(face_at(210.3, 180.7, 90.0, angle=0.4).landmarks_52)


def golden_picture(golden: Path, index: int, width: int, height: int) -> np.ndarray:
    sys.path.insert(0, str(golden))
    try:
        from golden_weights import input_image  # the picture's rule is part of the golden set
    finally:
        sys.path.remove(str(golden))
    picture = input_image("public", index, max(width, height))[0, :, :height, :width]
    return np.round((picture.permute(1, 2, 0).numpy() + 1) * 127.5).astype(np.uint8)


@pytest.mark.parametrize("case", CASES)
def test_official_crop_is_the_authors(shared: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    golden = np.load(shared / "golden/public/styleres_align.npz")
    frame = golden_picture(shared / "golden", *(int(v) for v in golden[f"case/{case}"]))
    quad = ffhq_quad(golden[f"landmarks/{case}"])

    image, quad_in_image = official_pretransform(frame, quad)
    np.testing.assert_allclose((quad_in_image + 0.5).ravel(), golden[f"quad_plus_half/{case}"], rtol=0, atol=1e-9)
    assert [image.shape[1], image.shape[0]] == golden[f"pre_transform_size/{case}"].tolist()

    # The crop begins with the same, which takes 13 s of 24 million pixels.
    monkeypatch.setattr(align, "official_pretransform", lambda *given: (image, quad_in_image))
    crop = official_crop(frame, quad).astype(np.float64)
    means = crop.reshape(64, 16, 64, 16, 3).mean((1, 3))
    assert np.abs(means - golden[f"pool16/{case}"]).max() <= 2e-4 * 255
    np.testing.assert_allclose([crop.mean(), crop.std()], golden[f"mean/{case}"], atol=2e-4 * 255)


@pytest.mark.parametrize("case", ["center", "small"])
@pytest.mark.parametrize("size", [64, 256])
def test_fast_crop_agrees_with_the_authors_inside_the_frame(shared: Path, case: str, size: int) -> None:
    golden = np.load(shared / "golden/public/styleres_align.npz")
    frame = golden_picture(shared / "golden", *(int(v) for v in golden[f"case/{case}"]))
    quad = ffhq_quad(golden[f"landmarks/{case}"])
    fast, official = (crop_face(frame, quad, size, mode).astype(float) for mode in ("fast", "official"))
    inner = slice(size // 4, -size // 4)
    # Half a pixel of offset would be 2 to 5 grey levels on these pictures at 64 px.
    assert np.abs(fast - official)[inner, inner].mean() < 1.0


def test_five_points_give_the_quad_of_68_with_the_same_eyes_and_mouth() -> None:
    five = face_at(300.0, 200.0, 120.0, angle=-0.3).landmarks_52.astype(np.float64)
    many = np.zeros((68, 2))
    many[36:42], many[42:48] = five[0], five[1]
    many[48], many[54] = five[3], five[4]
    np.testing.assert_allclose(ffhq_quad(five), ffhq_quad(many), atol=1e-12)


def test_quad_follows_its_formula_by_hand() -> None:
    # Eyes 100 apart, mouth 120 below: half side = max(2 * 100, 1.8 * 120) = 216, centre 12 below the eyes.
    quad = ffhq_quad(np.array([[0.0, 0.0], [100.0, 0.0], [50.0, 60.0], [20.0, 120.0], [80.0, 120.0]]))
    np.testing.assert_allclose(quad, [[-166, -204], [-166, 228], [266, 228], [266, -204]], atol=1e-9)
    assert quad_side_pixels(quad) == pytest.approx(432)


def test_transforms_put_the_crops_edges_on_the_quad_and_invert_each_other() -> None:
    size = 57
    source_from = source_from_crop(TILTED, size)
    edges = np.array([[-0.5, -0.5], [-0.5, size - 0.5], [size - 0.5, size - 0.5], [size - 0.5, -0.5]])
    np.testing.assert_allclose(transform_points(source_from, edges), TILTED, atol=1e-9)
    np.testing.assert_allclose(crop_from_source(TILTED, size) @ source_from, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("side", [30.0, 96.0, 97.3, 640.0])
def test_crop_samples_where_the_transform_says(side: float) -> None:
    """On a linear ramp every correct filter gives the ramp's value at the crop pixel's centre."""
    slope = 0.3
    y, x = np.mgrid[:720, :720].astype(np.float64)
    frame = np.stack([slope * x, slope * y, 255 - slope * x], axis=2).round().astype(np.uint8)
    quad = ffhq_quad(face_at(360.2, 355.9, side / 1.8, angle=0.5).landmarks_52)
    size = 96
    centres = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1)
    at = transform_points(source_from_crop(quad, size), centres)
    expected = np.stack([slope * at[..., 0], slope * at[..., 1], 255 - slope * at[..., 0]], axis=-1)
    inside = ((at > 1) & (at < 718)).all(-1)
    error = (crop_face(frame, quad, size).astype(np.float64) - expected)[inside]
    assert np.abs(error).max() < 1.3  # rounding of the picture and of the crop
    # OpenCV's averages round halves up in all channels; an offset has opposite signs in first and last.
    offset_pixels = (error[:, 0] - error[:, 2]).mean() / 2 / slope
    assert abs(offset_pixels) < 0.02


def test_reducing_tenfold_does_not_alias() -> None:
    """A checkerboard of single pixels has no structure ten pixels wide: the crop must be flat."""
    y, x = np.mgrid[:900, :900]
    frame = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    quad = ffhq_quad(face_at(450.0, 450.0, 320.0, angle=0.2).landmarks_52)
    crop = crop_face(frame, quad, 64).astype(np.float64)
    assert abs(crop.mean() - 127.5) < 2
    assert crop.std() < 8
    naive = cv2.warpAffine(frame, source_from_crop(quad, 64)[:2], (64, 64), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    assert naive.std() > 20  # what the test would see of a single bilinear warp


def test_a_turned_head_comes_out_upright() -> None:
    frame = np.zeros((400, 400, 3), np.uint8)
    face = face_at(200.0, 200.0, 120.0, angle=np.pi / 2)
    for colour, point in zip(([255, 0, 0], [0, 255, 0]), face.landmarks_52[:2], strict=True):
        cv2.circle(frame, tuple(int(v) for v in point.round()), 6, colour, -1)
    crop = crop_face(frame, ffhq_quad(face.landmarks_52), 128).astype(float)
    red, green = (np.argwhere(crop[:, :, c] > 100).mean(0) for c in (0, 1))
    assert red[1] < 60 < 68 < green[1]  # the left eye on the left
    assert abs(red[0] - green[0]) < 1.5  # level


@pytest.mark.parametrize("mode", ["fast", "official"])
def test_quad_over_the_frames_edge_gives_a_full_crop(mode: str) -> None:
    frame = np.full((120, 160, 3), 90, np.uint8)
    crop = crop_face(frame, ffhq_quad(face_at(5.0, 10.0, 60.0).landmarks_52), 64, mode)  # type: ignore[arg-type]
    assert crop.shape == (64, 64, 3)
    assert (crop == 90).all()


@pytest.mark.parametrize(
    ("landmarks", "expected"),
    [
        (np.zeros((4, 2)), r"\[5, 2\] or \[68, 2\]"),
        (np.ones((5, 2)), "apart"),
        (np.full((5, 2), np.nan), "apart"),
    ],
)
def test_bad_landmarks_are_refused(landmarks: np.ndarray, expected: str) -> None:
    with pytest.raises(AlignError, match=expected):
        ffhq_quad(landmarks)


def test_bad_quads_are_refused() -> None:
    with pytest.raises(AlignError, match="parallelogram"):
        source_from_crop(TILTED + np.array([[0, 0], [0, 0], [9, 0], [0, 0]]), 64)
    with pytest.raises(AlignError, match="area"):
        source_from_crop(np.zeros((4, 2)), 64)
    with pytest.raises(AlignError, match="touches the frame"):
        crop_face(np.zeros((50, 50, 3), np.uint8), TILTED + 5000, 64, "official")
