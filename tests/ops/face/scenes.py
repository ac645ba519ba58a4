"""People who cross, hide one another, turn back, leave and come again: scenes put together from clips, with who is where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import cv2
import numpy as np

from ops.face.appearance import describe
from ops.face.detect import DetectorSettings, build_detector
from ops.face.track import FrameFaces, TrackResult, TrackSettings, track_faces
from ops.video.decode import FrameReader
from ops.video.probe import probe
from tests.ops.video.media import clip

WIDTH, HEIGHT, HEAD = 640, 240, 200
Path = Callable[[int], tuple[float, float] | None]
"""Frame => where the middle of a head is; None while there is nobody."""


@dataclass(frozen=True, eq=False)
class Person:
    """Somebody in a scene; later ones of a list stand in front of earlier ones."""

    heads: list[np.ndarray]
    path: Path


def heads_of(name: str, count: int, first: int = 0, which: int = 0) -> list[np.ndarray]:
    """Squares of HEAD pixels around one head of a clip (`which`: from the left), where it is in the first of the frames."""
    info = probe(clip(name))
    with FrameReader(info) as reader:
        frames = [frame for _, frame in reader.read(first, min(first + count, info.n_frames))]
    faces = sorted(build_detector(DetectorSettings(threads=1)).detect(frames[0]), key=lambda face: float(face.box_xyxy[0]))
    x0, y0, x1, y1 = faces[which].box_xyxy
    side, x, y = (y1 - y0) / 0.62, (x0 + x1) / 2, (y0 + y1) / 2
    shift = np.array([[HEAD / side, 0, HEAD / 2 - x * HEAD / side], [0, HEAD / side, HEAD / 2 - y * HEAD / side]])
    return [
        cv2.warpAffine(frame, shift, (HEAD, HEAD), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE) for frame in frames
    ]


def scene(people: Sequence[Person], count: int) -> tuple[list[np.ndarray], list[dict[int, tuple[float, float]]]]:
    """Frames uint8 [HEIGHT, WIDTH, 3], and for each of them where the middle of each person's head is."""
    y, x = np.mgrid[:HEAD, :HEAD]
    reach = ((x - HEAD / 2) / (0.36 * HEAD)) ** 2 + ((y - HEAD / 2) / (0.46 * HEAD)) ** 2
    alpha = np.clip((1.15 - reach) / 0.15, 0, 1)[..., None]
    frames, truth = [], []
    for i in range(count):
        frame = np.full((HEIGHT, WIDTH, 3), (108, 118, 112), np.float64)
        where: dict[int, tuple[float, float]] = {}
        for number, person in enumerate(people):
            at = person.path(i)
            if at is None:
                continue
            head = person.heads[i % len(person.heads)]
            shift = np.array([[1, 0, at[0] - HEAD / 2], [0, 1, at[1] - HEAD / 2]])
            drawn = cv2.warpAffine(head.astype(np.float64), shift, (WIDTH, HEIGHT))
            share = cv2.warpAffine(alpha, shift, (WIDTH, HEIGHT))[..., None]
            frame = frame * (1 - share) + drawn * share
            where[number] = at
        frames.append(np.clip(frame + 0.5, 0, 255).astype(np.uint8))
        truth.append(where)
    return frames, truth


def rows_of(frames: Sequence[np.ndarray], *, looks: bool = True) -> list[FrameFaces]:
    """What the scan would write of frames at 25 a second; `looks`: with what the faces look like."""
    detector = build_detector(DetectorSettings(threads=1))
    rows = []
    for i, frame in enumerate(frames):
        faces = detector.detect(frame)
        if looks:
            faces = [replace(face, appearance=describe(frame, face.landmarks_52)) for face in faces]
        rows.append(FrameFaces(i, 0.0, faces))
    return rows


def tracked(rows: Sequence[FrameFaces], settings: TrackSettings | None = None) -> TrackResult:
    return track_faces(rows, Fraction(1, 25), settings)


def wrong_frames(result: TrackResult, truth: Sequence[dict[int, tuple[float, float]]]) -> int:
    """Detected rows of tracks that show another person than the one whom most of their rows show."""
    wrong = 0
    for track in result.tracks:
        seen = []
        for pts, box, guessed in zip(track.pts, track.boxes, track.interpolated, strict=True):
            if guessed:
                continue
            middle = (box[:2] + box[2:]) / 2
            near = sorted((float(np.hypot(*(middle - at))), who) for who, at in truth[int(pts)].items())
            # Behind one another the one in front is seen, and so is the one in whose middle the face is.
            seen.append(max(who for apart, who in near if apart < near[0][0] + 25))
        wrong += len(seen) - max(seen.count(who) for who in set(seen))
    return wrong
