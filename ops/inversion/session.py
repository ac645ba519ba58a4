"""A loaded model that eats and gives numpy: what a pipeline step holds while it runs.

Batches are always full: the last one is padded by repeating its last row. Convolution and matrix kernels are chosen by shape,
so a face would otherwise get other last bits in a short batch than in a full one; this way a result does not depend on how
a clip was cut into chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ops.device import channels_last, keep_freed_memory
from ops.inversion.inverter import Inverter
from ops.spaces import images_from_crops, levels_from_images

Precision = Literal["fp32", "bf16", "fp16"]


def feature_dtype(precision: Precision) -> torch.dtype:
    match precision:
        case "fp32":
            return torch.float32
        case "bf16":
            return torch.bfloat16
        case "fp16":
            return torch.float16


class Session:
    """A model on its device, in batches."""

    def __init__(self, model: Inverter, *, device: str, precision: Precision, batch_size: int):
        if batch_size < 1:
            raise ValueError(f"expected a batch size of at least 1, got {batch_size}")
        self.device = torch.device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.model = channels_last(model).to(self.device)
        self.model.feature_dtype = feature_dtype(precision)
        self.batch_size = batch_size

    @property
    def input_size(self) -> int:
        """Side in pixels of the crops that `invert` takes."""
        return self.model.config.input_size

    def invert(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """crops uint8 [N, S, S, 3] => W+ float32 [N, L, D], detail float32 [N, ...] or None."""
        codes, details = [], []
        for rows, padded in self._batches(len(crops)):
            with torch.inference_mode():
                inversion = self.model.invert(images_from_crops(crops[padded], self.device))
                codes.append(to_numpy(inversion.wplus_NLD)[:rows])
                if inversion.detail is not None:
                    details.append(to_numpy(inversion.detail)[:rows])
        return np.concatenate(codes), np.concatenate(details) if details else None

    def generate(
        self, wplus_NLD: np.ndarray, detail: np.ndarray | None, style_offset_NS: np.ndarray | None = None
    ) -> np.ndarray:
        """W+, detail and what is added to S of the same N images => float32 [N, R, R, 3] on the 0..255 scale, not rounded."""
        images = []
        for rows, padded in self._batches(len(wplus_NLD)):
            with torch.inference_mode():
                code = self._tensor(wplus_NLD[padded])
                kept = None if detail is None else self._tensor(detail[padded])
                offset = None if style_offset_NS is None else self._tensor(style_offset_NS[padded])
                images.append(levels_from_images(self.model.generate(code, kept, offset))[:rows])
        return np.concatenate(images)

    def _batches(self, count: int) -> Iterator[tuple[int, np.ndarray]]:
        """(rows that count, indices of a full batch)."""
        for start in range(0, count, self.batch_size):
            stop = min(start + self.batch_size, count)
            yield stop - start, np.minimum(np.arange(start, start + self.batch_size), count - 1)

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor


def to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.float().contiguous().cpu().numpy()
