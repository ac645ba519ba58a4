"""Frame sequences: numbered pictures that are one clip.

    'shot/frame_*.png@25'    'shot/frame_%06d.png@24000/1001'    s3://bucket/shot/*.jpg@30
    frames:shot.tar@25       pictures of a shard, in the order of their keys
    frames:clip.parquet@25   rows with a column `frame`, in the order of its numbers

The number after the @ is the frames per second. Frame n has the pts n - first: gaps and mixed sizes are no clip, and said. A
sequence is known by the bytes of its frames, their order and its rate; frames lie in files and are read one at a time.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Final

import numpy as np
import pyarrow.parquet as pq

from ops.video.errors import MediaError
from ops.video.frame_file import FRAME_SUFFIXES, FrameFile, load_frame
from ops.video.probe import SourceColor, SourceInfo
from pipeline.sources.fetch import FETCHER
from pipeline.store.places import is_url, listed, place

CONTAINER: Final = "frames"
"""`SourceInfo.container` of a sequence."""
_SEQUENCE = re.compile(r"(?P<prefix>frames:)?\s*(?P<pattern>.+)@(?P<rate>\d+(?:\.\d+)?(?:/\d+)?)", re.S)
_NUMBERED = re.compile(r"%0?(\d*)d")
_LAST_NUMBER = re.compile(r"(\d+)(?!.*\d)", re.S)
_MOST_NAMED = 5


@dataclass(frozen=True)
class FramePattern:
    """A pattern and a rate, as they were typed."""

    pattern: str
    rate: Fraction

    @property
    def uri(self) -> str:
        """Absolute, and read as a sequence again."""
        where = self.pattern if is_url(self.pattern) else os.path.abspath(self.pattern)
        return f"frames:{where}@{self.rate}"

    @property
    def name(self) -> str:
        """Name of the folder of its results: that of its frames' folder, or its shard's or table's own."""
        path = PurePosixPath(self.pattern if is_url(self.pattern) else os.path.abspath(self.pattern))
        return path.stem if path.suffix in (".tar", ".parquet") else path.parent.name or "frames"


def sequence_of(text: str) -> FramePattern | None:
    """A sequence, if that is what the text names."""
    match = _SEQUENCE.fullmatch(text)
    if match is None or os.path.exists(text):
        return None
    pattern = match["pattern"]
    is_pattern = glob.has_magic(pattern) or _NUMBERED.search(PurePosixPath(pattern).name) is not None
    if not (match["prefix"] or is_pattern or pattern.endswith((".tar", ".parquet"))):
        return None
    rate = Fraction(match["rate"])
    return FramePattern(pattern, rate) if rate > 0 else None


def is_sequence(info: SourceInfo) -> bool:
    return info.container == CONTAINER


@dataclass(frozen=True)
class FramePlace:
    """The place of a frame."""

    number: int
    name: str
    uri: str


@lru_cache(maxsize=8)
def frames_of(uri: str) -> tuple[FramePlace, ...]:
    """The frames of a sequence, in order.

    Raises MediaError where there are none, or their numbers have gaps or say one twice.
    """
    sequence = sequence_of(uri)
    assert sequence is not None, uri
    pattern = sequence.pattern
    if pattern.endswith(".tar"):
        found = _of_tar(pattern)
    elif pattern.endswith(".parquet"):
        found = _of_table(pattern)
    else:
        found = _of_files(pattern)
    if not found:
        raise MediaError(uri, "no frame fits this pattern", "check the folder, and put the pattern into quotes")
    found.sort(key=lambda frame: frame.number)
    numbers = [frame.number for frame in found]
    for one, other in pairwise(found):
        if one.number == other.number:
            raise MediaError(uri, f"{one.name} and {other.name} have the same number", "name one of them by the pattern")
    missing = sorted(set(range(numbers[0], numbers[-1] + 1)).difference(numbers)) if len(set(numbers)) > 1 else []
    if missing:
        said = ", ".join(map(str, missing[:_MOST_NAMED])) + (f" and {len(missing) - _MOST_NAMED} more" if missing[5:] else "")
        raise MediaError(
            uri,
            f"{len(missing)} frames are missing between {found[0].name} and {found[-1].name}: {said}",
            "render them, or give the parts before and behind the gap by patterns of their own",
        )
    return tuple(found)


def _of_files(pattern: str) -> list[FramePlace]:
    numbered = _NUMBERED.search(PurePosixPath(pattern).name)
    wild = pattern if numbered is None else _NUMBERED.sub("*", pattern)
    if is_url(pattern):
        folder, _, name = wild.rpartition("/")
        paths = [str(one.path) for one in listed(place(folder)) if fnmatch.fnmatchcase(one.path.name, name)]
    else:
        paths = [path for path in glob.glob(os.path.abspath(wild)) if os.path.isfile(path)]
    exact = None
    if numbered is not None:
        head, tail = PurePosixPath(pattern).name.split(numbered[0], 1)
        exact = re.compile(f"{re.escape(head)}(\\d{{{int(numbered[1] or 1)},}}){re.escape(tail)}")
    found = []
    for path in paths:
        name = PurePosixPath(path).name
        match = exact.fullmatch(name) if exact is not None else _LAST_NUMBER.search(PurePosixPath(path).stem)
        if exact is not None and match is None:
            continue
        if match is None:
            raise MediaError(path, "it fits the pattern of a frame sequence and has no number", "narrow the pattern")
        found.append(FramePlace(int(match[1]), name, path))
    return found


