"""One frame of a sequence as a file of its own: read, and written again with an edit in the same format and depth.

An edit is made to 8 bits of RGB. A frame of 16 bits keeps its numbers where nothing was edited, and elsewhere gets the edit's
change in its own steps (257 of them are one of 8 bits).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

import cv2
import numpy as np

from ops.video.errors import MediaError
from ops.video.image import LoadedImage, encoded_image, load_image

DEEP_SUFFIXES: Final = frozenset({".png", ".tif", ".tiff"})
FRAME_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"})
STEPS: Final = 257
"""Numbers of 16 bits that one of 8 bits is apart from the next."""


@dataclass(frozen=True, eq=False)
class FrameFile:
    """A decoded frame, and what is needed to write it again."""

    image: LoadedImage
    deep: np.ndarray | None
    """uint16 [h, w, 3 or 4], red first, of a colour frame of 16 bits; None of others."""

    @property
    def pix_fmt(self) -> str:
        """FFmpeg's name of the stored pixels."""
        if self.image.kind == "I;16":
            return "gray16le"
        if self.deep is not None:
            return "rgba64le" if self.deep.shape[2] == 4 else "rgb48le"
        return {"L": "gray", "LA": "ya8", "RGBA": "rgba"}.get(self.image.kind, "rgb24")


def load_frame(name: str, data: bytes) -> FrameFile:
    """Decode the file of a frame. `name`: for its suffix, and for messages.

    Raises MediaError where it is damaged, or of a kind whose numbers an edit of display colours cannot be made to.
    """
    suffix = PurePath(name).suffix.lower()
    if suffix == ".exr":
        raise MediaError(
            name,
            "EXR holds linear light without limits, and edits are made to display colours",
            "write the frames as PNG of 16 bits, through the transform that you look at them with",
        )
    if suffix not in FRAME_SUFFIXES:
        raise MediaError(name, f"frames are {', '.join(sorted(FRAME_SUFFIXES))}, and this is none", "convert it")
    image = load_image(name, data)
    deep = None
    if suffix in DEEP_SUFFIXES and image.kind in ("RGB", "RGBA"):
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if stored is not None and stored.dtype == np.uint16 and stored.ndim == 3:
            deep = cv2.cvtColor(stored, cv2.COLOR_BGRA2RGBA if stored.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return FrameFile(image, deep)


def encoded_frame(name: str, frame: np.ndarray, source: FrameFile) -> bytes:
    """The file of an edited frame, uint8 [h, w, 3], in the format and depth of its source.

    A frame of 16 bits of colour loses its metadata, which OpenCV does not write; others keep it.
    """
    if source.deep is None:
        return encoded_image(name, frame, like=source.image)
    change = (frame.astype(np.int32) - source.image.frame) * STEPS
    edited = source.deep.copy()
    edited[..., :3] = np.clip(edited[..., :3].astype(np.int32) + change, 0, 65535).astype(np.uint16)
    stored = cv2.cvtColor(edited, cv2.COLOR_RGBA2BGRA if edited.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(PurePath(name).suffix.lower(), stored)
    if not done:
        raise MediaError(name, "OpenCV cannot write this frame", "convert it to PNG")
    return data.tobytes()
