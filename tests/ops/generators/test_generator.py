"""The generator against a plain transcription of the StyleGAN2 paper, and its two seams."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ops.generators.protocol import Injection, between_convolutions, style_channels
from ops.generators.stylegan2 import ModulatedConv, StyleGAN2
from ops.generators.stylegan2_config import StyleGAN2Config, channels_by_rule


@pytest.fixture
def generator() -> StyleGAN2:
    torch.manual_seed(0)
    config = StyleGAN2Config(resolution=32, w_dim=12, z_dim=10, mapping_layers=2, channels={4: 8, 8: 8, 16: 6, 32: 4})
    model = StyleGAN2(config).requires_grad_(False)
    for res in config.resolutions:
        block = model.block(res)
        for conv in (block.conv1,) if res == 4 else (block.conv0, block.conv1):
            conv.noise_strength.fill_(0.3)
            conv.bias.normal_()
    return model


@pytest.fixture
def wplus(generator: StyleGAN2) -> Tensor:
    return torch.randn(3, generator.config.num_ws, generator.config.w_dim)


def reference_conv(layer: ModulatedConv, x: Tensor, style: Tensor, fir: Tensor) -> Tensor:
    """Modulate, demodulate, convolve, filter, noise, bias, activate: one sample at a time, in the paper's order."""
    outputs = []
    for sample, s in zip(x.double(), style.double(), strict=True):
        weight = layer.weight.double() * s[None, :, None, None]
        weight = weight * torch.rsqrt(weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8)
        if layer.up:
            y = F.conv_transpose2d(sample[None], weight.transpose(0, 1), stride=2)
            kernel = (fir.double() * 4).expand(y.shape[1], 1, 4, 4)
            y = F.conv2d(F.pad(y, (1, 1, 1, 1)), kernel, groups=y.shape[1])
        else:
            y = F.conv2d(sample[None], weight, padding=1)
        y = y + layer.noise_const.double() * layer.noise_strength.double() + layer.bias.double()[None, :, None, None]
        outputs.append((F.leaky_relu(y, 0.2) * 2**0.5).clamp(-256, 256))
    return torch.cat(outputs)


@pytest.mark.parametrize("name", ["conv0", "conv1"])
def test_modulated_convolution_is_the_papers(generator: StyleGAN2, name: str) -> None:
    layer = generator.block(16).get_submodule(name)
    assert isinstance(layer, ModulatedConv)
    x, style = torch.randn(3, layer.weight.shape[1], 8, 8), torch.randn(3, layer.weight.shape[1])
    if name == "conv1":
        x = torch.randn(3, layer.weight.shape[1], 16, 16)
    torch.testing.assert_close(
        layer(x, style, generator.fir, None).double(), reference_conv(layer, x, style, generator.fir), atol=1e-5, rtol=1e-5
    )


def test_clamp_is_applied_in_every_precision(generator: StyleGAN2) -> None:
    layer = generator.block(16).conv1
    layer.bias.fill_(1e4)
    x = torch.randn(1, 6, 16, 16)
    for dtype in (torch.float32, torch.bfloat16):
        assert layer(x.to(dtype), torch.ones(1, 6), generator.fir, None).max() == 256


def test_rows_of_wplus_reach_their_layers(generator: StyleGAN2) -> None:
    """b8: conv0 row 1, conv1 row 2, torgb row 3, which is also b16.conv0's."""
    rows = {entry.name: entry.row for entry in generator.config.style_inputs}
    assert [rows[f"b8.{part}"] for part in ("conv0", "conv1", "torgb")] == [1, 2, 3]
    assert rows["b4.conv1"] == 0 and rows["b4.torgb"] == 1 and rows["b16.conv0"] == 3
    assert max(rows.values()) == generator.config.num_ws - 1


def test_features_depend_on_the_leading_rows_only(generator: StyleGAN2, wplus: Tensor) -> None:
    place = between_convolutions(generator.config, 16)
    assert (place.name, place.channels) == ("b16.conv0", 6)
    count = place.rows
    before = generator.features(generator.styles(wplus), place.name)
    later = wplus.clone()
    later[:, count:] += 1
    assert torch.equal(before, generator.features(generator.styles(later), place.name))
    earlier = wplus.clone()
    earlier[:, count - 1] += 1
    assert not torch.allclose(before, generator.features(generator.styles(earlier), place.name))


def test_injection_sees_the_features_and_replaces_them(generator: StyleGAN2, wplus: Tensor) -> None:
    styles = generator.styles(wplus)
    seen: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x

    plain = generator(styles)
    assert torch.equal(plain, generator(styles, injection=Injection("b16.conv0", keep)))
    assert torch.equal(seen[0], generator.features(styles, "b16.conv0"))
    assert not torch.allclose(plain, generator(styles, injection=Injection("b16.conv0", torch.zeros_like)))


def test_zero_weight_deltas_change_nothing(generator: StyleGAN2, wplus: Tensor) -> None:
    styles = generator.styles(wplus)
    deltas = {name: torch.zeros(3, 1, 1, 1, 1) for name in style_channels(generator.config)}
    torch.testing.assert_close(generator(styles, weight_deltas=deltas), generator(styles), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["b8.conv0", "b16.conv1", "b32.torgb"])
def test_weight_deltas_scale_weights_per_sample(generator: StyleGAN2, wplus: Tensor, name: str) -> None:
    block, part = name.split(".")
    layer = generator.synthesis.get_submodule(block).get_submodule(part)
    shape = layer.weight.shape
    delta = 0.3 * torch.randn(3, *shape)
    together = generator(generator.styles(wplus), weight_deltas={name: delta})
    original = layer.weight.clone()
    for sample in range(3):
        layer.weight.copy_(original * (1 + delta[sample]))
        alone = generator(generator.styles(wplus[sample : sample + 1]))
        torch.testing.assert_close(together[sample : sample + 1], alone, atol=2e-5, rtol=1e-4)
    layer.weight.copy_(original)


def test_batch_gives_what_singles_give(generator: StyleGAN2, wplus: Tensor) -> None:
    together = generator(generator.styles(wplus))
    singles = torch.cat([generator(generator.styles(one)) for one in wplus.split(1)])
    torch.testing.assert_close(together, singles, atol=1e-5, rtol=1e-5)


def test_wrong_shapes_and_resolutions_say_what_was_expected(generator: StyleGAN2) -> None:
    with pytest.raises(ValueError, match=r"expected W\+ as \[N, 8, 12\], got \[2, 12\]"):
        generator.styles(torch.zeros(2, 12))
    with pytest.raises(ValueError, match=r"expected a place among b8\.conv0, b8\.conv1"):
        generator.features(generator.styles(torch.zeros(1, 8, 12)), "b4.conv1")
    with pytest.raises(ValueError, match=r"one of \[32\] px, got 16"):
        generator(generator.styles(torch.zeros(1, 8, 12)), size=16)
    with pytest.raises(ValueError, match="resolution of 32"):
        StyleGAN2Config(resolution=48)


def test_channel_rule_is_nvidias() -> None:
    assert channels_by_rule(1024) == {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}
