"""A draft is the recipe that its lanes say, and undo leads back."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.common.composing import Draft, History, Lane, draft_of
from ops.editing.recipe import EditRecipe, parse_edits, recipe_from_yaml


def recipe(draft: Draft) -> EditRecipe:
    found = draft.recipe()
    assert found is not None
    return found


def test_sliders_and_keyframes_make_a_recipe() -> None:
    draft = Draft().set("smile", None, 0.0, 1.3).set("age", 1, 0.5, -2.0)
    assert recipe(draft) == parse_edits(["smile=1.3", "age=-2@track=1"])
    assert Draft().recipe() is None
    # A keyframe has the strength that the lane has there; with one, the slider sets keyframes.
    keyed = draft.keyframe("smile", None, 0.0).set("smile", None, 1.5, 2.0).set("smile", None, 3.0, 0.0)
    assert recipe(keyed) == parse_edits(["smile=0.0:1.3,1.5:2.0,3.0:0.0", "age=-2@track=1"])
    moved = keyed.set("smile", None, 1.51, 0.5)
    lane = moved.lane("smile", None)
    assert lane is not None and lane.keyframes == ((0.0, 1.3), (1.51, 0.5), (3.0, 0.0)), "so near, it takes its place"
    assert lane.at(1.51) == pytest.approx(0.5) and lane.at(9.0) == 0.0
    eased = moved.eased("smile", None, "linear")
    assert recipe(eased).edits[0].easing == "linear"
    assert eased.lane("smile", None).at(2.255) == pytest.approx(0.25)  # type: ignore[union-attr]
    assert recipe(recipe_of_yaml(eased)) == recipe(eased)


def recipe_of_yaml(draft: Draft) -> Draft:
    return draft_of(recipe_from_yaml(recipe(draft).to_yaml()))


def test_a_keyframe_goes_and_leaves_its_strength() -> None:
    draft = Draft().set("smile", None, 0, 2.0).keyframe("smile", None, 1.0)
    assert draft.lane("smile", None) == Lane("smile", None, 2.0, ((1.0, 2.0),))
    gone = draft.keyframe("smile", None, 1.01)
    assert gone.lane("smile", None) == Lane("smile", None, 2.0)
    assert gone.without("smile", None).recipe() is None


def test_tracks_are_lanes_of_their_own() -> None:
    draft = Draft().set("smile", None, 0, 1.0).set("smile", 2, 0, 3.0)
    assert len(draft.lanes) == 2 and draft.lane("smile", 1) is None
    assert np.allclose(recipe(draft).weights(np.zeros(1), 2), [[1, 1]])
    assert np.allclose(recipe(draft).weights(np.zeros(1), 1), [[1, 0]])


def test_what_no_lane_shows_is_kept() -> None:
    given = parse_edits(["smile=1@from=1@to=2", "pose=0:0,1:2@track=1", "smile=2", "smile=1@track=0+1"])
    draft = draft_of(given)
    assert [one.name for one in draft.kept] == ["smile", "smile"] and [lane.edit for lane in draft.lanes] == ["pose", "smile"]
    assert sorted(one.to_text() for one in recipe(draft).edits) == sorted(one.to_text() for one in given.edits)
    changed = recipe(draft.set("age", None, 0, 1.0))
    assert {one.name for one in changed.edits} == {"smile", "pose", "age"}


def test_undo_and_redo() -> None:
    history = History(Draft())
    assert not history.undo() and not history.can_undo
    for strength in (0.5, 1.0, 1.5):  # one slider, one step
        history.change(history.now.set("smile", None, 0, strength), ("smile", None, 0))
    history.change(history.now.keyframe("smile", None, 0))
    history.change(history.now)  # no change is no step
    assert history.undo() and history.now == Draft().set("smile", None, 0, 1.5)
    assert history.undo() and history.now == Draft() and not history.undo()
    assert history.redo() and history.redo() and not history.redo()
    assert history.undo()
    history.change(history.now.set("age", None, 0, 1.0))
    assert not history.can_redo, "who goes on from here leaves the other way"
