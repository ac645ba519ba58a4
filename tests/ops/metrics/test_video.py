"""An edited video against its source, pair by pair: per track, over all, and what is left out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from ops.face.align import ffhq_quad
from ops.face.mask import MaskSettings
from ops.metrics.metric import Measurement, MetricError
from ops.metrics.regions import frame_mask
from ops.metrics.video import TrackRows, measure_video
from tests.ops.metrics.test_identity import Colours
from tests.ops.metrics.test_temporal import textured

SHAPE = (120, 200, 3)
FACE = np.array([[-12.0, -10], [12, -10], [0, 2], [-9, 14], [9, 14]])
TIME_BASE = Fraction(1, 25)
MASK = MaskSettings()


def track(track_id: int, centre: tuple[float, float], pts: range, speed: float = 0.0) -> TrackRows:
    landmarks = np.stack([FACE + centre + (speed * i, 0) for i in range(len(pts))])
    quads = np.stack([ffhq_quad(points) for points in landmarks])
    return TrackRows(track_id, np.array(pts), quads, landmarks)


def pairs(tracks: list[TrackRows], change: dict[int, float], count: int = 6) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """A still picture; frame t of track k is brighter by change[k] on even frames, and unchanged on odd ones."""
    frame = textured(3, SHAPE)
    for pts in range(count):
        edited = frame.astype(np.float64)
        for one in tracks:
            for row in np.flatnonzero(one.pts == pts):
                mask = frame_mask(SHAPE, one.quads[row], one.landmarks[row], MASK)
                edited += mask[..., None] * change[one.track_id] * (pts % 2 == 0)
        yield pts, frame, np.clip(np.rint(edited), 0, 255).astype(np.uint8)


def named(measured: list[Measurement]) -> dict[tuple[str, str], Measurement]:
    return {(one.subject, one.metric.name): one for one in measured}


def test_an_unedited_video_is_perfect() -> None:
    tracks = [track(0, (50, 60), range(6)), track(1, (150, 60), range(1, 5))]
    found = named(measure_video(pairs(tracks, {0: 0, 1: 0}), tracks, TIME_BASE, MASK, Colours()))
    for subject in ("track 0", "track 1", "video"):
        for name in ("flicker of the edit", "flicker after motion", "seam energy", "quad jitter, shift", "quad jitter, turn"):
            assert found[subject, name].value == pytest.approx(0, abs=1e-9), (subject, name)
        assert found[subject, "identity kept"].value == pytest.approx(1)
        assert found[subject, "identity drift from the mean"].value == pytest.approx(0, abs=1e-9)
    assert found["video", "PSNR outside the mask"].value == math.inf
    assert found["track 0", "flicker of the edit"].count == 5
    assert found["track 1", "flicker of the edit"].count == 3, "pairs of frames with the face in both"
    assert found["video", "flicker of the edit"].count == 8


def test_faults_are_found_in_their_track() -> None:
    """Track 0 blinks by 30 levels; track 1 is left alone. The mask weighs its own size: less than 30, more than half."""
    tracks = [track(0, (50, 60), range(6)), track(1, (150, 60), range(6))]
    found = named(measure_video(pairs(tracks, {0: 30, 1: 0}), tracks, TIME_BASE, MASK, Colours()))
    blink = found["track 0", "flicker of the edit"].value
    assert 15 < blink < 30
    assert found["track 1", "flicker of the edit"].value == 0
    assert found["video", "flicker of the edit"].value == pytest.approx(blink / 2)
    assert found["track 0", "identity drift from the first frame"].value > 0
    assert found["video", "PSNR outside the mask"].value == math.inf
    assert found["track 0", "size of the edit"].value == pytest.approx(blink / 2, rel=0.05), "three frames of six are brighter"


def test_what_changed_outside_the_mask_is_seen() -> None:
    tracks = [track(0, (50, 60), range(6))]

    def spoilt() -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for pts, source, edited in pairs(tracks, {0: 0}):
            edited[:, 195:] = source[:, 195:] // 2
            yield pts, source, edited

    found = named(measure_video(spoilt(), tracks, TIME_BASE, MASK))
    assert 15 < found["video", "PSNR outside the mask"].value < 40
    assert found["video", "flicker of the edit"].value == 0, "one track's numbers are the video's"
    assert not [name for _, name in found if "identity" in name], "no recogniser, no number"


def test_numbers_do_not_depend_on_how_many_faces_are_embedded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tracks = [track(0, (60, 60), range(6), speed=2.0)]
    whole = measure_video(pairs(tracks, {0: 20}), tracks, TIME_BASE, MASK, Colours())
    monkeypatch.setattr("ops.metrics.video.EMBED_AT_ONCE", 4)
    assert measure_video(pairs(tracks, {0: 20}), tracks, TIME_BASE, MASK, Colours()) == whole


def test_short_and_absent_tracks() -> None:
    one = [track(0, (50, 60), range(1))]
    names = {one.metric.name for one in measure_video(pairs(one, {0: 10}, 1), one, TIME_BASE, MASK, Colours())}
    assert "size of the edit" in names and "seam energy" in names and "identity kept" in names
    assert not [name for name in names if "flicker" in name or "drift" in name or "jitter" in name]
    measured = measure_video(pairs([], {}, 3), [], TIME_BASE, MASK)
    assert [(one.metric.name, one.value) for one in measured] == [("PSNR outside the mask", math.inf)]
    outside = [track(0, (-400, 60), range(6))]
    names = {one.metric.name for one in measure_video(pairs(outside, {0: 10}), outside, TIME_BASE, MASK)}
    assert "flicker of the edit" not in names and "PSNR outside the mask" in names


def test_frames_of_two_sizes_are_refused() -> None:
    frame = textured(0, SHAPE)
    with pytest.raises(MetricError, match="one size"):
        measure_video([(0, frame, frame[:50])], [], TIME_BASE, MASK)
