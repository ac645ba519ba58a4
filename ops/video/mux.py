"""Joins segments and all else that the source holds to one finished file, without encoding again.

The plan was made before the first frame (`ops.video.carriage`); here it is carried out, read back and compared.

Timing. The output's frames have the source's pts, all streams moved by the same time so that the first begins at 0: clocks of
transport streams start anywhere. In mp4 and mov the track keeps the source's time base too, and offsets between streams
(edit lists, encoder priming) are kept to the tick. Matroska and WebM can only write milliseconds, so there a pts is the
nearest one, as in every such file.

Decode timestamps are computed anew for the joined stream: with D the deepest reordering of any segment, the packet at
place i in decode order is due when the frame shown at place i - D is. That is what encoders do, over the whole file.
"""

from __future__ import annotations

import heapq
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from ops.files.atomic import replaced_file
from ops.video.carriage import SUFFIXES_OF_CODEC, Carriage, carriage_of, kept_tags, losing_less, shift_ticks
from ops.video.contents import FORMATS, codec_name, side_data_numbers
from ops.video.encode import FLAG_BITEXACT, HDR_CODECS, EncodeOptions, coded_aspect, coded_color, coded_size, nominal_rate
from ops.video.errors import MediaError
from ops.video.orientation import UPRIGHT
from ops.video.probe import SourceColor, SourceInfo, first_frame, open_media, seconds_per_tick
from ops.video.spherical import can_carry, template_with, write_layout

_CODEC_NAMES = {
    "libx264": "h264",
    "libx265": "hevc",
    "libsvtav1": "av1",
    "libvpx-vp9": "vp9",
    "ffv1": "ffv1",
    "prores_ks": "prores",
    "qtrle": "qtrle",
}
_NAMED_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
_INT32_MAX = 2**31 - 1


def finalize(
    segments: Sequence[str | Path],
    info: SourceInfo,
    source_path: str | Path,
    out_path: str | Path,
    options: EncodeOptions,
    metadata: Mapping[str, str],
    carriage: Carriage | None = None,
) -> None:
    """Join a source's segments into the finished video.

    `segments`: files of `encode_segment` in order, together holding every frame of `info`, all made with `options`.
    `source_path`: the source's present path (usually `info.uri`); its other streams are copied unchanged as `carriage` says,
    with chapters, languages, titles, dispositions and tags.
    `out_path`: .mp4, .mov, .mkv or .webm chooses the container. The file appears there only when it is complete.
    `metadata`: facts about the edit. Written as the file's `comment` tag, the one that every container and player
    keeps: the text itself if the only key is "comment", else compact JSON with sorted keys.
    `carriage`: the plan that was made for this source, options and container; None makes one, and refuses lost streams.

    The same segments, source and metadata give the same bytes.
    Raises `MediaError` if a segment is missing, double, damaged or made otherwise, if the container cannot hold a stream of
    the source (without a plan that allows it), or if the written file does not hold what the plan says.
    """
    out, source = Path(out_path), Path(source_path)
    form = FORMATS.get(out.suffix.lower())
    if form is None:
        raise MediaError(out, f"no container is called {out.suffix!r} here", f"use one of {', '.join(FORMATS)}")
    if info.kind != "video":
        raise MediaError(info.uri, "an image has no segments to join", "write it with write_image")
    if out.exists() and source.exists() and out.samefile(source):
        raise MediaError(out, "the output would replace its own source", "choose another name")
    if out.suffix.lower() not in SUFFIXES_OF_CODEC[options.codec]:
        holders = ", ".join(SUFFIXES_OF_CODEC[options.codec])
        raise MediaError(out, f"a {out.suffix} file cannot hold {options.codec} video", f"use {holders}, or another codec")
    held = _planned(info, options, out) if carriage is None else carriage
    ticks = shift_ticks(info, held.copied)
    moved = replace(info, pts=info.pts - ticks)
    plan = _plan_packets([Path(s) for s in segments], info, options)
    with open_media(source) as original, replaced_file(out) as temporary:
        try:
            _write(plan, moved, ticks, original, temporary, form, options, held, metadata, out)
            if form in ("mp4", "mov") and _has_layout(info):
                track = sum(index < info.stream_index for index in held.copied)
                write_layout(temporary, track, info.contents.spherical, info.contents.stereo)
        except av.FFmpegError as error:
            raise MediaError(
                out,
                f"FFmpeg's {form} muxer refuses what it was given: {error.strerror}",
                "the disk is not the cause; another container may take it (--container), and please report the source",
            ) from error
        _verify_times(temporary, moved, out)
        _verify_plan(temporary, source, info, options, held, out)
        _verify_by_opencv(temporary, info, options, held, out)


