"""Generators in the names of rosinality/stylegan2-pytorch => NVIDIA's. e4e, pSp, HFGI and HyperStyle carry one as `decoder.`.

    their name                        ours (NVIDIA's)                  numbers
    style.{i+1}.*                     mapping.fc{i}.*                  as they are: both store raw values, run with 0.01
    input.input                       synthesis.b4.const               batch axis dropped
    conv1, to_rgb1                    synthesis.b4.conv1, .torgb
    convs.{2j}, convs.{2j+1}          synthesis.b{8·2^j}.conv0, .conv1
    to_rgbs.{j}                       synthesis.b{8·2^j}.torgb
      .conv.weight                      .weight                        leading 1 dropped; no flip, no scale
      .conv.modulation.*                .affine.*                      as they are: both biases hold the +1
      .activate.bias, .bias             .bias                          flattened
      .noise.weight                     .noise_strength                to a scalar
    noises.noise_{n}                  conv's .noise_const              two leading 1 dropped; n = 0 is b4.conv1
    *.blur.kernel, *.upsample.kernel  none: the constant filter, checked; theirs has its gain of 4 inside

They scale weights by c = 1/sqrt(fan in) before they demodulate, NVIDIA does not: the difference is 1e-8 relative. No clamp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ops.checkpoints.formats.sizes import check_fir, generator_sizes
from ops.files.errors import CheckpointError, listing
from ops.generators.mapping import MappingNetwork
from ops.generators.stylegan2_config import StyleGAN2Config

MEAN_SAMPLES = 100_000
"""z drawn for the mean code where a file has none; seeded, so that a file always becomes the same prior."""
FIR_GAIN = 4.0


def nvidia_name(key: str) -> str | None:
    """One of their names => NVIDIA's; None for the constant filters. Raises KeyError for any other name."""
    if re.fullmatch(r"convs\.\d*[02468]\.conv\.blur\.kernel|to_rgbs\.\d+\.upsample\.kernel", key):
        return None
    if key == "input.input":
        return "synthesis.b4.const"
    if match := re.fullmatch(r"style\.([1-9]\d*)\.(weight|bias)", key):
        return f"mapping.fc{int(match[1]) - 1}.{match[2]}"
    if match := re.fullmatch(r"noises\.noise_(\d+)", key):
        return f"{_conv(int(match[1]))}.noise_const"
    if match := re.fullmatch(r"(conv1|convs\.(\d+))\.(.+)", key):
        place = _conv(0 if match[2] is None else int(match[2]) + 1)
        return f"{place}.{CONV[match[3]]}"
    if match := re.fullmatch(r"(to_rgb1|to_rgbs\.(\d+))\.(.+)", key):
        resolution = 4 if match[2] is None else 8 << int(match[2])
        return f"synthesis.b{resolution}.torgb.{RGB[match[3]]}"
    raise KeyError(key)


MODULATED = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
}
CONV = MODULATED | {"activate.bias": "bias", "noise.weight": "noise_strength"}
RGB = MODULATED | {"bias": "bias"}


def _conv(n: int) -> str:
    """Their n-th convolution, conv1 being 0."""
    if n == 0:
        return "synthesis.b4.conv1"
    return f"synthesis.b{8 << ((n - 1) // 2)}.conv{(n - 1) % 2}"


def nvidia_value(ours: str, value: Tensor) -> Tensor:
    """One of their tensors => NVIDIA's shape."""
    if ours.endswith((".const", ".conv0.weight", ".conv1.weight", ".torgb.weight")):
        return value.squeeze(0)
    if ours.endswith("noise_strength"):
        return value.reshape(())
    if ours.endswith("noise_const"):
        return value.reshape(value.shape[-2:])
    if ours.endswith("torgb.bias"):
        return value.reshape(-1)
    return value


def generator_from_rosinality(
    tensors: Mapping[str, Tensor], latent_avg: Tensor | None, where: str
) -> tuple[StyleGAN2Config, dict[str, Tensor]]:
    """A generator's tensors by their names => its sizes, and its state dict by NVIDIA's.

    latent_avg: the mean of W in any shape [..., D]; None where the file has none: it is then measured. `where`: how messages
    call this part of the file. Raises CheckpointError that lists unknown names.
    """
    state: dict[str, Tensor] = {}
    unknown = []
    for key, value in tensors.items():
        try:
            ours = nvidia_name(key)
        except KeyError:
            unknown.append(key)
            continue
        if ours is None:
            check_fir(f"{where}{key}", value, FIR_GAIN)
        else:
            state[ours] = nvidia_value(ours, value)
    if unknown:
        raise CheckpointError(f"names that no rosinality generator has: {listing(where + key for key in unknown)}")
    config = generator_sizes(state, conv_clamp=None)
    mean_D = mean_code(config, state) if latent_avg is None else latent_avg.reshape(-1, latent_avg.shape[-1])[0]
    state["mapping.w_avg"] = mean_D
    return config, state


@torch.no_grad()
def mean_code(config: StyleGAN2Config, state: Mapping[str, Tensor]) -> Tensor:
    """Mean of W [D] over `MEAN_SAMPLES` draws of z, as w_avg approximates it in training."""
    with torch.device("meta"):
        mapping = MappingNetwork(config)
    weights = {name.removeprefix("mapping."): value.float() for name, value in state.items() if name.startswith("mapping.")}
    missing = set(mapping.state_dict()) - set(weights) - {"w_avg"}
    if missing:
        raise CheckpointError(f"the file lacks layers of the mapping network: {listing(f'style.{name}' for name in missing)}")
    mapping.load_state_dict(weights | {"w_avg": torch.zeros(config.w_dim)}, assign=True)
    random = torch.Generator().manual_seed(0)
    total = torch.zeros(config.w_dim, dtype=torch.float64)
    for _ in range(MEAN_SAMPLES // 10_000):
        total += mapping(torch.randn(10_000, config.z_dim, generator=random)).double().sum(0)
    return (total / MEAN_SAMPLES).float()
