"""Temporal measures: 0 where nothing is wrong, numbers that can be worked out on paper, and made-up faults that must show."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from ops.face.align import ffhq_quad
from ops.face.mask import MaskSettings
from ops.face.paste import PasteSettings, paste
from ops.metrics.metric import MetricError
from ops.metrics.regions import frame_mask
from ops.metrics.temporal import (
    flicker,
    identity_drift,
    layer_of,
    motion_between,
    quad_jitter,
    residue,
    seam_energy,
)

LANDMARKS = np.array([[100.0, 95], [140, 97], [121, 118], [104, 140], [137, 141]])
QUAD = ffhq_quad(LANDMARKS)
SHAPE = (240, 240, 3)


def textured(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.clip(128 + smooth / smooth.std() * 35, 0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------- flicker


def test_flicker_on_paper() -> None:
    """A layer that switches by 4 levels in a third of the mask flickers by 4 / 3; a steady one does not."""
    before, now = np.zeros((6, 6, 3), np.float32), np.zeros((6, 6, 3), np.float32)
    now[:2] = 4
    everywhere = np.ones((6, 6))
    assert flicker(now, before, everywhere) == pytest.approx(4 / 3)
    assert flicker(now + 50, now + 50, everywhere) == 0
    assert flicker(5 * now, 5 * before, everywhere) == pytest.approx(5 * 4 / 3)
    mask = np.zeros((6, 6))
    mask[3:] = 0.5
    assert flicker(now, before, mask) == 0
    with pytest.raises(MetricError, match="0 everywhere"):
        flicker(now, before, np.zeros((6, 6)))


def test_a_layer_that_moves_with_the_picture_leaves_no_residue() -> None:
    """Source and layer move two pixels to the right: that is flicker by the plain formula, and none after motion."""
    source = textured(1)
    moved = np.roll(source, 2, axis=1)
    layer = cv2.GaussianBlur(textured(2).astype(np.float32) - 128, (0, 0), 4)
    mask = np.zeros(SHAPE[:2])
    mask[60:180, 60:180] = 1
    motion = motion_between(moved, source)
    assert motion.explained[60:180, 60:180].mean() > 0.9
    plain = flicker(np.roll(layer, 2, axis=1), layer, mask)
    left = residue(np.roll(layer, 2, axis=1), layer, motion, mask)
    assert left < 0.15 * plain
    still = motion_between(source, source)
    assert residue(layer, layer, still, mask) == pytest.approx(0, abs=1e-3)


def test_what_the_flow_cannot_explain_does_not_count() -> None:
    """Something appears in front of the source; the layer changes there and nowhere else."""
    source = textured(1)
    covered = source.copy()
    covered[100:140, 100:140] = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    before, now = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    now[100:140, 100:140] = 30
    mask = np.ones(SHAPE[:2])
    assert residue(now, before, motion_between(covered, source), mask) < 0.1 * flicker(now, before, mask)


def test_layers_need_frames_of_one_size() -> None:
    with pytest.raises(MetricError, match="one size"):
        layer_of(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8))


# ---------------------------------------------------------------------------------------------- identity drift


def test_drift_on_paper() -> None:
    """Two directions 2a apart, in turns: each is a from their mean; half of the rows after the first are 2a from it."""
    angle = np.radians(20)
    vectors = np.array([[np.cos(angle), np.sin(angle)], [np.cos(angle), -np.sin(angle)]] * 5)
    drift = identity_drift(vectors)
    assert drift.from_mean == pytest.approx(1 - np.cos(angle))
    assert drift.from_first == pytest.approx(5 / 9 * (1 - np.cos(2 * angle)))


def test_drift_invariants() -> None:
    one = np.random.default_rng(0).normal(size=16)
    still = identity_drift(np.stack([one, 2 * one, 0.1 * one]))
    assert (still.from_mean, still.from_first) == pytest.approx((0, 0))
    vectors = np.random.default_rng(1).normal(size=(7, 16))
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(16, 16))).Q
    assert identity_drift(vectors @ turn).from_mean == pytest.approx(identity_drift(vectors).from_mean)
    for bad in (vectors[:1], vectors * 0, vectors * np.nan):
        with pytest.raises(MetricError):
            identity_drift(bad)


# ------------------------------------------------------------------------------------------------- quad jitter


def moving(centres: np.ndarray, sides: np.ndarray | float = 80.0, degrees: np.ndarray | float = 0.0) -> np.ndarray:
    """Square quads [N, 4, 2] in the order of `ops.face.align`."""
    count = len(centres)
    turn = np.radians(np.broadcast_to(degrees, count))
    axis = np.stack([np.cos(turn), np.sin(turn)], axis=-1) * np.broadcast_to(sides, count)[:, None] / 2
    down = axis[:, ::-1] * (-1, 1)
    corners = [-axis - down, -axis + down, axis + down, axis - down]
    return np.stack([centres + corner for corner in corners], axis=1)


TIMES = np.arange(9) / 25


def test_steady_motion_does_not_jitter() -> None:
    """Constant speed, growth and turn, over evenly and unevenly spaced frames, past 180 degrees."""
    for times in (TIMES, np.array([0, 1, 3, 4, 8, 9, 10, 14, 15]) / 25):
        quads = moving(np.array([100, 50]) + times[:, None] * (30, -12), 80 * np.exp(0.4 * times), 150 + 200 * times)
        jitter = quad_jitter(quads, times)
        assert jitter.translation_pixels == pytest.approx(0, abs=1e-9)
        assert jitter.scale == pytest.approx(0, abs=1e-9)
        assert jitter.rotation_degrees == pytest.approx(0, abs=1e-9)


def test_jitter_on_paper() -> None:
    """What alternates between +a and -a has second differences of 4a; each kind of jitter stays in its own number."""
    alternate = np.array([1, -1] * 5)[:9]
    still = np.tile([100.0, 50.0], (9, 1))
    shifted = quad_jitter(moving(still + alternate[:, None] * (0.3, 0.4)), TIMES)
    assert shifted.translation_pixels == pytest.approx(4 * 0.5)
    assert shifted.translation_share == pytest.approx(4 * 0.5 / 80)
    assert (shifted.scale, shifted.rotation_degrees) == pytest.approx((0, 0), abs=1e-9)
    grown = quad_jitter(moving(still, 80 * np.exp(0.01 * alternate)), TIMES)
    assert grown.scale == pytest.approx(0.04)
    assert (grown.translation_pixels, grown.rotation_degrees) == pytest.approx((0, 0), abs=1e-9)
    turned = quad_jitter(moving(still, 80, 179.9 + 0.5 * alternate), TIMES)
    assert turned.rotation_degrees == pytest.approx(2)
    assert (turned.translation_pixels, turned.scale) == pytest.approx((0, 0), abs=1e-9)


def test_jitter_scales_with_the_picture() -> None:
    rng = np.random.default_rng(0)
    quads = moving(rng.normal(size=(9, 2)) + 100, 80 + rng.normal(size=9), rng.normal(size=9))
    small, large = quad_jitter(quads, TIMES), quad_jitter(3 * quads + 40, TIMES)
    assert large.translation_pixels == pytest.approx(3 * small.translation_pixels)
    assert large.translation_share == pytest.approx(small.translation_share)
    assert large.scale == pytest.approx(small.scale)
    assert large.rotation_degrees == pytest.approx(small.rotation_degrees)


def test_jitter_refusals() -> None:
    quads = moving(np.zeros((9, 2)))
    for bad, times in ((quads[:2], TIMES[:2]), (quads, TIMES[:8]), (quads, TIMES[::-1])):
        with pytest.raises(MetricError):
            quad_jitter(bad, times)


# -------------------------------------------------------------------------------------------------------- seam


@pytest.mark.parametrize("kind", ["soft", "face"])
@pytest.mark.parametrize("landmarks", [LANDMARKS, LANDMARKS - (95, 60)])
def test_the_mask_is_what_paste_multiplies_with(kind: str, landmarks: np.ndarray) -> None:
    """A change of 200 levels, pasted: the frame changes by 200 times the mask, inside the frame and at its corner."""
    settings = MaskSettings(kind=kind)  # type: ignore[arg-type]
    quad, frame = ffhq_quad(landmarks), np.zeros(SHAPE, np.uint8)
    crop = np.zeros((64, 64, 3), np.float32)
    out = paste(frame, crop + 200, crop, quad, PasteSettings("delta", settings), landmarks)
    mask = frame_mask(frame.shape, quad, landmarks, settings)
    assert mask.max() > 0.99
    assert np.abs(out[..., 0] - 200 * mask).max() <= 0.51


def pasted(change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(layer, mask) of a frame that `change(frame, mask)` edited."""
    frame, mask = textured(), frame_mask(SHAPE, QUAD, LANDMARKS, MaskSettings())
    edited = np.clip(np.rint(change(frame.astype(np.float64), mask[..., None].astype(np.float64))), 0, 255)
    return layer_of(edited.astype(np.uint8), frame), mask


