"""Compare our tensors with the official programs' golden vectors, and rebuild the synthetic weights they were made with.

The weights are not stored: each tensor is drawn from a generator seeded by its name (../shared/golden/README.md).
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SALT = "public"
RTOL = 2e-4
"""Tolerance of the golden set, relative to the reference's largest magnitude."""


def draw(name: str, shape: tuple[int, ...]) -> Tensor:
    seed = zlib.crc32(name.encode())
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def synthetic_weights(golden: Path, section: str, keys: str = "styleres_keys.json") -> dict[str, Tensor]:
    """The official state dict's names => synthetic tensors of one section of a list of keys."""
    table = json.loads((golden / keys).read_text())["sections"][section]["tensors"]
    weights = {}
    for name, spec in table.items():
        shape = tuple(spec["shape"])
        match spec["init"]:
            case "fir":
                taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
                weights[name] = torch.outer(taps, taps) / 64
            case "int0":
                weights[name] = torch.zeros(shape, dtype=torch.int64)
            case "randn":
                weights[name] = draw(f"{SALT}{section}.{name}", shape).mul_(spec["scale"]).add_(spec["offset"])
            case "abs":
                weights[name] = draw(f"{SALT}{section}.{name}", shape).abs_().mul_(spec["scale"]).add_(spec["offset"])
            case other:
                raise ValueError(f"unknown initialisation {other!r} of {name}")
    return weights


def input_image(index: int = 0, size: int = 256) -> Tensor:
    """The golden set's smooth synthetic picture, float32 [1, 3, size, size] in [-1, 1]."""
    n = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    v, u = n[:, None], n[None, :]
    p = [(zlib.crc32(f"{SALT}image{index}.{k}".encode()) % 1000) / 1000 for k in range(12)]
    tau = 2 * torch.pi
    planes = []
    for c in range(3):
        a, b, d, e = p[4 * c : 4 * c + 4]
        wave = 0.45 * torch.sin(tau * ((1 + a) * u + (0.5 + b) * v + d))
        wave = wave + 0.30 * torch.cos(tau * ((2 + c) * v - (1 + e) * u + a))
        blob = 0.20 * torch.exp(-((u - 0.3 - 0.4 * b) ** 2 + (v - 0.3 - 0.4 * d) ** 2) / 0.02)
        planes.append((wave + blob).clamp(-1, 1))
    return torch.stack(planes)[None].float()


class Golden:
    """One file of vectors; calling it with a key and a tensor raises AssertionError with the numbers where they differ."""

    def __init__(self, golden: Path, name: str):
        self.arrays = np.load(golden / "public" / f"styleres_{name}.npz")

    def _close(self, what: str, got: np.ndarray, reference: np.ndarray, scale: float) -> None:
        error = float(np.abs(np.asarray(got, np.float64) - np.asarray(reference, np.float64)).max())
        assert error <= RTOL * max(scale, 1e-6), f"{what}: largest error {error:.3e}, allowed {RTOL * scale:.3e}"

    def __call__(self, key: str, tensor: Tensor) -> None:
        arrays, t = self.arrays, tensor.detach().float()
        assert list(t.shape) == arrays[f"shape/{key}"].tolist(), (key, list(t.shape), arrays[f"shape/{key}"].tolist())
        mean, std, low, high, norm, *projections = arrays[f"stats/{key}"]
        peak = max(abs(low), abs(high))
        flat = t.reshape(-1).double()
        got = [flat.mean(), flat.std(unbiased=False), flat.min(), flat.max()]
        self._close(f"{key} mean, std, min, max", np.array(got), np.array([mean, std, low, high]), peak)
        ours = [float(flat @ draw(f"proj{k}:{key}", (flat.numel(),)).double()) / flat.numel() ** 0.5 for k in range(4)]
        self._close(f"{key} projections", np.array(ours), np.array(projections), 3 * norm / flat.numel() ** 0.5)
        if f"full/{key}" in arrays:
            self._close(f"{key} full", t.numpy(), arrays[f"full/{key}"], peak)
        if f"sub/{key}" in arrays:
            channel, space = arrays[f"stride/{key}"].tolist()
            self._close(f"{key} sub", t[:, ::channel, ::space, ::space].numpy(), arrays[f"sub/{key}"], peak)
        if f"pool/{key}" in arrays:
            self._close(f"{key} pool", F.avg_pool2d(t, t.shape[-1] // 128).numpy(), arrays[f"pool/{key}"], peak)
            c = t.shape[-1] // 2
            self._close(f"{key} crop", t[:, :, c - 32 : c + 32, c - 32 : c + 32].numpy(), arrays[f"crop/{key}"], peak)