def _of_tar(container: str) -> list[FramePlace]:
    """In the order of WebDataset's keys; where all keys end in numbers, those are the frames'."""
    uri = container if is_url(container) else os.path.abspath(container)
    names = [one for one in FETCHER.members(uri) if PurePosixPath(one).suffix.lower() in {*FRAME_SUFFIXES, ".exr"}]
    keys = [PurePosixPath(one).name.split(".", 1)[0] for one in names]
    numbers = [_LAST_NUMBER.search(key) for key in keys]
    numbered = all(numbers) and len({match[1] for match in numbers if match}) == len(names)
    return [
        FramePlace(int(match[1]) if numbered and match else at, PurePosixPath(name).name, f"{uri}#{name}")
        for at, (name, match) in enumerate(zip(names, numbers, strict=True))
    ]


def _of_table(container: str) -> list[FramePlace]:
    uri = container if is_url(container) else os.path.abspath(container)
    try:
        numbers = pq.read_table(FETCHER.path(uri), columns=["frame"])["frame"].to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise MediaError(uri, f"a sequence in a table needs a column `frame` of numbers ({error})", "add it") from error
    suffix = _suffix_in(FETCHER.data(f"{uri}#0")) if numbers else ".png"
    return [FramePlace(int(number), f"{int(number):06d}{suffix}", f"{uri}#{row}") for row, number in enumerate(numbers)]


def _suffix_in(data: bytes) -> str:
    if data.startswith(b"\xff\xd8"):
        return ".jpg"
    if data.startswith(b"RIFF"):
        return ".webp"
    return ".tif" if data[:4] in (b"II*\0", b"MM\0*") else ".png"


def probe_sequence(uri: str) -> SourceInfo:
    """Measure a sequence: reads all its bytes, and decodes the first frame and the header of the others.

    Raises MediaError for frames that make no clip: see the module.
    """
    frames_of.cache_clear()  # what was listed before may have changed
    frames, sequence = frames_of(uri), sequence_of(uri)
    assert sequence is not None
    first: FrameFile | None = None
    digest, size_bytes = hashlib.sha256(f"{sequence.rate}".encode()), 0
    for frame in frames:
        data = FETCHER.data(frame.uri)
        loaded = load_frame(frame.name, data)
        if first is None:
            first = loaded
        elif loaded.image.frame.shape != first.image.frame.shape:
            (h, w, _), (height, width, _) = loaded.image.frame.shape, first.image.frame.shape
            raise MediaError(
                frame.uri, f"it has {w}x{h} pixels, and the first frame of its sequence {width}x{height}", "scale them alike"
            )
        digest.update(hashlib.sha256(data).digest())
        size_bytes += len(data)
    assert first is not None
    height, width = first.image.frame.shape[:2]
    pts_N = np.arange(len(frames), dtype=np.int64)
    pts_N.flags.writeable = False
    return SourceInfo(
        uri=uri,
        kind="video",
        width=width,
        height=height,
        pts=pts_N,
        last_duration=1,
        time_base=1 / sequence.rate,
        rotation_degrees=0,
        mirrored=False,
        average_rate=sequence.rate,
        codec=first.image.format,
        pix_fmt=first.pix_fmt,
        color=SourceColor(),
        sample_aspect_ratio=None,
        container=CONTAINER,
        stream_index=0,
        keyframe_pts=pts_N,
        plain=False,
        audio_streams=0,
        subtitle_streams=0,
        size_bytes=size_bytes,
        sha256=digest.hexdigest(),
    )


def digest_of(uri: str, names: Sequence[FramePlace]) -> str:
    """The digest of `probe_sequence`, without decoding."""
    sequence = sequence_of(uri)
    assert sequence is not None
    digest = hashlib.sha256(f"{sequence.rate}".encode())
    for frame in names:
        digest.update(hashlib.sha256(FETCHER.data(frame.uri)).digest())
    return digest.hexdigest()


def require_same(info: SourceInfo) -> None:
    """Raise MediaError where the frames are not those that were probed any more."""
    if digest_of(info.uri, frames_of(info.uri)) != info.sha256:
        raise MediaError(
            info.uri, "its frames are not those that were probed any more", "let nothing write to them, and run again"
        )


def read_frames(info: SourceInfo, start: int, stop: int) -> Iterator[tuple[int, str, FrameFile]]:
    """(pts, name, frame) of frames [start, stop), by ordinal. Raises MediaError."""
    frames = frames_of(info.uri)
    if len(frames) != info.n_frames:
        raise MediaError(info.uri, f"it had {info.n_frames} frames, and has {len(frames)}", "run the same command again")
    for at in range(start, stop):
        loaded = load_frame(frames[at].name, FETCHER.data(frames[at].uri))
        if loaded.image.frame.shape != (info.height, info.width, 3):
            raise MediaError(frames[at].uri, "its size changed since it was probed", "run the same command again")
        yield int(info.pts[at]), frames[at].name, loaded
