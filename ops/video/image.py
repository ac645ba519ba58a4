"""Still images as one-frame sources."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from ops.files.atomic import replaced_file
from ops.video.errors import MediaError
from ops.video.orientation import EXIF_ORIENTATIONS, UPRIGHT, Orientation

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})

_EXIF_ORIENTATION = 0x0112
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image file's pixels and how they were stored."""

    frame: np.ndarray
    """uint8 [h, w, 3] RGB, upright, C-contiguous. Transparency is dropped, 16-bit grey is scaled to 8 bit."""
    orientation: Orientation
    mode: str
    format: str


def load_image(path: str | Path) -> LoadedImage:
    """Read a PNG, JPEG, WebP, BMP or TIFF file. Raises `MediaError` if it is damaged, no image, or has several pages."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if _pages(image) > 1:
                raise MediaError(
                    path, f"it holds {_pages(image)} pictures, and a still image has one", "split it, or convert it to a video"
                )
            mode, kind = image.mode, (image.format or "unknown").lower()
            orientation = EXIF_ORIENTATIONS.get(image.getexif().get(_EXIF_ORIENTATION, 1), UPRIGHT)
            if mode in _SIXTEEN_BIT:
                grey = (np.asarray(image).astype(np.float64) / 257.0).round().astype(np.uint8)
                stored = np.repeat(grey[:, :, None], 3, axis=2)
            else:
                stored = np.array(image.convert("RGB"))
    except MediaError:
        raise
    except FileNotFoundError:
        raise MediaError(path, "there is no such file", "check the path") from None
    except UnidentifiedImageError as error:
        raise MediaError(path, "it is not an image that Pillow knows", "check the file's content and name") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(path, f"the image cannot be decoded: {error}", "check that the file opens in a viewer") from error
    return LoadedImage(orientation.upright(stored), orientation, mode, kind)


def _pages(image: Image.Image) -> int:
    if image.format == "MPO":
        return 1  # a photograph whose further pictures are previews
    return sum(1 for _ in ImageSequence.Iterator(image))


def write_image(path: str | Path, frame: np.ndarray, *, like: str | Path | None = None) -> None:
    """Write one upright frame, uint8 [h, w, 3] RGB, atomically; the format follows the suffix.

    JPEG is written at quality 95 without chroma subsampling, WebP lossless, so that an edit is not lost to coding.
    `like` names the source image: its ICC profile and EXIF are copied (orientation reset, as the pixels are upright),
    because without the profile the same numbers would mean other colours.
    Raises `MediaError` for a suffix that is no image's, `ValueError` for an array that is no frame.
    """
    file = Path(path)
    if file.suffix.lower() not in IMAGE_SUFFIXES:
        raise MediaError(file, f"no image format is called {file.suffix!r}", f"use one of {sorted(IMAGE_SUFFIXES)}")
    check_frame(frame)
    options = {} if like is None else _carried(like)
    extra: dict[str, object]
    match file.suffix.lower():
        case ".jpg" | ".jpeg":
            kind, extra = "JPEG", {"quality": 95, "subsampling": 0}
        case ".webp":
            kind, extra = "WEBP", {"lossless": True}
        case ".tif" | ".tiff":
            kind, extra = "TIFF", {"compression": "tiff_deflate"}
        case ".bmp":
            kind, extra, options = "BMP", {}, {}  # BMP has room for neither profile nor EXIF
        case _:
            kind, extra = "PNG", {}
    with replaced_file(file) as temporary, open(temporary, "wb") as out:
        Image.fromarray(np.ascontiguousarray(frame), "RGB").save(out, format=kind, **extra, **options)
        out.flush()
        os.fsync(out.fileno())


def _carried(source: str | Path) -> dict[str, object]:
    with Image.open(source) as image:
        carried: dict[str, object] = {}
        if profile := image.info.get("icc_profile"):
            carried["icc_profile"] = profile
        exif = image.getexif()
        if _EXIF_ORIENTATION in exif:
            exif[_EXIF_ORIENTATION] = 1
        if len(exif):
            carried["exif"] = exif.tobytes()
        return carried


def check_frame(frame: np.ndarray) -> None:
    """Raise `ValueError` unless `frame` is uint8 [h, w, 3] with at least one pixel."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise ValueError(f"expected a uint8 frame [height, width, 3], got {frame.dtype} {list(frame.shape)}")
