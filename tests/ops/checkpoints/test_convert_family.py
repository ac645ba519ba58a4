"""Files of e4e's family, small, in each layout: converted, they are the model whose tensors they hold.

That these layouts and our formulas give the official programs' pictures is shown at full size, by
tests/ops/inversion/test_rivals_official.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from jobs.cli import app
from ops.checkpoints.bundle import Bundle, open_bundle
from ops.checkpoints.convert import convert, read_checkpoint
from ops.checkpoints.doctor import diagnose
from ops.checkpoints.formats.contents import read_content
from ops.checkpoints.formats.model import Model
from ops.files.errors import CheckpointError
from ops.inversion.hyperstyle import HyperStyle
from ops.inversion.sfe import Sfe
from ops.inversion.wplus import E4e, Psp, Restyle
from tests.ops.checkpoints import foreign


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.inference_mode():
        yield


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(3)).clamp(-1, 1)


def bundle_of(folder: Path, *files: Path, **settings: Any) -> Bundle:
    bundle = convert(files[0], folder / "bundle", beside=files[1:], **settings)
    assert isinstance(bundle, Bundle) and bundle == open_bundle(folder / "bundle")
    return bundle


def assert_holds(bundle: Bundle, content: dict[str, Any], renamed: dict[str, str]) -> None:
    """Tensors under each of their prefixes are those under ours, under the same names, and none is lost."""
    stored = load_file(bundle.path / "weights.safetensors")
    for theirs, ours in renamed.items():
        given = {name.removeprefix(theirs): value for name, value in content.items() if name.startswith(theirs)}
        assert given, theirs
        assert {name for name in stored if name.startswith(ours)} == {ours + name for name in given}
        for name, value in given.items():
            assert torch.equal(stored[ours + name], value), name


def test_psp_is_e4e_with_another_sum_and_somebody_must_say_which(tmp_path: Path) -> None:
    content = foreign.e4e_file(tmp_path / "x.pt")
    e4e = bundle_of(tmp_path / "a", tmp_path / "x.pt").load()
    content["opts"] = {"stylegan_size": 32}
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="say --format e4e or --format psp"):
        read_checkpoint(tmp_path / "x.pt")
    psp = bundle_of(tmp_path / "b", tmp_path / "x.pt", wanted="psp").load()
    assert isinstance(e4e, E4e) and isinstance(psp, Psp)
    near, apart = e4e.invert(images()).wplus_NLD, psp.invert(images()).wplus_NLD
    first = near[:, :1] - content["latent_avg"][0]
    torch.testing.assert_close(near[:, 1:], apart[:, 1:] + first)
    assert torch.equal(near[:, 0], apart[:, 0]) and (near - apart).abs().max() > 0.1
    content["opts"] = {"encoder_type": "GradualStyleEncoder"}
    torch.save(content, tmp_path / "x.pt")
    named = read_checkpoint(tmp_path / "x.pt")
    assert isinstance(named, Model) and named.method == "psp"
    with pytest.raises(CheckpointError, match=r"a pSp checkpoint.*--format says e4e"):
        read_checkpoint(tmp_path / "x.pt", "e4e")


def test_restyle(tmp_path: Path) -> None:
    content = foreign.restyle_file(tmp_path / "r.pt")
    bundle = bundle_of(tmp_path, tmp_path / "r.pt")
    assert_holds(bundle, content["state_dict"], {"encoder.": "encoder."})
    model = bundle.load()
    assert isinstance(model, Restyle) and model.config.rounds == 3 and bundle.residual_shape == (0,)
    first, second, _ = model.rounds(images())
    shown = torch.nn.functional.adaptive_avg_pool2d(model.generate(first, None), 32)
    assert model.encoder is not None
    expected = first + model.encoder(torch.cat([images(), shown], dim=1))[0]
    torch.testing.assert_close(second, expected)
    foreign.restyle_file(tmp_path / "r.pt", encoder_type=None)
    with pytest.raises(CheckpointError, match="say --format restyle-e4e or --format restyle-psp"):
        read_checkpoint(tmp_path / "r.pt")
    over_psp = read_checkpoint(tmp_path / "r.pt", "restyle-psp")
    assert isinstance(over_psp, Model) and over_psp.config.encoder.rows == "each"  # type: ignore[union-attr]


def test_hfgi(tmp_path: Path) -> None:
    content = foreign.hfgi_file(tmp_path / "h.pt")
    bundle = bundle_of(tmp_path, tmp_path / "h.pt")
    renamed = {"encoder.": "encoder.", "grid_align.": "alignment.", "residue.": "consultation."}
    assert_holds(bundle, content["state_dict"], renamed)
    assert bundle.residual_shape == (3, 32, 32)
    model = bundle.load()
    inversion = model.invert(images())
    assert model.generate(inversion.wplus_NLD, inversion.detail).isfinite().all()


def test_hyperstyle_and_that_its_codes_are_its_deltas(tmp_path: Path) -> None:
    """The official program makes deltas in every round and sums them; we sum codes and make deltas once."""
    content, beside = foreign.hyperstyle_files(tmp_path / "h.pt", tmp_path / "w.pt")
    bundle = bundle_of(tmp_path, tmp_path / "h.pt", tmp_path / "w.pt")
    given = content["state_dict"]
    assert_holds(bundle, given, {"hypernet.shared_weight_hypernet.": "deltas.shared."})
    assert_holds(bundle, beside["state_dict"], {"encoder.": "encoder."})
    model = bundle.load()
    assert isinstance(model, HyperStyle) and model.hypernet is not None and bundle.residual_shape == (7, 7)
    assert model.config.hypernet.rounds == 3
    image = images()
    code = model.encode(image)
    sums = {layer.index: torch.zeros(()) for layer in model.config.tuned}
    shown, state = model.start(code).shown, model.start(code)
    for _ in range(3):
        features = model.hypernet.features(image, shown)
        for index in sums:
            sums[index] = sums[index] + official_delta(given, index, features, model.config.generator.channels)
        state = model.refine(image, code, state)
        named = {layer.name: sums[layer.index] for layer in model.config.tuned}
        picture = model.generator(model.generator.styles(code), weight_deltas=named)
        shown = torch.nn.functional.adaptive_avg_pool2d(picture, 32)
        torch.testing.assert_close(state.shown, shown, rtol=1e-4, atol=1e-4)
    inversion = model.invert(image)
    assert inversion.detail is not None and torch.equal(inversion.detail, state.codes_NTK)
    torch.testing.assert_close(model.generate(code, inversion.detail), picture, rtol=1e-4, atol=1e-4)
    assert (picture - model.generate(code, 0 * inversion.detail)).abs().max() > 0.01, "the premise: codes matter"


def official_delta(state: dict[str, Tensor], index: int, features: Tensor, channels: Any) -> Tensor:
    """One layer's deltas in one round [N, O, I, 3, 3], by the official program's steps and names."""
    p = {n.removeprefix("hypernet."): v for n, v in state.items()}
    block = f"refinement_blocks.{index}"
    x = features
    if f"{block}.linear.weight" in p:
        for n, stride in ((0, 1), (2, 2)):
            weight, bias = p[f"{block}.convs.{n}.weight"], p[f"{block}.convs.{n}.bias"]
            x = torch.nn.functional.leaky_relu(torch.conv2d(x, weight, bias, stride=stride, padding=1), 0.01)
        z = x.flatten(1) @ p[f"{block}.linear.weight"].T / 7**0.5 + p[f"{block}.linear.bias"]
        h = (z @ p[f"{block}.hypernet.w2"] + p[f"{block}.hypernet.b2"]).view(len(z), 12, 7)
        return (h @ p[f"{block}.hypernet.w1"] + p[f"{block}.hypernet.b1"]).view(len(z), 12, 12, 3, 3)
    weight, bias = p[f"{block}.convs.0.weight"], p[f"{block}.convs.0.bias"]
    x = torch.nn.functional.leaky_relu(torch.conv2d(x, weight, bias, stride=2, padding=1), 0.01).mean((2, 3), keepdim=True)
    plane = torch.conv2d(x, p[f"{block}.output.1.weight"], p[f"{block}.output.1.bias"])
    out = {5: 10, 6: 10, 8: 8, 9: 8}[index]
    return plane.view(len(x), out, -1)[..., None, None].expand(-1, -1, -1, 3, 3)


def test_sfe_and_its_first_phase(tmp_path: Path) -> None:
    content, _ = foreign.sfe_files(tmp_path / "s.pt", tmp_path / "g.pt")
    e4e = foreign.e4e_file(tmp_path / "e.pt")
    bundle = bundle_of(tmp_path, tmp_path / "s.pt", tmp_path / "e.pt", tmp_path / "g.pt")
    renamed = {"inverter.fs_backbone.": "inverter.", "inverter.fuser.": "fuser.", "encoder.": "editor."}
    assert_holds(bundle, content["state_dict"], renamed)
    assert_holds(bundle, e4e["state_dict"], {"encoder.": "encoder."})
    assert bundle.residual_shape == (12 * 8 * 8 + 2 * 8 * foreign.W_DIM,)
    model = bundle.load()
    assert isinstance(model, Sfe) and model.config.features.resolution == 8
    inversion = model.invert(images())
    assert inversion.detail is not None
    assert model.generate(inversion.wplus_NLD, inversion.detail).isfinite().all()
    # The first phase's file has the same inverter under another name, and nothing to edit features with.
    state = {n.replace("inverter.", "encoder."): v for n, v in content["state_dict"].items() if n.startswith("inverter.")}
    torch.save({"state_dict": state}, tmp_path / "i.pt")
    assert read_content(tmp_path / "i.pt").formats == ("sfe-inverter",)
    with pytest.raises(CheckpointError, match="features at one of"):
        read_checkpoint(tmp_path / "i.pt", beside=[tmp_path / "g.pt"])  # 256 px pictures, and a generator of 32


@pytest.mark.parametrize("name", ["hyperstyle", "sfe"])
def test_a_model_in_several_files_names_those_that_are_missing(tmp_path: Path, name: str) -> None:
    if name == "sfe":
        foreign.sfe_files(tmp_path / "x.pt", tmp_path / "beside.pt")
        said = ("the generator, stylegan2-ffhq-config-f.pt", "e4e_ffhq_encode.pt")
    else:
        foreign.hyperstyle_files(tmp_path / "x.pt", tmp_path / "beside.pt")
        said = ("faces_w_encoder.pt",)
    with pytest.raises(CheckpointError, match=said[0]):
        read_checkpoint(tmp_path / "x.pt")
    if name == "sfe":
        with pytest.raises(CheckpointError, match=f"{said[1]}.*given so far: a rosinality"):
            read_checkpoint(tmp_path / "x.pt", beside=[tmp_path / "beside.pt"])
    found = diagnose(str(tmp_path / "x.pt"))
    assert found.problem is None and said[0] in found.facts["lies in several files"] and "--with" in found.next


Change = Callable[[dict[str, Tensor]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("grid_align.dconv_layer2.1.res_layer.2.weight"), r"missing \(1\): alignment\.dconv_layer2\.1"),
        (lambda s: s.update({"residue.surplus": torch.zeros(1)}), r"unknown \(1\): consultation\.surplus"),
        (lambda s: s.pop("residue.conv_layer1.0.weight"), "lacks conv_layer1.0.weight"),
        (lambda s: s.update({"residue.condition_scale3.2.bias": torch.zeros(5)}), r"of another shape.*\[5\], expected \[12\]"),
        (lambda s: s.pop("decoder.noises.noise_3"), r"missing \(1\): generator\.synthesis\.b16\.conv0\.noise_const"),
    ],
)
def test_what_is_missing_or_unknown_is_listed(tmp_path: Path, change: Change, message: str) -> None:
    content = foreign.hfgi_file(tmp_path / "h.pt")
    change(content["state_dict"])
    torch.save(content, tmp_path / "h.pt")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "h.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_layer_with_a_map_of_its_own_is_not_hyperstyles(tmp_path: Path) -> None:
    content, _ = foreign.hyperstyle_files(tmp_path / "h.pt", tmp_path / "w.pt")
    content["state_dict"]["hypernet.refinement_blocks.2.hypernet.w1"] = torch.zeros(7, 108)
    torch.save(content, tmp_path / "h.pt")
    with pytest.raises(CheckpointError, match=r"one map shared by all layers.*refinement_blocks\.2\.hypernet\.w1"):
        read_checkpoint(tmp_path / "h.pt", beside=[tmp_path / "w.pt"])


class Bomb:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> object:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("place", ["file", "beside"])
def test_hostile_files_run_nothing(tmp_path: Path, place: str) -> None:
    """In the options of the file itself, and in a file beside it."""
    content, beside = foreign.hyperstyle_files(tmp_path / "h.pt", tmp_path / "w.pt")
    hostile, path = (content, "h.pt") if place == "file" else (beside, "w.pt")
    torch.save({**hostile, "opts": {"encoder_type": Bomb(tmp_path / "ran")}}, tmp_path / path)
    with pytest.raises(CheckpointError, match="no code is run"):
        convert(tmp_path / "h.pt", tmp_path / "out", beside=[tmp_path / "w.pt"])
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def test_the_command_takes_the_files_beside(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    foreign.hyperstyle_files(tmp_path / "h.pt", tmp_path / "w.pt")
    arguments = ["convert", tmp_path / "h.pt", "--with", tmp_path / "w.pt", "--out", tmp_path / "bundle"]
    ran = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert ran.exit_code == 0 and "hyperstyle, 32 px" in ran.stdout
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "h.pt, SHA-256" in card and "w.pt, SHA-256" in card
