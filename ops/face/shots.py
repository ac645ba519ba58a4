"""Finds the cuts of a source: one score per frame in the heavy pass, the decision from all scores afterwards.

The score of a frame depends on it and its predecessor only, so a chunk computes the same rows as a whole pass
if it is handed the frame before its first. The decision reads the rows of the whole source, so chunks do not
show in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from scenedetect import FrameTimecode, StatsManager
from scenedetect.detectors import ContentDetector

SCORE_WIDTH_PIXELS: Final = 256  # PySceneDetect's own working width; more costs time and tells nothing


class ShotError(ValueError):
    """Scores that cannot be cut. The message says what was expected and what came."""


@dataclass(frozen=True)
class ShotSettings:
    """When a score is a cut."""

    min_score: float = 15.0
    """A cut changes hue, saturation and brightness by at least this much on average (0..255)."""
    ratio: float = 3.0
    """... and by this much more than the frames around it do: a moving camera changes every frame."""
    window_frames: int = 4
    """Neighbours on each side that a score is compared with."""

    def __post_init__(self) -> None:
        if self.min_score <= 0 or self.ratio < 1 or self.window_frames < 1:
            raise ShotError(
                "shots: expected min_score > 0, ratio >= 1 and window_frames >= 1, got "
                f"{self.min_score}, {self.ratio} and {self.window_frames}."
            )


def shot_scores(frames: Iterable[np.ndarray], previous: np.ndarray | None) -> list[float]:
    """Change of content of each frame against the one before it, 0..255: PySceneDetect's `content_val`.

    frames: uint8 [H, W, 3] RGB in display order. previous: the frame before the first, or None at the
    source's start (that frame's score is then 0). Frames are reduced to 256 pixels of width first.
    """
    detector = ContentDetector()
    detector.stats_manager = stats = StatsManager()
    scores: list[float] = []
    # PySceneDetect counts frames; time plays no part in this score, so any rate will do.
    if previous is not None:
        detector.process_frame(FrameTimecode(0, fps=25.0), _small_bgr(previous))
    for index, frame in enumerate(frames, start=1):
        time = FrameTimecode(index, fps=25.0)
        detector.process_frame(time, _small_bgr(frame))
        first_of_source = previous is None and index == 1
        scores.append(0.0 if first_of_source else float(stats.get_metrics(time, ["content_val"])[0]))
    return scores


def find_cuts(scores: Iterable[float], settings: ShotSettings | None = None) -> list[int]:
    """Ordinals of the first frame of every shot but the first, from the scores of a whole source.

    A frame is a cut when its score is at least `min_score` and at least `ratio` times the median of its
    neighbours'. PySceneDetect's AdaptiveDetector takes the mean; the median still sees a cut that has another
    one near by. Raises ShotError for scores that are not finite.
    """
    settings = settings or ShotSettings()
    rows = np.asarray(list(scores), np.float64)
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows))[0])
        raise ShotError(f"find_cuts: expected finite scores, got {rows[bad]} for frame {bad}; scan the source again.")
    cuts = []
    for index in np.flatnonzero(rows >= settings.min_score):
        if index == 0:
            continue  # nothing precedes it
        # Row 0 has no predecessor, its score says nothing.
        before = rows[max(1, index - settings.window_frames) : index]
        after = rows[index + 1 : index + 1 + settings.window_frames]
        around = np.concatenate([before, after])
        if around.size == 0 or rows[index] >= settings.ratio * np.median(around):
            cuts.append(int(index))
    return cuts


def _small_bgr(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    if width > SCORE_WIDTH_PIXELS:
        size = (SCORE_WIDTH_PIXELS, max(1, round(height * SCORE_WIDTH_PIXELS / width)))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(frame[:, :, ::-1])
