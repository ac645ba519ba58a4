"""People who cross, hide one another, turn back, leave and come again: scenes put together from clips, with who is where."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Final

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ops.face.appearance import describe
from ops.face.detect import DetectorSettings, build_detector
from ops.face.track import FrameFaces, TrackResult, TrackSettings, track_faces
from ops.video.decode import FrameReader
from ops.video.probe import probe
from tests import needs
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


def still(row: int, seed: int, count: int) -> list[np.ndarray]:
    """A face of ../shared/data/faces512.parquet as squares of HEAD pixels: it nods, comes nearer, and the light changes."""
    image = faces_table()["image"][row].as_py()
    with Image.open(io.BytesIO(image)) as opened:
        face = cv2.resize(np.asarray(opened.convert("RGB")), (HEAD, HEAD), interpolation=cv2.INTER_AREA)
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi, 3)
    made = []
    for i in range(count):
        nod, near, light = (np.sin(i / period + p) for period, p in zip((9, 13, 11), phase, strict=True))
        turn = cv2.getRotationMatrix2D((HEAD / 2, HEAD / 2), 7 * nod, 1 + 0.04 * near)
        moved = cv2.warpAffine(face, turn, (HEAD, HEAD), borderMode=cv2.BORDER_REPLICATE)
        made.append(np.clip(moved * (1 + 0.06 * light), 0, 255).astype(np.uint8))
    return made


@cache
def faces_table() -> pa.Table:
    return pq.read_table(needs.shared("data/faces512.parquet"), columns=["image"])


def any_path(rng: np.random.Generator, count: int) -> Path:
    """A way that nobody has fitted anything to: walks, swings, turns back, darts, or goes out and comes in again."""
    kind = rng.choice(["walk", "swing", "turn back", "dart", "leave"])
    (start, end), speed, phase = rng.uniform(80, 560, 2), rng.uniform(0.02, 0.09), rng.uniform(0, 2 * np.pi)
    height, bob, middle = rng.uniform(100, 140), rng.uniform(0, 15), rng.uniform(250, 400)

    def at(i: int) -> tuple[float, float] | None:
        match kind:
            case "walk":
                x = start + (end - start) * i / (count - 1)
            case "swing":
                x = middle + (start - middle) * np.cos(2 * speed * i + phase)
            case "turn back":
                x = middle + (start - middle) * abs(np.cos(np.pi * i / (count - 1)))
            case "dart":
                x = start + (end - start) * min(max(i - 20, 0) / 12, 1)
            case _:
                if 22 <= i < 34:
                    return None
                x = start + (end - start) * i / (count + 20)
        down = (
            40.0 * max(i - 17 if i < 28 else 39 - i, 0) if kind == "leave" else 0.0
        )  # out through the lower edge, and up again
        return float(x), float(height + bob * np.sin(i / 7 + phase) + down)

    return at


def unseen_scene(seed: int, people: int, count: int = 60) -> tuple[list[np.ndarray], list[Truth]]:
    """Other faces, other motions: drawn by chance, the same ones for the same seed. As `scene` gives them."""
    rng = np.random.default_rng(1000 * people + seed)
    rows = rng.choice(faces_table().num_rows, people, replace=False)
    cast = [Person(still(int(row), seed * 7 + int(row), count), any_path(rng, count)) for row in rows]
    return scene(cast, count)


PEOPLE: Final = (
    "real/aoc.mp4", "real/d0.mp4", "real/d14.mp4", "real/d3.mp4", "real/d6.mp4", "real/kj5.mp4", "real/vr2.mp4", "real/vr4.mp4",
    "real/wolfgang_360.mp4", "real/roop_1080.mp4", "rot90_meta.mp4", "lp_d12_motion_512.mp4",
)  # fmt: skip
MEETINGS: Final = ("rises before", "rises and sinks", "comes from the side", "passes close", "stands behind", "hops over")


def meeting(kind: str, rng: np.random.Generator, count: int) -> list[Path]:
    """Ways of two people of whom the second comes before or behind the first, at a place and a speed drawn by chance."""
    x, y, drift = rng.uniform(220, 420), rng.uniform(105, 135), rng.uniform(-0.8, 0.8)
    aside, down, begin = rng.uniform(-45, 45), rng.uniform(-15, 15), int(rng.integers(12, 22))
    speed, side, stays = rng.uniform(12, 55), float(rng.choice([-1.0, 1.0])), int(rng.integers(8, 25))

    def first(i: int) -> tuple[float, float]:
        return x + drift * i, y + 5 * np.sin(i / 8)

    def second(i: int) -> tuple[float, float] | None:
        (a, b), late = first(i), i - begin
        a, b = a + aside, b + down
        match kind:
            case "rises before" | "rises and sinks":
                below = max(HEIGHT + HEAD / 2 - b - speed * late, 0.0)
                if kind == "rises and sinks" and late > 10 + stays:
                    below = speed * (late - 10 - stays)
                return (a, b + below) if late >= 0 and b + below < HEIGHT + HEAD / 2 else None
            case "comes from the side":
                away = max(320 - speed * late, 0.0)
                return (a + side * away, b) if late >= 0 else None
            case "passes close":
                return (x + side * (speed / 2 * (i - count / 2)), b)
            case "stands behind":
                away = max(300 - speed * late, 0.0) if late < 12 + stays else speed / 2 * (late - 12 - stays)
                return (a + side * away, b)
            case _:
                return (
                    a + side * (150 if late < 0 else -150 if late > 6 else 150 - 50 * late),
                    b - (25 if 0 <= late <= 6 else 0),
                )

    return [first, second]


def met_scene(seed: int, count: int = 60) -> tuple[list[np.ndarray], list[Truth]]:
    """Two people of other clips, or one and its look-alike in a mirror, who meet; drawn by chance. As `scene` gives them."""
    rng = np.random.default_rng(5000 + seed)
    names = [str(name) for name in rng.choice(PEOPLE, 2, replace=False)]
    heads = [heads_of(name, count) for name in names]
    if seed % 3 == 2:
        light = rng.uniform(0.85, 1.1, 3)
        heads[1] = [np.clip(head[:, ::-1] * light, 0, 255).astype(np.uint8) for head in heads[0]]
    ways = meeting(MEETINGS[seed % len(MEETINGS)], rng, count)
    cast = [Person(one, way) for one, way in zip(heads, ways, strict=True)]
    return scene(cast[::-1] if MEETINGS[seed % len(MEETINGS)] == "stands behind" else cast, count)


@dataclass(frozen=True, eq=False)
class Truth:
    """Who is where in a frame."""

    owner: np.ndarray
    """int8 [HEIGHT, WIDTH]: whose each pixel is; -1: nobody's."""
    heads: dict[int, tuple[float, float]]
    """Where the middle of each person's head is, hidden ones too."""


