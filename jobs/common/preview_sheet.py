"""Draws a preview: a row for each face, with its frame, a line of words, and labelled pictures of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ops.files.atomic import replaced_file
from ops.video.image_tags import MARK, PROCESSED_BY

TILE = 232
THUMBNAIL = 232
GAP, MARGIN, ROUND = 8, 28, 10
PAPER, INK, QUIET, ACCENT = (250, 250, 248), (24, 26, 30), (110, 114, 122), (255, 122, 26)


@dataclass(frozen=True, eq=False)
class PreviewRow:
    """A face and what was made of it."""

    frame: np.ndarray
    """uint8 [H, W, 3]: where it is."""
    quad_42: np.ndarray
    words: tuple[str, ...]
    """Lines under the frame; the first is the strongest."""
    tiles: tuple[np.ndarray, ...]
    """uint8 [h, w, 3] each, one for each heading."""


def draw_preview(title: str, note: str, headings: Sequence[str], rows: Sequence[PreviewRow]) -> Image.Image:
    """The sheet. title: large; note: small, at the foot."""
    across = MARGIN * 2 + THUMBNAIL + 2 * GAP + len(headings) * (TILE + GAP) - GAP
    head, foot = 92, 52
    image = Image.new("RGB", (across, head + len(rows) * (TILE + GAP) + foot), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, 22), shortened(title, font(22), across - 2 * MARGIN), fill=INK, font=font(22))
    left = MARGIN + THUMBNAIL + 2 * GAP
    for at, text in enumerate(headings):
        place = left + at * (TILE + GAP)
        draw.text((place + 2, head - 28), shortened(text, font(16), TILE), fill=INK, font=font(16))
    for at, row in enumerate(rows):
        top = head + at * (TILE + GAP)
        thumbnail = framed_thumbnail(row.frame, row.quad_42)
        image.paste(thumbnail, (MARGIN, top), rounded(thumbnail.size))
        for line, text in enumerate(filter(None, row.words)):
            size = 15 if line == 0 else 13
            below = (MARGIN + 2, top + thumbnail.height + 8 + 20 * line)
            draw.text(below, shortened(text, font(size), THUMBNAIL), fill=INK if line == 0 else QUIET, font=font(size))
        for column, tile in enumerate(row.tiles):
            picture = fitted(tile)
            image.paste(picture, (left + column * (TILE + GAP), top), rounded(picture.size))
    draw.text((MARGIN, image.height - 36), shortened(note, font(13), across - 2 * MARGIN), fill=QUIET, font=font(13))
    return image


def save_preview(image: Image.Image, path: Path) -> None:
    """Write it as PNG, marked as ours, so that a later run over the same folder leaves it out."""
    exif = Image.Exif()
    exif[PROCESSED_BY] = MARK
    with replaced_file(path) as temporary:
        image.save(temporary, format="PNG", compress_level=4, exif=exif.tobytes())


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def shortened(text: str, face: ImageFont.FreeTypeFont | ImageFont.ImageFont, pixels: int) -> str:
    """The text, or as much of its beginning as fits, and an ellipsis."""
    if face.getlength(text) <= pixels:
        return text
    while text and face.getlength(text + "…") > pixels:
        text = text[:-1]
    return text.rstrip() + "…"


def fitted(tile: np.ndarray) -> Image.Image:
    """A picture as large as a tile, in its own shape, in the middle of one."""
    height, width = tile.shape[:2]
    scale = TILE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    way = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    picture = Image.fromarray(tile).resize(size, way)
    square = Image.new("RGB", (TILE, TILE), PAPER)
    square.paste(picture, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return square


def framed_thumbnail(frame: np.ndarray, quad_42: np.ndarray) -> Image.Image:
    """The whole frame, small, with the quad drawn into it."""
    height, width = frame.shape[:2]
    most = TILE - 64  # room for the words below
    scale = min(THUMBNAIL / width, most / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.ascontiguousarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
    corners = ((quad_42 + 0.5) * scale * 16).round().astype(np.int32)  # fixed point: four bits of a pixel
    cv2.polylines(small, [corners], True, ACCENT, 2, cv2.LINE_AA, shift=4)
    return Image.fromarray(small)


@cache
def rounded(size: tuple[int, int]) -> Image.Image:
    """A mask with round corners."""
    mask = Image.new("L", (size[0] * 4, size[1] * 4), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, size[0] * 4 - 1, size[1] * 4 - 1), ROUND * 4, fill=255)
    return mask.resize(size, Image.Resampling.LANCZOS)
