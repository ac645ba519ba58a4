"""Measures a source before any frame is used: identity, timing, orientation, colour.

A source is a video or a still image. Its frames are known by integer timestamps (`pts`) in units of `time_base`
seconds; the position in the list is a local ordinal and never identity, because variable frame rates are normal.

Timestamps come from the container's packets, which costs no decoding. Some files have packets that give no frame
(edit lists, hidden frames, streams cut in the middle of a group of pictures) or frames whose timestamp is not that
of one packet; where a file shows a sign of that, every frame is decoded once instead, so that `SourceInfo.pts` is
always the list that decoding yields.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ops.video.contents import MOST_RATE, TRIED_PACKETS, USUAL_RATE, Contents, contents_of
from ops.video.errors import MediaError
from ops.video.image import IMAGE_SUFFIXES, LoadedImage, is_animation, is_still, load_image
from ops.video.orientation import Orientation, orientation_of

_PQ, _HLG = 16, 18  # transfer characteristics of ITU-T H.273

# One packet is one shown frame in these formats, short of the signs that `_frames_follow_packets` looks for.
_ONE_FRAME_PER_PACKET = frozenset(
    {"h264", "hevc", "av1", "vp9", "mpeg4", "mjpeg", "png", "ffv1", "prores", "dnxhd"}
    | {"rawvideo", "huffyuv", "ffvhuff", "utvideo", "qtrle", "v210"}
)


_WITHOUT_TIMES = frozenset({"h264", "hevc", "vvc"})
"""FFmpeg's raw formats whose frames come in another order than they are shown in, and without any time."""


@dataclass(frozen=True)
class SourceColor:
    """Meaning of a picture's numbers as colours: code points of ITU-T H.273, as FFmpeg numbers them.

    2 is "unspecified" for `primaries`, `trc` (transfer) and `space` (matrix). `range` is 0 unspecified,
    1 limited (16-235 for luma in 8 bit), 2 full (0-255).
    """

    primaries: int = 2
    trc: int = 2
    space: int = 2
    range: int = 0

    @property
    def is_hdr(self) -> bool:
        """True for the PQ and HLG transfers, whose numbers are not display-referred 8-bit RGB."""
        return self.trc in (_PQ, _HLG)


