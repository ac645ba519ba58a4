"""Which device a worker computes on. Decided in the worker: the driver may have no GPU, or other ones."""

from __future__ import annotations

from typing import Literal

import torch

Device = Literal["auto", "cpu", "cuda"]


def resolve_device(device: Device) -> str:
    """ "auto" is CUDA where this process sees a GPU, else the CPU.

    Raises ValueError when CUDA is asked for by name and absent: a silent fall-back would take a night instead of minutes.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but torch sees no GPU in this process; use --device auto or cpu")
    return device
