"""Reads still images as one-frame sources, and writes their edited copies.

A copy is of the source's kind (grey stays grey, 16-bit grey stays 16-bit, transparency stays) as far as its format can hold
it; numbers that an edit of RGB cannot be made to (CMYK, LAB, floats) are converted once, by their profile, with a note.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pillow_heif
from PIL import Image, ImageCms, ImageSequence, PngImagePlugin, UnidentifiedImageError

from ops.files.atomic import replaced_file
from ops.video.deep import colour_chunks, read_deep, says_srgb, stored_bits, without_texts, write_deep
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
    ".pbm": "PPM",
    ".pnm": "PPM",
    ".tga": "TGA",
}
IMAGE_SUFFIXES = frozenset(FORMAT_OF_SUFFIX)

_HOLDS: dict[str, frozenset[str]] = {
    "PNG": frozenset({"L", "LA", "I;16", "RGB", "RGBA", "RGB;16", "RGBA;16"}),
    "TIFF": frozenset({"L", "LA", "I;16", "I", "F", "RGB", "RGBA", "RGB;16", "RGBA;16"}),
    "JPEG": frozenset({"L", "RGB"}),
    "WEBP": frozenset({"RGB", "RGBA"}),
    "BMP": frozenset({"L", "RGB"}),
    "HEIF": frozenset({"RGB", "RGBA", "RGB;16", "RGBA;16"}),
    "AVIF": frozenset({"RGB", "RGBA"}),
    "JPEG2000": frozenset({"L", "LA", "I;16", "RGB", "RGBA"}),
    "PPM": frozenset({"L", "I;16", "RGB", "RGB;16"}),
    "TGA": frozenset({"L", "RGB", "RGBA"}),
}
"""Kinds of pictures that a format can be written with."""
_TAGGED = frozenset({"PNG", "TIFF", "JPEG", "WEBP", "HEIF", "AVIF"})
"""Formats with room for a profile, EXIF and XMP."""
MOST_BITS = {"HEIF": 12}
"""Bits per sample that a format holds at most, if that is less than 16."""
_SPLIT = "split it into a file for each"
_INSTEAD = {
    "PNG": "it is an animation: name it by itself, and it is edited as a video",
    "WEBP": "it is an animation, of which FFmpeg decodes nothing: save it as a video or an animated PNG",
    "AVIF": "it is an animation: save it as a video or an animated PNG",
    "GIF": "it is an animation: name it .gif, and it is edited as a video",
}
"""Advice for a file of several pictures, by Pillow's name of its format."""
_STILL_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif"})
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_PHOTOMETRIC = 262
_TRAILER = re.compile(rb"\xff\xd9(?s:.){0,65536}?\0\0\0[\x08-\x40]ftyp")
"""The video of a moving photograph behind a JPEG's end."""
_UNSAID_DEPTH = frozenset({"PPM", "JPEG2000"})
"""Formats whose depth of colour is known only after reading."""

Kind = Literal["L", "LA", "I;16", "I", "F", "RGB", "RGBA", "RGB;16", "RGBA;16"]
GREY_KINDS = frozenset({"L", "LA", "I;16", "I", "F"})


