"""kill -9 of the program that drives a Ray run: the same command goes on, and what it leaves is as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.store.tables import Store
from tests import needs, tiny
from tests.ops.video.media import make_video, moving_frames

needs.package("ray")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
RUN_SECONDS, END_SECONDS = 420, 60
FRAMES = 96
"""Of each clip: twelve items to invert, and three to render, which are whole segments."""


@dataclass
class Runs:
    """Children that can be told from all others on this machine by their environment, and so can theirs."""

    folder: Path
    mark: str = field(default_factory=lambda: f"styleres-{uuid.uuid4().hex}")

    def start(self, clips: Path, model: Path, *more: str) -> subprocess.Popen[bytes]:
        words = ["--edit", "warm=1", "--model", model, "--store", self.folder / "store", "--out", self.folder / "out"]
        words += ["--chunk-frames", "8", "--gop-frames", "32", "--codec", "ffv1", "--no-contact-sheet", *more]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled"}
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "jobs.edit", str(clips), *map(str, words)],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env=environment | {"STYLERES_TEST": self.mark},
            )

    def alive(self) -> list[int]:
        """Processes of these runs, whoever their parent is now."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes() and (folder / "stat").read_text().split()[2] != "Z":
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    def entries(self, step: str) -> list[Path]:
        """Of items of a step that are recorded, of sources that are not finished."""
        return list((self.folder / "store" / "ledger" / step).glob("*/*.json"))

    def done(self) -> dict[str, Any]:
        """The last line that the last run wrote."""
        line: dict[str, Any] = json.loads((self.folder / "log").read_text("utf-8").splitlines()[-1])
        assert line["event"] == "done"
        return line

    def wait_for(self, what: Callable[[], bool], child: subprocess.Popen[bytes], said: str) -> None:
        deadline = time.monotonic() + RUN_SECONDS
        while not what():
            if child.poll() is not None or time.monotonic() > deadline:
                ended = f"exit code {child.returncode}" if child.returncode is not None else f"{RUN_SECONDS} s are over"
                pytest.fail(f"{ended} before {said}: " + (self.folder / "log").read_text("utf-8", "replace")[-3000:])
            time.sleep(0.01)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    (tmp_path / "killed").mkdir()
    mine = Runs(tmp_path / "killed")
    yield mine
    for pid in mine.alive():
        os.kill(pid, signal.SIGKILL)


def left_by(folder: Path) -> dict[str, Any]:
    store = Store.open(folder / "store")
    tables = ("sources", "frames", "faces", "tracks", "latents", "residuals", "edits", "segments", "quality", "failures")
    left: dict[str, Any] = {}
    for name in tables:
        rows = store.read(name).to_pylist()
        for row in rows if name in ("segments", "quality") else ():
            row["path"] = Path(row["path"]).name
        left[name] = [repr(row) for row in rows]  # landmarks of whole frames are no numbers, and not equal to themselves
    made = sorted((folder / "out").iterdir())
    left["out"] = {path.name: path.read_bytes() for path in made if path.suffix != ".html"}
    left["complete"] = [one for one in store.stored_source_ids() if store.is_complete(one)]
    left["damaged"] = [store.verify(source_id) for source_id in store.stored_source_ids()]
    for name in ("ledger", "work"):
        left[name] = [str(path) for path in (folder / "store" / name).rglob("*") if path.is_file()]
    return left


def test_a_killed_driver_costs_nothing_but_time(tmp_path: Path, runs: Runs) -> None:
    """In the middle of inverting, then in the middle of rendering. Each next run begins at once, whatever workers still do."""
    bundle = tiny.tiny_bundle(tmp_path / "bundle", crop="centre", content=(24, 32))
    clips = tmp_path / "in"
    clips.mkdir()
    for name, width in (("a", 96), ("b", 112)):
        make_video(clips / f"{name}.mp4", moving_frames(FRAMES, width, 54), options={"preset": "ultrafast", "crf": "8"})
    (tmp_path / "undisturbed").mkdir()
    undisturbed = Runs(tmp_path / "undisturbed")
    assert undisturbed.start(clips, bundle.path).wait(RUN_SECONDS) == 0, (undisturbed.folder / "log").read_text()
    expected = left_by(undisturbed.folder)
    assert len(expected["out"]) == 2 and len(expected["latents"]) == 2 * FRAMES and len(expected["segments"]) == 6
    assert not expected["ledger"] and not expected["work"] and expected["damaged"] == [{}, {}]

    sealed = runs.folder / "store" / "manifests"
    first = runs.start(clips, bundle.path, "--runner", "ray", "--workers", "2")
    runs.wait_for(lambda: len(runs.entries("invert")) >= 3, first, "the third inverted item")
    first.kill()
    assert first.wait(10) == -signal.SIGKILL and not list(sealed.glob("invert/*.json")), "the premise: none was finished"
    recorded = [file["path"] for one in runs.entries("invert") for file in json.loads(one.read_text())["files"]]
    written = {name: (runs.folder / "store" / name).stat().st_mtime_ns for name in recorded}

    second = runs.start(clips, bundle.path, "--runner", "ray", "--workers", "2")
    runs.wait_for(lambda: len(runs.entries("render")) >= 1, second, "the first rendered item")
    second.kill()
    assert second.wait(10) == -signal.SIGKILL and len(list((runs.folder / "out").glob("*.mkv"))) < 2, "the premise: not the end"

    third = runs.start(clips, bundle.path, "--runner", "ray", "--workers", "2")
    assert third.wait(RUN_SECONDS) == 0, (runs.folder / "log").read_text()[-3000:]
    deadline = time.monotonic() + END_SECONDS
    while (left := runs.alive()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left, f"{len(left)} processes outlive their drivers"
    found = left_by(runs.folder)
    for name, value in expected.items():
        assert found[name] == value, name
    assert written == {name: (runs.folder / "store" / name).stat().st_mtime_ns for name in recorded}, "none was done again"
    assert runs.done()["frames"] <= 2 * FRAMES - 32, "nor what was rendered"
