"""Segments and the source's sound, subtitles and metadata to one finished file, without encoding again.

Timing. The output's frames have exactly the source's pts. In mp4 and mov the track keeps the source's time base too,
and offsets between streams (edit lists, encoder priming) are kept to the tick. Matroska and WebM can only write
milliseconds, so there a pts is the nearest one, as in every such file.

Decode timestamps are computed anew for the joined stream: with D the deepest reordering of any segment, the packet at
place i in decode order is due when the frame shown at place i - D is. That is what encoders do, over the whole file.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from ops.files.atomic import replaced_file
from ops.video.convert import encoded_color
from ops.video.encode import FLAG_BITEXACT, EncodeOptions
from ops.video.errors import MediaError
from ops.video.probe import SourceColor, SourceInfo, open_media, seconds_per_tick

_FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
_CODEC_NAMES = {"libx264": "h264", "libx265": "hevc", "libsvtav1": "av1", "libvpx-vp9": "vp9", "ffv1": "ffv1"}
_NAMED_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
_INT32_MAX = 2**31 - 1

# Written by muxers about themselves or their file; wrong once copied.
_MUXER_TAGS = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "rotate"})
_MUXER_PREFIXES = ("_statistics", "bps", "number_of_")


def finalize(
    segments: Sequence[str | Path],
    info: SourceInfo,
    source_path: str | Path,
    out_path: str | Path,
    options: EncodeOptions,
    metadata: Mapping[str, str],
) -> None:
    """Join a source's segments into the finished video.

    `segments`: files of `encode_segment` in order, together holding every frame of `info`, all made with `options`.
    `source_path`: where the source is now (usually `info.uri`); its audio and subtitle packets are copied unchanged, with
    chapters, languages, titles and dispositions. Data streams (telemetry, time code) and cover pictures are left out.
    `out_path`: .mp4, .mov, .mkv or .webm chooses the container. The file appears there only when it is complete.
    `metadata`: what was done to the video. Written as the file's `comment` tag, the one that every container and player
    keeps: the text itself if the only key is "comment", else compact JSON with sorted keys.

    The same segments, source and metadata give the same bytes.
    Raises `MediaError` if a segment is missing, double, damaged or made otherwise, or if the container cannot hold a
    stream of the source; the message says which container can.
    """
    out, source = Path(out_path), Path(source_path)
    form = _FORMATS.get(out.suffix.lower())
    if form is None:
        raise MediaError(out, f"no container is called {out.suffix!r} here", f"use one of {', '.join(_FORMATS)}")
    if info.kind != "video":
        raise MediaError(info.uri, "an image has no segments to join", "write it with write_image")
    if out.exists() and source.exists() and out.samefile(source):
        raise MediaError(out, "the output would replace its own source", "choose another name")
    plan = _plan_packets([Path(s) for s in segments], info, options)
    with open_media(source) as original, replaced_file(out) as temporary:
        try:
            _write(plan, info, original, temporary, form, options, metadata, out)
        except av.FFmpegError as error:
            raise MediaError(
                out, f"the {form} container cannot be written: {error.strerror}", "check disk space, or write .mkv instead"
            ) from error
        _verify(temporary, info, out)


@dataclass(frozen=True, eq=False)
class _PacketPlan:
    """All segments, seen once: where each begins and how deep the joined stream reorders."""

    segments: tuple[Path, ...]
    first_ordinals: tuple[int, ...]
    reorder_depth: int


def _plan_packets(segments: list[Path], info: SourceInfo, options: EncodeOptions) -> _PacketPlan:
    """Read every segment's timestamps, check that they are the source's, and measure the reordering."""
    firsts: list[int] = []
    done, depth = 0, 0
    extradata: bytes | None = None
    for path in segments:
        with _open_segment(path) as container:
            stream = container.streams.video[0]
            context = stream.codec_context
            if context.codec.canonical_name != _CODEC_NAMES[options.codec] or (
                extradata is not None and extradata != (context.extradata or b"")
            ):
                raise MediaError(
                    path, "the segment was encoded with other settings than its neighbours", "encode all segments alike"
                )
            extradata = context.extradata or b""
            pts = np.array([_exact_pts(p, info, path) for p in _whole_packets(container, path)], np.int64)
        ranks = np.argsort(np.argsort(pts))
        expected = info.pts[done : done + pts.size]
        if pts.size == 0 or not np.array_equal(np.sort(pts), expected):
            found = f"pts {pts.min()} to {pts.max()} ({pts.size} frames)" if pts.size else "no frames"
            due = f"from pts {info.pts[done]}" if done < info.n_frames else "nothing more"
            raise MediaError(
                path, f"the segment holds {found}, expected {due} without gaps", "encode the missing or damaged segments again"
            )
        firsts.append(done)
        done += pts.size
        depth = max(depth, int((np.arange(pts.size) - ranks).max()))
    if done != info.n_frames:
        raise MediaError(
            info.uri,
            f"the segments hold {done} of {info.n_frames} frames; the first missing pts is {info.pts[done]}",
            "encode the missing segments",
        )
    return _PacketPlan(tuple(segments), tuple(firsts), depth)


def _open_segment(path: Path) -> InputContainer:
    if not path.exists():
        raise MediaError(path, "the segment is missing", "encode it again")
    container = open_media(path)
    if not container.streams.video:
        container.close()
        raise MediaError(path, "this is no segment: it has no video", "encode it again")
    return container


def _whole_packets(container: InputContainer, path: Path) -> Iterator[Packet]:
    try:
        for packet in container.demux(container.streams.video[0]):
            if packet.is_corrupt:
                raise MediaError(path, "the segment is damaged", "encode it again")
            if packet.size:
                yield packet
    except av.FFmpegError as error:
        raise MediaError(path, f"the segment is damaged: {error.strerror}", "encode it again") from error


def _exact_pts(packet: Packet, info: SourceInfo, path: Path) -> int:
    pts = None if packet.pts is None else packet.pts * packet.time_base / info.time_base
    if pts is None or pts.denominator != 1:
        raise MediaError(path, "a packet's pts is not on the source's time base", "encode the segment again")
    return int(pts) + int(info.pts[0])  # segments count from the source's first frame


def _video_packets(plan: _PacketPlan, info: SourceInfo) -> Iterator[Packet]:
    """The joined stream's packets in decode order, with pts, dts and duration in units of `info.time_base`."""
    place = 0
    for path, first in zip(plan.segments, plan.first_ordinals, strict=True):
        with _open_segment(path) as container:
            for packet in _whole_packets(container, path):
                pts = _exact_pts(packet, info, path)
                packet.time_base = info.time_base
                packet.pts, packet.dts = pts, _decode_time(place, plan.reorder_depth, info.pts)
                ordinal = first + int(np.searchsorted(info.pts[first:], pts))
                packet.duration = int(info.pts[ordinal + 1]) - pts if ordinal + 1 < info.n_frames else info.last_duration
                place += 1
                yield packet


