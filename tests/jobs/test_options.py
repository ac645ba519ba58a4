"""Options come from the settings that they fill: none is forgotten, none has a default of its own, and names stay."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from typer.models import ArgumentInfo
from typer.testing import CliRunner

from jobs import convert
from jobs.cli import COMMANDS, app
from jobs.common import evaluate_options, train_options
from jobs.common.prepare import codec_for
from jobs.common.settings import TABLE, RunnerSettings
from jobs.common.values import Chosen, Hidden, Nested, Option, Shape, named, options_of
from jobs.describe import FILES, PLACES, contract
from ops.editing.recipe import parse_edits
from pipeline import flow
from pipeline.steps.plan import PlanSettings
from pipeline.store.tables import Store, StoreInfo

CLASSES = (flow.InvertSettings, flow.RenderSettings, flow.Compute, RunnerSettings)
RECIPE = {PlanSettings: {"recipe": parse_edits(["smile=1"])}}
SINCE_THE_FIRST_RELEASE = """
allow-hdr batch-size chunk-frames codec color-match contact-sheet container cpus-per-worker crop decoder detector device
drop-unsupported dry-run edit editor editors gpus-per-worker insightface-pack insightface-root item-seconds mask max-failed
method model no-contact-sheet node-seconds num-gpus out overwrite paste precision preset progress quality ray-address recipe
residual-codec runner side-by-side smoothing smoothing-seconds store workers
"""


def chosen_by(*words: str) -> Chosen:
    """What a command with all settings gets. A mistake of the user's is raised as RuntimeError, with what was printed."""
    got: list[Chosen] = []

    def command(*, chosen: Chosen) -> None:
        got.append(chosen)
        for cls in CLASSES:
            chosen.make(cls, RECIPE)

    one = typer.Typer()
    one.command()(options_of(TABLE, *CLASSES)(command))
    result = CliRunner().invoke(one, list(words))
    if result.exit_code:
        raise RuntimeError(result.output)
    return got[0]


TABLES = (TABLE, train_options.TABLE, evaluate_options.TABLE, convert.TABLE)


@pytest.mark.parametrize(
    ("table", "cls"), [(table, cls) for table in TABLES for cls in table], ids=lambda value: getattr(value, "__name__", "")
)
def test_every_field_is_an_option_or_hidden_with_a_reason(table: Mapping[type, Shape], cls: type) -> None:
    shape = table[cls]
    assert set(shape.fields) == {one.name for one in dataclasses.fields(cls)}
    assert all(one.why for one in shape.fields.values() if isinstance(one, Hidden))
    for name, shown in shape.fields.items():
        if isinstance(shown, Nested):
            assert shown.of in table and issubclass(shown.of, get_type_hints(cls)[name])


def test_no_two_fields_have_one_name() -> None:
    names = [
        one.name
        for shape in TABLE.values()
        for one in (*shape.fields.values(), *shape.more.values())
        if isinstance(one, Option)
    ]
    assert len(names) == len(set(names))


def functions_of(command: Any) -> list[Callable[..., None]]:
    """The function of a command, or those of a `typer.Typer` and its subcommands."""
    if not isinstance(command, typer.Typer):
        return [command]
    found = [one.callback for one in (command.registered_callback, *command.registered_commands) if one is not None]
    return [one for one in found if one is not None]


@pytest.mark.parametrize("name", ["train", "evaluate", "convert"])
def test_no_option_is_declared_by_hand(name: str) -> None:
    """What a function declares itself are arguments; the names of its options are those of fields, each once."""
    functions = functions_of(getattr(import_module(COMMANDS[name].module), COMMANDS[name].attribute))
    assert functions
    for function in functions:
        table, classes = function.options_from  # type: ignore[attr-defined]
        generated = [parameter for _, _, parameter in named(table, classes)]
        assert len(generated) == len(set(generated)), function
        for one in inspect.signature(function).parameters.values():
            own = one.annotation is typer.Context or any(isinstance(note, ArgumentInfo) for note in get_args(one.annotation))
            assert own or one.name in generated, (function, one)


def test_a_field_without_a_default_is_a_required_option() -> None:
    told = contract()["commands"]["train"]["commands"]["e0"]["parameters"]
    assert {one["names"][0] for one in told if one.get("required")} == {"--data", "--prior", "--out"}
    result = CliRunner().invoke(app, ["train", "e0", "--data", "faces", "--out", "run"])
    assert result.exit_code == 2 and "--prior" in result.output


