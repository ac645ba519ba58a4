"""Every real clip through the command with the real detector: times and sound stay.

Nothing here depends on how good the model is: random weights do, in this process. Some clips go through the installed command
with the embedded model and every default; the nightly lane takes them all there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app
from ops.checkpoints.bundle import EMBEDDED
from ops.video.carriage import shift_ticks
from ops.video.probe import probe
from pipeline.store.tables import Store
from tests import tiny
from tests.ops.video.media import CLIPS, clip, decoded_pts, payloads

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

# Frames in which somebody is to be found and edited, at least. None where there is nobody (or next to nobody) to find.
EDITED = {
    "carphone_176x144.mp4": 110,
    "face_leaves_returns_480.mp4": 100,
    "hamilton_multi_cuts_audio.mp4": 200,
    "lp_d12_motion_512.mp4": 170,
    "lp_d18_man_480.mp4": 200,
    "lp_s18_720p_camera_pan.mp4": 200,
    "one_frame.mp4": 1,
    "rot90_meta.mp4": 85,
    "scene_cut_face_noface_face.mp4": 60,
    "two_faces_960x480.mp4": 115,
    "vfr_480.mp4": 75,
}


def run(*words: object, cwd: Path = ROOT) -> tuple[int, list[dict[str, object]], str]:
    """`python -m jobs.…`, as `ray job submit` would call it; (exit code, JSON lines, stderr)."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
    done = subprocess.run([sys.executable, "-m", *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.fixture(scope="module")
def embedded() -> str:
    if not (EMBEDDED / "mini64" / "config.json").is_file():
        pytest.skip(f"the embedded model is not in {EMBEDDED}")
    return "mini64"


def here(*words: object) -> tuple[int, list[dict[str, object]], str]:
    """The command in this process, as `run` gives it."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle").path


WITH_EVERY_DEFAULT = ("carphone_176x144.mp4", "scene_cut_face_noface_face.mp4")


@pytest.mark.parametrize("name", CLIPS)
def test_every_clip_is_edited_and_keeps_times_and_sound(tmp_path: Path, random_model: Path, name: str) -> None:
    words = ["--edit", "warm=1", "--model", random_model, "--within", "crop", "--no-report"]
    edit_and_look(tmp_path, name, lambda *more: here("edit", *more, *words))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in WITH_EVERY_DEFAULT else pytest.mark.nightly) for n in CLIPS])
def test_every_clip_goes_through_the_installed_command(tmp_path: Path, embedded: str, name: str) -> None:
    words = ["--edit", "smile=2", "--model", embedded]
    edit_and_look(tmp_path, name, lambda *more: run("jobs.edit", *more, *words))


def edit_and_look(tmp_path: Path, name: str, edit: Callable[..., tuple[int, list[dict[str, object]], str]]) -> None:
    """Edit a clip, and compare the file and the store with the source."""
    source, out = clip(name), tmp_path / "out.mp4"
    words = ["--preset", "ultrafast", "--batch-size", "16", "--store", tmp_path / "store"]
    code, lines, error = edit(source, "--out", out, *words)
    assert code == 0, (error, lines[-1:])
    info, made = probe(source), probe(out)
    ticks = shift_ticks(info, [s.index for s in info.contents.streams if s.role == "companion"])
    assert made.pts.tolist() == (info.pts - ticks).tolist() == decoded_pts(out) and made.time_base == info.time_base
    assert (made.width, made.height) == (info.width, info.height) and made.color == info.color
    before, after = payloads(source, "audio"), payloads(out, "audio")
    assert [[digest for digest, _ in stream] for stream in before] == [[digest for digest, _ in stream] for stream in after]
    for old, new in zip(before, after, strict=True):
        # mp4 counts audio in samples; sources that count otherwise (90 kHz, milliseconds) come out half a sample off.
        moved = ticks * info.time_base
        assert max(abs(a - moved - b) for (_, a), (_, b) in zip(old, new, strict=True)) <= Fraction(1, 44100)
    store = Store.open(tmp_path / "store")
    edited = np.unique(store.read("edits", columns=["pts"])["pts"].to_numpy())
    assert len(edited) >= EDITED.get(name, 0), f"{len(edited)} of {info.n_frames} frames are edited"
    assert lines[-1]["frames"] == info.n_frames and lines[-1]["failures"] == 0
    if name == "noface_car_3s.mp4":
        assert len(edited) == 0
    elif name != "hamilton_multi_cuts_audio.mp4":
        rows, people = store.read("tracks", columns=["track_id", "shot"]), 2 if name == "two_faces_960x480.mp4" else 1
        tracks, shots = (len(set(rows[column].to_pylist())) for column in ("track_id", "shot"))
        assert tracks <= people * shots + 3, f"{tracks} tracks of {people} in {shots} shots: needless ones"
    if name == "two_faces_960x480.mp4":
        assert set(store.read("tracks", columns=["track_id"])["track_id"].to_pylist()) == {0, 1}
    if name == "scene_cut_face_noface_face.mp4":
        gone = set(info.pts[50:75].tolist())
        assert not gone & set(edited.tolist()), "between the cuts there is nobody"


def test_faces_cut_from_a_clip_as_images(tmp_path: Path, embedded: str) -> None:
    """A PNG and a JPEG of a real face, with the real detector."""
    import av

    with av.open(str(clip("lp_d18_man_480.mp4"))) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    Image.fromarray(frame).save(tmp_path / "face.png")
    Image.fromarray(frame[::2, ::2]).save(tmp_path / "small.jpg", quality=95)
    words = ["--edit", "smile=3", "--out", tmp_path / "o", "--model", embedded]
    code, lines, error = run("jobs.edit", tmp_path / "face.png", tmp_path / "small.jpg", *words)
    assert code == 0, error
    assert lines[-1]["faces"] == 2 and lines[-1]["edits"] == 2
    made = np.asarray(Image.open(tmp_path / "o" / "face.edited.png"))
    assert made.shape == frame.shape and (made != frame).any(), "edited"
    assert np.asarray(Image.open(tmp_path / "o" / "small.edited.jpg")).shape == frame[::2, ::2].shape


def test_each_job_runs_as_a_module_with_relative_paths_and_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut of a real clip, so that detectors in other processes find something; Ray gives the same file as this process."""
    monkeypatch.chdir(tmp_path)
    tiny.tiny_bundle(tmp_path / "bundle")
    tiny.cut_of(clip("carphone_176x144.mp4"), tmp_path / "face.mp4", 20)
    model = ("--model", "bundle", "--chunk-frames", "8")
    ray = ("--runner", "ray", "--workers", "1", "--num-gpus", "2", "--gpus-per-worker", "1", "--device", "cpu")
    code, lines, error = here("invert", "face.mp4", "--store", "here", *model)
    assert code == 0 and lines[-1]["faces"] == 20, error
    code, lines, error = run("jobs.invert", "face.mp4", "--store", "there", *model, *ray, cwd=tmp_path)
    assert code == 0 and lines[-1]["faces"] == 20, error
    render = ("--edit", "warm=1", "--codec", "ffv1", *model)
    code, lines, error = here("render", "--store", "here", "--out", "here.mkv", *render)
    assert code == 0 and lines[-1]["edits"] == 20, error
    code, lines, error = run("jobs.render", "--store", "there", "--out", "there.mkv", *render, *ray, cwd=tmp_path)
    assert code == 0 and lines[-1]["edits"] == 20, error
    assert (tmp_path / "here.mkv").read_bytes() == (tmp_path / "there.mkv").read_bytes()
    one, two = Store.open(tmp_path / "here"), Store.open(tmp_path / "there")
    for table in ("frames", "faces", "tracks"):
        assert one.read(table).equals(two.read(table)), table
    code, lines, error = run("jobs.inspect", "there", "--json", cwd=tmp_path)
    assert code == 0 and lines[0]["model"] == "tiny", error
    too_many = ("--runner", "ray", "--num-gpus", "1", "--gpus-per-worker", "2", "--device", "cpu")
    code, lines, error = run("jobs.invert", "face.mp4", "--store", "no", *model, *too_many, cwd=tmp_path)
    assert code == 2 and "the cluster has" in error and "Traceback" not in error
