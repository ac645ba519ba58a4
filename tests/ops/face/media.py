"""Faces made in code, and the few helpers that read real clips without the project's own reader."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ops.face.align import transform_points
from ops.face.detect import Face
from ops.face.track import FrameFaces

TIME_BASE = Fraction(1, 1000)
# Eyes, nose, mouth corners of an upright face of unit size around the origin.
UNIT_FACE_52 = np.array([[-0.25, -0.2], [0.25, -0.2], [0.0, 0.05], [-0.2, 0.3], [0.2, 0.3]])


def read_clip(path: Path, stop: int | None = None) -> list[np.ndarray]:
    """Frames as PyAV decodes them (no rotation applied), uint8 [H, W, 3] RGB."""
    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frames.append(frame.to_ndarray(format="rgb24"))
            if stop is not None and len(frames) == stop:
                break
    return frames


def face_at(x: float, y: float, size: float = 100.0, angle: float = 0.0, **extra: object) -> Face:
    turn = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    place = np.block([[turn, np.array([[x], [y]])], [np.array([[0.0, 0.0, 1.0]])]])
    half = size / 2
    return Face(
        box_xyxy=np.array([x - half, y - half, x + half, y + half], np.float32),
        landmarks_52=transform_points(place, UNIT_FACE_52).astype(np.float32),
        score=float(extra.get("score", 0.9)),  # type: ignore[arg-type]
        embedding=extra.get("embedding"),  # type: ignore[arg-type]
    )


def rows_of(faces_per_frame: list[list[Face]], step: int = 40, start: int = 0) -> list[FrameFaces]:
    """One row per list of faces, `step` milliseconds apart, without cuts."""
    return [FrameFaces(start + step * i, 0.0 if i == 0 else 1.0, faces) for i, faces in enumerate(faces_per_frame)]


def person(seed: int, dims: int = 32) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=dims)
    return (vector / np.linalg.norm(vector)).astype(np.float32)
