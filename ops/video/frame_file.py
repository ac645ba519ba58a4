"""Reads a frame of a sequence from its file, and writes it again with an edit in the same format and depth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

import numpy as np

from ops.video.errors import MediaError
from ops.video.image import LoadedImage, encoded_image, load_image

FRAME_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True, eq=False)
class FrameFile:
    """A decoded frame of a sequence; its picture has all that is needed to write it again."""

    image: LoadedImage

    @property
    def pix_fmt(self) -> str:
        """FFmpeg's name of the stored pixels."""
        return _PIX_FMTS.get(self.image.kind, "rgb24")


_PIX_FMTS: Final = {
    "L": "gray",
    "LA": "ya8",
    "I;16": "gray16le",
    "RGBA": "rgba",
    "RGB;16": "rgb48le",
    "RGBA;16": "rgba64le",
}


def load_frame(name: str, data: bytes) -> FrameFile:
    """Decode the file of a frame. `name`: for its suffix, and for messages.

    Raises MediaError if it is damaged, or of a kind whose numbers an edit of display colours cannot be made to.
    """
    suffix = PurePath(name).suffix.lower()
    if suffix == ".exr":
        raise MediaError(
            name,
            "EXR holds linear light without limits, and edits are made to display colours",
            "write the frames as PNG of 16 bits, through the transform that you look at them with",
        )
    if suffix not in FRAME_SUFFIXES:
        raise MediaError(name, f"expected a frame of one of {', '.join(sorted(FRAME_SUFFIXES))}", "convert it")
    return FrameFile(load_image(name, data))


def encoded_frame(name: str, frame: np.ndarray, source: FrameFile) -> bytes:
    """Return the file of an edited frame, uint8 [h, w, 3], in the format and depth of its source."""
    return encoded_image(name, frame, like=source.image)
