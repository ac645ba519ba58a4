"""One identity within one shot: crossings, gaps, cuts, spurious faces; same rows, same answer."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from ops.face.detect import Face
from ops.face.track import FrameFaces, TrackError, TrackSettings, track_faces
from tests.ops.face.media import TIME_BASE, face_at, person, rows_of

ANNA, BERT = person(1), person(2)


def centres(track: object) -> np.ndarray:
    return track.landmarks.mean(1)  # type: ignore[attr-defined]


def noisy(face: Face, rng: np.random.Generator, sigma: float = 1.0) -> Face:
    points = face.landmarks_52 + rng.normal(0, sigma, (5, 2)).astype(np.float32)
    return Face(face.box_xyxy, points, face.score, face.embedding)


def crossing(embedded: bool, hidden: range, *, turn_back: bool = False, seed: int = 0) -> list[FrameFaces]:
    """Two faces walk towards each other over 60 frames; while `hidden`, one detection stands for both."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(60):
        way = 60 - i if turn_back and i > 30 else i
        a = face_at(100 + 8.0 * way, 200, embedding=ANNA if embedded else None)
        b = face_at(580 - 8.0 * way, 210, size=95, embedding=BERT if embedded else None)
        seen = [] if i in hidden and turn_back else [a] if i in hidden else [b, a]
        frames.append([noisy(f, rng) for f in seen])
    return rows_of(frames)


@pytest.mark.parametrize("embedded", [True, False])
@pytest.mark.parametrize("hidden", [range(0), range(26, 35)], ids=["both seen", "one hides the other"])
@pytest.mark.parametrize("seed", range(3))
def test_two_faces_that_cross_keep_their_tracks(embedded: bool, hidden: range, seed: int) -> None:
    result = track_faces(crossing(embedded, hidden, seed=seed), TIME_BASE)
    assert [len(t.pts) for t in result.tracks] == [60, 60]
    first, second = result.tracks
    assert np.abs(centres(first)[:, 0] - (100 + 8.0 * np.arange(60))).max() < 15
    assert np.abs(centres(second)[:, 0] - (580 - 8.0 * np.arange(60))).max() < 15
    assert second.interpolated.sum() == len(hidden)
    assert not first.interpolated.any()


def test_embeddings_tell_who_turned_back() -> None:
    """Both vanish at the meeting and walk back: motion alone would swap them, identity does not."""
    result = track_faces(crossing(True, range(28, 34), turn_back=True), TIME_BASE)
    assert len(result.tracks) == 2
    for track, start in zip(result.tracks, (100, 580), strict=True):
        assert abs(centres(track)[-1, 0] - start) < 25
    without = track_faces(crossing(False, range(28, 34), turn_back=True), TIME_BASE)
    assert abs(centres(without.tracks[0])[-1, 0] - 100) > 100  # the case does need them


def test_another_person_at_the_same_place_is_another_track() -> None:
    frames = [[face_at(200, 200, embedding=ANNA if i < 20 else -ANNA)] for i in range(40)]
    result = track_faces(rows_of(frames), TIME_BASE)
    assert [t.pts[[0, -1]].tolist() for t in result.tracks] == [[0, 19 * 40], [20 * 40, 39 * 40]]


def test_short_gap_is_interpolated_and_marked() -> None:
    frames = [[face_at(100 + 5.0 * i, 200)] if not 10 <= i < 15 else [] for i in range(30)]
    (track,) = track_faces(rows_of(frames, start=1000), TIME_BASE).tracks
    assert track.pts.tolist() == list(range(1000, 1000 + 30 * 40, 40))
    assert np.flatnonzero(track.interpolated).tolist() == [10, 11, 12, 13, 14]
    assert np.isnan(track.scores[10:15]).all() and not np.isnan(np.delete(track.scores, range(10, 15))).any()
    np.testing.assert_allclose(centres(track)[:, 0], 100 + 5.0 * np.arange(30), atol=1e-3)
    np.testing.assert_allclose(np.diff(track.quads.mean(1)[:, 0]), 5.0, atol=0.01)
    np.testing.assert_allclose(track.boxes[:, 0], 50 + 5.0 * np.arange(30), atol=1e-3)
    shapes = (track.boxes, track.landmarks, track.quads, track.interpolated, track.scores)
    assert [a.dtype.name for a in shapes] == ["float32", "float64", "float64", "bool", "float32"]


