"""How far a head is turned to the side, from five landmarks: beyond some angle half of a face is hidden and no edit is right.

With s the nose's way from the middle of the eyes along their line and d the eyes' distance, both over the distance from eyes to
mouth, a head that is turned by t has about s = NOSE sin t and d = EYES cos t, so t = atan2(s / NOSE, d / EYES).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

NOSE: Final = 0.62
"""How far the nose's tip stands out before the line from eyes to mouth, over that line's length."""
EYES: Final = 1.0
"""The eyes' distance, over the same."""


@dataclass(frozen=True)
class TurnSettings:
    """When a head is turned too far. Two angles, so that a head near one of them does not flicker."""

    away_degrees: float = 58.0
    """From here on the edit is faded out ..."""
    back_degrees: float = 50.0
    """... until the head is turned less than this."""

    def __post_init__(self) -> None:
        if not 0.0 < self.back_degrees <= self.away_degrees <= 180.0:
            raise ValueError(
                f"expected 0 < back_degrees <= away_degrees <= 180, got {self.back_degrees} and {self.away_degrees}"
            )


def turned_degrees(landmarks_N52: np.ndarray) -> np.ndarray:
    """Landmarks in the order left eye, right eye, nose, mouth's corners => degrees to either side, float64 [N], 0..180."""
    points = np.asarray(landmarks_N52, np.float64)
    eyes, mouth, nose = points[:, :2].mean(axis=1), points[:, 3:].mean(axis=1), points[:, 2]
    down = mouth - eyes
    length = np.maximum(np.linalg.norm(down, axis=1), 1e-9)
    # Across is what stands upright on the way down: the eyes' own line has no length in a profile.
    across = np.stack([down[:, 1], -down[:, 0]], axis=1) / length[:, None]
    aside = np.abs(((nose - eyes) * across).sum(axis=1)) / length
    apart = ((points[:, 1] - points[:, 0]) * across).sum(axis=1) / length
    return np.degrees(np.arctan2(aside / NOSE, apart / EYES))


def turned_away(degrees_N: np.ndarray, settings: TurnSettings) -> np.ndarray:
    """Frames of one track in order => bool [N]: turned too far, from `away_degrees` on until below `back_degrees`."""
    away = np.zeros(len(degrees_N), bool)
    now = False
    for frame, degrees in enumerate(degrees_N):
        now = degrees >= (settings.back_degrees if now else settings.away_degrees)
        away[frame] = now
    return away
