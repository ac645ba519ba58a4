"""Every foreign layout, small: written by its own rules, converted, opened, and its pictures compared with its own formulas."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ops.checkpoints.bundle import Bundle, open_bundle
from ops.checkpoints.convert import Model, convert, read_checkpoint
from ops.checkpoints.prior import Prior, read_prior_config
from ops.files.errors import CheckpointError
from ops.generators.discriminator import Discriminator
from ops.generators.stylegan2 import StyleGAN2
from ops.generators.stylegan2_config import StyleGAN2Config
from ops.inversion.styleres import StyleRes
from ops.inversion.wplus import E4e
from ops.training.run import model_on_prior
from tests.ops.checkpoints import foreign

TOLERANCE = 1e-4


def generator_from(folder: Path) -> StyleGAN2:
    """What `styleres train --prior` does with a folder."""
    model = StyleGAN2(read_prior_config(folder))
    model.load_state_dict(load_file(folder / "generator.safetensors"))
    return model.requires_grad_(False)


def codes(rows: int = 8) -> Tensor:
    torch.manual_seed(9)
    return torch.randn(2, rows, foreign.W_DIM)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    scale = float(theirs.abs().max())
    assert float((ours.double() - theirs).abs().max()) <= TOLERANCE * max(1.0, scale)
    assert theirs.std() > 0.1, "the premise: there is a picture"


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


# ------------------------------------------------------------------------------------------------ generators: pictures


@pytest.mark.parametrize("extra", [{"latent_avg": torch.ones(foreign.W_DIM)}, {}, {"g": {}, "d": {}, "args": None}])
def test_a_rosinality_generator_makes_its_own_pictures(tmp_path: Path, extra: dict[str, Any]) -> None:
    state = foreign.rosinality_generator()
    out = convert(saved(tmp_path / "g.pt", {"g_ema": state, **extra}), tmp_path / "prior")
    assert out == tmp_path / "prior"
    model = generator_from(tmp_path / "prior")
    assert model.config.channels == foreign.CHANNELS and model.config.conv_clamp is None and model.config.mapping_layers == 3
    assert_close(model(model.styles(codes())), foreign.rosinality_image(state, codes()))
    z = torch.randn(4, foreign.Z_DIM)
    assert_close(model.mapping(z), foreign.rosinality_mapping(state, z))
    if "latent_avg" in extra:
        assert torch.equal(model.mapping.w_avg, torch.ones(foreign.W_DIM))
    else:
        torch.manual_seed(5)
        measured = foreign.rosinality_mapping(state, torch.randn(50_000, foreign.Z_DIM))
        error = (model.mapping.w_avg - measured.mean(0)).abs().max()
        assert error < 5 * float(measured.std(0).max()) / 50_000**0.5 * 1.5, "the mean of W, to the noise of two samples"


def test_a_bare_rosinality_state_dict_is_read_too(tmp_path: Path) -> None:
    state = foreign.rosinality_generator({4: 8, 8: 8, 16: 6, 32: 6, 64: 4})
    read = read_checkpoint(saved(tmp_path / "g.pt", {**state, "latent_avg": torch.zeros(foreign.W_DIM)}))
    assert isinstance(read, Prior) and read.config.resolution == 64 and read.config.num_ws == 10


def test_an_nvidia_pickle_makes_the_pictures_of_its_tensors(tmp_path: Path) -> None:
    state = foreign.nvidia_state()
    path = tmp_path / "network.pkl"
    discriminator = {
        f"{k}": v for k, v in Discriminator(StyleGAN2Config(resolution=32, channels=foreign.CHANNELS)).state_dict().items()
    }
    networks = {"G": foreign.nvidia_state(seed=7), "D": discriminator, "G_ema": state}
    foreign.persistent_pickle(path, networks, conv_clamp=256, architecture="skip", activation="lrelu")
    convert(path, tmp_path / "prior")
    model = generator_from(tmp_path / "prior")
    assert model.config.conv_clamp == 256 and foreign.RAN == []
    assert_close(model(model.styles(codes())), foreign.rosinality_image(foreign.as_rosinality(state), codes()))
    z = torch.randn(4, foreign.Z_DIM)
    assert_close(model.mapping(z), foreign.rosinality_mapping(foreign.as_rosinality(state), z))
    assert torch.equal(model.mapping.w_avg, state["mapping.w_avg"])
    kept = load_file(tmp_path / "prior" / "discriminator.safetensors")
    assert set(kept) == set(discriminator) and all(torch.equal(kept[name], discriminator[name]) for name in kept)


def test_a_pickle_without_a_clamp_gives_a_generator_without_one(tmp_path: Path) -> None:
    foreign.persistent_pickle(tmp_path / "n.pkl", {"G_ema": foreign.nvidia_state()}, conv_clamp=None)
    read = read_checkpoint(tmp_path / "n.pkl")
    assert isinstance(read, Prior) and read.config.conv_clamp is None and read.discriminator is None


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"synthesis.input.freqs": torch.zeros(2)}, {}, "alias-free StyleGAN3"),
        ({"mapping.embed.weight": torch.zeros(2, 2)}, {}, "class labels"),
        ({}, {"architecture": "resnet"}, "architecture resnet"),
        ({}, {"activation": "relu"}, "activation relu"),
        ({"synthesis.b8.extra.weight": torch.zeros(2)}, {}, r"unknown \(1\): synthesis\.b8\.extra\.weight"),
        ({"synthesis.b4.resample_filter": torch.ones(4, 4)}, {}, "filter"),
    ],
)
def test_other_nvidia_networks_are_refused_by_name(
    tmp_path: Path, change: dict[str, Tensor], settings: dict[str, Any], message: str
) -> None:
    foreign.persistent_pickle(tmp_path / "n.pkl", {"G_ema": foreign.nvidia_state() | change}, conv_clamp=None, **settings)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "n.pkl")


def test_the_shared_prior_under_rosinalitys_names_is_the_shared_prior_again(tmp_path: Path, shared: Path) -> None:
    """A trained generator through both tables: NVIDIA's names to theirs by the tests', theirs to NVIDIA's by ours."""
    folder = shared / "models" / "prior64"
    state = load_file(folder / "generator.safetensors")
    theirs = foreign.as_rosinality(state) | {
        f"style.{i + 1}.{kind}": state[f"mapping.fc{i}.{kind}"] for i in range(4) for kind in ("weight", "bias")
    }
    convert(saved(tmp_path / "g.pt", {"g_ema": theirs, "latent_avg": state["mapping.w_avg"]}), tmp_path / "prior")
    again = load_file(tmp_path / "prior" / "generator.safetensors")
    assert set(again) == {name for name in state if not name.endswith("resample_filter")}
    assert all(torch.equal(again[name], state[name]) for name in again)
    assert torch.equal(model_on_prior(tmp_path / "prior", "mini").latent_avg[0], state["mapping.w_avg"]), (
        "train --prior takes it"
    )


