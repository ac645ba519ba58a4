"""The official StyleRes checkpoint's names => ours.

The file is a dict of `e4e` (621 tensors), `latent_avg` and `generator_smooth` (275 tensors, with E1 and E2 living inside block
b64). Every key is accounted for: renamed, or known and dropped; anything else is an error that lists it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ops.checkpoints.errors import CheckpointError, listing

RENAMES = (
    # official prefix inside `generator_smooth`          ours; None = known and dropped
    (r"synthesis\.b\d+\.modify_feature_alignment\.dconv3\.", None),  # in the file for strict loading, never run
    (r"synthesis\.b\d+\.modify_feature_alignment\.", "alignment."),
    (r"synthesis\.b\d+\.modify_feature_extraction\.", "extraction."),
    (r"synthesis\.b\d+\.modify_feature_gates\.", "gates."),
    (r"(.*\.)?resample_filter$", None),  # the same constant in every layer; ours is built from the config
    (r"(?=synthesis\.|mapping\.)", "generator."),
)


def rename(key: str) -> str | None:
    """One key of `generator_smooth` => ours, or None where it is dropped on purpose."""
    for pattern, ours in RENAMES:
        match = re.match(pattern, key)
        if match:
            return None if ours is None else ours + key[match.end() :]
    raise KeyError(key)


def state_dict_from_official(
    e4e: Mapping[str, Tensor], latent_avg: Tensor, generator_smooth: Mapping[str, Tensor], *, num_ws: int
) -> dict[str, Tensor]:
    """The three parts of the official file => a state dict for `ops.inversion.styleres.StyleRes`.

    latent_avg may have any shape that broadcasts to [num_ws, D]: [D], [1, D], [L, D], [1, L, D].
    Raises CheckpointError with the list of keys that belong to no known part.
    """
    state: dict[str, Tensor] = {f"encoder.{key}": value for key, value in e4e.items()}
    unknown = []
    for key, value in generator_smooth.items():
        try:
            ours = rename(key)
        except KeyError:
            unknown.append(key)
            continue
        if ours is not None:
            state[ours] = value
    if unknown:
        raise CheckpointError(f"keys of generator_smooth that no StyleRes model has: {listing(unknown)}")
    rows = latent_avg.reshape(-1, latent_avg.shape[-1])
    if rows.shape[0] not in (1, num_ws):
        raise CheckpointError(f"latent_avg {list(latent_avg.shape)} does not broadcast to {num_ws} rows of W+")
    state["latent_avg"] = rows.expand(num_ws, -1).contiguous()
    return state
