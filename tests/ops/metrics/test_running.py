"""Numbers that come in pieces are those of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from ops.metrics.fid import frechet_distance
from ops.metrics.metric import Metric, MetricError
from ops.metrics.running import FOLD, FeatureMoments, RunningMean

L2 = Metric("L2", "lower", "")


def test_mean_and_spread_of_pieces() -> None:
    values = np.random.default_rng(0).normal(1e4, 3.0, 1000)  # far from zero: a sum of squares would lose the spread
    mean = RunningMean()
    for part in np.split(values, [1, 1, 17, 500]):
        mean.add(part)
    found = mean.measurement(L2, "it", "smile=+2", "a note")
    assert found.value == pytest.approx(values.mean(), rel=1e-12)
    assert found.spread == pytest.approx(values.std(), rel=1e-9)
    assert (found.count, found.item, found.note) == (1000, "smile=+2", "a note")
    assert RunningMean().measurement(L2, "it").note == "nothing to measure"
    with pytest.raises(MetricError, match="not a number"):
        mean.add(np.array([1.0, np.nan]))


@pytest.mark.parametrize("count", [5, 3 * FOLD + 7])
def test_moments_of_pieces(count: int) -> None:
    rows = np.random.default_rng(1).normal(50.0, 1.0, (count, 12)) @ np.diag(np.arange(1.0, 13.0))
    moments = FeatureMoments()
    for part in np.array_split(rows, 4):
        moments.add(part)
    assert moments.count == count
    np.testing.assert_allclose(moments.mean_D, rows.mean(axis=0), rtol=1e-12)
    root = moments.root()
    assert len(root) <= 12
    np.testing.assert_allclose(root.T @ root, np.cov(rows, rowvar=False), rtol=1e-9, atol=1e-9)
    other = np.random.default_rng(2).normal(50.0, 1.0, (40, 12))
    assert frechet_distance(moments, other) == pytest.approx(frechet_distance(rows, other), rel=1e-9)


def test_moments_refuse_what_is_no_feature() -> None:
    moments = FeatureMoments()
    moments.add(np.zeros((0, 3)))
    moments.add(np.ones((2, 3)))
    for rows, message in ((np.ones((2, 4)), "one width"), (np.full((1, 3), np.inf), "not finite"), (np.ones(3), "rows")):
        with pytest.raises(MetricError, match=message):
            moments.add(rows)