def blurred(frame: np.ndarray) -> np.ndarray:
    """A face drawn at low resolution, 15 levels brighter: what `replace` pastes."""
    return cv2.GaussianBlur(frame, (0, 0), 2) + 15


def test_no_edit_has_no_seam() -> None:
    energy = seam_energy(*pasted(lambda frame, mask: frame))
    assert (energy.border, energy.inside, energy.ratio) == (0, 0, 0)


def test_faults_at_the_border_show() -> None:
    """Made-up pastes of one and the same picture. Blended is well below 1, every fault is several times that."""
    blended = seam_energy(*pasted(lambda frame, mask: frame + mask * (blurred(frame) - frame))).ratio
    assert 0 < blended < 0.4
    faults = {
        "no feather": lambda frame, mask: np.where(mask > 0, blurred(frame), frame),
        "the whole crop": lambda frame, mask: np.where(
            cv2.dilate(mask[..., 0], np.ones((5, 5)))[..., None] > 0, blurred(frame), frame
        ),
        "feather cut in half": lambda frame, mask: np.where(mask > 0.5, frame + mask * (blurred(frame) - frame), frame),
        "shifted": lambda frame, mask: np.where(mask > 0, np.roll(blurred(frame), (9, 9), (0, 1)), frame),
    }
    for name, change in faults.items():
        assert seam_energy(*pasted(change)).ratio > 3 * blended, name


