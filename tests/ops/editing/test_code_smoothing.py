"""Smoothing of codes: no lag, no shrinking, no leaking across gaps, right for any spacing of the frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

from ops.editing.smoothing import (
    SmoothingError,
    SmoothingSettings,
    contiguous_runs,
    smooth_codes,
)

GAUSSIAN = SmoothingSettings(kind="gaussian")
SAVGOL = SmoothingSettings(kind="savgol")
ONE_EURO = SmoothingSettings(kind="one_euro")
CENTRED = [GAUSSIAN, SAVGOL]
EVEN = np.arange(60) / 25
UNEVEN = np.cumsum(np.random.default_rng(7).uniform(0.01, 0.09, 60)) - 3


def as_codes(*curves: np.ndarray) -> np.ndarray:
    """Curves over N frames => codes [N, 2, len(curves)]; the second row is the first, turned over."""
    curve_ND = np.stack(curves, axis=1)
    return np.stack([curve_ND, -curve_ND], axis=1).astype(np.float32)


def noisy(times: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(times), 3, 5)).astype(np.float32)


def ids(settings: SmoothingSettings) -> str:
    return settings.kind


def test_none_keeps_every_bit_in_a_new_array() -> None:
    wplus_NLD = noisy(EVEN)
    wplus_NLD.flags.writeable = False
    kept = smooth_codes(wplus_NLD, EVEN, SmoothingSettings("none"))
    np.testing.assert_array_equal(kept, wplus_NLD)
    assert kept.flags.writeable and not np.shares_memory(kept, wplus_NLD)


@pytest.mark.parametrize("shared", [None, 0, 1])
@pytest.mark.parametrize("settings", [GAUSSIAN, SAVGOL, ONE_EURO], ids=ids)
def test_a_frame_by_itself_keeps_its_bits(settings: SmoothingSettings, shared: int | None) -> None:
    """A picture's; or one between gaps, whose neighbours are smoothed."""
    alone, times = noisy(EVEN[:1]), np.concatenate([EVEN[:20], [9.0], 20.0 + EVEN[:20]])
    shares = replace(settings, shared_from_row=shared)
    kept = smooth_codes(alone, EVEN[:1], shares)
    np.testing.assert_array_equal(kept, alone)
    assert not np.shares_memory(kept, alone)
    among = smooth_codes(noisy(times), times, shares)
    np.testing.assert_array_equal(among[20], noisy(times)[20])
    assert (among[10] != noisy(times)[10]).any()


