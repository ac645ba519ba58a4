"""Measures all that a media file holds besides its frames' times: streams, tags, field order, side data, time code.

Measured once, by the probe; `ops.video.carriage` compares it with what an output can hold. The containers that take a stream
unchanged are found by trial: the stream's first packets are written into each of them, in memory, and read back; a list would
be wrong with the next release of FFmpeg.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ops.video.image import PictureFacts

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Containers that can be written, by suffix, with FFmpeg's names."""
TRIED_PACKETS = 2
USUAL_RATE, MOST_RATE = Fraction(25), Fraction(1000)
"""Frames per second of a single frame without a known rate: FFmpeg guesses the ticks of its clock."""

StreamKind = Literal["video", "audio", "subtitle", "data", "attachment", "unknown"]
StreamRole = Literal["edited", "companion", "cover", "timecode", "chapters", "attachment"]


@dataclass(frozen=True)
class StreamFacts:
    """One stream of a file."""

    index: int
    kind: StreamKind
    codec: str
    """FFmpeg's name of the codec, or "unknown"."""
    role: StreamRole
    suffixes: tuple[str, ...] = ()
    """Containers that were seen to take the stream as it is; empty for the edited one."""
    disposition: int = 0
    """FFmpeg's flags (default, forced, attached picture, ...)."""
    language: str = ""
    title: str = ""
    start: Fraction | None = None
    """Seconds on the file's own clock; None if unknown."""

    def __str__(self) -> str:
        said = ", ".join(one for one in (self.codec, self.language if self.language != "und" else "", self.title) if one)
        kind = "cover picture" if self.role == "cover" else self.kind
        return f"stream {self.index}, {kind} ({said})"


