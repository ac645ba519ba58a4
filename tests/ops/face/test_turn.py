"""How far a head is turned, from a model of five points in space, seen from afar."""

from __future__ import annotations

import numpy as np
import pytest

from ops.face.turn import EYES, NOSE, TurnSettings, turned_away, turned_degrees

POINTS = np.array([[-EYES / 2, 0, 0], [EYES / 2, 0, 0], [0, 0.6, NOSE], [-0.4, 1, 0], [0.4, 1, 0]])
"""Right, down, forward; the eyes and the mouth one length apart."""


def seen(degrees: float, roll: float = 0.0, scale: float = 100.0) -> np.ndarray:
    turn, lean = np.radians(degrees), np.radians(roll)
    right = POINTS[:, 0] * np.cos(turn) + POINTS[:, 2] * np.sin(turn)
    flat = scale * np.stack([right, POINTS[:, 1]], axis=1)
    return flat @ np.array([[np.cos(lean), np.sin(lean)], [-np.sin(lean), np.cos(lean)]]) + [320, 240]


@pytest.mark.parametrize("degrees", [0, 20, 45, 60, 90, 110])
@pytest.mark.parametrize("roll", [0, 30, -80])
@pytest.mark.parametrize("side", [-1, 1])
def test_the_angle_comes_back_at_any_lean_and_size(degrees: int, roll: int, side: int) -> None:
    faces = np.stack([seen(side * degrees, roll), seen(side * degrees, roll, 12.0)])
    np.testing.assert_allclose(turned_degrees(faces), degrees, atol=1e-6)


def test_a_head_at_the_limit_does_not_flicker() -> None:
    settings = TurnSettings(away_degrees=58, back_degrees=50)
    degrees = np.array([0, 57, 59, 57, 51, 59, 49, 57, 58, 40])
    expected = [False, False, True, True, True, True, False, False, True, False]
    assert turned_away(degrees, settings).tolist() == expected


def test_angles_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="back_degrees <= away_degrees"):
        TurnSettings(away_degrees=40, back_degrees=50)
