"""Encodes RGB frames to one closed-GOP video segment, reproducibly.

A segment is a NUT file: it keeps every codec's packets with exact timestamps in the source's time base. Segments of one
source are joined by `ops.video.mux.finalize` without encoding again, so all of them must be made with the same options.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

import av
import numpy as np
import torch
from av.video.stream import VideoStream

from ops.files.atomic import replaced_file
from ops.video.contents import SAYS_ITS_FIELDS_OUTSIDE, Contents
from ops.video.convert import Deinterlacing, EncodedColor, NativeWriter, Picture, YuvWriter, encoded_color, kept_color
from ops.video.errors import MediaError
from ops.video.image import check_frame
from ops.video.probe import SourceInfo

FLAG_BITEXACT = 0x0400  # AVFMT_FLAG_BITEXACT of libavformat
_FLAG_INTERLACED_DCT, _FLAG_INTERLACED_ME = 1 << 18, 1 << 29  # AV_CODEC_FLAG_*: two fields a frame

VideoCodec = Literal["libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1", "prores_ks", "qtrle"]
Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo"]


@dataclass(frozen=True)
class EncodeOptions:
    """Settings of an encoder. The same options and frames give the same bytes, on any number of CPUs."""

    codec: VideoCodec = "libx264"
    codec_is_default: bool = False
    """True if the user has not named the codec: a source with transparency then takes one that keeps it."""
    quality: float | None = None
    """Constant rate factor in the codec's own scale; smaller is better. None: 17 for x264, 19 for x265, 23 for AV1,
    24 for VP9. Must be None for ffv1 and qtrle, which are lossless, and for ProRes, whose profile decides."""
    preset: Preset = "medium"
    """Speed against size, in x264's words; translated for AV1 and VP9, without effect for the others."""
    pix_fmt: str | None = None
    """FFmpeg's pixel format. None: for pictures, the one that `ops.video.carriage` finds; for RGB frames yuv420p; bgr0 for
    ffv1, which loses nothing of 8-bit RGB; yuv444p for H.264 and HEVC in odd sizes, as their 4:2:0 can only say even ones."""
    threads: int = 2
    """Threads of the encoder. Part of the options because some encoders' output depends on it."""
    gop_frames: int = 64
    """Frames from key frame to key frame, at most. 1 for ffv1 and ProRes in effect: every frame is coded by itself."""
    native: bool = False
    """Frames come as `Picture`s and are encoded as they were stored: unturned, for the container's display matrix to turn,
    with their own depth, alpha and fields. False: RGB arrays, upright and progressive."""
    field_order: int = 0
    """FFmpeg's AVFieldOrder; 2 to 5 make the encoder keep two fields a frame. Only with `native`."""
    deinterlace: bool = False
    """Keep the first field of each frame of two and redraw the other one's lines between its lines. Each frame by itself."""

    def __post_init__(self) -> None:
        if self.codec not in get_args(VideoCodec):
            raise ValueError(f"codec: expected one of {get_args(VideoCodec)}, got {self.codec!r}")
        if self.preset not in get_args(Preset):
            raise ValueError(f"preset: expected one of {get_args(Preset)}, got {self.preset!r}")
        if self.threads < 1:
            raise ValueError(
                f"threads: expected 1 or more, got {self.threads}; 'automatic' would make the bytes depend on the machine"
            )
        if self.gop_frames < 1:
            raise ValueError(f"gop_frames: expected 1 or more, got {self.gop_frames}")
        if self.quality is not None:
            if self.codec not in _QUALITY_MAX:
                raise ValueError(f"quality: {self.codec} is lossless or has a fixed one; leave it out")
            if not 0 <= self.quality <= _QUALITY_MAX[self.codec]:
                raise ValueError(f"quality: expected 0 to {_QUALITY_MAX[self.codec]} for {self.codec}, got {self.quality}")
        if self.pix_fmt is not None:
            _check_pix_fmt(self.codec, self.pix_fmt)

    @property
    def rate_factor(self) -> float | None:
        """The constant rate factor in effect; None for ffv1."""
        return _QUALITY_DEFAULT[self.codec] if self.quality is None else self.quality

    def pixel_format(self, width: int, height: int) -> str:
        """Return the pixel format in effect for upright frames of this size.

        Raises `ValueError` if the format asked for cannot hold the size exactly.
        """
        fixed = {"ffv1": "bgr0", "qtrle": "argb", "prores_ks": "yuva444p10le"}.get(self.codec)
        if fixed is not None:
            return self.pix_fmt or fixed
        crops_by_chroma = self.codec in ("libx264", "libx265")
        if self.pix_fmt is None:
            return "yuv444p" if crops_by_chroma and (width % 2 or height % 2) else "yuv420p"
        if not fits_size(self.codec, self.pix_fmt, width, height):
            raise ValueError(
                f"pix_fmt: {self.codec} in {self.pix_fmt} can only hold even sizes, and the frames are {width}x{height};"
                " leave pix_fmt out (yuv444p) or take libvpx-vp9 or libsvtav1"
            )
        return self.pix_fmt


