"""Chooses the device that a worker computes on, in the worker: the driver may have no GPU, or other ones."""

from __future__ import annotations

import ctypes
from typing import Final, Literal, TypeVar

import torch
from torch import nn

Device = Literal["auto", "cpu", "cuda"]
_M_TRIM_THRESHOLD: Final = -1  # of malloc.h
_M_MMAP_THRESHOLD: Final = -3
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


def set_up(device: str | torch.device) -> None:
    """Ready this process to compute on a device: whatever computes, inference and training alike, calls it first."""
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    else:
        reproducible_cuda()


def reproducible_cuda() -> None:
    """Make CUDA's float32 float32, and its results the same from run to run. A process calls this before it computes.

    By default convolutions of float32 run in TF32, whose ten bits of mantissa are too few for a precision that is called
    fp32; whoever wants speed asks for bf16 or fp16. And cuDNN may choose algorithms that add up in any order, or another one
    in every process by a stopwatch: a rerun of half a job would not fit to its other half.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def channels_last(module: ModuleT) -> ModuleT:
    """The module with convolution weights in NHWC order, which CPUs and tensor cores convolve 1.5 to 3 times as fast."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def keep_freed_memory() -> bool:
    """Make glibc keep large blocks that are freed, for the next layer of the same size. False without glibc.

    By default every block over 32 MiB is a mapping of its own: the feature maps of a 512 or 1024 px generator are mapped,
    zeroed page by page by the kernel, and given back, layer after layer; that takes longer than what is computed on them
    (benchmarks/README.md). A process calls this once, before it computes; its resident memory then stays at its peak.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not Linux, or musl
        return False
    most = 2**31 - 1  # mallopt takes an int
    return bool(mallopt(_M_MMAP_THRESHOLD, most)) and bool(mallopt(_M_TRIM_THRESHOLD, most))
