"""Decides which metadata of a photograph its edited copy gets: `travels` decides, for every format alike.

descriptive    dates, camera, lens, GPS, copyright, comments, XMP, IPTC, density    always
structural     how the source's numbers were laid out in its file                   never: the copy's are other ones
orientation    once: the pixels of the copy are upright                             reset, in EXIF and in XMP
thumbnail      the face before the edit                                             never
profile        if it is for the kind of numbers that the copy has                   else the pixels were converted by it
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import ExifTags, Image, ImageCms, TiffImagePlugin

ORIENTATION = int(ExifTags.Base.Orientation)
_EXIF, _GPS, _INTEROP = int(ExifTags.IFD.Exif), int(ExifTags.IFD.GPSInfo), int(ExifTags.IFD.Interop)
_WIDTH, _HEIGHT, _COLOR_SPACE = 0xA002, 0xA003, 0xA001
_XMP, _IPTC, _PHOTOSHOP, _ICC = 0x02BC, 0x83BB, 0x8649, 0x8773

# TIFF 6.0 and its supplements: strips, tiles, samples, palettes, tables of a codec, other pictures in the file.
_STRUCTURAL = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291, 292, 293}
    | {297, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 326, 327, 328, 330, 332, 334, 336, 338, 339, 340, 341, 342, 347}
    | {513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 32996, 33421, 33422, 34675, 37439, 37724}
    # Offsets of other directories in the source file, and of DNG, whose numbers describe the raw sensor.
    | {_EXIF, _GPS, _INTEROP, _ICC}
    | set(range(50706, 50779))
)
PROCESSED_BY = int(ExifTags.Base.ProcessingSoftware)
MARK = "styleres-video"
"""The name that edited pictures give as the software that processed them."""
_SPACES = {"RGB": "RGB", "GRAY": "grey", "CMYK": "CMYK", "Lab": "LAB"}


@dataclass(frozen=True)
class Travels:
    """The metadata of an edited picture, ready for Pillow, and the metadata that is left out."""

    exif: Image.Exif | None = None
    xmp: bytes | None = None
    text: tuple[tuple[str, str], ...] = ()
    """Texts of PNG chunks and the comment of a JPEG."""
    profile: bytes | None = None
    dpi: tuple[float, float] | None = None
    colour: tuple[tuple[str, bytes], ...] = ()
    """Chunks of a PNG that define the colours of its numbers."""
    kept: tuple[str, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()
    """Names of metadata that is left out, each with the reason."""


def travels(
    image: Image.Image, made_mode: str, size: tuple[int, int], *, converted: bool, colour: tuple[tuple[str, bytes], ...] = ()
) -> Travels:
    """Return the metadata of an edited copy of a loaded image.

    `made_mode`: the copy's mode, a `Kind` of `ops.video.image`. `size`: its width and height. `converted`: True if its numbers
    are sRGB now, because those of the source were of another kind. `colour`: a PNG's chunks that define its colours.
    """
    kept: list[str] = []
    dropped: list[tuple[str, str]] = []
    exif = _exif(image, size, converted, kept, dropped)
    xmp = _xmp(image)
    if xmp is not None:
        kept.append("XMP")
    text = tuple(
        (str(k), str(v)) for k, v in getattr(image, "text", {}).items() if isinstance(v, str) and "xmp" not in str(k).lower()
    )
    if isinstance(comment := image.info.get("comment"), bytes):
        text += (("Comment", comment.decode("utf-8", "replace")),)
    if text:
        kept.append(f"{len(text)} texts")
    profile = _profile(image, made_mode, converted, kept, dropped)
    if image.format == "MPO" and (count := int(getattr(image, "n_frames", 1)) - 1) > 0:
        dropped.append((f"{count} further pictures", "previews, depth or gain maps of the picture before the edit"))
    dpi = _density(image.info)
    return Travels(exif, xmp, text, profile, dpi, colour, tuple(kept), tuple(dropped))


def marked(carried: Travels) -> Travels:
    """Return the same with this program's mark, by which a later run knows its own results from photographs."""
    exif = Image.Exif() if carried.exif is None else carried.exif
    exif[PROCESSED_BY] = MARK
    return replace(carried, exif=exif)


def is_marked(image: Image.Image) -> bool:
    """Return whether a picture has this program's mark."""
    return str(image.getexif().get(PROCESSED_BY, "")).strip("\0 ") == MARK


