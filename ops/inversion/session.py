"""A loaded model with numpy in and out, which a pipeline step holds while it runs.

Batches are padded by repeating the last row: on a CPU to a multiple of `QUANTUM`, on a GPU until they are full. Convolution
and matrix kernels are chosen by shape, so a face would otherwise get other last bits in a short batch than in a full one; this
way a result does not depend on how a clip was cut into chunks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Lock
from typing import Final, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from ops.device import channels_last, set_up
from ops.inversion.inverter import Inverter
from ops.spaces import images_from_crops, levels_from_images

Precision = Literal["fp32", "bf16", "fp16"]
T = TypeVar("T")
QUANTUM = 4
"""Batches of multiples of it give a face the same bits on a CPU (tests/ops/inversion/test_same_bits.py)."""
CELLS = 16 * 256 * 256
"""Pixels that a CPU generates at a time at most: feature maps of more are slower to move than to compute."""


def feature_dtype(precision: Precision) -> torch.dtype:
    match precision:
        case "fp32":
            return torch.float32
        case "bf16":
            return torch.bfloat16
        case "fp16":
            return torch.float16


ONE_BATCH: Final = Lock()
"""Sessions of a process compute one batch at a time: one fills a device, and two would need the memory of both."""


class Session:
    """A model on its device, in batches. Threads may share it."""

    def __init__(self, model: Inverter, *, device: str, precision: Precision, batch_size: int, quantum: int = QUANTUM):
        """quantum: on a CPU batches are padded to multiples of it. 1 makes a single picture at a third of the cost, with other
        last bits (1e-4 levels) than a full batch: for a picture that is shown while a slider moves."""
        if batch_size < 1:
            raise ValueError(f"expected a batch size of at least 1, got {batch_size}")
        self.device = torch.device(device)
        set_up(self.device)
        self.model = channels_last(model).to(self.device)
        self.model.feature_dtype = feature_dtype(precision)
        self.batch_size = batch_size
        self.quantum = quantum

    @property
    def input_size(self) -> int:
        """Side in pixels of the crops that `invert` takes."""
        return self.model.config.input_size

    def invert(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """crops uint8 [N, S, S, 3] => W+ float32 [N, L, D], detail float32 [N, ...] or None."""

        def one(rows: int, padded: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
            inversion = self.model.invert(images_from_crops(crops[padded], self.device))
            detail = None if inversion.detail is None else to_numpy(inversion.detail)[:rows]
            return to_numpy(inversion.wplus_NLD)[:rows], detail

        done = self.in_batches(len(crops), one)
        details = [detail for _, detail in done if detail is not None]
        return np.concatenate([code for code, _ in done]), np.concatenate(details) if details else None

    def generate_levels(
        self,
        wplus_NLD: np.ndarray,
        detail: np.ndarray | None,
        style_offset_NS: np.ndarray | None = None,
        *,
        unedited_NLD: np.ndarray | None = None,
        size: int | None = None,
    ) -> np.ndarray:
        """Draw N pictures from W+, detail and offsets of S => levels, float32 [N, R, R, 3] in 0..255, not rounded, not clipped.

        The model's own `generate` gives images in [-1, 1]. unedited_NLD, size: as `Inverter.generate` takes them.
        """

        def one(rows: int, padded: np.ndarray) -> np.ndarray:
            code = self._tensor(wplus_NLD[padded])
            kept = None if detail is None else self._tensor(detail[padded])
            offset = None if style_offset_NS is None else self._tensor(style_offset_NS[padded])
            before = None if unedited_NLD is None else self._tensor(unedited_NLD[padded])
            return levels_from_images(self.model.generate(code, kept, offset, unedited_NLD=before, size=size))[:rows]

        side = size or self.model.config.generator.resolution
        return np.concatenate(self.in_batches(len(wplus_NLD), one, most=max(self.quantum, CELLS // side**2)))

    def in_batches(self, count: int, one: Callable[[int, np.ndarray], T], most: int | None = None) -> list[T]:
        """`one` takes (rows that count, indices of a batch) => what it gives, in order. Where memory ends, batches are half as
        large from then on. For other networks on the same device, too: a face's bits do not depend on its company there.

        most: rows of a batch at most on a CPU, a multiple of QUANTUM.
        """
        results, start = [], 0
        on_cpu = self.device.type == "cpu"
        while start < count:
            full = min(self.batch_size, most or self.batch_size) if on_cpu else self.batch_size
            stop = min(start + full, count)
            length = min(full, -(-(stop - start) // self.quantum) * self.quantum) if on_cpu else full
            padded = np.minimum(np.arange(start, start + length), count - 1)
            try:
                with ONE_BATCH, torch.inference_mode():
                    results.append(one(stop - start, padded))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self.batch_size == 1:
                    raise
                self.batch_size //= 2
                logging.getLogger(__name__).warning("out of memory: batches of %d from now on", self.batch_size)
            else:
                start = stop
                continue
            if self.device.type == "cuda":  # after the exception, whose frames hold tensors, is gone
                torch.cuda.empty_cache()
        return results

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor


def is_out_of_memory(error: Exception) -> bool:
    """CUDA has a class for it; the CPU's allocator says it in words."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error)


def to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.float().contiguous().cpu().numpy()
