"""Every other method's full-size model against its official program's own numbers, with synthetic weights built from names.

What the methods share (e4e's encoder, the generator) is built once; each model is let go before the next is built.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from ops.checkpoints.convert import read_as
from ops.checkpoints.formats.contents import Content, Format
from ops.checkpoints.formats.model import Model
from ops.device import keep_freed_memory
from ops.generators.protocol import Injection
from ops.generators.stylegan2_config import StyleGAN2Config
from ops.inversion.e4e import E4eConfig
from ops.inversion.hfgi import Hfgi, HfgiConfig
from ops.inversion.hyperstyle import HyperStyle, HyperStyleConfig, WeightDeltas
from ops.inversion.inverter import Inverter, bilinear, pooled
from ops.inversion.methods import build_inverter
from ops.inversion.sfe import Detail, Sfe, SfeConfig
from ops.inversion.wplus import Psp, Restyle, RestyleConfig, WplusConfig
from tests.golden import Baseline, baseline_section, decoder, e4e_encoder, edit_offset, input_image, peak_below, resident_bytes

PEAK_BYTES = 4e9
GENERATOR = StyleGAN2Config(conv_clamp=None)

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.needs("shared"),
]


@pytest.fixture(scope="module")
def before_bytes() -> Iterator[int]:
    yield resident_bytes()
    e4e_encoder.cache_clear()
    decoder.cache_clear()


@pytest.fixture(autouse=True)
def measured(before_bytes: int) -> Iterator[None]:
    """Every test here holds one whole model, and whatever the ones before it left."""
    keep_freed_memory()
    with torch.inference_mode(), peak_below(PEAK_BYTES, before_bytes):
        yield


def official(format: Format, state: dict[str, Tensor], latent_avg: Tensor, *beside: Content) -> Inverter:
    """The official file's content, never written, through the converter: its names are as much on trial as our formulas."""
    value = {"state_dict": state | under("decoder", decoder()), "latent_avg": latent_avg, "opts": {}}
    read = read_as(Content("a test's", (format,), value, {}, ""), format, None, beside)
    assert isinstance(read, Model)
    with torch.device("meta"):
        model = build_inverter(read.method, read.config)
    model.load_state_dict(read.weights, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in state.items()}


def mean_code(system: str) -> Tensor:
    return baseline_section(system, "latent_avg")["latent_avg"]


def seen(module: nn.Module) -> list[Tensor]:
    """Every output of a module from now on, in order."""
    outputs: list[Tensor] = []
    module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    return outputs


def test_psp() -> None:
    model = official("psp", under("encoder", e4e_encoder()), mean_code("psp"))
    assert isinstance(model, Psp) and model.config == WplusConfig(GENERATOR, E4eConfig(rows="each"))
    golden = Baseline("psp")
    inversion = model.invert(input_image())
    golden("latent", inversion.wplus_NLD)
    golden("image", model.generate(inversion.wplus_NLD, None))
    golden("image_edit", model.generate(inversion.wplus_NLD + edit_offset(), None))


def test_restyle() -> None:
    encoder, latent_avg = baseline_section("restyle_e4e", "encoder"), mean_code("restyle_e4e")
    assert len(encoder) == 565
    model = official("restyle-e4e", under("encoder", encoder), latent_avg)
    assert isinstance(model, Restyle) and model.config == RestyleConfig(GENERATOR)
    golden, images = Baseline("restyle_e4e"), []
    golden("average_image256", pooled(model.generate(latent_avg[None], None), 256))
    generate = model.generator.forward
    model.generator.forward = lambda *a, **k: images.append(generate(*a, **k)) or images[-1]  # type: ignore[func-returns-value,method-assign]
    codes = model.rounds(input_image())
    assert len(codes) == 5 and len(images) == 5, "the mean code's image, and those of all codes but the last"
    for number, code in enumerate(codes, start=1):
        golden(f"latent_iter{number}", code)
    for number, image in enumerate(images[1:], start=1):
        golden(f"image_iter{number}", image)
    golden("image_iter5", model.generate(codes[-1], None))
    golden("image_edit", model.generate(codes[-1] + edit_offset(), None))