def _planned(info: SourceInfo, options: EncodeOptions, out: Path) -> Carriage:
    """Plan the output of segments that were encoded with just these options. Raises MediaError if a stream would be lost."""
    suffix = out.suffix.lower()
    made = carriage_of(info, options, suffix)
    lost = [item for item in made.losses if item.what.startswith("stream ")]
    if lost:
        other = losing_less(info, options, suffix)
        remedy = f"write {other}, which loses nothing" if other is not None else "leave the stream out of the source first"
        raise MediaError(out, "; ".join(f"{item.what} would be dropped: {item.how}" for item in lost), remedy)
    return replace(made, encode=options)


def _has_layout(info: SourceInfo) -> bool:
    stereo = info.contents.stereo
    there = info.contents.spherical is not None or (stereo is not None and stereo[0] != 0)
    return there and can_carry(info.contents.spherical, stereo)


@dataclass(frozen=True, eq=False)
class _PacketPlan:
    """Facts of all segments: where each begins, and how deep the joined stream reorders."""

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
        raise MediaError(path, "expected a segment, and the file has no video", "encode it again")
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
    """Yield the joined stream's packets in decode order, with pts, dts and duration in units of `info.time_base`."""
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
    ticks: int,
    original: InputContainer,
    path: Path,
    form: str,
    options: EncodeOptions,
    held: Carriage,
    metadata: Mapping[str, str],
    out: Path,
) -> None:
    companions = [s for s in original.streams if s.index in held.copied]
    tags = coded_color(info, options).tags
    settings = _muxer_settings(form, info, companions, tags, keys=held.keys)
    with (
        ExitStack() as stack,
        _open_segment(plan.segments[0]) as segment,
        av.open(str(path), "w", format=form, container_options=settings) as container,
    ):
        container.flags |= FLAG_BITEXACT  # no library versions, times or random identifiers
        container.metadata.update(_file_metadata(original, metadata))
        template = segment.streams.video[0]
        headers = template.codec_context.extradata  # they belong to the segment's packets, not to the template
        if form in ("matroska", "webm") and _has_layout(info):
            packet = next(_whole_packets(segment, plan.segments[0]))
            layout = template_with(template, packet, info.contents.spherical, info.contents.stereo)
            template = stack.enter_context(layout).streams.video[0]
        video: Stream | None = None
        copies: dict[int, Stream] = {}
        attachments = [s for s in companions if s.type == "attachment"]
        # Matroska keeps a cover as an attached file; as a stream it would be a second video of one frame.
        covers = [s for s in companions if form == "matroska" and s.disposition & Disposition.attached_pic]
        for stream in original.streams:  # in the source's order, which some players take for a ranking
            if stream.index == info.stream_index:
                video = _add_video(container, template, headers, info, options, tags, held, out, original)
            elif stream in companions and stream not in attachments and stream not in covers:
                copies[stream.index] = _add_companion(container, stream, out)
        for attachment in attachments:
            container.add_stream_from_template(attachment)
        for cover in covers:
            suffix, mime = _COVERS[codec_name(cover)]
            container.add_attachment(f"cover.{suffix}", mime, _first_packet(original, cover))
        assert video is not None
        if chapters := original.chapters():
            container.set_chapters(_moved_chapters(chapters, ticks * info.time_base))
        container.start_encoding()
        streams = [_addressed(_video_packets(plan, info), video)]
        if copies:
            moved = ticks * info.time_base
            streams.append(_companion_packets(original, [s for s in companions if s.index in copies], copies, moved))
        # Merged by time, so that the muxer never has to hold more than a moment of either.
        for _, packet in heapq.merge(*streams, key=lambda timed: timed[0]):
            container.mux_one(packet)


_COVERS = {"mjpeg": ("jpg", "image/jpeg"), "png": ("png", "image/png")}


