"""The generate seam for edits in S: what is added goes to the edited code's styles and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ops.generators.protocol import Injection, style_channels
from ops.inversion.inverter import Inverter, offset_styles
from ops.inversion.methods import Method, build_inverter
from ops.inversion.session import Session
from ops.inversion.styleres import StyleRes
from tests.small_model import SMALL, small

S = sum(style_channels(SMALL.generator).values())


@pytest.fixture(params=["styleres", "e4e"])
def model(request: pytest.FixtureRequest) -> Inverter:
    torch.manual_seed(0)
    method: Method = request.param
    return build_inverter(method, small(method)).requires_grad_(False).eval()


def inputs(count: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    residual = SMALL.residual
    wplus_NLD = torch.randn(count, SMALL.generator.num_ws, SMALL.generator.w_dim, generator=random)
    detail = torch.randn(count, residual.residual_channels, residual.resolution, residual.resolution, generator=random)
    return wplus_NLD, detail, torch.randn(count, S, generator=random)


def test_an_offset_is_added_layer_by_layer_in_the_order_of_s(model: Inverter) -> None:
    wplus_NLD, detail, offset_NS = inputs()
    assert isinstance(model.generator, torch.nn.Module)
    parts = offset_NS.split(list(style_channels(SMALL.generator).values()), dim=1)
    styles = [style + part for style, part in zip(model.generator.styles(wplus_NLD), parts, strict=True)]
    injection = None
    if isinstance(model, StyleRes):
        gates = model.generating()

        def fused(x: torch.Tensor) -> torch.Tensor:
            delta, gate = gates(x, detail)
            return x + gate * delta

        injection = Injection(SMALL.place, fused)
    expected = model.generator(styles, injection=injection)
    ours = model.generate(wplus_NLD, detail, offset_NS)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert (ours - model.generate(wplus_NLD, detail)).abs().max() > 0.05, "the premise"


def test_an_offset_of_nothing_is_no_offset_to_the_bit(model: Inverter) -> None:
    wplus_NLD, detail, offset_NS = inputs()
    plain = model.generate(wplus_NLD, detail)
    assert torch.equal(model.generate(wplus_NLD, detail, torch.zeros_like(offset_NS)), plain)
    mixed = model.generate(wplus_NLD, detail, offset_NS * torch.tensor([1.0, 0.0, 1.0])[:, None])
    assert torch.equal(mixed[1], plain[1]) and not torch.equal(mixed[0], plain[0]), "each face has its own"


def test_a_session_pads_offsets_like_codes(model: Inverter) -> None:
    wplus_NLD, detail, offset_NS = (array.numpy() for array in inputs(5))
    session = Session(model, device="cpu", precision="fp32", batch_size=4)
    whole = session.generate_levels(wplus_NLD, detail, offset_NS)
    for n in range(5):
        row = slice(n, n + 1)
        np.testing.assert_array_equal(session.generate_levels(wplus_NLD[row], detail[row], offset_NS[row])[0], whole[n])


def test_an_offset_of_another_size_is_refused(model: Inverter) -> None:
    styles = model.generator.styles(inputs()[0])  # type: ignore[operator, union-attr]
    with pytest.raises(ValueError, match=rf"an offset of S as \[3, {S}\], got \[3, {S - 1}\]"):
        offset_styles(styles, torch.zeros(3, S - 1))