@dataclass(frozen=True, eq=False)
class SourceInfo:
    """One source, measured by `probe`. Plain values only, so it pickles and travels between processes."""

    uri: str
    """Absolute path of the file."""
    kind: Literal["video", "image"]
    width: int
    """Pixels of the upright frame, left to right."""
    height: int
    """Pixels of the upright frame, top to bottom."""
    pts: np.ndarray
    """int64 [n], read-only, strictly increasing: the timestamp of each frame in display order."""
    last_duration: int
    """Time that the last frame stays, in units of `time_base`; every other frame stays until the next."""
    time_base: Fraction
    """Seconds per unit of `pts`. 1 for images."""
    rotation_degrees: int
    """0, 90, 180 or 270: counter-clockwise turn from the stored picture to the upright one (already applied in frames)."""
    mirrored: bool
    """True if the stored picture is flipped left to right before that turn (already applied in frames)."""
    average_rate: Fraction | None
    """Frames per second as the container states it; None if it does not. Never used for timing."""
    codec: str
    pix_fmt: str
    """FFmpeg's name of the stored pixel format; for images Pillow's mode."""
    color: SourceColor
    sample_aspect_ratio: Fraction | None
    """Width over height of one upright pixel; None if unspecified (then square is meant)."""
    container: str
    """FFmpeg's name of the container format, or Pillow's format name in lower case."""
    stream_index: int
    """Index of the video stream in the file; 0 for images."""
    keyframe_pts: np.ndarray
    """int64 [k], read-only, increasing: frames at which decoding can start; empty if the file must be read from the front."""
    plain: bool
    """True if packets and frames are one to one, frames are progressive, and each key frame restarts decoding fully.
    Simple readers, which trust any key frame, are exact on such a stream and on no other."""
    audio_streams: int
    subtitle_streams: int
    size_bytes: int
    sha256: str
    """Hexadecimal digest of the file's bytes, see `source_digest`."""
    contents: Contents = field(default_factory=Contents)
    """All else that the file holds, for `ops.video.carriage`."""

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.pts)

    @property
    def orientation(self) -> Orientation:
        """The turn and flip from stored to upright pixels."""
        return Orientation(self.rotation_degrees // 90, self.mirrored)

    @property
    def end_pts(self) -> int:
        """The instant at which the last frame ends, in units of `time_base`."""
        return int(self.pts[-1]) + self.last_duration

    def pts_seconds(self, i: int) -> float:
        """Presentation time of frame ordinal `i`, in seconds on the file's own clock (which need not start at 0)."""
        return float(int(self.pts[i]) * self.time_base)


def source_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes in lower-case hexadecimal, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def probe(path: str | Path, *, allow_hdr: bool = False) -> SourceInfo:
    """Measure one video or image file.

    Decodes the first frame to prove that it can be decoded. Files with one of `ops.video.image.IMAGE_SUFFIXES`, or with the
    first bytes of a photograph, are images: one frame, pts [0], time base 1, EXIF orientation applied.

    Raises `MediaError` (with path, reason and remedy) for a missing path, a folder, an empty file, a file without
    media, one without pictures, a truncated one, one with broken timestamps, and for HDR transfers (PQ, HLG)
    unless `allow_hdr`: then its numbers are passed on as if they were display-referred, without tone mapping.
    """
    file = Path(path).absolute()
    require_file(file)
    if is_still(file) or (file.suffix.lower() in IMAGE_SUFFIXES and not is_animation(file)):
        return _probe_image(file)
    return _probe_video(file, allow_hdr)


def require_file(file: Path) -> None:
    """Raise `MediaError` unless the path is a file that is not empty, can be read twice and has an end."""
    try:
        facts = file.stat()
    except FileNotFoundError:
        raise MediaError(file, "there is no such file", "check the path") from None
    except OSError as error:
        raise MediaError(file, f"it cannot be looked at: {error.strerror}", "check the path and its permissions") from error
    if stat.S_ISDIR(facts.st_mode):
        raise MediaError(file, "this is a folder, and one media file was expected", "name the files inside it")
    if stat.S_ISREG(facts.st_mode) and facts.st_size == 0:
        raise MediaError(file, "the file is empty (0 bytes)", "copy or download it again")
    if not stat.S_ISREG(facts.st_mode):
        named = "pipe" if stat.S_ISFIFO(facts.st_mode) else "device or socket"
        raise MediaError(file, f"this is a {named}, and a file that can be read twice was expected", "save it to a file first")


def _probe_image(file: Path) -> SourceInfo:
    return image_info(str(file), load_image(file), file.stat().st_size, source_digest(file))


def image_info(uri: str, image: LoadedImage, size_bytes: int, sha256: str) -> SourceInfo:
    """Return the result of `probe` for an image file that is decoded already."""
    height, width = image.frame.shape[:2]
    return SourceInfo(
        uri=uri,
        kind="image",
        width=width,
        height=height,
        pts=_frozen([0]),
        last_duration=1,
        time_base=Fraction(1),
        rotation_degrees=image.orientation.quarter_turns * 90,
        mirrored=image.orientation.mirrored,
        average_rate=None,
        codec=image.format,
        pix_fmt=image.mode,
        color=SourceColor(),
        sample_aspect_ratio=None,
        container=image.format,
        stream_index=0,
        keyframe_pts=_frozen([0]),
        plain=True,
        audio_streams=0,
        subtitle_streams=0,
        size_bytes=size_bytes,
        sha256=sha256,
        contents=Contents(picture=image.facts),
    )


def _probe_video(file: Path, allow_hdr: bool) -> SourceInfo:
    with open_media(file) as container:
        form = container.format.name
        if form in ("ico", "image2", "jpegxl_anim") or form.endswith("_pipe"):
            return _probe_image(file)  # FFmpeg shows a picture of any format as a video of one frame
        if form == "mjpeg" and not _begins_with(file, b"\xff\xd8"):  # FFmpeg plays any file with a JPEG in it, such as a PDF
            raise MediaError(file, "it is not a media file, though there is a JPEG in it", "give the pictures themselves")
        stream = _picture_stream(file, container)
        heads: dict[int, list[Packet]] = {}
        timing = _packet_timing(container, stream, heads)
        first = first_frame(file, stream.index)
        color = SourceColor(first.color_primaries, first.color_trc, first.colorspace, first.color_range)
        if color.is_hdr and not allow_hdr:
            name = "PQ" if color.trc == _PQ else "HLG"
            raise MediaError(
                file,
                f"the video is HDR ({name} transfer), and 8-bit RGB editing would change its look",
                "convert it to SDR first (tone mapping), or allow HDR to treat its values as they are",
            )
        if not _frames_follow_packets(container, stream, first, timing):
            timing = _decoded_timing(file, stream.index, timing)
        if timing.pts.size == 0 and container.format.name in _WITHOUT_TIMES:
            raise MediaError(
                file,
                f"it is a raw stream ({container.format.long_name}), which says nothing of when its frames are shown",
                "put it into a container, with its rate: ffmpeg -framerate 25 -i IN -c:v libx264 -crf 12 OUT.mp4",
            )
        if timing.pts.size == 0 or np.any(np.diff(timing.pts) <= 0):
            raise MediaError(
                file,
                "its frames have missing or repeated timestamps",
                "convert it once, for example: ffmpeg -i IN -c:v libx264 -crf 12 OUT.mp4",
            )
        _check_complete(file, container, stream, timing)
        orientation = orientation_of(file, first)
        width, height = orientation.upright_size(first.width, first.height)
        aspect = stream.sample_aspect_ratio or None
        if aspect is not None and orientation.quarter_turns % 2:
            aspect = 1 / aspect
        return SourceInfo(
            uri=str(file),
            kind="video",
            width=width,
            height=height,
            pts=_frozen(timing.pts),
            last_duration=_last_duration(timing, stream),
            time_base=seconds_per_tick(stream),
            rotation_degrees=orientation.quarter_turns * 90,
            mirrored=orientation.mirrored,
            average_rate=stream.average_rate or None,
            codec=stream.codec_context.codec.canonical_name,
            pix_fmt=first.format.name,
            color=color,
            sample_aspect_ratio=aspect,
            container=container.format.name,
            stream_index=stream.index,
            keyframe_pts=_frozen(timing.keyframe_pts),
            plain=timing.trusted and timing.closed and not first.interlaced_frame,
            audio_streams=len(container.streams.audio),
            subtitle_streams=len(container.streams.subtitles),
            size_bytes=file.stat().st_size,
            sha256=source_digest(file),
            contents=contents_of(container, stream, first, heads, _measured_rate(timing, seconds_per_tick(stream))),
        )


def _begins_with(file: Path, first: bytes) -> bool:
    with open(file, "rb") as opened:
        return opened.read(len(first)) == first


def _measured_rate(timing: _Timing, tick: Fraction) -> Fraction | None:
    """Return the frames per second from the first timestamp to the last; None for a single frame."""
    if timing.pts.size < 2:
        return None
    return (timing.pts.size - 1) / (int(timing.pts[-1] - timing.pts[0]) * tick)


def open_media(file: str | Path) -> InputContainer:
    """Open a media file for reading. Raises `MediaError` if FFmpeg finds no media in it."""
    try:
        return av.open(str(file), metadata_errors="replace")
    except (av.FFmpegError, UnicodeError) as error:
        raise MediaError(
            file,
            f"FFmpeg cannot open it: {_reason(error)}; it is not a media file, or its index is missing (truncated)",
            "check that the file plays, and copy or download it again",
        ) from error


def video_stream(container: InputContainer, index: int) -> VideoStream:
    """Return the stream `index` of an open file, which `probe` has found to be its video."""
    stream = container.streams[index]
    if not isinstance(stream, VideoStream):
        raise MediaError(container.name, f"stream {index} is not a video; the file changed since", "probe it again")
    return stream


def decoder_of(stream: VideoStream, threads: int = 0) -> Callable[[Packet], Sequence[VideoFrame]]:
    """Return the decoder of a stream's packets: FFmpeg's own, or libvpx for VP8 and VP9 with transparency.

    Their alpha channel stands beside the pictures in Matroska and WebM (BlockAdditions); FFmpeg's own decoders leave it out.
    """
    name = _ALPHA_DECODERS.get(stream.codec_context.codec.canonical_name)
    if name is not None and {str(k).lower(): v for k, v in stream.metadata.items()}.get("alpha_mode") == "1":
        try:
            context = av.CodecContext.create(name, "r")
        except av.codec.codec.UnknownCodecError:
            return stream.decode
        context.thread_count = threads
        return lambda packet: context.decode(packet if packet.size else None)  # type: ignore[attr-defined] # of video
    return stream.decode


_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def seconds_per_tick(stream: Stream) -> Fraction:
    """Return the stream's time base. Raises `MediaError` if it has none."""
    if not stream.time_base:
        raise MediaError(stream.container.name, f"stream {stream.index} has no time base", "convert it once")
    return stream.time_base


def _reason(error: Exception) -> str:
    return str(error.strerror) if isinstance(error, av.FFmpegError) else str(error)


def _picture_stream(file: Path, container: InputContainer) -> VideoStream:
    """Return the video stream that players show: the first one marked as default, else the first; never a cover picture."""
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    streams.sort(key=lambda s: not s.disposition & Disposition.default)
    if not streams:
        found = ", ".join(sorted({s.type for s in container.streams})) or "no stream at all"
        raise MediaError(file, f"it has no video stream (found: {found})", "give a file with pictures")
    if streams[0].codec_context is None:
        raise MediaError(file, "this FFmpeg has no decoder for its video", "convert it to H.264 or AV1 first")
    return streams[0]


@dataclass(frozen=True)
class _Timing:
    """The timestamps of a stream's packets or frames, sorted by pts."""

    pts: np.ndarray  # int64 [n]
    keyframe_pts: np.ndarray  # int64 [k]
    last_duration: int  # 0 if unknown
    trusted: bool  # False once a packet showed that packets and frames may not be one to one
    closed: bool  # True if every key frame restarts decoding completely
    damaged: bool  # True if the file ended inside a packet
    end_seconds: float  # when the last packet of any stream ends


def _packet_timing(container: InputContainer, stream: VideoStream, heads: dict[int, list[Packet]]) -> _Timing:
    """Read the timestamps of the stream's packets. `heads` is filled with the first packets of every other stream."""
    pts: list[int] = []
    keyframes: list[int] = []
    trusted, closed, damaged = True, True, False
    last_pts, last_duration, end_seconds = None, 0, 0.0
    codec, extradata = stream.codec_context.codec.canonical_name, stream.codec_context.extradata or b""
    try:
        # Every stream, because a Matroska header states when the last of them ends, and nothing else tells a cut file.
        for packet in container.demux():
            if packet.pts is not None and packet.size:
                end_seconds = max(end_seconds, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != stream.index:
                if packet.size and len(head := heads.setdefault(packet.stream_index, [])) < TRIED_PACKETS:
                    head.append(packet)
                continue
            if packet.size == 0:
                if packet.pts is not None:  # an empty packet in the file, and not the demuxer's last one
                    trusted = False
                continue
            if packet.is_corrupt:
                trusted, damaged = False, True
            if packet.pts is None or packet.is_discard or (codec == "vp9" and _is_hidden_vp9(packet)):
                trusted = False
            if packet.pts is None:
                continue
            if packet.is_keyframe and not packet.is_discard:
                keyframes.append(packet.pts)
                closed = closed and (codec != "h264" or _has_idr(bytes(packet), extradata))
            elif not keyframes:
                trusted = False  # the stream starts inside a group of pictures
            elif packet.pts < keyframes[-1]:
                closed = False  # shown before the key frame, decoded after it: may refer to what is before it
            pts.append(packet.pts)
            if last_pts is None or packet.pts > last_pts:
                last_pts, last_duration = packet.pts, packet.duration or 0
    except av.FFmpegError:
        trusted, damaged = False, True
    if keyframes and min(pts) < keyframes[0]:
        trusted = False  # pictures shown before the first key frame refer to what is not in the file
    sorted_pts, sorted_keys = np.array(sorted(pts), np.int64), np.array(sorted(keyframes), np.int64)
    return _Timing(sorted_pts, sorted_keys, last_duration, trusted, closed, damaged, end_seconds)


def _has_idr(data: bytes, extradata: bytes) -> bool:
    """Return whether an H.264 packet holds an IDR picture (ITU-T H.264, 7.4.1, NAL unit type 5).

    Containers also mark recovery points as key frames, from which the picture only becomes right after a while.
    """
    if extradata[:1] != b"\x01":  # Annex B: units behind start codes
        return any(unit and unit[0] & 0x1F == 5 for unit in data.split(b"\0\0\1")[1:])
    width = (extradata[4] & 3) + 1  # ISO/IEC 14496-15: units behind their length
    at = 0
    while at + width < len(data):
        if data[at + width] & 0x1F == 5:
            return True
        at += width + int.from_bytes(data[at : at + width], "big")
    return False


def _is_hidden_vp9(packet: Packet) -> bool:
    """Return whether a VP9 packet holds one frame that is not shown (VP9 bitstream specification, 6.2 and annex B)."""
    data = bytes(packet)
    if data[-1] & 0xE0 == 0xC0:  # a superframe: the encoder packs a hidden frame with a shown one
        return False
    if (data[0] & 0x30) == 0x30:  # profile 3 has a reserved bit before the flags
        show_existing, show = data[0] >> 2 & 1, data[0] & 1
    else:
        show_existing, show = data[0] >> 3 & 1, data[0] >> 1 & 1
    return not show_existing and not show


def _frames_follow_packets(container: InputContainer, stream: VideoStream, first: VideoFrame, timing: _Timing) -> bool:
    """Return whether the packets' timestamps are sure to be the frames' timestamps."""
    return (
        timing.trusted
        and stream.codec_context.codec.canonical_name in _ONE_FRAME_PER_PACKET
        # Transport streams are cut anywhere and lose packets; AVI states no presentation times.
        and any(name in container.format.name.split(",") for name in ("mp4", "matroska", "nut"))
        # Interlaced pictures may travel as two packets, one for each field.
        and not first.interlaced_frame
        and timing.pts.size > 0
        and first.pts == timing.pts[0]
        and bool(np.all(np.diff(timing.pts) > 0))
    )


def first_frame(file: Path, index: int) -> VideoFrame:
    """Decode the first frame of a stream. Raises `MediaError` if none can be decoded."""
    try:
        for frame in decoded_frames(file, index):
            return frame
    except av.FFmpegError as error:
        raise MediaError(file, f"its first frame cannot be decoded: {_reason(error)}", "check that the file plays") from error
    raise MediaError(file, "no frame in it can be decoded (damaged or truncated)", "check that the file plays")


def decoded_frames(file: str | Path, index: int) -> Iterator[VideoFrame]:
    """Yield every frame that FFmpeg decodes from stream `index`, forwards; packets that do not decode are skipped."""
    with open_media(file) as container:
        stream = video_stream(container, index)
        stream.thread_type = "AUTO"
        decode = decoder_of(stream)
        try:
            for packet in container.demux(stream):
                try:
                    frames = decode(packet)
                except av.error.InvalidDataError:
                    continue
                yield from frames
        except av.error.InvalidDataError:
            return


def _decoded_timing(file: Path, index: int, packets: _Timing) -> _Timing:
    pts: list[int] = []
    last_duration, size = 0, (0, 0)
    for frame in decoded_frames(file, index):
        if pts and (frame.width, frame.height) != size:
            raise changed_size(file, (frame.width, frame.height), size, frame.pts)
        size = frame.width, frame.height
        if frame.pts is None:
            return _Timing(_frozen([]), _frozen([]), 0, False, False, packets.damaged, packets.end_seconds)
        pts.append(frame.pts)
        last_duration = frame.duration or 0
    array = np.array(pts, np.int64)
    # A key frame is a place to start only if it is also a frame with that timestamp.
    keyframes = np.intersect1d(packets.keyframe_pts, array)
    return _Timing(array, keyframes, last_duration, False, False, packets.damaged, packets.end_seconds)


def changed_size(file: str | Path, found: tuple[int, int], first: tuple[int, int], pts: int | None) -> MediaError:
    """Return the error of a file whose pictures do not all have one size."""
    reason = f"the picture's size changes to {found[0]}x{found[1]} at pts {pts} (it begins with {first[0]}x{first[1]})"
    return MediaError(file, reason, "cut the file where the size changes")


def _check_complete(file: Path, container: InputContainer, stream: VideoStream, timing: _Timing) -> None:
    """Raise `MediaError` if an index (mp4, mov) or a header (Matroska) lists more than the file holds: it is truncated."""
    remedy = "copy or download it again, or cut it to the good part: ffmpeg -i IN -c copy OUT.mkv"
    if timing.damaged and stream.frames > timing.pts.size:
        reason = f"it is truncated: its index lists {stream.frames} frames and {timing.pts.size} are there"
        raise MediaError(file, reason, remedy)
    if "matroska" in container.format.name and container.duration is not None:
        promised = container.duration / av.time_base
        if promised - timing.end_seconds > 0.5 + 2 * _last_duration(timing, stream) * float(seconds_per_tick(stream)):
            reason = f"it is truncated: its header says {promised:.2f} s and {timing.end_seconds:.2f} s are there"
            raise MediaError(file, reason, remedy)


def _last_duration(timing: _Timing, stream: VideoStream) -> int:
    tick = seconds_per_tick(stream)
    if timing.pts.size > 1:
        return timing.last_duration if timing.last_duration > 0 else int(np.median(np.diff(timing.pts)))
    if timing.last_duration * tick * MOST_RATE >= 1:
        return timing.last_duration
    rate = stream.average_rate if stream.average_rate and stream.average_rate <= MOST_RATE else USUAL_RATE
    return max(1, round(1 / (rate * tick)))


def _frozen(values: list[int] | np.ndarray) -> np.ndarray:
    array = np.array(values, np.int64)
    array.flags.writeable = False
    return array