@dataclass(frozen=True)
class PictureFacts:
    """Facts of a still image besides its pixels. Plain values only."""

    mode: str
    """Pillow's, as stored."""
    kind: Kind
    """Kind of an edited copy: the nearest to the source that an edit can be written into."""
    transparent: bool = False
    """True if a pixel is transparent."""
    turned: bool = False
    """True if the stored pixels are not upright."""
    own: bool = False
    """True for a result of this program."""
    notes: tuple[tuple[str, str], ...] = ()
    """Changes that reading alone makes already: a name, and what it becomes."""
    kept: tuple[str, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()
    """Metadata that a format with room for it keeps, and metadata that no format can keep, with the reason."""
    bits: int = 8
    """Bits of a sample, as stored."""
    read_bits: int = 8
    """Bits of a sample that can be read here."""
    further: int = 0
    """Photographs in the file beside the one that is edited."""
    colour: str = ""
    """A PNG's own chunks that define the colours of its numbers."""
    srgb: bool = True
    """True if they say sRGB, which readers assume without them."""


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image file's pixels, and facts about how they were stored."""

    frame: np.ndarray
    """uint8 [h, w, 3] RGB, upright, C-contiguous; CMYK and LAB by their profile, deeper numbers scaled to 8 bit."""
    orientation: Orientation
    mode: str
    """Pillow's, as stored."""
    format: str
    kind: Kind = "RGB"
    """Kind of an edited copy: the nearest to the source that an edit can be written into."""
    alpha: np.ndarray | None = None
    """uint8 [h, w], upright; None for a kind without transparency."""
    hidden: np.ndarray | None = None
    """uint8 [h, w, 3]: the colours as stored, those of wholly transparent pixels included, which are invisible and which
    `frame` does not have: a network would see them, and they would change the face."""
    deep: np.ndarray | None = None
    """uint16 [h, w] or [h, w, 3 or 4], int32 or float32 [h, w], upright: the stored numbers of a kind with more than 8 bits."""
    white: float = 65535.0
    """The number of `deep` that `frame` shows as 255."""
    bits: int = 8
    """Bits of a sample, as stored."""
    further: int = 0
    """Photographs in the file beside this one."""
    heif: tuple[tuple[str, int], ...] = ()
    """Coding of an HEIF's samples: its chroma, primaries and transfer, as pillow-heif's options."""
    carried: Travels = field(default_factory=Travels)
    """Its metadata, for a copy of `kind`."""
    notes: tuple[tuple[str, str], ...] = ()
    """Changes that reading alone makes already, and into what."""
    own: bool = False
    """True for a result of this program."""

    @property
    def facts(self) -> PictureFacts:
        transparent = self.alpha is not None and bool((self.alpha < 255).any())
        turned = self.orientation != UPRIGHT
        return PictureFacts(
            mode=self.mode,
            kind=self.kind,
            transparent=transparent,
            turned=turned,
            own=self.own,
            notes=self.notes,
            kept=self.carried.kept,
            dropped=self.carried.dropped,
            bits=self.bits,
            read_bits=8 if self.deep is None else self.bits,
            further=self.further,
            colour=", ".join(name for name, _ in self.carried.colour),
            srgb=says_srgb(self.carried.colour),
        )


def load_image(path: str | Path, data: bytes | None = None) -> LoadedImage:
    """Read a still image of one of `IMAGE_SUFFIXES`' formats.

    `data`: the file's bytes, if they are read already; `path` is then only its name.
    Raises `MediaError` if it is damaged, not an image, or has several pages; other errors of a decoder become one, too.
    """
    try:
        return _read(path, data)
    except MediaError as error:
        if not isinstance(error.__cause__, ValueError) or "MAX_TEXT" not in str(error.__cause__):
            raise
        # Pillow refuses a PNG for a text, such as the workflow of a program that made it; the picture itself is sound.
        small = without_texts(Path(path).read_bytes() if data is None else data)
        image = _read(path, small)
        texts = ("texts", "they are longer than Pillow reads")
        return replace(image, carried=replace(image.carried, dropped=(*image.carried.dropped, texts)))


def _read(path: str | Path, data: bytes | None) -> LoadedImage:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata: the plan names what cannot be carried
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path if data is None else io.BytesIO(data)) as image:
                if (pages := _pages(image)) > 1:
                    raise MediaError(
                        path, f"it holds {pages} pictures, and a still image has one", _INSTEAD.get(str(image.format), _SPLIT)
                    )
                return _loaded(image, lambda: Path(path).read_bytes() if data is None else data)
    except MediaError:
        raise
    except FileNotFoundError:
        raise MediaError(path, "there is no such file", "check the path") from None
    except UnidentifiedImageError as error:
        remedy = "check the file's content and name; if it is an image, convert it to PNG or TIFF"
        raise MediaError(path, "it is not an image that Pillow knows", remedy) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(path, f"the image is too large: {error}", "make it smaller, or cut it into parts") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes Pillow's plugins raise nearly anything
        said = str(error) or type(error).__name__
        raise MediaError(path, f"the image cannot be decoded: {said}", "check that the file opens in a viewer") from error


