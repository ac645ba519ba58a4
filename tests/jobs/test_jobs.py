"""The commands: what they write, what they say, what they refuse."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app
from ops.checkpoints.bundle import Bundle
from ops.video.decode import FrameReader
from ops.video.probe import probe
from pipeline.engine.ledger import Ledger
from pipeline.steps import pictures
from pipeline.store.tables import Store
from tests import tiny
from tests.jobs.conftest import Styleres, tree
from tests.ops.video.media import decode_all, payloads
from tests.pipeline import test_pictures

RGB = ("--codec", "ffv1", "--pix-fmt", "bgr0")  # the numbers that an edit works with


def changed(before: Path, after: Path) -> list[tuple[bool, bool]]:
    """For each frame: whether the left and the right half changed more than coding does."""
    with FrameReader(probe(before), conversion="exact") as one, FrameReader(probe(after), conversion="exact") as two:
        pairs = zip(one.read(0, one.info.n_frames), two.read(0, two.info.n_frames), strict=True)
        moved = [np.abs(a.astype(int) - b).max(axis=2) > 30 for (_, a), (_, b) in pairs]
    return [(bool(m[:, :70].any()), bool(m[:, 90:].any())) for m in moved]


# ------------------------------------------------------------------------------------------------------------- edit


def test_edit_writes_the_video_a_sheet_and_a_store_and_counts(tmp_path: Path, styleres: Styleres, clip: Path) -> None:
    out, store = tmp_path / "new" / "out.mp4", tmp_path / "store"
    ran = styleres("edit", clip, "--edit", "warm=2", "--out", out, "--store", store, "--side-by-side")
    assert ran.code == 0 and ran.error == ""
    expected = {"inputs": 1, "frames": 20, "faces": 40, "edits": 40, "failures": 0, "job": "edit"}
    assert {name: ran.done[name] for name in expected} == expected
    assert all("seconds" in line and "event" in line for line in ran.lines)
    names = sorted(p.name for p in out.parent.iterdir())
    assert names == ["out.contact_sheet.png", "out.mp4", "out.side_by_side.mp4"], "no work folder is left"
    source, made, beside = probe(clip), probe(out), probe(out.parent / "out.side_by_side.mp4")
    assert made.pts.tolist() == beside.pts.tolist() == source.pts.tolist() and beside.width == 2 * source.width
    assert payloads(out, "audio") == payloads(clip, "audio") == payloads(out.parent / "out.side_by_side.mp4", "audio")
    assert all(left and right for left, right in changed(clip, out))
    assert Store.open(store).is_complete(Store.open(store).stored_source_ids()[0])


def test_the_last_status_of_a_finished_run_says_what_was_done_and_no_zeros(
    tmp_path: Path, styleres: Styleres, clip: Path
) -> None:
    ran = styleres("edit", clip, "--edit", "warm=1", "--out", tmp_path / "out.mp4")
    status = [line for line in ran.lines if line["event"] == "status"][-1]
    assert list(status["steps"]) == ["scan", "track", "invert", "plan", "render", "finalize"]
    for name, counts in status["steps"].items():
        assert set(counts) == {"done", "frames_per_second"} and counts["done"] >= 1, name


def test_without_a_store_nothing_else_is_left(tmp_path: Path, styleres: Styleres, clip: Path) -> None:
    assert styleres("edit", clip, "--edit", "warm=1", "--out", tmp_path / "o", "--no-contact-sheet").code == 0
    assert [p.name for p in (tmp_path / "o").rglob("*")] == ["marked.edited.mp4"]


def test_a_second_edit_does_not_invert_again(
    tmp_path: Path, styleres: Styleres, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    first = styleres("edit", clip, "--edit", "warm=1", "--out", tmp_path / "a.mp4", "--store", store)

    def inverted() -> dict[str, int]:
        """What rendering does not add to."""
        added = ("edits", "segments", "quality", "manifests", "ledger", "work")
        return {name: when for name, when in tree(store).items() if not name.startswith(added)}

    before = inverted()

    tiny.refuse_detectors(monkeypatch, "scanned again")
    second = styleres("edit", clip, "--edit", "cold=1", "--out", tmp_path / "b.mp4", "--store", store)
    third = styleres("render", "--store", store, "--edit", "cold=1", "--out", tmp_path / "c.mp4")
    assert (first.code, second.code, third.code) == (0, 0, 0)
    assert inverted() == before
    assert second.done["faces"] == 0 and second.done["frames"] == 20 and second.done["edits"] == third.done["edits"] == 40
    assert [a.tobytes() for a in decode_all(tmp_path / "b.mp4")[1]] != [a.tobytes() for a in decode_all(tmp_path / "a.mp4")[1]]


def test_nothing_is_overwritten_unasked(tmp_path: Path, styleres: Styleres, clip: Path) -> None:
    """Not by other edits; and what this command has finished, it does not do again, overwriting or not."""
    arguments = ("edit", clip, "--edit", "warm=1", "--out", tmp_path / "out.mp4", "--store", tmp_path / "store")
    other = ("edit", clip, "--edit", "warm=2", *arguments[4:])
    assert styleres(*arguments).code == 0
    before = tree(tmp_path)
    refused = styleres(*other)
    assert refused.code == 2 and "out.mp4" in refused.error and "exists already" in refused.error
    assert "--overwrite" in refused.error and tree(tmp_path) == before
    made = (tmp_path / "out.mp4").read_bytes()
    for more in ((), ("--overwrite",)):
        again = styleres(*arguments, *more)
        assert again.code == 0 and again.done["inputs_finished_before"] == 1 and again.done["frames"] == 0
        assert (tmp_path / "out.mp4").stat().st_mtime_ns == before["out.mp4"]
    (tmp_path / "out.mp4").unlink()
    refused = styleres(*other)
    assert refused.code == 2 and "out.contact_sheet.png" in refused.error
    replaced = styleres(*other, "--overwrite")
    assert replaced.code == 0 and replaced.done["faces"] == 0, "overwriting an edit does not invert again"
    assert (tmp_path / "out.mp4").read_bytes() != made
    # The first command's file is not there any more: it is made again, the same.
    assert styleres(*arguments, "--overwrite").code == 0 and (tmp_path / "out.mp4").read_bytes() == made


def test_an_edit_that_was_killed_after_its_file_was_written_is_finished_by_the_same_command(
    tmp_path: Path, styleres: Styleres, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own file is not taken for somebody else's; another command still refuses."""
    arguments = ("edit", clip, "--edit", "warm=1", "--out", tmp_path / "out.mp4", "--store", tmp_path / "store")
    seal = Ledger.seal

    def killed(self: Ledger, name: str, *rest: Any) -> None:
        if name.startswith("render-"):
            raise RuntimeError("killed")
        seal(self, name, *rest)

    monkeypatch.setattr(Ledger, "seal", killed)
    with pytest.raises(RuntimeError, match="killed"):
        styleres(*arguments)
    monkeypatch.undo()
    tiny.command_finds_marks(monkeypatch)
    assert (tmp_path / "out.mp4").exists(), "the premise"
    assert styleres("edit", clip, "--edit", "warm=2", *arguments[4:]).code == 2
    again = styleres(*arguments)
    assert again.code == 0 and again.done["faces"] == 0 and again.done["inputs_finished_before"] == 0
    assert styleres(*arguments).done["inputs_finished_before"] == 1


