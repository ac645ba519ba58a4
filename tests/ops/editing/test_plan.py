"""From recipe to codes: what acts, in which order, and that nothing else moves."""

from __future__ import annotations

from typing import final

import numpy as np
import pytest
import torch

from ops.editing.direction import DirectionEditor
from ops.editing.editor import AnyEditor, EditError, Editor
from ops.editing.ganspace import GanSpaceBasis, GanSpaceEdit, GanSpaceEditor
from ops.editing.plan import PlannedEdits, plan_edits
from ops.editing.recipe import RecipeError, parse_edits
from ops.editing.smoothing import SmoothingSettings, smooth_codes
from ops.editing.style_direction import StyleDirectionEditor
from ops.editing.styleclip_global import StyleclipGlobalEditor

L, D = 4, 8
NONE = SmoothingSettings("none")
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
        np.testing.assert_array_equal(planned.unedited_NLD, track())
        assert planned.active_N.all() and planned.active_N.dtype == np.bool_


def test_where_nothing_acts_codes_keep_their_bits() -> None:
    planned = plan("smile=2@from=1@to=2", "age=3@track=5", "grin=1@from=3@to=4@fade=0.3")
    expected = ((TIMES >= 1) & (TIMES < 2)) | ((TIMES > 3) & (TIMES < 4))
    np.testing.assert_array_equal(planned.active_N, expected)
    np.testing.assert_array_equal(planned.edited_NLD[~expected], planned.unedited_NLD[~expected])
    moved = np.abs(planned.edited_NLD - planned.unedited_NLD).max(axis=(1, 2))
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
    expected = (whole.unedited_NLD[ten] + whole.edited_NLD[ten]) / 2
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
    smoothing = SmoothingSettings(kind=kind, target="code")
    planned = plan("smile=2@from=2", smoothing=smoothing)
    np.testing.assert_array_equal(planned.unedited_NLD, smooth_codes(track(), TIMES, smoothing))
    still = TIMES < 2
    np.testing.assert_array_equal(planned.edited_NLD[still], planned.unedited_NLD[still])
    step = (planned.edited_NLD - planned.unedited_NLD)[~still]
    np.testing.assert_allclose(step, np.broadcast_to(step[:1], step.shape), atol=1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "savgol", "one_euro"])
def test_what_an_edit_adds_is_smooth_and_the_code_stays(kind: str) -> None:
    """GANSpace's edit adds what the code lacks to its goal: more or less in every frame, as the code trembles."""
    smoothing = SmoothingSettings(kind=kind, sigma_seconds=0.2, window_seconds=1.0)
    assert smoothing.target == "edit", "the default"
    planned, plain = plan("grin=9@from=2", smoothing=smoothing), plan("grin=9@from=2")
    np.testing.assert_array_equal(planned.unedited_NLD, track())
    still = TIMES < 2
    np.testing.assert_array_equal(planned.edited_NLD[still], track()[still])

    def tremble(made: PlannedEdits) -> float:
        added = (made.edited_NLD - made.unedited_NLD)[~still]
        return float(np.abs(np.diff(added, axis=0)).mean())

    assert tremble(planned) < 0.7 * tremble(plain)
    steady = plan("smile=0:0,4.9:3@ease=linear", smoothing=smoothing)
    np.testing.assert_allclose(steady.edited_NLD, plan("smile=0:0,4.9:3@ease=linear").edited_NLD, atol=2e-6)


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


# ------------------------------------------------------------------------------------------------ edits in S


S = 12


def with_style() -> dict[str, AnyEditor]:
    random = torch.Generator().manual_seed(2)
    one, two = torch.randn(S, generator=random), torch.randn(S, generator=random)
    return {**editors(), "brows": StyleDirectionEditor(one), "hat": StyleclipGlobalEditor(two)}


def style_plan(*texts: str, wplus_NLD: np.ndarray | None = None) -> PlannedEdits:
    codes = track() if wplus_NLD is None else wplus_NLD
    return plan_edits(parse_edits(texts), with_style(), codes, TIMES, 0, NONE)


def offsets_of(planned: PlannedEdits) -> np.ndarray:
    """Of every frame, [N, S]; 0 where no edit in S acts."""
    every = np.zeros((len(TIMES), S), np.float32)
    if planned.style_active_N.any():
        every[planned.style_active_N] = planned.style_offset_AS
    return every


def test_an_edit_in_style_space_leaves_codes_alone_and_gives_offsets_where_it_acts() -> None:
    planned = style_plan("brows=2@from=1@to=2", "hat=0:0,1:0,2:3@ease=linear")
    np.testing.assert_array_equal(planned.edited_NLD, planned.unedited_NLD)
    expected = ((TIMES >= 1) & (TIMES < 2)) | (TIMES > 1)
    np.testing.assert_array_equal(planned.style_active_N, expected)
    np.testing.assert_array_equal(planned.active_N, expected)
    assert planned.style_offset_AS.shape == (expected.sum(), S) and planned.style_offset_AS.dtype == np.float32
    at = int(np.flatnonzero(TIMES == 1.5)[0])
    both = with_style()
    wanted = both["brows"].offset(torch.tensor([2.0])) + both["hat"].offset(torch.tensor([1.5]))  # type: ignore[attr-defined]
    np.testing.assert_allclose(offsets_of(planned)[at], wanted[0].numpy(), atol=1e-6)


def test_without_an_edit_in_style_space_there_is_no_offset() -> None:
    for texts in (("smile=1",), ("brows=0",), ("brows=2@track=3",)):
        planned = style_plan(*texts)
        assert not planned.style_active_N.any() and planned.style_offset_AS.size == 0
    assert style_plan("smile=1", "brows=1@track=3").active_N.all()


def test_fades_scale_an_offset() -> None:
    whole, half = style_plan("brows=3"), style_plan("brows=3@from=0@fade_in=2@ease=linear")
    ten = int(np.flatnonzero(TIMES == 1)[0])
    np.testing.assert_allclose(offsets_of(half)[ten], 0.5 * offsets_of(whole)[ten], rtol=1e-6)
    assert not half.style_active_N[0] and not half.active_N[0], "at weight 0 the source passes"


def test_edits_in_style_space_add_up_in_any_order_among_the_others() -> None:
    one = style_plan("brows=1", "smile=2", "hat=-2", "brows=0.5@from=2")
    two = style_plan("brows=0.5@from=2", "hat=-2", "brows=1", "smile=2")
    np.testing.assert_allclose(offsets_of(one), offsets_of(two), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(one.edited_NLD, two.edited_NLD)
    alone = [offsets_of(style_plan(text)) for text in ("brows=1", "hat=-2", "brows=0.5@from=2")]
    np.testing.assert_allclose(offsets_of(one), sum(alone), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(one.edited_NLD, style_plan("smile=2").edited_NLD)


def test_blocks_do_not_show_in_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ("brows=0:0,5:3", "hat=2@from=1@to=4@fade=0.5", "smile=1")
    whole = style_plan(*texts)
    monkeypatch.setattr("ops.editing.plan._FRAMES_AT_ONCE", 3)
    np.testing.assert_array_equal(style_plan(*texts).style_offset_AS, whole.style_offset_AS)


def test_an_offset_that_is_not_finite_is_refused() -> None:
    with pytest.raises(EditError, match="brows: gives codes that are not finite on track 0"):
        style_plan("brows=3e38")
