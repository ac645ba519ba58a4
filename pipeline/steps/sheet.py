"""Draws the contact sheet: a few frames of a render in rows of source | inversion | edited | pasted.

Rendering workers write one strip per frame and face; finalize joins them under a header.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ops.face.align import crop_face
from ops.files.atomic import replaced_file
from ops.video.image_tags import MARK, PROCESSED_BY
from pipeline.engine.stage import Source
from pipeline.store.parts import Written
from pipeline.store.places import Place, joined, listed, place, writing

TILE = 256
HEADER = 28
COLUMNS = ("source", "inversion", "edited", "pasted")


def sheet_moments(pts: np.ndarray, count: int) -> frozenset[int]:
    """Choose at most `count` of the given pts, evenly spread, ends excluded (a fade may be there)."""
    if count <= 0 or len(pts) == 0:
        return frozenset()
    places = (np.arange(count) + 0.5) * len(pts) / count
    return frozenset(int(pts[int(place)]) for place in places)


def write_strip(
    store: str,
    source: Source,
    pts: int,
    frame: np.ndarray,
    inversion: np.ndarray,
    edited: np.ndarray,
    pasted: np.ndarray,
    quad_42: np.ndarray,
) -> Written:
    """Write `strip_png` where finalize finds it."""
    left = int(quad_42.mean(axis=0)[0] * 16)  # faces of one frame from left to right
    name = f"{pts:020d}_{max(left, 0):08d}.png"
    with writing(sheet_folder(store, source) / name) as file:
        file.write(strip_png(frame, inversion, edited, pasted, quad_42))
    return Written(f"work/sheet/{source.source_id}/{name}", file.size_bytes, file.sha256)


def strip_png(
    frame: np.ndarray, inversion: np.ndarray, edited: np.ndarray, pasted: np.ndarray, quad_42: np.ndarray, said: str = ""
) -> bytes:
    """Draw one row of the sheet: the aligned crop of the source, the model's two pictures of it, the crop of the result.

    frame, pasted: uint8 [H, W, 3]; inversion, edited: levels, float [h, w, 3], whose shape the tiles keep.
    said: words below the first tile.
    """
    longest = max(inversion.shape[:2])
    size = inversion.shape[0] * TILE // longest, inversion.shape[1] * TILE // longest
    tiles = [
        crop_face(frame, quad_42, size),
        enlarged(inversion, size),
        enlarged(edited, size),
        crop_face(pasted, quad_42, size),
    ]
    row = Image.fromarray(np.concatenate([centred(tile) for tile in tiles], axis=1))
    if said:
        draw = ImageDraw.Draw(row)
        draw.rectangle((0, TILE - 20, TILE, TILE), fill="white")
        draw.text((4, TILE - 18), said, fill="black", font=ImageFont.load_default(12))
    out = BytesIO()
    row.save(out, format="PNG", compress_level=1)
    return out.getvalue()


def sheet_folder(store: str, source: Source) -> Place:
    return joined(place(store), f"work/sheet/{source.source_id}")


def enlarged(levels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarge levels [h, w, 3] => uint8 [*size, 3]; size is (height, width)."""
    picture = Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8))
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BICUBIC))


def centred(tile: np.ndarray) -> np.ndarray:
    """Put a picture of at most TILE x TILE on a white square of that side."""
    square = np.full((TILE, TILE, 3), 255, np.uint8)
    top, left = (TILE - tile.shape[0]) // 2, (TILE - tile.shape[1]) // 2
    square[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return square


def join_strips(store: str, source: Source, title: str, out: Path) -> bool:
    """Write the sheet of a source; return False if no frame was edited."""
    strips = [file.path for file in listed(sheet_folder(store, source), ".png")]
    if strips:
        write_sheet(strips, title, out)
    return bool(strips)


def write_sheet(strips: Sequence[Place], title: str, out: Path) -> None:
    """Write strips, one below the other, under a header."""
    rows = [np.asarray(Image.open(BytesIO(strip.read_bytes())).convert("RGB")) for strip in strips]
    sheet = Image.new("RGB", (TILE * len(COLUMNS), 2 * HEADER + TILE * len(rows)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    draw.text((8, 5), title, fill="black", font=font)
    for column, name in enumerate(COLUMNS):
        draw.text((column * TILE + 8, HEADER + 5), name, fill="black", font=font)
    for row, strip in enumerate(rows):
        sheet.paste(Image.fromarray(strip), (0, 2 * HEADER + row * TILE))
    with replaced_file(out) as temporary:
        exif = Image.Exif()
        exif[PROCESSED_BY] = MARK  # so that a later run over the same folder leaves the sheet out
        sheet.save(temporary, format="PNG", compress_level=3, exif=exif.tobytes())
