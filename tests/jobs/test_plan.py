"""styleres plan against what the job then does; styleres store on what it leaves."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.common.worker_size import WorkerSize, lap_seconds, recommended
from ops.checkpoints.bundle import Bundle
from ops.inversion.session import Session
from pipeline.engine import timer
from pipeline.store.tables import Store
from tests import tiny
from tests.jobs.conftest import Styleres, tree


def test_a_plan_is_close_to_what_the_job_does(tmp_path: Path, styleres: Styleres, clip: Path, other: Path) -> None:
    """20 frames of two people and 12 of one: 52 faces, and a store of the size that it then has."""
    folder = tmp_path / "in"
    folder.mkdir()
    for path in (clip, other):
        (folder / path.name).write_bytes(path.read_bytes())
    planned = styleres("plan", folder, "--edit", "warm=1", "--sample", "2", "--frames", "12", "--workers", "4", "--json")
    assert planned.code == 0 and tree(tmp_path).keys() == {"in", "in/marked.mp4", "in/other.mp4"}, "writes nothing"
    (estimate,) = planned.lines
    assert (estimate["inputs"], estimate["looked_at"], estimate["frames"]) == (2, 2, 32)
    assert abs(estimate["faces"] - 52) <= 5 and estimate["hours"].keys() == {"1", "2", "4"}
    assert estimate["hours"]["1"] * 3600 == pytest.approx(estimate["worker_seconds"])
    assert 0 < estimate["model_seconds"] < estimate["worker_seconds"]
    assert (estimate["worker"]["cpus_per_worker"], estimate["worker"]["gpus_per_worker"]) == (1, 0), "there is no GPU"
    done = styleres("invert", folder, "--store", tmp_path / "store")
    assert done.done["faces"] == 52
    assert estimate["store_bytes"] == pytest.approx(sum(Store.open(tmp_path / "store").sizes_bytes().values()), rel=0.5)


def test_a_plan_says_how_many_workers_an_accelerator_needs(
    tmp_path: Path, styleres: Styleres, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for an accelerator: it takes 50 s for a batch, so that one worker of one core is enough."""
    monkeypatch.setattr("jobs.plan.resolve_device", lambda device: "cuda")
    generate, clock, slept = Session.generate_levels, time.perf_counter, [0.0]

    def slow(self: Session, *values: Any, **named: Any) -> Any:
        slept[0] += 50.0
        return generate(self, *values, **named)

    monkeypatch.setattr(timer, "CLOCK", lambda: clock() + slept[0])
    monkeypatch.setattr(Session, "generate_levels", slow)
    (estimate,) = styleres("plan", clip, "--edit", "warm=1", "--frames", "8", "--json").lines
    worker = estimate["worker"]
    assert (worker["cpus_per_worker"], worker["gpus_per_worker"], worker["workers_per_gpu"]) == (1, 1.0, 1)
    assert worker["gpu_busy"] > 0.9


def test_neither_cores_nor_an_accelerator_wait() -> None:
    """A step with 1 s of an accelerator and 4 s of cores: a worker of four cores keeps it busy, as four of one core would."""
    render = {"decode": 0.5, "model": 1.0, "paste": 2.0, "encode": 1.5}
    assert lap_seconds("render", render, 1) == 4.0 and lap_seconds("render", render, 2) == 2.0
    assert lap_seconds("render", render, 8) == 1.0 and recommended({"render": render}, accelerator=True) == WorkerSize(
        4, 1.0, 1, 4, 1.0
    )
    # A segment has one encoder, and of a worker's three items two are encoded while one is read.
    assert lap_seconds("render", render | {"encode": 5.0}, 8) == 2.5
    assert recommended({"render": render}, accelerator=False) == WorkerSize(1, 0.0)
    # An accelerator that takes longer than all the rest needs a worker with a core.
    assert recommended({"render": render | {"model": 5.0}}, accelerator=True) == WorkerSize(1, 1.0, 1, 1, 1.0)
    # Where a decoder is slower than the detector, a second one has to be beside it.
    scan = {"decode": 2.0, "detect": 1.0}
    assert lap_seconds("scan", scan, 4) == 2.0
    assert recommended({"scan": scan}, accelerator=True) == WorkerSize(1, 0.5, 2, 2, 1.0)
    # Reading the next item and writing the last one overlap with computing one.
    assert lap_seconds("invert", {"decode": 0.5, "crop": 0.25, "model": 2.0, "store": 0.25}, 1) == 2.0
    # What nobody has taken apart waits for its own rest.
    assert lap_seconds("pictures", {"decode": 0.5, "model": 2.0}, 4) == 2.5


def test_a_plan_of_nothing_is_one_sentence(tmp_path: Path, styleres: Styleres) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.mp4").write_bytes(b"no video")
    for argument in (tmp_path / "in", tmp_path / "none", tmp_path):
        refused = styleres("plan", argument, "--edit", "warm=1")
        assert refused.code == 2 and "Traceback" not in refused.error and len(refused.error) > 40


def store_command(*words: object) -> tuple[int, dict, str]:
    result = CliRunner().invoke(app, ["store", *map(str, words)])
    lines = result.stdout.splitlines()
    return result.exit_code, json.loads(lines[-1]) if lines else {}, result.stderr


