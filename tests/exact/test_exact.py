"""The model against numbers of an independent transcription, which are in the repository: a bare clone proves exactness."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ops.inversion.styleres import StyleRes
from tests.exact.make import FILE
from tests.exact.transcription import Sizes, drawn, everything, picture
from tests.small_model import SMALL

RTOL = 2e-5
"""Of the reference's largest magnitude: float32 against float64."""


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(FILE) as file:
        return dict(file)


@pytest.fixture(scope="module")
def model(golden: dict[str, np.ndarray]) -> StyleRes:
    """With exactly the weights that the transcription asked for, under its names and shapes."""
    model = StyleRes(SMALL).requires_grad_(False).eval()
    spec = json.loads(str(golden["weights"]))
    state = model.state_dict()
    ours = {name for name in state if not name.endswith("num_batches_tracked")} - {"generator.mapping.w_avg"}
    assert ours == set(spec)
    for name, (shape, scale, offset, positive) in spec.items():
        assert list(state[name].shape) == shape, name
        state[name] = torch.from_numpy(np.asarray(drawn(name, tuple(shape), scale, offset, positive))).float()
    model.load_state_dict(state)
    return model


def close(ours: torch.Tensor, golden: dict[str, np.ndarray], name: str) -> None:
    expected = golden[name]
    assert ours.shape[1:] == expected.shape, name
    error = float(np.abs(ours[0].double().numpy() - expected).max())
    assert error <= RTOL * np.abs(expected).max(), f"{name}: {error:.2e} apart"


def test_every_number_is_the_transcriptions(model: StyleRes, golden: dict[str, np.ndarray]) -> None:
    image = torch.from_numpy(picture(Sizes())).float()[None]
    encoder, _, _ = model.inverting()
    close(encoder(image)[1], golden, "encoder_features")
    inversion = model.invert(image)
    close(inversion.wplus_NLD, golden, "wplus")
    assert inversion.detail is not None
    close(inversion.detail, golden, "residual")
    code, edited = (torch.from_numpy(golden[name])[None] for name in ("wplus", "edited_wplus"))
    close(model.generator.features(model.generator.styles(code), model.config.place), golden, "features")
    close(model.generate(code, inversion.detail), golden, "reconstruction")
    close(model.generate(edited, inversion.detail), golden, "edited")
    close(model.generator(model.generator.styles(edited)), golden, "without_residual")
    z = torch.from_numpy(drawn("z", (16,), 1.0, 0.0, False)).float()[None]
    close(model.generator.mapping(z), golden, "w_of_z")


def test_the_numbers_are_worth_comparing(golden: dict[str, np.ndarray]) -> None:
    """None is constant or saturated, the residual matters, and an edit moves the picture."""
    for name, values in golden.items():
        if name != "weights":
            assert np.isfinite(values).all() and values.std() > 0.01 * np.abs(values).max(), name
    apart = [np.abs(golden["edited"] - golden[name]).max() for name in ("without_residual", "reconstruction")]
    assert min(apart) > 0.05 * np.abs(golden["edited"]).max()
    assert FILE.stat().st_size < 1_000_000


@pytest.mark.slow
def test_the_file_is_what_the_transcription_gives(golden: dict[str, np.ndarray]) -> None:
    arrays, weights = everything()
    assert set(arrays) | {"weights"} == set(golden)
    for name, values in arrays.items():
        np.testing.assert_allclose(golden[name], values, rtol=1e-6, atol=1e-6 * np.abs(values).max())
    assert set(json.loads(str(golden["weights"]))) == set(weights.asked)
