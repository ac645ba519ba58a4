"""The spaces a picture goes through, and the only conversions between them.

    frame    uint8  [H, W, 3]      RGB, upright                                  (ops.video, ops.face)
    crop     uint8  [R, R, 3]      RGB, aligned by the FFHQ rule                 (ops.face.align)
    image    float  [N, 3, R, R]   RGB in nominal [-1, 1], not clamped           (ops.inversion, ops.generators)
    W+       float  [N, L, D]      one row of width D for each of L style inputs (`wplus_NLD`)
    S        list of float [N, C]  StyleSpace: one vector for each modulated convolution

The rule (v - 127.5) / 127.5 stands here and nowhere else.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def images_from_crops(crops: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """crops uint8 [N, R, R, 3] => images float32 [N, 3, R, R] in [-1, 1].

    The bytes cross to `device` before they become floats: a quarter of the traffic, from pinned memory on CUDA.
    """
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[-1] != 3:
        raise ValueError(f"expected crops as uint8 [N, R, R, 3], got {crops.dtype} {crops.shape}")
    raw = torch.from_numpy(np.array(crops, copy=not crops.flags.writeable))
    if torch.device(device).type == "cuda":
        raw = raw.pin_memory()
    raw = raw.to(device, non_blocking=True)
    return images_from_bytes(raw)


def images_from_bytes(raw: Tensor) -> Tensor:
    """uint8 [N, R, R, 3] on any device => images float32 [N, 3, R, R] in [-1, 1], there: (v - 127.5) / 127.5."""
    return raw.permute(0, 3, 1, 2).float().sub_(127.5).div_(127.5)


def levels_from_images(images: Tensor) -> np.ndarray:
    """images [-1, 1] => float32 [N, R, R, 3] on the 0..255 scale, neither rounded nor clipped (what paste blends)."""
    return images.float().mul(127.5).add_(127.5).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def crops_from_images(images: Tensor) -> np.ndarray:
    """images [-1, 1] => crops uint8 [N, R, R, 3]: (v + 1) * 127.5, rounded half up, clipped (the official rule)."""
    return np.clip(np.floor(levels_from_images(images).astype(np.float64) + 0.5), 0, 255).astype(np.uint8)
