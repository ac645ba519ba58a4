"""What a paste must never change, and where it must put what it changes."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import pytest

from ops.face.align import crop_face, crop_from_source, ffhq_quad, source_from_crop, transform_points
from ops.face.mask import MaskError, MaskSettings, build_mask, face_mask, soft_mask
from ops.face.paste import PasteError, PasteMode, PasteSettings, paste
from tests.ops.face.media import face_at

FACE = face_at(220.4, 170.8, 110.0, angle=0.35)
DELTA = PasteSettings(mode="delta")
QUAD = ffhq_quad(FACE.landmarks_52)
BOTH_MASKS = [MaskSettings(), MaskSettings(kind="face")]


def noise_frame(height: int = 360, width: int = 480, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth_frame(height: int = 360, width: int = 480) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 31 + y / 47 + c) + np.cos(y / 29 - c) for c in range(3)]
    return np.stack([127 + 45 * w for w in waves], axis=2).astype(np.uint8)


@pytest.mark.parametrize("mask", BOTH_MASKS, ids=lambda m: m.kind)
@pytest.mark.parametrize("color_match", [False, True])
@pytest.mark.parametrize("mode", ["delta", "composite"])
def test_no_difference_is_the_frame_bit_for_bit(mask: MaskSettings, color_match: bool, mode: PasteMode) -> None:
    frame = noise_frame()
    crop = np.random.default_rng(1).normal(128, 80, (64, 64, 3)).astype(np.float32)
    settings = PasteSettings(mode=mode, mask=mask, color_match=color_match)
    out = paste(frame, crop, crop.copy(), QUAD, settings, FACE.landmarks_52)
    assert (out == frame).all()
    assert out is not frame


@pytest.mark.parametrize("mode", ["delta", "composite", "replace"])
@pytest.mark.parametrize("mask", BOTH_MASKS, ids=lambda m: m.kind)
@pytest.mark.parametrize("size", [32, 64, 512])
def test_outside_the_mask_the_frame_is_untouched_and_inside_it_is_not(mode: str, mask: MaskSettings, size: int) -> None:
    frame = noise_frame()
    before = frame.copy()
    reference = np.full((size, size, 3), 128, np.float32)
    settings = PasteSettings(mode=mode, mask=mask)  # type: ignore[arg-type]
    out = paste(frame, reference + 100, reference, QUAD, settings, FACE.landmarks_52)
    assert (frame == before).all()
    y, x = np.mgrid[:360, :480]
    u = transform_points(crop_from_source(QUAD, 1), np.stack([x, y], axis=-1)) + 0.5  # 0..1 across the quad
    from_rim = np.minimum(u, 1 - u).min(-1)
    outside = from_rim <= mask.margin - 0.005
    assert (out[outside] == frame[outside]).all()
    if mask.kind == "soft":
        deep = from_rim >= mask.margin + mask.feather + 0.02
        expected = np.clip(frame.astype(int) + 100, 0, 255) if mode != "replace" else np.full_like(frame, 228)
        assert (out[deep] == expected[deep]).all()
        assert deep.sum() > 1000


def test_a_fade_scales_the_change_and_zero_is_the_frame() -> None:
    frame = np.full((360, 480, 3), 100, np.uint8)
    reference = np.zeros((64, 64, 3), np.float32)
    full, half, none = (paste(frame, reference + 80, reference, QUAD, DELTA, fade=s) for s in (1.0, 0.5, 0.0))
    np.testing.assert_allclose(half.astype(float) - 100, (full.astype(float) - 100) / 2, atol=1)
    assert full.max() == 180
    assert (none == frame).all()


@pytest.mark.parametrize("size", [48, 256, 700])
def test_replace_of_the_frames_own_crop_gives_the_frame_back(size: int) -> None:
    """Cut and paste are inverse to each other in place; an offset of a quarter pixel would fail this."""
    frame = smooth_frame()
    crop = crop_face(frame, QUAD, size).astype(np.float32)
    out = paste(frame, crop, None, QUAD, PasteSettings(mode="replace")).astype(float)
    difference = np.abs(out - frame)
    assert difference.max() <= 2
    # What a shift would look like, so that the bound above means something.
    moved = paste(frame, crop, None, QUAD + 0.75, PasteSettings(mode="replace")).astype(float)
    assert np.abs(moved - frame).mean() > 2 * difference.mean()


@pytest.mark.parametrize("size", [64, 512])
def test_a_spot_lands_where_the_transform_says(size: int) -> None:
    frame = np.full((360, 480, 3), 50, np.uint8)
    spot = np.array([0.62, 0.37]) * size - 0.5
    y, x = np.mgrid[:size, :size]
    blob = 150 * np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / (2 * (size * 0.03) ** 2))
    zero = np.zeros((size, size, 3), np.float32)
    out = paste(frame, zero + blob[:, :, None].astype(np.float32), zero, QUAD, DELTA)
    weight = out[:, :, 0].astype(float) - 50
    rows, columns = np.mgrid[:360, :480]
    centre = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
    expected = transform_points(source_from_crop(QUAD, size), spot)
    np.testing.assert_allclose(centre, expected, atol=0.08)


def test_a_crop_much_larger_than_the_face_is_averaged() -> None:
    """Single-pixel stripes of a 1024 px crop vanish on a face of 60 px; sampled, they would leave moiré."""
    quad = ffhq_quad(face_at(100.0, 100.0, 30.0, angle=0.1).landmarks_52)
    stripes = np.zeros((1024, 1024, 3), np.float32)
    stripes[:, ::2] = 200
    frame = np.full((200, 200, 3), 0, np.uint8)
    out = paste(frame, stripes, np.zeros_like(stripes), quad, DELTA)
    assert abs(int(out[100, 100, 0]) - 100) <= 2
    assert out.max() <= 115  # 17.3 crop pixels per frame pixel: a stripe more or less


def test_color_match_takes_the_source_s_colours_but_keeps_the_edit() -> None:
    frame = smooth_frame()
    source = crop_face(frame, QUAD, 64).astype(np.float32)
    reference = source * 0.8 + 30  # a reconstruction that is flat and bright
    edited = reference.copy()
    edited[30:34, 30:34] += 40
    plain = PasteSettings(mode="replace")
    matched = PasteSettings(mode="replace", color_match=True)
    error = {s.color_match: paste(frame, edited, reference, QUAD, s).astype(float) - frame for s in (plain, matched)}
    assert np.abs(error[True]).mean() < 0.2 * np.abs(error[False]).mean()
    assert error[True].max() > 35

    recoloured = reference + np.array([60, 0, -60], np.float32)  # an edit that changes every pixel's colour
    change = paste(frame, recoloured, reference, QUAD, matched).astype(float) - frame
    middle = change[150:200, 200:250].mean((0, 1))
    assert middle[0] > 50 and abs(middle[1]) < 5 and middle[2] < -50
    assert np.abs(paste(frame, reference, None, QUAD, matched).astype(float) - frame).max() <= 4


@pytest.mark.parametrize(("x", "y"), [(2.0, 3.0), (477.0, 358.0)])
def test_a_face_over_the_frames_edge(x: float, y: float) -> None:
    frame = np.full((360, 480, 3), 100, np.uint8)
    reference = np.zeros((64, 64, 3), np.float32)
    quad = ffhq_quad(face_at(x, y, 80.0).landmarks_52)
    out = paste(frame, reference + 50, reference, quad, DELTA)
    assert out[min(int(y), 359), min(int(x), 479)].tolist() == [150, 150, 150]


def test_a_face_outside_the_frame_changes_nothing() -> None:
    frame = noise_frame()
    reference = np.zeros((64, 64, 3), np.float32)
    assert (paste(frame, reference + 50, reference, QUAD + 5000, DELTA) == frame).all()


def test_what_cannot_be_pasted_is_refused() -> None:
    frame, crop = noise_frame(), np.zeros((64, 64, 3), np.float32)
    with pytest.raises(PasteError, match="reference"):
        paste(frame, crop, None, QUAD, DELTA)
    with pytest.raises(PasteError, match="shape"):
        paste(frame, crop, crop[:32, :32], QUAD, DELTA)
    with pytest.raises(PasteError, match="not finite"):
        paste(frame, crop + np.nan, crop, QUAD, DELTA)
    with pytest.raises(PasteError, match="a fade"):
        paste(frame, crop, crop, QUAD, DELTA, fade=1.5)
    with pytest.raises(MaskError, match="landmarks"):
        paste(frame, crop + 1, crop, QUAD, PasteSettings(mask=MaskSettings(kind="face")))


@pytest.mark.parametrize("size", [16, 64, 257])
@pytest.mark.parametrize("settings", [*BOTH_MASKS, MaskSettings(margin=0.0, feather=0.5)], ids=str)
def test_masks_are_smooth_bounded_and_zero_at_the_rim(size: int, settings: MaskSettings) -> None:
    landmarks = transform_points(crop_from_source(QUAD, size), FACE.landmarks_52)
    mask = build_mask(size, settings, landmarks)
    assert mask.shape == (size, size) and mask.dtype == np.float32
    assert mask.min() == 0 and mask.max() <= 1 and mask[size // 2, size // 2] > 0.9
    rim = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    assert (rim == 0).all()
    steepest = max(np.abs(np.diff(mask, axis=axis)).max() for axis in (0, 1))
    feather = min(settings.feather, settings.face_feather) if settings.kind == "face" else settings.feather
    assert steepest <= 2.5 / (feather * size)  # smoothstep's steepest slope is 1.5 / feather; face and rim may add


def test_face_mask_follows_the_head() -> None:
    upright, size = face_at(64.0, 64.0, 60.0), 128
    moved = face_at(74.0, 60.0, 60.0, angle=0.5)
    centre = [np.argwhere(face_mask(size, f.landmarks_52) > 0.5).mean(0)[::-1] for f in (upright, moved)]
    np.testing.assert_allclose(centre[1] - centre[0], [10, -4], atol=3)
    covered = face_mask(size, moved.landmarks_52)
    for x, y in moved.landmarks_52.round().astype(int):
        assert covered[y, x] > 0.95
    assert covered.sum() < 0.7 * soft_mask(size).sum()


def test_bad_mask_settings_are_refused() -> None:
    with pytest.raises(MaskError, match=r"margin \+ feather <= 0.5"):
        MaskSettings(margin=0.3, feather=0.3)
    with pytest.raises(MaskError, match="face_grow"):
        MaskSettings(face_grow=0.0)


def test_a_composite_redraws_what_changed_and_leaves_the_rest_sharp() -> None:
    """A dark mouth becomes a bright one: `delta` leaves the source's own lines in it, the composite does not."""
    size = 64
    frame = smooth_frame()
    lines = frame.astype(np.float32)
    lines[:, ::3] -= 60  # detail that a small model does not see
    frame = np.clip(lines, 0, 255).astype(np.uint8)
    reference = crop_face(frame, QUAD, size).astype(np.float32)
    reference = reference.mean(axis=(0, 1), keepdims=True) + 0 * reference
    edited = reference.copy()
    edited[40:46, 24:40] += 90
    edited[46:50, 24:40] -= 70
    out = {m: paste(frame, edited, reference, QUAD, PasteSettings(mode=m)) for m in ("delta", "composite")}  # type: ignore[arg-type]
    crops = {name: crop_face(picture, QUAD, 256).astype(np.float32) for name, picture in {**out, "frame": frame}.items()}
    mouth, brow = (slice(168, 180), slice(110, 146)), (slice(70, 90), slice(60, 190))

    def detail(name: str, where: tuple[slice, slice]) -> float:
        return float(np.abs(np.diff(crops[name][where], axis=1)).mean())

    assert detail("delta", mouth) > 0.8 * detail("frame", mouth)
    assert detail("composite", mouth) < 0.35 * detail("frame", mouth)
    assert detail("composite", brow) == pytest.approx(detail("frame", brow), rel=0.02)
    # Both show the edit.
    for mode in ("delta", "composite"):
        assert (crops[mode][mouth].mean() - crops["frame"][mouth].mean()) > 50


