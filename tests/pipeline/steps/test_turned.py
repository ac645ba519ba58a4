"""Stretches in which a head is turned away: where they are, and the row that says so."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ops.face.turn import TurnSettings
from pipeline.steps.plan import away_moments
from pipeline.store.columns import nested
from tests.ops.face.test_turn import seen


def test_each_track_has_its_own_moments_whatever_the_order_of_rows() -> None:
    degrees = {0: [0, 70, 55, 40], 1: [30, 55, 60, 55]}
    rows = [(track, pts, seen(float(angle))) for track, angles in degrees.items() for pts, angle in enumerate(angles)]
    order = np.random.default_rng(0).permutation(len(rows))
    table = pa.table(
        {
            "track_id": np.array([rows[at][0] for at in order], np.int32),
            "pts": np.array([10 * rows[at][1] for at in order], np.int64),
            "landmarks": nested(np.stack([rows[at][2] for at in order]), np.float64, (5, 2), "landmarks"),
        }
    )
    away = away_moments(table, TurnSettings(away_degrees=58, back_degrees=50))
    assert {track: moments.tolist() for track, moments in away.items()} == {0: [10, 20], 1: [20, 30]}
    assert away_moments(table, TurnSettings(away_degrees=180, back_degrees=180)) == {}
