"""The one local fit: what it gives back exactly, and what it does where samples are few."""

from __future__ import annotations

import numpy as np
import pytest

from ops.local_polynomial import coefficients, windows


@pytest.mark.parametrize("degree", [0, 1, 2, 5])
def test_polynomials_of_the_degree_come_out_as_they_went_in(degree: int) -> None:
    rng = np.random.default_rng(degree)
    offset_MK = np.sort(rng.uniform(-0.3, 0.3, (6, 11)), axis=1)
    found = coefficients(offset_MK, rng.uniform(0.1, 1, (6, 11)), degree)
    for power in range(degree + 1):
        np.testing.assert_allclose((found * offset_MK**power).sum(1), float(power == 0), atol=1e-9)


def test_it_is_weighted_least_squares() -> None:
    rng = np.random.default_rng(0)
    offset_K, weight_K, value_K = rng.uniform(-1, 1, 9), rng.uniform(0.1, 1, 9), rng.normal(size=9)
    expected = np.polynomial.polynomial.polyfit(offset_K, value_K, 2, w=np.sqrt(weight_K))[0]
    assert coefficients(offset_K[None], weight_K[None], 2)[0] @ value_K == pytest.approx(expected, rel=1e-9)


def test_few_samples_take_a_lower_degree() -> None:
    """One sample is its own value; weights next to nothing carry no degree."""
    offset_MK = np.array([[-0.2, 0.1, 0.4], [-0.2, 0.1, 0.4], [-0.2, 0.1, 0.4]])
    weight_MK = np.array([[0.0, 1.0, 0.0], [1.0, 1.0, 1e-20], [0.0, 0.0, 0.0]])
    value_K = np.array([1.0, 7.0, 1e6])
    found = coefficients(offset_MK, weight_MK, 2) @ value_K
    np.testing.assert_allclose(found, [7.0, 5.0, 0.0], rtol=1e-6)


def test_windows_end_where_the_samples_do() -> None:
    index, inside = windows(np.array([0, 3]), np.array([2, 6]), 5)
    assert index.tolist() == [[0, 1, 2], [3, 4, 4]] and inside.tolist() == [[True, True, False], [True, True, True]]
