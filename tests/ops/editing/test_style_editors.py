"""Edits in S: users' directions, StyleCLIP's global ones, and what they refuse."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import safetensors.torch
import torch

from ops.editing import clip_text
from ops.editing.editor import EditError, StyleEditor, check_fits
from ops.editing.style_direction import StyleDirectionEditor, load_style_direction
from ops.editing.styleclip_global import (
    StyleclipGlobalEditor,
    global_direction,
    load_deviations,
    load_relevance,
    load_text_feature,
    text_direction,
)
from ops.generators.protocol import style_channels
from ops.generators.stylegan2 import StyleGAN2
from ops.generators.stylegan2_config import StyleGAN2Config
from tests.golden import synthetic_weights
from tests.ops.editing import official
from tests.tiny import CONFIG

TINY = CONFIG.generator
SIZES = style_channels(TINY)
S = sum(SIZES.values())
CONVOLUTIONS = [layer for layer in SIZES if not layer.endswith("torgb")]
K = sum(SIZES[layer] for layer in CONVOLUTIONS)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_channels_are_the_generators_own_in_its_order() -> None:
    for config in (TINY, StyleGAN2Config()):
        with torch.device("meta"):
            styles = StyleGAN2(config).styles(torch.zeros(1, config.num_ws, config.w_dim, device="meta"))
            layers = config.style_inputs
        assert list(style_channels(config)) == [entry.name for entry in layers]
        assert list(style_channels(config).values()) == [style.shape[1] for style in styles]
    assert sum(style_channels(StyleGAN2Config()).values()) == 9088


@pytest.mark.parametrize("editor", [StyleDirectionEditor(random(S)), StyleclipGlobalEditor(random(S))])
def test_an_offset_grows_with_strength_and_knows_nothing_of_its_neighbours(editor: StyleEditor) -> None:
    strength_N = torch.tensor([0.0, 1.0, -2.5, 4.0])
    whole = editor.offset(strength_N)
    assert whole.shape == (4, S) and whole.dtype == torch.float32 and editor.neutral == 0 and len(editor.unit) > 10
    assert not whole[0].any() and torch.equal(whole[2], -2.5 * whole[1])
    for n in range(4):
        assert torch.equal(editor.offset(strength_N[n : n + 1])[0], whole[n])
    assert torch.equal(editor.offset(-strength_N), -whole)


# ------------------------------------------------------------------------------------------------ users' files


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pt"])
def test_a_flat_direction_loads(tmp_path: Path, suffix: str) -> None:
    path, direction = tmp_path / f"brows{suffix}", random(1, S)
    match suffix:
        case ".npy":
            np.save(path, direction.numpy())
        case ".npz":
            np.savez(path, direction=direction.numpy())
        case ".safetensors":
            safetensors.torch.save_file({"any": direction}, path)
        case _:
            torch.save(direction, path)
    assert torch.equal(load_style_direction(path, TINY), direction[0])


def test_a_direction_by_layer_moves_those_layers_only(tmp_path: Path) -> None:
    parts = {"b16.conv1": random(16), "b32.torgb": random(1, 8)}
    safetensors.torch.save_file(parts, tmp_path / "a.safetensors")
    torch.save({"b32.conv0": random(16)}, tmp_path / "one.pt")
    loaded = dict(zip(SIZES, load_style_direction(tmp_path / "a.safetensors", TINY).split(list(SIZES.values())), strict=True))
    for layer, values in loaded.items():
        assert torch.equal(values, parts[layer].reshape(-1)) if layer in parts else not values.any(), layer
    alone = load_style_direction(tmp_path / "one.pt", TINY)
    assert alone.shape == (S,) and int((alone != 0).sum()) == 16


def test_directions_of_another_generator_are_refused(tmp_path: Path) -> None:
    files = {
        "flat": (random(9088), "9088 channels, this generator has"),
        "layers": ({"b64.conv1": random(16), "b8.conv0": random(16)}, "b64.conv1"),
        "sizes": ({"b8.conv0": random(15)}, "15 for 16"),
        "empty": ({}, "no tensor"),
    }
    for name, (content, said) in files.items():
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(EditError, match=said):
            load_style_direction(tmp_path / f"{name}.pt", TINY, name=name)
    with pytest.raises(EditError, match="finite and not all zero"):
        StyleDirectionEditor(torch.zeros(S))
    with pytest.raises(EditError, match="belongs to one generator"):
        check_fits(StyleDirectionEditor(random(S + 1)), TINY, "brows")


# ------------------------------------------------------------------------------------------------ global directions


def test_a_global_direction_by_hand() -> None:
    """Two channels are relevant; the larger moves by its own deviation, the smaller by its share; torgb stays."""
    relevance_KE = torch.zeros(K, 3)
    relevance_KE[0] = torch.tensor([0.4, 9.0, 0.0])  # what is across the text's step does not count
    relevance_KE[5] = torch.tensor([-0.2, 0.0, 0.0])
    relevance_KE[9] = torch.tensor([0.09, 0.0, 0.0])
    deviations_S = torch.arange(1.0, S + 1)
    direction_S = global_direction(relevance_KE, torch.tensor([1.0, 0, 0]), deviations_S, 0.1, TINY)
    assert SIZES["b4.conv1"] == 16, "the first sixteen channels are the first layer's"
    expected = torch.zeros(S)
    expected[0], expected[5] = 1.0, -0.5 * 6
    torch.testing.assert_close(direction_S, expected)


def test_the_second_layer_of_a_direction_skips_the_first_torgb() -> None:
    relevance_KE = torch.zeros(K, 2)
    relevance_KE[16] = torch.tensor([0.3, 0.0])
    direction_S = global_direction(relevance_KE, torch.tensor([1.0, 0]), torch.ones(S), 0.1, TINY)
    assert torch.nonzero(direction_S).flatten().tolist() == [32], "16 of b4.conv1, 16 of b4.torgb, then b8.conv0"


def test_what_does_not_fit_is_refused() -> None:
    step_E, relevance_KE, deviations_S = torch.tensor([1.0, 0]), random(K, 2), torch.ones(S)
    with pytest.raises(EditError, match=f"relevance of {K} channels"):
        global_direction(random(K + 1, 2), step_E, deviations_S, 0.1, TINY)
    with pytest.raises(EditError, match="dimensions of CLIP"):
        global_direction(relevance_KE, torch.ones(3), deviations_S, 0.1, TINY)
    with pytest.raises(EditError, match=f"this generator has {S}"):
        global_direction(relevance_KE, step_E, torch.ones(S - 1), 0.1, TINY)
    with pytest.raises(EditError, match="no channel reaches the disentanglement 99"):
        global_direction(relevance_KE, step_E, deviations_S, 99, TINY)
    with pytest.raises(EditError, match="the same features"):
        text_direction(random(4), random(4) * 2)
    with pytest.raises(EditError, match="two vectors"):
        text_direction(random(4), random(5))


def test_the_official_deviations_fit_the_official_generator(shared: Path, tmp_path: Path) -> None:
    deviations_S = load_deviations(shared / "directions" / "official" / "S_mean_std")
    assert deviations_S.shape == (9088,) and (deviations_S > 0).all()
    with pytest.raises(EditError, match="two lists of arrays"):
        load_deviations(shared / "directions" / "official" / "gradctrl_model_params.pkl")
    np.save(tmp_path / "fs3.npy", random(7).numpy())
    with pytest.raises(EditError, match="one array"):
        load_relevance(tmp_path / "fs3.npy")


def test_the_golden_direction_gives_the_official_styles(shared: Path) -> None:
    """Styles of the golden picture before and after, both from the official program."""
    golden = shared / "golden"
    before = np.load(golden / "public" / "styleres_synthesis_w.npz")
    after = np.load(golden / "public" / "styleres_edit_styleclip_global.npz")
    offset = StyleclipGlobalEditor(official.glasses_direction(golden)).offset(torch.tensor([4.0]))
    parts = offset.split(list(style_channels(StyleGAN2Config()).values()), dim=1)
    assert len(parts) == 26 and any(part.any() for part in parts)
    for index, part in enumerate(parts):
        reference = after[f"edited_style/{index:02d}"]
        ours = before[f"style/{index:02d}"] + part.numpy()
        np.testing.assert_allclose(ours, reference, rtol=0, atol=2e-4 * np.abs(reference).max())


# ------------------------------------------------------------------------------------------------------- texts


def test_texts_are_looked_up_by_name(tmp_path: Path) -> None:
    path, features = tmp_path / "texts.npz", {"a face": random(4), "a face with glasses": random(1, 4, seed=1)}
    np.savez(path, **{name: feature.numpy() for name, feature in features.items()})
    assert torch.equal(load_text_feature(path, "a face with glasses"), features["a face with glasses"][0])
    with pytest.raises(EditError, match="'a face', 'a face with glasses'"):
        load_text_feature(path, "a hat")


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "templates.txt").write_text("a photo of {}.\n")
    with pytest.raises(EditError, match=r"styleres-video\[clip\]"):
        clip_text.clip_text_feature("a face", tmp_path / "templates.txt", "some/model")


def test_templates_are_filled_in_and_their_unit_features_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for transformers that gives each sentence a known feature."""
    features = {"a photo of a hat.": [3.0, 0.0], "a bad photo of a hat.": [0.0, 0.5]}
    seen: list[list[str]] = []

    class Tokenizer:
        @classmethod
        def from_pretrained(cls, name: str) -> Tokenizer:
            return cls()

        def __call__(self, sentences: list[str], **options: object) -> dict[str, list[str]]:
            seen.append(sentences)
            return {"sentences": sentences}

    class Encoder:
        @classmethod
        def from_pretrained(cls, name: str) -> Encoder:
            if name != "some/model":
                raise OSError("no such model\nand more")
            return cls()

        def eval(self) -> Encoder:
            return self

        def __call__(self, sentences: list[str]) -> Encoder:
            self.text_embeds = torch.tensor([features[sentence] for sentence in sentences])
            return self

    module = ModuleType("transformers")
    vars(module).update(CLIPTokenizer=Tokenizer, CLIPTextModelWithProjection=Encoder)
    monkeypatch.setitem(sys.modules, "transformers", module)
    path = tmp_path / "templates.txt"
    path.write_bytes(b"a photo of {}.\r\na bad photo of {}.\n\n")
    feature = clip_text.clip_text_feature("a hat", path, "some/model")
    torch.testing.assert_close(feature, torch.full((2,), 0.5**0.5))
    assert seen == [list(features)]
    with pytest.raises(EditError, match=r"other: cannot be loaded as a CLIP .*no such model\); give clip=FOLDER"):
        clip_text.clip_text_feature("a hat", path, "other")
    path.write_text("no place for a text\n")
    with pytest.raises(EditError, match="no place for a text"):
        clip_text.load_templates(path)
    path.write_text("\n")
    with pytest.raises(EditError, match="empty"):
        clip_text.load_templates(path)


def test_the_official_templates_are_79(shared: Path) -> None:
    assert len(clip_text.load_templates(shared / "directions" / "official" / "templates.txt")) == 79


def test_golden_vectors_are_texts_too(shared: Path) -> None:
    """The golden set's two vectors are used as they are given: made unit, then subtracted."""
    weights = synthetic_weights(shared / "golden", "styleclip_global")
    step_E = text_direction(3 * weights["text_target"], weights["text_neutral"])
    torch.testing.assert_close(step_E, text_direction(weights["text_target"], weights["text_neutral"]))