def _first_packet(original: InputContainer, stream: Stream) -> bytes:
    """Return the only packet of a cover picture: an image file."""
    with open_media(original.name) as again:
        return next(bytes(packet) for packet in again.demux(again.streams[stream.index]) if packet.size)


def _moved_chapters(chapters: Sequence[Any], seconds: Fraction) -> list[Any]:
    moved = []
    for chapter in chapters:
        by = round(seconds / chapter["time_base"])
        moved.append({**chapter, "start": chapter["start"] - by, "end": chapter["end"] - by})
    return moved


def _addressed(packets: Iterator[Packet], stream: Stream) -> Iterator[tuple[Fraction, Packet]]:
    for packet in packets:
        packet.stream = stream
        yield (packet.dts or 0) * packet.time_base, packet


def _companion_packets(
    original: InputContainer, companions: list[Stream], copies: dict[int, Stream], moved: Fraction
) -> Iterator[tuple[Fraction, Packet]]:
    wanted = {s.index for s in companions}
    for stream in original.streams:
        if stream.index not in wanted:
            stream.discard = av.stream.Discard.all
    for packet in original.demux(*companions):
        if packet.size == 0 and packet.pts is None:
            continue  # the demuxer's end mark
        if packet.pts is None and packet.dts is None and packet.stream.disposition & Disposition.attached_pic:
            packet.pts = packet.dts = round(moved / packet.time_base)  # a cover picture is of no time
        if packet.dts is None:
            packet.dts = packet.pts
        if packet.pts is None:
            packet.pts = packet.dts
        if packet.dts is None or packet.pts is None:
            raise MediaError(original.name, f"a packet of stream {packet.stream.index} has no timestamp", "remux it first")
        by = round(moved / packet.time_base)
        packet.pts, packet.dts = packet.pts - by, packet.dts - by
        due = packet.dts * packet.time_base
        packet.stream = copies[packet.stream.index]
        yield due, packet


def _add_video(
    container: OutputContainer,
    template: VideoStream,
    headers: bytes | None,
    info: SourceInfo,
    options: EncodeOptions,
    tags: SourceColor,
    held: Carriage,
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
    context.extradata = headers
    # A rate for readers: the time code's track needs one, and Matroska's readers count frames by it.
    context.framerate = nominal_rate(info)
    context.color_primaries, context.color_trc = tags.primaries, tags.trc
    context.colorspace, context.color_range = tags.space, tags.range
    if (aspect := coded_aspect(info, options)) is not None:
        context.sample_aspect_ratio = aspect
    if options.native:
        if info.contents.display_matrix is not None:
            video.set_display_matrix(info.contents.display_matrix)
        context.field_order = options.field_order if options.field_order > 1 else 1
    if options.codec == "libx265" and out.suffix.lower() in (".mp4", ".mov"):
        context.codec_tag = "hvc1"  # the one of the two names for HEVC that Apple's players accept
    source = original.streams[info.stream_index]
    video.metadata.update(kept_tags(source.metadata))
    if held.timecode is not None:
        video.metadata["timecode"] = held.timecode
    video.disposition = source.disposition
    return video


def _add_companion(container: OutputContainer, source: Stream, out: Path) -> Stream:
    try:
        copy = container.add_stream_from_template(source, opaque=True)
    except ValueError:
        held = f"the source's {source.type} (stream {source.index}, {codec_name(source)})"
        raise MediaError(out, f"a {out.suffix} file cannot hold {held}", "plan the source again") from None
    if isinstance(copy, VideoStream) and isinstance(source, VideoStream):
        copy.codec_context.framerate = source.average_rate or source.guessed_rate or Fraction(25)
    if isinstance(copy, AudioStream):
        layout = copy.codec_context.layout
        # Matroska states only how many channels there are, and mp4 must say which.
        count = layout.nb_channels
        if layout.name == f"{count} channels" and count in _NAMED_LAYOUTS:
            copy.codec_context.layout = _NAMED_LAYOUTS[count]
    copy.metadata.update(kept_tags(source.metadata))
    copy.disposition = source.disposition
    return copy


def _muxer_settings(form: str, info: SourceInfo, companions: list[Stream], tags: SourceColor, *, keys: bool) -> dict[str, str]:
    match form:
        case "mp4" | "mov":
            # The colour atom has no word for "range unspecified", so it is written only where something is specified.
            color_atom = "" if tags == SourceColor() else "+write_colr"
            return {
                "movflags": "+faststart" + color_atom + ("+use_metadata_tags" if keys else ""),
                "video_track_timescale": str(info.time_base.denominator),
                "movie_timescale": str(_movie_timescale(info, companions)),
            }
        case _:
            # Matroska writes presentation times only; a negative decode time must not move every stream.
            # "Unofficial" is what FFmpeg calls the 360° projection there.
            return {"avoid_negative_ts": "disabled", "strict": "unofficial"}


def _movie_timescale(info: SourceInfo, companions: list[Stream]) -> int:
    """Return the ticks per second in which mp4 says when a track begins: exact for every track if possible.

    At the muxer's default of 1000 a start at pts 10214 of 1/11988 s would come back rounded to a millisecond.
    """
    rates = [info.time_base.denominator]
    rates += [s.time_base.denominator for s in companions if s.time_base is not None]
    exact = math.lcm(*rates)
    if exact <= _INT32_MAX:
        return exact
    return rates[0]


def _file_metadata(original: InputContainer, metadata: Mapping[str, str]) -> dict[str, str]:
    tags = kept_tags(original.metadata)
    if not metadata:
        return tags
    had = next((v for k, v in tags.items() if k.lower() == "comment"), None)
    tags = {k: v for k, v in tags.items() if k.lower() != "comment"}
    if set(metadata) == {"comment"}:
        return tags | {"comment": metadata["comment"]}
    said = dict(metadata) if had is None else {"source_comment": had, **metadata}
    return tags | {"comment": json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":"))}


