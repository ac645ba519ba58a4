"""From recipe to codes: what acts, in which order, and that nothing else moves."""

from __future__ import annotations

from typing import final

import numpy as np
import pytest
import torch

from ops.editing.direction import DirectionEditor
from ops.editing.editor import EditError, Editor
from ops.editing.ganspace import GanSpaceBasis, GanSpaceEdit, GanSpaceEditor
from ops.editing.plan import PlannedEdits, plan_edits
from ops.editing.recipe import RecipeError, parse_edits
from ops.editing.smoothing import SmoothingSettings, smooth_codes

L, D = 4, 8
NONE = SmoothingSettings()
TIMES = np.arange(50) / 10


def track(seed: int = 0) -> np.ndarray:
    wplus_NLD = np.random.default_rng(seed).normal(size=(50, L, D)).astype(np.float32)
    wplus_NLD.flags.writeable = False  # as it comes from the store
    return wplus_NLD


@final
class Replace(Editor):
    """Forgets the code: base + (edited − base) differs from edited in the last bits."""

    @property
    def unit(self) -> str:
        return "every value of the code"

    @property
    def neutral(self) -> float | None:
        return None

    def apply(self, wplus_NLD: torch.Tensor, strength_N: torch.Tensor) -> torch.Tensor:
        return strength_N[:, None, None].expand(wplus_NLD.shape)


def editors() -> dict[str, Editor]:
    random = torch.Generator().manual_seed(1)
    component = torch.nn.functional.normalize(torch.randn(1, D, generator=random))
    basis = GanSpaceBasis(torch.randn(D, generator=random), component, torch.tensor([1.5]))
    return {
        "smile": DirectionEditor(torch.randn(D, generator=random)),
        "age": DirectionEditor(torch.randn(L, D, generator=random), rows=(1, 3)),
        "grin": GanSpaceEditor(basis, GanSpaceEdit("grin", 0, (0, 3))),
        "replace": Replace(),
    }


def plan(
    *texts: str, track_id: int = 0, smoothing: SmoothingSettings = NONE, wplus_NLD: np.ndarray | None = None
) -> PlannedEdits:
    codes = track() if wplus_NLD is None else wplus_NLD
    return plan_edits(parse_edits(texts), editors(), codes, TIMES, track_id, smoothing)


def test_a_whole_edit_is_the_editors_own_to_the_bit() -> None:
    for name in editors():
        planned = plan(f"{name}=1.5")
        expected = editors()[name].apply(torch.tensor(track()), torch.full((50,), 1.5)).numpy()
        np.testing.assert_array_equal(planned.edited_NLD, expected)
        np.testing.assert_array_equal(planned.base_NLD, track())
        assert planned.active_N.all() and planned.active_N.dtype == np.bool_


def test_where_nothing_acts_codes_keep_their_bits() -> None:
    planned = plan("smile=2@from=1@to=2", "age=3@track=5", "grin=1@from=3@to=4@fade=0.3")
    expected = ((TIMES >= 1) & (TIMES < 2)) | ((TIMES > 3) & (TIMES < 4))
    np.testing.assert_array_equal(planned.active_N, expected)
    np.testing.assert_array_equal(planned.edited_NLD[~expected], planned.base_NLD[~expected])
    moved = np.abs(planned.edited_NLD - planned.base_NLD).max(axis=(1, 2))
    assert (moved[expected] > 0).all()


def test_zero_is_no_edit_for_a_direction_and_a_target_for_ganspace() -> None:
    assert not plan("smile=0").active_N.any()
    assert plan("grin=0").active_N.all()
    ramp = plan("smile=0:0,1:0,2:1")
    np.testing.assert_array_equal(ramp.active_N, TIMES > 1)


def test_other_tracks_are_left_alone() -> None:
    assert not plan("smile=1@track=1", "grin=2@track=3", track_id=0).active_N.any()
    assert plan("smile=1@track=1", track_id=1).active_N.all()


