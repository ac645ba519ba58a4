"""Aligned faces made as poor as those in videos: fewer pixels, blur, noise, compression, casts of colour.

Legend: N batch, R side of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ops.spaces import crops_from_images, images_from_crops


@dataclass(frozen=True)
class DegradeSettings:
    """Probabilities are per picture; each kind is drawn by itself."""

    fewer_pixels: float = 0.35
    smallest_share: float = 0.25
    """Least share of the side, in pixels, that is left."""
    blur: float = 0.15
    noise: float = 0.2
    largest_noise: float = 0.06
    """Standard deviation, of values in [-1, 1]."""
    compression: float = 0.3
    qualities: tuple[int, int] = (30, 90)
    """Range of JPEG qualities."""
    cast: float = 0.2


@torch.no_grad()
def degraded(images: Tensor, draws: torch.Generator, settings: DegradeSettings = DegradeSettings()) -> Tensor:
    """images [N, 3, R, R] in [-1, 1] => as poor pictures of the same size."""
    return torch.cat([_one(image[None], draws, settings) for image in images])


def _one(image: Tensor, draws: torch.Generator, settings: DegradeSettings) -> Tensor:
    def drawn(low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(torch.rand((), generator=draws))

    size = image.shape[-1]
    if drawn() < settings.cast:
        gain = 1 + 0.2 * (torch.rand(1, 3, 1, 1, generator=draws) - 0.5)
        image = image * gain.to(image) + drawn(-0.12, 0.12)
    if drawn() < settings.blur:
        image = _blurred(image, drawn(0.4, 1.6) * size / 256)
    if drawn() < settings.fewer_pixels:
        less = round(size * drawn(settings.smallest_share, 0.9))
        small = F.interpolate(image, size=less, mode="bilinear", align_corners=False, antialias=True)
        image = F.interpolate(small, size=size, mode="bicubic", align_corners=False)
    if drawn() < settings.noise:
        deviation = drawn(0.0, settings.largest_noise)
        image = image + deviation * torch.randn(image.shape, generator=draws).to(image)
    if drawn() < settings.compression:
        quality = round(drawn(*settings.qualities))
        image = _compressed(image, quality)
    return image.clamp(-1, 1)


def _blurred(image: Tensor, deviation: float) -> Tensor:
    reach = max(1, round(3 * deviation))
    x = torch.arange(-reach, reach + 1, dtype=torch.float32, device=image.device)
    taps = torch.exp(-0.5 * (x / deviation) ** 2)
    taps = (taps / taps.sum()).expand(3, 1, 1, -1)
    padded = F.pad(image, (reach, reach, reach, reach), mode="reflect")
    return F.conv2d(F.conv2d(padded, taps, groups=3), taps.transpose(2, 3), groups=3)


def _compressed(image: Tensor, quality: int) -> Tensor:
    bgr = np.ascontiguousarray(crops_from_images(image)[0, :, :, ::-1])
    written, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert written
    read = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert read is not None
    return images_from_crops(np.ascontiguousarray(read[None, :, :, ::-1]), image.device)
