"""What a run shows: bars for a terminal, text for a log, JSON for a program, and the last lines."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.common.report import Reporter, clock, last_lines, mode_of, seconds_left
from ops.checkpoints.bundle import Bundle
from pipeline.engine.course import Lost, Noted, Settled, Status, Tally
from pipeline.engine.stage import Outcome, Result
from pipeline.flow import Summary
from schemas import Failure
from tests import tiny

FAILURE = Failure("0" * 16, "/in/[b]a.mp4", "invert", "not_finite", "the encoder gave values that are not finite", pts=7)


def settled(stage: str, tally: Tally, failure: Failure | None = None) -> Settled:
    result = None if failure is not None else Result({"frames": 8})
    return Settled(SimpleNamespace(name=stage), Outcome(None, result, failure), tally)  # type: ignore[arg-type]


def drawn(reporter: Reporter) -> str:
    """The bars as they stand."""
    said = io.StringIO()
    reporter.display.console.file, reporter.display.console.width = said, 120
    reporter.display.console.print(reporter.display.get_renderable())
    return said.getvalue()


def test_each_step_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("jobs.common.report.time.monotonic", lambda: now[0])
    reporter = Reporter(progress="bars")
    reporter.display.console.file = io.StringIO()
    now[0] += 4
    reporter.see(settled("scan", Tally(queued=30, done=10, frames=80)))
    now[0] += 6
    reporter.see(settled("scan", Tally(queued=20, done=20, frames=160)))
    reporter.see(settled("invert", Tally(queued=3, done=1, failed=1, frames=8), FAILURE))
    reporter.see(Status(10.0, {}, 2, 5, workers=3, busy_share=0.9))
    lines = drawn(reporter).splitlines()
    scan, invert, sources = (next(line for line in lines if line.startswith(name)) for name in ("scan", "invert", "sources"))
    # 160 frames in 10 s; 19 items in the 6 s since the first, so 20 more take about as long.
    assert "20/40" in scan and "16.0 frames/s" in scan and "6 s left" in scan and "lost" not in scan
    assert "2/5" in invert and "1 lost" in invert and "2/5" in sources and "3 workers 90% busy" in sources
    assert len(lines) == 3
    now[0] += 6
    reporter.see(settled("scan", Tally(done=40, frames=320)))
    assert "done" in next(line for line in drawn(reporter).splitlines() if line.startswith("scan"))


def test_a_log_has_a_table_that_a_person_reads(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(progress="text")
    reporter.see(Noted("again", "done again, because the crop changed", "/in/[b]a.mp4"))
    reporter.see(Lost(FAILURE))
    reporter.see(settled("scan", Tally(done=1)))
    steps = {"scan": Tally(queued=1200, done=3400, frames=340_000), "invert": Tally(running=2, done=7, failed=1, frames=700)}
    reporter.see(Status(1000.0, steps, 12, None, workers=4, busy_share=0.97))
    reporter.see(Status(1000.0, steps, 12, 36, workers=4, busy_share=0.97))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "again: /in/[b]a.mp4: done again, because the crop changed"
    assert lines[1] == "lost /in/[b]a.mp4 pts 7 (invert): the encoder gave values that are not finite"
    assert "12 of ? sources, 4 workers 97% busy, 1 lost" in lines[2]
    head = next(line for line in lines if line.startswith("step"))
    assert head.split() == ["step", "done", "queued", "frames/s", "running", "failed"]
    scan, invert = (next(line for line in lines if line.startswith(name)) for name in ("scan", "invert"))
    assert scan.split() == ["scan", "3,400", "1,200", "340.0"] and invert.split() == ["invert", "7", "0.7", "2", "1"]
    assert any("12 of 36 sources" in line and "about 33 min left" in line for line in lines)
    assert not any("\x1b" in line or line.startswith("{") for line in lines) and max(map(len, lines)) <= 120


def test_a_program_has_objects(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(progress="json")
    reporter.see(Lost(FAILURE))
    reporter.see(Status(10.0, {"scan": Tally(done=2, frames=20)}, 1, 2))
    lost, status = map(json.loads, capsys.readouterr().out.splitlines())
    assert lost["event"] == "lost" and lost["pts"] == 7
    assert status["steps"] == {"scan": {"done": 2, "frames_per_second": 2.0}} and status["eta_seconds"] == 10


@pytest.mark.parametrize("terminal, submitted, mode", [(True, True, "bars"), (False, True, "text"), (False, False, "json")])
def test_what_auto_is(monkeypatch: pytest.MonkeyPatch, terminal: bool, submitted: bool, mode: str) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    if submitted:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert mode_of("auto") == mode
    assert all(mode_of(one) == one for one in ("bars", "text", "json"))


def test_the_last_lines_say_where_everything_is() -> None:
    summary = Summary(Counter(frames=1200, faces=2400, edits=2000), sources_done=9, sources_skipped=3, sources_failed=1)
    summary.lost_count = 2
    lines = last_lines("edit", summary, 10, 7500, "/out/report.html", {"out": "/out", "store": "/store"})
    assert lines == [
        "edit: 10 inputs (3 finished before), 1,200 frames, 2,400 faces inverted, 2,000 edited, in 2 h 05 min; "
        "2 lost, in 1 input",
        "  result  /out",
        "  report  /out/report.html",
        "  store   /store",
    ]
    nothing = last_lines("invert", Summary(), 1, 3, None, {"store": "/store"})
    assert nothing == ["invert: 1 input, nothing was left to do, in 3 s; nothing was lost", "  store   /store"]


def test_times() -> None:
    assert [clock(one) for one in (0, 99, 100, 5900, 6000)] == ["0 s", "99 s", "2 min", "98 min", "1 h 40 min"]
    assert seconds_left(10, 5, 10) == 20 and seconds_left(10, 0, 10) is None and seconds_left(0, 5, 1) is None


def test_a_job_in_a_log_ends_with_its_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: Path, bundle: Bundle
) -> None:
    tiny.command_finds_marks(monkeypatch)
    words = ["edit", str(other), "--edit", "warm=1", "--out", str(tmp_path / "o.mp4"), "--store", str(tmp_path / "store")]
    words += ["--progress", "text", "--preset", "ultrafast", "--model", str(bundle.path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[-4].startswith("edit: 1 input, 12 frames, 12 faces inverted, 12 edited, in ")
    places = {"result": "o.mp4", "report": "o.report.html", "store": "store"}
    assert lines[-3:] == [f"  {name:<7} {tmp_path / place}" for name, place in places.items()]
    assert any(line.startswith("finalize") for line in lines), "the last table shows the whole run"
