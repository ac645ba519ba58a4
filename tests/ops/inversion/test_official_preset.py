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
import torch.nn.functional as F

from ops.checkpoints.formats.official import state_dict_from_official
from ops.editing.direction import DirectionEditor
from ops.editing.editor import AnyEditor, Editor, StyleEditor
from ops.editing.ganspace import GanSpaceBasis, GanSpaceEditor, read_ganspace_table
from ops.editing.gradctrl import CONTROLS, GradCtrlEditor
from ops.editing.styleclip_global import StyleclipGlobalEditor
from ops.generators.discriminator import Discriminator
from ops.generators.stylegan2_config import StyleGAN2Config
from ops.inversion.inverter import Inversion, offset_styles
from ops.inversion.styleres import StyleRes, StyleResConfig
from ops.spaces import crops_from_images
from ops.training.losses import affine_reversal, edit_offset
from tests.golden import Golden, draw, input_image, synthetic_weights
from tests.needs import SHARED
from tests.ops.editing import official

GOLDEN = SHARED / "golden"
PEAK_BYTES = 4e9

needs_golden = pytest.mark.needs("shared")


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


@pytest.fixture(scope="module")
def inversion(model: StyleRes) -> Inversion:
    """Of the golden set's picture; what every edit of it shares."""
    return model.invert(input_image())


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
        ("name", "strength"),
        [
            ("inversion", 0.0),
            ("interfacegan_smile", 2.0),
            ("interfacegan_pose", 3.0),
            ("ganspace_overexposed", 5.0),
            ("ganspace_smile", -20.0),
            ("styleclip_mapper_purple_hair", 0.08),
            ("styleclip_mapper_afro", 0.1),
            ("styleclip_global", 4.0),
            ("gradctrl_gender_negative", -4.5),
            ("gradctrl_smile_positive", 2.5),
        ],
    )
    def test_edit(self, model: StyleRes, inversion: Inversion, name: str, strength: float) -> None:
        golden = Golden(GOLDEN, f"edit_{name}")
        assert inversion.detail is not None and model.gates is not None
        generator, strength_N = model.generator, torch.tensor([strength])
        edited, offset = inversion.wplus_NLD, None
        match editor_of(name):
            case Editor() as editor:
                edited = editor.apply(edited, strength_N)
                golden("edited_w", edited)
            case StyleEditor() as editor:
                offset = editor.offset(strength_N)
            case None:
                golden("edited_w", edited)
        styles = offset_styles(generator.styles(edited), offset)
        if offset is not None:
            for index, style in enumerate(styles):
                reference = golden.arrays[f"edited_style/{index:02d}"]
                np.testing.assert_allclose(style.numpy(), reference, rtol=0, atol=2e-4 * np.abs(reference).max())
        golden("F_feats", generator.features(generator.styles(inversion.wplus_NLD), "b64.conv0"))
        golden("Fa", inversion.detail)
        features = generator.features(styles, "b64.conv0")
        golden("G_alpha", features)
        delta, gate = model.gates(features, inversion.detail)
        golden("deltaF", delta)
        golden("gate", gate)
        golden("conv1_in", features + gate * delta)
        image = model.generate(edited, inversion.detail, offset)
        golden("image", image)
        levels = crops_from_images(image)[:, 480:544, 480:544].transpose(0, 3, 1, 2).astype(int)
        reference = golden.arrays["u8crop/image"].astype(int)
        assert np.abs(levels - reference).max() <= 1

    def test_simulated_edit_and_its_cycle(self, model: StyleRes, inversion: Inversion) -> None:
        """Eq. 2 and its way back, both ways: the same vector subtracted, and the affine inverse."""
        golden = Golden(GOLDEN, "simulated_edit_cycle")
        alpha = torch.tensor([float(golden.arrays["alpha"])])
        random_w = model.generator.mapping(draw("publicz", (4, 512))[:1])
        golden("W_r", random_w[:, None].expand(-1, 18, -1))
        edited = inversion.wplus_NLD + edit_offset(inversion.wplus_NLD, random_w, alpha)
        golden("W_alpha", edited)
        image = model.generate(edited, inversion.detail)
        golden("x_i_prime", image)
        small = F.avg_pool2d(image, 4)
        golden("x_i_prime_256", small)
        again = model.invert(small)
        golden("W_reencoded", again.wplus_NLD)
        ways = {
            "subtract": again.wplus_NLD - edit_offset(inversion.wplus_NLD, random_w, alpha),
            "affine": affine_reversal(again.wplus_NLD, random_w, alpha),
        }
        for name, back in ways.items():
            golden(f"W_reversed_{name}", back)
            golden(f"x_pp_{name}", model.generate(back, again.detail))

    def test_discriminator(self, model: StyleRes, inversion: Inversion) -> None:
        """The full-size discriminator's logit of the reconstruction."""
        reference = np.load(GOLDEN / "public" / "styleres_discriminator.npz")["logits1024_inversion"]
        with torch.device("meta"):
            discriminator = Discriminator(StyleGAN2Config())
        weights = synthetic_weights(GOLDEN, "discriminator_1024")
        kept = {name: value for name, value in weights.items() if not name.endswith("resample_filter")}
        discriminator.load_state_dict(kept, assign=True)
        logit = discriminator(model.generate(inversion.wplus_NLD, inversion.detail))
        np.testing.assert_allclose(logit.numpy(), reference, rtol=2e-4)


def editor_of(name: str) -> AnyEditor | None:
    """The editor of one golden file, from the official tables and synthetic weights; None is the inversion itself."""
    method, _, edit = name.partition("_")
    match method, edit:
        case "interfacegan", _:
            return DirectionEditor(synthetic_weights(GOLDEN, "interfacegan")[edit])
        case "ganspace", _:
            weights = synthetic_weights(GOLDEN, "ganspace")
            table = read_ganspace_table(SHARED / "directions" / "official" / "ganspace_configs.csv")
            basis = GanSpaceBasis(weights["mean"], weights["comp"], weights["std"])
            return GanSpaceEditor(basis, next(row for row in table if row.name == edit))
        case "styleclip", "global":
            return StyleclipGlobalEditor(official.glasses_direction(GOLDEN))
        case "styleclip", "mapper_afro":
            return official.mapper(GOLDEN, "coarse", "medium")
        case "styleclip", _:
            return official.mapper(GOLDEN, "coarse", "medium", "fine")
        case "gradctrl", _:
            attribute = edit.partition("_")[0]
            return GradCtrlEditor(official.heads(GOLDEN), attribute, CONTROLS[attribute])
    return None


@needs_golden
@pytest.mark.slow
def test_peak_memory_of_an_edit() -> None:
    """Building the weights, one inversion and one edit stay under 4 GB."""
    code = (
        "import re, torch\n"
        "from tests.ops.inversion.test_official_preset import official_model, input_image\n"
        "with torch.inference_mode():\n"
        "    model = official_model()\n"
        "    inversion = model.invert(input_image())\n"
        "    model.generate(inversion.wplus_NLD, inversion.detail)\n"
        # Not ru_maxrss: that begins with the peak of the process that started this one.
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    kilobytes = int(done.stdout.split()[-1])
    assert kilobytes * 1024 < PEAK_BYTES
