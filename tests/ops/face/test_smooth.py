"""Less jitter, and none of its usual price: no lag, no shrunken motion, no step at the ends."""

from __future__ import annotations

import numpy as np
import pytest

from ops.face.align import ffhq_quad
from ops.face.smooth import (
    QuadSmoothing,
    SmoothingError,
    local_parabola,
    smooth_quads,
    square_parameters,
    squares,
)
from tests.ops.face.media import face_at

UNEVEN = np.cumsum(np.random.default_rng(5).uniform(0.01, 0.09, 120))
EVEN = np.arange(200) / 25


def quads_of(x: np.ndarray, y: np.ndarray, size: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Exact quads of a moving face (the landmarks' float32 would be a thousandth of a pixel of noise)."""
    base = square_parameters(ffhq_quad(face_at(0.0, 0.0, 1.0).landmarks_52)[None])
    return squares(np.stack([x, y], axis=1) + base[0], np.log(size) + base[1], angle + base[2])


def jitter(quads: np.ndarray) -> float:
    """RMS of the corners' second difference, pixels: what the eye sees as shaking."""
    return float(np.sqrt((np.diff(quads, 2, axis=0) ** 2).sum(-1).mean()))


@pytest.mark.parametrize("seconds", [EVEN, UNEVEN], ids=["constant rate", "variable rate"])
def test_constant_velocity_and_acceleration_come_out_as_they_went_in(seconds: np.ndarray) -> None:
    t = seconds
    quads = quads_of(300 + 200 * t - 30 * t * t, 200 - 80 * t, 90 * np.exp(0.05 * t), 0.2 * t)
    np.testing.assert_allclose(smooth_quads(quads, t, QuadSmoothing()), quads, atol=1e-4)


def test_a_full_turn_of_the_angle_is_no_jump() -> None:
    quads = quads_of(np.full(200, 300.0), np.full(200, 200.0), np.full(200, 90.0), 3.0 + 0.5 * EVEN)
    np.testing.assert_allclose(smooth_quads(quads, EVEN, QuadSmoothing()), quads, atol=1e-4)


def test_noise_goes_and_the_motion_stays() -> None:
    rng = np.random.default_rng(0)
    x = 300 + 60 * np.sin(2 * np.pi * 0.4 * EVEN) + 12 * np.sin(2 * np.pi * 2 * EVEN)  # sway, and a nod twice a second
    size, angle = 90 + 5 * np.sin(2 * np.pi * 0.3 * EVEN), 0.1 * np.sin(2 * np.pi * 0.5 * EVEN)
    truth = quads_of(x, np.full(200, 200.0), size, angle)
    noise = [rng.normal(0, s, 200) for s in (0.5, 0.5, 0.8, 0.01)]
    noisy = quads_of(x + noise[0], 200 + noise[1], size + noise[2], angle + noise[3])
    smooth = smooth_quads(noisy, EVEN, QuadSmoothing())

    def error(quads: np.ndarray) -> float:
        return float(np.sqrt(((quads - truth) ** 2).sum(-1).mean()))

    assert jitter(smooth) < 0.3 * jitter(noisy) + jitter(truth)
    assert error(smooth) < 0.6 * error(noisy)

    # The nod keeps its size and its moment: project the smoothed centre on the nod's sine and cosine.
    wave = np.exp(-2j * np.pi * 2 * EVEN)
    before, after = ((q.mean(1)[:, 0] - 300) @ wave for q in (truth, smooth))
    assert abs(after / before) > 0.95
    lag_seconds = -np.angle(after / before) / (2 * np.pi * 2)
    assert abs(lag_seconds) < 0.002


def test_one_bad_detection_does_not_pull_its_neighbours_but_a_quick_nod_is_kept() -> None:
    rng = np.random.default_rng(3)
    truth = 300 + 20 * EVEN
    value = truth + rng.normal(0, 0.3, 200)
    value[77] += 40
    smooth = local_parabola(EVEN, value, np.ones(200), 0.05, 2)
    assert np.abs(smooth - truth).max() < 1.0
    assert np.abs(local_parabola(EVEN, value, np.ones(200), 0.05, 0) - truth).max() > 10

    nod = truth + 25 * np.exp(-(((EVEN - 4) / 0.12) ** 2))  # up and down again within a third of a second
    smooth = local_parabola(EVEN, nod + rng.normal(0, 0.3, 200), np.ones(200), 0.05, 2)
    assert (smooth - truth)[100] > 0.9 * 25


def test_rows_without_weight_are_bridged_and_do_not_count() -> None:
    quads = quads_of(300 + 40 * EVEN, 200 + 10 * EVEN, np.full(200, 90.0), 0.05 * EVEN)
    weight = np.ones(200)
    weight[90:102] = 0
    broken = quads.copy()
    broken[90:102] += 500
    np.testing.assert_allclose(smooth_quads(broken, EVEN, QuadSmoothing(), weight), quads, atol=1e-3)


def test_time_is_seconds_not_rows() -> None:
    """Every second frame of a clip gives the same quads to within the noise they were fitted to."""
    rng = np.random.default_rng(2)
    t = np.arange(400) / 50
    quads = quads_of(300 + 30 * np.sin(2 * t), np.full(400, 200.0), np.full(400, 90.0), 0 * t)
    noisy = quads + rng.normal(0, 0.2, (400, 1, 2))
    all_rows = smooth_quads(noisy, t, QuadSmoothing())
    half = smooth_quads(noisy[::2], t[::2], QuadSmoothing())
    assert np.abs(all_rows[::2] - half).max() < 0.6
    assert np.abs(half - quads[::2]).max() < 0.6


def test_the_start_of_time_does_not_matter() -> None:
    """Rows that lie on the window's limit (a constant rate does that) used to fall in or out by rounding."""
    value = np.random.default_rng(6).normal(size=200)
    late = local_parabola(EVEN + 90.0, value, np.ones(200), 0.08, 2)
    np.testing.assert_allclose(late, local_parabola(EVEN, value, np.ones(200), 0.08, 2), atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
def test_short_tracks(n: int) -> None:
    quads = quads_of(300 + 9.0 * np.arange(n), np.full(n, 200.0), np.full(n, 90.0), np.zeros(n))
    np.testing.assert_allclose(smooth_quads(quads, np.arange(n) / 25, QuadSmoothing()), quads, atol=1e-4)


def test_sigma_zero_is_no_smoothing() -> None:
    quads = quads_of(300 + np.random.default_rng(1).normal(size=200), np.full(200, 9.0), np.full(200, 90.0), EVEN)
    np.testing.assert_allclose(smooth_quads(quads, EVEN, QuadSmoothing(0, 0, 0)), quads, atol=1e-9)


def test_long_tracks_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    value = np.random.default_rng(4).normal(size=200)
    whole = local_parabola(EVEN, value, np.ones(200), 0.1, 2)
    monkeypatch.setattr("ops.face.smooth.BLOCK_ROWS", 7)
    np.testing.assert_allclose(local_parabola(EVEN, value, np.ones(200), 0.1, 2), whole, atol=1e-9)


def test_what_cannot_be_smoothed_is_refused() -> None:
    quads = quads_of(EVEN, EVEN, EVEN + 90, EVEN)
    with pytest.raises(SmoothingError, match="increasing"):
        smooth_quads(quads, EVEN[::-1], QuadSmoothing())
    with pytest.raises(SmoothingError, match=r"\[N, 4, 2\]"):
        smooth_quads(quads[:5], EVEN, QuadSmoothing())
    with pytest.raises(SmoothingError, match="squares"):
        smooth_quads(quads * (1.0, 2.0), EVEN, QuadSmoothing())
    with pytest.raises(SmoothingError, match="sigmas"):
        QuadSmoothing(centre_sigma_seconds=-1)
