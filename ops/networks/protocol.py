"""How the official evaluation prepares pictures before it compares them: as 8-bit files, at 256 pixels."""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image
from torch import Tensor

from ops.spaces import images_from_crops

PROTOCOL_SIZE: Final = 256


def at_protocol_size(crops: np.ndarray) -> np.ndarray:
    """crops uint8 [N, R, R, 3] => uint8 [N, 256, 256, 3] by PIL's bilinear filter; smaller ones are enlarged."""
    size = (PROTOCOL_SIZE, PROTOCOL_SIZE)
    return np.stack([np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BILINEAR)) for crop in crops])


def protocol_images(crops: np.ndarray) -> Tensor:
    """crops uint8 [N, R, R, 3] => images [N, 3, 256, 256] in [-1, 1]."""
    return images_from_crops(at_protocol_size(crops))