def test_fades_scale_the_effect_of_any_editor_and_a_linear_ones_strength() -> None:
    faded = plan("smile=3@from=0@fade_in=4.9@ease=linear")
    by_strength = plan("smile=0:0,4.9:3@ease=linear")
    np.testing.assert_allclose(faded.edited_NLD, by_strength.edited_NLD, atol=1e-6)
    whole, half = plan("grin=9"), plan("grin=9@from=0@fade_in=2@ease=linear")
    ten = int(np.flatnonzero(TIMES == 1)[0])
    expected = (whole.base_NLD[ten] + whole.edited_NLD[ten]) / 2
    np.testing.assert_allclose(half.edited_NLD[ten], expected, atol=1e-6)


def test_edits_apply_in_the_order_given() -> None:
    both, code = editors(), torch.tensor(track())
    strength = torch.full((50,), 2.0)
    one = both["grin"].apply(both["smile"].apply(code, strength), strength).numpy()
    two = both["smile"].apply(both["grin"].apply(code, strength), strength).numpy()
    assert np.abs(one - two).max() > 0.1
    np.testing.assert_array_equal(plan("smile=2", "grin=2").edited_NLD, one)
    np.testing.assert_array_equal(plan("grin=2", "smile=2").edited_NLD, two)
    np.testing.assert_allclose(plan("smile=2", "age=1").edited_NLD, plan("age=1", "smile=2").edited_NLD, atol=1e-6)


def test_the_same_edit_twice_adds_up() -> None:
    np.testing.assert_allclose(plan("smile=1", "smile=2").edited_NLD, plan("smile=3").edited_NLD, atol=1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "savgol", "one_euro"])
def test_smoothing_moves_the_base_and_the_edit_stands_on_it(kind: str) -> None:
    smoothing = SmoothingSettings(kind=kind)
    planned = plan("smile=2@from=2", smoothing=smoothing)
    np.testing.assert_array_equal(planned.base_NLD, smooth_codes(track(), TIMES, smoothing))
    still = TIMES < 2
    np.testing.assert_array_equal(planned.edited_NLD[still], planned.base_NLD[still])
    step = (planned.edited_NLD - planned.base_NLD)[~still]
    np.testing.assert_allclose(step, np.broadcast_to(step[:1], step.shape), atol=1e-6)


def test_what_was_applied_is_told() -> None:
    planned = plan("smile=2@from=2", "age=0:0,4.9:4.9@ease=linear")
    assert planned.edits == ("smile", "age")
    np.testing.assert_array_equal(planned.weight_NE[:, 0], (TIMES >= 2).astype(float))
    np.testing.assert_allclose(planned.strength_NE[:, 1], TIMES, atol=1e-12)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ("smile=0:0,5:3", "grin=2@from=1@to=4@fade=0.5", "age=-1")
    whole = plan(*texts)
    monkeypatch.setattr("ops.editing.plan._FRAMES_AT_ONCE", 3)
    np.testing.assert_array_equal(plan(*texts).edited_NLD, whole.edited_NLD)


def test_an_empty_track_passes() -> None:
    planned = plan_edits(parse_edits(["smile=1"]), editors(), track()[:0], TIMES[:0], 0, NONE)
    assert planned.edited_NLD.shape == (0, L, D) and planned.active_N.shape == (0,)


def test_mistakes_are_told_before_anything_is_computed() -> None:
    with pytest.raises(RecipeError, match="there are: age, grin, replace, smile"):
        plan("smirk=1", wplus_NLD=np.full((50, L, D), np.nan, np.float32))
    with pytest.raises(EditError, match="belongs to one generator"):
        plan("smile=1", wplus_NLD=np.zeros((50, L, D + 1), np.float32))
    too_far = "smile: gives codes that are not finite on track 3"
    with pytest.raises(EditError, match=too_far), np.errstate(all="ignore"):
        plan("smile=3e38", track_id=3, wplus_NLD=track() * 10)
