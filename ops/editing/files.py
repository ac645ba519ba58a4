"""Tensors from users' files, without executing any of them, and the digests that say which files they were."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from ops.editing.editor import EditError
from ops.files.torch_file import load_torch_file

SUFFIXES = (".npy", ".npz", ".safetensors", ".pt", ".pth")
BARE = ""
"""The name of a tensor whose file gives it none (`.npy`, a bare tensor in `.pt`)."""


def read_tensors(path: str | Path, what: str) -> dict[str, torch.Tensor]:
    """Every tensor of a file by name, float32, on the CPU: `.npy`, `.npz`, `.safetensors`, `.pt` or `.pth`.

    A `.pt` holds a bare tensor or a dict of tensors. Nothing in the file is executed: pickled arrays are refused, `.pt` is read
    with weights only, and a tensor that was saved on a GPU comes to the CPU.

    Args:
        what: for messages, such as "a direction".

    Raises:
        EditError: a missing or unreadable file, another suffix, no tensor, or one that is not of floats.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise EditError(f"{path}: {what} is a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, got {suffix!r}")
    if not path.is_file():
        raise EditError(f"{path}: no such file; give a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file with {what}")
    try:
        loaded = _load_without_executing(path, suffix)
    except Exception as error:  # these readers let many kinds through when the bytes are not theirs
        raise EditError(f"{path}: cannot be read as {what} ({type(error).__name__}: {error})") from error
    found: Mapping[object, object] = loaded if isinstance(loaded, Mapping) else {BARE: loaded}
    if not found:
        raise EditError(f"{path}: expected {what}, found no tensor at all")
    tensors = {}
    for name, tensor in found.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            kind = f"a tensor of {tensor.dtype}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise EditError(f"{path}: expected {what} as tensors of floats, found {kind}{f' as {name!r}' if name else ''}")
        tensors[str(name)] = tensor.detach().to(torch.float32)
    return tensors


def one_tensor(path: str | Path, what: str) -> torch.Tensor:
    """The only tensor of a file, whatever its name.

    Raises:
        EditError: as `read_tensors`, or several tensors.
    """
    tensors = read_tensors(path, what)
    if len(tensors) != 1:
        raise EditError(f"{path}: expected one tensor, found {', '.join(sorted(tensors))}")
    return next(iter(tensors.values()))


def _load_without_executing(path: Path, suffix: str) -> object:
    match suffix:
        case ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False))
        case ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        case ".safetensors":
            return safetensors.torch.load_file(path)
        case _:
            return load_torch_file(path)
