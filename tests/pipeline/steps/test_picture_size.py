"""How large the generator's pictures are: by the largest face of a source, or as asked for."""

from __future__ import annotations

import numpy as np
import pytest

from ops.face.framing import Framing
from ops.face.paste import PasteSettings
from ops.inversion.presets import ffhq1024, mini64
from ops.inversion.session import Session
from pipeline.steps.plan import covering
from pipeline.steps.render import Face, generate
from tests.small_light import CONFIG, light_model


@pytest.mark.parametrize(("pixels", "side"), [(0.0, 64), (40.0, 64), (64.0, 64), (65.0, 64), (500.0, 64)])
def test_a_picture_is_no_smaller_than_what_it_is_made_of(pixels: float, side: int) -> None:
    """The smaller pictures of a model that sees 64 px is for whoever asks for it."""
    assert CONFIG.generator.sizes == (16, 32, 64)
    assert covering(pixels, CONFIG) == side


def test_the_smallest_that_covers() -> None:
    assert covering(3000.0, ffhq1024()) == 1024 and covering(10.0, mini64()) == 64


def test_faces_of_one_size_are_made_together() -> None:
    """Each with the code that it had before the edit, in order."""
    model = light_model(trained=True)
    session = Session(model, device="cpu", precision="fp32", batch_size=4)
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    codes, detail = session.invert(crops)
    assert detail is not None
    framing = Framing("ffhq", 64, (64, 64))
    faces = [
        Face(np.zeros((4, 2)), np.zeros((5, 2)), 1.0, code, code + 0.5, None, kept, 32, 0)
        for code, kept in zip(codes, detail, strict=True)
    ]
    made = generate(faces, session, framing, PasteSettings("delta"), [False] * 3, own_codes=True)
    assert [face is one for face, (one, _, _, _) in zip(faces, made, strict=True)] == [True] * 3
    expected = session.generate_levels(codes + 0.5, detail, unedited_NLD=codes, size=32)
    for (_, edited, base, reference), one, before in zip(
        made, expected, session.generate_levels(codes, detail, size=32), strict=True
    ):
        np.testing.assert_array_equal(edited, one)
        np.testing.assert_array_equal(base, before)
        assert reference is base


def test_what_a_sheet_shows_is_nothing_that_a_paste_compares_with() -> None:
    """The source stands for the reconstruction of a model that keeps it; on a contact sheet it is shown all the same."""
    session = Session(light_model(trained=True), device="cpu", precision="fp32", batch_size=4)
    codes, detail = session.invert(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8))
    assert detail is not None
    faces = [
        Face(np.zeros((4, 2)), np.zeros((5, 2)), 1.0, code, code + 0.5, None, kept, 64, 0)
        for code, kept in zip(codes, detail, strict=True)
    ]
    made = generate(faces, session, Framing("ffhq", 64, (64, 64)), PasteSettings(), [True, False], own_codes=True)
    assert [one.base is not None for one in made] == [True, False]
    assert [one.reference for one in made] == [None, None]
    smoothed = generate(faces, session, Framing("ffhq", 64, (64, 64)), PasteSettings(), [False, False], own_codes=False)
    assert all(one.reference is one.base is not None for one in smoothed)
