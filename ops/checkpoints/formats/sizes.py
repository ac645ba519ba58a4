"""Sizes of a model read off its tensors: a foreign file of any resolution and any widths needs no preset.

Names of generators are NVIDIA's here, names of encoders the official e4e's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ops.files.errors import CheckpointError, listing
from ops.generators.stylegan2_config import StyleGAN2Config
from ops.inversion.e4e import E4eConfig
from ops.inversion.hfgi import ConsultationConfig
from ops.inversion.hyperstyle import HypernetConfig
from ops.inversion.residual import ResidualConfig
from ops.inversion.sfe import FeatureConfig
from ops.nn.ir import Group
from ops.nn.resample import fir_kernel

FIR_TAPS = (1, 3, 3, 1)


def need(tensors: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    """Shape of a tensor that sizes are read from. Raises CheckpointError where it is absent or has other axes."""
    if name not in tensors:
        raise CheckpointError(f"the file lacks {name}, which says a size of the model; it has {listing(tensors, 8)}")
    shape = tuple(tensors[name].shape)
    if len(shape) != axes:
        raise CheckpointError(f"{name}: expected {axes} axes, got {list(shape)}")
    return shape


def numbers(tensors: Mapping[str, Tensor], pattern: str) -> list[int]:
    """The different numbers that the one group of a pattern takes at the start of names, in order."""
    return sorted({int(match[1]) for name in tensors if (match := re.match(pattern, name))})


def generator_sizes(tensors: Mapping[str, Tensor], *, conv_clamp: float | None) -> StyleGAN2Config:
    """A StyleGAN2 by NVIDIA's names. `conv_clamp` is not in tensors: the format or the file's settings say it."""
    resolutions = numbers(tensors, r"synthesis\.b(\d+)\.")
    expected = [2**k for k in range(2, max(resolutions, default=4).bit_length())]
    if resolutions != expected or len(resolutions) < 4:
        raise CheckpointError(
            f"expected generator blocks b4, b8, ... up to b32 or more, got {resolutions or 'none'}; this is no StyleGAN2 "
            "generator of the 'skip' kind"
        )
    if any(name.startswith("mapping.embed.") for name in tensors):
        raise CheckpointError("a generator with class labels (mapping.embed); only unconditional ones can be inverted")
    image_channels = need(tensors, "synthesis.b4.torgb.weight", 4)[0]
    if image_channels != 3:
        raise CheckpointError(f"a generator of images with {image_channels} channels; expected 3 (RGB)")
    for name, kernel in tensors.items():
        if name.endswith("resample_filter"):
            check_fir(name, kernel)
    if resolutions[-1] > 1024:
        raise CheckpointError(f"a generator of {resolutions[-1]} px; expected at most 1024")
    return StyleGAN2Config(
        resolution=resolutions[-1],
        w_dim=need(tensors, "synthesis.b4.conv1.affine.weight", 2)[1],
        z_dim=need(tensors, "mapping.fc0.weight", 2)[1],
        mapping_layers=len(numbers(tensors, r"mapping\.fc(\d+)\.weight")),
        channels={res: need(tensors, f"synthesis.b{res}.conv1.weight", 4)[0] for res in resolutions},
        conv_clamp=conv_clamp,
        resample_filter=FIR_TAPS,
    )


def check_fir(name: str, kernel: Tensor, gain: float = 1.0) -> None:
    """Raises CheckpointError for a resampling filter that is not outer([1, 3, 3, 1]) with sum `gain`."""
    expected = fir_kernel(FIR_TAPS) * gain
    if kernel.shape != expected.shape or not torch.allclose(kernel.float(), expected, rtol=1e-4, atol=1e-6):
        raise CheckpointError(
            f"{name}: expected the filter [1, 3, 3, 1] with sum {gain:g}, got {list(kernel.shape)} with sum "
            f"{float(kernel.sum()):g}; generators with other filters are not supported"
        )


def encoder_sizes(tensors: Mapping[str, Tensor], feature_tap: int) -> E4eConfig:
    """An e4e encoder by its own names. `feature_tap`: which of c0..c3 is F0; nothing in the encoder says it."""
    groups = body_groups(tensors)
    rows = numbers(tensors, r"styles\.(\d+)\.")
    depths = [len(numbers({name: t for name, t in tensors.items() if name.startswith(f"styles.{row}.convs.")},
                          rf"styles\.{row}\.convs\.(\d+)\.")) for row in rows]  # fmt: skip
    if (
        not rows
        or rows != list(range(len(rows)))
        or depths != sorted(depths)
        or not set(depths) <= {depths[0] + k for k in (0, 1, 2)}
    ):
        raise CheckpointError(
            f"expected heads styles.0, styles.1, ... of n, then n+1, then n+2 convolutions, got {depths or 'none'}"
        )
    return E4eConfig(
        input_size=16 << depths[0],
        stem_channels=need(tensors, "input_layer.0.weight", 4)[0],
        groups=groups,
        head_channels=need(tensors, "styles.0.convs.0.weight", 4)[0],
        w_dim=need(tensors, "styles.0.linear.weight", 2)[0],
        num_ws=len(rows),
        coarse_rows=depths.count(depths[0]),
        middle_rows=depths.count(depths[0] + 1),
        feature_tap=feature_tap,
        image_channels=need(tensors, "input_layer.0.weight", 4)[1],
    )


def body_groups(tensors: Mapping[str, Tensor], unit: str = "res_layer.1") -> tuple[Group, ...]:
    """The four groups of an encoder's body, whose units' first convolutions are `body.N.{unit}`.

    A group begins with the unit that halves the map. Where it also changes the number of channels, its shortcut has weights;
    the first group keeps its channels.
    """
    channels = [need(tensors, f"body.{i}.{unit}.weight", 4)[:2] for i in numbers(tensors, r"body\.(\d+)\.")]
    starts = [0, *(i for i, (out, into) in enumerate(channels) if i > 0 and out != into)]
    if not channels or len(starts) != 4:
        raise CheckpointError(
            f"the encoder's body changes its channels {len(starts) - 1} times and not 3 times, so where its four groups begin "
            "cannot be read from the file"
        )
    ends = [*starts[1:], len(channels)]
    return tuple((channels[a][1], channels[a][0], b - a) for a, b in zip(starts, ends, strict=True))


def consultation_sizes(
    alignment: Mapping[str, Tensor], consultation: Mapping[str, Tensor], input_size: int
) -> ConsultationConfig:
    """HFGI's two networks by their official names; both reduce by the official strides, which no tensor says."""
    aligned = [need(alignment, "conv_layer1.0.weight", 4)[0]]
    aligned += [need(alignment, f"conv_layer{n}.0.res_layer.1.weight", 4)[0] for n in (2, 3, 4)]
    widths = [need(consultation, "conv_layer1.0.weight", 4)[0]]
    widths += [need(consultation, f"conv_layer{n}.0.res_layer.1.weight", 4)[0] for n in (2, 3)]
    return ConsultationConfig(
        resolution=input_size // 4,
        alignment_widths=(aligned[0], aligned[1], aligned[2], aligned[3]),
        widths=(widths[0], widths[1], widths[2]),
    )


