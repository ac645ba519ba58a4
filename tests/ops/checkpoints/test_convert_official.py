"""The full-size official layouts, written as files with the golden set's synthetic weights, converted by the command, and run.

One process of its own for each memory figure: the peak of a process never falls.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ops.checkpoints.bundle import open_bundle
from ops.inversion.styleres import E4e, StyleRes, StyleResConfig
from ops.spaces import crops_from_images
from tests.conftest import SHARED
from tests.golden import SALT, Golden, draw, input_image, synthetic_weights

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


def baseline_section(system: str, name: str) -> dict[str, Tensor]:
    """Synthetic tensors of one section of a baseline's golden set (README_baselines.md)."""
    section = json.loads((GOLDEN / f"{system}_keys.json").read_text())["sections"][name]
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    tensors = {}
    for key, spec in section["tensors"].items():
        shape = tuple(spec["shape"])
        match spec["init"]:
            case "fir":
                tensors[key] = torch.outer(taps, taps) / 64 * spec["scale"]
            case "int0":
                tensors[key] = torch.zeros(shape, dtype=torch.int64)
            case init:
                value = draw(f"{SALT}{section['seed_prefix']}.{key}", shape)
                value = value.abs_() if init == "abs" else value
                tensors[key] = value.mul_(spec["scale"]).add_(spec["offset"])
    return tensors


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


def assert_baseline(arrays: dict[str, np.ndarray], name: str, tensor: Tensor) -> None:
    """One tensor against what the set stores of it: all of it, statistics, a crop, or means of blocks."""
    std = float(tensor.double().std())
    limit = 1e-4 * max(1.0, std)
    ours = tensor.numpy()
    stored = {part for part in ("", "__stats", "__crop", "__down") if name + part in arrays}
    assert stored, name
    if "" in stored:
        assert np.abs(ours - arrays[name]).max() <= limit, name
    if "__stats" in stored:
        flat = tensor.reshape(-1).double()
        figures = [flat.mean(), flat.std(unbiased=False), flat.min(), flat.max(), flat.norm()]
        figures += [(flat * draw(f"proj{k}:{name}", (flat.numel(),)).double()).sum() / flat.numel() ** 0.5 for k in range(4)]
        reference = arrays[f"{name}__stats"]
        error = np.abs(np.array([float(x) for x in figures]) - reference)
        assert (np.delete(error, 4) <= 1e-4 * std).all() and error[4] <= 1e-4 * reference[4], (name, error)
    if "__crop" in stored:
        reference = arrays[f"{name}__crop"]
        channels, size = reference.shape[1], reference.shape[-1]
        start = (ours.shape[-1] - size) // 2
        crop = ours[:, :channels, start : start + size, start : start + size]
        assert np.abs(crop - reference).max() <= limit, name
    if "__down" in stored:
        reference = arrays[f"{name}__down"]
        down = torch.nn.functional.adaptive_avg_pool2d(tensor, reference.shape[-1]).numpy()
        assert np.abs(down - reference).max() <= limit, name


def test_e4e_is_the_officials(e4e: E4e) -> None:
    arrays = dict(np.load(GOLDEN / "public" / "e4e.npz"))
    assert e4e.encoder is not None
    image = input_image()
    _, c1, c2, c3 = e4e.encoder.body_features(image)
    for name, tap in (("c1", c1), ("c2", c2), ("c3", c3)):
        assert_baseline(arrays, name, tap)
    assert_baseline(arrays, "latent_raw", e4e.encoder(image)[0])
    latent = e4e.invert(image).wplus_NLD
    assert_baseline(arrays, "latent", latent)
    assert_baseline(arrays, "mapping_w_of_z", e4e.generator.mapping(draw(f"{SALT}z", (1, 512))))
    assert_baseline(arrays, "image", e4e.generate(latent, None))
    edited = latent + 1.5 * 0.3 * draw(f"{SALT}edit.direction", (1, 18, 512))
    assert_baseline(arrays, "latent_edit", edited)
    assert_baseline(arrays, "image_edit", e4e.generate(edited, None))