def profile_space(profile: bytes | None) -> str | None:
    """Return the colour space of a profile: RGB, grey, CMYK, LAB, or another; None without one, or for a damaged one."""
    if not profile:
        return None
    try:
        space = ImageCms.getOpenProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
    except (ImageCms.PyCMSError, OSError):
        return None
    return _SPACES.get(space, space)


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _profile(
    image: Image.Image, made_mode: str, converted: bool, kept: list[str], dropped: list[tuple[str, str]]
) -> bytes | None:
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    space = profile_space(profile)
    if converted:
        dropped.append((f"{space or 'damaged'} profile", "the pixels were converted to sRGB, whose profile is there instead"))
        return srgb_profile()
    if space is None or space == ("grey" if made_mode in ("L", "LA", "I;16", "I", "F") else "RGB"):
        # A profile that cannot be read here is kept: the copy has the same numbers as the source.
        kept.append(f"{space or 'unreadable'} profile")
        return profile
    dropped.append((f"{space} profile", f"it does not fit {made_mode} pixels"))
    return None


def _density(info: Mapping[Any, Any]) -> tuple[float, float] | None:
    try:
        x, y = (float(one) for one in info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 1 < x < 1e6 and 1 < y < 1e6 else None  # 1 is how Pillow says "no unit"


def _xmp(image: Image.Image) -> bytes | None:
    found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if not found:
        return None
    data = found.encode() if isinstance(found, str) else bytes(found)
    data = re.sub(rb'(tiff:Orientation\s*=\s*["\'])\d', rb"\g<1>1", data)
    # Of a moving photograph and of a gain map, which stand behind the picture in the source's file and not in the copy.
    data = re.sub(rb'((?:GCamera|Camera):(?:MotionPhoto|MicroVideo)\s*=\s*["\'])1', rb"\g<1>0", data)
    data = re.sub(rb'\shdrgm:Version\s*=\s*(?:"[^"]*"|\'[^\']*\')', b"", data)
    return re.sub(rb"(<tiff:Orientation>)\s*\d\s*(</tiff:Orientation>)", rb"\g<1>1\g<2>", data)


def _exif(
    image: Image.Image, size: tuple[int, int], converted: bool, kept: list[str], dropped: list[tuple[str, str]]
) -> Image.Exif:
    source = image.getexif()
    made = Image.Exif()
    count = 0
    for tag, value in source.items():
        if tag in _STRUCTURAL or tag in (ORIENTATION, _XMP):
            continue
        if _writable(tag, value):
            made[tag] = value
            count += 1
        else:
            dropped.append((f"EXIF tag {_name(tag)}", f"its value {str(value)[:40]!r} is not of the tag's type"))
    for directory in (_EXIF, _GPS):
        try:
            found = dict(source.get_ifd(directory))
        except Exception as error:  # a damaged directory makes Pillow raise many kinds
            dropped.append((f"EXIF directory {directory:#x}", f"it cannot be read ({type(error).__name__})"))
            continue
        good = {}
        for tag, value in found.items():
            if tag == _INTEROP:
                continue
            if _writable(tag, value):
                good[tag] = value
            else:
                dropped.append((f"EXIF tag {_name(tag)}", f"its value {str(value)[:40]!r} is not of the tag's type"))
        if directory == _EXIF:
            good |= {tag: n for tag, n in zip((_WIDTH, _HEIGHT), size, strict=True) if tag in good}
            if converted and _COLOR_SPACE in good:
                good[_COLOR_SPACE] = 1
        if good:
            made.get_ifd(directory).update(good)
            count += len(good)
    if ORIENTATION in source:
        made[ORIENTATION] = 1
    if count:
        kept.append(f"{count} EXIF tags")
    return made


def _writable(tag: int, value: Any) -> bool:
    """Return whether Pillow can write the tag: some files have texts in EXIF where numbers belong."""
    if tag in (_IPTC, _PHOTOSHOP) and not isinstance(value, bytes):
        return False  # blocks of bytes that some programs label as numbers, of which Pillow reads the first
    alone = Image.Exif()
    alone[tag] = value
    try:
        alone.tobytes()
    except Exception:  # struct.error, TypeError, ValueError, KeyError, ZeroDivisionError: each writer has its own
        return False
    return True


def _name(tag: int) -> str:
    return ExifTags.TAGS.get(tag) or ExifTags.GPSTAGS.get(tag) or f"{tag:#06x}"


def tiff_directory(carried: Travels) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Return the descriptive tags as a TIFF's own directory."""
    made = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in (carried.exif or {}).items():
        if tag not in (_EXIF, _GPS):
            made[tag] = value
    if carried.exif is not None:
        for directory in (_EXIF, _GPS):
            if found := dict(carried.exif.get_ifd(directory)):
                made[directory] = found  # type: ignore[assignment] # Pillow writes a mapping as a directory of its own
    if carried.xmp is not None:
        made.tagtype[_XMP] = 1  # bytes
        made[_XMP] = carried.xmp
    return made


def has_directories(carried: Travels) -> bool:
    """Return whether there are EXIF or GPS directories, which libtiff cannot write from Pillow, and Pillow's own writer can."""
    return carried.exif is not None and any(carried.exif.get_ifd(tag) for tag in (_EXIF, _GPS))
