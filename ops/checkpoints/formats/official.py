"""The official StyleRes checkpoint => ours.

The file is a dict of `e4e` (621 tensors), `latent_avg` and `generator_smooth` (275 tensors, with E1 and E2 living inside block
b64). Every key is accounted for: renamed, or known and dropped; anything else is an error that lists it. Sizes are read off the
tensors: the same layout at another resolution or with other widths is read as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ops.checkpoints.formats.sizes import encoder_sizes, generator_sizes, numbers, residual_sizes, tap_of
from ops.files.errors import CheckpointError, listing
from ops.inversion.styleres import StyleResConfig

CONV_CLAMP = 256.0  # of the official generator, in fp32 too (spec of the release, section 4); no tensor says it

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
    state["latent_avg"] = rows_of_latent_avg(latent_avg, num_ws)
    return state


def rows_of_latent_avg(latent_avg: Tensor, num_ws: int) -> Tensor:
    """A mean code of any shape that broadcasts => [num_ws, D]."""
    rows = latent_avg.reshape(-1, latent_avg.shape[-1])
    if rows.shape[0] not in (1, num_ws):
        raise CheckpointError(f"latent_avg {list(latent_avg.shape)} does not broadcast to {num_ws} rows of W+")
    return rows.expand(num_ws, -1).contiguous()


def config_from_official(e4e: Mapping[str, Tensor], generator_smooth: Mapping[str, Tensor]) -> StyleResConfig:
    """Sizes of the three networks. Raises CheckpointError where tensors that say a size are missing or disagree."""
    blocks = numbers(generator_smooth, r"synthesis\.b(\d+)\.modify_feature_")
    if len(blocks) != 1:
        raise CheckpointError(
            f"expected E1 and E2 (modify_feature_*) inside one block of the generator, got {blocks or 'none'}"
        )
    resolution = blocks[0]
    generator = generator_sizes(generator_smooth, conv_clamp=CONV_CLAMP)
    inner = {ours: value for key, value in generator_smooth.items() if "modify_feature_" in key and (ours := rename(key))}
    residual = residual_sizes(inner, resolution, generator.channels[resolution])
    encoder = encoder_sizes(e4e, feature_tap=1)
    encoder = encoder_sizes(e4e, feature_tap=tap_of(encoder.input_size, resolution))
    try:
        return StyleResConfig(generator=generator, encoder=encoder, residual=residual)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