def test_an_input_is_never_an_output(styleres: Styleres, clip: Path) -> None:
    """It used to run to the end and then fail, because a render reads its source until the sound is copied."""
    before = clip.read_bytes()
    refused = styleres("edit", clip, "--edit", "warm=1", "--out", clip, "--overwrite")
    assert refused.code == 2 and "is one of the inputs" in refused.error
    assert clip.read_bytes() == before


def test_a_store_of_other_settings_or_of_another_model_is_not_touched(tmp_path: Path, styleres: Styleres, clip: Path) -> None:
    store = tmp_path / "store"
    assert styleres("invert", clip, "--store", store).code == 0
    before = tree(store)
    other = styleres("invert", clip, "--store", store, "--crop", "official")
    assert other.code == 2 and "other settings" in other.error and "--overwrite" in other.error
    codec = styleres("invert", clip, "--store", store, "--residual-codec", "float32")
    assert codec.code == 2 and "residual_codec" in codec.error
    stranger = tiny.tiny_bundle(tmp_path / "stranger", seed=1).path
    for job in (("invert", clip), ("render", "--edit", "warm=1", "--out", tmp_path / "o")):
        ran = styleres(*job, "--store", store, "--model", stranger)
        assert ran.code == 2 and "tiny" in ran.error
    assert tree(store) == before
    again = styleres("invert", clip, "--store", store)
    assert again.code == 0 and [line["event"] for line in again.lines].count("skipped") == 1


def test_an_inversion_that_was_cut_short_is_done_again(tmp_path: Path, styleres: Styleres, clip: Path, other: Path) -> None:
    store = tmp_path / "store"
    assert styleres("invert", clip, other, "--store", store).code == 0
    reference = tiny.rows_of(Store.open(store))
    (manifest,) = [p for p in (store / "manifests" / "invert").iterdir() if '"uri": "' + str(clip) in p.read_text()]
    manifest.unlink()
    refused = styleres("render", "--store", store, "--edit", "warm=1", "--out", tmp_path / "o")
    assert refused.code == 1 and [line["reason"] for line in refused.lost] == ["incomplete"]
    assert (tmp_path / "o" / "other.edited.mp4").exists(), "the other one is rendered"
    resumed = styleres("invert", clip, other, "--store", store, "--chunk-frames", 7)
    assert resumed.code == 0 and resumed.done["frames"] == 20
    for name, rows in tiny.rows_of(Store.open(store)).items():
        assert rows.equals(reference[name]), name


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_a_render_names_the_part_that_is_damaged_and_invert_makes_that_again(
    tmp_path: Path, styleres: Styleres, clip: Path, how: str
) -> None:
    store = tmp_path / "store"
    inverting = ("invert", clip, "--store", store, "--chunk-frames", "5")
    rendering = ("render", "--store", store, "--edit", "warm=1", "--no-contact-sheet", "--out")
    assert styleres(*inverting).code == 0 and styleres(*rendering, tmp_path / "before.mp4").code == 0
    part = sorted((store / "residuals").rglob("*.parquet"))[2]
    good = part.read_bytes()
    part.write_bytes(good[:-500] if how == "cut" else good[:99] + bytes([good[99] ^ 4]) + good[100:])
    for _ in range(2):
        ran = styleres(*rendering, tmp_path / "after.mp4")
        assert ran.code == 1 and ran.done["inputs_failed"] == 1 and not (tmp_path / "after.mp4").exists()
        assert [line["reason"] for line in ran.lost] == ["damaged_part"]
        said = ran.lost[0]["message"]
        assert str(part) in said and "un styleres invert, or edit, with this store again" in said and said.count("part-") == 1
    mended = styleres(*inverting)
    assert mended.code == 0 and mended.done["faces"] == 10 and part.read_bytes() == good, "one part of four"
    assert styleres(*rendering, tmp_path / "after.mp4").code == 0
    assert (tmp_path / "after.mp4").read_bytes() == (tmp_path / "before.mp4").read_bytes()


