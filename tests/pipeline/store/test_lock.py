"""One run at a time on a store, whatever kills its holder, and whatever the clock says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ops.files.atomic import PUBLISHING, replaced_file
from pipeline.store.lock import Fence, StoreBusy, Superseded, fenced, held
from pipeline.store.places import write_text

ROOT = Path(__file__).resolve().parents[3]
HOLD = """
import sys, time
from pathlib import Path
from pipeline.store.lock import held
with held(Path(sys.argv[1]), "edit"):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(root: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(root)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    return child


def test_the_second_run_is_refused_and_told_who_holds_the_store(tmp_path: Path) -> None:
    with held(tmp_path / "store", "invert"):
        with (
            pytest.raises(StoreBusy, match=rf"styleres invert, process {os.getpid()} on .* works on this store"),
            held(tmp_path / "store", "edit"),
        ):
            pass
        assert (tmp_path / "store" / ".lock").exists(), "being refused takes nothing from the holder"
    assert list((tmp_path / "store").iterdir()) == []
    with held(tmp_path / "store", "edit"):
        pass


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    child = holder(tmp_path)
    with pytest.raises(StoreBusy, match=f"process {child.pid}"), held(tmp_path, "edit"):
        pass
    child.kill()
    child.wait()
    assert (tmp_path / ".lock").exists(), "the premise: nobody has cleaned up"
    with held(tmp_path, "edit"):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_clocks_decide_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a wall clock that runs backwards, nor a lock file from the future."""
    child = holder(tmp_path)
    os.utime(tmp_path / ".lock", (4e9, 4e9))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 1e6)
    with pytest.raises(StoreBusy), held(tmp_path, "edit"):
        pass
    child.kill()
    child.wait()
    with held(tmp_path, "edit"):
        pass


def test_whoever_writes_for_a_run_writes_for_as_long_as_it_holds_the_store(tmp_path: Path) -> None:
    """Also into places outside of it, and after the lock file of a killed run: a worker may end what it has in hand."""
    root, out = tmp_path / "store", tmp_path / "out.mp4"
    with held(root, "edit"):
        fence = PUBLISHING.get()
        assert isinstance(fence, Fence)
        write_text(root / "part", "mine")
        lock = (root / ".lock").read_bytes()
    for refused in ("after it let go", "after another took over"):
        with held(root, "edit") if "another" in refused else fenced(None), fenced(fence):
            with pytest.raises(Superseded, match="does not hold the store any more; nothing was written"):
                write_text(root / "part", "late")
            with pytest.raises(Superseded), replaced_file(out) as temporary:
                temporary.write_text("late")
    assert (root / "part").read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["store"]
    (root / ".lock").write_bytes(lock)
    with fenced(fence):
        write_text(root / "part", "of a run whose driver was killed, and that nobody has taken over yet")
    write_text(root / "other", "of nobody in particular")
    assert {p.name for p in root.iterdir()} <= {"part", "other", ".lock", ".writers.lock"}


def test_a_new_holder_waits_for_a_worker_that_is_just_letting_a_file_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(tmp_path, "edit"):
        fence = PUBLISHING.get()
        lock = (tmp_path / ".lock").read_bytes()
    (tmp_path / ".lock").write_bytes(lock)  # as a killed driver leaves it
    inside, leave, order = threading.Event(), threading.Event(), []

    def worker() -> None:
        with fence():
            inside.set()
            leave.wait(30)
            order.append("the worker has renamed its file")

    thread = threading.Thread(target=worker)
    thread.start()
    assert inside.wait(30)
    monkeypatch.setattr("pipeline.store.lock.WRITER_SECONDS", 0.3)
    with pytest.raises(StoreBusy, match="worker of an earlier run that is in the middle of a write"), held(tmp_path, "edit"):
        pass
    (tmp_path / ".lock").write_bytes(lock)
    monkeypatch.setattr("pipeline.store.lock.WRITER_SECONDS", 30.0)
    threading.Timer(0.5, leave.set).start()
    with held(tmp_path, "edit"):
        order.append("the next run has the store")
        with pytest.raises(Superseded), fence():
            pass
    thread.join()
    assert order == ["the worker has renamed its file", "the next run has the store"]