def test_a_composite_keeps_detail_that_the_edited_picture_merely_lost() -> None:
    """Hair that the model smooths when it draws an edit is not edited hair."""
    frame = smooth_frame()
    reference = crop_face(frame, QUAD, 64).astype(np.float32)
    reference[:, ::2] += 25
    edited = reference.copy()
    pairs = reference[4:20].reshape(16, 32, 2, 3)
    edited[4:20] = pairs.mean(axis=2).repeat(2, axis=1)  # the lines are gone, their mean is not
    pasted = paste(frame, edited, reference, QUAD, PasteSettings(mode="composite"))
    assert np.abs(pasted.astype(int) - frame).max() <= 2


def test_a_composite_asks_for_more_around_the_face_than_in_it() -> None:
    """The same small change is an edit at the mouth, and dragged along beside the ear; a large one counts everywhere. A crop
    that is no face has no such places."""
    frame = smooth_frame()
    reference = crop_face(frame, QUAD, 64).astype(np.float32)
    checks = np.where((np.indices((8, 8)) // 4).sum(axis=0) % 2, 1.0, -1.0)[:, :, None]

    def changed(rows: slice, columns: slice, levels: float, kind: Literal["soft", "edges"] = "soft") -> float:
        edited = reference.copy()
        edited[rows, columns] += levels * checks
        pasted = paste(frame, edited, reference, QUAD, PasteSettings(mode="composite", mask=MaskSettings(kind=kind)))
        crop = crop_face(pasted, QUAD, 64).astype(np.float32) - crop_face(frame, QUAD, 64)
        return float(np.abs(crop[rows, columns]).max()) / levels

    mouth, ear = (slice(40, 48), slice(28, 36)), (slice(28, 36), slice(8, 16))
    assert changed(*mouth, 20) > 0.4
    assert changed(*ear, 20) < 0.15
    assert changed(*ear, 120) > 0.4
    assert changed(*ear, 20, "edges") > 0.4


def test_a_composite_adds_a_large_model_s_detail_in_the_face_and_none_around_it() -> None:
    """Fine lines that an edit brings are no structure, and must be seen; what it drags along at the border must not."""
    size = 256
    frame = smooth_frame()
    reference = np.full((size, size, 3), 120, np.float32)
    lines = np.zeros((size, size, 1), np.float32)
    lines[::4] = 3.0
    y, x = np.mgrid[:size, :size] / size
    in_face, at_border = np.hypot(x - 0.5, y - 0.57) < 0.15, (x < 0.12) & (y > 0.4) & (y < 0.6)

    def change(where: np.ndarray, side: int = size) -> float:
        edited = reference + lines * where[:, :, None]
        small = [cv2.resize(one, (side, side), interpolation=cv2.INTER_NEAREST) for one in (edited, reference)]
        out = paste(frame, small[0], small[1], QUAD, PasteSettings(mode="composite"))
        return float(np.abs(out.astype(float) - frame).max())

    assert change(in_face) >= 2
    assert change(at_border) <= 1


def test_what_a_large_model_draws_is_as_sharp_as_the_source() -> None:
    """A reconstruction that is the blurred source: what is drawn in its place gets back what the blur took, and no more."""
    from ops.face.paste import SHARPEN_LIMIT, _fine, _missing_sharpness

    rng = np.random.default_rng(0)
    source = cv2.GaussianBlur(rng.normal(128, 60, (256, 256, 3)).astype(np.float32), (0, 0), 1.2)
    weight = np.ones((256, 256), np.float32)
    assert _missing_sharpness(source, source, _fine(source), weight, SHARPEN_LIMIT) == 0.0
    blurred = cv2.GaussianBlur(source, (0, 0), 0.7)
    share = _missing_sharpness(source, blurred, _fine(blurred), weight, SHARPEN_LIMIT)
    assert 0.1 < share < SHARPEN_LIMIT

    def energy(picture: np.ndarray) -> float:
        return float(sum((one**2).sum() for one in np.gradient(picture.mean(2))))

    assert energy(blurred + share * _fine(blurred)) == pytest.approx(energy(source), rel=0.02)
    flat = np.full_like(source, 128)
    assert _missing_sharpness(source, flat, _fine(flat), weight, SHARPEN_LIMIT) == 0.0


def test_an_edited_face_is_sharpened_to_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reconstruction is the source, and the edit has redrawn the middle of it, softer."""
    rng, size = np.random.default_rng(0), 256
    frame = np.clip(cv2.GaussianBlur(rng.normal(128, 60, (size, size, 3)), (0, 0), 0.6), 0, 255).astype(np.uint8)
    quad = np.array([[0, 0], [0, size - 1], [size - 1, size - 1], [size - 1, 0]], np.float64)
    y, x = np.indices((size, size))
    inside = (np.hypot(x - 128, y - 140) < 30).astype(np.float32)[:, :, None]
    redrawn = np.roll(frame, 37, axis=0).astype(np.float32)
    edited = frame + inside * (cv2.GaussianBlur(redrawn, (0, 0), 0.6) - frame)

    def energy() -> float:
        """In the middle of what was redrawn, as a share of the source's."""
        out = paste(frame, edited, frame.astype(np.float32), quad, PasteSettings(mode="composite"))
        pasted, before = (
            sum((one**2)[115:165, 103:153].sum() for one in np.gradient(picture.astype(np.float64).mean(2)))
            for picture in (out, frame)
        )
        return float(pasted / before)

    sharpened = energy()
    monkeypatch.setattr("ops.face.paste.CRISPEN_LIMIT", 0.0)
    assert energy() < 0.75 and energy() + 0.05 < sharpened < 1.1