def is_still(path: str | Path) -> bool:
    """Return whether a file is a photograph by its first bytes, under any name; animations and moving JPEG do not count."""
    with open(path, "rb") as file:
        head = file.read(4096)
    if head[4:8] == b"ftyp":
        return head[8:12] in _STILL_BRANDS
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP" and b"ANIM" not in head[:64]
    if head.startswith(b"\x89PNG"):
        return not _is_animated_png(head)
    if head.startswith(b"GIF8"):
        with Image.open(path) as image:
            return not getattr(image, "is_animated", False)
    if head.startswith(b"\xff\xd8\xff"):
        return not str(path).lower().endswith((".mjpg", ".mjpeg"))
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():  # Netpbm
        return True
    return head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM", b"\0\0\0\x0cjP  "))


def is_animation(path: str | Path) -> bool:
    """Return whether a file is an animated PNG, which is a video, by its first bytes."""
    with open(path, "rb") as file:
        return _is_animated_png(file.read(1 << 16))


def _is_animated_png(head: bytes) -> bool:
    return head.startswith(b"\x89PNG") and b"acTL" in head[: head.find(b"IDAT") + 1 or None]


def is_own(path: Path) -> bool:
    """Return whether a file is a picture with this program's mark."""
    try:
        with Image.open(path) as image:
            return is_marked(image)
    except (OSError, SyntaxError, ValueError):
        return False


def _pages(image: Image.Image) -> int:
    if image.format in ("MPO", "HEIF", "PSD"):
        return 1  # a photograph whose further pictures are previews, depth, layers and the like; Pillow is at the main one
    count = 0
    for page in ImageSequence.Iterator(image):
        reduced = getattr(page, "tag_v2", {}).get(254, 0) & 1  # NewSubfileType: a smaller copy of another page
        count += 0 if reduced and count else 1
    image.seek(0)
    return count


def _loaded(image: Image.Image, read: Callable[[], bytes]) -> LoadedImage:
    """Read an image that Pillow has opened. `read`: returns the file's bytes, for readers other than Pillow."""
    bits, further = stored_bits(image, read), _further(image)
    tags = dict(getattr(image, "tag_v2", {}))
    image.load()  # first: TIFF turns its pixels here, and takes the tag away
    mode, form = image.mode, image.format
    orientation = EXIF_ORIENTATIONS.get(image.getexif().get(ORIENTATION, 1), UPRIGHT)
    notes: list[tuple[str, str]] = []
    deep: np.ndarray | None = None
    white, converted = 65535.0, False
    alpha = _alpha(image)
    if mode in _SIXTEEN_BIT or (mode == "I" and form == "PPM"):
        deep, bits = np.asarray(image).astype(np.uint16), 16
        if tags.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow handles in 8 bits only; in the copy black is
            deep = 65535 - deep
        kind: Kind = "I;16"
        if isinstance(clear := image.info.get("transparency"), int):
            alpha, kind = np.where(deep == clear, 0, 255).astype(np.uint8), "RGBA;16"
            deep = np.dstack([deep, deep, deep, alpha.astype(np.uint16) * 257])
        stored = _grey_frame(_eight_bits(deep if deep.ndim == 2 else deep[..., 0], white))
    elif mode in ("L", "LA", "La", "1"):
        kind = "L" if alpha is None else "LA"
        stored = _grey_frame(np.array(image.convert("LA" if mode in ("LA", "La") else "L")))
        if mode == "1":
            bits = 8
            notes.append(("black and white pixels", "grey, because an edit has tones"))
    elif mode in ("I", "F"):
        kind, deep, stored_as, bits = "I" if mode == "I" else "F", np.array(image), bits, 32
        if mode == "I" and (deep < 0).any() and 1 in np.atleast_1d(tags.get(339, 1)):
            deep = deep.view(np.uint32)  # Pillow has no such mode, so it cannot be written either
        white = 32767.0 if mode == "I" and stored_as == 16 else _white_of(deep)
        stored = _grey_frame(_eight_bits(np.nan_to_num(deep.astype(np.float64), posinf=0.0, neginf=0.0), white))
        if deep.dtype == np.uint32 or not np.isfinite(deep).all():
            kind, deep = "L", None
    else:
        kind = "RGB" if alpha is None else "RGBA"
        converted = mode in ("CMYK", "LAB", "YCbCr", "HSV")
        stored = np.array(_as_rgb(image))
        if converted and mode != "YCbCr":
            by = "by its profile" if profile_space(image.info.get("icc_profile")) in ("CMYK", "LAB") else "without a profile"
            notes.append((f"{mode} pixels", f"sRGB, {by}"))
        elif mode in ("P", "PA"):
            notes.append(("palette", "RGB, because an edit has more colours"))
        # YCbCr is a way to write RGB, and a profile describes that RGB.
        converted = converted and mode != "YCbCr" and profile_space(image.info.get("icc_profile")) != "RGB"
        if mode in ("RGB", "RGBA", "RGBX") and (bits > 8 or form in _UNSAID_DEPTH):
            unturned = stored
            if form == "TIFF" and ORIENTATION in tags:  # Pillow has turned it, the other readers do not
                orientation = EXIF_ORIENTATIONS.get(tags[ORIENTATION], UPRIGHT)
                unturned = orientation.stored(stored)
            deep = read_deep(read(), form, unturned, tags)
            if deep is None:
                orientation = UPRIGHT if unturned is not stored else orientation
            else:
                bits, stored = max(bits, 10), _eight_bits(deep[..., :3], white)
                if form in _UNSAID_DEPTH:
                    bits = 16
                alpha = _eight_bits(deep[..., 3], white) if deep.shape[2] == 4 else None
                kind = "RGB;16" if alpha is None else "RGBA;16"
    frame = orientation.upright(stored)
    if alpha is not None:
        alpha = orientation.upright(alpha[:, :, None])[..., 0]
    if deep is not None:
        deep = orientation.upright(deep[:, :, None])[..., 0] if deep.ndim == 2 else orientation.upright(deep)
    hidden = None
    if alpha is not None and (alpha == 0).any() and (alpha > 0).any():
        hidden, frame = frame, frame.copy()
        frame[alpha == 0] = hidden[alpha > 0].mean(axis=0).round().astype(np.uint8)
    size = (frame.shape[1], frame.shape[0])
    carried = travels(image, kind, size, converted=converted, colour=colour_chunks(read()) if form == "PNG" else ())
    if form in ("JPEG", "MPO", "HEIF") and _is_moving(read()):
        moving = ("moving photograph", "its video shows the face before the edit")
        carried = replace(carried, dropped=(*carried.dropped, moving))
    return LoadedImage(
        frame=frame,
        orientation=orientation,
        mode=mode,
        format=(form or "unknown").lower(),
        kind=kind,
        alpha=alpha,
        hidden=hidden,
        deep=deep,
        white=white,
        bits=bits,
        further=further,
        heif=_heif_options(image.info) if form == "HEIF" else (),
        carried=carried,
        notes=tuple(notes),
        own=is_marked(image),
    )