def test_a_source_whose_row_is_damaged_stops_no_other(tmp_path: Path, styleres: Styleres, clip: Path, other: Path) -> None:
    """`sources` says where its file is: without, it cannot be rendered, and is named."""
    store, rendering = (
        tmp_path / "store",
        ("render", "--store", tmp_path / "store", "--edit", "warm=1", "--out", tmp_path / "o"),
    )
    assert styleres("invert", clip, other, "--store", store).code == 0
    for how in ("zeroed", "cut"):
        row = sorted((store / "sources").rglob("*.parquet"))[0]
        good = row.read_bytes()
        row.write_bytes(good[:40] + bytes(160) + good[200:] if how == "zeroed" else good[:-5])
        ran = styleres(*rendering, "--overwrite")
        assert ran.code == 1 and len(list((tmp_path / "o").glob("*.mp4"))) == 1, "the other is rendered"
        (lost,) = ran.lost
        assert lost["reason"] == "damaged_part" and str(row) in lost["message"] and "styleres store verify" in lost["message"]
        mine, theirs = (clip, other) if row.parent.name == tiny.source_of(clip).source_id else (other, clip)
        assert styleres(*rendering, "--only", theirs.name, "--overwrite").code == 0, "nobody asks for the damaged one"
        assert "1 whose name is lost" in styleres(*rendering, "--only", mine.name, "--overwrite").error
        shown = CliRunner().invoke(app, ["inspect", str(store), "--json"])
        assert shown.exit_code == 0, (shown.output, shown.exception)
        states = {one["source_id"]: one for one in json.loads(shown.stdout)["sources"]}
        shown_mine = states.pop(row.parent.name)
        assert str(row) in shown_mine["damaged"] and not shown_mine["complete"]
        assert [one["damaged"] for one in states.values()] == [None]
        assert str(row)[-20:] in CliRunner().invoke(app, ["inspect", str(store)], env={"COLUMNS": "900"}).stdout
        assert CliRunner().invoke(app, ["store", "verify", str(store)]).exit_code == 1
        assert styleres("invert", clip, other, "--store", store).done["faces"] == 0 and row.read_bytes() == good
    assert styleres(*rendering, "--overwrite").code == 0 and len(list((tmp_path / "o").glob("*.mp4"))) == 2


