"""Converts between YUV, as videos store it, and RGB frames, with the matrix and range that the source states.

Two conversions to RGB exist because the quick one is not exact. FFmpeg's default, which decord also uses, rounds
down: on 8-bit 4:2:0 video it comes out 1.0 to 1.5 levels too dark on average and up to 2.7 wrong, and a decode and
encode round trip darkens luma by 1.1 levels. The exact one is correct to half a level, gives luma back bit for bit in
that round trip, and costs about 3 ms instead of 0.4 ms for a 1280x720 frame.

Unspecified values follow FFmpeg and decord: an unspecified matrix is read as BT.601 and an unspecified range as
limited. Output keeps the source's tags, so a player that reads them otherwise errs on both files alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import av
import cv2
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from ops.video.orientation import Orientation
from ops.video.probe import SourceColor, SourceInfo

Conversion = Literal["fast", "exact"]

_FAST = Interpolation.BILINEAR
_EXACT = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_TO_YUV = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND | Interpolation.BITEXACT

_UNSPECIFIED, _LIMITED, _FULL = 2, 1, 2
_RGB_MATRIX = 0


class RgbReader:
    """Turns decoded frames into uint8 [h, w, 3] RGB in stored orientation. Keeps its conversion tables between frames."""

    def __init__(self, conversion: Conversion) -> None:
        """`conversion`: "fast" is bit-identical to decord, "exact" is right to half a level."""
        self._conversion = conversion
        self._reformatter = VideoReformatter()

    def rgb(self, frame: VideoFrame) -> np.ndarray:
        """Convert a frame to uint8 [h, w, 3], C-contiguous, not turned upright."""
        # swscale refuses a matrix that it cannot compute (YCgCo, ICtCp, ...); it is read as an unspecified one is.
        known = is_rgb(frame.format.name) or _matrix(frame.colorspace) is not None
        matrix = None if known else Colorspace.ITU601
        match self._conversion:
            case "fast":
                packed = self._reformatter.reformat(
                    frame, format="rgb24", src_colorspace=matrix, interpolation=_FAST, threads=1
                )
                # An array is a view of its frame, and a frame that was RGB already may be one the decoder refers to.
                return packed.to_ndarray().copy() if packed is frame else packed.to_ndarray()
            case "exact":
                planar = self._reformatter.reformat(
                    frame, format="gbrp", src_colorspace=matrix, interpolation=_EXACT, threads=1
                )
                green, blue, red = (_plane(planar, i) for i in range(3))
                # Planes and one merge: swscale's packed RGB output takes four times as long.
                return cv2.merge([red, green, blue])


def _plane(frame: VideoFrame, i: int) -> np.ndarray:
    plane = frame.planes[i]
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]


@dataclass(frozen=True)
class EncodedColor:
    """Tags and conversion of encoded pictures: FFmpeg's numbers of the tags, and the matrix that swscale is given."""

    tags: SourceColor
    matrix: Colorspace
    full_range: bool


def encoded_color(info: SourceInfo, pix_fmt: str) -> EncodedColor:
    """Return the colour tags of an encoded copy of the source in `pix_fmt`, and the conversion that they describe.

    YUV copies of YUV sources keep every tag. RGB formats hold RGB itself: matrix 0, full range. A source without a
    YUV matrix that swscale can write (RGB, YCgCo, ...) becomes limited-range BT.709 and says so.
    """
    source = info.color
    if is_rgb(pix_fmt):
        tags = SourceColor(source.primaries, source.trc, _RGB_MATRIX, _FULL)
        return EncodedColor(tags, Colorspace.DEFAULT, True)
    matrix = _matrix(source.space)
    if matrix is None or is_rgb(info.pix_fmt):
        return EncodedColor(SourceColor(source.primaries, source.trc, 1, _LIMITED), Colorspace.ITU709, False)
    # The yuvj formats are full range by name, whatever the tag says.
    full = source.range == _FULL or info.pix_fmt.startswith("yuvj")
    tags = SourceColor(source.primaries, source.trc, source.space, _FULL if full else source.range)
    return EncodedColor(tags, matrix, full)


def kept_color(info: SourceInfo, pix_fmt: str) -> EncodedColor:
    """Return the same for pictures whose native numbers are kept: then a matrix that swscale cannot write stays as well.

    Such a matrix was read as BT.601 (`RgbReader`), so the change of an edit is written back by the same.
    """
    if is_rgb(pix_fmt) or is_rgb(info.pix_fmt):
        return encoded_color(info, pix_fmt)
    source = info.color
    full = source.range == _FULL or info.pix_fmt.startswith("yuvj")
    tags = SourceColor(source.primaries, source.trc, source.space, _FULL if full else source.range)
    return EncodedColor(tags, _matrix(source.space) or Colorspace.ITU601, full)


def _matrix(space: int) -> Colorspace | None:
    match space:
        case 1:
            return Colorspace.ITU709
        case 2 | 5 | 6:
            return Colorspace.ITU601
        case 4:
            return Colorspace.FCC
        case 7:
            return Colorspace.SMPTE240M
        case 9:
            return Colorspace.BT2020
        case _:
            return None