def _is_moving(data: bytes) -> bool:
    """Return whether a photograph's file holds a video as well: behind a JPEG's end, or in an HEIC's box of its own."""
    if data.startswith(b"\xff\xd8"):
        return b"ftyp" in data and _TRAILER.search(data) is not None  # the first is quick, and hardly ever true
    return b"mpvd" in data


def _heif_options(info: Mapping[Any, Any]) -> tuple[tuple[str, int], ...]:
    said = info.get("nclx_profile") or {}
    names = {"color_primaries": "color_primaries", "transfer_characteristics": "transfer_characteristic"}
    options = [(option, int(said[name])) for name, option in names.items() if name in said]
    return (*options, ("chroma", int(info["chroma"]))) if info.get("chroma") in (420, 422, 444) else tuple(options)


def _further(image: Image.Image) -> int:
    """Return the number of photographs in the file beside the main one."""
    return max(int(getattr(image, "n_frames", 1)) - 1, 0) if image.format == "HEIF" else 0


def _alpha(image: Image.Image) -> np.ndarray | None:
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or (image.mode == "P" and "transparency" in image.info):
        return np.array(image.convert("RGBA"))[..., 3]
    if image.mode in ("L", "RGB") and "transparency" in image.info:  # one value or colour that means "nothing here"
        return np.array(image.convert("RGBA"))[..., 3]
    return None


def _grey_frame(grey: np.ndarray) -> np.ndarray:
    plane = grey if grey.ndim == 2 else grey[..., 0]
    return np.repeat(plane[:, :, None], 3, axis=2)