@pytest.mark.parametrize("settings", [GAUSSIAN, SAVGOL, ONE_EURO], ids=ids)
@pytest.mark.parametrize("times", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_constants_stay_to_the_bit(settings: SmoothingSettings, times: np.ndarray) -> None:
    constant = np.broadcast_to(noisy(times)[:1], (len(times), 3, 5))
    np.testing.assert_array_equal(smooth_codes(constant, times, settings), constant)


@pytest.mark.parametrize(("settings", "degree"), [(GAUSSIAN, 1), (SAVGOL, 2)], ids=["gaussian", "savgol"])
@pytest.mark.parametrize("times", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_motion_of_its_degree_stays_at_the_ends_too(settings: SmoothingSettings, degree: int, times: np.ndarray) -> None:
    curves = [3 * times**power - 1 for power in range(degree + 1)]
    codes = as_codes(*curves)
    np.testing.assert_allclose(smooth_codes(codes, times, settings), codes, rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", CENTRED, ids=ids)
def test_a_peak_neither_lags_nor_leads(settings: SmoothingSettings) -> None:
    times = np.arange(101) / 25
    codes = as_codes(np.exp(-0.5 * ((times - 2.0) / 0.3) ** 2))
    smoothed = smooth_codes(codes, times, settings)[:, 0, 0]
    assert smoothed.argmax() == 50
    np.testing.assert_allclose(smoothed, smoothed[::-1], atol=1e-6)
    # A slow blink of 0.7 s keeps at least nine tenths of its height.
    assert smoothed.max() > 0.9


@pytest.mark.parametrize("settings", CENTRED, ids=ids)
def test_time_may_run_either_way(settings: SmoothingSettings) -> None:
    codes = noisy(UNEVEN)
    backwards = smooth_codes(codes[::-1], -UNEVEN[::-1], settings)[::-1]
    np.testing.assert_allclose(smooth_codes(codes, UNEVEN, settings), backwards, atol=1e-5)


@pytest.mark.parametrize("settings", [GAUSSIAN, SAVGOL, ONE_EURO], ids=ids)
def test_only_differences_of_time_matter(settings: SmoothingSettings) -> None:
    codes = noisy(EVEN)
    later = smooth_codes(codes, EVEN + 3600, settings)
    np.testing.assert_allclose(smooth_codes(codes, EVEN, settings), later, atol=1e-5)


def test_gaussian_is_a_gaussian_filter_on_even_frames() -> None:
    codes = noisy(EVEN)
    expected = scipy.ndimage.gaussian_filter1d(codes.astype(float), 0.08 * 25, axis=0, truncate=4.0)
    np.testing.assert_allclose(smooth_codes(codes, EVEN, GAUSSIAN)[8:-8], expected[8:-8], atol=1e-6)


@pytest.mark.parametrize(("window", "degree"), [(9, 2), (9, 3), (5, 0), (21, 4)])
def test_savgol_is_scipys_on_even_frames_ends_included(window: int, degree: int) -> None:
    codes = noisy(EVEN)
    settings = SmoothingSettings(kind="savgol", window_seconds=(window - 1) / 25, degree=degree)
    expected = scipy.signal.savgol_filter(codes.astype(float), window, degree, axis=0, mode="interp")
    np.testing.assert_allclose(smooth_codes(codes, EVEN, settings), expected, atol=1e-5)


def test_the_default_savgol_window_takes_nine_frames_at_25_per_second() -> None:
    impulse = np.zeros((61, 1, 1), np.float32)
    impulse[30] = 1
    answer = smooth_codes(impulse, np.arange(61) / 25, SAVGOL)[:, 0, 0]
    assert np.flatnonzero(np.abs(answer) > 1e-9).tolist() == list(range(26, 35))


@pytest.mark.parametrize("settings", [GAUSSIAN, SAVGOL, ONE_EURO], ids=ids)
def test_jitter_is_reduced(settings: SmoothingSettings) -> None:
    codes = noisy(EVEN)
    before, after = np.diff(codes, axis=0), np.diff(smooth_codes(codes, EVEN, settings), axis=0)
    assert after.std() < 0.5 * before.std()


def test_crowded_frames_do_not_weigh_more() -> None:
    """A ramp with a burst of frames at its foot: a mean by count would be dragged towards the burst."""
    sparse, burst = np.arange(0, 2, 0.04), np.arange(0.9601, 0.9999, 0.002)
    times = np.sort(np.concatenate([sparse, burst]))
    curve = np.sin(2 * np.pi * times)
    reference = smooth_codes(as_codes(np.sin(2 * np.pi * sparse)), sparse, GAUSSIAN)[:, 0, 0]
    got = smooth_codes(as_codes(curve), times, GAUSSIAN)[:, 0, 0]
    np.testing.assert_allclose(got[np.isin(times, sparse)][8:-8], reference[8:-8], atol=0.01)


@pytest.mark.parametrize("settings", [GAUSSIAN, SAVGOL, ONE_EURO], ids=ids)
def test_nothing_leaks_across_a_gap(settings: SmoothingSettings) -> None:
    times = np.concatenate([EVEN, EVEN + EVEN[-1] + 0.6])
    codes = np.concatenate([noisy(EVEN), noisy(EVEN, 1) + 100])
    apart = np.concatenate([smooth_codes(codes[:60], EVEN, settings), smooth_codes(codes[60:], EVEN, settings)])
    np.testing.assert_allclose(smooth_codes(codes, times, settings), apart, atol=1e-5)


def test_runs_are_cut_where_the_gap_is_longer_than_allowed() -> None:
    times = np.array([0, 0.5, 1.0, 1.51, 9, 9.1])
    assert list(contiguous_runs(times, 0.5)) == [slice(0, 3), slice(3, 4), slice(4, 6)]
    assert list(contiguous_runs(times[:0], 0.5)) == []


@pytest.mark.parametrize("settings", [GAUSSIAN, SAVGOL, ONE_EURO], ids=ids)
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_short_tracks_pass(settings: SmoothingSettings, count: int) -> None:
    codes = noisy(EVEN)[:count]
    smoothed = smooth_codes(codes, EVEN[:count], settings)
    assert smoothed.shape == (count, 3, 5) and np.isfinite(smoothed).all()
    if count == 1:
        np.testing.assert_array_equal(smoothed, codes)


@pytest.mark.parametrize("settings", CENTRED, ids=ids)
def test_windows_narrower_than_a_frame_change_nothing(settings: SmoothingSettings) -> None:
    narrow = SmoothingSettings(kind=settings.kind, sigma_seconds=0.001, window_seconds=0.002)
    codes = noisy(EVEN)
    np.testing.assert_allclose(smooth_codes(codes, EVEN, narrow), codes, atol=1e-6)


def test_long_tracks_come_out_as_short_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = noisy(UNEVEN)
    expected = {s.kind: smooth_codes(codes, UNEVEN, s) for s in CENTRED}
    monkeypatch.setattr("ops.editing.smoothing._FRAMES_AT_ONCE", 7)
    for settings in CENTRED:
        np.testing.assert_array_equal(smooth_codes(codes, UNEVEN, settings), expected[settings.kind])


def test_one_euro_is_the_papers_filter() -> None:
    """Casiez et al. 2012, Algorithm 1, written out for one channel."""
    codes = noisy(UNEVEN)
    settings = SmoothingSettings(kind="one_euro", min_cutoff_hz=0.7, speed_coefficient=0.3, derivative_cutoff_hz=2)
    channel = codes[:, 1, 2].astype(float)
    value, speed, expected = channel[0], 0.0, [channel[0]]
    for k in range(1, len(UNEVEN)):
        rate = 1 / (UNEVEN[k] - UNEVEN[k - 1])
        slope = (channel[k] - value) * rate
        speed = speed + (slope - speed) / (1 + rate / (2 * np.pi * 2))
        cutoff = 0.7 + 0.3 * abs(speed)
        value = value + (channel[k] - value) / (1 + rate / (2 * np.pi * cutoff))
        expected.append(value)
    np.testing.assert_allclose(smooth_codes(codes, UNEVEN, settings)[:, 1, 2], expected, atol=1e-5)


def test_one_euro_looks_backwards_only() -> None:
    codes = noisy(EVEN)
    whole, part = smooth_codes(codes, EVEN, ONE_EURO), smooth_codes(codes[:30], EVEN[:30], ONE_EURO)
    np.testing.assert_array_equal(whole[:30], part)


@pytest.mark.parametrize("kind", ["none", "gaussian", "savgol", "one_euro"])
def test_shared_rows_hold_their_mean_and_the_others_are_as_without(kind: str) -> None:
    codes = noisy(EVEN)
    plain = smooth_codes(codes, EVEN, SmoothingSettings(kind=kind))
    shared = smooth_codes(codes, EVEN, SmoothingSettings(kind=kind, shared_from_row=2))
    np.testing.assert_array_equal(shared[:, :2], plain[:, :2])
    np.testing.assert_allclose(shared[:, 2], np.broadcast_to(codes[:, 2].mean(axis=0), (60, 5)), atol=1e-6)
    assert (shared[:, 2] == shared[0, 2]).all()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "median"}, "none, gaussian, savgol, one_euro"),
        ({"sigma_seconds": 0}, "sigma_seconds is a positive"),
        ({"window_seconds": float("nan")}, "window_seconds"),
        ({"min_cutoff_hz": -1}, "min_cutoff_hz"),
        ({"derivative_cutoff_hz": 0}, "derivative_cutoff_hz"),
        ({"speed_coefficient": -0.1}, "speed_coefficient is 0 or more"),
        ({"reset_gap_seconds": 0}, "reset_gap_seconds"),
        ({"degree": 6}, "degree is 0 to 5"),
        ({"shared_from_row": -1}, "shared_from_row"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, says: str) -> None:
    with pytest.raises(SmoothingError, match=says):
        SmoothingSettings(**settings)


def test_codes_and_times_that_do_not_match_are_refused() -> None:
    codes = noisy(EVEN)
    with pytest.raises(SmoothingError, match="N times"):
        smooth_codes(codes, EVEN[:-1], GAUSSIAN)
    with pytest.raises(SmoothingError, match=r"\[N, L, D\]"):
        smooth_codes(codes[:, 0], EVEN, GAUSSIAN)
    for times in (EVEN[::-1], np.zeros(60), np.where(EVEN == 1, np.nan, EVEN)):
        with pytest.raises(SmoothingError, match="increase strictly"):
            smooth_codes(codes, times, GAUSSIAN)
    with pytest.raises(SmoothingError, match="the codes have 3 rows"):
        smooth_codes(codes, EVEN, SmoothingSettings("none", shared_from_row=3))
