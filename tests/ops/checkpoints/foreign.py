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


def e4e_encoder(num_ws: int = 8, seed: int = 1) -> dict[str, Tensor]:
    """An e4e encoder's state dict by its own names: 32 px input, four groups that change their channels."""
    torch.manual_seed(seed)
    state: dict[str, Tensor] = {}

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"] = 1 + 0.1 * torch.randn(channels)
        state[f"{name}.bias"] = 0.1 * torch.randn(channels)
        state[f"{name}.running_mean"] = 0.1 * torch.randn(channels)
        state[f"{name}.running_var"] = 1 + 0.1 * torch.randn(channels).abs()
        state[f"{name}.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)

    def conv(name: str, into: int, out: int, k: int, bias: bool = False) -> None:
        state[f"{name}.weight"] = torch.randn(out, into, k, k) / (into * k * k) ** 0.5
        if bias:
            state[f"{name}.bias"] = 0.1 * torch.randn(out)

    conv("input_layer.0", 3, 16, 3)
    norm("input_layer.1", 16)
    state["input_layer.2.weight"] = 0.25 * torch.ones(16)
    b = 0
    for into, out, units in ((16, 16, 2), (16, 24, 1), (24, 32, 2), (32, 48, 1)):
        for unit in range(units):
            a = into if unit == 0 else out
            norm(f"body.{b}.res_layer.0", a)
            conv(f"body.{b}.res_layer.1", a, out, 3)
            state[f"body.{b}.res_layer.2.weight"] = 0.25 * torch.ones(out)
            conv(f"body.{b}.res_layer.3", out, out, 3)
            norm(f"body.{b}.res_layer.4", out)
            conv(f"body.{b}.res_layer.5.fc1", out, out // 16, 1)
            conv(f"body.{b}.res_layer.5.fc2", out // 16, out, 1)
            if a != out:
                conv(f"body.{b}.shortcut_layer.0", a, out, 1)
                norm(f"body.{b}.shortcut_layer.1", out)
            b += 1
    conv("latlayer1", 32, 48, 1, bias=True)
    conv("latlayer2", 24, 48, 1, bias=True)
    for row in range(num_ws):
        depth = 1 if row < 3 else 2 if row < 6 else 3
        for n in range(depth):
            conv(f"styles.{row}.convs.{2 * n}", 48 if n == 0 else 20, 20, 3, bias=True)
        state[f"styles.{row}.linear.weight"] = torch.randn(W_DIM, 20)
        state[f"styles.{row}.linear.bias"] = 0.1 * torch.randn(W_DIM)
    return state


def e4e_file(path: Path, *, namespace: bool = False, **more: Any) -> dict[str, Any]:
    """e4e's own file, small; returns its content."""
    state = {f"encoder.{name}": value for name, value in e4e_encoder().items()}
    state |= {f"decoder.{name}": value for name, value in rosinality_generator().items()}
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
