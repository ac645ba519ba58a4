"""Landmarks => quad => crop, and the transforms between crop and source: FFHQ's alignment (StyleRes §6).

Convention (this module, `mask` and `paste`)
    Direction      transforms are named `dst_from_src` and map column vectors (x, y, 1).
    Pixel centre   an integer coordinate is a pixel's centre, in the source and in the crop alike.
    Quad           float64 [4, 2], (x, y) source pixels, corners in the order top left, bottom left, bottom
                   right, top right *of the crop*. They are the crop's outer edges: (-0.5, -0.5) lies on the
                   first corner and (width - 0.5, height - 0.5) on the third. A head lying on its side has a
                   turned quad.
    Interpolation  said at each function.
    Border         beyond the frame the picture is mirrored about its outermost pixels' centres
                   (`cv2.BORDER_REFLECT_101`).
"""

from __future__ import annotations

import math
from typing import Final, Literal, assert_never

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

OFFICIAL_SIZE: Final = 1024  # the authors cut at this size and reduce afterwards
CropMode = Literal["fast", "official"]
Size = int | tuple[int, int]
"""Side of a square crop in pixels, or (height, width)."""


class AlignError(ValueError):
    """Landmarks or a quad that no crop can be cut with. The message says what was expected and what came."""


def ffhq_quad(landmarks: np.ndarray) -> np.ndarray:
    """Square that FFHQ's alignment cuts around a face: landmarks [5, 2] or [68, 2] => quad_42 float64.

    Five points are left eye, right eye, nose, left and right mouth corner (left as seen); 68 points are
    dlib's. The two agree where dlib's mean of six eyelid points is the detector's eye. Formula: Karras et
    al., FFHQ `recreate_aligned_images`, as in StyleRes §6. Raises AlignError for another shape, for values
    that are not finite and for points that coincide.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape == (68, 2):
        eye_left, eye_right = points[36:42].mean(0), points[42:48].mean(0)
        mouth = (points[48] + points[54]) / 2
    elif points.shape == (5, 2):
        eye_left, eye_right = points[0], points[1]
        mouth = (points[3] + points[4]) / 2
    else:
        raise AlignError(f"ffhq_quad: expected landmarks [5, 2] or [68, 2], got {list(points.shape)}.")
    eyes = (eye_left + eye_right) / 2
    across, down = eye_right - eye_left, mouth - eyes
    half_x = across - down[::-1] * (-1.0, 1.0)
    length = math.hypot(*half_x)
    if not (math.isfinite(length) and length > 1e-6):
        raise AlignError(f"ffhq_quad: expected two eyes and a mouth apart from each other, got {points.tolist()}.")
    half_x = half_x / length * max(2.0 * math.hypot(*across), 1.8 * math.hypot(*down))
    half_y = half_x[::-1] * (-1.0, 1.0)
    centre = eyes + 0.1 * down
    return np.stack(
        [
            centre - half_x - half_y,
            centre - half_x + half_y,
            centre + half_x + half_y,
            centre + half_x - half_y,
        ]
    )


def quad_side_pixels(quad_42: np.ndarray) -> float:
    """Length of the quad's upper edge in source pixels (FFHQ's qsize)."""
    return math.hypot(*(quad_42[3] - quad_42[0]))


def quad_height_pixels(quad_42: np.ndarray) -> float:
    """Length of the quad's left edge in source pixels; the same as the upper one's for a face."""
    return math.hypot(*(quad_42[1] - quad_42[0]))


def height_and_width(size: Size) -> tuple[int, int]:
    """A `Size` as (height, width)."""
    return (size, size) if isinstance(size, int) else size


def source_from_crop(quad_42: np.ndarray, size: Size) -> np.ndarray:
    """Affine transform, float64 [3, 3], from crop pixels to source pixels. See the Convention.

    Raises AlignError when the quad is not a parallelogram (nothing else has an affine map) or has no area.
    """
    quad = np.asarray(quad_42, np.float64)
    # Of a few numbers Python's own arithmetic takes a tenth of numpy's time, and gives the same bits.
    numbers = quad.ravel().tolist()
    if quad.shape != (4, 2) or not all(map(math.isfinite, numbers)):
        raise AlignError(f"quad: expected finite float64 [4, 2] (TL BL BR TR), got {quad.tolist()}.")
    height, width = height_and_width(size)
    if min(height, width) < 1:
        raise AlignError(f"size: expected at least one pixel, got {size}.")
    x0, y0, x1, y1, x2, y2, x3, y3 = numbers
    right_x, right_y, down_x, down_y = (x3 - x0) / width, (y3 - y0) / width, (x1 - x0) / height, (y1 - y0) / height
    reach = max(abs(x1 - x0), abs(y1 - y0), abs(x2 - x0), abs(y2 - y0), abs(x3 - x0), abs(y3 - y0))
    if max(abs(x0 + x2 - x1 - x3), abs(y0 + y2 - y1 - y3)) > 1e-6 * max(reach, 1.0):
        raise AlignError(f"quad: expected a parallelogram TL BL BR TR, got {quad.tolist()}; make it with ffhq_quad.")
    if abs(right_x * down_y - right_y * down_x) < 1e-12:
        raise AlignError(f"quad: expected an area, got {quad.tolist()}.")
    # The centre of the crop's first pixel.
    first_x, first_y = x0 + 0.5 * (right_x + down_x), y0 + 0.5 * (right_y + down_y)
    return np.array([[right_x, down_x, first_x], [right_y, down_y, first_y], [0.0, 0.0, 1.0]])


def crop_from_source(quad_42: np.ndarray, size: Size) -> np.ndarray:
    """Inverse of `source_from_crop`, float64 [3, 3]: source pixels => crop pixels."""
    a = source_from_crop(quad_42, size)
    linear = np.linalg.inv(a[:2, :2])
    found = np.eye(3)
    found[:2, :2], found[:2, 2] = linear, -linear @ a[:2, 2]
    return found


def transform_points(dst_from_src: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Affine [3, 3] applied to points [..., 2] => float64 [..., 2]."""
    return np.asarray(points, np.float64) @ dst_from_src[:2, :2].T + dst_from_src[:2, 2]


