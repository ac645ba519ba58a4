"""Results against references with made-up networks: what is computed, what is left out, and what is said about it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ops.face.detect import Detector, Face
from ops.metrics.metric import MetricError
from ops.metrics.networks.inception_v3 import InceptionV3
from ops.metrics.networks.lpips_alex import LpipsAlex
from ops.metrics.pictures import PictureJudge, PictureNetworks
from tests.ops.metrics.test_identity import Colours

TEMPLATE = np.array([[0.35, 0.4], [0.65, 0.4], [0.5, 0.55], [0.38, 0.7], [0.62, 0.7]], np.float32) * 256


class Centred(Detector):
    """A face in the middle of every picture that is not black."""

    def detect(self, frame: np.ndarray) -> list[Face]:
        if frame.max() < 10:
            return []
        return [Face(np.array([60, 60, 200, 200], np.float32), TEMPLATE, 0.9)]


@pytest.fixture(scope="module")
def networks() -> PictureNetworks:
    torch.manual_seed(0)
    lpips = LpipsAlex().eval().requires_grad_(False)
    for head in lpips.lin.parameters():
        head.abs_()  # as the learnt ones are: a distance must not fall
    return PictureNetworks(lpips, InceptionV3().eval(), Colours(), Centred())


def pictures(count: int = 3, side: int = 64) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(30, 225, (count, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(side // 8, axis=1).repeat(side // 8, axis=2)


def test_equal_pictures_have_perfect_numbers(networks: PictureNetworks) -> None:
    references = pictures()
    judge = PictureJudge(references, networks, (*networks.available(), "efficientnet-fid"))
    found = {one.metric.name: one for one in judge.measure("same", references)}
    perfect = {"SSIM": 1, "MS-SSIM": 1, "LPIPS": 0, "FID": 0, "Frechet distance": 0, "identity kept": 1}
    assert {name: one.value for name, one in found.items()} == pytest.approx(perfect, abs=1e-5)
    assert all(one.count == 3 and one.subject == "same" for one in found.values())
    assert found["FID"].metric.network == "Inception v3 (torchvision)" and found["FID"].metric.stands_for is None
    assert found["Frechet distance"].metric.stands_for == "FID (Inception v3)"
    assert found["identity kept"].metric.network == "mean colour"
    assert "3 pictures in 2048 dimensions" in found["FID"].note
    assert "64 px, brought to 256 px" in found["SSIM"].note


def test_worse_pictures_have_worse_numbers(networks: PictureNetworks) -> None:
    references = pictures()
    judge = PictureJudge(references, networks, (*networks.available(), "efficientnet-fid"))
    noise = np.random.default_rng(1).normal(size=references.shape)
    slightly, much = (np.clip(references + scale * noise, 0, 255).astype(np.uint8) for scale in (8, 60))
    for better, worse in zip(judge.measure("a", slightly), judge.measure("b", much), strict=True):
        if better.metric.better == "lower":
            assert 0 < better.value < worse.value, better.metric.name
        else:
            assert 1 > better.value > worse.value, better.metric.name


def test_pictures_without_a_face_are_left_out_and_counted(networks: PictureNetworks) -> None:
    references = pictures()
    results = references.copy()
    results[1] = 0
    (kept,) = PictureJudge(references, networks, ("identity",)).measure("a", results)
    assert kept.count == 2 and "1 of 3 pairs left out" in kept.note
    (none,) = PictureJudge(references, networks, ("identity",)).measure("a", references * 0)
    assert none.value is None and none.count == 0 and "3 of 3 pairs left out" in none.note


def test_what_is_not_there_is_not_computed() -> None:
    nothing = PictureNetworks()
    assert nothing.available() == ("ssim", "ms-ssim", "efficientnet-fid")
    assert PictureNetworks(identity=Colours()).available() == nothing.available(), "a recogniser needs landmarks"
    for name in ("lpips", "fid", "identity"):
        with pytest.raises(MetricError, match=name):
            PictureJudge(pictures(), nothing, (name,))
    with pytest.raises(MetricError, match="like the references"):
        PictureJudge(pictures(), nothing, ("ssim",)).measure("a", pictures(2))


def test_pairs_of_negative_contrast_are_left_out_and_counted() -> None:
    references = pictures(2)
    results = references.copy()
    results[0] = 255 - results[0]
    (found,) = PictureJudge(references, PictureNetworks(), ("ms-ssim",)).measure("a", results)
    assert found.value == pytest.approx(1) and found.count == 1
    assert "1 of 2 pairs have negative contrast" in found.note
