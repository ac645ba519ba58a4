"""Recipes: both ways of writing one, what it means over time, and one clear sentence per mistake."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from ops.editing.recipe import (
    Edit,
    EditRecipe,
    Keyframe,
    RecipeError,
    ease,
    load_recipe,
    parse_edit,
    parse_edits,
    parse_time,
    recipe_from_yaml,
)

TIMES = np.arange(0, 10, 0.04)


# ------------------------------------------------------------------------------------------ what it means


@pytest.mark.parametrize("easing", ["linear", "smooth", "step"])
def test_easings_go_from_0_to_1_without_turning_back(easing: str) -> None:
    progress = np.linspace(-0.5, 1.5, 401)
    share = ease(easing, progress)
    assert (share[progress <= 0] == 0).all() and (share[progress >= 1] == 1).all()
    assert (np.diff(share) >= 0).all()


def test_smooth_starts_and_ends_at_rest_and_is_half_way_in_the_middle() -> None:
    h = 1e-4
    start, end = ease("smooth", np.array([0, h])), ease("smooth", np.array([1 - h, 1]))
    assert np.diff(start)[0] / h < 1e-3 and np.diff(end)[0] / h < 1e-3
    assert ease("smooth", np.array([0.5]))[0] == 0.5
    assert ease("linear", np.array([0.25]))[0] == 0.25
    assert ease("step", np.array([0.999]))[0] == 0


def test_keyframes_are_met_exactly_and_hold_outside() -> None:
    for easing in ("linear", "smooth", "step"):
        edit = Edit(
            name="smile",
            keyframes=(
                Keyframe(at=1, strength=-1),
                Keyframe(at=2.5, strength=3),
                Keyframe(at=4, strength=0.5),
            ),
            easing=easing,
        )
        at = edit.strengths(np.array([-5, 0.99, 1, 2.5, 4, 4.01, 99]))
        np.testing.assert_array_equal(at, [-1, -1, -1, 3, 0.5, 0.5, 0.5])
        between = edit.strengths(np.linspace(1, 2.5, 50))
        assert (np.diff(between) >= 0).all()
    assert parse_edit("s=0:0,2:4@ease=linear").strengths(np.array([0.5])) == [1.0]
    # −0.7 + (0.1 − −0.7) is not 0.1 in floating point.
    assert parse_edit("s=0:-0.7,1:0.1,2:0.5").strengths(np.array([1.0])) == [0.1]
    single = Edit(name="s", keyframes=(Keyframe(at=3, strength=2),))
    np.testing.assert_array_equal(single.strengths(np.array([0, 3, 6])), [2, 2, 2])


def test_a_step_holds_the_earlier_strength_until_the_later_keyframe() -> None:
    edit = parse_edit("smile=0:1,2:5@ease=step")
    np.testing.assert_array_equal(edit.strengths(np.array([0, 1.999, 2])), [1, 1, 5])


def test_a_span_holds_its_beginning_and_not_its_end_so_neighbours_do_not_overlap() -> None:
    one, two = parse_edit("smile=1@from=2@to=4"), parse_edit("smile=2@from=4@to=6")
    weights = one.weights(TIMES, 0) + two.weights(TIMES, 0)
    inside = (TIMES >= 2) & (TIMES < 6)
    np.testing.assert_array_equal(weights, inside.astype(float))


def test_fades_rise_from_nothing_and_fall_to_nothing() -> None:
    edit = parse_edit("smile=1@from=2@to=6@fade_in=1@fade_out=2@ease=linear")
    times = np.array([1.9, 2, 2.25, 3, 3.9, 4, 5, 5.99, 6, 7])
    expected = [0, 0, 0.25, 1, 1, 1, 0.5, 0.005, 0, 0]
    np.testing.assert_allclose(edit.weights(times, 0), expected, atol=1e-12)
    meeting = parse_edit("smile=1@from=2@to=4@fade=1")
    assert meeting.weights(np.array([3.0]), 0) == [1]
    # Nothing jumps: the largest step of one frame is the slope of smoothstep, 1.5 per fade, times the frame.
    smooth = parse_edit("smile=1@from=2@to=6@fade=1").weights(TIMES, 0)
    assert np.abs(np.diff(smooth)).max() <= 1.5 * 0.04 + 1e-9


def test_weights_do_not_depend_on_which_frames_are_asked_for() -> None:
    edit = parse_edit("smile=0:0,3:2@from=1@to=8@fade=1.5")
    whole_w, whole_s = edit.weights(TIMES, 0), edit.strengths(TIMES)
    for n in range(0, len(TIMES), 17):
        assert edit.weights(TIMES[n : n + 1], 0) == whole_w[n] and edit.strengths(TIMES[n : n + 1]) == whole_s[n]


def test_tracks_choose_whom_it_concerns() -> None:
    edit = parse_edit("smile=1@track=1+3")
    assert [edit.weights(np.zeros(1), t)[0] for t in range(5)] == [0, 1, 0, 1, 0]
    assert parse_edit("smile=1").weights(np.zeros(1), 77) == [1]


def test_a_recipe_gives_one_column_per_entry() -> None:
    recipe = parse_edits(["smile=1@track=0", "age=-2", "smile=3@from=5"])
    np.testing.assert_array_equal(recipe.strengths(np.array([0.0, 6.0])), [[1, -2, 3], [1, -2, 3]])
    np.testing.assert_array_equal(recipe.weights(np.array([0.0, 6.0]), 1), [[0, 1, 0], [0, 1, 1]])
    assert recipe.weights(np.zeros(0), 1).shape == (0, 3)
    assert recipe.names == ("smile", "age", "smile")


# --------------------------------------------------------------------------------------- how it is written

SAME = [
    ("smile=1.5", "{edit: smile, strength: 1.5}"),
    ("smile=-3", "{edit: smile, strength: -3}"),
    ("smile=1.5@track=1", "{edit: smile, strength: 1.5, tracks: 1}"),
    ("smile=1.5@track=2+0", "{edit: smile, strength: 1.5, tracks: [0, 2]}"),
    ("smile=1@from=1:30.5", "{edit: smile, strength: 1, from: 90.5}"),
    ("smile=1@from=1:30", "{edit: smile, strength: 1, from: 1:30}"),
    ("a.b-c_d=2@to=3@fade_out=1", "{edit: a.b-c_d, strength: 2, to: 3, fade_out: 1}"),
    ("s=1@from=0@to=9@fade=2", "{edit: s, strength: 1, from: 0, to: 9, fade_in: 2, fade_out: 2}"),
    (
        "s=0:0,1.5:2@ease=linear",
        "{edit: s, keyframes: [{at: 0, strength: 0}, {at: 1.5, strength: 2}], easing: linear}",
    ),
    (" s = 1 @ track = 1 @ from = 2 ", "{edit: s, strength: 1, tracks: 1, from: 2}"),
    ("s=-1:1e-3,0:.5", "{edit: s, keyframes: [{at: -1, strength: 0.001}, {at: 0, strength: 0.5}]}"),
]


@pytest.mark.parametrize(("text", "entry"), SAME)
def test_command_line_and_yaml_say_the_same(text: str, entry: str) -> None:
    from_text, from_yaml = parse_edits([text]), recipe_from_yaml(f"version: 1\nedits:\n- {entry}\n")
    assert from_text == from_yaml
    assert from_text.recipe_id == from_yaml.recipe_id
    assert parse_edits([from_text.edits[0].to_text()]) == from_text


def test_command_lines_may_stand_in_yaml() -> None:
    recipe = recipe_from_yaml("edits:\n- smile=1@track=1\n- {edit: age, strength: 2}\n")
    assert recipe == parse_edits(["smile=1@track=1", "age=2"])
    with pytest.raises(RecipeError, match=r"mine: edits: --edit 'smile'"):
        recipe_from_yaml("edits: [smile]", where="mine")


def test_different_recipes_have_different_ids() -> None:
    texts = ["smile=1", "smile=1.0001", "smile=-1", "age=1", "smile=1@track=0", "smile=1@from=0", "smile=0:1"]
    texts += ["smile=1@ease=linear", "smile=1@to=4", "smile=1@to=4@fade_out=1", "smile=1@from=0@fade_in=1"]
    ids = {parse_edits([text]).recipe_id for text in texts}
    ids |= {parse_edits(pair).recipe_id for pair in (["smile=1", "age=1"], ["age=1", "smile=1"])}
    assert len(ids) == len(texts) + 2
    assert all(len(i) == 16 for i in ids)


def test_ids_stay_the_same_from_version_to_version() -> None:
    """Stored edits are found by this id: a change here orphans them."""
    assert parse_edits(["smile=1.5@track=1", "age=-2"]).recipe_id == "61a17a76dab8ff66"


def test_the_examples_of_the_documentation_parse() -> None:
    import re

    text = (Path(__file__).parents[3] / "docs" / "edits.md").read_text("utf-8")
    yaml_block = re.search(r"```yaml\n(.*?)```", text, re.S)
    assert yaml_block is not None
    assert recipe_from_yaml(yaml_block[1]).names == ("smile", "age", "eyeglasses")
    on_command_lines = re.findall(r'--edit (?:"([^"]+)"|([a-z]+=\S+))', text)
    assert len(on_command_lines) >= 4
    for quoted, plain in on_command_lines:
        parse_edit(quoted or plain)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90.5", 90.5),
        ("1:30.5", 90.5),
        ("0:01:30.5", 90.5),
        ("2:00:00", 7200),
        ("-2", -2),
        ("5.", 5),
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text, "x") == seconds


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "NAME=STRENGTH"),
        ("smile", "NAME=STRENGTH"),
        ("smile=", "NAME=STRENGTH"),
        ("=1", "NAME=STRENGTH"),
        ("1smile=1", "NAME=STRENGTH"),
        ("smile=big", "expected a strength, got 'big'"),
        ("smile=nan", "finite"),
        ("smile=inf", "finite"),
        ("smile=1,2", "expected a strength, got '1,2'"),
        ("smile=0:1,2", "SECONDS:STRENGTH"),
        ("smile=0:1,x:2", "expected seconds, got 'x'"),
        ("smile=2:1,1:2", "in order of time"),
        ("smile=1:1,1:2", "in order of time"),
        ("smile=1@", "@OPTION=VALUE"),
        ("smile=1@track", "@OPTION=VALUE"),
        ("smile=1@tracks=1", "an option of track, from, to"),
        ("smile=1@track=-1", "numbers from 0"),
        ("smile=1@track=1.5", "numbers from 0"),
        ("smile=1@track=1+1", "each once"),
        ("smile=1@from=a", "mm:ss"),
        ("smile=1@from=1:75", "mm:ss"),
        ("smile=1@from=1:2:3:4", "mm:ss"),
        ("smile=1@from=4@to=4", "not after its beginning"),
        ("smile=1@from=4@to=3", "not after its beginning"),
        ("smile=1@fade_in=1", "needs a beginning: add from"),
        ("smile=1@fade_out=1", "needs an end: add to"),
        ("smile=1@from=0@to=3@fade=2", "4 s together, the edit lasts 3 s"),
        ("smile=1@from=0@fade_in=-1", "greater than or equal to 0"),
        ("smile=1@from=0@fade_in=1@ease=step", "nothing fades"),
        ("smile=1@ease=bouncy", "'linear', 'smooth' or 'step'"),
        ("smile=1@track=1@track=2", "tracks is given twice"),
        ("smile=1@from=1@from=2", "from is given twice"),
        ("smile=1@from=0@to=9@fade=1@fade_in=2", "fade_in is given twice"),
    ],
)
def test_mistakes_on_the_command_line_are_named(text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        parse_edit(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value) and "pydantic" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected a mapping"),
        ("- a", "expected a mapping"),
        ("edits: [", "not YAML"),
        ("edits: []", "edits"),
        ("version: 2\nedits: [{edit: a, strength: 1}]", "version"),
        ("edits: [{edit: a, strength: 1}]\nedit: x", "edit"),
        ("edits: [{edit: a}]", "either one strength or keyframes"),
        ("edits: [{edit: a, strength: 1, keyframes: [{at: 0, strength: 1}]}]", "not both"),
        ("edits: [{edit: a, strength: 1, track: 1}]", r"edits\.0\.track: "),
        ("edits: [{edit: a, strength: 1}, {edit: b, strength: big}]", r"edits\.1\.strength: .*'big'"),
        ("edits: [{edit: a, strength: yes}]", r"edits\.0\.strength: .*True"),
        ("edits: [{edit: a, strength: '1.5'}]", r"edits\.0\.strength"),
        ("edits: [{edit: a, strength: .nan}]", r"finite"),
        ("edits: [{edit: a, strength: 1, tracks: [-1]}]", r"edits\.0\.tracks\.0"),
        ("edits: [{edit: a, strength: 1, tracks: []}]", "one or more"),
        ("edits: [{edit: a, strength: 1, tracks: [yes]}]", r"edits\.0\.tracks\.0"),
        ("edits: [{edit: a b, strength: 1}]", r"edits\.0\.edit"),
        ("edits: [{edit: a, strength: 1, strength: 2}]", "'strength' comes twice"),
        ("edits: [!!python/object/apply:os.system [exit]]", "not YAML"),
    ],
)
def test_mistakes_in_yaml_are_located(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=says) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(bytes(range(256)))
    for path in (tmp_path / "missing.yaml", tmp_path, tmp_path / "video.mp4"):
        with pytest.raises(RecipeError, match="cannot be read as a recipe"):
            load_recipe(path)


def test_unknown_edits_are_refused_with_the_list_and_the_nearest() -> None:
    recipe = parse_edits(["smlie=1", "age=1", "zzz=1"])
    with pytest.raises(RecipeError) as caught:
        recipe.require_known({"smile", "age", "yaw"})
    assert str(caught.value) == ("there is no edit 'smlie' (did you mean 'smile'?), 'zzz'; there are: age, smile, yaw")
    recipe.require_known({"smlie", "age", "zzz", "more"})
    with pytest.raises(RecipeError, match="there are: none"):
        recipe.require_known(())


def test_tracks_that_a_source_does_not_have_are_told() -> None:
    recipe = parse_edits(["smile=1@track=0+4", "age=1", "yaw=1@track=2"])
    assert recipe.missing_tracks([0, 1]) == (2, 4)
    assert recipe.missing_tracks(range(9)) == ()


def test_a_recipe_is_a_value() -> None:
    recipe = parse_edits(["smile=1"])
    with pytest.raises(ValueError, match="frozen"):
        recipe.edits[0].strength = 2.0
    with pytest.raises(RecipeError, match="at least one edit"):
        parse_edits([])
    for one, two in itertools.combinations([recipe, parse_edits(["age=1"]), parse_edits(["smile=2"])], 2):
        assert one != two
    assert isinstance(recipe, EditRecipe) and hash(recipe) == hash(parse_edits(["smile=1.0"]))