# ---------------------------------------------------------------------------------------------------------- e4e, StyleRes


@pytest.mark.parametrize("namespace", [False, True])
def test_an_e4e_file_becomes_a_bundle_with_its_numbers(tmp_path: Path, namespace: bool) -> None:
    content = foreign.e4e_file(tmp_path / "e4e.pt", namespace=namespace, global_step=7, optimizer={"lr": 1.0})
    bundle = convert(tmp_path / "e4e.pt", tmp_path / "bundle")
    assert (
        isinstance(bundle, Bundle)
        and bundle.method == "e4e"
        and bundle.edits == ()
        and bundle == open_bundle(tmp_path / "bundle")
    )
    assert bundle.config.encoder.groups == ((16, 16, 2), (16, 24, 1), (24, 32, 2), (32, 48, 1))
    assert bundle.config.encoder.input_size == 32 and bundle.config.encoder.middle_rows == 3
    model = bundle.load()
    assert isinstance(model, E4e) and model.encoder is not None
    image = torch.randn(1, 3, 32, 32)
    inversion = model.invert(image)
    assert torch.equal(inversion.wplus_NLD, model.encoder(image)[0] + content["latent_avg"])
    decoder = {name.removeprefix("decoder."): v for name, v in content["state_dict"].items() if name.startswith("decoder.")}
    assert_close(model.generate(codes(), None), foreign.rosinality_image(decoder, codes()))
    assert torch.equal(model.generator.mapping.w_avg, content["latent_avg"][0])


