"""Blocks of the IR-SE body that are not held by the official vectors alone."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from ops.nn.pointwise import Pointwise

GRADIENTS = """
import torch
from ops.nn.pointwise import Pointwise
torch.set_num_threads(2)
conv = Pointwise(8, 8, stride=2, bias=False).to(torch.bfloat16)
kept = []  # neighbours in the heap, for what is written past the end
for _ in range(300):
    images = torch.randn(3, 8, 16, 16, dtype=torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
    conv(images).sum().backward()
    kept = [torch.randn(size) for size in (1, 2, 4, 8, 16)] + kept[:50]
"""


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pointwise_is_the_strided_convolution(stride: int) -> None:
    torch.manual_seed(0)
    plain, ours = nn.Conv2d(16, 24, 1, stride=stride, bias=False), Pointwise(16, 24, stride=stride, bias=False)
    ours.load_state_dict(plain.state_dict())
    images = torch.randn(2, 16, 9, 10)
    torch.testing.assert_close(ours(images), plain(images), rtol=1e-5, atol=1e-6)


def test_gradients_of_few_channels_leave_the_heap_alone() -> None:
    told = {**os.environ, "MALLOC_PERTURB_": "165", "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", GRADIENTS], env=told, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-500:]}"
