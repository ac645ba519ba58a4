"""The discriminator against the official program's logits, with synthetic weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ops.generators.discriminator import Discriminator, minibatch_std
from ops.generators.stylegan2_config import StyleGAN2Config, channels_by_rule
from tests.golden import RTOL, input_image, synthetic_weights


def test_logits_are_the_official_programs(shared: Path) -> None:
    golden = shared / "golden"
    reference = np.load(golden / "public" / "styleres_discriminator.npz")
    config = StyleGAN2Config(resolution=256, channels=channels_by_rule(256))
    with torch.device("meta"):
        model = Discriminator(config)
    weights = synthetic_weights(golden, "discriminator_256")
    kept = {name: value for name, value in weights.items() if not name.endswith("resample_filter")}
    model.load_state_dict(kept, assign=True)
    model.requires_grad_(False)
    four = model(torch.cat([input_image(i) for i in range(4)]))
    one = model(input_image(0))
    for ours, name in ((four, "logits256_n4"), (one, "logits256_n1")):
        np.testing.assert_allclose(ours.numpy(), reference[name], atol=RTOL * np.abs(reference[name]).max())


def test_minibatch_std_groups_across_the_batch() -> None:
    """Sample i shares a group with i + N/4, i + 2N/4, ...: NVIDIA's order, which a contiguous grouping would not give."""
    x = torch.zeros(8, 2, 4, 4)
    x[0::2] = torch.arange(4).float()[:, None, None, None]
    out = minibatch_std(x)
    expected = torch.arange(4).float().std(unbiased=False)
    torch.testing.assert_close(out[0::2], expected.expand(4, 1, 4, 4))
    torch.testing.assert_close(out[1::2], torch.full((4, 1, 4, 4), 1e-4), atol=1e-6, rtol=0)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        minibatch_std(torch.zeros(6, 2, 4, 4))