def scene(people: Sequence[Person], count: int) -> tuple[list[np.ndarray], list[Truth]]:
    """Frames uint8 [HEIGHT, WIDTH, 3], and who is where in each of them."""
    y, x = np.mgrid[:HEAD, :HEAD]
    reach = ((x - HEAD / 2) / (0.36 * HEAD)) ** 2 + ((y - HEAD / 2) / (0.46 * HEAD)) ** 2
    alpha = np.clip((1.15 - reach) / 0.15, 0, 1)[..., None]
    frames, truth = [], []
    for i in range(count):
        frame = np.full((HEIGHT, WIDTH, 3), (108, 118, 112), np.float64)
        owner, heads = np.full((HEIGHT, WIDTH), -1, np.int8), dict[int, tuple[float, float]]()
        for number, person in enumerate(people):
            at = person.path(i)
            if at is None:
                continue
            head = person.heads[i % len(person.heads)]
            shift = np.array([[1, 0, at[0] - HEAD / 2], [0, 1, at[1] - HEAD / 2]])
            drawn = cv2.warpAffine(head.astype(np.float64), shift, (WIDTH, HEIGHT))
            share = cv2.warpAffine(alpha, shift, (WIDTH, HEIGHT))[..., None]
            frame = frame * (1 - share) + drawn * share
            owner[share[..., 0] > 0.5] = number
            heads[number] = at
        frames.append(np.clip(frame + 0.5, 0, 255).astype(np.uint8))
        truth.append(Truth(owner, heads))
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


def shown(box_xyxy: np.ndarray, truth: Truth) -> int | None:
    """Who fills at least three quarters of the middle half of a box and has the nearest head; None where nobody does both:
    half a face comes out from behind another one.
    """
    first, last = box_xyxy[:2].astype(np.float64), box_xyxy[2:].astype(np.float64)
    left, top = ((3 * first + last) / 4).round().astype(int).clip(0)
    right, bottom = ((first + 3 * last) / 4).round().astype(int).clip(0)
    inside = truth.owner[top:bottom, left:right]
    inside = inside[inside >= 0]
    if inside.size == 0:
        return None
    counts = np.bincount(inside)
    most = int(counts.argmax())
    nearest = min(truth.heads, key=lambda who: float(np.hypot(*((first + last) / 2 - truth.heads[who]))))
    return most if most == nearest and counts[most] >= 0.75 * inside.size else None


def wrong_frames(result: TrackResult, truth: Sequence[Truth]) -> int:
    """Detected rows of tracks that show another person than the one whom most of their rows show."""
    wrong = 0
    for track in result.tracks:
        seen = []
        for pts, box, guessed in zip(track.pts, track.boxes, track.interpolated, strict=True):
            if not guessed and (who := shown(box, truth[int(pts)])) is not None:
                seen.append(who)
        wrong += len(seen) - max((seen.count(who) for who in set(seen)), default=0)
    return wrong
