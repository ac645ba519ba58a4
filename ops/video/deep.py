"""Reads and writes pictures with more than 8 bits a sample: Pillow reads only grey ones, and writes no colour of them.

FFmpeg reads them, and OpenCV those that FFmpeg does not; Pillow reads planar TIFF of 16 bits wrongly. Written files get their
metadata from Pillow: a PNG's chunks are those of the same picture in 8 bits, a TIFF's tags are a directory of Pillow's.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

import av
import cv2
import numpy as np
import pillow_heif
from av.video.reformatter import ColorRange
from PIL import Image

from ops.video.image_tags import Travels, tiff_directory

_FULL: Final = 65535
_UNLIKE: Final = 4.0  # mean levels of 8 bits by which two readers may differ before neither is believed
_PLANAR, _ASSOCIATED = 2, 1  # values of TIFF's PlanarConfiguration and ExtraSamples
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


def stored_bits(image: Image.Image, read: Callable[[], bytes]) -> int:
    """Return the bits per sample of a picture that Pillow has opened, as its format says; 8 if it does not.

    `read`: returns the file's bytes.
    """
    match image.format:
        case "TIFF":
            bits = getattr(image, "tag_v2", {}).get(258, 8)
            return int(max(bits) if isinstance(bits, tuple) else bits)
        case "HEIF":
            return int(image.info.get("bit_depth", 8))
        case "PNG":
            tiles = getattr(image, "tile", ())
            return 16 if tiles and "16" in str(tiles[0].args) else 8
        case "AVIF":
            return _bits_of_av1(read()[: 1 << 16])
        case _:
            return 8


def _bits_of_av1(head: bytes) -> int:
    """Read an AVIF's AV1CodecConfigurationBox (AV1 in ISOBMFF, 2.3.3): two flags behind profile, level and tier."""
    at = head.find(b"av1C")
    if at < 0 or at + 6 >= len(head) or not head[at + 6] & 0x40:
        return 8
    return 12 if head[at + 6] & 0x20 else 10


def read_deep(data: bytes, form: str | None, by_pillow: np.ndarray, tags: dict[int, Any]) -> np.ndarray | None:
    """Read the numbers of colour as stored: uint16 [h, w, 3 or 4] RGB(A), 65535 is white, not turned, alpha not multiplied in.

    `data`: the file's bytes. `form`: Pillow's name of the format. `by_pillow`: uint8 [h, w, 3], the picture as Pillow reads it,
    to compare with. `tags`: a TIFF's. Returns None if there are no more than 8 bits, or no reader agrees.
    """
    readers = [_by_heif] if form == "HEIF" else [_by_ffmpeg, _by_opencv]
    found = [one for one in (read(data) for read in readers) if one is not None and one.shape[:2] == by_pillow.shape[:2]]
    if tags.get(284) == _PLANAR:  # only FFmpeg reads it as it is
        found = found[:1]
    for one in found:
        others = [by_pillow, *(other[..., :3] / 257.0 for other in found if other is not one)]
        whole = tags.get(284) == _PLANAR or any(_mean_difference(one, other) < _UNLIKE for other in others)
        if whole:
            return _unmultiplied(one) if _ASSOCIATED in np.atleast_1d(tags.get(338, 0)) else one
    return None


def _mean_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean levels of 8 bits by which uint16 [h, w, 3 or 4] differs from [h, w, 3] in 0..255 in visible pixels."""
    apart = np.abs(one[..., :3] / 257.0 - other)
    if one.shape[2] == 4:
        apart = apart[one[..., 3] == _FULL]
    return float(apart.mean()) if apart.size else 0.0


def _unmultiplied(rgba: np.ndarray) -> np.ndarray:
    """Divide the colours of uint16 [h, w, 4] by alpha, which they were multiplied by."""
    if rgba.shape[2] < 4:
        return rgba
    alpha = np.maximum(rgba[..., 3:].astype(np.float64), 1)
    return np.concatenate([(rgba[..., :3] * (_FULL / alpha)).clip(0, _FULL).astype(np.uint16), rgba[..., 3:]], axis=2)


def _by_ffmpeg(data: bytes) -> np.ndarray | None:
    try:
        with av.open(io.BytesIO(data), "r") as container:
            frame = next(container.decode(video=0))
        if max(component.bits for component in frame.format.components) <= 8:
            return None
        alpha = any(component.is_alpha for component in frame.format.components)
        full = frame.reformat(format="rgba64le" if alpha else "rgb48le", src_color_range=ColorRange.JPEG, threads=1)
        return full.to_ndarray()
    except (av.FFmpegError, StopIteration, ValueError, IndexError):
        return None


def _by_opencv(data: bytes) -> np.ndarray | None:
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if found is None or found.dtype != np.uint16:
        return None
    if found.ndim == 2:
        return np.repeat(found[..., None], 3, axis=2)
    return np.ascontiguousarray(found[..., [2, 1, 0, 3][: found.shape[2]]])


def _by_heif(data: bytes) -> np.ndarray | None:
    image = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
    return np.array(image) if image.mode in ("RGB;16", "RGBA;16") else None


def write_deep(
    out: io.BufferedIOBase, form: str, pixels: np.ndarray, carried: Travels, options: dict[str, Any], bits: int
) -> None:
    """Write colour of 16 bits, uint16 [h, w, 3 or 4] RGB(A), in one of Pillow's formats with its metadata.

    `options`: arguments for Pillow's `save`. `bits`: bits of HEIF's samples, 10 or 12; other formats have 16.
    """
    match form:
        case "PNG":
            small = io.BytesIO()
            Image.fromarray((pixels >> 8).astype(np.uint8)).save(small, format="PNG", **options)
            out.write(_with_pixels_of(small.getvalue(), _encoded(".png", pixels)))
        case "TIFF":
            _write_tiff(out, pixels, carried)
        case "HEIF":
            height, width, channels = pixels.shape
            mode = "RGB;16" if channels == 3 else "RGBA;16"
            image = pillow_heif.from_bytes(mode=mode, size=(width, height), data=np.ascontiguousarray(pixels).tobytes())
            if carried.profile is not None:
                image.info["icc_profile"] = carried.profile
            image.save(out, bit_depth=bits, **{key: value for key, value in options.items() if key != "icc_profile"})
        case _:
            out.write(_encoded(".ppm", pixels))


def _encoded(suffix: str, pixels: np.ndarray) -> bytes:
    order = [2, 1, 0, 3][: pixels.shape[2]]
    done, data = cv2.imencode(suffix, np.ascontiguousarray(pixels[..., order]))
    if not done:
        raise ValueError(f"OpenCV cannot write 16 bits as {suffix}")
    return data.tobytes()


def _chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Return (name, the whole chunk) for the chunks of a PNG, in order."""
    found, at = [], len(_SIGNATURE)
    while at + 12 <= len(png):
        (size,) = struct.unpack_from(">I", png, at)
        found.append((png[at + 4 : at + 8], png[at : at + 12 + size]))
        at += 12 + size
    return found