def test_a_shifted_picture_shows_even_when_it_is_blended() -> None:
    """The same face, 4 pixels beside its place: edges of the source stand double in the zone of the border."""
    right = seam_energy(*pasted(lambda frame, mask: frame + mask * (cv2.GaussianBlur(frame, (0, 0), 1) - frame)))
    beside = seam_energy(*pasted(lambda frame, mask: frame + mask * (np.roll(frame, (4, 4), (0, 1)) - frame)))
    assert beside.border > 5 * right.border


def test_seams_scale_with_contrast_and_not_with_brightness() -> None:
    layer, mask = pasted(lambda frame, mask: np.where(mask > 0, blurred(frame), frame))
    one, twice = seam_energy(layer, mask), seam_energy(2 * layer, mask)
    assert (twice.border, twice.inside) == pytest.approx((4 * one.border, 4 * one.inside))
    lifted = seam_energy(layer + 10, mask)
    assert (lifted.border, lifted.inside) == pytest.approx((one.border, one.inside))


def test_the_step_of_a_flat_layer_on_paper() -> None:
    """A jump of A straight across: central differences give A / 2 on both sides, so the energy there is (A / 2)^2."""
    mask = np.zeros((60, 400), np.float32)
    mask[:, 200:] = 1  # the frame's own edge is no border
    layer = np.zeros((60, 400, 3), np.float32)
    layer[:, 200:] = 12
    energy = seam_energy(layer, mask)
    assert energy.border == pytest.approx(36, rel=1e-3)
    assert energy.inside == pytest.approx(36 / 200, rel=1e-3)  # its first column is part of the jump


@pytest.mark.parametrize("axis", [0, 1])
def test_only_what_crosses_the_border_counts(axis: int) -> None:
    """A layer that changes along the border and not across it, for a border in either direction."""
    mask = np.zeros((200, 200), np.float32)
    mask[:, 100:] = 1
    layer = np.repeat(30 * np.sin(np.arange(200, dtype=np.float32) / 4)[:, None, None], 200, axis=1).repeat(3, axis=2)
    if axis:
        mask, layer = mask.T.copy(), layer.transpose(1, 0, 2).copy()
    energy = seam_energy(layer, mask)
    assert energy.border == pytest.approx(0, abs=1e-9) and energy.inside > 10


def test_rounding_is_no_seam() -> None:
    """Half a level of noise everywhere, and no edit: without the 1 in the ratio this would read 0.5."""
    noise = np.random.default_rng(0).integers(-1, 2, SHAPE).astype(np.float32)
    assert seam_energy(noise, frame_mask(SHAPE, QUAD, LANDMARKS, MaskSettings())).ratio < 0.3


def test_a_mask_over_the_whole_frame_has_no_border() -> None:
    layer = textured().astype(np.float32)
    assert seam_energy(layer, np.ones(SHAPE[:2], np.float32)).border == 0
    with pytest.raises(MetricError, match="0 everywhere"):
        seam_energy(layer, np.zeros(SHAPE[:2], np.float32))
    with pytest.raises(MetricError, match="layer's size"):
        seam_energy(layer, np.zeros((3, 3), np.float32))