BROKEN = {
    "truncated": b'{"stage": "inv',
    "empty": b"",
    "no JSON": b"\xff\xfe PAR1",
    "another schema": b'{"parts": 1, "content": []}',
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_manifest_costs_its_source_and_no_other(
    tmp_path: Path, styleres: Styleres, clip: Path, other: Path, how: str
) -> None:
    """Commands that only read name it; those that make it put it aside and do its source again, and nothing else."""
    store, out = tmp_path / "store", tmp_path / "o"
    editing = ("edit", clip, other, "--edit", "warm=1", "--store", store, "--out", out)
    assert styleres(*editing).code == 0
    victim = store / "manifests" / "invert" / f"{tiny.source_of(clip).source_id}.json"
    good, videos = json.loads(victim.read_text()), {path.name: path.read_bytes() for path in out.iterdir()}
    victim.write_bytes(BROKEN[how])
    # Reading.
    ran = styleres("render", "--store", store, "--edit", "cold=1", "--out", tmp_path / "cold")
    assert ran.code == 1 and [p.name for p in (tmp_path / "cold").glob("*.mp4")] == ["other.edited.mp4"]
    (lost,) = ran.lost
    assert lost["reason"] == "damaged_manifest" and str(victim) in lost["message"]
    for words in (["verify", "--keep"], ["compact"], ["export", "--table", "latents", "--out", str(tmp_path / "x.parquet")]):
        found = CliRunner().invoke(app, ["store", words[0], str(store), *words[1:]])
        assert (
            found.exit_code == 1 and str(victim) in found.stdout and json.loads(found.stdout.splitlines()[-1])["damaged"] == 1
        )
    shown = CliRunner().invoke(app, ["inspect", str(store), "--json"])
    states = {row["uri"]: row["damaged"] for row in json.loads(shown.stdout)["sources"]}
    assert str(victim) in states[str(clip)] and states[str(other)] is None
    assert victim.read_bytes() == BROKEN[how], "whoever only reads leaves it"
    # Making.
    again = styleres("invert", clip, other, "--store", store)
    assert again.code == 0 and again.done["faces"] == 40 and again.done["inputs_finished_before"] == 1
    assert [line["event"] for line in again.lines if line["event"] == "damaged"] == ["damaged"]
    assert json.loads(victim.read_text())["parts"] == good["parts"]
    assert (store / ".damaged" / "manifests" / "invert" / victim.name).read_bytes() == BROKEN[how]
    # A render's own: its files are there, and it may write them again without leave.
    (rendered,) = store.glob(f"manifests/render-*/{victim.name}")
    rendered.write_bytes(BROKEN[how])
    assert styleres(*editing).code == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == videos
    assert len(list((store / ".damaged" / "manifests").rglob(victim.name))) == 2
    assert styleres(*editing).done["inputs_finished_before"] == 2


def test_a_name_of_two_sources_deletes_nobody(tmp_path: Path, styleres: Styleres, clip: Path, other: Path) -> None:
    """Two folders, one file name: whose person is meant only the key says. What reads or joins takes both."""
    store, twin = tmp_path / "store", tmp_path / "twin" / clip.name
    twin.parent.mkdir()
    twin.write_bytes(other.read_bytes())
    assert styleres("invert", clip, twin, "--store", store).code == 0
    deleting = ["store", "delete-track", str(store), "--track", "0", "--source"]
    before = tree(store)
    refused = CliRunner().invoke(app, [*deleting, clip.name])
    keys = [tiny.source_of(one).source_id for one in (clip, twin)]
    assert refused.exit_code == 2 and all(key in refused.stderr for key in keys)
    assert tree(store) == before
    both = CliRunner().invoke(app, ["store", "verify", str(store), "--only", clip.name])
    assert both.exit_code == 0
    assert CliRunner().invoke(app, [*deleting, str(twin)]).exit_code == 0
    left = {key: set(Store.open(store).read("tracks", key)["track_id"].to_pylist()) for key in keys}
    assert left == {keys[0]: {0, 1}, keys[1]: set()}


@pytest.mark.parametrize("job", ["invert", "edit", "delete-track", "compact", "verify"])
def test_a_disk_that_is_full_before_anything_is_a_sentence(
    tmp_path: Path, styleres: Styleres, clip: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    """Even the lock has no room there."""
    store = tmp_path / "store"
    assert styleres("invert", clip, "--store", store).code == 0
    words = {
        "invert": ["invert", clip, "--store", store],
        "edit": ["edit", clip, "--store", store, "--edit", "warm=1", "--out", tmp_path / "o.mp4"],
        "delete-track": ["store", "delete-track", store, "--source", clip.name, "--track", "0"],
    }.get(job, ["store", job, store])

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    if words[0] == "store":
        ran = CliRunner().invoke(app, [str(word) for word in words])
        code, error = ran.exit_code, ran.stderr
    else:
        done = styleres(*words)
        code, error = done.code, done.error
    assert code == 1 and "No space left on device; the disk or quota is full" in error
    monkeypatch.undo()
    assert Store.open(store).read("latents").num_rows == 40 and not (store / ".lock").exists()


def test_what_was_said_against_an_input_goes_when_it_is_admitted(tmp_path: Path, styleres: Styleres, clip: Path) -> None:
    """Unreadable, refused, and at last done: the table says what is true now, and of the input that it is true of."""
    store, late, copy = tmp_path / "store", tmp_path / "late.mp4", tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    invert = ("invert", clip, copy, late, "--store", store)
    said = {("media_error", str(late)), ("duplicate", str(copy))}

    def rows() -> set[tuple[str, str]]:
        return {(row["reason"], row["uri"]) for row in Store.open(store).failures().to_pylist()}

    assert styleres(*invert).code == 1 and rows() == said
    assert styleres(*invert).code == 1 and rows() == said, "once each"
    tiny.marked_clip(late, 9)
    assert styleres("invert", late, "--store", store).code == 0
    assert rows() == {("duplicate", str(copy))}, "that a name was given twice is still true"
    assert styleres("invert", copy, "--store", store).code == 0 and rows() == set(), "it was finished before"


def test_a_dry_run_writes_nothing(tmp_path: Path, styleres: Styleres, clip: Path) -> None:
    ran = styleres("edit", clip, "--edit", "warm=1", "--out", tmp_path / "o", "--store", tmp_path / "s", "--dry-run")
    assert ran.code == 0 and tree(tmp_path) == {}
    plan = next(line for line in ran.lines if line["event"] == "plan")
    (told,) = plan["inputs"]
    assert told["uri"] == str(clip) and (told["frames"], told["width"], told["height"]) == (20, 160, 96)
    assert told["output"] == str(tmp_path / "o" / "marked.edited.mp4") and not told["refused"]
    assert {item["fate"] for item in told["carriage"]} == {"kept", "converted"}
    assert plan["outputs"] == [str(tmp_path / "o" / "marked.edited.mp4")]
    assert styleres("invert", clip, "--store", tmp_path / "s", "--dry-run").code == 0 and tree(tmp_path) == {}
    assert styleres("invert", clip, "--store", tmp_path / "s").code == 0
    before = tree(tmp_path)
    assert styleres("render", "--store", tmp_path / "s", "--edit", "warm=1", "--out", tmp_path / "o", "--dry-run").code == 0
    assert tree(tmp_path) == before


# ------------------------------------------------------------------------------------------------- whom, when, what


def test_a_recipe_of_spans_keyframes_and_tracks(tmp_path: Path, styleres: Styleres, clip: Path) -> None:
    """25 frames a second: track 0 (left) from 0.4 s on, track 1 (right) until 0.4 s. The file says the same as the words."""
    words = ["--edit", "warm=3@track=0@from=0.4", "--edit", "cold=0:4,0.2:2@track=1@to=0.4@ease=linear"]
    ran = styleres("edit", clip, *words, "--out", tmp_path / "a.mkv", *RGB, "--store", tmp_path / "s")
    assert ran.code == 0 and ran.done["edits"] == 20
    assert changed(clip, tmp_path / "a.mkv") == [(i >= 10, i < 10) for i in range(20)]
    (tmp_path / "recipe.yaml").write_text(
        "version: 1\nedits:\n- {edit: warm, strength: 3.0, tracks: 0, from: 0.4}\n"
        "- {edit: cold, keyframes: [{at: 0.0, strength: 4.0}, {at: 0.2, strength: 2.0}], tracks: [1], to: 0.4,"
        " easing: linear}\n"
    )
    file = ("--recipe", tmp_path / "recipe.yaml", "--out", tmp_path / "b.mkv", *RGB)
    assert styleres("render", "--store", tmp_path / "s", *file).code == 0
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()


def test_an_unknown_track_is_said_and_counted(tmp_path: Path, styleres: Styleres, clip: Path) -> None:
    ran = styleres("edit", clip, "--edit", "warm=1@track=0+5", "--out", tmp_path / "o.mp4")
    assert ran.code == 1 and ran.done["failures"] == 1 and ran.done["edits"] == 20
    (lost,) = ran.lost
    assert lost["reason"] == "unknown_track" and "track 5" in lost["message"] and "[0, 1]" in lost["message"]
    assert lost["uri"] == str(clip) and (tmp_path / "o.mp4").exists()


def test_editors_of_the_users_own(tmp_path: Path, styleres: Styleres, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the command line from the working folder, in a recipe from beside it: the same bytes."""
    tiny.user_editors(tmp_path / "files")
    monkeypatch.chdir(tmp_path / "files")
    words = ["--editor", "grin=direction:grin.npy@rows=1:6", "--editor", "brows=style-direction:brows.safetensors"]
    edits = ["--edit", "brows=2@track=0", "--edit", "grin=0:0,0.4:2@track=1", "--edit", "warm=1@track=1"]
    first = styleres("edit", clip, *words, *edits, "--out", tmp_path / "a.mkv", *RGB, "--store", tmp_path / "s")
    assert first.code == 0 and first.done["edits"] == 40
    assert all(left and (right or not i) for i, (left, right) in enumerate(changed(clip, tmp_path / "a.mkv")))
    recipe = tmp_path / "files" / "sub" / "recipe.yaml"
    recipe.parent.mkdir()
    recipe.write_text(
        "version: 1\nedits: [brows=2@track=0, 'grin=0:0,0.4:2@track=1', warm=1@track=1]\n"
        "editors:\n  grin: {kind: direction, path: ../grin.npy, rows: [1, 6]}\n  brows: style-direction:../brows.safetensors\n"
    )
    monkeypatch.chdir(tmp_path)
    render = ("render", "--store", tmp_path / "s", *RGB)
    again = styleres(*render, "--recipe", recipe, "--out", tmp_path / "b.mkv")
    assert again.code == 0 and (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()
    rows = Store.open(tmp_path / "s").read("edits")
    assert len(set(rows["recipe_id"].to_pylist())) == 1 and len(set(rows["editor"].to_pylist())) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--edit", "grin=1"], "there is no edit 'grin'"),
        (["--edit", "grin=1", "--editor", "grin=direction:absent.npy"], "no such file"),
        (["--edit", "grin=1", "--editor", "grin=direction:wide.npy"], "belongs to one generator"),
        (["--edit", "grin=1", "--editor", "grin=smiler:wide.npy"], "styleclip-global"),
        (["--edit", "warm=1", "--editor", "warm=direction:wide.npy"], "the model's own"),
        (["--edit", "grin=1", "--editors", "absent"], "expected a folder"),
    ],
)
def test_editors_that_cannot_be_end_before_any_work(
    tmp_path: Path, styleres: Styleres, clip: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    np.save(tmp_path / "wide.npy", np.ones(33, np.float32))
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    ran = styleres("edit", clip, *arguments, "--out", tmp_path / "o", "--store", tmp_path / "s")
    assert ran.code == 2 and said in ran.error and "Traceback" not in ran.error
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--edit", "wram=1"], "did you mean 'warm'"),
        (["--edit", "warm"], "NAME=STRENGTH"),
        (["--edit", "warm=1@trak=1"], "@trak=1"[1:]),
        ([], "expected --edit"),
        (["--edit", "warm=1", "--recipe", "x.yaml"], "expected --edit"),
        (["--recipe", "absent.yaml"], "absent.yaml"),
        (["--edit", "warm=1", "--model", "mini999"], "mini999"),
        (["--edit", "warm=1", "--batch-size", "0"], "--batch-size"),
        (["--edit", "warm=1", "--device", "tpu"], "--device"),
        (["--edit", "warm=1", "--codec", "ffv1", "--quality", "3"], "lossless"),
        (["--edit", "warm=1", "--smoothing", "none", "--smoothing-seconds", "1"], "--smoothing none"),
        (["--edit", "warm=1", "--no-such-option"], "--no-such-option"),
        (["--edit", "warm=1", "--residual-codec", "int4"], "--residual-codec"),
    ],
)
def test_mistakes_end_before_any_work_with_one_sentence(
    tmp_path: Path, styleres: Styleres, clip: Path, arguments: list[str], said: str
) -> None:
    ran = styleres("edit", clip, *arguments, "--out", tmp_path / "o" / "x.mp4", "--store", tmp_path / "s")
    assert ran.code == 2 and said in ran.error and "Traceback" not in ran.error
    assert tree(tmp_path) == {} and ran.lines == []


@pytest.mark.parametrize(
    ("out", "more", "said"),
    [
        ("x.mp4", ["two"], "one file, and there are 2 inputs"),
        ("x.mp4", ["--codec", "ffv1"], ".mkv"),
        ("x.webm", [], ".mp4, .mov, .mkv"),
        ("x.png", [], ".png file cannot hold libx264 video"),
        ("folder.mp4", [], "name a file inside"),
        ("notes.txt", [], "notes.txt"),
        ("notes.txt/x.mp4", [], "notes.txt"),
        ("o", ["two", "--contact-sheet", "sheet.png"], "--contact-sheet"),
    ],
)
def test_places_that_cannot_be_are_refused_before_any_work(
    tmp_path: Path, styleres: Styleres, clip: Path, other: Path, out: str, more: list[str], said: str
) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    inputs = [clip, other] if "two" in more else [clip]
    options = [word for word in more if word != "two"]
    ran = styleres("edit", *inputs, "--edit", "warm=1", "--out", tmp_path / out, *options)
    assert ran.code == 2 and said in ran.error and "Traceback" not in ran.error
    assert tree(tmp_path) == before


def test_a_default_name_fits_its_codec(tmp_path: Path, styleres: Styleres, clip: Path) -> None:
    assert styleres("edit", clip, "--edit", "warm=1", "--out", tmp_path / "o", "--codec", "ffv1").code == 0
    assert probe(tmp_path / "o" / "marked.edited.mkv").codec == "ffv1"


def test_inputs_of_one_name_keep_apart(tmp_path: Path, styleres: Styleres) -> None:
    """By suffix the videos differ, their contact sheets would not."""
    paths = []
    for i, name in enumerate(("a.mp4", "a.mkv", "sub/a.mp4")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        paths.append(tiny.marked_clip(tmp_path / name, 6 + i, people=1, sound=None))
    ran = styleres("edit", *paths, "--edit", "warm=1", "--out", tmp_path / "o")
    assert ran.code == 0 and ran.done["frames"] == 6 + 7 + 8
    made = sorted(p.name for p in (tmp_path / "o").iterdir())
    assert len(made) == 6 and sum(name.endswith(".contact_sheet.png") for name in made) == 3


# ------------------------------------------------------------------------------------------------------ bad inputs


def test_bad_inputs_are_named_and_the_good_ones_finish(tmp_path: Path, styleres: Styleres, clip: Path, other: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video\n")
    (tmp_path / "notes.txt").write_text("not a video\n" * 100)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 50)
    whole = clip.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(whole)
    bad = ["text.mp4", "notes.txt", "empty.mp4", "broken.png", "cut.mp4", "missing.mp4"]
    store = tmp_path / "store"
    inputs = [clip, *(tmp_path / name for name in bad), copy, other]
    ran = styleres("edit", *inputs, "--edit", "warm=1", "--out", tmp_path / "o", "--store", store)
    assert ran.code == 1 and ran.done["failures"] == len(bad) + 1 and ran.done["inputs"] == len(inputs)
    assert sorted(p.name for p in (tmp_path / "o").glob("*.mp4")) == ["marked.edited.mp4", "other.edited.mp4"]
    said = {Path(line["uri"]).name: line["message"] for line in ran.lost}
    assert set(said) == {*bad, "copy.mp4"} and len(ran.lost) == len(said), "one message each"
    for name, message in said.items():
        assert str(tmp_path / name) in message and len(message) > len(str(tmp_path / name)) + 15, "file and reason"
    assert "same content" in said["copy.mp4"] and str(clip) in said["copy.mp4"]
    kept = Store.open(store).failures().to_pylist()
    assert {Path(row["uri"]).name for row in kept if row["stage"] == "probe"} == set(said), "and a row each"


def test_the_hostile_clips(tmp_path: Path, styleres: Styleres, clip: Path, shared_videos: Path) -> None:
    """AV1 and MPEG-TS are no worse than others; the rest is refused by name."""
    hostile = sorted((shared_videos / "hostile").iterdir())
    ran = styleres("edit", *hostile, clip, "--edit", "warm=1", "--out", tmp_path / "o", "--no-contact-sheet")
    assert ran.code == 1
    good = {"av1_320.mp4", "ts_480.ts"}
    assert {Path(line["uri"]).name for line in ran.lost} == {p.name for p in hostile} - good
    assert all(line["uri"] in line["message"] for line in ran.lost) and len(ran.lost) == len(hostile) - 2
    names = {p.name for p in (tmp_path / "o").iterdir()}
    assert names == {"av1_320.edited.mp4", "ts_480.edited.mp4", "marked.edited.mp4"}


def test_only_bad_inputs_leave_nothing(tmp_path: Path, styleres: Styleres) -> None:
    ran = styleres("edit", tmp_path / "no.mp4", "--edit", "warm=1", "--out", tmp_path / "o", "--store", tmp_path / "s")
    assert ran.code == 1 and ran.done["failures"] == 1 and tree(tmp_path) == {}


# ---------------------------------------------------------------------------------------------------------- render


def test_render_takes_what_is_named_and_says_what_is_gone(tmp_path: Path, styleres: Styleres, clip: Path, other: Path) -> None:
    mine, gone = tmp_path / "mine.mp4", tmp_path / "gone.mp4"
    mine.write_bytes(clip.read_bytes())
    gone.write_bytes(other.read_bytes())
    store = tmp_path / "store"
    assert styleres("invert", mine, gone, "--store", store).code == 0
    render = ("render", "--store", store, "--edit", "warm=1")
    only = styleres(*render, "--out", tmp_path / "a", "--only", "gone.mp4")
    assert only.code == 0 and only.done["frames"] == 12
    assert styleres(*render, "--out", tmp_path / "b", "--only", "nobody.mp4").code == 2
    gone.unlink()
    tiny.marked_clip(mine, 9)
    ran = styleres(*render, "--out", tmp_path / "c")
    assert ran.code == 1 and {line["reason"] for line in ran.lost} == {"media_error", "changed"}
    kept = Store.open(store).failures().to_pylist()
    assert {(row["stage"], row["reason"], row["uri"]) for row in kept} == {
        ("probe", "media_error", str(gone)),
        ("probe", "changed", str(mine)),
    }, "what a render loses is a row, though nothing of it could be rendered"
    mine.write_bytes(clip.read_bytes())
    gone.write_bytes(other.read_bytes())
    assert styleres(*render, "--out", tmp_path / "e").code == 0
    assert Store.open(store).failures().num_rows == 0, "they are what they were again, and nothing is said against them"
    assert styleres("render", "--store", tmp_path / "none", "--edit", "warm=1", "--out", tmp_path / "d").code == 2


# ---------------------------------------------------------------------------------------------------------- images


def test_images_are_sources_of_one_frame(tmp_path: Path, styleres: Styleres) -> None:
    frame = tiny.marked_frames(1)[0]
    Image.fromarray(frame).save(tmp_path / "a.png")
    Image.fromarray(frame).save(tmp_path / "b.jpg", quality=95)
    Image.fromarray(frame[:, :30]).save(tmp_path / "nobody.png")
    inputs = [tmp_path / name for name in ("a.png", "b.jpg", "nobody.png")]
    ran = styleres("edit", *inputs, "--edit", "warm=2", "--out", tmp_path / "o", "--store", tmp_path / "s")
    assert ran.code == 0 and ran.done["faces"] == 4 and ran.done["edits"] == 4
    made = np.asarray(Image.open(tmp_path / "o" / "a.edited.png"))
    moved = np.abs(made.astype(int) - frame).max(axis=2)
    assert moved[:, :70].max() > 30 and moved[:, 90:].max() > 30 and moved[:, 78:82].max() == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "o" / "nobody.edited.png")), frame[:, :30])
    with Image.open(tmp_path / "o" / "b.edited.jpg") as jpeg:
        assert jpeg.format == "JPEG"
    one = styleres("render", "--store", tmp_path / "s", "--edit", "cold=1", "--only", "a.png", "--out", tmp_path / "one.png")
    assert one.code == 0 and (tmp_path / "one.png").exists()
    wrong = styleres("render", "--store", tmp_path / "s", "--edit", "cold=1", "--only", "a.png", "--out", tmp_path / "x.mp4")
    assert wrong.code == 2 and "cannot hold an image" in wrong.error


# --------------------------------------------------------------------------------------------------------- inspect


def test_inspect_tells_what_is_in_a_store(tmp_path: Path, styleres: Styleres, clip: Path, bundle: Bundle) -> None:
    store = tmp_path / "store"
    styleres("edit", clip, tmp_path / "no.mp4", "--edit", "warm=1", "--out", tmp_path / "o", "--store", store)
    result = CliRunner().invoke(app, ["inspect", str(store), "--json"])
    facts = json.loads(result.stdout)
    assert result.exit_code == 0 and facts["model"] == "tiny" and facts["model_digest"] == bundle.digest
    (source,) = facts["sources"]
    assert (source["frames"], source["tracks"], source["faces"], source["complete"]) == (20, 2, 40, True)
    assert len(source["recipes"]) == 1 and source["uri"] == str(clip)
    assert facts["tables"]["residuals"]["bytes_per_face_frame"] > 1000
    assert [row["uri"] for row in facts["failures"]] == [str(tmp_path / "no.mp4")]
    table = CliRunner().invoke(app, ["inspect", str(store)])
    assert table.exit_code == 0 and "complete" in table.stdout
    assert "edits" not in facts, "the store's bundle is no embedded one, and was not named"
    named = CliRunner().invoke(app, ["inspect", str(store), "--json", "--model", str(bundle.path)])
    assert [row["name"] for row in json.loads(named.stdout)["edits"]] == [entry.name for entry in bundle.edits]
    absent = CliRunner().invoke(app, ["inspect", str(tmp_path / "none")])
    assert absent.exit_code == 2 and "expected a store" in absent.stderr


def test_inspect_lists_edits_and_what_others_lack(
    tmp_path: Path, styleres: Styleres, clip: Path, bundle: Bundle, shared: Path
) -> None:
    tiny.user_editors(tmp_path / "files")
    official = shared / "directions" / "official"
    words = ["--model", str(bundle.path), "--editor", f"brows=style-direction:{tmp_path / 'files' / 'brows.safetensors'}"]
    result = CliRunner().invoke(app, ["inspect", *words, "--editors", f"official={official}", "--json"])
    facts = json.loads(result.stdout)
    rows = {row["name"]: row for row in facts["edits"]}
    assert result.exit_code == 0 and len(rows) == 3 + 1 + 49
    assert rows["warm"]["neutral"] == 0 and rows["warm"]["of"] == "tiny" and rows["warm"]["problem"] is None
    assert rows["ganspace_0"]["neutral"] is None
    assert rows["brows"]["problem"] is None and "sha256:" in rows["brows"]["record"] and "S" in rows["brows"]["unit"]
    assert "target" in rows["official.ganspace.smile"]["unit"] and "[8, 32]" in rows["official.ganspace.smile"]["problem"]
    assert facts["incomplete_edits"]["official.styleclip-global"] == "lacks fs3.npy"
    people = CliRunner().invoke(app, ["inspect", *words, "--editors", str(official)], env={"COLUMNS": "200"})
    assert people.exit_code == 0 and "gradctrl.gender" in people.stdout and "[8, 32]" in people.stdout
    assert "mapper: lacks afro.pt" in people.stdout
    nothing = CliRunner().invoke(app, ["inspect"])
    assert nothing.exit_code == 2 and "expected a STORE" in nothing.stderr


# ------------------------------------------------------------------------------------------------------- for people


def test_on_a_terminal_there_is_a_bar_for_each_step_and_last_lines(tmp_path: Path, clip: Path, bundle: Bundle) -> None:
    with pytest.MonkeyPatch.context() as patch:
        tiny.command_finds_marks(patch)
        words = ["edit", str(clip), "--edit", "warm=1@track=0+9", "--out", str(tmp_path / "o.mp4"), "--progress", "bars"]
        result = CliRunner().invoke(app, [*words, "--model", str(bundle.path), "--preset", "ultrafast"])
    assert result.exit_code == 1
    line, *places = result.stdout.splitlines()
    assert line.startswith("edit: 1 input, 20 frames, 40 faces inverted, 20 edited, in ") and line.endswith(
        "1 lost, in 1 input"
    )
    assert places == [f"  result  {tmp_path / 'o.mp4'}", f"  report  {tmp_path / 'o.report.html'}"]
    for step in ("scan", "track", "invert", "plan", "render", "finalize"):
        assert step in result.stderr
    assert "frames/s" in result.stderr and "1 lost" in result.stderr
    assert "track 9" in result.stderr.replace("\n", " ")


def test_of_two_runs_at_once_one_is_refused_and_nothing_of_a_pack_is_there_twice(
    tmp_path: Path, styleres: Styleres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes when the first has written rows of a batch, and has neither its entry nor a pack."""
    test_pictures.write(tmp_path / "in", 12)
    command = ("edit", tmp_path / "in", "--edit", "warm=1", "--out", tmp_path / "out", "--store", tmp_path / "store")
    command += ("--progress", "json", "--chunk-frames", "4")
    record, refused = pictures.write_record, []

    def meanwhile(path: Path, content: Any) -> None:
        if not refused and path.parent.name == "pictures":
            assert list((tmp_path / "store/work/pictures").rglob("latents.parquet")), "the premise"
            refused.append(styleres(*command))
        record(path, content)

    monkeypatch.setattr(pictures, "write_record", meanwhile)
    first = styleres(*command)
    assert first.code == 0 and first.done["edits"] == 12
    (second,) = refused
    assert second.code == 2 and "works on this store; wait for it to end, or use another --store" in second.error
    store, third = Store.open(tmp_path / "store"), styleres(*command)
    assert third.code == 0 and third.done["inputs_finished_before"] == 12 and third.done["edits"] == 0
    (pack_id,) = store.holders()
    assert store.verify(pack_id) == {}
    for table in ("sources", "frames", "latents", "residuals", "edits"):
        keys = [(row["source_id"], row.get("track_id")) for row in store.read(table).to_pylist()]
        assert len(keys) == len(set(keys)) == 12, table