_COLOUR: Final = (b"cICP", b"sRGB", b"gAMA", b"cHRM")
_SRGB_GAMMA: Final = 45455
_SRGB_POINTS: Final = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def colour_chunks(png: bytes) -> tuple[tuple[str, bytes], ...]:
    """Read the chunks of a PNG that define the colours of its numbers (PNG, third edition, 11.3.2), without its profile."""
    found: list[tuple[str, bytes]] = []
    for name, chunk in _chunks(png):
        if name == b"IDAT":
            break
        if name in _COLOUR and name.decode() not in dict(found):
            found.append((name.decode(), chunk[8:-4]))
    return tuple(found)


def without_texts(png: bytes) -> bytes:
    """Return the same PNG without its texts."""
    return _SIGNATURE + b"".join(chunk for name, chunk in _chunks(png) if name not in (b"tEXt", b"zTXt", b"iTXt"))


def says_srgb(chunks: tuple[tuple[str, bytes], ...]) -> bool:
    """Return whether such chunks say sRGB, the default of readers: the first chunk in order of precedence decides."""
    said = dict(chunks)
    if "cICP" in said:
        return said["cICP"] == bytes((1, 13, 0, 1))
    if "sRGB" in said:
        return True
    gamma = struct.unpack(">I", said["gAMA"])[0] if len(said.get("gAMA", b"")) == 4 else _SRGB_GAMMA
    points = struct.unpack(">8I", said["cHRM"]) if len(said.get("cHRM", b"")) == 32 else _SRGB_POINTS
    return abs(gamma - _SRGB_GAMMA) < 500 and all(abs(a - b) < 500 for a, b in zip(points, _SRGB_POINTS, strict=True))


def _with_pixels_of(told: bytes, pixels: bytes) -> bytes:
    """Return the PNG `told` with the header and the pixels of another one of the same size."""
    own = _chunks(pixels)
    made, done = [_SIGNATURE, *(data for name, data in own if name == b"IHDR")], False
    for name, data in _chunks(told):
        if name == b"IDAT" and not done:
            made += [data for name, data in own if name == b"IDAT"]
            done = True
        elif name not in (b"IHDR", b"IDAT"):
            made.append(data)
    return b"".join(made)


def _write_tiff(out: io.BufferedIOBase, pixels: np.ndarray, carried: Travels) -> None:
    """Write a TIFF of one strip, deflate with horizontal differencing (TIFF 6.0, section 14)."""
    height, width, channels = pixels.shape
    change = pixels.astype("<u2")
    change[:, 1:] -= pixels[:, :-1]
    data = zlib.compress(change.tobytes(), 6)
    tags = tiff_directory(carried)
    tags[256], tags[257], tags[258], tags[259], tags[262] = width, height, (16,) * channels, 8, 2
    tags[273], tags[277], tags[278], tags[279], tags[284], tags[317] = 0, channels, height, len(data), 1, 2
    if channels == 4:
        tags[338] = 2  # alpha that is not multiplied in
    if carried.dpi is not None:
        tags[282], tags[283], tags[296] = *carried.dpi, 2
    if carried.profile is not None:
        tags.tagtype[34675] = 7
        tags[34675] = carried.profile
    head = io.BytesIO()
    tags.save(head)
    out.write(head.getvalue() + data)
