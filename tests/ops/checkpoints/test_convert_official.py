"""The full-size official layouts, written as files with the golden set's synthetic weights, converted by the command, and run.

One process of its own for each memory figure: the peak of a process never falls.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ops.checkpoints.bundle import Bundle, open_bundle
from ops.device import keep_freed_memory
from ops.inversion.hfgi import Hfgi
from ops.inversion.hyperstyle import HyperStyle
from ops.inversion.inverter import Inverter
from ops.inversion.sfe import Sfe
from ops.inversion.styleres import StyleRes, StyleResConfig
from ops.inversion.wplus import E4e, Psp, Restyle
from ops.spaces import crops_from_images
from tests.golden import (
    SALT,
    Baseline,
    Golden,
    baseline_section,
    decoder,
    draw,
    e4e_encoder,
    edit_offset,
    input_image,
    synthetic_weights,
)
from tests.needs import SHARED

GOLDEN = SHARED / "golden"
ROOT = Path(__file__).resolve().parents[3]
PEAK_BYTES = 4e9

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.needs("shared"),
]


def converted_apart(files: Sequence[Path], out: Path) -> int:
    """Run `styleres convert` in a process of its own, with the files after the first beside it; its peak memory in bytes."""
    arguments = [str(files[0]), "--out", str(out), *(word for file in files[1:] for word in ("--with", str(file)))]
    code = (
        "import re\n"
        "from jobs.cli import app\n"
        f"code = app(['convert', *{arguments!r}], standalone_mode=False)\n"
        # Not ru_maxrss: that begins with the peak of the process that started this one.
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1], code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1].split()[0]) * 1024


@contextmanager
def converted(folder: Path, contents: Mapping[str, Mapping[str, object]]) -> Iterator[Bundle]:
    """Official files by name, the model's own first; written, converted and opened. All are gone from the disk afterwards."""
    files = [folder / name for name in contents]
    free, needed = shutil.disk_usage(folder).free, 2 * sum(map(bytes_of, contents.values()))
    if free < 2 * needed:
        pytest.skip(f"needs {needed / 1e9:.1f} GB at {folder} with as much to spare, {free / 1e9:.1f} GB are free")
    try:
        for file, content in zip(files, contents.values(), strict=True):
            torch.save(dict(content), file)
        assert converted_apart(files, folder / "bundle") < PEAK_BYTES
        for file in files:
            file.unlink()
        with torch.inference_mode():
            yield open_bundle(folder / "bundle")
    finally:
        shutil.rmtree(folder)


def bytes_of(content: object) -> int:
    """Of all tensors in a file's content, each once."""
    found: dict[int, int] = {}

    def look(part: object) -> None:
        if isinstance(part, Tensor):
            found[part.data_ptr()] = part.untyped_storage().nbytes()
        elif isinstance(part, Mapping):
            for one in part.values():
                look(one)

    look(content)
    return sum(found.values())


# ------------------------------------------------------------------------------------------------------------- StyleRes


@pytest.fixture(scope="module")
def styleres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StyleRes]:
    content = {
        "e4e": synthetic_weights(GOLDEN, "e4e"),
        "latent_avg": synthetic_weights(GOLDEN, "latent_avg")["latent_avg"],
        "generator_smooth": synthetic_weights(GOLDEN, "generator_smooth"),
    }
    assert len(content["e4e"]) == 621 and len(content["generator_smooth"]) == 275
    with converted(tmp_path_factory.mktemp("styleres"), {"styleres_ffhq.pt": content}) as bundle:
        del content
        assert bundle.config == StyleResConfig(), "every size was read off the tensors"
        assert bundle.edits == () and "non-commercial" in bundle.licence
        model = bundle.load()
        assert isinstance(model, StyleRes)
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


# ----------------------------------------------------------------------------------------------------------- e4e's family


@pytest.fixture(scope="module")
def generator() -> Iterator[dict[str, Tensor]]:
    """The decoder of all these files."""
    keep_freed_memory()
    yield {f"decoder.{name}": value for name, value in decoder().items()}
    decoder.cache_clear()
    e4e_encoder.cache_clear()


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def mean_code(system: str) -> Tensor:
    return baseline_section(system, "latent_avg")["latent_avg"]


def encoder_file(
    system: str, encoder: Mapping[str, Tensor], generator: Mapping[str, Tensor], **options: object
) -> dict[str, object]:
    """The layout of e4e, pSp and ReStyle."""
    state = under("encoder", encoder) | dict(generator)
    return {"state_dict": state, "opts": {"start_from_latent_avg": True, **options}, "latent_avg": mean_code(system)}


