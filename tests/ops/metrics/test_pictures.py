"""Results against references with made-up networks: what is computed, what is left out, and what is said about it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ops.face.detect import Detector, Face
from ops.metrics.metric import Measurement, MetricError
from ops.metrics.pictures import PictureJudge, PictureMetric, PictureNetworks, PictureScores, PictureSet
from ops.networks.inception_v3 import InceptionV3
from ops.networks.lpips_alex import LpipsAlex
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


def measured(judge: PictureJudge, results: np.ndarray, references: np.ndarray, cut: int = 2) -> dict[str, Measurement]:
    """Everything, in two batches."""
    scores, real = PictureScores(judge), PictureSet(judge)
    for part in (slice(0, cut), slice(cut, len(references))):
        if len(references[part]):
            held = judge.references(references[part], judge.landmarks(references[part]))
            real.add(held.crops, held.taps)
            scores.add(results[part], held)
    return {one.metric.name: one for one in scores.measurements("it", real)}


def everything(networks: PictureNetworks) -> PictureJudge:
    return PictureJudge(networks, (*networks.available(), "efficientnet-fid"))


def test_equal_pictures_have_perfect_numbers(networks: PictureNetworks) -> None:
    references = pictures()
    found = measured(everything(networks), references, references)
    perfect = {"SSIM": 1, "MS-SSIM": 1, "LPIPS": 0, "FID": 0, "Frechet distance": 0, "identity kept": 1}
    perfect |= {"L2": 0, "feature distance": 0}
    assert {name: one.value for name, one in found.items()} == pytest.approx(perfect, abs=1e-5)
    assert all(one.count == 3 and one.subject == "it" for one in found.values())
    assert found["FID"].metric.network == "Inception v3 (torchvision)" and found["FID"].metric.stands_for is None
    assert found["Frechet distance"].metric.stands_for == "FID (Inception v3)"
    assert found["identity kept"].metric.network == "mean colour"
    assert "2048 dimensions" in found["FID"].note
    assert "64 px, brought to 256 px" in found["SSIM"].note


def test_worse_pictures_have_worse_numbers(networks: PictureNetworks) -> None:
    references = pictures()
    noise = np.random.default_rng(1).normal(size=references.shape)
    slightly, much = (np.clip(references + scale * noise, 0, 255).astype(np.uint8) for scale in (8, 60))
    better, worse = (measured(everything(networks), results, references) for results in (slightly, much))
    for name, one in better.items():
        assert one.value is not None and worse[name].value is not None
        if one.metric.better == "lower":
            assert 0 < one.value < worse[name].value, name
        else:
            assert 1 > one.value > worse[name].value, name


def test_batches_change_nothing(networks: PictureNetworks) -> None:
    references = pictures(5)
    results = np.clip(references + 9.0 * np.random.default_rng(1).normal(size=references.shape), 0, 255).astype(np.uint8)
    judge = PictureJudge(networks, ("ssim", "ms-ssim", "efficientnet-fid", "identity"))
    small, large = (measured(judge, results, references, cut) for cut in (2, 5))
    assert {name: one.value for name, one in small.items()} == pytest.approx(
        {name: one.value for name, one in large.items()}, rel=1e-4
    )
    for name, one in small.items():
        if one.spread is not None:
            assert one.spread == pytest.approx(large[name].spread, rel=1e-3), name


def test_faces_that_nobody_finds_in_the_source_are_left_out_and_counted(networks: PictureNetworks) -> None:
    judge = PictureJudge(networks, ("identity",))
    references = pictures()
    sources = references.copy()
    sources[1] = 5  # nobody finds a face in the dark
    kept = measured(judge, references, sources)["identity kept"]
    assert kept.count == 2 and "1 of 3 pairs left out" in kept.note
    none = measured(judge, references, sources * 0)["identity kept"]
    assert none.value is None and none.count == 0 and "3 of 3 pairs left out" in none.note
    assert measured(judge, sources, references)["identity kept"].count == 3, "a result without a face counts"


def test_some_of_the_references_keep_their_own_faces(networks: PictureNetworks) -> None:
    judge = PictureJudge(networks, ("identity",))
    references = pictures(4)
    references[1] = 0
    held = judge.references(references, judge.landmarks(references))
    some = judge.chosen(held, np.array([1, 2, 3]))
    assert some.with_face.tolist() == [False, True, True]
    assert judge.identity(references[1:], some) == pytest.approx([1, 1])
    assert torch.equal(some.taps[0], held.taps[0][1:])


def test_what_is_not_there_is_not_computed() -> None:
    nothing = PictureNetworks()
    assert nothing.available() == ("ssim", "ms-ssim", "efficientnet-fid")
    assert PictureNetworks(identity=Colours()).available() == nothing.available(), "a recogniser needs landmarks"
    missing: tuple[PictureMetric, ...] = ("lpips", "fid", "identity")
    for name in missing:
        with pytest.raises(MetricError, match=name):
            PictureJudge(nothing, (name,))
    judge = PictureJudge(nothing, ("ssim",))
    with pytest.raises(MetricError, match="like the references"):
        PictureScores(judge).add(pictures(2), judge.references(pictures(), [None] * 3))


def test_pairs_of_negative_contrast_are_left_out_and_counted() -> None:
    references = pictures(2)
    results = references.copy()
    results[0] = 255 - results[0]
    found = measured(PictureJudge(PictureNetworks(), ("ms-ssim",)), results, references, 1)["MS-SSIM"]
    assert found.value == pytest.approx(1) and found.count == 1
    assert "1 of 2 pairs have negative contrast" in found.note


def test_sets_of_few_pictures_have_no_distance() -> None:
    judge = PictureJudge(PictureNetworks(), ("efficientnet-fid",))
    one, many = PictureSet(judge), PictureSet(judge)
    one.add(pictures(1), judge.taps(pictures(1)))
    many.add(pictures(3), judge.taps(pictures(3)))
    (found,) = one.distances(many, "it", "smile=+2", "to smiling")
    assert found.value is None and "1 pictures against 3: too few" in found.note
    assert found.metric.name == "Frechet distance to smiling" and found.item == "smile=+2"