def fits_size(codec: str, pix_fmt: str, width: int, height: int) -> bool:
    """Return whether a codec can say this size in this pixel format: H.264 and HEVC crop in whole samples of chroma."""
    chroma = av.VideoFormat(pix_fmt, width, height)
    if codec not in ("libx264", "libx265") or len(chroma.components) < 3:
        return True
    step_x = 2 if chroma.chroma_width(2) == 1 else 1
    step_y = 2 if chroma.chroma_height(2) == 1 else 1
    return not (width % step_x or height % step_y)


_QUALITY_DEFAULT: dict[str, float | None] = {
    "libx264": 17.0,
    "libx265": 19.0,
    "libsvtav1": 23.0,
    "libvpx-vp9": 24.0,
    "ffv1": None,
    "prores_ks": None,
    "qtrle": None,
}
_QUALITY_MAX = {"libx264": 51, "libx265": 51, "libsvtav1": 63, "libvpx-vp9": 63}


def _check_pix_fmt(codec: str, pix_fmt: str) -> None:
    known = [f.name for f in av.Codec(codec, "w").video_formats or ()]
    if known and pix_fmt not in known:
        raise ValueError(f"pix_fmt: {codec} can encode {', '.join(known)}; got {pix_fmt!r}")


def encode_segment(
    frames: Iterable[tuple[int, np.ndarray | Picture]], info: SourceInfo, options: EncodeOptions, path: str | Path
) -> int:
    """Encode consecutive frames of a source as one segment file; return how many.

    `frames`: (pts, uint8 [info.height, info.width, 3] RGB upright), or (pts, Picture) if `options.native`; consumed one at
    a time; their pts must be a run of `info.pts` without gaps. The segment starts with a key frame and refers to nothing
    outside itself. Matrix, range, primaries, transfer and pixel shape are the source's. The file appears at `path` only when
    it is complete.

    Raises `ValueError` for frames that do not fit `info`, or none, and `MediaError` if the encoder fails.
    """
    if info.kind != "video":
        raise ValueError(f"{info.uri}: expected a video source, got an image; write it with write_image")
    try:
        with replaced_file(path) as temporary:
            return _encode(frames, info, options, temporary)
    except av.FFmpegError as error:
        raise MediaError(
            path,
            f"{options.codec} cannot encode {info.width}x{info.height}: {error.strerror}",
            "try another codec (libx264 takes any size, ffv1 any pixel format)",
        ) from error


def _encode(frames: Iterable[tuple[int, np.ndarray | Picture]], info: SourceInfo, options: EncodeOptions, path: Path) -> int:
    width, height = coded_size(info, options)
    pix_fmt = options.pixel_format(width, height)
    color = coded_color(info, options)
    fields = options.field_order if options.native else 0
    from_rgb = YuvWriter(color, pix_fmt)
    deinterlaced = options.deinterlace and info.contents.interlaced
    from_picture = NativeWriter(color, pix_fmt, info.orientation, fields, deinterlaced_as(info) if deinterlaced else None)
    count = 0
    # NUT writes presentation times only, and no negative ones: a negative decode time must not shift the segment, and
    # times count from the source's first frame.
    # It does not know every codec; those it does not know reorder nothing, and QuickTime's own container keeps their times.
    form = "mov" if options.codec in ("prores_ks", "qtrle") else "nut"
    settings = {"avoid_negative_ts": "disabled"}
    if form == "mov":
        settings["video_track_timescale"] = str(info.time_base.denominator)
    with av.open(str(path), "w", format=form, container_options=settings) as container:
        container.flags |= FLAG_BITEXACT  # no library versions, times or random numbers in the file
        stream = _open_stream(container, info, options, pix_fmt)
        context = stream.codec_context
        context.color_primaries, context.color_trc = color.tags.primaries, color.tags.trc
        context.colorspace, context.color_range = color.tags.space, color.tags.range
        for pts, picture in _checked(frames, info):
            if isinstance(picture, Picture):
                if not options.native:
                    raise ValueError(
                        f"{info.uri}: expected RGB arrays, got decoded pictures; set EncodeOptions.native for them"
                    )
                frame = from_picture.frame(picture)
            else:
                if options.native:
                    raise ValueError(f"{info.uri}: expected decoded pictures (EncodeOptions.native), got RGB arrays")
                frame = from_rgb.frame(picture)
            frame.pts, frame.time_base = pts - int(info.pts[0]), info.time_base
            container.mux(with_decode_times(context.encode(frame)))
            count += 1
        container.mux(with_decode_times(context.encode(None)))
    return count