def crop_face(frame: np.ndarray, quad_42: np.ndarray, size: Size, mode: CropMode = "fast") -> np.ndarray:
    """Frame uint8 [H, W, 3] RGB => upright crop uint8 [height, width, 3], both `size` if that is one number.

    fast      one warp. Where the crop has fewer pixels than the quad, the quad is sampled k times per crop pixel
              along each axis (k the smallest whole number that leaves no source pixel out) and averaged, so
              reducing a face tenfold does not alias; where it has more, the interpolation is bilinear, as the
              authors'. Beyond the frame: see Border; the authors' blur there is left out.
    official  the authors' steps (shrink, crop, pad with blur, PIL's QUAD at 1024 px), then PIL's bicubic. Squares only.
    """
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
        raise AlignError(f"crop_face: expected a frame uint8 [H, W, 3] RGB, got {frame.dtype} {list(frame.shape)}.")
    source_from_crop(quad_42, size)  # both modes refuse the same quads
    match mode:
        case "fast":
            return _crop_fast(frame, quad_42, size)
        case "official":
            height, width = height_and_width(size)
            if height != width:
                raise AlignError(f"crop_face: mode 'official' cuts squares, got {height} x {width}; use mode 'fast'.")
            crop = official_crop(frame, quad_42)
            if width == OFFICIAL_SIZE:
                return crop
            return np.array(Image.fromarray(crop).resize((width, height), Image.Resampling.BICUBIC))
        case other:
            assert_never(other)