def test_e4e(tmp_path: Path, generator: dict[str, Tensor]) -> None:
    options = {"encoder_type": "Encoder4Editing", "stylegan_size": 1024, "dataset_type": "ffhq_encode"}
    content = encoder_file("e4e", e4e_encoder(), generator, **options)
    with converted(tmp_path, {"e4e_ffhq_encode.pt": content}) as bundle:
        model = bundle.load()
        assert isinstance(model, E4e) and model.encoder is not None
        golden, image = Baseline("e4e"), input_image()
        _, c1, c2, c3 = model.encoder.body_features(image)
        for name, tap in (("c1", c1), ("c2", c2), ("c3", c3)):
            golden(name, tap)
        golden("latent_raw", model.encoder(image)[0])
        golden("mapping_w_of_z", model.generator.mapping(draw(f"{SALT}z", (1, 512))))
        assert_gives(golden, model, "latent", "image", "image_edit")


def test_psp(tmp_path: Path, generator: dict[str, Tensor]) -> None:
    """e4e's tensors with another sum: only the options tell."""
    content = encoder_file("psp", e4e_encoder(), generator, encoder_type="GradualStyleEncoder", output_size=1024)
    with converted(tmp_path, {"psp_ffhq_encode.pt": content}) as bundle:
        model = bundle.load()
        assert isinstance(model, Psp)
        assert_gives(Baseline("psp"), model, "latent", "image", "image_edit")


def test_restyle(tmp_path: Path, generator: dict[str, Tensor]) -> None:
    options = {"encoder_type": "ProgressiveBackboneEncoder", "input_nc": 6, "n_iters_per_batch": 5, "output_size": 1024}
    content = encoder_file("restyle_e4e", baseline_section("restyle_e4e", "encoder"), generator, **options)
    with converted(tmp_path, {"restyle_e4e_ffhq_encode.pt": content}) as bundle:
        model = bundle.load()
        assert isinstance(model, Restyle)
        assert_gives(Baseline("restyle_e4e"), model, "latent_iter5", "image_iter5", "image_edit")


def test_hfgi(tmp_path: Path, generator: dict[str, Tensor]) -> None:
    """Options as a Namespace, as training scripts leave them."""
    state = under("encoder", e4e_encoder()) | generator
    state |= under("grid_align", baseline_section("hfgi", "grid_align")) | under("residue", baseline_section("hfgi", "residue"))
    options = Namespace(dataset_type="ffhq_encode", stylegan_size=256, distortion_scale=0.15, aug_rate=0.9, is_train=True)
    content = {"state_dict": state, "opts": options, "latent_avg": mean_code("hfgi")}
    with converted(tmp_path, {"ckpt.pt": content}) as bundle:
        model = bundle.load()
        assert isinstance(model, Hfgi)
        assert_gives(Baseline("hfgi"), model, "latent", "inv_image", "edit_image")


def test_hyperstyle(tmp_path: Path, generator: dict[str, Tensor]) -> None:
    """The largest tensor, half a gigabyte, stands under ten names; the encoder of w comes with a generator of its own."""
    hypernet = baseline_section("hyperstyle", "hypernet", aliases=True)
    assert len(hypernet) == 429
    options = {
        "encoder_type": "SharedWeightsHyperNetResNet",
        "input_nc": 6,
        "output_size": 1024,
        "layers_to_tune": "0,2,3,5,6,8,9,11,12,14,15,17,18,20,21,23,24",
    }
    content = {"state_dict": under("hypernet", hypernet) | generator, "opts": options, "latent_avg": mean_code("hyperstyle")}
    w_encoder = {"state_dict": under("encoder", baseline_section("hyperstyle", "encoder")) | generator}
    w_encoder |= {"latent_avg": torch.full((18, 512), 9.0)}  # not used
    with converted(tmp_path, {"hyperstyle_ffhq.pt": content, "faces_w_encoder.pt": w_encoder}) as bundle:
        model = bundle.load()
        assert isinstance(model, HyperStyle)
        assert_gives(Baseline("hyperstyle"), model, "latent", "image_iter5", "image_edit")


def test_sfe(tmp_path: Path, generator: dict[str, Tensor]) -> None:
    """Three files, in each of which `encoder.` means another network."""
    state = under("inverter", baseline_section("sfe", "inverter")) | under("encoder", baseline_section("sfe", "encoder"))
    contents = {
        "sfe_editor_light.pt": {"state_dict": state},
        "stylegan2-ffhq-config-f.pt": {"g_ema": decoder(), "latent_avg": mean_code("sfe")},
        "e4e_ffhq_encode.pt": encoder_file("e4e", e4e_encoder(), generator, encoder_type="Encoder4Editing"),
    }
    with converted(tmp_path, contents) as bundle:
        model = bundle.load()
        assert isinstance(model, Sfe)
        assert_gives(Baseline("sfe"), model, "latent_inverter", "image", "image_edit")


def assert_gives(golden: Baseline, model: Inverter, latent: str, image: str, edited: str) -> None:
    """The official program's code, reconstruction and edit of its picture, by their names in the golden set."""
    inversion = model.invert(input_image(size=model.config.input_size))
    golden(latent, inversion.wplus_NLD)
    golden(image, model.generate(inversion.wplus_NLD, inversion.detail))
    golden(edited, model.generate(inversion.wplus_NLD + edit_offset(), inversion.detail))
