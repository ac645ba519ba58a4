"""The way into a model and out of it, against the official program's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ops.spaces import crops_from_images, images_from_crops
from tests.golden import RTOL, draw, input_image


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