def _white_of(values: np.ndarray) -> float:
    """Return the white of numbers without a stated range: 1, 255 and 65535 are used in practice."""
    most = float(np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0).max(initial=0.0))
    full = next((limit for limit in (1.0, 255.0, 65535.0, 2.0**31 - 1, 2.0**32 - 1) if most <= limit), most)
    return 255.0 if values.dtype.kind in "iu" and full == 1.0 else full


def _eight_bits(values: np.ndarray, white: float) -> np.ndarray:
    """Convert numbers from 0 to `white` to uint8."""
    return (values.astype(np.float64).clip(0.0) * (255.0 / white)).round().clip(0, 255).astype(np.uint8)


def _as_rgb(image: Image.Image) -> Image.Image:
    """Convert colour of any mode to RGB; CMYK and LAB by the embedded profile, to sRGB."""
    profile = image.info.get("icc_profile")
    space = profile_space(profile)
    if profile and ((image.mode == "CMYK" and space == "CMYK") or (image.mode == "LAB" and space == "LAB")):
        try:
            target = ImageCms.createProfile("sRGB")
            made = ImageCms.profileToProfile(image, io.BytesIO(profile), target, outputMode="RGB")
            assert made is not None
            return made
        except ImageCms.PyCMSError:
            pass  # a profile that cannot be used is ignored
    if image.mode in ("RGBA", "RGBa", "P", "PA", "RGBX"):
        return image.convert("RGBA").convert("RGB") if image.mode != "RGBX" else image.convert("RGB")
    return image.convert("RGB")