@dataclass(frozen=True)
class Contents:
    """Contents of a video file. Plain values only."""

    streams: tuple[StreamFacts, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    """Tags of the file, as FFmpeg names them."""
    chapters: int = 0
    rate: Fraction | None = None
    """Frames per second: the usual rate that the frames keep, or their mean. Encoders and containers need one."""
    timecode: str | None = None
    """SMPTE time code of the first frame; with `;` before the frames for drop frame."""
    timecode_suffixes: tuple[str, ...] = ()
    """Containers that were seen to keep it: mp4 and mov only know some frame rates."""
    alpha: bool = False
    """True if the decoded pictures have a channel of transparency, or a palette that uses one."""
    interlaced: bool = False
    """True if the frames are two fields each, woven line by line."""
    field_order: int = 0
    """FFmpeg's AVFieldOrder as the container or the stream says it: 0 unknown, 1 progressive, 2 to 5 interlaced."""
    display_matrix: tuple[int, ...] | None = None
    """Nine int32 of the display matrix (ISO/IEC 14496-12, 8.2.2) that turns stored pictures upright."""
    spherical: tuple[int, ...] | None = None
    """AVSphericalMapping as int32: projection, yaw, pitch, roll, then bounds and padding."""
    stereo: tuple[int, ...] | None = None
    """AVStereo3D's type and flags."""
    captions: bool = False
    """True if the first frame carries closed captions (CEA-608/708)."""
    mastering: tuple[int, ...] | None = None
    """AVMasteringDisplayMetadata of the first frame as int32: ten fractions (primaries of red, green and blue, white, darkest
    and brightest light), then whether there are primaries and light."""
    light: tuple[int, ...] | None = None
    """The first frame's greatest light of a sample and of a frame on average, in cd/m² (CTA-861.3)."""
    picture: PictureFacts | None = None
    """Facts of a still image; all other fields are of videos."""
    coded_alpha: bool = False
    """True if the stream keeps an alpha channel beside its pictures (VP8, VP9 in Matroska) and no decoder here gives it."""


def side_data_numbers(frame: VideoFrame, name: str, count: int | None = None) -> tuple[int, ...] | None:
    """Return a frame's side data as int32 numbers; None if it has none of that name."""
    if name not in frame.side_data:
        return None
    data = bytes(frame.side_data[name])  # type: ignore[literal-required]
    numbers = np.frombuffer(data[: len(data) // 4 * 4], np.int32).tolist()
    return tuple(numbers if count is None else numbers[:count])


def contents_of(
    container: InputContainer,
    stream: VideoStream,
    first: VideoFrame,
    heads: Mapping[int, Sequence[Packet]],
    measured: Fraction | None = None,
) -> Contents:
    """Measure the contents of an open file.

    `stream`: the one whose frames are edited, `first`: its first frame; `heads`: the first packets of the other streams;
    `measured`: frames per second by their timestamps, None for a single one.
    """
    tags = {str(k).lower(): v for k, v in stream.metadata.items()}
    codec = stream.codec_context.codec.canonical_name
    order = stream.codec_context.field_order
    timecode, rate = _timecode(container, tags), _rate(stream, measured)
    return Contents(
        streams=tuple(_facts(container, one, stream, heads.get(one.index, ())) for one in container.streams),
        tags=tuple(container.metadata.items()),
        chapters=len(container.chapters()),
        rate=rate,
        timecode=timecode,
        timecode_suffixes=() if timecode is None else timecode_suffixes(timecode, rate),
        alpha=_shows_alpha(first),
        interlaced=bool(first.interlaced_frame) or (codec in SAYS_ITS_FIELDS_OUTSIDE and order > 1),
        field_order=order,
        display_matrix=side_data_numbers(first, "DISPLAYMATRIX", 9),
        spherical=side_data_numbers(first, "SPHERICAL"),
        stereo=side_data_numbers(first, "STEREO3D", 2),
        captions="A53_CC" in first.side_data,
        mastering=side_data_numbers(first, "MASTERING_DISPLAY_METADATA", 22),
        light=side_data_numbers(first, "CONTENT_LIGHT_LEVEL", 2),
        coded_alpha=tags.get("alpha_mode") == "1" and not has_alpha(first.format.name),
    )


# Their frames do not say it; only the container's field order is known.
SAYS_ITS_FIELDS_OUTSIDE = frozenset({"qtrle", "rawvideo", "v210", "png", "huffyuv", "ffvhuff", "utvideo"})


def has_alpha(pix_fmt: str) -> bool:
    """Return whether pictures of an FFmpeg pixel format have a channel of transparency."""
    return any(component.is_alpha for component in av.VideoFormat(pix_fmt).components)


def _rate(stream: VideoStream, measured: Fraction | None) -> Fraction | None:
    """Return FFmpeg's guess (30000/1001) or the stated rate if one is near the measured rate; else the measured rate.

    A file's last frame rarely lasts as long as the others, and some files state a rate of 1000 or 12800.
    """
    for stated in (stream.guessed_rate, stream.average_rate):
        if stated and (stated <= MOST_RATE if measured is None else abs(stated - measured) < measured * Fraction(3, 100)):
            return stated
    return USUAL_RATE if measured is None else measured.limit_denominator(1001)


def _timecode(container: InputContainer, stream_tags: Mapping[str, str]) -> str | None:
    if "timecode" in stream_tags:
        return stream_tags["timecode"]
    for tags in [container.metadata, *(one.metadata for one in container.streams if one.type == "data")]:
        for key, value in tags.items():
            if key.lower() == "timecode":
                return value
    return None


def timecode_suffixes(timecode: str, rate: Fraction | None) -> tuple[str, ...]:
    """Return the containers that keep a time code at a frame rate: a small picture is written into each, and read back."""
    found = [".mkv"]  # as a tag, of any form
    for suffix in (".mp4", ".mov"):
        target = io.BytesIO()
        try:
            with av.open(target, "w", format=FORMATS[suffix]) as out:
                stream = out.add_stream("mpeg4", rate=rate, width=16, height=16)
                stream.metadata["timecode"] = timecode
                frame = VideoFrame(16, 16, "yuv420p")
                frame.pts = 0
                out.mux(stream.encode(frame))
                out.mux(stream.encode(None))
            target.seek(0)
            with av.open(target) as made:
                if any(one.metadata.get("timecode") == timecode for one in made.streams if one.type == "data"):
                    found.append(suffix)
        except (av.FFmpegError, ValueError):
            continue
    return tuple(found)


def _shows_alpha(frame: VideoFrame) -> bool:
    if frame.format.name == "pal8":  # every palette has room for transparency, and few use it
        return bool(frame.to_ndarray(format="rgba")[..., 3].min() < 255)
    return has_alpha(frame.format.name)


def _facts(container: InputContainer, stream: Stream, edited: Stream, head: Sequence[Packet]) -> StreamFacts:
    role = _role(container, stream, edited)
    tags = {str(k).lower(): v for k, v in stream.metadata.items()}
    suffixes: tuple[str, ...] = ()
    if role in ("companion", "cover"):
        suffixes = tuple(suffix for suffix, form in FORMATS.items() if takes(form, stream, head))
        if role == "cover":  # an attached file in Matroska; elsewhere a stream, of which mp4 keeps the mark
            attached = bool(head) and codec_name(stream) in ("mjpeg", "png")
            suffixes = tuple(one for one in suffixes if one == ".mp4") + ((".mkv",) if attached else ())
    elif role == "attachment":
        suffixes = (".mkv",)
    return StreamFacts(
        index=stream.index,
        kind=stream.type if stream.type in ("video", "audio", "subtitle", "data", "attachment") else "unknown",
        codec=codec_name(stream),
        role=role,
        suffixes=suffixes,
        disposition=int(stream.disposition),
        language=tags.get("language", ""),
        title=tags.get("title", ""),
        start=None if stream.start_time is None or not stream.time_base else stream.start_time * stream.time_base,
    )


def _role(container: InputContainer, stream: Stream, edited: Stream) -> StreamRole:
    if stream.index == edited.index:
        return "edited"
    if stream.type == "video" and stream.disposition & Disposition.attached_pic:
        return "cover"
    if stream.type == "attachment":
        return "attachment"
    if stream.type == "data" and any(key.lower() == "timecode" for key in stream.metadata):
        return "timecode"
    # QuickTime keeps chapters as a track of text, which FFmpeg shows beside the chapters that it has read from it.
    if stream.type == "data" and stream.name == "bin_data" and 0 < len(container.chapters()) == stream.frames:
        return "chapters"
    return "companion"


def codec_name(stream: Stream) -> str:
    """Return FFmpeg's name of a stream's codec; "unknown" if this FFmpeg has none."""
    if stream.codec_context is not None:
        return stream.codec_context.codec.canonical_name
    return (stream.name if stream.type == "data" else None) or "unknown"


def takes(form: str, stream: Stream, head: Sequence[Packet]) -> bool:
    """Return whether a container keeps a stream as it is: its first packets are written into one, in memory, and read back."""
    if stream.codec_context is None and stream.type != "data":
        return False  # this FFmpeg cannot even describe it
    target = io.BytesIO()
    try:
        with av.open(target, "w", format=form) as out:
            copy = out.add_stream_from_template(stream, opaque=True)
            if isinstance(copy, VideoStream):
                copy.codec_context.framerate = getattr(stream, "average_rate", None) or Fraction(25)
            copy.disposition = stream.disposition
            out.start_encoding()
            for place, packet in enumerate(head[:TRIED_PACKETS]):
                sent = Packet(bytes(packet))
                sent.pts = sent.dts = place * max(packet.duration or 1, 1)
                sent.duration, sent.time_base, sent.is_keyframe = packet.duration or 1, packet.time_base, packet.is_keyframe
                sent.stream = copy
                out.mux_one(sent)
        target.seek(0)
        with av.open(target, metadata_errors="replace") as made:
            return any(one.type == stream.type and codec_name(one) == codec_name(stream) for one in made.streams)
    except (av.FFmpegError, ValueError):
        return False