def is_rgb(pix_fmt: str) -> bool:
    """True for FFmpeg pixel formats that hold RGB (also by palette) rather than YUV or grey."""
    try:
        layout = av.VideoFormat(pix_fmt)
    except ValueError:
        return True  # Pillow's mode names of images
    return layout.is_rgb or layout.has_palette


class YuvWriter:
    """Turns uint8 RGB frames into frames of an encoder's pixel format, with the colour that `encoded_color` chose."""

    def __init__(self, color: EncodedColor, pix_fmt: str) -> None:
        """`pix_fmt`: FFmpeg's name of the encoder's pixel format."""
        self._color = color
        self._pix_fmt = pix_fmt
        self._reformatter = VideoReformatter()

    def frame(self, rgb: np.ndarray) -> VideoFrame:
        """Convert `rgb`, uint8 [h, w, 3] upright, to a frame of the same size, tagged."""
        packed = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        if self._pix_fmt == "rgb24":
            converted = packed
        elif is_rgb(self._pix_fmt):
            converted = self._reformatter.reformat(packed, format=self._pix_fmt, threads=1)
        else:
            converted = self._reformatter.reformat(
                packed,
                format=self._pix_fmt,
                dst_colorspace=self._color.matrix,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.JPEG if self._color.full_range else ColorRange.MPEG,
                interpolation=_TO_YUV,
                threads=1,
            )
        tags = self._color.tags
        converted.color_primaries, converted.color_trc = tags.primaries, tags.trc
        converted.colorspace, converted.color_range = tags.space, tags.range
        return converted


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame with its decoded original, so that all that an edit does not touch can stay as it was."""

    edited: np.ndarray
    """uint8 [h, w, 3] RGB, upright."""
    source: np.ndarray
    """uint8 [h, w, 3] before the edit: `RgbReader("exact")` of `native`, turned upright."""
    native: VideoFrame
    """Frame as the decoder returned it: stored orientation, its own pixel format and depth, alpha, field flags, captions."""


@dataclass(frozen=True)
class Deinterlacing:
    """Settings by which frames of two fields become frames of one moment."""

    top_first: bool
    """True if the lines 0, 2, 4, ... are the earlier field."""
    every_frame: bool
    """True if the frames are not marked as two fields though they are. False: frames that are marked progressive stay."""


def without_second_field(plane: np.ndarray, top_first: bool) -> np.ndarray:
    """Redraw the later field's lines of a plane [h, w] between the earlier one's, along edges => [h, w].

    Edge-based line average (Doyle, "Interlaced to sequential conversion for EDTV applications", 1990): of the three directions
    through a sample, the mean of the pair that differs least; the vertical one where they are alike.
    """
    made = plane.copy()
    first = 1 if top_first else 0
    rows = np.arange(first, plane.shape[0], 2)
    above = plane[np.where(rows > 0, rows - 1, rows + 1).clip(0, plane.shape[0] - 1)].astype(np.int32)
    below = plane[np.where(rows + 1 < plane.shape[0], rows + 1, rows - 1).clip(0, plane.shape[0] - 1)].astype(np.int32)
    best = np.abs(above - below)
    mean = (above + below + 1) // 2
    for step in (1, -1):
        up, down = _shifted(above, step), _shifted(below, -step)
        apart = np.abs(up - down)
        better = apart < best
        best, mean = np.where(better, apart, best), np.where(better, (up + down + 1) // 2, mean)
    made[rows] = mean.astype(plane.dtype)
    return made


def _shifted(rows: np.ndarray, step: int) -> np.ndarray:
    """Move rows sideways by one sample; the outermost samples stay."""
    moved = np.roll(rows, step, axis=1)
    edge = 0 if step > 0 else -1
    moved[:, edge] = rows[:, edge]
    return moved


class NativeWriter:
    """Turns pictures into frames of an encoder's pixel format, in stored orientation, changing only what the edit changed.

    The decoded frame is converted to the encoder's format (which is its own, as a rule: then nothing is converted), and the
    edit's change is added there: out = native + yuv(edited) - yuv(source). Where the edit changed nothing the difference
    of two equal conversions is zero, so every bit of depth, chroma and alpha stays; within the face, too, the source's
    depth beyond 8 bits stays under the edit.
    """

    def __init__(
        self,
        color: EncodedColor,
        pix_fmt: str,
        orientation: Orientation,
        field_order: int = 0,
        deinterlacing: Deinterlacing | None = None,
    ) -> None:
        """`pix_fmt`: the encoder's, one that `is_addable`. `field_order`: FFmpeg's AVFieldOrder, 2 to 5 if interlaced."""
        self._deinterlacing = deinterlacing
        self._writer = YuvWriter(color, pix_fmt)
        self._pix_fmt = pix_fmt
        self._color = color
        self._orientation = orientation
        self._field_order = field_order
        self._reformatter = VideoReformatter()
        self._fields: Graph | None = None
        self._full_scale = (1 << max(c.bits for c in av.VideoFormat(pix_fmt).components)) - 1

    def frame(self, picture: Picture) -> VideoFrame:
        """Return a frame ready to be encoded, tagged; it may be `picture.native`, changed in place."""
        native = picture.native
        if is_rgb(self._pix_fmt) and not is_rgb(native.format.name):
            return self._writer.frame(self._orientation.stored(picture.edited))  # RGB itself, as it was edited
        woven = self._deinterlacing is not None and (native.interlaced_frame or self._deinterlacing.every_frame)
        narrower = native.color_range == _FULL and not self._color.full_range
        frame = native if native.format.name == self._pix_fmt and not narrower else self._converted(native)
        if picture.edited is not picture.source and not np.array_equal(picture.edited, picture.source):
            after = self._writer.frame(self._orientation.stored(picture.edited))
            before = self._writer.frame(self._orientation.stored(picture.source))
            frame.make_writable()
            for target, new, old in zip(frame.planes, after.planes, before.planes, strict=True):
                self._add(target, new, old)
        if woven:
            frame = self._deinterlaced(frame)
        frame.pict_type = 0  # the decoder's, which an encoder would take for a command
        tags = self._color.tags
        frame.color_primaries, frame.color_trc = tags.primaries, tags.trc
        frame.colorspace, frame.color_range = tags.space, tags.range
        return frame

    def _deinterlaced(self, frame: VideoFrame) -> VideoFrame:
        """Return a new frame, because the mark of two fields cannot be removed from a frame."""
        assert self._deinterlacing is not None
        made = VideoFrame(frame.width, frame.height, frame.format.name)
        made.pts, made.time_base = frame.pts, frame.time_base
        kind = np.uint16 if self._full_scale > 255 else np.uint8
        for target, plane in zip(made.planes, frame.planes, strict=True):
            rows = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
            out = np.frombuffer(memoryview(target), kind).reshape(target.height, -1)
            width = min(rows.shape[1], out.shape[1])
            out[:, :width] = without_second_field(rows[:, :width], self._deinterlacing.top_first)
        return made

    def _add(self, target: VideoPlane, new: VideoPlane, old: VideoPlane) -> None:
        kind = np.uint16 if self._full_scale > 255 else np.uint8
        planes: list[np.ndarray] = [np.frombuffer(memoryview(p), kind).reshape(p.height, -1) for p in (target, new, old)]
        width = min(plane.shape[1] for plane in planes)
        result, after, before = (plane[:, :width] for plane in planes)
        rows = np.flatnonzero((after != before).any(axis=1))
        if rows.size == 0:
            return
        where = slice(int(rows[0]), int(rows[-1]) + 1)
        change = after[where].astype(np.int32) - before[where]
        result[where] = np.clip(result[where] + change, 0, self._full_scale).astype(kind)

    def _converted(self, native: VideoFrame) -> VideoFrame:
        if is_rgb(self._pix_fmt) and is_rgb(native.format.name):
            frame = self._reformatter.reformat(native, format=self._pix_fmt, interpolation=_TO_YUV, threads=1)
        else:
            was_full = is_rgb(native.format.name) or native.format.name.startswith("yuvj") or native.color_range == _FULL
            frame = self._reformatter.reformat(
                native,
                format=self._pix_fmt,
                # RGB has no matrix of its own, and YUV keeps its one.
                src_colorspace=Colorspace.DEFAULT if is_rgb(native.format.name) else self._color.matrix,
                dst_colorspace=self._color.matrix,
                src_color_range=ColorRange.JPEG if was_full else ColorRange.MPEG,
                dst_color_range=ColorRange.JPEG if self._color.full_range else ColorRange.MPEG,
                interpolation=_TO_YUV,
                threads=1,
            )
        frame.pts, frame.time_base = native.pts, native.time_base
        return self._with_fields(frame) if self._field_order > 1 else frame

    def _with_fields(self, frame: VideoFrame) -> VideoFrame:
        """Mark the first field of a converted frame again: a conversion drops the mark, and an encoder reads it."""
        if self._fields is None:
            graph = Graph()
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base, name="in"
            )
            mode = "tff" if self._field_order in (2, 5) else "bff"
            setfield, sink = graph.add("setfield", f"mode={mode}"), graph.add("buffersink")
            source.link_to(setfield)
            setfield.link_to(sink)
            graph.configure()
            self._fields = graph
        self._fields.push(frame)
        marked = self._fields.pull()
        assert isinstance(marked, VideoFrame)
        return marked


def is_addable(pix_fmt: str) -> bool:
    """Return whether every number of a pixel format has bytes of its own, so that pictures can be added as arrays."""
    layout = av.VideoFormat(pix_fmt)
    bits = {component.bits for component in layout.components}
    whole = bits == {8} or (min(bits) > 8 and pix_fmt.endswith("le") and not pix_fmt.startswith(("p0", "p2", "p4", "nv", "x")))
    return whole and not layout.has_palette and not pix_fmt.endswith(("f16le", "f32le"))