def kind_in(kind: Kind, form: str) -> Kind:
    """Return the kind of picture that a format holds in place of `kind`."""
    held = _HOLDS[form]
    if kind in held:
        return kind
    order: dict[Kind, tuple[Kind, ...]] = {
        "I;16": ("RGB;16", "L", "RGB"),
        "I": ("L", "RGB"),
        "F": ("L", "RGB"),
        "LA": ("RGBA", "L", "RGB"),
        "L": ("RGB",),
        "RGBA": ("RGB",),
        "RGB": (),
        "RGB;16": ("RGB",),
        "RGBA;16": ("RGBA", "RGB;16", "RGB"),
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
    Raises `MediaError` for a suffix of another kind of file, `ValueError` for an array of another shape or type than a frame's.
    """
    file = Path(path)
    form = FORMAT_OF_SUFFIX.get(file.suffix.lower())
    if form is None:
        raise MediaError(file, f"no image format is called {file.suffix!r}", f"use one of {sorted(IMAGE_SUFFIXES)}")
    check_frame(frame)
    image = Image.fromarray(np.ascontiguousarray(frame), "RGB") if like is None else _composed(frame, like, form)
    mode = image.mode if isinstance(image, Image.Image) else "RGB"
    carried = marked(Travels() if like is None else _fitting(like, mode))
    options = _coding(form, carried) | _metadata(form, carried)
    if form == "HEIF" and like is not None:
        options |= dict(like.heif)
    out = io.BytesIO()
    if isinstance(image, Image.Image):
        image.save(out, format=form, **options)
    else:
        assert like is not None
        write_deep(out, form, image, carried, options, min(like.bits, MOST_BITS.get(form, 16)))
    return out.getvalue()


def _composed(frame: np.ndarray, source: LoadedImage, form: str) -> Image.Image | np.ndarray:
    """Make the picture to write; colour of 16 bits as an array, because Pillow has no mode for it."""
    if frame.shape != source.frame.shape:
        raise ValueError(f"expected a frame of the source's size {source.frame.shape}, got {frame.shape}")
    kind = kind_in(source.kind, form)
    if kind in ("I;16", "I", "F"):
        return Image.fromarray(_deepened(frame, source))
    if kind in ("RGB;16", "RGBA;16"):
        deep = _deepened(frame, source)
        return np.repeat(deep[..., None], 3, axis=2) if deep.ndim == 2 else deep[..., : 4 if "A" in kind else 3]
    shown = np.ascontiguousarray(frame)
    if source.hidden is not None and source.alpha is not None and "A" in kind:
        shown = np.where(source.alpha[:, :, None] == 0, source.hidden, shown)
    colour = Image.fromarray(shown, "RGB")
    if kind in ("L", "LA"):
        colour = colour.convert("L")
    elif source.kind in GREY_KINDS and source.carried.profile is not None:
        colour = _grey_as_srgb(colour, source.carried.profile)
    if kind in ("LA", "RGBA"):
        assert source.alpha is not None
        colour.putalpha(Image.fromarray(source.alpha))
    return colour


def _deepened(frame: np.ndarray, source: LoadedImage) -> np.ndarray:
    """Return the stored numbers, like `LoadedImage.deep`, with the edit's change added in their own steps."""
    assert source.deep is not None
    change = frame.astype(np.int32) - source.frame
    if source.alpha is not None:
        change[source.alpha == 0] = 0  # it is invisible, and `frame` has another colour there
    if source.deep.ndim == 2:
        change = np.asarray(Image.fromarray(np.ascontiguousarray(frame), "RGB").convert("L")) - source.frame[..., 0].astype(
            np.int32
        )
    elif source.deep.shape[2] == 4:
        change = np.dstack([change, np.zeros(change.shape[:2], np.int32)])
    changed = source.deep + change * (source.white / 255.0)
    if source.deep.dtype.kind == "f":
        return np.where(change == 0, source.deep, changed).astype(source.deep.dtype)
    limits = np.iinfo(source.deep.dtype)
    return np.where(change == 0, source.deep, np.clip(changed.round(), limits.min, limits.max)).astype(source.deep.dtype)


def _grey_as_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert numbers of a grey profile to sRGB, for a format without grey."""
    try:
        target = ImageCms.createProfile("sRGB")
        made = ImageCms.profileToProfile(image.convert("L"), io.BytesIO(profile), target, outputMode="RGB")
    except ImageCms.PyCMSError:
        return image
    return image if made is None else made


def _fitting(source: LoadedImage, mode: str) -> Travels:
    """Return the metadata for the kind that is written: sRGB replaces a grey profile in a format without grey."""
    grey_to_rgb = source.kind in GREY_KINDS and mode in ("RGB", "RGBA") and source.carried.profile is not None
    if not grey_to_rgb:
        return source.carried
    return replace(source.carried, profile=srgb_profile(), colour=(), dropped=())


def _coding(form: str, carried: Travels) -> dict[str, Any]:
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
        for name, data in carried.colour:
            chunks.add(name.encode(), data)
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
    """Yield (what, fate, how, is a loss) for all that a picture has, for a copy in the format of `suffix`."""
    form = FORMAT_OF_SUFFIX[suffix.lower()]
    kind = kind_in(image.kind, form)
    for what, how in image.notes:
        yield what, "converted", f"to {how}", False
    held = min(image.read_bits, _held_bits(kind, form))
    if image.bits > held:
        why = f"{form} holds no more here" if image.read_bits > held else "no reader here gives more"
        yield f"{image.bits} bits a sample", "converted", f"to {held}: {why}", True
    elif not image.notes:
        if kind in (image.kind, image.kind.replace("A", "")):
            deep = f" of {image.bits} bits" if image.bits > 8 and ";" not in image.mode else ""
            yield f"pixels {image.mode}{deep}", "kept", "", False
        else:
            yield f"pixels {image.mode}", "converted", f"to {kind}, which {form} holds", False
    if image.further:
        yield f"{image.further} further photographs", "dropped", "one is edited and written", True
    if "A" in image.kind:
        if "A" in kind:
            yield "transparency", "kept", "", False
        else:
            yield "transparency", "dropped", f"{form} has none", image.transparent
    if image.colour:
        what = f"colour of the PNG ({image.colour})"
        if form == "PNG":
            yield what, "kept", "", False
        elif image.srgb:
            yield what, "dropped", f"{form} has no room for it, and it says sRGB, which is meant without it", False
        else:
            yield what, "dropped", f"{form} has no room for it, and its colours would be shown as sRGB", True
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


def _held_bits(kind: Kind, form: str) -> int:
    """Return the bits of a sample of a kind of picture in a format."""
    if kind in ("I", "F"):
        return 32
    return MOST_BITS.get(form, 16) if kind.endswith(";16") else 8


def check_frame(frame: np.ndarray) -> None:
    """Raise `ValueError` unless `frame` is uint8 [h, w, 3] with at least one pixel."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise ValueError(f"expected a uint8 frame [height, width, 3], got {frame.dtype} {list(frame.shape)}")
