"""What a person or a log collector sees of a running job: progress bars on a terminal, JSON lines otherwise."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from jobs.errors import FAILED
from pipeline.flow import Summary, lost_of
from pipeline.stage import Outcome, Source, Stage
from schemas import Failure


class Reporter:
    """Bars go to stderr; JSON lines and the last line to stdout. A context manager."""

    def __init__(self, *, progress: str = "auto"):
        self.bars = progress == "bars" or (progress == "auto" and sys.stderr.isatty())
        self.started = time.monotonic()
        self.tasks: dict[str, TaskID] = {}
        self.last_line = 0.0
        self.display = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )

    def __enter__(self) -> Self:
        if self.bars:
            self.display.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bars as they are. A display that never started would print an empty line instead."""
        if self.bars:
            self.display.stop()

    def event(self, **fields: Any) -> None:
        """One JSON line, if this is not a terminal."""
        if not self.bars:
            elapsed = round(time.monotonic() - self.started, 3)
            print(json.dumps({"seconds": elapsed, **fields}), flush=True)

    def stage(self, stage: Stage, done: int, count: int, outcome: Outcome | None) -> None:
        """A `pipeline.runner.Report`. Lines at most once a second, but for a stage's first and last and for every loss."""
        if self.bars:
            if stage.name not in self.tasks:
                self.tasks[stage.name] = self.display.add_task(stage.name, total=count)
            self.display.update(self.tasks[stage.name], completed=done)
        if outcome is not None and outcome.failure is not None:
            self.lost(outcome.failure)
        for failure in lost_of(outcome.result.failures) if outcome is not None and outcome.result is not None else ():
            self.lost(failure)
        now = time.monotonic()
        if done in (0, count) or now - self.last_line >= 1:
            self.last_line = now
            self.event(event="stage", stage=stage.name, done=done, items=count)

    def lost(self, failure: Failure) -> None:
        where = "" if failure.pts is None else f" pts {failure.pts}"
        if self.bars:
            self.display.console.print(f"[red]lost[/red] {failure.uri}{where} ({failure.stage}): {failure.message}")
        self.event(
            event="lost",
            uri=failure.uri,
            stage=failure.stage,
            reason=failure.reason,
            message=failure.message,
            pts=failure.pts,
        )

    def plan(self, job: str, sources: Sequence[Source], **more: Any) -> None:
        """What --dry-run prints."""
        inputs = [
            {"uri": one.uri, "frames": one.info.n_frames, "width": one.info.width, "height": one.info.height} for one in sources
        ]
        print(json.dumps({"event": "plan", "job": job, "inputs": inputs, **more}, indent=1 if self.bars else None))

    def finish(self, job: str, summary: Summary, *, inputs: int, **more: Any) -> int:
        """The last line; returns the exit code: 1 where anything was lost."""
        self.close()
        lost = summary.lost
        fields = {
            "inputs": inputs,
            "frames": summary.counts["frames"],
            "faces": summary.counts["faces"],
            "edits": summary.counts["edits"],
            "failures": len(lost),
            **more,
        }
        if self.bars:
            words = "  ".join(f"{name} {value}" for name, value in fields.items())
            print(f"{job}: {words}  in {time.monotonic() - self.started:.1f} s")
        seconds = {name: round(value, 3) for name, value in sorted(summary.seconds.items())}
        self.event(event="done", job=job, **fields, seconds_by_part=seconds)
        return FAILED if lost else 0
