"""NVIDIA's network pickles (StyleGAN2-ADA, and StyleGAN2 as trained by StyleGAN3's code) => plain tensors.

A pickle holds G, D and G_ema as `torch_utils.persistence` objects: the source of their classes, and their state. Only the state
is looked at: parameters and buffers by name, and the few settings that no tensor shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ops.checkpoints.formats.sizes import generator_sizes
from ops.files.errors import CheckpointError, listing
from ops.files.plain_pickle import Inert
from ops.generators.discriminator import Discriminator
from ops.generators.stylegan2_config import StyleGAN2Config

ABSENT = object()


@dataclass(frozen=True, eq=False)
class Module:
    """One network or layer of a pickle: the class's name, and what its instance held."""

    kind: str
    state: Mapping[str, Any]

    def part(self, name: str) -> dict[str, Any]:
        """One of torch's tables of a module: `_modules`, `_parameters`, `_buffers`."""
        table = self.state.get(name)
        return table if isinstance(table, dict) else {}

    def children(self) -> Iterator[tuple[str, Module]]:
        """The modules right below."""
        for name, child in self.part("_modules").items():
            if child is not None:
                yield str(name), module_from(child, str(name))

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and buffers of the module and all below it, by their dotted names."""
        own = {**self.part("_parameters"), **self.part("_buffers")}
        found = {f"{prefix}{name}": value for name, value in own.items() if isinstance(value, Tensor)}
        for name, child in self.children():
            found |= child.tensors(f"{prefix}{name}.")
        return found

    def settings(self, name: str) -> set[Any]:
        """The different values that an attribute takes in the module and all below it."""
        found = {self.state[name]} if isinstance(self.state.get(name, ABSENT), int | float | str | None) else set()
        return found.union(*(child.settings(name) for _, child in self.children()))


def module_from(value: object, name: str) -> Module:
    """A persistent object, or a plainly pickled module, as its state. Raises CheckpointError for anything else."""
    if isinstance(value, Inert):
        state, kind = value.state, value.name
        if value.name.split(".")[-1] == "_reconstruct_persistent_obj":
            meta = value.arguments[0] if value.arguments else None
            if isinstance(meta, dict):
                state, kind = meta.get("state"), str(meta.get("class_name"))
        if isinstance(state, dict):
            return Module(kind, state)
    raise CheckpointError(f"{name}: expected a network of torch_utils.persistence, got {type(value).__name__}")


def is_network_pickle(content: object) -> bool:
    """Return whether a pickle's content looks like {'G', 'D', 'G_ema', ...}."""
    return isinstance(content, dict) and "G_ema" in content


def generator_from_pickle(content: object) -> tuple[StyleGAN2Config, dict[str, Tensor]]:
    """G_ema of a network pickle => its sizes and its state dict.

    Raises CheckpointError for another architecture than StyleGAN2's 'skip' generator, and says which.
    """
    if isinstance(content, tuple) and len(content) == 3:
        raise CheckpointError(
            "a network pickle of the TensorFlow StyleGAN (a tuple of G, D, Gs); turn it into a PyTorch pickle with NVIDIA's "
            "own legacy.py first, then convert that"
        )
    if not isinstance(content, dict) or "G_ema" not in content:
        keys = f"a dict of {listing(map(str, content))}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise CheckpointError(f"expected a network pickle with G_ema, got {keys}")
    network = module_from(content["G_ema"], "G_ema")
    tensors = network.tensors()
    if any(name.startswith("synthesis.input.") for name in tensors):
        raise CheckpointError("G_ema is an alias-free StyleGAN3 generator; only StyleGAN2 generators can carry StyleRes or e4e")
    kinds = network.settings("architecture") - {"skip"}
    if kinds:
        raise CheckpointError(f"G_ema has the architecture {listing(map(str, kinds))}; expected 'skip'")
    activations = network.settings("activation") - {"lrelu", "linear"}
    if activations:
        raise CheckpointError(f"G_ema has the activation {listing(map(str, activations))}; expected 'lrelu'")
    clamps = network.settings("conv_clamp")
    if len(clamps) > 1:
        raise CheckpointError(f"G_ema clamps its layers at different values: {sorted(map(str, clamps))}; expected one")
    clamp = clamps.pop() if clamps else None
    config = generator_sizes(tensors, conv_clamp=None if clamp is None else float(clamp))
    return config, {name: value for name, value in tensors.items() if not name.endswith("resample_filter")}


def discriminator_from_pickle(content: object, config: StyleGAN2Config) -> dict[str, Tensor] | None:
    """D of a network pickle, where it is the generator's counterpart of the 'resnet' kind; None where it is not."""
    if not isinstance(content, dict) or content.get("D") is None:
        return None
    try:
        tensors = module_from(content["D"], "D").tensors()
    except CheckpointError:
        return None
    with torch.device("meta"):
        wanted = {name: value.shape for name, value in Discriminator(config).state_dict().items()}
    kept = {name: value for name, value in tensors.items() if not name.endswith("resample_filter")}
    return kept if {name: value.shape for name, value in kept.items()} == wanted else None
