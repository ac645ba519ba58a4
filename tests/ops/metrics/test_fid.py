"""The Frechet distance: Gaussians on paper, the official program's number, and fewer pictures than features."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy import linalg

from ops.metrics.fid import frechet_distance
from ops.metrics.metric import MetricError
from tests.golden import RTOL, SALT, draw


def official(a: np.ndarray, b: np.ndarray) -> float:
    """The release's own formula."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = linalg.sqrtm(cov_a @ cov_b)
    return float(np.real(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root)))


def test_agrees_with_the_official_program(shared: Path) -> None:
    expected = np.load(shared / "golden" / "public" / "styleres_metrics_fid.npz")["frechet_200x64"]
    drawn = draw(f"{SALT}fid_act", (2, 200, 64)).numpy()
    got = frechet_distance(drawn[0], 1.2 * drawn[1] + 0.1)
    assert abs(got - expected) <= RTOL * expected


@pytest.mark.parametrize("count", [40, 12])
def test_agrees_with_scipy(count: int) -> None:
    """40 rows of 10 features take the reduced path, 12 the other half-way; both have covariances of full rank."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(count, 10)), rng.normal(size=(count + 5, 10)) @ rng.normal(size=(10, 10)) + 1
    assert frechet_distance(a, b) == pytest.approx(official(a, b), rel=1e-6)


def test_fewer_pictures_than_features_as_on_paper() -> None:
    """Spread along one axis each: variances 2 a^2 and 2 b^2 there, so the distance is sum (sigma_a - sigma_b)^2 if the axes are
    the same, and sigma_a^2 + sigma_b^2 if they are at right angles. Rank 1 of 50: scipy's root has no inverse to go by."""
    a, b = np.zeros((2, 50)), np.zeros((2, 50))
    a[:, 3], b[:, 3] = (-3, 3), (-1, 1)
    assert frechet_distance(a, b) == pytest.approx(2 * (3 - 1) ** 2)
    c = np.zeros((2, 50))
    c[:, 4] = (-1, 1)
    assert frechet_distance(a, c) == pytest.approx(2 * 9 + 2 * 1)


def test_invariants() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(30, 8)), 2 * rng.normal(size=(20, 8))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    assert frechet_distance(a, a + 3) == pytest.approx(8 * 9)  # a shift costs its square
    assert frechet_distance(5 * a, 5 * b) == pytest.approx(25 * frechet_distance(a, b))
    turn = np.linalg.qr(rng.normal(size=(8, 8))).Q
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b))
    assert frechet_distance(a[::-1], b) == pytest.approx(frechet_distance(a, b))


def test_refusals() -> None:
    rows = np.ones((4, 3))
    with pytest.raises(MetricError, match="at least two rows"):
        frechet_distance(rows[:1], rows)
    with pytest.raises(MetricError, match="not finite"):
        frechet_distance(rows * np.nan, rows)
    with pytest.raises(MetricError, match="one width"):
        frechet_distance(rows, np.ones((4, 2)))
