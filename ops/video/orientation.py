"""Turns stored pixels upright and back, for the eight ways in which a picture can be turned and flipped.

Convention: rotations are counter-clockwise as seen on screen, in quarter turns; a mirrored picture is flipped left to
right first and turned afterwards. Video states it in a display matrix (ISO/IEC 14496-12, 8.2.2), photographs in
EXIF tag 0x0112.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from ops.video.errors import MediaError


@dataclass(frozen=True)
class Orientation:
    """The way from stored to upright: if `mirrored` flip left to right, then `quarter_turns` (0..3) counter-clockwise."""

    quarter_turns: int = 0
    mirrored: bool = False

    def upright(self, stored: np.ndarray) -> np.ndarray:
        """Turn stored pixels [h, w, c] upright; a C-contiguous array (the input itself if nothing is to be done)."""
        turned = np.rot90(stored[:, ::-1] if self.mirrored else stored, self.quarter_turns)
        return np.ascontiguousarray(turned)

    def stored(self, upright: np.ndarray) -> np.ndarray:
        """Turn upright pixels [h, w, c] back to how they are stored, the inverse of `upright`; C-contiguous."""
        turned = np.rot90(upright, -self.quarter_turns)
        return np.ascontiguousarray(turned[:, ::-1] if self.mirrored else turned)

    def upright_size(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) of the upright picture, given those of the stored one."""
        return (height, width) if self.quarter_turns % 2 else (width, height)


UPRIGHT = Orientation()

# EXIF orientation 1..8: how the stored picture is turned upright.
EXIF_ORIENTATIONS = {
    1: UPRIGHT,
    2: Orientation(0, True),
    3: Orientation(2, False),
    4: Orientation(2, True),
    5: Orientation(1, True),
    6: Orientation(3, False),
    7: Orientation(3, True),
    8: Orientation(1, False),
}


def _degrees(a: int, b: int) -> int:
    return round(math.degrees(math.atan2(-b, a))) % 360


def orientation_of(file: str | Path, frame: VideoFrame) -> Orientation:
    """Return the orientation in a decoded frame's display matrix; upright if it has none.

    Raises `MediaError` for a rotation other than a multiple of 90 degrees.
    """
    if "DISPLAYMATRIX" not in frame.side_data:
        return UPRIGHT
    # PyAV types the mapping by keys it does not list in full.
    matrix = bytes(frame.side_data["DISPLAYMATRIX"])  # type: ignore[typeddict-item]
    # Row vector convention: (x, y) stored becomes (a x + c y, b x + d y) on screen, y downwards.
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(np.int64).tolist()
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    reach = max(abs(a), abs(b), abs(c), abs(d))
    straight, turned = max(abs(b), abs(c)), max(abs(a), abs(d))
    if reach == 0 or min(straight, turned) * 100 > reach:
        raise MediaError(
            file, f"its display matrix turns it by {_degrees(a, b)} degrees", "only multiples of 90 degrees can be handled"
        )
    if turned > straight:
        return Orientation(0 if a > 0 else 2, mirrored)
    return Orientation(1 if b < 0 else 3, mirrored)