def test_hfgi() -> None:
    state = under("encoder", e4e_encoder())
    state |= under("grid_align", baseline_section("hfgi", "grid_align")) | under("residue", baseline_section("hfgi", "residue"))
    model = official("hfgi", state, mean_code("hfgi"))
    assert isinstance(model, Hfgi) and model.config == HfgiConfig(GENERATOR) and model.alignment is not None
    golden, ada = Baseline("hfgi"), model.alignment
    inversion = model.invert(input_image())
    code, residual = inversion.wplus_NLD, inversion.detail
    assert residual is not None
    golden("latent", code)
    golden("latent_edit", code + edit_offset())
    golden("res", residual)
    layers = {name: seen(getattr(ada, name)) for name in ("conv_layer4", "dconv_layer1", "dconv_layer2")}
    aligned = seen(ada)
    for tag, wplus in (("inv", code), ("edit", code + edit_offset())):
        styles = model.generator.styles(wplus)
        golden("initial_image" if tag == "inv" else "initial_edit", model.generator(styles))
        features: list[Tensor] = []
        scale, shift = model.consult(residual, model.shown(styles))
        for name, outputs in layers.items():
            golden(f"{tag}_ada_{name}", outputs[-1])
        golden(f"{tag}_res_aligned", aligned[-1])
        golden(f"{tag}_scale", scale)
        golden(f"{tag}_shift", shift)
        fusion = model.fusion(scale, shift)

        def watched(x: Tensor, fusion: Injection = fusion, features: list[Tensor] = features) -> Tensor:
            features.extend([x.clone(), fusion.transform(x).clone()])
            return features[1]

        image = model.generator(styles, injection=Injection("b64.conv0", watched))
        golden(f"{tag}_feat64_before", features[0])
        golden(f"{tag}_feat64_after", features[1])
        golden(f"{tag}_image", image)
        golden(f"{tag}_image256", bilinear(image, 256))
        golden(f"{tag}_image", model.generate(wplus, residual))


def test_hyperstyle() -> None:
    hypernet = under("hypernet", baseline_section("hyperstyle", "hypernet"))
    assert len(hypernet) == 393, "each tensor once, whatever its names"
    beside = {"state_dict": under("encoder", baseline_section("hyperstyle", "encoder"))}
    w_encoder = Content("", (), beside, {}, "", "w_encoder")
    model = official("hyperstyle", hypernet, mean_code("hyperstyle"), w_encoder)
    del hypernet, beside, w_encoder
    assert isinstance(model, HyperStyle) and model.config == HyperStyleConfig(GENERATOR) and model.hypernet is not None
    golden, image = Baseline("hyperstyle"), input_image()
    code = model.encode(image)
    golden("latent", code)
    golden("latent_edit", code + edit_offset())
    features, state = seen(model.hypernet.body), model.start(code)
    golden("w_inversion256", state.shown)
    for number in range(1, 6):
        state = model.refine(image, code, state)
        golden(f"image_iter{number}", model.image(model.generator.styles(code), state.codes_NTK, number))
        if number == 1:
            golden("hypernet_body_iter1", features[0])
        if number in (1, 5):
            deltas = WeightDeltas(model.deltas, state.codes_NTK, number)
            for layer in model.config.tuned:
                shape = (1, layer.out_channels, layer.in_channels, 3, 3)
                golden(f"delta_iter{number}_layer{layer.index:02d}", deltas[layer.name].expand(shape))
    golden("image_edit", model.generate(code + edit_offset(), state.codes_NTK))


def test_sfe() -> None:
    state = under("inverter", baseline_section("sfe", "inverter")) | under("encoder", baseline_section("sfe", "encoder"))
    generator = Content("", ("rosinality",), {"g_ema": decoder(), "latent_avg": mean_code("sfe")}, {}, "")
    twin = Content("", ("e4e",), {"state_dict": under("encoder", e4e_encoder())}, {}, "")
    model = official("sfe", state, torch.zeros(512), generator, twin)
    del state
    assert isinstance(model, Sfe) and model.config == SfeConfig(GENERATOR) and model.inverter is not None
    golden, image = Baseline("sfe"), input_image(size=1024)
    golden("input256", bilinear(image, 256))
    predicted = seen(model.inverter.content_layer)
    inversion = model.invert(image)
    code = inversion.wplus_NLD
    assert inversion.detail is not None
    kept = Detail.of(inversion.detail, model.config)
    golden("latent_inverter", code)
    golden("latent_e4e", kept.twin_NLD)
    golden("predicted_feat", predicted[0])
    golden("w_feat9", model.own_features(model.generator.styles(code)))
    golden("fused_feat", kept.features)
    still = model.change(kept, code, None)
    assert (still == 0).all()
    golden("edited_feat_inversion", model.edited(kept, still))
    golden("image", model.generate(code, inversion.detail))
    edited = code + edit_offset()
    change = model.change(kept, edited, None)
    golden("delta_edit", change)
    golden("edited_feat_edit", model.edited(kept, change))
    golden("image_edit", model.generate(edited, inversion.detail))
    styles = model.generator.styles(torch.cat([kept.twin_NLD, kept.twin_NLD + edit_offset()]))
    before, after = model.generator(styles)[:, None]
    golden("e4e_image", before)
    golden("e4e_image_edit", after)
    golden("inverter_only_edit", model.inserted(model.generator.styles(edited), kept.features))
