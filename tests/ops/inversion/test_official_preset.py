"""The official FFHQ-1024 preset against the official program's own numbers, with synthetic weights built from names.

One process of its own for the memory figure: the peak of a process never falls.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ops.checkpoints.official import state_dict_from_official
from ops.editing.direction import DirectionEditor
from ops.inversion.styleres import StyleRes, StyleResConfig
from ops.spaces import crops_from_images
from tests.conftest import SHARED
from tests.golden import Golden, draw, input_image, synthetic_weights

GOLDEN = SHARED / "golden"
PEAK_BYTES = 4e9

needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden vectors at {GOLDEN}: they are not in the repository")


def official_model() -> StyleRes:
    """391 million synthetic parameters, built section by section and assigned, never copied."""
    with torch.device("meta"):
        model = StyleRes(StyleResConfig())
    state = state_dict_from_official(
        synthetic_weights(GOLDEN, "e4e"),
        synthetic_weights(GOLDEN, "latent_avg")["latent_avg"],
        synthetic_weights(GOLDEN, "generator_smooth"),
        num_ws=18,
    )
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def model() -> Iterator[StyleRes]:
    with torch.inference_mode():
        yield official_model()


@needs_golden
@pytest.mark.slow
class TestOfficialPreset:
    def test_mapping(self, model: StyleRes) -> None:
        golden = Golden(GOLDEN, "mapping")
        z = draw("publicz", (4, 512))
        golden("w", model.generator.mapping(z))
        golden("w_psi0.7", model.generator.mapping(z, truncation=0.7))

    def test_encoder(self, model: StyleRes) -> None:
        assert model.encoder is not None
        golden = Golden(GOLDEN, "e4e")
        image = input_image()
        golden("input", image)
        offsets, features = model.encoder(image)
        golden("w_delta", offsets)
        golden("w", offsets + model.latent_avg)
        golden("c1", features)
        for level, tap in enumerate(model.encoder.body_features(image)):
            golden(f"c{level}", tap)
        both = torch.cat([image, input_image(1)])
        golden("batch2_w", model.encoder(both)[0] + model.latent_avg)

    def test_synthesis(self, model: StyleRes) -> None:
        assert model.encoder is not None
        golden = Golden(GOLDEN, "synthesis_w")
        wplus = model.encoder(input_image())[0] + model.latent_avg
        styles = model.generator.styles(wplus)
        assert len(styles) == 26
        for index, style in enumerate(styles):
            reference = golden.arrays[f"style/{index:02d}"]
            np.testing.assert_allclose(style.numpy(), reference, atol=2e-4 * np.abs(reference).max())
        golden("image", model.generator(styles))

    @pytest.mark.parametrize(
        ("name", "edit", "shape", "strength"),
        [
            ("inversion", None, (), 0.0),
            ("interfacegan_smile", "smile", (1, 512), 2.0),
            ("interfacegan_pose", "pose", (1, 18, 512), 3.0),
        ],
    )
    def test_edit(self, model: StyleRes, name: str, edit: str | None, shape: tuple[int, ...], strength: float) -> None:
        golden = Golden(GOLDEN, f"edit_{name}")
        inversion = model.invert(input_image())
        assert inversion.detail is not None and model.gates is not None
        edited = inversion.wplus_NLD
        if edit is not None:
            direction = synthetic_weights(GOLDEN, "interfacegan")[edit]
            assert direction.shape == shape
            edited = DirectionEditor(direction).apply(edited, torch.tensor([strength]))
        golden("edited_w", edited)
        generator = model.generator
        golden("F_feats", generator.features(generator.styles(inversion.wplus_NLD), 64))
        golden("Fa", inversion.detail)
        features = generator.features(generator.styles(edited), 64)
        golden("G_alpha", features)
        delta, gate = model.gates(features, inversion.detail)
        golden("deltaF", delta)
        golden("gate", gate)
        golden("conv1_in", features + gate * delta)
        image = model.generate(edited, inversion.detail)
        golden("image", image)
        levels = crops_from_images(image)[:, 480:544, 480:544].transpose(0, 3, 1, 2).astype(int)
        reference = golden.arrays["u8crop/image"].astype(int)
        assert np.abs(levels - reference).max() <= 1


@needs_golden
@pytest.mark.slow
def test_peak_memory_of_an_edit() -> None:
    """Building the weights, one inversion and one edit stay under 4 GB."""
    code = (
        "import torch, resource\n"
        "from tests.ops.inversion.test_official_preset import official_model, input_image\n"
        "with torch.inference_mode():\n"
        "    model = official_model()\n"
        "    inversion = model.invert(input_image())\n"
        "    model.generate(inversion.wplus_NLD, inversion.detail)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    kilobytes = int(done.stdout.split()[-1])
    assert kilobytes * 1024 < PEAK_BYTES
