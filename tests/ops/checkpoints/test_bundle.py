"""Bundles: what is written is what is read, halves load without the other's weights, and bad files say what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file

from ops.checkpoints.bundle import EMBEDDED, Bundle, EditEntry, open_bundle, write_bundle
from ops.checkpoints.formats.official import state_dict_from_official
from ops.files.errors import CheckpointError
from ops.inversion.e4e import E4eConfig
from ops.inversion.residual import ResidualConfig
from ops.inversion.styleres import StyleRes, StyleResConfig
from tests import tiny
from tests.small_model import SMALL

MEGABYTE = 1e6


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    torch.manual_seed(0)
    return write_bundle(
        tmp_path / "tiny",
        name="tiny",
        method="styleres",
        config=SMALL,
        licence="none",
        edits=[EditEntry("left", "direction", "to the left", rows=(0, 3)), EditEntry("pc0", "ganspace", "", component=0)],
        weights=StyleRes(SMALL).state_dict(),
        directions={
            "direction.left": torch.ones(16),
            "ganspace.mean": torch.zeros(16),
            "ganspace.components": torch.eye(16)[:2],
            "ganspace.std": torch.ones(2),
        },
        card="# tiny\n",
    )


def test_what_is_written_is_read(bundle: Bundle) -> None:
    again = open_bundle(bundle.path)
    assert again == bundle
    assert again.wplus_shape == (8, 16) and again.residual_shape == (4, 16, 16)
    model = again.load()
    stored = load_file(bundle.path / "weights.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, stored[name]), name
    code = torch.zeros(1, 8, 16)
    moved = again.editors()["left"].apply(code, torch.tensor([2.0]))
    assert torch.equal(moved[:, :3], torch.full((1, 3, 16), 2.0)) and not moved[:, 3:].any()
    assert set(again.editors()) == {"left", "pc0"}


def test_halves_do_not_need_the_other_halfs_weights(bundle: Bundle) -> None:
    whole = bundle.load()
    images = torch.randn(2, 3, 32, 32)
    inversion = whole.invert(images)
    path = bundle.path / "weights.safetensors"
    weights = load_file(path)
    save_file({k: v for k, v in weights.items() if not k.startswith(("encoder", "alignment", "extraction"))}, path)
    generating = bundle.load("generate")
    torch.testing.assert_close(
        generating.generate(inversion.wplus_NLD, inversion.detail), whole.generate(inversion.wplus_NLD, inversion.detail)
    )
    with pytest.raises(ValueError, match="loaded to generate only"):
        generating.invert(images)
    with pytest.raises(CheckpointError, match=r"lacks: alignment"):
        bundle.load("invert")
    save_file({k: v for k, v in weights.items() if not k.startswith("gates")}, path)
    again = bundle.load("invert").invert(images)
    assert torch.equal(again.wplus_NLD, inversion.wplus_NLD)


def test_the_digest_is_the_models_identity_and_not_the_cards(bundle: Bundle) -> None:
    (bundle.path / "README.md").write_text("# another card\n")
    assert open_bundle(bundle.path).digest == bundle.digest
    content = json.loads((bundle.path / "config.json").read_text())
    content["edits"] = []
    (bundle.path / "config.json").write_text(json.dumps(content))
    assert open_bundle(bundle.path).digest != bundle.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=9), "bundle format 9"),
        (lambda c: c.update(method="magic"), "method 'magic'"),
        (lambda c: c.pop("licence"), "not a bundle's config"),
    ],
)
def test_a_bad_config_says_what_is_wrong(bundle: Bundle, change: object, message: str) -> None:
    content = json.loads((bundle.path / "config.json").read_text())
    change(content)  # type: ignore[operator]
    (bundle.path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        open_bundle(bundle.path)


def test_what_is_no_bundle_is_named_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"mini64.*found nothing"):
        open_bundle("nonsense")
    with pytest.raises(CheckpointError, match=r"without config\.json"):
        open_bundle(tmp_path)


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="generator channels at the injection: 256 against 512"):
        StyleResConfig(
            encoder=E4eConfig(feature_tap=0),
            residual=ResidualConfig(resolution=128, encoder_channels=64),
        )


def test_unknown_keys_of_an_official_file_are_listed() -> None:
    with pytest.raises(CheckpointError, match=r"synthesizer\.b4\.const"):
        state_dict_from_official({}, torch.zeros(512), {"synthesizer.b4.const": torch.zeros(1)}, num_ws=18)
    for shape in ((512,), (1, 512), (18, 512), (1, 18, 512)):
        assert state_dict_from_official({}, torch.zeros(shape), {}, num_ws=18)["latent_avg"].shape == (18, 512)
    with pytest.raises(CheckpointError, match="does not broadcast"):
        state_dict_from_official({}, torch.zeros(14, 512), {}, num_ws=18)


def test_the_embedded_model_is_small_and_says_what_it_is() -> None:
    bundle = open_bundle("mini64")
    assert sum(file.stat().st_size for file in bundle.path.iterdir()) < 25 * MEGABYTE
    card = (EMBEDDED / "mini64" / "README.md").read_text()
    for word in ("CelebA", "non-commercial", "FFHQ", "L2", "held-out"):
        assert word in card, f"the model card does not speak of {word}"
    names = {entry.name for entry in bundle.edits}
    assert {"smile", "age", "gender", "eyeglasses", "pose", "hair_colour", "bangs", "ganspace_0"} <= names


@pytest.mark.parametrize("dies_at", [1, 2])
def test_a_bundle_that_is_written_over_another_is_the_old_one_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    """Killed between two files it was a config of one model with weights of another: a third digest that nobody made."""
    old = tiny.tiny_bundle(tmp_path / "bundle")
    (old.path / "notes.txt").write_text("mine", "utf-8")
    before, digest = {file.name: file.read_bytes() for file in old.path.iterdir()}, old.digest
    save, left = safetensors.torch.save_file, [dies_at]

    def dies(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        save(*arguments)

    monkeypatch.setattr(safetensors.torch, "save_file", dies)
    with pytest.raises(KeyboardInterrupt):
        tiny.tiny_bundle(old.path, seed=1)
    assert {file.name: file.read_bytes() for file in old.path.iterdir()} == before and list(tmp_path.iterdir()) == [old.path]
    monkeypatch.setattr(safetensors.torch, "save_file", save)
    new = tiny.tiny_bundle(old.path, seed=1)
    assert new.digest != digest and (old.path / "notes.txt").read_text("utf-8") == "mine"
