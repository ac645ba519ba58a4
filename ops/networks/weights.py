"""Published weight files => our networks. Nothing in a file is ever executed, and every tensor of it is accounted for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from ops.device import channels_last
from ops.files.errors import CheckpointError, listing
from ops.files.sniff import sniff
from ops.files.torch_file import load_torch_file

NetworkT = TypeVar("NetworkT", bound=nn.Module)
COUNTER = ".num_batches_tracked"
"""Batch normalisation's counter of training steps: older files lack it, and evaluation never reads it."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A flat state dict, names => tensors in float32, from safetensors or a file of torch.save, whatever its suffix.

    Raises CheckpointError for anything else, a hostile pickle among it: it is refused, not run.
    """
    found = sniff(path)
    match found.kind:
        case "safetensors":
            content: object = safetensors.torch.load_file(path)
        case _:
            content = load_torch_file(path, "a weight file (.pt, .pth or .safetensors) as published")
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: expected a state dict (names => tensors), got {_kind(content)}")
    strange = [str(name) for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if strange:
        raise CheckpointError(
            f"{path}: expected a flat state dict, but these entries are no tensors: {listing(strange)}; save that part alone"
        )
    return {name: value.float() if value.is_floating_point() else value for name, value in content.items()}


def load_strict(
    build: Callable[[], NetworkT], tensors: Mapping[str, Tensor], where: str, *, dropped: Sequence[str] = ()
) -> NetworkT:
    """The network with these weights, in evaluation mode, without gradients, channels last.

    dropped: prefixes of tensors that the file is known to hold and the network never runs.
    Raises CheckpointError that lists what is missing, unknown or of another shape; `where` names the file in it.
    """
    with torch.device("meta"):
        network = build()
    wanted = network.state_dict()
    known = {name: tensor for name, tensor in tensors.items() if not name.startswith(tuple(dropped))}
    problems = []
    missing = [name for name in wanted if name not in known and not name.endswith(COUNTER)]
    unknown = [name for name in known if name not in wanted]
    wrong = [
        f"{name} {list(known[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in known and known[name].shape != tensor.shape
    ]
    if missing:
        problems.append(f"lacks {listing(missing)}")
    if unknown:
        problems.append(f"has tensors that {type(network).__name__} does not know: {listing(unknown)}")
    if wrong:
        problems.append(f"has other shapes: {listing(wrong)}")
    if problems:
        raise CheckpointError(f"{where}: is not a file for {type(network).__name__}: it {'; it '.join(problems)}")
    state = {name: known[name] if name in known else torch.zeros((), dtype=torch.int64) for name in wanted}
    network.load_state_dict(state, assign=True)
    return channels_last(network.requires_grad_(False).eval())


def _kind(content: object) -> str:
    return "an empty one" if isinstance(content, Mapping) else type(content).__name__
