"""A whole foreign model in our names, checked tensor by tensor before it is believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from ops.files.errors import CheckpointError, listing
from ops.inversion.methods import Method, MethodConfig, build_inverter

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, eq=False)
class Model:
    """A whole model in our names."""

    method: Method
    config: MethodConfig
    weights: Mapping[str, Tensor]


def config_of(build: Callable[[], ConfigT]) -> ConfigT:
    """The parts as one model. Raises CheckpointError where they do not fit together."""
    try:
        return build()
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def tensors_only(part: Mapping[str, object], where: str) -> dict[str, Tensor]:
    """A state dict. Raises CheckpointError for values other than tensors."""
    tensors = {name: value for name, value in part.items() if isinstance(name, str) and isinstance(value, Tensor)}
    others = [f"{where}{name} ({type(value).__name__})" for name, value in part.items() if name not in tensors]
    if others:
        raise CheckpointError(f"expected tensors only, got {listing(others)}")
    return tensors


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those below a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def named(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """{part: {name: tensor}} => {part.name: tensor}."""
    return {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}


def fitted(model: Model) -> Model:
    """The model, if it has just the tensors that it should have, in our order. Raises CheckpointError with the lists if not."""
    with torch.device("meta"):
        wanted = config_of(lambda: build_inverter(model.method, model.config)).state_dict()
    check_names(model.weights, wanted)
    return replace(model, weights={name: model.weights[name] for name in wanted})


def check_names(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError that lists what is missing, unknown or of another shape, by our names."""
    missing, unknown = set(wanted) - set(got), set(got) - set(wanted)
    shapes = [
        f"{name} {list(got[name].shape)}, expected {list(wanted[name].shape)}"
        for name in wanted
        if name in got and got[name].shape != wanted[name].shape
    ]
    said = [
        f"{what} ({len(names)}): {listing(names)}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if names
    ]
    if said:
        raise CheckpointError("its tensors, by our names, do not make the model. " + "; ".join(said))