def _verify_times(path: Path, info: SourceInfo, out: Path) -> None:
    """Read the written file's timestamps back. Raises MediaError unless they are the source's, as the container rounds them."""
    with open_media(path) as container:
        stream = container.streams.video[0]
        found = np.sort(np.array([p.pts for p in container.demux(stream) if p.size and p.pts is not None], np.int64))
        expected = _rescaled(info, seconds_per_tick(stream))
    if not np.array_equal(found, expected):
        raise MediaError(
            out,
            "the container cannot keep the source's frame times"
            f" ({found.size} frames read back, {expected.size} written, or times differ)",
            "please report the source"
            if out.suffix.lower() in (".mp4", ".mov")
            else "write .mp4 or .mov, which keep the source's time base",
        )


def _verify_plan(path: Path, source: Path, info: SourceInfo, options: EncodeOptions, held: Carriage, out: Path) -> None:
    """Read back what the plan says is kept. Raises MediaError, naming what is missing."""
    missing: list[str] = []
    contents = info.contents
    with open_media(path) as container, open_media(source) as original:
        videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        place = sum(s.index < info.stream_index for s in contents.streams if s.index in held.copied and s.kind == "video")
        made = videos[min(place, len(videos) - 1)]
        want, got = nominal_rate(info), made.average_rate
        if got is None or not _is_a_rate_of(info, float(got)):
            missing.append(f"the frame rate ({want} written, {got} read back)")
        had = [codec_name(original.streams[index]) for index in held.copied]
        found = [codec_name(s) for s in container.streams if s.index != made.index]
        for name in had:
            if name in found:
                found.remove(name)
            else:
                missing.append(f"a stream of {name}")
        if held.timecode is not None and held.timecode not in _timecodes(container):
            missing.append(f"the time code {held.timecode}")
        if len(container.chapters()) < contents.chapters:
            missing.append("the chapters")
        written = {_tag_name(k) for k in container.metadata}
        for name in kept_tags(dict(contents.tags)):
            if _tag_name(name) not in written and name.lower() not in _REPLACED_TAGS:
                missing.append(f"the tag {name}")
        index = made.index
    frame = first_frame(path, index)
    if options.native:
        if frame.format.name != options.pix_fmt and not _same_samples(frame.format.name, options.pix_fmt):
            missing.append(f"the pixel format ({options.pix_fmt} written, {frame.format.name} read back)")
        if options.field_order > 1 and not frame.interlaced_frame:
            missing.append("the fields")
        if side_data_numbers(frame, "DISPLAYMATRIX", 9) != contents.display_matrix and info.orientation != UPRIGHT:
            missing.append("the rotation")
        if _has_layout(info) and side_data_numbers(frame, "SPHERICAL") != contents.spherical:
            missing.append("the 360° projection")
        if options.codec in HDR_CODECS:
            told = (("MASTERING_DISPLAY_METADATA", contents.mastering), ("CONTENT_LIGHT_LEVEL", contents.light))
            for name, numbers in told:
                if numbers is not None and name not in frame.side_data:
                    missing.append("the HDR mastering metadata")
    if missing:
        raise MediaError(
            out,
            f"the file does not hold what was planned: {'; '.join(missing)}",
            "nothing was written under this name; take another --container, and please report the source",
        )