def test_a_store_is_verified_compacted_exported_and_forgets_a_person(
    tmp_path: Path, styleres: Styleres, clip: Path, bundle: Bundle
) -> None:
    root = tmp_path / "store"
    arguments = ("edit", clip, "--edit", "warm=1", "--out", tmp_path / "o.mp4", "--store", root, "--chunk-frames", "5")
    assert styleres(*arguments, report=True).code == 0
    rows = tiny.rows_of(Store.open(root))
    # verify: nothing, then one flipped bit, which only the invert of that chunk mends.
    assert store_command("verify", root)[:2] == (0, {"event": "done", "job": "store verify", "damaged": 0})
    victim = sorted((root / "residuals").rglob("*.parquet"))[2]
    good = victim.read_bytes()
    victim.write_bytes(good[:99] + bytes([good[99] ^ 4]) + good[100:])
    assert store_command("verify", root, "--keep")[1]["damaged"] == 1 and victim.exists()
    assert store_command("verify", root)[0] == 1 and not victim.exists()
    mended = styleres("invert", clip, "--store", root, "--chunk-frames", "5")
    assert mended.code == 0 and mended.done["faces"] == 10 and victim.read_bytes() == good
    # compact: one part for each table, the same rows, and nothing is done again.
    code, did, _ = store_command("compact", root)
    assert code == 0 and did["parts_before"] > did["parts_after"] and len(list((root / "latents").rglob("*.parquet"))) == 1
    for name, table in tiny.rows_of(Store.open(root)).items():
        assert table.equals(rows[name]), name
    assert styleres("invert", clip, "--store", root).done["faces"] == 0
    assert store_command("verify", root)[1]["damaged"] == 0
    # export
    import pyarrow as pa
    import pyarrow.parquet as pq

    for suffix in ("parquet", "arrow"):
        out = tmp_path / f"latents.{suffix}"
        assert store_command("export", root, "--table", "latents", "--out", out)[1]["rows"] == 40
        table = pq.read_table(out) if suffix == "parquet" else pa.ipc.open_file(out).read_all()
        assert table.select(["pts", "track_id", "wplus"]).equals(rows["latents"].select(["pts", "track_id", "wplus"]))
    assert store_command("export", root, "--table", "latents", "--out", tmp_path / "x.csv")[0] == 2
    # delete-track
    assert store_command("delete-track", root, "--source", "marked.mp4", "--track", "7")[0] == 2
    code, did, _ = store_command("delete-track", root, "--source", "marked.mp4", "--track", "0")
    assert code == 0 and did["files_that_show_it"][0] == str(tmp_path / "o.mp4")
    assert did["files_that_show_it"][-1] == str(tmp_path / "o.report.html"), "its worst frames are in there"
    removed = {"latents": 20, "residuals": 20, "quality": 20, "edits": 20, "faces": 20, "tracks": 20}
    assert did["rows_removed"] == removed
    quality = Store.open(root).read("quality")
    assert set(quality["track_id"].to_pylist()) == {1} and len(quality) == 20
    for name in ("thumbnail", "picture"):  # the other one was in every frame, beside this one
        assert quality[name].null_count == 20
    for name, table in tiny.rows_of(Store.open(root)).items():
        if "track_id" in table.column_names and name not in ("frames", "faces"):
            assert set(table["track_id"].to_pylist()) == {1}, name
    assert store_command("verify", root)[1]["damaged"] == 0
    assert styleres("invert", clip, "--store", root).done["faces"] == 0, "it stays removed"
    again = styleres(*arguments, "--overwrite")
    assert again.code == 0 and again.done["edits"] == 20, "the next render edits the other one only"


def test_a_set_is_edited_into_a_folder_like_it(tmp_path: Path, styleres: Styleres, clip: Path) -> None:
    """Lossless formats and metadata stay; names follow the folders; again it finds everything finished."""
    import numpy as np
    from PIL import Image, ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    frames = tiny.marked_frames(4)
    exif = Image.Exif()
    exif[0x010E] = "a caption"
    Image.fromarray(frames[0]).save(photos / "a.png", exif=exif, icc_profile=profile)
    Image.fromarray(frames[1]).save(photos / "sub" / "b.webp", lossless=True)
    Image.fromarray(frames[2]).save(photos / "sub" / "b.tif")
    Image.fromarray(frames[3]).save(photos / "c.jpg", quality=95)
    (photos / "sub" / "broken.png").write_bytes(b"no picture")
    arguments = ("edit", photos, "--edit", "warm=2@track=0", "--out", tmp_path / "o", "--store", tmp_path / "s")
    ran = styleres(*arguments, "--max-failed", "1")
    assert ran.code == 0 and ran.done["inputs"] == 5 and ran.done["inputs_failed"] == 1 and ran.done["edits"] == 4
    made = sorted(str(p.relative_to(tmp_path / "o")) for p in (tmp_path / "o").rglob("*") if p.is_file())
    assert made == ["a.edited.png", "c.edited.jpg", "contact_sheet.png", "sub/b.edited.tif", "sub/b.edited.webp"]
    for name, frame in (("a.edited.png", frames[0]), ("sub/b.edited.webp", frames[1]), ("sub/b.edited.tif", frames[2])):
        with Image.open(tmp_path / "o" / name) as image:
            pixels = np.asarray(image.convert("RGB"))
            if name == "a.edited.png":
                assert image.getexif()[0x010E] == "a caption" and image.info["icc_profile"] == profile
        assert np.array_equal(pixels[:, :8], frame[:, :8]) and not np.array_equal(pixels, frame), "lossless outside the face"
    assert styleres(*arguments).code == 1, "without leave, a loss is an error"
    again = styleres(*arguments, "--max-failed", "20%")
    assert again.code == 0 and again.done["inputs_finished_before"] == 4 and again.done["edits"] == 0