def with_decode_times(packets: Sequence[av.Packet]) -> Sequence[av.Packet]:
    """Return the same packets; a decode time later than the presentation is removed for the muxer to compute.

    x265 now and then gives one from uninitialised memory, if a segment has fewer frames than it looks ahead.
    """
    for packet in packets:
        if packet.dts is not None and packet.pts is not None and packet.dts > packet.pts:
            packet.dts = None
    return packets


def coded_size(info: SourceInfo, options: EncodeOptions) -> tuple[int, int]:
    """Return (width, height) of the encoded pictures: as stored if they are native, else upright."""
    return info.orientation.upright_size(info.width, info.height) if options.native else (info.width, info.height)


def coded_color(info: SourceInfo, options: EncodeOptions) -> EncodedColor:
    """Return the colour tags of the encoded pictures, and the conversion that they describe."""
    pix_fmt = options.pixel_format(*coded_size(info, options))
    color = kept_color(info, pix_fmt) if options.native else encoded_color(info, pix_fmt)
    if (
        options.codec == "prores_ks" and color.full_range
    ):  # neither ProRes nor QuickTime says so, and readers take it for limited
        return replace(color, tags=replace(color.tags, range=1), full_range=False)
    return color


def _checked(
    frames: Iterable[tuple[int, np.ndarray | Picture]], info: SourceInfo
) -> Iterable[tuple[int, np.ndarray | Picture]]:
    ordinal = -1
    for pts, given in frames:
        frame = given.edited if isinstance(given, Picture) else given
        check_frame(frame)
        if frame.shape[:2] != (info.height, info.width):
            raise ValueError(
                f"{info.uri}: expected frames of {info.width}x{info.height}, got {frame.shape[1]}x{frame.shape[0]} at pts {pts}"
            )
        ordinal = int(np.searchsorted(info.pts, pts)) if ordinal < 0 else ordinal + 1
        if ordinal >= info.n_frames or int(info.pts[ordinal]) != pts:
            due = f"pts {int(info.pts[ordinal])}" if ordinal < info.n_frames else "no further frame"
            raise ValueError(f"{info.uri}: expected {due}, got pts {pts}; a segment holds consecutive frames of its source")
        yield pts, given
    if ordinal < 0:
        raise ValueError(f"{info.uri}: expected at least one frame for a segment, got none")


def _open_stream(
    container: av.container.OutputContainer, info: SourceInfo, options: EncodeOptions, pix_fmt: str
) -> VideoStream:
    stream = container.add_stream(
        options.codec, rate=nominal_rate(info), options=_codec_options(options, info.contents), time_base=info.time_base
    )
    context = stream.codec_context
    context.width, context.height = coded_size(info, options)
    context.pix_fmt = pix_fmt
    context.time_base = info.time_base
    context.gop_size = 1 if options.codec in ("ffv1", "prores_ks") else options.gop_frames
    context.thread_count = options.threads
    if (aspect := coded_aspect(info, options)) is not None:
        context.sample_aspect_ratio = aspect
    if options.native and options.field_order > 1:
        context.flags |= _FLAG_INTERLACED_DCT | _FLAG_INTERLACED_ME
        context.field_order = options.field_order
    return stream


def deinterlaced_as(info: SourceInfo) -> Deinterlacing:
    """Return the settings by which the fields of an interlaced source become frames."""
    order = info.contents.field_order
    return Deinterlacing(top_first=order not in (3, 4), every_frame=info.codec in SAYS_ITS_FIELDS_OUTSIDE)


def coded_aspect(info: SourceInfo, options: EncodeOptions) -> Fraction | None:
    """Return width over height of one encoded pixel; None if unspecified."""
    if info.sample_aspect_ratio is None:
        return None
    turned = options.native and info.orientation.quarter_turns % 2 == 1
    return 1 / info.sample_aspect_ratio if turned else info.sample_aspect_ratio


