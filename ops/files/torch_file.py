"""torch.save files as data: tensors, containers, numbers and strings. Nothing that a file names is imported or called."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import torch

from ops.files.errors import CheckpointError
from ops.files.sniff import sniff, wrong_file


def load_torch_file(path: Path, expected: str = "a torch.save file") -> object:
    """Read the object that torch.save was given. Tensors of today's layout are mapped, not read: they cost memory when used.

    Options of training scripts come as dicts or `argparse.Namespace`, which is plain data too and let through. Raises
    CheckpointError for another kind of file, a damaged one, and one that holds anything else than data.
    """
    found = sniff(path)
    if found.kind not in ("torch", "torch-legacy"):
        raise wrong_file(path, found, expected)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=found.kind == "torch")
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line or "global" in line), str(error))
        raise CheckpointError(
            f"{path}: holds objects besides tensors and plain values, and no code is run to read them ({reason.strip()[:200]})"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError, OSError) as error:
        raise CheckpointError(f"{path}: {found.about}, but a damaged one ({error}); download it again") from error
