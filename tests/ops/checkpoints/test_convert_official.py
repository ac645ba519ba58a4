"""The full-size official layouts, written as files with the golden set's synthetic weights, converted by the command, and run.

One process of its own for each memory figure: the peak of a process never falls.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ops.checkpoints.bundle import open_bundle
from ops.inversion.styleres import StyleRes, StyleResConfig
from ops.inversion.wplus import E4e
from ops.spaces import crops_from_images
from tests.conftest import SHARED
from tests.golden import SALT, Baseline, Golden, baseline_section, draw, edit_offset, input_image, synthetic_weights

GOLDEN = SHARED / "golden"
ROOT = Path(__file__).resolve().parents[3]
PEAK_BYTES = 4e9

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden vectors at {GOLDEN}: they are not in the repository"),
]


def converted_apart(file: Path, out: Path) -> int:
    """Run `styleres convert` in a process of its own; its peak memory in bytes."""
    code = (
        "import re\n"
        "from jobs.cli import app\n"
        f"code = app(['convert', {str(file)!r}, '--out', {str(out)!r}], standalone_mode=False)\n"
        # Not ru_maxrss: that begins with the peak of the process that started this one.
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1], code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1].split()[0]) * 1024


# ------------------------------------------------------------------------------------------------------------- StyleRes


@pytest.fixture(scope="module")
def styleres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StyleRes]:
    folder = tmp_path_factory.mktemp("official")
    file, out = folder / "styleres_ffhq.pt", folder / "bundle"
    content = {
        "e4e": synthetic_weights(GOLDEN, "e4e"),
        "latent_avg": synthetic_weights(GOLDEN, "latent_avg")["latent_avg"],
        "generator_smooth": synthetic_weights(GOLDEN, "generator_smooth"),
    }
    assert len(content["e4e"]) == 621 and len(content["generator_smooth"]) == 275
    torch.save(content, file)
    del content
    assert converted_apart(file, out) < PEAK_BYTES
    file.unlink()
    bundle = open_bundle(out)
    assert bundle.config == StyleResConfig(), "every size was read off the tensors"
    assert bundle.edits == () and "non-commercial" in bundle.licence
    model = bundle.load()
    assert isinstance(model, StyleRes)
    with torch.inference_mode():
        yield model


def test_mapping_is_the_officials(styleres: StyleRes) -> None:
    golden = Golden(GOLDEN, "mapping")
    z = draw("publicz", (4, 512))
    golden("w", styleres.generator.mapping(z))
    golden("w_psi0.7", styleres.generator.mapping(z, truncation=0.7))


def test_inversion_is_the_officials(styleres: StyleRes) -> None:
    golden = Golden(GOLDEN, "edit_inversion")
    inversion = styleres.invert(input_image())
    assert inversion.detail is not None
    golden("edited_w", inversion.wplus_NLD)
    golden("Fa", inversion.detail)
    image = styleres.generate(inversion.wplus_NLD, inversion.detail)
    golden("image", image)
    levels = crops_from_images(image)[:, 480:544, 480:544].transpose(0, 3, 1, 2).astype(int)
    assert np.abs(levels - golden.arrays["u8crop/image"].astype(int)).max() <= 1


# ------------------------------------------------------------------------------------------------------------------ e4e


@pytest.fixture(scope="module")
def e4e(tmp_path_factory: pytest.TempPathFactory) -> Iterator[E4e]:
    folder = tmp_path_factory.mktemp("e4e")
    state = {f"encoder.{name}": value for name, value in baseline_section("e4e", "encoder").items()}
    state |= {f"decoder.{name}": value for name, value in baseline_section("e4e", "decoder").items()}
    options = {
        "encoder_type": "Encoder4Editing",
        "stylegan_size": 1024,
        "start_from_latent_avg": True,
        "dataset_type": "ffhq_encode",
    }
    latent_avg = baseline_section("e4e", "latent_avg")["latent_avg"]
    torch.save({"state_dict": state, "opts": options, "latent_avg": latent_avg}, folder / "e4e_ffhq_encode.pt")
    del state
    assert converted_apart(folder / "e4e_ffhq_encode.pt", folder / "bundle") < PEAK_BYTES
    (folder / "e4e_ffhq_encode.pt").unlink()
    model = open_bundle(folder / "bundle").load()
    assert isinstance(model, E4e)
    with torch.inference_mode():
        yield model


def test_e4e_is_the_officials(e4e: E4e) -> None:
    golden = Baseline("e4e")
    assert e4e.encoder is not None
    image = input_image()
    _, c1, c2, c3 = e4e.encoder.body_features(image)
    for name, tap in (("c1", c1), ("c2", c2), ("c3", c3)):
        golden(name, tap)
    golden("latent_raw", e4e.encoder(image)[0])
    latent = e4e.invert(image).wplus_NLD
    golden("latent", latent)
    golden("mapping_w_of_z", e4e.generator.mapping(draw(f"{SALT}z", (1, 512))))
    golden("image", e4e.generate(latent, None))
    edited = latent + edit_offset()
    golden("latent_edit", edited)
    golden("image_edit", e4e.generate(edited, None))