def nominal_rate(info: SourceInfo) -> Fraction:
    """Return frames per second for encoders, which need a rate even if it varies: the stated one, or the mean."""
    if (stated := info.contents.rate or info.average_rate) is not None:
        return stated
    rate = info.n_frames / ((info.end_pts - int(info.pts[0])) * info.time_base)
    return rate.limit_denominator(1001)


def _mastering(contents: Contents) -> str | None:
    """Format mastering metadata for x264 and x265; None for none (SMPTE ST 2086: 0.00002 of CIE 1931 and 0.0001 cd/m²)."""
    numbers = contents.mastering
    if numbers is None or not (numbers[20] and numbers[21]) or 0 in numbers[1:20:2]:
        return None
    values = [Fraction(numbers[i], numbers[i + 1]) for i in range(0, 20, 2)]
    red, green, blue, white = (tuple(round(one * 50000) for one in values[i : i + 2]) for i in (0, 2, 4, 6))
    low, high = (round(one * 10000) for one in values[8:10])
    points = (f"{name}({x},{y})" for name, (x, y) in zip(("G", "B", "R", "WP"), (green, blue, red, white), strict=True))
    return f"{''.join(points)}L({high},{low})"


HDR_CODECS = frozenset({"libx264", "libx265"})
"""Encoders that write mastering metadata into the stream."""


def _hdr_parameters(options: EncodeOptions, contents: Contents) -> str:
    """Return `:name=value` for the parameters of x264 or x265; empty for pictures without mastering metadata."""
    if not options.native:
        return ""
    x264 = options.codec == "libx264"
    found = ""
    if (mastering := _mastering(contents)) is not None:
        found += f":{'mastering-display' if x264 else 'master-display'}={mastering}"
    if contents.light is not None:
        found += f":{'cll' if x264 else 'max-cll'}={contents.light[0]},{contents.light[1]}"
    return found


def _codec_options(options: EncodeOptions, contents: Contents) -> dict[str, str]:
    quality = "" if options.rate_factor is None else f"{options.rate_factor:g}"
    match options.codec:
        case "libx264":
            # With AVX-512 the same frames gave other bytes from run to run (libx264 of PyAV 18; gone without mbtree or with
            # AVX2, at no measurable cost; the cause inside x264 is not known). The same bytes are worth more here.
            steady = ":asm=AVX2" if torch.backends.cpu.get_cpu_capability() == "AVX512" else ""
            # The first frame would tell x264 too late which field is first, so it is set here.
            fields = "" if options.field_order < 2 else ":tff=1" if options.field_order in (2, 5) else ":bff=1"
            return {
                "crf": quality,
                "preset": options.preset,
                "x264-params": f"open-gop=0{fields}{steady}{_hdr_parameters(options, contents)}",
            }
        case "libx265":
            # Its default is an open GOP, and as many pools and frame threads as the machine has cores.
            fixed = f"open-gop=0:pools={options.threads}:frame-threads={min(options.threads, 16)}:log-level=none"
            return {"crf": quality, "preset": options.preset, "x265-params": fixed + _hdr_parameters(options, contents)}
        case "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only; the encoder has no other switch for its chatter
            return {
                "crf": quality,
                "preset": _SVTAV1_PRESET[options.preset],
                "svtav1-params": f"lp={min(options.threads, 6)}",
            }
        case "libvpx-vp9":
            return {
                "crf": quality,
                "b": "0",
                "deadline": "good",
                "cpu-used": _VP9_CPU_USED[options.preset],
                "row-mt": "0",
                "auto-alt-ref": "1",
                "lag-in-frames": "25",
            }
        case "ffv1":
            return {"level": "3", "slicecrc": "1", "slices": "4"}
        case "prores_ks":
            fine = options.pix_fmt is None or "444" in options.pix_fmt
            return {"profile": "4444" if fine else "hq", "vendor": "apl0", "alpha_bits": "16"}
        case "qtrle":
            return {}


_SVTAV1_PRESET = {
    "ultrafast": "12",
    "superfast": "11",
    "veryfast": "10",
    "faster": "9",
    "fast": "8",
    "medium": "6",
    "slow": "5",
    "slower": "4",
    "veryslow": "3",
    "placebo": "2",
}
_VP9_CPU_USED = {
    "ultrafast": "5",
    "superfast": "5",
    "veryfast": "5",
    "faster": "4",
    "fast": "3",
    "medium": "2",
    "slow": "1",
    "slower": "0",
    "veryslow": "0",
    "placebo": "0",
}
