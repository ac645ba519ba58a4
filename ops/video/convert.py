"""Between YUV, as videos store it, and RGB frames, with the matrix and range that the source states.

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
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

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
        """uint8 [h, w, 3], C-contiguous, not turned upright."""
        match self._conversion:
            case "fast":
                packed = self._reformatter.reformat(frame, format="rgb24", interpolation=_FAST, threads=1)
                # An array is a view of its frame, and a frame that was RGB already may be one the decoder refers to.
                return packed.to_ndarray().copy() if packed is frame else packed.to_ndarray()
            case "exact":
                planar = self._reformatter.reformat(frame, format="gbrp", interpolation=_EXACT, threads=1)
                green, blue, red = (_plane(planar, i) for i in range(3))
                # Planes and one merge: swscale's packed RGB output takes four times as long.
                return cv2.merge([red, green, blue])


def _plane(frame: VideoFrame, i: int) -> np.ndarray:
    plane = frame.planes[i]
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]


@dataclass(frozen=True)
class EncodedColor:
    """How encoded pictures are tagged and converted: FFmpeg's numbers for tags, and the matrix swscale is asked for."""

    tags: SourceColor
    matrix: Colorspace
    full_range: bool


def encoded_color(info: SourceInfo, pix_fmt: str) -> EncodedColor:
    """The colour tags that an encoded copy of the source carries in `pix_fmt`, and the conversion that they describe.

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
        """`rgb`: uint8 [h, w, 3] upright => a frame of the same size, tagged."""
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
