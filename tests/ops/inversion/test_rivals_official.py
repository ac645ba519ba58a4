"""Every other method's full-size model against its official program's own numbers, with synthetic weights built from names.

What the methods share (e4e's encoder, the generator) is built once; each model is let go before the next is built.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from ops.checkpoints.rosinality import generator_from_rosinality
from ops.inversion.e4e import E4eConfig
from ops.inversion.hfgi import Hfgi, HfgiConfig
from ops.inversion.hyperstyle import HyperStyle, HyperStyleConfig, WeightDeltas
from ops.inversion.inverter import Inverter, bilinear, pooled
from ops.inversion.methods import Method, MethodConfig, build_inverter
from ops.inversion.sfe import Detail, Sfe, SfeConfig
from ops.inversion.wplus import Psp, Restyle, RestyleConfig, WplusConfig
from ops.stylegan2.config import StyleGAN2Config
from ops.stylegan2.generator import Injection
from tests.conftest import SHARED
from tests.golden import Baseline, baseline_section, decoder, e4e_encoder, edit_offset, input_image, peak_below, resident_bytes

PEAK_BYTES = 4e9
GENERATOR = StyleGAN2Config(conv_clamp=None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SHARED / "golden").is_dir(), reason=f"no golden vectors at {SHARED / 'golden'}"),
]


@pytest.fixture(scope="module")
def before_bytes() -> Iterator[int]:
    yield resident_bytes()
    e4e_encoder.cache_clear()
    decoder.cache_clear()


@pytest.fixture(autouse=True)
def measured(before_bytes: int) -> Iterator[None]:
    """Every test here holds one whole model, and whatever the ones before it left."""
    with torch.inference_mode(), peak_below(PEAK_BYTES, before_bytes):
        yield


def official(method: Method, config: MethodConfig, parts: dict[str, dict[str, Tensor]], latent_avg: Tensor) -> Inverter:
    """A model of synthetic weights: name of a part => its tensors; the generator is everybody's."""
    with torch.device("meta"):
        model = build_inverter(method, config)
    _, generator = generator_from_rosinality(decoder(), latent_avg, "decoder.")
    state = {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}
    state |= {f"generator.{name}": value for name, value in generator.items()}
    state["latent_avg"] = latent_avg.expand(18, 512)
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def seen(module: nn.Module) -> list[Tensor]:
    """Every output of a module from now on, in order."""
    outputs: list[Tensor] = []
    module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    return outputs


def test_psp() -> None:
    config = WplusConfig(GENERATOR, E4eConfig(rows="each"))
    model = official("psp", config, {"encoder": e4e_encoder()}, baseline_section("psp", "latent_avg")["latent_avg"])
    assert isinstance(model, Psp)
    golden = Baseline("psp")
    inversion = model.invert(input_image())
    golden("latent", inversion.wplus_NLD)
    golden("image", model.generate(inversion.wplus_NLD, None))
    golden("image_edit", model.generate(inversion.wplus_NLD + edit_offset(), None))


def test_restyle() -> None:
    parts = {"encoder": baseline_section("restyle_e4e", "encoder")}
    assert len(parts["encoder"]) == 565
    latent_avg = baseline_section("restyle_e4e", "latent_avg")["latent_avg"]
    model = official("restyle", RestyleConfig(GENERATOR), parts, latent_avg)
    assert isinstance(model, Restyle)
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
    parts = {
        "encoder": e4e_encoder(),
        "alignment": baseline_section("hfgi", "grid_align"),
        "consultation": baseline_section("hfgi", "residue"),
    }
    latent_avg = baseline_section("hfgi", "latent_avg")["latent_avg"]
    model = official("hfgi", HfgiConfig(GENERATOR), parts, latent_avg)
    assert isinstance(model, Hfgi) and model.alignment is not None
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

        image = model.generator(styles, injection=Injection(64, watched))
        golden(f"{tag}_feat64_before", features[0])
        golden(f"{tag}_feat64_after", features[1])
        golden(f"{tag}_image", image)
        golden(f"{tag}_image256", bilinear(image, 256))
        golden(f"{tag}_image", model.generate(wplus, residual))


def test_hyperstyle() -> None:
    hypernet = baseline_section("hyperstyle", "hypernet")
    assert len(hypernet) == 393, "each tensor once, whatever its names"
    model = official(
        "hyperstyle",
        HyperStyleConfig(GENERATOR),
        {"encoder": baseline_section("hyperstyle", "encoder"), **hypernet_parts(hypernet)},
        baseline_section("hyperstyle", "latent_avg")["latent_avg"],
    )
    del hypernet
    assert isinstance(model, HyperStyle) and model.hypernet is not None
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


def hypernet_parts(hypernet: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The official names => our two parts, written out here: what reads a picture, and what makes deltas of codes."""
    parts: dict[str, dict[str, Tensor]] = {"hypernet": {}, "deltas": {}}
    for name, value in hypernet.items():
        words = name.split(".")
        if words[0] == "shared_weight_hypernet":
            parts["deltas"][f"shared.{words[1]}"] = value
        elif words[0] == "refinement_blocks" and words[2] == "output":
            parts["deltas"][f"planes.{words[1]}.{words[4]}"] = value.flatten(1) if value.ndim == 4 else value
        else:
            parts["hypernet"][name] = value
    return parts


def test_sfe() -> None:
    inverter = baseline_section("sfe", "inverter")
    parts = {
        "inverter": {n.removeprefix("fs_backbone."): v for n, v in inverter.items() if n.startswith("fs_backbone.")},
        "fuser": {n.removeprefix("fuser."): v for n, v in inverter.items() if n.startswith("fuser.")},
        "encoder": e4e_encoder(),
        "editor": baseline_section("sfe", "encoder"),
    }
    latent_avg = baseline_section("sfe", "latent_avg")["latent_avg"]
    model = official("sfe", SfeConfig(GENERATOR), parts, latent_avg)
    assert isinstance(model, Sfe) and model.inverter is not None
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