def hypernet_sizes(hypernet: Mapping[str, Tensor], deltas: Mapping[str, Tensor]) -> tuple[HypernetConfig, int]:
    """HyperStyle's hypernetwork by the official names, its maps by ours => (sizes, side of its images in pixels)."""
    blocks = numbers(hypernet, r"refinement_blocks\.(\d+)\.")
    shared = [n for n in blocks if f"refinement_blocks.{n}.linear.weight" in hypernet]
    own = [n for n in blocks if n not in shared]
    if not shared or not own:
        raise CheckpointError(f"expected heads of layers with and without a shared map, got {len(shared)} and {len(own)}")
    head = {name: value for name, value in hypernet.items() if name.startswith(f"refinement_blocks.{shared[0]}.convs.")}
    depth = len(numbers(head, rf"refinement_blocks\.{shared[0]}\.convs\.(\d+)\."))
    groups = body_groups(hypernet, unit="conv1")
    sizes = HypernetConfig(
        stem_channels=need(hypernet, "conv1.weight", 4)[0],
        groups=groups,
        code_width=need(deltas, "shared.w1", 2)[0],
        shared_width=need(hypernet, f"refinement_blocks.{shared[0]}.convs.0.weight", 4)[0],
        plane_width=need(hypernet, f"refinement_blocks.{own[0]}.convs.0.weight", 4)[0],
    )
    return sizes, 1 << (depth - 1 + len(groups))


def feature_sizes(inverter: Mapping[str, Tensor], fuser: Mapping[str, Tensor], input_size: int) -> FeatureConfig:
    """SFE's inverter and fuser by the official names; strides are the official ones, which no tensor says."""
    strides = (2, 2, 1, 2)
    blocks = tuple(
        (
            need(inverter, f"block_{n}.0.conv1.weight", 4)[0],
            len(numbers(inverter, rf"block_{n}\.(\d+)\.")),
            stride,
        )
        for n, stride in enumerate(strides, start=1)
    )
    values = need(inverter, "styles.0.weight", 2)[1]
    side = round((values / sum(width for width, _, _ in blocks)) ** 0.5)
    return FeatureConfig(
        input_size=input_size,
        stem_channels=need(inverter, "conv.0.weight", 4)[0],
        blocks=blocks,
        depth=len(numbers(fuser, r"body\.(\d+)\.")),
        pooled_side=side,
    )


def residual_sizes(tensors: Mapping[str, Tensor], resolution: int, generator_channels: int) -> ResidualConfig:
    """E1 and E2 by our names (`alignment.`, `extraction.`, `gates.`), inside the block of `resolution`."""
    width, both, *_ = need(tensors, "alignment.first_layer.weight", 4)
    return ResidualConfig(
        resolution=resolution,
        encoder_channels=both - generator_channels,
        generator_channels=generator_channels,
        width=width,
        residual_channels=need(tensors, "extraction.convs.2.res_layer.2.weight", 4)[0],
    )


def tap_of(input_size: int, resolution: int) -> int:
    """Return the index of the one of c0..c3 that has the side `resolution`: c_k is the input halved k + 1 times."""
    taps = [tap for tap in range(4) if input_size >> (tap + 1) == resolution]
    if not taps:
        sides = [input_size >> (tap + 1) for tap in range(4)]
        raise CheckpointError(f"features at {resolution} px, and an encoder for {input_size} px has features at {sides}")
    return taps[0]