def _crop_fast(frame: np.ndarray, quad_42: np.ndarray, size: Size) -> np.ndarray:
    height, width = height_and_width(size)
    across = max(1, math.ceil(quad_side_pixels(quad_42) / width - 1e-6))
    down = max(1, math.ceil(quad_height_pixels(quad_42) / height - 1e-6))
    fine = cv2.warpAffine(
        frame,
        source_from_crop(quad_42, (height * down, width * across))[:2],
        (width * across, height * down),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return fine if across == down == 1 else cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)


def official_crop(frame: np.ndarray, quad_42: np.ndarray) -> np.ndarray:
    """The authors' crop at its native size: frame uint8 [H, W, 3] => uint8 [1024, 1024, 3]. Bilinear."""
    image, quad = official_pretransform(frame, quad_42)
    corners = (quad + 0.5).ravel().tolist()  # PIL puts the origin on the first pixel's corner
    out = Image.fromarray(image).transform(
        (OFFICIAL_SIZE, OFFICIAL_SIZE), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR
    )
    return np.array(out)


def official_pretransform(frame: np.ndarray, quad_42: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Do what the authors do before the warp (§6: shrink, crop, pad) => (uint8 [h, w, 3], the quad in it).

    Kept step by step, roundings included, because models were trained on its output. The shrink divides
    coordinates by the whole number without the half-pixel term, as theirs does.
    """
    quad = np.array(quad_42, np.float64)
    half_x = (quad[3] - quad[0]) / 2
    side = 2.0 * math.hypot(*half_x)
    image = Image.fromarray(frame)

    shrink = math.floor(side / OFFICIAL_SIZE * 0.5)
    if shrink > 1:
        reduced = (int(np.rint(image.width / shrink)), int(np.rint(image.height / shrink)))
        image = image.resize(reduced, Image.Resampling.LANCZOS)
        quad, side = quad / shrink, side / shrink

    border = max(int(np.rint(side * 0.1)), 3)
    x0, y0, x1, y1 = _outer_box(quad)
    x0, y0 = max(x0 - border, 0), max(y0 - border, 0)
    x1, y1 = min(x1 + border, image.width), min(y1 + border, image.height)
    if x1 <= x0 or y1 <= y0:
        raise AlignError(f"crop_face: expected a quad that touches the frame, got {np.asarray(quad_42).tolist()}.")
    if x1 - x0 < image.width or y1 - y0 < image.height:
        image = image.crop((x0, y0, x1, y1))
        quad = quad - (x0, y0)

    x0, y0, x1, y1 = _outer_box(quad)
    pad = (
        max(-x0 + border, 0),
        max(-y0 + border, 0),
        max(x1 - image.width + border, 0),
        max(y1 - image.height + border, 0),
    )
    pixels = np.array(image)
    if max(pad) <= border - 4:
        return pixels, quad
    least = int(np.rint(side * 0.3))
    left, top, right, below = (max(p, least) for p in pad)
    return _blurred_padding(pixels, left, top, right, below, sigma=side * 0.02), quad + np.array([left, top])


def _outer_box(quad: np.ndarray) -> tuple[int, int, int, int]:
    low, high = np.floor(quad.min(0)), np.ceil(quad.max(0))
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _blurred_padding(pixels: np.ndarray, left: int, top: int, right: int, below: int, sigma: float) -> np.ndarray:
    """Mirror the picture outwards, fade it into its own blur and, further out, its median colour (§6)."""
    image = np.pad(pixels.astype(np.float32), ((top, below), (left, right), (0, 0)), "reflect")
    height, width = image.shape[:2]
    y, x = np.ogrid[:height, :width]
    mask = np.maximum(
        1.0 - np.minimum(x / left, (width - 1 - x) / right),
        1.0 - np.minimum(y / top, (height - 1 - y) / below),
    )[:, :, None]
    blurred = ndimage.gaussian_filter(image, [sigma, sigma, 0])
    image += (blurred - image) * np.clip(mask * 3.0 + 1.0, 0.0, 1.0)
    image += (np.median(image, axis=(0, 1)) - image) * np.clip(mask, 0.0, 1.0)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