def test_one_tensor_under_two_names_is_written_twice(tmp_path: Path) -> None:
    content = foreign.styleres_file(tmp_path / "s.pt")
    content["e4e"]["body.1.res_layer.4.bias"] = content["e4e"]["body.0.res_layer.4.bias"]
    bundle = convert(saved(tmp_path / "s.pt", content), tmp_path / "bundle")
    stored = load_file(tmp_path / "bundle" / "weights.safetensors")
    assert isinstance(bundle, Bundle)
    assert torch.equal(stored["encoder.body.1.res_layer.4.bias"], stored["encoder.body.0.res_layer.4.bias"])


@pytest.mark.parametrize("shape", [(14,), (1, 14), (8, 14), (1, 8, 14)])
def test_a_styleres_file_of_any_size_becomes_a_bundle(tmp_path: Path, shape: tuple[int, ...]) -> None:
    content = foreign.styleres_file(tmp_path / "s.pt", shape)
    bundle = convert(tmp_path / "s.pt", tmp_path / "bundle", name="mine", licence="of mine")
    assert isinstance(bundle, Bundle)
    assert (bundle.name, bundle.licence, bundle.method, bundle.edits) == ("mine", "of mine", "styleres", ())
    residual = bundle.config.residual
    assert (residual.resolution, residual.width, residual.residual_channels, residual.encoder_channels) == (8, 12, 6, 24)
    assert bundle.config.generator.conv_clamp == 256 and bundle.config.encoder.feature_tap == 1
    model = bundle.load()
    assert isinstance(model, StyleRes)
    assert torch.equal(model.latent_avg, content["latent_avg"].reshape(-1, 14).expand(8, 14))
    inversion = model.invert(torch.randn(1, 3, 32, 32))
    assert model.generate(inversion.wplus_NLD, inversion.detail).isfinite().all()
    stored = load_file(bundle.path / "weights.safetensors")
    given = content["generator_smooth"]
    assert torch.equal(
        stored["gates.convs2.2.res_layer.2.weight"], given["synthesis.b8.modify_feature_gates.convs2.2.res_layer.2.weight"]
    )
    assert "dconv3" not in "".join(stored)


def test_half_is_half_the_space_and_nearly_the_same_picture(tmp_path: Path) -> None:
    foreign.styleres_file(tmp_path / "s.pt")
    whole, half = (convert(tmp_path / "s.pt", tmp_path / str(h), half=h) for h in (False, True))
    assert isinstance(whole, Bundle) and isinstance(half, Bundle)
    sizes = [(bundle.path / "weights.safetensors").stat().st_size for bundle in (whole, half)]
    assert sizes[1] < 0.75 * sizes[0]
    image = torch.randn(1, 3, 32, 32)
    one, two = (model.generate(*vars(model.invert(image)).values()) for model in (whole.load(), half.load()))
    assert 0 < float((one - two).abs().max()) < 0.05 * float(one.abs().max())
    content = foreign.styleres_file(tmp_path / "s.pt")
    content["e4e"]["latlayer1.weight"][0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"beyond float16.*encoder\.latlayer1\.weight"):
        convert(saved(tmp_path / "s.pt", content), tmp_path / "o", half=True)
    assert not (tmp_path / "o").exists()