def _decode_time(place: int, depth: int, pts: np.ndarray) -> int:
    if place >= depth:
        return int(pts[place - depth])
    # Before the first frame is shown: the same steps, pushed ahead of it.
    return int(pts[place]) - int(pts[depth]) + int(pts[0])


def _write(
    plan: _PacketPlan,
    info: SourceInfo,
    original: InputContainer,
    path: Path,
    form: str,
    options: EncodeOptions,
    metadata: Mapping[str, str],
    out: Path,
) -> None:
    companions = [s for s in original.streams if s.type in ("audio", "subtitle")]
    tags = encoded_color(info, options.pixel_format(info.width, info.height)).tags
    settings = _muxer_settings(form, info, companions, tags)
    with (
        _open_segment(plan.segments[0]) as template,
        av.open(str(path), "w", format=form, container_options=settings) as container,
    ):
        container.flags |= FLAG_BITEXACT  # no library versions, times or random identifiers
        container.metadata.update(_file_metadata(original, metadata))
        video = _add_video(container, template.streams.video[0], info, options, tags, out, original)
        copies = {s.index: _add_companion(container, s, out) for s in companions}
        if form == "matroska":
            for attachment in original.streams.attachments:
                container.add_stream_from_template(attachment)
        if chapters := original.chapters():
            container.set_chapters(chapters)
        container.start_encoding()
        streams = [_addressed(_video_packets(plan, info), video)]
        if copies:
            streams.append(_companion_packets(original, companions, copies))
        # Merged by time, so that the muxer never has to hold more than a moment of either.
        for _, packet in heapq.merge(*streams, key=lambda timed: timed[0]):
            container.mux_one(packet)


def _addressed(packets: Iterator[Packet], stream: Stream) -> Iterator[tuple[Fraction, Packet]]:
    for packet in packets:
        packet.stream = stream
        yield (packet.dts or 0) * packet.time_base, packet


def _companion_packets(
    original: InputContainer, companions: list[Stream], copies: dict[int, Stream]
) -> Iterator[tuple[Fraction, Packet]]:
    wanted = {s.index for s in companions}
    for stream in original.streams:
        if stream.index not in wanted:
            stream.discard = av.stream.Discard.all
    for packet in original.demux(*companions):
        if packet.size == 0 and packet.pts is None:
            continue  # the demuxer's end mark
        if packet.dts is None:
            packet.dts = packet.pts
        if packet.pts is None:
            packet.pts = packet.dts
        if packet.dts is None:
            raise MediaError(original.name, "an audio or subtitle packet has no timestamp", "remux the source first")
        due = packet.dts * packet.time_base
        packet.stream = copies[packet.stream.index]
        yield due, packet


