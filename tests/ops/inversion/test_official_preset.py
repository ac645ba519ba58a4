"""The official FFHQ-1024 preset against the official program's own numbers, with synthetic weights built from names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ops.checkpoints.official import state_dict_from_official
from ops.inversion.styleres import StyleRes, StyleResConfig
from tests.conftest import SHARED
from tests.golden import Golden, draw, synthetic_weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED.is_dir(), reason=f"no golden vectors at {SHARED}: they are not in the repository"),
]
GOLDEN = SHARED / "golden"


@pytest.fixture(scope="module")
def model() -> Iterator[StyleRes]:
    torch.set_grad_enabled(False)
    with torch.device("meta"):  # the synthetic weights are assigned: no second copy of 391 million parameters
        model = StyleRes(StyleResConfig())
    state = state_dict_from_official(
        synthetic_weights(GOLDEN, "e4e"),
        synthetic_weights(GOLDEN, "latent_avg")["latent_avg"],
        synthetic_weights(GOLDEN, "generator_smooth"),
        num_ws=18,
    )
    state = {name: value.requires_grad_(False) if value.is_floating_point() else value for name, value in state.items()}
    model.load_state_dict(state, strict=True, assign=True)
    model.generator.fir = Generator_fir(model)
    yield model.eval()
    torch.set_grad_enabled(True)


def Generator_fir(model: StyleRes) -> torch.Tensor:
    from ops.stylegan2.resample import fir_kernel

    return fir_kernel(model.config.generator.resample_filter)


def test_mapping(model: StyleRes) -> None:
    golden = Golden(GOLDEN, "mapping")
    z = draw("publicz", (4, 512)) if False else draw("z", (4, 512))
    golden("w", model.generator.mapping(z))
    golden("w_psi0.7", model.generator.mapping(z, truncation=0.7))