# ------------------------------------------------------------------------------------------- what is missing or unknown

Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["e4e"].pop("latlayer1.bias"), r"missing \(1\): encoder\.latlayer1\.bias"),
        (lambda c: c["e4e"].update(surplus=torch.zeros(1)), r"unknown \(1\): encoder\.surplus"),
        (lambda c: c["generator_smooth"].update(surplus=torch.zeros(1)), "no StyleRes model has: surplus"),
        (
            lambda c: c["generator_smooth"].pop("synthesis.b16.conv0.bias"),
            r"missing \(1\): generator\.synthesis\.b16\.conv0\.bias",
        ),
        (lambda c: c["generator_smooth"].pop("mapping.w_avg"), "missing.*w_avg"),
        (
            lambda c: c["generator_smooth"].update({"synthesis.b16.conv0.bias": torch.zeros(9)}),
            r"conv0\.bias \[9\], expected \[10\]",
        ),
        (lambda c: c.update(latent_avg=torch.zeros(5, 14)), "does not broadcast"),
        (lambda c: c.update(latent_avg="none"), "a tensor latent_avg"),
        (lambda c: c["e4e"].update({"latlayer1.bias": [1.0]}), r"tensors only.*latlayer1\.bias \(list\)"),
        (lambda c: c["e4e"].pop("styles.0.linear.weight"), "lacks styles.0.linear.weight"),
        (lambda c: [c["generator_smooth"].pop(k) for k in list(c["generator_smooth"]) if "modify" in k], "inside one block"),
    ],
)
def test_what_is_missing_or_unknown_is_listed(tmp_path: Path, change: Change, message: str) -> None:
    content = foreign.styleres_file(tmp_path / "s.pt")
    change(content)
    with pytest.raises(CheckpointError, match=message):
        convert(saved(tmp_path / "s.pt", content), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("convs.1.conv.weight", None, "convs|conv1"),
        ("to_rgbs.1.bias", None, r"missing \(1\): synthesis\.b16\.torgb\.bias"),
        ("noises.noise_3", None, r"missing \(1\): synthesis\.b16\.conv0\.noise_const"),
        ("convs.0.conv.surplus", torch.zeros(1), r"no rosinality generator has: convs\.0\.conv\.surplus"),
        ("convs.0.conv.blur.kernel", foreign.KERNEL, r"sum 4, got \[4, 4\] with sum 1"),
        ("style.2.bias", None, r"style\.fc1\.bias|fc1"),
    ],
)
def test_a_rosinality_file_that_is_not_whole_says_so(tmp_path: Path, name: str, value: Tensor | None, message: str) -> None:
    state = foreign.rosinality_generator()
    if value is None:
        del state[name]
    else:
        state[name] = value
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(saved(tmp_path / "g.pt", {"g_ema": state}))


def test_sizes_that_the_tensors_do_not_tell_come_from_a_preset(tmp_path: Path) -> None:
    """An encoder whose groups all have the same channels: nothing says where they begin."""
    content = foreign.styleres_file(tmp_path / "s.pt")
    read = read_checkpoint(tmp_path / "s.pt")
    assert isinstance(read, Model)
    content["e4e"]["body.2.res_layer.1.weight"] = torch.zeros(16, 16, 3, 3)
    with pytest.raises(CheckpointError, match="where its four groups begin"):
        read_checkpoint(saved(tmp_path / "s.pt", content))
    foreign.styleres_file(tmp_path / "s.pt")
    again = read_checkpoint(tmp_path / "s.pt", preset=read.config)
    assert isinstance(again, Model) and again.config == read.config


# -------------------------------------------------------------------------------------------------------------- writing


def test_a_folder_that_is_there_is_kept(tmp_path: Path) -> None:
    foreign.styleres_file(tmp_path / "s.pt")
    out = tmp_path / "out"
    out.mkdir()
    convert(tmp_path / "s.pt", out)  # an empty one is as good as none
    before = open_bundle(out).digest
    with pytest.raises(CheckpointError, match="exists already"):
        convert(tmp_path / "s.pt", out)
    with pytest.raises(CheckpointError):
        convert(tmp_path / "nothing.pt", out, overwrite=True)
    assert open_bundle(out).digest == before, "a conversion that fails leaves the old one"
    convert(tmp_path / "s.pt", out, name="other", overwrite=True)
    assert open_bundle(out).name == "other"
    papers = tmp_path / "papers"
    papers.mkdir()
    (papers / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not a model's folder"):
        convert(tmp_path / "s.pt", papers, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "papers", "s.pt"], "nothing temporary is left"


def test_a_generators_folder_is_no_bundle_and_says_so(tmp_path: Path) -> None:
    convert(saved(tmp_path / "g.pt", {"g_ema": foreign.rosinality_generator()}), tmp_path / "prior")
    content = json.loads((tmp_path / "prior" / "config.json").read_text())
    assert content["kind"] == "generator" and content["num_ws"] == 8 and "g.pt" in content["source"]
    with pytest.raises(CheckpointError, match="styleres train --prior"):
        open_bundle(tmp_path / "prior")


def test_a_file_that_is_no_model_says_what_it_is(tmp_path: Path) -> None:
    direction = saved(tmp_path / "age.pt", torch.zeros(1, 512))
    with pytest.raises(CheckpointError, match=r"an edit direction.*no model that can be converted"):
        read_checkpoint(direction)
    with pytest.raises(CheckpointError, match="--format says e4e"):
        foreign.styleres_file(tmp_path / "s.pt")
        read_checkpoint(tmp_path / "s.pt", "e4e")
