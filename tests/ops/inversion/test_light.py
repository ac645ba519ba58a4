"""The light StyleRes: what is stored, what depends on an edit, and how it lies on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ops.checkpoints.bundle import EditEntry, in_bytes, open_bundle, write_bundle
from ops.inversion.light import LightConfig, LightResidualConfig, LightStyleRes, cells, enlarged
from ops.inversion.session import Session
from ops.training.official_edits import official_edits
from ops.training.run import light_weights
from tests.small_light import CONFIG, light_model


def pictures(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_new_model_draws_what_its_code_says() -> None:
    model = light_model()
    inversion = model.invert(pictures())
    assert inversion.wplus_NLD.shape == (2, 8, 12)
    assert inversion.detail is not None and inversion.detail.shape == (2, *CONFIG.detail_shape) == (2, 24, 16, 16)
    for size in (16, 32, 64, None):
        plain = model.generator(model.generator.styles(inversion.wplus_NLD), size=size)
        assert plain.shape[-1] == (size or 64)
        without = torch.cat([inversion.detail[:, :4], 0 * inversion.detail[:, 4:]], dim=1)
        torch.testing.assert_close(model.generate(inversion.wplus_NLD, without, size=size), plain)


def test_all_that_q_can_hold_comes_back() -> None:
    """Without an edit, whatever E1 and E2 give: the image's cells along the basis; and block means of it at other sizes."""
    model = light_model(trained=True)
    images = pictures()
    inversion = model.invert(images)
    found = model.generate(inversion.wplus_NLD, inversion.detail, unedited_NLD=inversion.wplus_NLD.clone())
    basis, lost = model.basis, cells(images - found, CONFIG.cell)
    assert torch.einsum("kp,npxy->nkxy", basis, lost).abs().max() < 1e-4
    assert lost.abs().max() > 0.1, "the premise: a basis of 20 of 48 directions leaves something out"
    half = model.generate(inversion.wplus_NLD, inversion.detail, size=32)
    torch.testing.assert_close(half, F.avg_pool2d(found, 2), atol=1e-4, rtol=1e-4)


def test_enlarging_keeps_the_means_of_blocks() -> None:
    smooth = F.avg_pool2d(torch.randn(1, 3, 66, 66, generator=torch.Generator().manual_seed(0)), 3, 1)
    for size in (128, 256):
        large = enlarged(smooth, size)
        lost = F.avg_pool2d(large, size // 64) - smooth
        assert lost.std() < 0.02 * smooth.std()
        assert large.diff(dim=3).abs().max() < 0.8 * smooth.diff(dim=3).abs().max(), "smooth, not blocks"
    assert torch.equal(enlarged(smooth, 32), F.adaptive_avg_pool2d(smooth, 32))


def test_the_residual_follows_the_edit() -> None:
    """E2 sees what the edit changed: the same edited code with another code before it gives another picture."""
    model = light_model(trained=True)
    inversion = model.invert(pictures())
    code = inversion.wplus_NLD
    edited = code + 0.5
    after = model.generate(edited, inversion.detail, unedited_NLD=code)
    assert (after - model.generate(edited, inversion.detail)).abs().max() > 1e-3
    unedited = model.generate(code, inversion.detail)
    torch.testing.assert_close(model.generate(code, inversion.detail, unedited_NLD=code.clone()), unedited)
    assert (unedited - model.generate(code, 0 * inversion.detail)).abs().max() > 1e-3, "the premise: the residual is seen"
    with pytest.raises(ValueError, match="needs the residual"):
        model.generate(code, None)


def test_sizes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="generator channels at the injection: 24 against 512"):
        LightConfig(CONFIG.generator, CONFIG.encoder, LightResidualConfig(resolution=16), 64)


def test_a_bundle_gives_the_model_back_in_halves(tmp_path: Path) -> None:
    model = light_model(trained=True)
    direction = torch.randn(1, 12)
    bundle = write_bundle(
        tmp_path / "light",
        name="light",
        method="styleres_light",
        config=CONFIG,
        licence="none",
        edits=[EditEntry("along", "direction", "somewhere")],
        weights=light_weights(model),
        directions={"direction.along": direction},
        card="# light\n",
    )
    assert open_bundle(tmp_path / "light").config == CONFIG
    images = pictures()
    whole = model.invert(images)
    inverting, generating = bundle.load("invert"), bundle.load("generate")
    assert isinstance(inverting, LightStyleRes) and inverting.correction is None
    assert isinstance(generating, LightStyleRes) and generating.encoder is None
    found = inverting.invert(images)
    torch.testing.assert_close(found.wplus_NLD, whole.wplus_NLD, atol=0.05, rtol=0.05)
    torch.testing.assert_close(
        generating.generate(found.wplus_NLD, found.detail), model.generate(whole.wplus_NLD, whole.detail), atol=0.1, rtol=0.1
    )
    edited = bundle.editors()["along"].apply(found.wplus_NLD, torch.ones(2))
    torch.testing.assert_close(edited, found.wplus_NLD + direction)


def test_bytes_are_within_half_a_step() -> None:
    matrix = torch.randn(7, 30) * torch.logspace(-3, 2, 7)[:, None]
    stored = in_bytes("m", matrix)
    assert stored["m"].dtype == torch.int8
    step = matrix.abs().amax(dim=1, keepdim=True) / 127
    assert ((stored["m"].float() * stored["m.scale"] - matrix).abs() <= 0.5001 * step).all()


def test_a_session_makes_pictures_of_the_size_that_is_asked_for() -> None:
    """In batches of four, whatever is asked for, and with the code before the edit beside each."""
    model = light_model(trained=True)
    session = Session(model, device="cpu", precision="fp32", batch_size=8)
    crops = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    codes, detail = session.invert(crops)
    assert detail is not None
    edited = codes + 0.3
    small = session.generate_levels(edited, detail, unedited_NLD=codes, size=32)
    assert small.shape == (6, 32, 32, 3)
    one = session.generate_levels(edited[4:5], detail[4:5], unedited_NLD=codes[4:5], size=32)
    np.testing.assert_array_equal(one[0], small[4])
    assert session.generate_levels(edited, detail, unedited_NLD=codes).shape == (6, 64, 64, 3)


def test_the_official_edits_fit(shared: Path) -> None:
    """InterFaceGAN, GANSpace's whole table and GradCtrl, from their files into a bundle's entries and back."""
    from ops.checkpoints.bundle import editors_of

    entries, tensors = official_edits(shared / "directions" / "official", left_out=["ganspace.bald"])
    editors = editors_of(entries, tensors, 18)
    assert {"smile", "age", "pose", "gradctrl.age", "ganspace.big_smile"} <= set(editors) and "ganspace.bald" not in editors
    assert sum(name.startswith("ganspace.") for name in editors) == 41
    code = torch.randn(2, 18, 512)
    for name, editor in editors.items():
        moved = editor.apply(code, torch.tensor([1.0, 2.0]))
        assert moved.shape == code.shape and not torch.equal(moved, code), name
