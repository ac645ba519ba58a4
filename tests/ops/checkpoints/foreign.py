"""Files of other projects with small random weights, written here from their documented layouts alone, and what those projects
compute from them: nothing in this file uses our converters.

The pickles are real ones: classes of modules with NVIDIA's names, made for the moment of writing, reduced as `persistence`
does.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = {4: 12, 8: 12, 16: 10, 32: 8}
W_DIM, Z_DIM, LAYERS = 14, 14, 3
KERNEL = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64


# --------------------------------------------------------------------------------------------------- rosinality's layout


def rosinality_generator(channels: dict[int, int] = CHANNELS, seed: int = 0) -> dict[str, Tensor]:
    """A generator's state dict by rosinality's names and shapes."""
    torch.manual_seed(seed)
    state: dict[str, Tensor] = {}
    for i in range(LAYERS):
        state[f"style.{i + 1}.weight"] = 100 * torch.randn(W_DIM, Z_DIM if i == 0 else W_DIM)
        state[f"style.{i + 1}.bias"] = 10 * torch.randn(W_DIM)
    state["input.input"] = torch.randn(1, channels[4], 4, 4)

    def conv(name: str, into: int, out: int, up: bool) -> None:
        state[f"{name}.conv.weight"] = torch.randn(1, out, into, 3, 3)
        if up:
            state[f"{name}.conv.blur.kernel"] = 4 * KERNEL
        state[f"{name}.conv.modulation.weight"] = torch.randn(into, W_DIM)
        state[f"{name}.conv.modulation.bias"] = 1 + 0.1 * torch.randn(into)
        state[f"{name}.noise.weight"] = 0.2 * torch.randn(1)
        state[f"{name}.activate.bias"] = 0.3 * torch.randn(out)

    def rgb(name: str, into: int, up: bool) -> None:
        state[f"{name}.bias"] = 0.3 * torch.randn(1, 3, 1, 1)
        if up:
            state[f"{name}.upsample.kernel"] = 4 * KERNEL
        state[f"{name}.conv.weight"] = 0.3 * torch.randn(1, 3, into, 1, 1)
        state[f"{name}.conv.modulation.weight"] = torch.randn(into, W_DIM)
        state[f"{name}.conv.modulation.bias"] = 1 + 0.1 * torch.randn(into)

    conv("conv1", channels[4], channels[4], up=False)
    rgb("to_rgb1", channels[4], up=False)
    state["noises.noise_0"] = torch.randn(1, 1, 4, 4)
    sizes = sorted(channels)[1:]
    for j, res in enumerate(sizes):
        conv(f"convs.{2 * j}", channels[res // 2], channels[res], up=True)
        conv(f"convs.{2 * j + 1}", channels[res], channels[res], up=False)
        rgb(f"to_rgbs.{j}", channels[res], up=True)
        for n in (2 * j + 1, 2 * j + 2):
            state[f"noises.noise_{n}"] = torch.randn(1, 1, res, res)
    return state


def rosinality_image(state: dict[str, Tensor], wplus_NLD: Tensor) -> Tensor:
    """The image that rosinality's generator makes of W+, noise constant, in float64: its own order of operations."""
    p = {name: value.double() for name, value in state.items()}
    w = wplus_NLD.double()

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ (p[f"{name}.weight"] / p[f"{name}.weight"].shape[1] ** 0.5).T + p[f"{name}.bias"]

    def modulated(x: Tensor, name: str, row: Tensor, *, demodulate: bool, up: bool) -> Tensor:
        weight = p[f"{name}.weight"][0]
        out, into, k, _ = weight.shape
        scaled = weight[None] / (into * k * k) ** 0.5 * linear(row, f"{name}.modulation")[:, None, :, None, None]
        if demodulate:
            scaled = scaled * (scaled.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        images = []
        for sample, one in zip(x, scaled, strict=True):
            if up:
                y = F.conv_transpose2d(sample[None], one.transpose(0, 1), stride=2)
                kernel = p[f"{name}.blur.kernel"].flip(0, 1).expand(out, 1, 4, 4)
                y = F.conv2d(F.pad(y, (1, 1, 1, 1)), kernel, groups=out)
            else:
                y = F.conv2d(sample[None], one, padding=k // 2)
            images.append(y)
        return torch.cat(images)

    def styled(x: Tensor, name: str, row: Tensor, n: int, *, up: bool) -> Tensor:
        y = modulated(x, f"{name}.conv", row, demodulate=True, up=up)
        y = y + p[f"{name}.noise.weight"] * p[f"noises.noise_{n}"]
        return F.leaky_relu(y + p[f"{name}.activate.bias"][None, :, None, None], 0.2) * 2**0.5

    def upsampled(image: Tensor, kernel: Tensor) -> Tensor:
        n, c, h, width = image.shape
        stuffed = image.new_zeros(n, c, 2 * h, 2 * width)
        stuffed[:, :, ::2, ::2] = image
        return F.conv2d(F.pad(stuffed, (2, 1, 2, 1)), kernel.flip(0, 1).expand(c, 1, 4, 4), groups=c)

    x = p["input.input"].repeat(len(w), 1, 1, 1)
    x = styled(x, "conv1", w[:, 0], 0, up=False)
    image = modulated(x, "to_rgb1.conv", w[:, 1], demodulate=False, up=False) + p["to_rgb1.bias"]
    for j in range(sum(name.startswith("to_rgbs.") and name.endswith(".bias") for name in p if "modulation" not in name)):
        i = 1 + 2 * j
        x = styled(x, f"convs.{2 * j}", w[:, i], 2 * j + 1, up=True)
        x = styled(x, f"convs.{2 * j + 1}", w[:, i + 1], 2 * j + 2, up=False)
        rgb = modulated(x, f"to_rgbs.{j}.conv", w[:, i + 2], demodulate=False, up=False) + p[f"to_rgbs.{j}.bias"]
        image = upsampled(image, p[f"to_rgbs.{j}.upsample.kernel"]) + rgb
    return image


def rosinality_mapping(state: dict[str, Tensor], z: Tensor) -> Tensor:
    """z => W, float64."""
    x = z.double() / (z.double().square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    for i in range(LAYERS):
        weight, bias = state[f"style.{i + 1}.weight"].double(), state[f"style.{i + 1}.bias"].double()
        x = F.leaky_relu(x @ (weight * 0.01 / weight.shape[1] ** 0.5).T + 0.01 * bias, 0.2) * 2**0.5
    return x


# ------------------------------------------------------------------------------------------------------- e4e's layout


State = dict[str, Tensor]


def norm(state: State, name: str, channels: int) -> None:
    state[f"{name}.weight"] = 1 + 0.1 * torch.randn(channels)
    state[f"{name}.bias"] = 0.1 * torch.randn(channels)
    state[f"{name}.running_mean"] = 0.1 * torch.randn(channels)
    state[f"{name}.running_var"] = 1 + 0.1 * torch.randn(channels).abs()
    state[f"{name}.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)


def conv(state: State, name: str, into: int, out: int, k: int, bias: bool = False) -> None:
    state[f"{name}.weight"] = torch.randn(out, into, k, k) / (into * k * k) ** 0.5
    if bias:
        state[f"{name}.bias"] = 0.1 * torch.randn(out)


def stem(state: State, name: str, into: int, out: int) -> None:
    conv(state, f"{name}.0", into, out, 3)
    norm(state, f"{name}.1", out)
    state[f"{name}.2.weight"] = 0.25 * torch.ones(out)


def ir_unit(state: State, name: str, into: int, out: int, squeeze: bool) -> None:
    norm(state, f"{name}.res_layer.0", into)
    conv(state, f"{name}.res_layer.1", into, out, 3)
    state[f"{name}.res_layer.2.weight"] = 0.25 * torch.ones(out)
    conv(state, f"{name}.res_layer.3", out, out, 3)
    norm(state, f"{name}.res_layer.4", out)
    if squeeze:
        conv(state, f"{name}.res_layer.5.fc1", out, out // 16, 1)
        conv(state, f"{name}.res_layer.5.fc2", out // 16, out, 1)
    if into != out:
        conv(state, f"{name}.shortcut_layer.0", into, out, 1)
        norm(state, f"{name}.shortcut_layer.1", out)


def ir_se_50(state: State, channels: int = 3) -> None:
    """Stem and body of a small one: four groups that change their channels."""
    stem(state, "input_layer", channels, 16)
    b = 0
    for into, out, units in ((16, 16, 2), (16, 24, 1), (24, 32, 2), (32, 48, 1)):
        for unit in range(units):
            ir_unit(state, f"body.{b}", into if unit == 0 else out, out, squeeze=True)
            b += 1


def e4e_encoder(
    num_ws: int = 8, seed: int = 1, *, depths: tuple[int, ...] = (1, 1, 1, 2, 2, 2, 3, 3), six: bool = False
) -> State:
    """The state dict of e4e's, pSp's or (`six`, all depths equal) ReStyle's encoder by its own names: 32 px input."""
    torch.manual_seed(seed)
    state: State = {}
    ir_se_50(state, 6 if six else 3)
    if not six:
        conv(state, "latlayer1", 32, 48, 1, bias=True)
        conv(state, "latlayer2", 24, 48, 1, bias=True)
    for row in range(num_ws):
        for n in range(depths[row]):
            conv(state, f"styles.{row}.convs.{2 * n}", 48 if n == 0 else 20, 20, 3, bias=True)
        state[f"styles.{row}.linear.weight"] = torch.randn(W_DIM, 20)
        state[f"styles.{row}.linear.bias"] = 0.1 * torch.randn(W_DIM)
    return state


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}.{name}": value for name, value in state.items()}


def e4e_file(path: Path, *, namespace: bool = False, **more: Any) -> dict[str, Any]:
    """e4e's own file, small; returns its content."""
    state = prefixed("encoder", e4e_encoder()) | prefixed("decoder", rosinality_generator())
    options = {"encoder_type": "Encoder4Editing", "stylegan_size": 32, "dataset_type": "ffhq_encode", "device": "cuda:0"}
    torch.manual_seed(2)
    content = {
        "state_dict": state,
        "opts": argparse.Namespace(**options) if namespace else options,
        "latent_avg": torch.randn(W_DIM).repeat(8, 1),
        **more,
    }
    torch.save(content, path)
    return content


# --------------------------------------------------------------------------------------- the other layouts of its family


def family_file(path: Path, state: State, options: dict[str, Any]) -> dict[str, Any]:
    """A dict of `state_dict`, `opts`, `latent_avg`."""
    torch.manual_seed(2)
    content = {"state_dict": state, "opts": options, "latent_avg": torch.randn(W_DIM).repeat(8, 1)}
    torch.save(content, path)
    return content


def restyle_file(path: Path, encoder_type: str | None = "ProgressiveBackboneEncoder") -> dict[str, Any]:
    """ReStyle's: six channels in, every head on the smallest map."""
    state = prefixed("encoder", e4e_encoder(depths=(1,) * 8, six=True)) | prefixed("decoder", rosinality_generator())
    options = {"input_nc": 6, "output_size": 32, "n_iters_per_batch": 3}
    return family_file(path, state, options | ({} if encoder_type is None else {"encoder_type": encoder_type}))


def hfgi_file(path: Path) -> dict[str, Any]:
    """HFGI's: e4e's encoder, the alignment and the consultation encoder."""
    state = prefixed("encoder", e4e_encoder()) | prefixed("decoder", rosinality_generator())
    align: State = {}
    stem(align, "conv_layer1", 6, 4)
    chains = {"conv_layer2": (4, 6, 6, 6), "conv_layer3": (6, 8, 8, 8), "conv_layer4": (8, 10, 10, 10)}
    chains |= {"dconv_layer1": (18, 10, 6, 6), "dconv_layer2": (12, 6, 4, 4), "dconv_layer3": (8, 4, 3, 3)}
    for name, chain in chains.items():
        for i in range(3):
            ir_unit(align, f"{name}.{i}", chain[i], chain[i + 1], squeeze=False)
    consult: State = {}
    stem(consult, "conv_layer1", 3, 5)
    for name, chain in (("conv_layer2", (5, 7, 7, 7)), ("conv_layer3", (7, 9, 9, 9))):
        for i in range(3):
            ir_unit(consult, f"{name}.{i}", chain[i], chain[i + 1], squeeze=False)
    for name in ("condition_scale3", "condition_shift3"):
        conv(consult, f"{name}.0", 9, CHANNELS[8], 3, bias=True)
        conv(consult, f"{name}.2", CHANNELS[8], CHANNELS[8], 3, bias=True)
    state |= prefixed("grid_align", align) | prefixed("residue", consult) | {"discriminator.x": torch.zeros(1)}
    return family_file(path, state, {"dataset_type": "ffhq_encode", "distortion_scale": 0.15})


def hyperstyle_files(path: Path, w_encoder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """HyperStyle's two: layers 0, 2, 3 (12 channels in and out) share a map, which each names as its own too."""
    torch.manual_seed(5)
    net: State = {}
    conv(net, "conv1", 6, 8, 7)
    norm(net, "bn1", 8)
    net["relu.weight"] = 0.25 * torch.ones(8)
    for b, (into, out) in enumerate(((8, 8), (8, 9), (9, 10), (10, 11))):
        conv(net, f"body.{b}.conv1", into, out, 3)
        norm(net, f"body.{b}.bn1", out)
        conv(net, f"body.{b}.conv2", out, out, 3)
        norm(net, f"body.{b}.bn2", out)
        if b > 0:
            conv(net, f"body.{b}.downsample.0", into, out, 1)
            norm(net, f"body.{b}.downsample.1", out)
    code = 7
    shared = {"w1": (code, 12 * 9), "b1": (12 * 9,), "w2": (code, 12 * code), "b2": (12 * code,)}
    for name, shape in shared.items():
        net[f"shared_weight_hypernet.{name}"] = 0.2 * torch.randn(shape)
    for layer in (0, 2, 3):
        block = f"refinement_blocks.{layer}"
        conv(net, f"{block}.convs.0", 11, 6, 3, bias=True)
        conv(net, f"{block}.convs.2", 6, code, 3, bias=True)  # 32 px pictures: features of 2 px
        net[f"{block}.linear.weight"], net[f"{block}.linear.bias"] = torch.randn(code, code), torch.randn(code)
        for name in shared:
            net[f"{block}.hypernet.{name}"] = net[f"shared_weight_hypernet.{name}"]
    for layer, (into, out) in {5: (12, 10), 6: (10, 10), 8: (10, 8), 9: (8, 8)}.items():
        block = f"refinement_blocks.{layer}"
        conv(net, f"{block}.convs.0", 11, code, 3, bias=True)
        conv(net, f"{block}.output.1", code, out * into, 1, bias=True)
    state = prefixed("hypernet", net) | prefixed("decoder", rosinality_generator())
    options = {"encoder_type": "SharedWeightsHyperNetResNet", "input_nc": 6, "n_iters_per_batch": 3}
    content = family_file(path, state, options)
    encoder: State = {}
    ir_se_50(encoder)
    encoder["linear.weight"], encoder["linear.bias"] = torch.randn(W_DIM, 48), torch.randn(W_DIM)
    beside = family_file(w_encoder, prefixed("encoder", encoder) | prefixed("decoder", rosinality_generator(seed=9)), {})
    return content, beside


def sfe_files(path: Path, generator: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """StyleFeatureEditor's editor and its generator's file; `e4e_file` writes the third."""
    torch.manual_seed(6)
    inverter: State = {}
    stem(inverter, "conv", 3, 5)
    into = 5
    for n, (width, units) in enumerate(((5, 1), (6, 2), (7, 1), (8, 1)), start=1):
        for unit in range(units):
            name = f"block_{n}.{unit}"
            norm(inverter, f"{name}.bn1", into)
            conv(inverter, f"{name}.conv1", into, width, 3)
            norm(inverter, f"{name}.bn2", width)
            inverter[f"{name}.prelu.weight"] = 0.25 * torch.ones(width)
            conv(inverter, f"{name}.conv2", width, width, 3)
            norm(inverter, f"{name}.bn3", width)
            if unit == 0:
                conv(inverter, f"{name}.downsample.0", into, width, 1)
                norm(inverter, f"{name}.downsample.1", width)
            into = width
    norm(inverter, "content_layer.0", 7)
    conv(inverter, "content_layer.1", 7, CHANNELS[8], 3)
    norm(inverter, "content_layer.2", CHANNELS[8])
    inverter["content_layer.3.weight"] = 0.25 * torch.ones(CHANNELS[8])
    conv(inverter, "content_layer.4", CHANNELS[8], CHANNELS[8], 3)
    norm(inverter, "content_layer.5", CHANNELS[8])
    for row in range(8):
        inverter[f"styles.{row}.weight"] = torch.randn(W_DIM, (5 + 6 + 7 + 8) * 9) / 15
        inverter[f"styles.{row}.bias"] = 0.1 * torch.randn(W_DIM)

    def fuser() -> State:
        state: State = {}
        conv(state, "conv", 2 * CHANNELS[8], CHANNELS[8], 1, bias=True)
        for block in range(2):
            for i in (0, 2, 5):
                norm(state, f"body.{block}.body.{i}", CHANNELS[8])
            for i in (1, 4):
                conv(state, f"body.{block}.body.{i}", CHANNELS[8], CHANNELS[8], 3)
            state[f"body.{block}.body.3.weight"] = 0.25 * torch.ones(CHANNELS[8])
        return state

    state = prefixed("inverter.fs_backbone", inverter) | prefixed("inverter.fuser", fuser()) | prefixed("encoder", fuser())
    content = {"state_dict": state}
    torch.save(content, path)
    beside = {"g_ema": rosinality_generator(), "latent_avg": torch.randn(W_DIM), "d": {"x": torch.zeros(1)}}
    torch.save(beside, generator)
    return content, beside


# ---------------------------------------------------------------------------------------------------- StyleRes's layout


def styleres_file(path: Path, latent_avg_shape: tuple[int, ...] = (8, W_DIM)) -> dict[str, Any]:
    """The official layout at 32 px: E1 and E2 inside b8, where the encoder's second tap is. Returns the content."""
    width, extra = 12, 6
    torch.manual_seed(3)
    smooth = nvidia_state(seed=4)

    def conv(name: str, into: int, out: int, k: int, bias: bool = True) -> None:
        smooth[f"synthesis.b8.modify_feature_{name}.weight"] = 0.8 * torch.randn(out, into, k, k) / (into * k * k) ** 0.5
        if bias:
            smooth[f"synthesis.b8.modify_feature_{name}.bias"] = 0.1 * torch.randn(out)

    def layer(name: str, into: int, out: int, stride: int = 1) -> None:
        if into != out or stride != 1:
            conv(f"{name}.shortcut_layer.0", into, out, 1, bias=False)
        conv(f"{name}.res_layer.0", into, out, 3)
        conv(f"{name}.res_layer.2", out, out, 3)

    conv("alignment.first_layer", 24 + CHANNELS[8], width, 1)
    layer("alignment.conv1.0", width, width)
    for part in ("conv2", "conv3"):
        layer(f"alignment.{part}.0", width, width, 2)
        layer(f"alignment.{part}.1", width, width)
    for part in ("dconv1", "dconv2", "dconv3"):
        for n in range(2):
            layer(f"alignment.{part}.{n}", width, width)
    conv("alignment.out_layer", width, width, 1)
    conv("extraction.first_layer", width, width, 1)
    layer("extraction.convs.0", width, width)
    layer("extraction.convs.1", width, width)
    layer("extraction.convs.2", width, extra)
    conv("gates.down1", CHANNELS[8], width // 2, 3)
    conv("gates.down2", extra, width // 2, 3)
    for part, out in (("convs", CHANNELS[8]), ("convs2", 1)):
        layer(f"gates.{part}.0", width, width)
        layer(f"gates.{part}.1", width, width)
        layer(f"gates.{part}.2", width, out)
    content = {"e4e": e4e_encoder(), "latent_avg": torch.randn(latent_avg_shape), "generator_smooth": smooth}
    torch.save(content, path)
    return content


# ------------------------------------------------------------------------------------------------------ NVIDIA's layout


def nvidia_state(channels: dict[int, int] = CHANNELS, seed: int = 0) -> dict[str, Tensor]:
    """A generator's state dict by NVIDIA's names and shapes, with the filters of every layer."""
    torch.manual_seed(seed)
    state: dict[str, Tensor] = {"mapping.w_avg": 0.2 * torch.randn(W_DIM)}
    for i in range(LAYERS):
        state[f"mapping.fc{i}.weight"] = 100 * torch.randn(W_DIM, Z_DIM if i == 0 else W_DIM)
        state[f"mapping.fc{i}.bias"] = 10 * torch.randn(W_DIM)
    for res, out in channels.items():
        block = f"synthesis.b{res}"
        state[f"{block}.resample_filter"] = KERNEL.clone()
        if res == 4:
            state[f"{block}.const"] = torch.randn(out, 4, 4)
        convs = [("conv1", out)] if res == 4 else [("conv0", channels[res // 2]), ("conv1", out)]
        for name, into in convs:
            state[f"{block}.{name}.weight"] = torch.randn(out, into, 3, 3)
            state[f"{block}.{name}.bias"] = 0.3 * torch.randn(out)
            state[f"{block}.{name}.noise_strength"] = 0.2 * torch.randn(())
            state[f"{block}.{name}.noise_const"] = torch.randn(res, res)
            state[f"{block}.{name}.resample_filter"] = KERNEL.clone()
            state[f"{block}.{name}.affine.weight"] = torch.randn(into, W_DIM)
            state[f"{block}.{name}.affine.bias"] = 1 + 0.1 * torch.randn(into)
        state[f"{block}.torgb.weight"] = 0.3 * torch.randn(3, out, 1, 1)
        state[f"{block}.torgb.bias"] = 0.3 * torch.randn(3)
        state[f"{block}.torgb.affine.weight"] = torch.randn(out, W_DIM)
        state[f"{block}.torgb.affine.bias"] = 1 + 0.1 * torch.randn(out)
    return state


def as_rosinality(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """NVIDIA's tensors under rosinality's names, by the table of the two layouts read backwards: for the reference formula."""
    theirs: dict[str, Tensor] = {}
    sizes = sorted({int(name.split(".")[1][1:]) for name in state if name.startswith("synthesis.")})
    for i in range(LAYERS):
        for kind in ("weight", "bias"):
            theirs[f"style.{i + 1}.{kind}"] = state[f"mapping.fc{i}.{kind}"]
    theirs["input.input"] = state["synthesis.b4.const"][None]
    places = {"conv1": "b4.conv1", "to_rgb1": "b4.torgb"}
    for j, res in enumerate(sizes[1:]):
        places |= {f"convs.{2 * j}": f"b{res}.conv0", f"convs.{2 * j + 1}": f"b{res}.conv1", f"to_rgbs.{j}": f"b{res}.torgb"}
    for n, (name, place) in enumerate((k, v) for k, v in places.items() if "conv" in k):
        source = f"synthesis.{place}"
        theirs[f"{name}.noise.weight"] = state[f"{source}.noise_strength"].reshape(1)
        theirs[f"noises.noise_{n}"] = state[f"{source}.noise_const"][None, None]
        theirs[f"{name}.activate.bias"] = state[f"{source}.bias"]
        if place.endswith("conv0"):
            theirs[f"{name}.conv.blur.kernel"] = 4 * KERNEL
    for name, place in places.items():
        source = f"synthesis.{place}"
        theirs[f"{name}.conv.weight"] = state[f"{source}.weight"][None]
        for kind in ("weight", "bias"):
            theirs[f"{name}.conv.modulation.{kind}"] = state[f"{source}.affine.{kind}"]
        if "rgb" in name:
            theirs[f"{name}.bias"] = state[f"{source}.bias"].reshape(1, 3, 1, 1)
            if name != "to_rgb1":
                theirs[f"{name}.upsample.kernel"] = 4 * KERNEL
    return theirs


RAN: list[str] = []
"""What code of a pickle has left behind: must stay empty."""
SOURCE = "import tests.ops.checkpoints.foreign as f\nf.RAN.append('module source')\n"


def persistent_pickle(path: Path, networks: dict[str, dict[str, Tensor]], *, source: str = SOURCE, **attributes: Any) -> None:
    """A network pickle as stylegan2-ada-pytorch writes it. `networks`: name => state dict; `attributes`: of every layer.

    Modules of NVIDIA's names exist while it is written only: a reader that imported them would fail.
    """
    persistence, dnnlib = ModuleType("torch_utils.persistence"), ModuleType("dnnlib.util")

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise AssertionError("a reader called the pickle's own function")

    class EasyDict(dict[str, Any]):
        pass

    class Layer(nn.Module):
        def __reduce__(self) -> Any:
            fields = list(super().__reduce__())
            meta = {
                "type": "class",
                "version": 6,
                "module_src": source,
                "class_name": type(self).__name__,
                "state": fields[2],
            }
            return _reconstruct_persistent_obj, (meta,)

    for owner, module, name in (
        (_reconstruct_persistent_obj, persistence, "_reconstruct_persistent_obj"),
        (EasyDict, dnnlib, "EasyDict"),
    ):
        owner.__module__, owner.__qualname__ = module.__name__, name
        setattr(module, name, owner)

    def build(state: dict[str, Tensor]) -> Layer:
        root = Layer()
        root._init_kwargs = EasyDict(img_channels=3, synthesis_kwargs=EasyDict(channel_base=32768))  # type: ignore[assignment]
        for name, value in state.items():
            place = root
            *parts, leaf = name.split(".")
            for part in parts:
                if part not in place._modules:
                    place.add_module(part, Layer())
                place = place._modules[part]  # type: ignore[assignment]
            if leaf in ("w_avg", "noise_const", "resample_filter"):
                place.register_buffer(leaf, value)
            else:
                place.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
            if leaf == "noise_strength":
                for key, setting in attributes.items():
                    setattr(place, key, setting)
        return root

    packages = {
        "torch_utils": ModuleType("torch_utils"),
        "torch_utils.persistence": persistence,
        "dnnlib": ModuleType("dnnlib"),
        "dnnlib.util": dnnlib,
    }
    sys.modules.update(packages)
    try:
        content = {name: build(state) for name, state in networks.items()}
        content |= {"training_set_kwargs": EasyDict(path="ffhq.zip", resolution=32), "augment_pipe": None}
        with path.open("wb") as stream:
            pickle.dump(content, stream)
    finally:
        for name in packages:
            del sys.modules[name]