def test_the_longer_a_face_was_unseen_the_further_off_it_may_be() -> None:
    def tracks(hidden: range, jump: float) -> int:
        frames = [[] if i in hidden else [face_at(200 if i < 20 else 200 + jump, 200)] for i in range(40)]
        return len(track_faces(rows_of(frames), TIME_BASE).tracks)

    assert tracks(range(20, 30), 85.0) == 1
    assert tracks(range(0), 85.0) == 2
    assert tracks(range(20, 30), 150.0) == 2


def test_long_gap_ends_the_track() -> None:
    frames = [[face_at(200, 200)] if not 20 <= i < 40 else [] for i in range(60)]
    result = track_faces(rows_of(frames), TIME_BASE, TrackSettings(max_gap_seconds=0.5))
    assert [(t.track_id, len(t.pts), t.interpolated.any()) for t in result.tracks] == [
        (0, 20, False),
        (1, 20, False),
    ]


def test_a_low_frame_rate_is_not_a_gap() -> None:
    frames = [[face_at(200 + 10.0 * i, 200)] for i in range(10)]
    assert len(track_faces(rows_of(frames, step=2000), TIME_BASE).tracks) == 1


def test_a_cut_ends_every_track_even_of_the_same_face() -> None:
    rows = rows_of([[face_at(200, 200)] for _ in range(40)])
    rows[20] = FrameFaces(rows[20].pts, 60.0, rows[20].faces)
    result = track_faces(rows, TIME_BASE)
    assert [(t.shot, int(t.pts[0]), len(t.pts)) for t in result.tracks] == [(0, 0, 20), (1, 800, 20)]
    assert [(s.first_pts, s.last_pts, s.n_frames) for s in result.shots] == [(0, 760, 20), (800, 1560, 20)]


def test_spurious_faces_are_dropped_with_a_reason() -> None:
    frames = [[face_at(200, 200)] + ([face_at(500, 300, 40, score=0.6)] if i in (7, 8) else []) for i in range(30)]
    result = track_faces(rows_of(frames), TIME_BASE)
    assert len(result.tracks) == 1
    (gone,) = result.dropped
    assert (gone.first_pts, gone.last_pts, gone.n_frames, gone.shot) == (280, 320, 2, 0)
    assert gone.best_score == pytest.approx(0.6) and "min_track_frames" in gone.reason


def test_one_frame_is_enough_where_there_is_only_one() -> None:
    result = track_faces(rows_of([[face_at(300, 200), face_at(100, 200)]]), TIME_BASE)
    assert [(t.track_id, len(t.pts)) for t in result.tracks] == [(0, 1), (1, 1)]
    assert centres(result.tracks[0])[0, 0] < centres(result.tracks[1])[0, 0]  # left to right


def test_no_faces_and_no_frames() -> None:
    empty = track_faces(rows_of([[], [], []]), TIME_BASE)
    assert (empty.tracks, len(empty.shots), empty.dropped) == ([], 1, [])
    assert track_faces([], TIME_BASE).shots == []


def test_order_of_faces_in_a_frame_and_start_of_time_do_not_matter() -> None:
    rows = crossing(False, range(26, 35))
    turned = [FrameFaces(r.pts + 90_000, r.cut_score, list(r.faces)[::-1]) for r in rows]
    one, other = track_faces(rows, TIME_BASE), track_faces(turned, TIME_BASE)
    assert len(one.tracks) == len(other.tracks) == 2
    for a, b in zip(one.tracks, other.tracks, strict=True):
        np.testing.assert_array_equal(a.pts + 90_000, b.pts)
        np.testing.assert_array_equal(a.landmarks, b.landmarks)
        np.testing.assert_array_equal(a.quads, b.quads)


def test_pts_must_increase() -> None:
    rows = rows_of([[face_at(1, 1)], [face_at(1, 1)]])
    with pytest.raises(TrackError, match="strictly increasing pts, got 40 then 0"):
        track_faces(rows[::-1], Fraction(1, 1000))


def test_bad_settings_are_refused() -> None:
    for bad in ({"max_gap_seconds": -1.0}, {"max_distance": 0.0}, {"min_similarity": 2.0}):
        with pytest.raises(TrackError):
            TrackSettings(**bad)