def test_what_is_not_given_is_the_classes_own_default() -> None:
    """`--paste` was composite here and delta there."""
    chosen = chosen_by()
    assert chosen.make(flow.InvertSettings) == flow.InvertSettings()
    assert chosen.make(flow.Compute) == flow.Compute() and chosen.make(RunnerSettings) == RunnerSettings()
    own = flow.RenderSettings(PlanSettings(**RECIPE[PlanSettings]))
    assert chosen.make(flow.RenderSettings, RECIPE) == dataclasses.replace(
        own, encode=dataclasses.replace(own.encode, codec_is_default=True)
    )


def test_what_is_given_reaches_its_field_also_where_that_was_hidden_once(tmp_path: Any) -> None:
    words = "--min-score 0.7 --max-gap-seconds 1 --shot-score 20 --fade-seconds 0.5 --gop-frames 12 --paste delta --mask face"
    more = f"--color-match --smoothing gaussian --smoothing-seconds 0.2 --no-contact-sheet --insightface-root {tmp_path}"
    chosen = chosen_by(*words.split(), *more.split(), "--codec", "ffv1", "--workers", "3", "--decoder", "pyav")
    inverting, rendering = chosen.make(flow.InvertSettings), chosen.make(flow.RenderSettings, RECIPE)
    assert (inverting.detector.min_score, inverting.detector.root) == (0.7, str(tmp_path))  # type: ignore[attr-defined]
    assert (inverting.tracking.max_gap_seconds, inverting.tracking.shots.min_score) == (1.0, 20.0)
    assert (rendering.plan.fade_seconds, rendering.plan.smoothing.sigma_seconds) == (0.5, 0.2)
    assert (rendering.paste.mode, rendering.paste.mask.kind, rendering.paste.color_match) == ("delta", "face", True)
    assert (rendering.encode.codec, rendering.encode.codec_is_default, rendering.encode.gop_frames) == ("ffv1", False, 12)
    assert rendering.sheet_frames == 0
    assert chosen.make(RunnerSettings).workers == 3 and chosen.make(flow.Compute).backend == "pyav"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--min-score 2", "--min-score"),
        ("--batch-size 0", "greater than or equal to 1"),
        ("--mask edges", "edges"),
        ("--track-size-ratio 0.5", "max_size_ratio > 1"),
        ("--smoothing none --smoothing-seconds 1", "no meaning"),
        ("--codec ffv1 --quality 3", "lossless"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(words: str, said: str) -> None:
    with pytest.raises(RuntimeError) as refused:
        chosen_by(*words.split())
    assert said in " ".join(str(refused.value).replace("│", "").split())


def test_names_stay_and_the_first_screen_has_what_most_people_need() -> None:
    edit = contract()["commands"]["edit"]["parameters"]
    names = {name for one in edit for name in one["names"]}
    assert names >= {f"--{name}" for name in SINCE_THE_FIRST_RELEASE.split()}
    first = [one["names"][0] for one in edit if "group" not in one and not one.get("argument")]
    assert len(first) == 10, first


def test_describe_prints_the_whole_contract() -> None:
    result = CliRunner().invoke(app, ["describe"])
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert list(told["commands"]) == list(COMMANDS) == [*told["commands"]] and set(FILES) == set(COMMANDS)
    assert set(told["exit_codes"]) == {"0", "1", "2"}
    for name, command in told["commands"].items():
        assert {*command["reads"], *command["writes"]} <= set(PLACES), name
    by_name = {name: one for one in told["commands"]["edit"]["parameters"] for name in one["names"]}
    assert by_name["--min-score"] == {
        "names": ["--min-score"],
        "type": "number",
        "min": 0.0,
        "max": 1.0,
        "default": 0.5,
        "group": "Finding faces",
        "help": "Faces that the detector is less sure of are left out.",
    }
    assert by_name["--device"]["choices"] == ["auto", "cpu", "cuda"] and by_name["--out"]["required"] is True
    assert "video" in told["commands"]["evaluate"]["commands"] and "verify" in told["commands"]["store"]["commands"]


def test_a_store_keeps_the_codec_that_it_was_made_with(tmp_path: Path) -> None:
    """Stores of earlier versions have float16, and the default is another now."""
    assert codec_for(tmp_path / "new", "auto") == "int8" and codec_for(tmp_path / "new", "float32") == "float32"
    Store.create(tmp_path / "old", StoreInfo("none", "0" * 64, (1, 1), (1, 1, 1), "float16", 1, "0"))
    assert codec_for(tmp_path / "old", "auto") == "float16"