def _add_video(
    container: OutputContainer,
    template: VideoStream,
    info: SourceInfo,
    options: EncodeOptions,
    tags: SourceColor,
    out: Path,
    original: InputContainer,
) -> Stream:
    try:
        # "opaque" describes the stream by its decoder's parameters; a matching encoder need not exist.
        video = container.add_stream_from_template(template, opaque=True)
    except ValueError:
        raise MediaError(out, f"a {out.suffix} file cannot hold {options.codec} video", "use .mkv, or another codec") from None
    video.time_base = info.time_base
    context = video.codec_context
    context.color_primaries, context.color_trc = tags.primaries, tags.trc
    context.colorspace, context.color_range = tags.space, tags.range
    if info.sample_aspect_ratio is not None:
        context.sample_aspect_ratio = info.sample_aspect_ratio
    if options.codec == "libx265" and out.suffix.lower() in (".mp4", ".mov"):
        context.codec_tag = "hvc1"  # the one of the two names for HEVC that Apple's players accept
    source = original.streams[info.stream_index]
    video.metadata.update(_kept_tags(source.metadata))
    video.disposition = source.disposition
    return video


def _add_companion(container: OutputContainer, source: Stream, out: Path) -> Stream:
    name = source.codec_context.name if source.codec_context is not None else "unknown"
    try:
        copy = container.add_stream_from_template(source, opaque=True)
    except ValueError:
        raise MediaError(
            out,
            f"a {out.suffix} file cannot hold the source's {source.type} (stream {source.index}, {name})",
            f"write {_container_for(source, out)}",
        ) from None
    if isinstance(copy, AudioStream):
        layout = copy.codec_context.layout
        # Matroska states only how many channels there are, and mp4 must say which.
        count = layout.nb_channels
        if layout.name == f"{count} channels" and count in _NAMED_LAYOUTS:
            copy.codec_context.layout = _NAMED_LAYOUTS[count]
    copy.metadata.update(_kept_tags(source.metadata))
    copy.disposition = source.disposition
    return copy


def _container_for(source: Stream, out: Path) -> str:
    name = source.codec_context.codec.canonical_name if source.codec_context is not None else ""
    # Timed text of QuickTime is the one common kind that Matroska does not take.
    return ".mp4 or .mov instead" if name == "mov_text" else ".mkv instead, which holds nearly everything"


def _muxer_settings(form: str, info: SourceInfo, companions: list[Stream], tags: SourceColor) -> dict[str, str]:
    match form:
        case "mp4" | "mov":
            # The colour atom has no word for "range unspecified", so it is written only where something is specified.
            color_atom = "" if tags == SourceColor() else "+write_colr"
            return {
                "movflags": "+faststart" + color_atom,
                "video_track_timescale": str(info.time_base.denominator),
                "movie_timescale": str(_movie_timescale(info, companions)),
            }
        case _:
            # Matroska writes presentation times only; a negative decode time is no reason to move every stream.
            return {"avoid_negative_ts": "disabled"}


def _movie_timescale(info: SourceInfo, companions: list[Stream]) -> int:
    """Ticks per second in which mp4 says when a track begins: fine enough to be exact for every track if it can be.

    At the muxer's default of 1000 a start at pts 10214 of 1/11988 s would come back rounded to a millisecond.
    """
    rates = [info.time_base.denominator]
    rates += [s.time_base.denominator for s in companions if s.time_base is not None]
    exact = math.lcm(*rates)
    if exact <= _INT32_MAX:
        return exact
    return rates[0]


def _file_metadata(original: InputContainer, metadata: Mapping[str, str]) -> dict[str, str]:
    tags = _kept_tags(original.metadata)
    if not metadata:
        return tags
    had = next((v for k, v in tags.items() if k.lower() == "comment"), None)
    tags = {k: v for k, v in tags.items() if k.lower() != "comment"}
    if set(metadata) == {"comment"}:
        return tags | {"comment": metadata["comment"]}
    said = dict(metadata) if had is None else {"source_comment": had, **metadata}
    return tags | {"comment": json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":"))}


def _kept_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in tags.items() if k.lower() not in _MUXER_TAGS and not k.lower().startswith(_MUXER_PREFIXES)}


def _verify(path: Path, info: SourceInfo, out: Path) -> None:
    """Read the written file's timestamps back; they must be the source's, to the container's resolution."""
    with open_media(path) as container:
        stream = container.streams.video[0]
        found = np.sort(np.array([p.pts for p in container.demux(stream) if p.size and p.pts is not None], np.int64))
        expected = _rescaled(info, seconds_per_tick(stream))
    if not np.array_equal(found, expected):
        raise MediaError(
            out,
            "the container cannot keep the source's frame times"
            f" ({found.size} frames read back, {expected.size} written, or times differ)",
            "write .mp4 or .mov, which keep the source's time base",
        )


def _rescaled(info: SourceInfo, time_base: Fraction) -> np.ndarray:
    """`info.pts` in units of `time_base`, rounded half away from zero as FFmpeg does; int64 [n]."""
    scale = info.time_base / time_base
    if scale.denominator == 1:
        return info.pts * scale.numerator
    return np.array([_round_half_away(int(p) * scale) for p in info.pts], np.int64)


def _round_half_away(value: Fraction) -> int:
    whole = math.floor(abs(value) + Fraction(1, 2))
    return whole if value >= 0 else -whole