def _verify_by_opencv(path: Path, info: SourceInfo, options: EncodeOptions, held: Carriage, out: Path) -> None:
    """Have OpenCV, an independent reader, count, time and show the frames. Codecs that it lacks are not checked.

    It shows a file's first video, so a file with another video before the edited one is not checked.
    """
    before = any(s.index < info.stream_index for s in info.contents.streams if s.index in held.copied and s.kind == "video")
    # Its FFmpeg prints that it shows no interlaced pictures, which says nothing about the file.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    except (cv2.error, UnicodeError):
        return
    if before or not video.isOpened():
        return
    try:
        rate, count = video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT)
        read, frame = video.read()
    finally:
        video.release()
    wrong = []
    want = float(nominal_rate(info))
    if not _is_a_rate_of(info, rate):
        wrong.append(f"{rate:g} frames a second instead of {want:g}")
    # Matroska does not say how many there are; readers take the length of the longest stream times the rate.
    counted = out.suffix.lower() in (".mp4", ".mov")
    if count != info.n_frames if counted else count < 0.95 * info.n_frames - 2:
        wrong.append(f"{count:g} frames instead of {info.n_frames}")
    stored = coded_size(info, options)
    # OpenCV's own build opens AV1 and decodes it only where the hardware does.
    judged = read or options.codec != "libsvtav1"
    if judged and (not read or sorted(frame.shape[1::-1]) != sorted(stored)):
        shown = "none" if not read else f"{frame.shape[1]}x{frame.shape[0]}"
        wrong.append(f"a first picture of {shown} instead of {stored[0]}x{stored[1]}")
    if wrong:
        raise MediaError(
            out,
            f"another reader (OpenCV) finds {'; '.join(wrong)} in the finished file",
            "nothing was written under this name; take another --container, and please report the source",
        )


def _is_a_rate_of(info: SourceInfo, rate: float) -> bool:
    """Return whether a reader's frames per second are a mean of these times: over the frames, the file, or decode times.

    If the times are uneven those are several numbers, each between the rates of the longest and of the shortest step.
    """
    steps = np.append(np.diff(info.pts), info.last_duration) * float(info.time_base)
    rates = float(nominal_rate(info)), 1 / float(steps.max()), 1 / float(steps.min())
    return 0.95 * min(rates) <= rate <= 1.05 * max(rates)


def _tag_name(name: str) -> str:
    """Return a tag's name as every container keeps it: Matroska has no spaces, no small letters and another code for `-deu`."""
    return re.sub(r"-[a-z]{2,3}$", "-", name.lower().replace(" ", "_"))


# Tags that every muxer writes anew, or turns into a field of the header.
_REPLACED_TAGS = frozenset({"comment", "creation_time", "vendor_id", "handler_name", "language"})


def _timecodes(container: InputContainer) -> set[str]:
    every = [container.metadata, *(s.metadata for s in container.streams)]
    return {value for tags in every for key, value in tags.items() if key.lower() == "timecode"}


def _same_samples(one: str, other: str | None) -> bool:
    """Return whether two pixel formats hold the same samples: the yuvj formats are full range by name only."""
    return other is not None and one.replace("yuvj", "yuv") == other.replace("yuvj", "yuv")


def _rescaled(info: SourceInfo, time_base: Fraction) -> np.ndarray:
    """Return `info.pts` in units of `time_base`, rounded half away from zero as FFmpeg does; int64 [n]."""
    scale = info.time_base / time_base
    if scale.denominator == 1:
        return info.pts * scale.numerator
    return np.array([_round_half_away(int(p) * scale) for p in info.pts], np.int64)


def _round_half_away(value: Fraction) -> int:
    whole = math.floor(abs(value) + Fraction(1, 2))
    return whole if value >= 0 else -whole
