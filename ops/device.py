"""Which device a worker computes on. Decided in the worker: the driver may have no GPU, or other ones."""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
from torch import nn

Device = Literal["auto", "cpu", "cuda"]
ModuleT = TypeVar("ModuleT", bound=nn.Module)


class DeviceError(ValueError):
    """A device that was asked for by name and is not there."""


def resolve_device(device: Device) -> str:
    """ "auto" is CUDA where this process sees a GPU, else the CPU.

    Raises DeviceError when CUDA is asked for by name and absent: a silent fall-back would take a night instead of minutes.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device cuda was asked for, but torch sees no GPU in this process; use --device auto or cpu")
    return device


def channels_last(module: ModuleT) -> ModuleT:
    """The module with convolution weights in NHWC order, which CPUs and tensor cores convolve 1.5 to 3 times as fast."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
