"""How a model's square pictures are cut out of frames, and where in that square the picture lies.

    crop ffhq     aligned faces (`align`), one quad per detected face; the content is the whole square
    crop none     the whole frame, stretched to the content's shape: as data sets of cars are prepared
    crop centre   the largest centred rectangle of the content's shape

The content is a rectangle in the middle of the square, [192, 256] of 256 for cars; what is beside it is black, at the encoder's
input and in the generator's output alike. Why: docs/decisions/0007-content-in-a-square.md.
Convention for coordinates and quads: see `align`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
from PIL import Image

from ops.face.align import AlignError, CropMode, crop_face

Crop = Literal["ffhq", "none", "centre"]


@dataclass(frozen=True)
class Framing:
    """A bundle's crop convention."""

    crop: Crop
    size: int
    """Side of the encoder's input in pixels."""
    content_hw: tuple[int, int]
    """Height and width of the picture inside that square."""

    def __post_init__(self) -> None:
        if self.crop not in ("ffhq", "none", "centre"):
            raise AlignError(f"crop: expected ffhq, none or centre, got {self.crop!r}.")
        if len(self.content_hw) != 2 or not all(0 < side <= self.size for side in self.content_hw):
            raise AlignError(f"content: expected [height, width] of at most {self.size} px, got {list(self.content_hw)}.")
        if self.crop == "ffhq" and self.content_hw != (self.size, self.size):
            raise AlignError(f"content: aligned faces fill the square, got {list(self.content_hw)} in {self.size} px.")
        self.content_of(self.size)

    def content_of(self, side: int) -> tuple[slice, slice]:
        """Rows and columns of the content in a square of another side.

        Raises AlignError where they are not whole pixels.
        """
        spans = []
        for length in self.content_hw:
            scaled, rest = divmod(length * side, self.size)
            if rest or (side - scaled) % 2:
                raise AlignError(
                    f"content: {list(self.content_hw)} of {self.size} px has no whole pixels in the middle of {side} x {side}."
                )
            before = (side - scaled) // 2
            spans.append(slice(before, before + scaled))
        return spans[0], spans[1]

    def content(self, images: np.ndarray) -> np.ndarray:
        """Squares [..., R, R, 3] => their content [..., h, w, 3], a view."""
        rows, columns = self.content_of(images.shape[-2])
        return images[..., rows, columns, :]

    def frame_quad(self, height: int, width: int) -> np.ndarray:
        """The one quad of every frame of that size, float64 [4, 2], for the crops that need no face."""
        across, down = float(width), float(height)
        match self.crop:
            case "none":
                pass
            case "centre":
                scale = min(width / self.content_hw[1], height / self.content_hw[0])
                across, down = self.content_hw[1] * scale, self.content_hw[0] * scale
            case "ffhq":
                raise AlignError("frame_quad: aligned faces have a quad each; make it with ffhq_quad.")
            case other:
                assert_never(other)
        centre, half_x, half_y = np.array([(width - 1) / 2, (height - 1) / 2]), across / 2, down / 2
        corners = np.array([[-half_x, -half_y], [-half_x, half_y], [half_x, half_y], [half_x, -half_y]])
        return centre + corners

    def cut(self, frame: np.ndarray, quad_42: np.ndarray, mode: CropMode = "fast") -> np.ndarray:
        """Frame uint8 [H, W, 3] => the encoder's picture uint8 [size, size, 3]: the quad's pixels, and black beside them.

        mode official, without alignment: the quad's upright box through PIL's bicubic resize, as the authors reduce images.
        """
        if self.crop == "ffhq":
            return crop_face(frame, quad_42, self.size, mode)
        match mode:
            case "fast":
                picture = crop_face(frame, quad_42, self.content_hw)
            case "official":
                height, width = frame.shape[:2]
                x0, y0 = np.maximum(quad_42.min(0) + 0.5, 0.0)  # PIL puts the origin on the first pixel's corner
                x1, y1 = np.minimum(quad_42.max(0) + 0.5, (width, height))
                size = self.content_hw[1], self.content_hw[0]
                picture = np.array(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC, box=(x0, y0, x1, y1)))
            case other:
                assert_never(other)
        square = np.zeros((self.size, self.size, 3), np.uint8)
        self.content(square)[:] = picture
        return square
