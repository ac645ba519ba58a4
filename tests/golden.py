"""Compare our tensors with the official programs' golden vectors, and rebuild the synthetic weights they were made with.

The weights are not stored: each tensor is drawn from a generator seeded by its name (../shared/golden/README.md).
"""

from __future__ import annotations

import functools
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.needs import SHARED

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


# ------------------------------------------------------------------------------------- the other methods' golden set


def baseline_section(system: str, name: str, *, aliases: bool = False) -> dict[str, Tensor]:
    """Synthetic tensors of one section of a method's golden set. What stands under several names is there once, or with
    `aliases` under each, as it is in an official file."""
    section = json.loads((SHARED / "golden" / f"{system}_keys.json").read_text())["sections"][name]
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    tensors: dict[str, Tensor] = {}
    for key, spec in section["tensors"].items():
        shape = tuple(spec["shape"])
        if "alias_of" in spec:
            continue
        match spec["init"]:
            case "fir":
                tensors[key] = torch.outer(taps, taps) / 64 * spec["scale"]
            case "int0":
                tensors[key] = torch.zeros(shape, dtype=torch.int64)
            case init:
                value = draw(f"{SALT}{section['seed_prefix']}.{key}", shape)
                value = value.abs_() if init == "abs" else value
                tensors[key] = value.mul_(spec["scale"]).add_(spec["offset"])
    if aliases:
        same = {key: spec["alias_of"] for key, spec in section["tensors"].items() if "alias_of" in spec}
        tensors |= {key: tensors[other] for key, other in same.items()}
    return tensors


@functools.cache
def e4e_encoder() -> dict[str, Tensor]:
    """Of e4e, pSp, HFGI and SFE alike: the set gives equal names equal values. A gigabyte, so built once."""
    return baseline_section("e4e", "encoder")


@functools.cache
def decoder() -> dict[str, Tensor]:
    """The generator of all of them, by rosinality's names."""
    return baseline_section("e4e", "decoder")


def edit_offset() -> Tensor:
    """What every edit of the set adds to W+: [1, 18, 512]."""
    return 1.5 * 0.3 * draw(f"{SALT}edit.direction", (1, 18, 512))


class Baseline:
    """One method's vectors; calling it with a key and a tensor raises AssertionError where they differ."""

    def __init__(self, system: str):
        self.arrays: Mapping[str, np.ndarray] = dict(np.load(SHARED / "golden" / "public" / f"{system}.npz"))

    def __call__(self, name: str, tensor: Tensor) -> None:
        """Against what the set stores of it: all of it, statistics, a crop, a corner, or means of blocks."""
        arrays, tensor = self.arrays, tensor.detach().float()
        std = float(tensor.double().std())
        limit = 1e-4 * max(1.0, std)
        ours = tensor.numpy()
        stored = {part for part in ("", "__stats", "__crop", "__down", "__corner") if name + part in arrays}
        assert stored, name
        if "" in stored:
            assert ours.shape == arrays[name].shape, (name, ours.shape)
            assert np.abs(ours - arrays[name]).max() <= limit, name
        if "__stats" in stored:
            flat = tensor.reshape(-1).double()
            figures = [flat.mean(), flat.std(unbiased=False), flat.min(), flat.max(), flat.norm()]
            draws = (draw(f"proj{k}:{name}", (flat.numel(),)).double() for k in range(4))
            figures += [(flat * drawn).sum() / flat.numel() ** 0.5 for drawn in draws]
            reference = arrays[f"{name}__stats"]
            error = np.abs(np.array([float(x) for x in figures]) - reference)
            assert (np.delete(error, 4) <= 1e-4 * std).all() and error[4] <= 1e-4 * reference[4], (name, error)
        if "__crop" in stored:
            reference = arrays[f"{name}__crop"]
            channels, size = reference.shape[1], reference.shape[-1]
            start = (ours.shape[-1] - size) // 2
            crop = ours[:, :channels, start : start + size, start : start + size]
            assert np.abs(crop - reference).max() <= limit, name
        if "__down" in stored:
            reference = arrays[f"{name}__down"]
            down = F.adaptive_avg_pool2d(tensor, reference.shape[-1]).numpy()
            assert np.abs(down - reference).max() <= limit, name
        if "__corner" in stored:
            assert np.abs(ours[0, :6, :6] - arrays[f"{name}__corner"]).max() <= limit, name


@contextmanager
def peak_below(limit_bytes: float, before_bytes: int) -> Iterator[None]:
    """Raises AssertionError where this process grows, inside the block, beyond `limit_bytes` above what it once held."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again at what is held now
    yield
    grown = _status("VmHWM") - before_bytes
    assert grown < limit_bytes, f"{grown / 1e9:.2f} GB more than before, allowed {limit_bytes / 1e9:.2f}"


def resident_bytes() -> int:
    """What this process holds now."""
    return _status("VmRSS")


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, field
    return int(found[1]) * 1024
