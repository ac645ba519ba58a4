"""Linear layers: a row's bits depend on nothing but the row."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from ops.nn.linear import linear


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("into", [40, 512, 1500])
def test_rows_threads_and_company_do_not_matter(threads: None, into: int) -> None:
    x, weight, bias = torch.randn(19, into), torch.randn(70, into), torch.randn(70)
    whole = linear(x, weight, bias)
    torch.testing.assert_close(whole, F.linear(x, weight, bias), atol=1e-3, rtol=1e-4)
    for count in (1, 2):
        torch.set_num_threads(count)
        for size in (1, 3, 8, 16):
            assert torch.equal(torch.cat([linear(part, weight, bias) for part in x.split(size)]), whole)


def test_gradients_are_torch_s() -> None:
    x, weight, bias = torch.randn(5, 700), torch.randn(9, 700).requires_grad_(), torch.randn(9)
    (found,) = torch.autograd.grad(linear(x, weight, bias).square().sum(), weight)
    (expected,) = torch.autograd.grad(F.linear(x, weight, bias).square().sum(), weight)
    torch.testing.assert_close(found, expected)
