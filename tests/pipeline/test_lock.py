"""One run at a time on a store, whatever kills its holder, and whatever the clock says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.lock import StoreBusy, held

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from pipeline.lock import held
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
