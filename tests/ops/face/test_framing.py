"""Pictures without faces: whole frames and centred rectangles in a model's square, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from ops.face.align import AlignError, crop_face
from ops.face.framing import Crop, Framing
from ops.face.mask import MaskError, MaskSettings, edge_mask
from ops.face.paste import PasteError, PasteSettings, paste, sides_inside

CARS = Framing("none", 256, (192, 256))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_the_quad_of_a_whole_frame_is_its_outer_edge() -> None:
    quad = CARS.frame_quad(90, 160)
    assert quad.tolist() == [[-0.5, -0.5], [-0.5, 89.5], [159.5, 89.5], [159.5, -0.5]]


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(90, 160, (90, 120)), (400, 200, (150, 200)), (192, 256, (192, 256))]
)
def test_the_centred_quad_is_the_largest_of_the_contents_shape(height: int, width: int, expected: tuple[int, int]) -> None:
    quad = Framing("centre", 256, (192, 256)).frame_quad(height, width)
    low, high = quad.min(0), quad.max(0)
    assert (high - low).tolist() == pytest.approx(expected[::-1])
    assert ((low + high) / 2).tolist() == pytest.approx([(width - 1) / 2, (height - 1) / 2])


def test_the_content_scales_with_the_square() -> None:
    assert CARS.content_of(256) == (slice(32, 224), slice(0, 256))
    assert CARS.content_of(512) == (slice(64, 448), slice(0, 512))
    images = np.arange(2 * 8 * 8 * 3).reshape(2, 8, 8, 3)
    content = CARS.content(images)
    assert content.shape == (2, 6, 8, 3) and np.shares_memory(content, images) and np.array_equal(content, images[:, 1:7])


def test_a_cut_at_the_contents_size_is_the_frame_with_black_bars() -> None:
    frame = noise(192, 256)
    square = CARS.cut(frame, CARS.frame_quad(192, 256))
    assert np.array_equal(square[32:224], frame) and not square[:32].any() and not square[224:].any()
    assert np.array_equal(CARS.cut(frame, CARS.frame_quad(192, 256), "official"), square)


@pytest.mark.parametrize("crop", ["none", "centre"])
def test_a_larger_frame_is_reduced_without_aliasing(crop: Crop) -> None:
    """A whole number of pixels per crop pixel and axis: both ways are the mean of boxes, or close to it."""
    framing = Framing(crop, 64, (48, 64))
    frame = noise(48 * 3, 64 * 5)
    quad = framing.frame_quad(*frame.shape[:2])
    square = framing.cut(frame, quad).astype(float)
    x0, width = (0, 320) if crop == "none" else (64, 192)
    part = frame[:, x0 : x0 + width].astype(float)
    boxes = part.reshape(48, 3, 64, width // 64, 3).mean((1, 3))
    assert np.abs(square[8:56] - boxes).max() <= 1.0
    picture = Image.fromarray(frame[:, x0 : x0 + width]).resize((64, 48), Image.Resampling.BICUBIC)
    official = framing.cut(frame, quad, "official")
    inner = slice(2, -2)  # at the sides PIL also sees the frame's pixels beside the rectangle
    assert np.array_equal(official[8:56][:, inner], np.asarray(picture)[:, inner]) and not official[:8].any()


def test_faces_are_cut_as_ever() -> None:
    frame, framing = noise(100, 120), Framing("ffhq", 32, (32, 32))
    quad = np.array([[20.0, 15], [20, 75], [80, 75], [80, 15]])
    assert np.array_equal(framing.cut(frame, quad), crop_face(frame, quad, 32))
    assert np.array_equal(framing.cut(frame, quad, "official"), crop_face(frame, quad, 32, "official"))
    with pytest.raises(AlignError, match="a quad each"):
        framing.frame_quad(100, 120)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("middle", 256, (192, 256)), "ffhq, none or centre"),
        (("none", 256, (0, 256)), "at most 256 px"),
        (("none", 256, (192, 257)), "at most 256 px"),
        (("none", 256, (191, 256)), "no whole pixels"),
        (("ffhq", 256, (192, 256)), "fill the square"),
    ],
)
def test_contents_that_cannot_be_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(AlignError, match=message):
        Framing(*arguments)


def test_a_square_that_the_content_does_not_divide_is_refused() -> None:
    with pytest.raises(AlignError, match="in the middle of 20 x 20"):
        CARS.content_of(20)  # 15 rows: not the same number of black ones above and below


# --------------------------------------------------------------------------------------------------------- pasting back


def fitted(crop: Crop, **settings: Any) -> PasteSettings:
    return PasteSettings(**settings).fitted(crop)


@pytest.mark.parametrize("shape", [(192, 256), (90, 160), (331, 200)])
@pytest.mark.parametrize("crop", ["none", "centre"])
def test_no_difference_is_no_change(crop: Crop, shape: tuple[int, int]) -> None:
    framing, frame = Framing(crop, 64, (48, 64)), noise(*shape)
    drawn = noise(48, 64, 1).astype(np.float32)
    out = paste(frame, drawn, drawn.copy(), framing.frame_quad(*shape), fitted(crop))
    assert np.array_equal(out, frame)


@pytest.mark.parametrize("shape", [(96, 128), (90, 161), (331, 200)])
def test_an_edit_of_a_whole_frame_reaches_its_last_pixel(shape: tuple[int, int]) -> None:
    framing, frame = Framing("none", 64, (48, 64)), np.full((*shape, 3), 100, np.uint8)
    reference = noise(48, 64).astype(np.float32)
    out = paste(frame, reference + 40, reference, framing.frame_quad(*shape), fitted("none"))
    assert (out == 140).all(), "no rim, no corner is left out"


def test_a_centred_edit_fades_only_inside_the_frame() -> None:
    framing, frame = Framing("centre", 64, (48, 64)), np.full((96, 256, 3), 100, np.uint8)
    reference = np.zeros((48, 64, 3), np.float32)
    quad = framing.frame_quad(96, 256)
    assert sides_inside(frame, quad) == (True, False, True, False)
    out = paste(frame, reference + 40, reference, quad, fitted("centre"))[:, :, 0].astype(int)
    assert (out[:, :64] == 100).all() and (out[:, 192:] == 100).all(), "beside it, the frame's own pixels"
    assert (out[:, 75:181] == 140).all(), "up to the frame's upper and lower edge"
    ramp = out[0, 64:75]
    assert (np.diff(ramp) >= 0).all() and ramp[0] == 100 and np.diff(out, axis=1).max() < 12, "no seam"
    assert (out == out[:1]).all()


def test_colours_are_matched_on_rectangles() -> None:
    frame = np.full((96, 128, 3), 200, np.uint8)
    drawn = np.full((48, 64, 3), 90.0, np.float32)
    settings = fitted("none", mode="replace", color_match=True)
    out = paste(frame, drawn, None, Framing("none", 64, (48, 64)).frame_quad(96, 128), settings)
    assert (out == 200).all()


def test_a_mask_of_a_face_needs_faces() -> None:
    settings = PasteSettings(mask=MaskSettings(kind="face"))
    assert settings.fitted("ffhq") is settings
    with pytest.raises(PasteError, match="needs faces"):
        settings.fitted("none")


def test_the_edge_mask_is_zero_on_the_outermost_pixels_of_fading_sides_only() -> None:
    mask = edge_mask(64, (True, False, False, True), 0.1)
    assert not mask[:, 0].any() and not mask[-1].any() and (mask[:50, 10:] == 1).all()
    assert (edge_mask(64, (False, False, False, False), 0.1) == 1).all() and not mask.flags.writeable
    with pytest.raises(MaskError, match="edge_feather"):
        MaskSettings(edge_feather=0.0)
