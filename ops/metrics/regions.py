"""Marks where in a frame an edit may show: the paste's own mask, in the frame's pixels."""

from __future__ import annotations

import cv2
import numpy as np

from ops.face.align import crop_from_source, transform_points
from ops.face.mask import MaskSettings, build_mask
from ops.face.paste import MASK_SIZE


def frame_mask(shape: tuple[int, ...], quad_42: np.ndarray, landmarks_52: np.ndarray, settings: MaskSettings) -> np.ndarray:
    """float32 [H, W] in [0, 1] for a frame of shape (H, W, ...): what `ops.face.paste.paste` multiplies the change with."""
    crop_from_frame = crop_from_source(quad_42, MASK_SIZE)
    mask = build_mask(MASK_SIZE, settings, transform_points(crop_from_frame, landmarks_52))
    size = (shape[1], shape[0])
    return cv2.warpAffine(mask, crop_from_frame[:2], size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
