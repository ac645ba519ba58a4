"""The way into a model and out of it, against the official program's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ops.face.align import crop_face
from ops.inversion.inverter import bilinear
from ops.networks.protocol import protocol_images
from ops.spaces import crops_from_images, images_from_crops, levels_from_images
from tests.golden import RTOL, Baseline, draw, input_image


@pytest.mark.parametrize("name", ["pre256x256", "pre1024x1024", "pre300x200"])
def test_pictures_become_the_official_programs_input(shared: Path, name: str) -> None:
    """Pillow's bicubic resize, which the caller does, then (v - 127.5) / 127.5."""
    golden = np.load(shared / "golden" / "public" / "styleres_prepost.npz")
    width, height = golden[f"size/{name}"].tolist()
    smooth = input_image(int(golden[f"index/{name}"]), max(width, height))[0, :, :height, :width]
    picture = ((smooth + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    crop = np.asarray(Image.fromarray(picture).resize((256, 256)))
    image = images_from_crops(crop[None])[0]
    reference = golden[f"crop/{name}"]
    np.testing.assert_allclose(image[:, 96:160, 96:160], reference, rtol=0, atol=RTOL)
    mean, std, low, high, norm, *projections = golden[f"stats/{name}"]
    flat = image.reshape(-1).double()
    ours = [flat.mean(), flat.std(unbiased=False), flat.min(), flat.max()]
    np.testing.assert_allclose(ours, [mean, std, low, high], rtol=0, atol=RTOL)
    found = [float(flat @ draw(f"proj{k}:{name}", (flat.numel(),)).double()) / flat.numel() ** 0.5 for k in range(4)]
    np.testing.assert_allclose(found, projections, rtol=0, atol=3 * RTOL * norm / flat.numel() ** 0.5)


def test_images_become_the_official_programs_bytes(shared: Path) -> None:
    """Every level's edge, both sides of it, and values out of range: rounded half up, clipped."""
    golden = np.load(shared / "golden" / "public" / "styleres_prepost.npz")
    values = torch.from_numpy(golden["post_in"])
    assert values.min() < -1 and values.max() > 1
    image = values.reshape(1, 1, 1, -1).expand(1, 3, 1, -1)
    for channel in range(3):
        np.testing.assert_array_equal(crops_from_images(image)[0, 0, :, channel], golden["post_out"])


# ------------------------------------------------------------------------ the programs of e4e, HFGI, HyperStyle, SFE and pSp


def picture_of(side: int) -> np.ndarray:
    """uint8 [side, side, 3]: smooth, and at 1024 px under a pattern of single pixels."""
    levels = torch.floor((input_image(size=side)[0] + 1) * 127.5 + 0.5).permute(1, 2, 0).numpy().astype(int)
    if side == 1024:
        row, column = np.indices((side, side))
        levels = np.clip(levels // 2 + 4 * ((7 * row + 13 * column) % 29)[..., None], 0, 255)
    return levels.astype(np.uint8)


@pytest.mark.parametrize("side", [1024, 200])
def test_pillows_bilinear_filter_is_the_others_way_into_a_network(shared: Path, side: int) -> None:
    golden, picture = Baseline("preproc"), picture_of(side)
    np.testing.assert_array_equal(picture[:8, :8], golden.arrays[f"input_uint8_{side}__corner"])
    golden(f"pil256_from{side}", protocol_images(picture[None]))


@pytest.mark.parametrize(("side", "levels"), [(1024, 5), (200, 1)])
def test_how_far_a_crop_of_the_pipeline_is_from_theirs(shared: Path, side: int, levels: int) -> None:
    """By intent: cut at the network's size at once, by means of the source's pixels. The figures are in docs/methods.md."""
    whole = np.array([[0, 0], [0, side], [side, side], [side, 0]]) - 0.5
    ours = images_from_crops(crop_face(picture_of(side), whole, 256)[None])[:, :, 96:160, 96:160].numpy()
    apart = np.abs(ours - Baseline("preproc").arrays[f"pil256_from{side}__crop"]).max() * 127.5
    assert levels - 0.5 < apart < levels + 0.5


def test_sfe_reduces_its_own_pictures_without_anti_aliasing(shared: Path) -> None:
    Baseline("preproc")("sfe256_from1024", bilinear(images_from_crops(picture_of(1024)[None]), 256))


def test_their_bytes_are_ours_but_truncated(shared: Path) -> None:
    name = "tensor2im_of_linspace(-1.2,1.2,768).reshape(3,16,16)"
    theirs, ramp = Baseline("preproc").arrays[name].astype(int), torch.linspace(-1.2, 1.2, 768).reshape(1, 3, 16, 16)
    np.testing.assert_array_equal(levels_from_images(ramp)[0].clip(0, 255).astype(int), theirs)
    assert set(np.unique(crops_from_images(ramp)[0].astype(int) - theirs)) == {0, 1}
