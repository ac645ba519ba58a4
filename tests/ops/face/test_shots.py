"""Cuts: exactly where they are in real clips, whatever the chunks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ops.face.shots import ShotError, ShotSettings, find_cuts, shot_scores
from tests.ops.face.media import read_clip


@pytest.mark.parametrize(
    ("clip", "cuts"),
    [
        ("hamilton_multi_cuts_audio.mp4", [20, 82, 211]),
        ("scene_cut_face_noface_face.mp4", [50, 75]),
        ("carphone_176x144.mp4", []),
        ("lp_d12_motion_512.mp4", []),
        ("face_leaves_returns_480.mp4", []),
        ("noface_car_3s.mp4", []),
        ("one_frame.mp4", []),
    ],
)
def test_cuts_of_real_clips(shared_videos: Path, clip: str, cuts: list[int]) -> None:
    assert find_cuts(shot_scores(read_clip(shared_videos / clip), None)) == cuts


def test_scores_do_not_depend_on_chunks(shared_videos: Path) -> None:
    frames = read_clip(shared_videos / "scene_cut_face_noface_face.mp4", stop=60)
    whole = shot_scores(frames, None)
    chunked: list[float] = []
    for first in range(0, 60, 7):
        chunked += shot_scores(frames[first : first + 7], frames[first - 1] if first else None)
    assert chunked == whole
    assert whole[0] == 0.0 and whole[50] > 40


def test_cuts_close_together_are_all_found() -> None:
    """Against the mean of its neighbours the middle one would be lost: 45 < 3 * (2 * 45 + 6 * 5.5) / 8."""
    scores = np.random.default_rng(0).uniform(5.2, 5.8, 60)
    scores[[30, 32, 34]] = 45
    assert find_cuts(scores) == [30, 32, 34]


def test_a_fast_pan_is_not_a_cut_but_a_cut_in_the_last_frame_is() -> None:
    scores = np.r_[0.0, np.full(20, 2.0), np.full(20, 24.0), np.full(20, 2.0), 40.0]
    assert find_cuts(scores) == [61]
    assert find_cuts([0.0, 50.0]) == [1]
    assert find_cuts([50.0]) == [] == find_cuts([])


def test_bad_input_is_refused() -> None:
    with pytest.raises(ShotError, match="frame 1"):
        find_cuts([0.0, float("nan")])
    with pytest.raises(ShotError, match="ratio"):
        ShotSettings(ratio=0.5)
