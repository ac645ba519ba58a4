"""styleres evaluate, for bundles and for videos: what it measures, what it says it used, what it refuses."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from jobs.cli import app
from jobs.common import evaluate_report
from ops.checkpoints.bundle import open_bundle
from ops.data.faces import split_of
from ops.metrics.attributes import JUDGED, AttributeClassifier, load_judge, logits, save_judge
from ops.networks.lpips_alex import LpipsAlex
from tests import needs, tiny
from tests.jobs.conftest import Styleres
from tests.ops.video.media import make_video


@dataclass(frozen=True)
class Evaluated:
    code: int
    output: str
    error: str


Evaluate = Callable[..., Evaluated]


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Runs `styleres evaluate …` on a wide terminal, with the stub detector."""
    tiny.command_finds_marks(monkeypatch)

    def run(*arguments: object) -> Evaluated:
        result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)], env={"COLUMNS": "200"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Evaluated(result.exit_code, result.stdout, result.stderr)

    return run


def measured(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    content = json.loads(path.read_text())
    return {(one["subject"], one["metric"]): one for one in content["measurements"]}


# ------------------------------------------------------------------------------------------------------------- videos


@pytest.fixture
def edited(styleres: Styleres, clip: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A lossless edit of the marked clip, and its store."""
    out, store = tmp_path / "edited.mkv", tmp_path / "store"
    arguments = ("--edit", "warm=2", "--out", out, "--store", store, "--codec", "ffv1", "--no-contact-sheet")
    assert styleres("edit", clip, *arguments).code == 0
    return out, store


def test_a_video_is_measured_with_the_tracks_of_its_store(
    evaluate: Evaluate, clip: Path, edited: tuple[Path, Path], tmp_path: Path
) -> None:
    video, store = edited
    report, table = tmp_path / "report.json", tmp_path / "report.md"
    ran = evaluate("video", "--source", clip, "--edited", video, "--store", store, "--json", report, "--markdown", table)
    assert ran.code == 0, ran.error
    found = measured(report)
    for subject in ("track 0", "track 1", "video"):
        for name in ("flicker of the edit", "flicker after motion", "seam energy", "quad jitter, shift"):
            assert found[subject, name]["value"] > 0
            assert found[subject, name]["network"] is None
    outside = found["video", "PSNR outside the mask"]
    # ffv1 keeps the source's 4:2:0, in which a pixel at a mask's edge shares its chroma with one beyond it.
    assert outside["value"] is None or outside["value"] > 45, "a lossless edit changes next to nothing outside its masks"
    assert not [name for _, name in found if "identity" in name]
    assert "20 frames, 2 tracks" in table.read_text() and "| flicker of the edit (levels) ↓ |" in table.read_text()
    assert "seam energy" in ran.output


def test_the_store_s_tracks_are_those_found_now(
    evaluate: Evaluate, clip: Path, edited: tuple[Path, Path], tmp_path: Path
) -> None:
    video, store = edited
    reports = []
    for name, more in (("stored", ("--store", store)), ("found", ())):
        report = tmp_path / f"{name}.json"
        assert evaluate("video", "--source", clip, "--edited", video, "--json", report, *more).code == 0
        reports.append(json.loads(report.read_text()))
    assert reports[0]["measurements"] == reports[1]["measurements"]
    assert "found by CenterFace for this report" in reports[1]["tracks_from"]


def test_a_video_against_itself_is_perfect(evaluate: Evaluate, clip: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert evaluate("video", "--source", clip, "--edited", clip, "--json", report).code == 0
    found = measured(report)
    assert found["video", "PSNR outside the mask"]["note"] == "infinite"
    assert found["video", "flicker of the edit"]["value"] == found["video", "seam energy"]["value"] == 0


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda frames: frames[:-1], "expected 20 frames, got 19"),
        (lambda frames: [frame[:80] for frame in frames], "expected 160x96 pixels, got 160x80"),
    ],
)
def test_videos_that_do_not_belong_together(
    evaluate: Evaluate, clip: Path, tmp_path: Path, other: Callable[[list[np.ndarray]], list[np.ndarray]], message: str
) -> None:
    video = make_video(tmp_path / "other.mp4", other(tiny.marked_frames(20)))
    ran = evaluate("video", "--source", clip, "--edited", video)
    assert ran.code == 1 and ran.output == ""
    assert message in ran.error and ran.error.count("\n") == 1


def test_another_timing_is_refused(evaluate: Evaluate, clip: Path, tmp_path: Path) -> None:
    video = make_video(tmp_path / "slow.mp4", tiny.marked_frames(20), pts=[640 * i for i in range(20)])
    ran = evaluate("video", "--source", clip, "--edited", video)
    assert ran.code == 1 and "frame 1 is shown at 0.0500 s" in ran.error


def test_another_store_is_refused(
    evaluate: Evaluate, clip: Path, other: Path, edited: tuple[Path, Path], tmp_path: Path
) -> None:
    ran = evaluate("video", "--source", other, "--edited", other, "--store", edited[1])
    assert ran.code == 2 and "no finished inversion" in ran.error and "marked.mp4" in ran.error
    ran = evaluate("video", "--source", clip, "--edited", clip, "--store", tmp_path / "nowhere")
    assert ran.code == 2 and "expected a store" in ran.error


@pytest.mark.parametrize("name", ["empty.mp4", "text.mp4", "folder.mp4", "absent.mp4"])
def test_hostile_files_are_explained(evaluate: Evaluate, clip: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    match name:
        case "empty.mp4":
            path.touch()
        case "text.mp4":
            path.write_text("no video\n" * 50)
        case "folder.mp4":
            path.mkdir()
    for arguments in (("--source", path, "--edited", clip), ("--source", clip, "--edited", path)):
        ran = evaluate("video", *arguments)
        assert ran.code == 1 and ran.output == "" and str(path) in ran.error and "Traceback" not in ran.error


def test_hostile_clips_are_explained(evaluate: Evaluate, clip: Path, shared_videos: Path) -> None:
    for path in sorted((shared_videos / "hostile").iterdir()):
        ran = evaluate("video", "--source", clip, "--edited", path)
        assert ran.code == 1 and ran.error.startswith("styleres: error: "), path.name


def test_a_wrong_recogniser_is_refused(evaluate: Evaluate, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(LpipsAlex().state_dict(), path)
    ran = evaluate("video", "--source", clip, "--edited", clip, "--curricularface-weights", path)
    assert ran.code == 2 and "is not a file for IRBackbone" in ran.error
    ran = evaluate("video", "--source", clip, "--edited", clip, "--curricularface-weights", path, "--arcface-weights", path)
    assert ran.code == 2 and "expected one recogniser, got curricularface and arcface" in ran.error


@pytest.mark.slow
def test_a_real_clip_with_a_real_recogniser(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, shared: Path, tmp_path: Path
) -> None:
    """The embedded model on a real face; the report names the recogniser, and what it stands in for."""
    monkeypatch.undo()  # the real detector
    clip = tiny.cut_of(shared / "videos" / "lp_d18_man_480.mp4", tmp_path / "man.mp4", 8)
    video, report = tmp_path / "edited.mp4", tmp_path / "report.json"
    store = tmp_path / "store"
    arguments = ["edit", clip, "--edit", "smile=1.3", "--out", video, "--store", store, "--no-contact-sheet"]
    assert CliRunner().invoke(app, list(map(str, arguments))).exit_code == 0
    weights = shared / "models" / "identity" / "mobilefacenet.pt"
    arguments = ["video", "--source", clip, "--edited", video, "--store", store]
    ran = evaluate(*arguments, "--mobilefacenet-weights", weights, "--json", report)
    assert ran.code == 0, ran.error
    found = measured(report)
    kept = found["video", "identity kept"]
    assert 0.7 < kept["value"] < 1 and kept["network"] == "MobileFaceNet" and "CurricularFace" in kept["stands_for"]
    assert 0 < found["video", "identity drift from the mean"]["value"] < 0.2
    assert found["video", "seam energy"]["value"] < 0.6
    assert 40 < found["video", "PSNR outside the mask"]["value"] < 60, "x264's own loss"


# ------------------------------------------------------------------------------------------------------------ bundles


@pytest.fixture(scope="module")
def face_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 made-up faces of held-out identities, labelled."""
    rng = np.random.default_rng(0)
    identities = [i for i in range(2000) if split_of(i) == "held_out"][:20]
    images = []
    for _ in identities:
        buffer = io.BytesIO()
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8).repeat(4, axis=0).repeat(4, axis=1)
        Image.fromarray(pixels).save(buffer, "PNG")
        images.append(buffer.getvalue())
    columns = {name: rng.random(len(identities)) < 0.5 for name in JUDGED}
    path = tmp_path_factory.mktemp("faces") / "faces.parquet"
    pq.write_table(pa.table({"image": images, "identity": identities, **columns}), path)
    return path


@pytest.fixture(scope="module")
def judge_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that was not trained: its numbers mean nothing, and cost nothing."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("judge") / "judge.safetensors"
    save_judge(AttributeClassifier(JUDGED), path)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models that differ in their seed, and the first again with other E1 and E2: same encoder, same W+."""
    folder = tmp_path_factory.mktemp("models")
    found = [tiny.tiny_bundle(folder / str(seed), seed=seed).path for seed in range(3)]
    shutil.copytree(found[0], folder / "other")
    weights = load_file(folder / "other" / "weights.safetensors")
    changed = {name: 0.5 * tensor if name.startswith("gates.") else tensor for name, tensor in weights.items()}
    save_file(changed, folder / "other" / "weights.safetensors")
    return [*found, folder / "other"]


def test_models_stand_side_by_side(
    evaluate: Evaluate, models: list[Path], face_file: Path, judge_file: Path, tmp_path: Path
) -> None:
    """Two seeds of one variant share a column with their spread; W+ of one encoder is measured once; everything is written."""
    out, table = tmp_path / "out", tmp_path / "report.md"
    ran = evaluate(
        *("--data", face_file, "--faces", 16, "--judge", judge_file, "--edit", "warm=2:smiling", "--also-wplus"),
        *("--model", f"plain@0={models[0]}", "--model", f"plain@1={models[1]}", "--model", f"halved={models[3]}"),
        *("--metrics", "efficientnet-fid", "--out", out, "--markdown", table),
    )
    assert ran.code == 0, ran.error
    content = json.loads((out / "report.json").read_text())
    runs = content["models"]
    assert [(run["name"], run["seed"], "wplus_only" in run) for run in runs] == [
        ("plain", "0", True),
        ("plain", "1", True),
        ("halved", None, False),
    ]
    rows = {(one["subject"], one["metric"], one["unit"], one["item"]): one for one in content["side_by_side"]}
    subjects = list(dict.fromkeys(subject for subject, *_ in rows))
    assert subjects == ["plain, W+ only", "plain", "halved", "unedited faces"]
    for name in ("L2", "ghost"):
        ((_, unit, item),) = {key[1:] for key in rows if key[1] == name and key[3] in ("", "warm=+2")}
        seeds = [
            one["value"] for run in runs[:2] for one in run["measurements"] if (one["metric"], one["item"]) == (name, item)
        ]
        found = rows["plain", name, unit, item]
        assert found["value"] == pytest.approx(np.mean(seeds)) and found["spread"] == pytest.approx(np.std(seeds, ddof=1))
        assert rows["halved", name, unit, item]["spread"] is None, "one seed says nothing about the spread over seeds"
    moved = runs[0]["attributes_moved"]["warm=+2"]
    assert set(moved) == set(JUDGED) and set(moved["smiling"]) == {"probability", "logit"}
    text = table.read_text()
    assert text == (out / "report.md").read_text()
    assert "### ghost (share of the old detail where the edit is) ↓" in text and "± is the standard deviation" in text
    assert "plain: 2" in text and "EfficientNet-Lite0, pooled; stands in for FID (Inception v3)" in text and "| FID" not in text
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width == 96 * (1 + 3 * 3), "source, then reconstruction and both signs of each column"
    assert "ghost" in ran.output


def test_plots_are_drawn(evaluate: Evaluate, models: list[Path], face_file: Path, judge_file: Path, tmp_path: Path) -> None:
    needs.package("matplotlib")
    out = tmp_path / "out"
    arguments = ("--data", face_file, "--faces", 16, "--judge", judge_file, "--metrics", "ssim", "--out", out)
    assert evaluate(*arguments, "--model", models[0], "--edit", "warm=2:smiling").code == 0
    for name in ("reconstruction.png", "edits.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 1000 and np.asarray(picture).std() > 10


def test_a_bundle_is_measured_and_its_card_written(
    evaluate: Evaluate, face_file: Path, judge_file: Path, tmp_path: Path
) -> None:
    bundle = tiny.tiny_bundle(tmp_path / "tiny")
    weights, report = tmp_path / "lpips.pth", tmp_path / "report.json"
    torch.manual_seed(0)
    torch.save(LpipsAlex().state_dict(), weights)
    ran = evaluate(
        *("--data", face_file, "--model", bundle.path, "--faces", 16, "--judge", judge_file, "--card", "--also-wplus"),
        *("--lpips-weights", weights, "--json", report, "--edit", "warm=2:smiling"),
    )
    assert ran.code == 0, ran.error
    (run,) = json.loads(report.read_text())["models"]
    for part in (run, run["wplus_only"]):
        found = {one["metric"]: one for one in part["measurements"]}
        assert found["LPIPS"]["network"] == "AlexNet v0.1" and found["LPIPS"]["stands_for"] is None
        assert found["feature distance"]["stands_for"] == "LPIPS"
        assert found["Frechet distance"]["stands_for"] == "FID (Inception v3)"
        assert -1 < found["SSIM"]["value"] < 1
        assert "FID" not in found and "identity kept" not in found
    card = (bundle.path / "README.md").read_text()
    l2 = next(one["value"] for one in run["measurements"] if one["metric"] == "L2")
    assert f" {l2:.4g} |" in card and "| metric | tiny, W+ only | tiny | network |" in card
    assert card.count(evaluate_report.BEGIN) == 1 and card.startswith("random weights, for tests\n")
    assert open_bundle(bundle.path).digest == bundle.digest
    again = evaluate_report.with_section(card, "new")
    assert again.count("new") == 1 and evaluate_report.BEGIN not in again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected --data FACES"),
        (("--data", "x", "--metrics", "fid"), "--metrics fid needs --inception-weights"),
        (("--data", "x", "--metrics", "beauty"), "expected auto, or some of ssim"),
        (("--data", "x", "--metrics", ","), "expected auto, or some of ssim"),
        (("--data", "x", "--lpips-heads", "heads.pth"), "give AlexNet's file"),
        (("--data", "x", "--inception-weights", "absent.pth"), "absent.pth: this is nothing: there is no such file"),
        (("--data", "x", "--model", "mini64", "--model", "mini64"), "two models are called mini64"),
        (("--data", "x", "--model", "a@=mini64"), "expected BUNDLE, NAME=BUNDLE or NAME@SEED=BUNDLE"),
        (("--data", "x", "--model", "a=absent"), "absent: expected a model bundle"),
        (("--data", "x", "--edit", "smile"), "expected NAME=STRENGTH"),
        (("--data", "x", "--edit", "smile=-2"), "a strength above 0"),
        (("--data", "x", "--model", "mini64", "--edit", "beauty=1"), "mini64 has no such edit; all models have: age, bangs"),
    ],
)
def test_refusals_before_any_work(evaluate: Evaluate, arguments: tuple[str, ...], message: str) -> None:
    ran = evaluate(*arguments)
    assert ran.code == 2 and message in ran.error and ran.output == ""


def test_models_of_two_sizes_do_not_compare(evaluate: Evaluate, models: list[Path]) -> None:
    ran = evaluate("--data", "x", "--model", "mini64", "--model", models[0])
    assert ran.code == 2 and "mini64 64 px, tiny 32 px" in ran.error


def test_hostile_data_is_explained(evaluate: Evaluate, models: list[Path], face_file: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.parquet"
    text.write_text("no table")
    for path, message in ((text, "cannot be read as Parquet"), (tmp_path / "absent", "no such file")):
        ran = evaluate("--data", path, "--model", models[0])
        assert ran.code == 2 and message in ran.error
    ran = evaluate("--data", face_file, "--judge", text, "--model", models[0])
    assert ran.code == 2 and "this is a text file" in ran.error
    ran = evaluate("--data", face_file, "--model", models[0])
    assert ran.code == 2 and "'classifier'" in ran.error and "--judge" in ran.error


def test_faces_without_labels_are_measured_all_the_same(
    evaluate: Evaluate, models: list[Path], face_file: Path, tmp_path: Path
) -> None:
    plain, report = tmp_path / "plain.parquet", tmp_path / "report.json"
    pq.write_table(pq.read_table(face_file, columns=["image", "identity"]), plain)
    arguments = ("--data", plain, "--faces", 16, "--metrics", "ssim", "--json", report, "--edit", "warm=1")
    ran = evaluate(*arguments, "--model", models[0])
    assert ran.code == 0 and "has no labels" in ran.error
    names = {one["metric"] for one in json.loads(report.read_text())["models"][0]["measurements"]}
    assert {"L2", "feature distance", "SSIM", "ghost", "cycle L2", "time: invert"} <= names
    assert not any("attribute" in name or "Frechet" in name for name in names)


def test_a_judge_keeps_the_names_of_what_it_sees(tmp_path: Path) -> None:
    torch.manual_seed(0)
    judge = AttributeClassifier(("bald", "young")).eval()
    save_judge(judge, tmp_path / "a" / "judge.safetensors")
    loaded = load_judge(tmp_path / "a" / "judge.safetensors")
    assert loaded.attributes == ("bald", "young")
    images = torch.rand(2, 3, 128, 128)
    torch.testing.assert_close(logits(loaded, images), logits(judge, images))
    save_file(AttributeClassifier(JUDGED).state_dict(), tmp_path / "old.safetensors")
    assert load_judge(tmp_path / "old.safetensors").attributes == JUDGED, "a file without names has our own list"
