"""Still images as one-frame sources, and their edited copies.

A copy is of the source's kind (grey stays grey, 16-bit grey stays 16-bit, transparency stays) as far as its format can hold
it; numbers that no editor of RGB can touch (CMYK, LAB, floats) are converted once, by their profile, and say so.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pillow_heif
from PIL import Image, ImageCms, ImageSequence, PngImagePlugin, UnidentifiedImageError

from ops.files.atomic import replaced_file
from ops.video.errors import MediaError
from ops.video.image_tags import (
    ORIENTATION,
    Travels,
    has_directories,
    is_marked,
    marked,
    profile_space,
    srgb_profile,
    tiff_directory,
    travels,
)
from ops.video.orientation import EXIF_ORIENTATIONS, UPRIGHT, Orientation

pillow_heif.register_heif_opener()

FORMAT_OF_SUFFIX = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".hif": "HEIF",
    ".avif": "AVIF",
    ".jp2": "JPEG2000",
    ".j2k": "JPEG2000",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pnm": "PPM",
    ".tga": "TGA",
}
IMAGE_SUFFIXES = frozenset(FORMAT_OF_SUFFIX)

_HOLDS: dict[str, frozenset[str]] = {
    "PNG": frozenset({"L", "LA", "I;16", "RGB", "RGBA"}),
    "TIFF": frozenset({"L", "LA", "I;16", "RGB", "RGBA"}),
    "JPEG": frozenset({"L", "RGB"}),
    "WEBP": frozenset({"RGB", "RGBA"}),
    "BMP": frozenset({"L", "RGB"}),
    "HEIF": frozenset({"RGB", "RGBA"}),
    "AVIF": frozenset({"RGB", "RGBA"}),
    "JPEG2000": frozenset({"L", "LA", "RGB", "RGBA"}),
    "PPM": frozenset({"L", "RGB"}),
    "TGA": frozenset({"L", "RGB", "RGBA"}),
}
"""Kinds of pictures that a format can be written with."""
_TAGGED = frozenset({"PNG", "TIFF", "JPEG", "WEBP", "HEIF", "AVIF"})
"""Formats with room for a profile, EXIF and XMP."""
_STILL_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif"})
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})

Kind = Literal["L", "LA", "I;16", "RGB", "RGBA"]


@dataclass(frozen=True)
class PictureFacts:
    """What a still image has besides its pixels. Plain values only."""

    mode: str
    """Pillow's, as stored."""
    kind: Kind
    """What an edited copy should be: the nearest to the source that an edit can be written into."""
    transparent: bool = False
    """True if some of it is."""
    turned: bool = False
    """True if the stored pixels are not upright."""
    own: bool = False
    """True for a result of this program."""
    notes: tuple[tuple[str, str], ...] = ()
    """What reading alone already changes, and to what."""
    kept: tuple[str, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()
    """Metadata that a format with room for it keeps, and what it cannot keep in any, with the reason."""


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image file's pixels and how they were stored."""

    frame: np.ndarray
    """uint8 [h, w, 3] RGB, upright, C-contiguous; CMYK and LAB by their profile, 16-bit grey and floats scaled to 8 bit."""
    orientation: Orientation
    mode: str
    """Pillow's, as stored."""
    format: str
    kind: Kind = "RGB"
    """What an edited copy should be: the nearest to the source that an edit can be written into."""
    alpha: np.ndarray | None = None
    """uint8 [h, w], upright; None where everything is opaque by nature."""
    hidden: np.ndarray | None = None
    """uint8 [h, w, 3]: the colours as stored, those of wholly transparent pixels too, which nobody sees and `frame` does not
    have: a network would see them, and paint what it makes of them into the face."""
    grey16: np.ndarray | None = None
    """uint16 [h, w], upright: the stored numbers of 16-bit grey."""
    carried: Travels = field(default_factory=Travels)
    """Its metadata, for a copy of `kind`."""
    notes: tuple[tuple[str, str], ...] = ()
    """What reading alone already changes, and to what."""
    own: bool = False
    """True for a result of this program."""

    @property
    def facts(self) -> PictureFacts:
        transparent = self.alpha is not None and bool((self.alpha < 255).any())
        turned = self.orientation != UPRIGHT
        return PictureFacts(
            self.mode, self.kind, transparent, turned, self.own, self.notes, self.carried.kept, self.carried.dropped
        )


def load_image(path: str | Path, data: bytes | None = None) -> LoadedImage:
    """Read a still image of one of `IMAGE_SUFFIXES`' formats.

    `data`: the file's bytes, where they are at hand; `path` is then only its name.
    Raises `MediaError` if it is damaged, no image, or has several pages; whatever else a decoder raises becomes one too.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata: what cannot be carried is said by the plan
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path if data is None else io.BytesIO(data)) as image:
                if _pages(image) > 1:
                    raise MediaError(
                        path,
                        f"it holds {_pages(image)} pictures, and a still image has one",
                        "split it, or convert it to a video",
                    )
                return _loaded(image)
    except MediaError:
        raise
    except FileNotFoundError:
        raise MediaError(path, "there is no such file", "check the path") from None
    except UnidentifiedImageError as error:
        raise MediaError(path, "it is not an image that Pillow knows", "check the file's content and name") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes Pillow's plugins raise nearly anything
        said = str(error) or type(error).__name__
        raise MediaError(path, f"the image cannot be decoded: {said}", "check that the file opens in a viewer") from error


def is_still(path: str | Path) -> bool:
    """Whether a file is a photograph by its first bytes, whatever it is called; animations and moving JPEG are none."""
    with open(path, "rb") as file:
        head = file.read(4096)
    if head[4:8] == b"ftyp":
        return head[8:12] in _STILL_BRANDS
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP" and b"ANIM" not in head[:64]
    if head.startswith(b"\x89PNG"):
        return b"acTL" not in head
    if head.startswith(b"\xff\xd8\xff"):
        return not str(path).lower().endswith((".mjpg", ".mjpeg"))
    return head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))


def is_own(path: Path) -> bool:
    """Whether a file is a picture that says that this program made it."""
    try:
        with Image.open(path) as image:
            return is_marked(image)
    except (OSError, SyntaxError, ValueError):
        return False


def _pages(image: Image.Image) -> int:
    if image.format in ("MPO", "HEIF"):
        return 1  # a photograph whose further pictures are previews, depth and the like; Pillow is at the main one
    count = 0
    for page in ImageSequence.Iterator(image):
        reduced = getattr(page, "tag_v2", {}).get(254, 0) & 1  # NewSubfileType: a smaller copy of another page
        count += 0 if reduced and count else 1
    image.seek(0)
    return count


def _loaded(image: Image.Image) -> LoadedImage:
    deep = _deep_bits(image)
    image.load()  # first: TIFF turns its pixels here, and takes the tag away
    mode, kind_name = image.mode, (image.format or "unknown").lower()
    orientation = EXIF_ORIENTATIONS.get(image.getexif().get(ORIENTATION, 1), UPRIGHT)
    notes: list[tuple[str, str]] = []
    grey16: np.ndarray | None = None
    converted = False
    alpha = _alpha(image)
    if mode in _SIXTEEN_BIT:
        grey16 = orientation.upright(np.asarray(image).astype(np.uint16)[:, :, None])[..., 0]
        kind: Kind = "I;16"
        frame = _grey_frame((grey16.astype(np.float64) / 257.0).round().astype(np.uint8))
    elif mode in ("L", "LA", "La", "1"):
        kind = "L" if alpha is None else "LA"
        frame = orientation.upright(_grey_frame(np.array(image.convert("LA" if mode in ("LA", "La") else "L"))))
        if mode == "1":
            notes.append(("black and white pixels", "grey, because an edit has tones"))
    elif mode in ("I", "F"):
        kind = "L"
        frame = orientation.upright(_grey_frame(_scaled(np.asarray(image))))
        notes.append((f"{'float' if mode == 'F' else '32-bit'} pixels", "grey of 8 bits"))
    else:
        kind = "RGB" if alpha is None else "RGBA"
        converted = mode in ("CMYK", "LAB", "YCbCr", "HSV")
        frame = orientation.upright(np.array(_as_rgb(image)))
        if converted and mode != "YCbCr":
            by = "by its profile" if profile_space(image.info.get("icc_profile")) in ("CMYK", "LAB") else "without a profile"
            notes.append((f"{mode} pixels", f"sRGB, {by}"))
        elif mode in ("P", "PA"):
            notes.append(("palette", "RGB, because an edit has more colours"))
        # YCbCr is a way to write RGB, and a profile speaks of that RGB.
        converted = converted and mode != "YCbCr" and profile_space(image.info.get("icc_profile")) != "RGB"
    if deep > 8 and grey16 is None:
        notes.append((f"{deep} bits a sample", "8 bits, which is what Pillow reads of colour"))
    if alpha is not None:
        alpha = orientation.upright(alpha[:, :, None])[..., 0]
    hidden = None
    if alpha is not None and (alpha == 0).any() and (alpha > 0).any():
        hidden, frame = frame, frame.copy()
        frame[alpha == 0] = hidden[alpha > 0].mean(axis=0).round().astype(np.uint8)
    size = (frame.shape[1], frame.shape[0])
    carried = travels(image, kind, size, converted=converted)
    return LoadedImage(
        frame, orientation, mode, kind_name, kind, alpha, hidden, grey16, carried, tuple(notes), is_marked(image)
    )


def _deep_bits(image: Image.Image) -> int:
    """Bits per sample as stored, where the format says so."""
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(258, 8)
        return int(max(bits) if isinstance(bits, tuple) else bits)
    if image.format == "HEIF":
        return int(image.info.get("bit_depth", 8))
    if image.format == "PNG":
        tiles = getattr(image, "tile", ())
        raw = tiles[0].args if tiles else ""
        return 16 if "16" in str(raw) else 8
    return 8


def _alpha(image: Image.Image) -> np.ndarray | None:
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or (image.mode == "P" and "transparency" in image.info):
        return np.array(image.convert("RGBA"))[..., 3]
    if image.mode in ("L", "RGB") and "transparency" in image.info:  # one value or colour that means "nothing here"
        return np.array(image.convert("RGBA"))[..., 3]
    return None


def _grey_frame(grey: np.ndarray) -> np.ndarray:
    plane = grey if grey.ndim == 2 else grey[..., 0]
    return np.repeat(plane[:, :, None], 3, axis=2)


def _scaled(values: np.ndarray) -> np.ndarray:
    """Numbers without a stated range => uint8: 0..1, 0..255 and 0..65535 are what is written in practice."""
    finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    most = float(finite.max(initial=0.0))
    full = next((limit for limit in (1.0, 255.0, 65535.0, 2.0**31 - 1, 2.0**32 - 1) if most <= limit), most)
    if values.dtype.kind in "iu" and full == 1.0:
        full = 255.0
    return (finite.clip(0.0) * (255.0 / full)).round().clip(0, 255).astype(np.uint8)


def _as_rgb(image: Image.Image) -> Image.Image:
    """Colour of any mode => RGB; CMYK and LAB by the embedded profile, to sRGB."""
    profile = image.info.get("icc_profile")
    space = profile_space(profile)
    if profile and ((image.mode == "CMYK" and space == "CMYK") or (image.mode == "LAB" and space == "LAB")):
        try:
            target = ImageCms.createProfile("sRGB")
            made = ImageCms.profileToProfile(image, io.BytesIO(profile), target, outputMode="RGB")
            assert made is not None
            return made
        except ImageCms.PyCMSError:
            pass  # a profile that cannot be used: as if there were none
    if image.mode in ("RGBA", "RGBa", "P", "PA", "RGBX"):
        return image.convert("RGBA").convert("RGB") if image.mode != "RGBX" else image.convert("RGB")
    return image.convert("RGB")


def kind_in(kind: Kind, form: str) -> Kind:
    """The kind of picture that a format holds in place of `kind`."""
    held = _HOLDS[form]
    if kind in held:
        return kind
    order: dict[Kind, tuple[Kind, ...]] = {
        "I;16": ("L", "RGB"),
        "LA": ("RGBA", "L", "RGB"),
        "L": ("RGB",),
        "RGBA": ("RGB",),
        "RGB": (),
    }
    return next(one for one in order[kind] if one in held)


def write_image(path: str | Path, frame: np.ndarray, *, like: str | Path | None = None) -> None:
    """Write `encoded_image` atomically. `like` names the source image's file."""
    data = encoded_image(path, frame, like=None if like is None else load_image(like))
    with replaced_file(path) as temporary:
        temporary.write_bytes(data)


def encoded_image(path: str | Path, frame: np.ndarray, *, like: LoadedImage | None = None) -> bytes:
    """Return the file of one upright frame, uint8 [h, w, 3] RGB; the format follows the suffix of `path`, which is only a name.

    JPEG is written at quality 95 without chroma subsampling, WebP and JPEG 2000 lossless, HEIC and AVIF at quality 95, so that
    an edit is not lost to coding. `like` is the source image: its kind, transparency and metadata are kept, as far as the
    format holds them (`image_items` says what); pixels that the frame has unchanged keep their stored numbers.
    Raises `MediaError` for a suffix that is no image's, `ValueError` for an array that is no frame.
    """
    file = Path(path)
    form = FORMAT_OF_SUFFIX.get(file.suffix.lower())
    if form is None:
        raise MediaError(file, f"no image format is called {file.suffix!r}", f"use one of {sorted(IMAGE_SUFFIXES)}")
    check_frame(frame)
    image = Image.fromarray(np.ascontiguousarray(frame), "RGB") if like is None else _composed(frame, like, form)
    carried = marked(Travels() if like is None else _fitting(like, image.mode))
    out = io.BytesIO()
    image.save(out, format=form, **_coding(form, carried, image), **_metadata(form, carried))
    return out.getvalue()


def _composed(frame: np.ndarray, source: LoadedImage, form: str) -> Image.Image:
    if frame.shape != source.frame.shape:
        raise ValueError(f"expected a frame of the source's size {source.frame.shape}, got {frame.shape}")
    kind = kind_in(source.kind, form)
    if kind == "I;16":
        assert source.grey16 is not None
        return Image.fromarray(_sixteen_bits(frame, source))
    shown = np.ascontiguousarray(frame)
    if source.hidden is not None and source.alpha is not None and "A" in kind:
        shown = np.where(source.alpha[:, :, None] == 0, source.hidden, shown)
    colour = Image.fromarray(shown, "RGB")
    if kind in ("L", "LA"):
        colour = colour.convert("L")
    elif source.kind in ("L", "LA", "I;16") and source.carried.profile is not None:
        colour = _grey_as_srgb(colour, source.carried.profile)
    if kind in ("LA", "RGBA"):
        assert source.alpha is not None
        colour.putalpha(Image.fromarray(source.alpha))
    return colour


def _sixteen_bits(frame: np.ndarray, source: LoadedImage) -> np.ndarray:
    """uint16 [h, w]: the stored numbers, with the change of the edit added in their own steps."""
    assert source.grey16 is not None
    after = np.asarray(Image.fromarray(np.ascontiguousarray(frame), "RGB").convert("L")).astype(np.int32)
    change = (after - source.frame[..., 0]) * 257
    return np.clip(source.grey16.astype(np.int32) + change, 0, 65535).astype(np.uint16)


def _grey_as_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Numbers of a grey profile in a format without grey => sRGB."""
    try:
        target = ImageCms.createProfile("sRGB")
        made = ImageCms.profileToProfile(image.convert("L"), io.BytesIO(profile), target, outputMode="RGB")
    except ImageCms.PyCMSError:
        return image
    return image if made is None else made


def _fitting(source: LoadedImage, mode: str) -> Travels:
    """The metadata for the kind that is really written: a grey profile gives way to sRGB where there is no grey."""
    grey_to_rgb = source.kind in ("L", "LA", "I;16") and mode in ("RGB", "RGBA") and source.carried.profile is not None
    if not grey_to_rgb:
        return source.carried
    return Travels(
        source.carried.exif, source.carried.xmp, source.carried.text, srgb_profile(), source.carried.dpi, source.carried.kept
    )


def _coding(form: str, carried: Travels, image: Image.Image) -> dict[str, Any]:
    match form:
        case "JPEG":
            return {"quality": 95, "subsampling": 0}
        case "WEBP":
            return {"lossless": True, "exact": True}  # "exact" keeps the colours below full transparency
        case "TIFF":
            # libtiff cannot write Pillow's EXIF directories; Pillow's own writer can, and does not compress.
            return {} if has_directories(carried) else {"compression": "tiff_deflate"}
        case "HEIF":
            return {"quality": 95}
        case "AVIF":
            return {"quality": 95, "subsampling": "4:4:4", "max_threads": 2}
        case "JPEG2000":
            return {"irreversible": False}
        case _:
            return {}


def _metadata(form: str, carried: Travels) -> dict[str, Any]:
    if form not in _TAGGED:
        return {"dpi": carried.dpi} if form == "BMP" and carried.dpi is not None else {}
    options: dict[str, Any] = {}
    if carried.profile is not None:
        options["icc_profile"] = carried.profile
    if carried.dpi is not None and form in ("PNG", "TIFF", "JPEG"):
        options["dpi"] = carried.dpi
    if form == "TIFF":
        options["tiffinfo"] = tiff_directory(carried)
        return options
    if carried.exif is not None:
        options["exif"] = carried.exif.tobytes()
    if form == "PNG":
        chunks = PngImagePlugin.PngInfo()
        for key, value in carried.text:
            chunks.add_itxt(key, value) if not value.isascii() else chunks.add_text(key, value)
        if carried.xmp is not None:
            chunks.add_itxt("XML:com.adobe.xmp", carried.xmp.decode("utf-8", "replace"))
        options["pnginfo"] = chunks
        return options
    if carried.xmp is not None:
        options["xmp"] = carried.xmp
    comment = dict(carried.text).get("Comment")
    if comment is not None and form == "JPEG":
        options["comment"] = comment.encode()
    return options


def image_items(image: PictureFacts, suffix: str) -> Iterator[tuple[str, str, str, bool]]:
    """(what, fate, how, is a loss) of everything that a picture has, for a copy in the format of `suffix`."""
    form = FORMAT_OF_SUFFIX[suffix.lower()]
    kind = kind_in(image.kind, form)
    changed = {what for what, _ in image.notes}
    for what, how in image.notes:
        yield what, "converted", f"to {how}", False
    if not changed:
        depth_lost = image.kind == "I;16" and kind != "I;16"
        if kind in (image.kind, image.kind.replace("A", "")) and not depth_lost:
            yield f"pixels {image.mode}", "kept", "", False
        else:
            yield f"pixels {image.mode}", "converted", f"to {kind}, which {form} holds", depth_lost
    if "A" in image.kind:
        if "A" in kind:
            yield "transparency", "kept", "", False
        else:
            yield "transparency", "dropped", f"{form} has none", image.transparent
    if image.turned:
        yield "orientation", "converted", "the pixels are upright, and the tag is reset", False
    if image.kept:
        if form in _TAGGED:
            for what in image.kept:
                yield what, "kept", "", False
        else:
            yield ", ".join(image.kept), "dropped", f"{form} has no room for it", False
    for what, why in image.dropped:
        yield what, "dropped", why, False


def check_frame(frame: np.ndarray) -> None:
    """Raise `ValueError` unless `frame` is uint8 [h, w, 3] with at least one pixel."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise ValueError(f"expected a uint8 frame [height, width, 3], got {frame.dtype} {list(frame.shape)}")
