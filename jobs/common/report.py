"""Shows a running job: progress bars and a table now and then to a person, JSON lines to a log collector."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from jobs.common.errors import FAILED
from jobs.common.report_data import RunFacts, entries_of, remember_run
from jobs.common.report_page import write_report
from pipeline.engine.course import Event, Lost, Noted, Settled, Status
from pipeline.engine.stage import Source
from pipeline.flow import Summary, lost_of
from pipeline.sources.outputs import Outputs
from pipeline.store.places import Place
from pipeline.store.tables import Store, StoreError
from schemas import NEVER_ACTS, Failure

MOST_REPORTED = 20_000
"""Sources of a store whose report is written unasked: it takes some milliseconds for each of them, of the driver's time."""


class Reporter:
    """Bars go to stderr; JSON lines and the last line to stdout. A context manager."""

    def __init__(self, *, progress: str = "auto"):
        self.bars = progress == "bars" or (progress == "auto" and sys.stderr.isatty())
        self.started = time.monotonic()
        self.tasks: dict[str, TaskID] = {}
        self.last_line = 0.0
        self.report: str | None = None
        """Where the report of this run is, once it is written."""
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

    def see(self, event: Event) -> None:
        """A `pipeline.engine.runner.Report`."""
        match event:
            case Settled():
                self.settled(event)
            case Noted(kind, message, uri):
                self.note(kind, message, uri)
            case Lost(failure):
                self.lost(failure)
            case Status():
                self.status(event)

    def note(self, kind: str, message: str, uri: str | None = None) -> None:
        """Something that people should know, and that is no loss."""
        self.say(f"{kind}: {uri + ': ' if uri else ''}{message}")
        self.event(event=kind, message=message, **({"uri": uri} if uri else {}))

    def settled(self, event: Settled) -> None:
        """Lines at most once a second, but for a stage's first and last and for every loss."""
        tally, name = event.tally, event.stage.name
        done = tally.done + tally.failed
        if self.bars:
            if name not in self.tasks:
                self.tasks[name] = self.display.add_task(name, total=tally.known)
            self.display.update(self.tasks[name], completed=done, total=tally.known)
        if event.outcome.failure is not None:
            self.lost(event.outcome.failure)
        for failure in event.outcome.result.failures if event.outcome.result is not None else ():
            if failure.reason == NEVER_ACTS:
                self.see(Noted("warning", failure.message, failure.uri))
        for failure in lost_of(event.outcome.result.failures) if event.outcome.result is not None else ():
            self.lost(failure)
        now = time.monotonic()
        if done in (1, tally.known) or now - self.last_line >= 1:
            self.last_line = now
            self.event(event="stage", stage=name, done=done, items=tally.known)

    def status(self, status: Status) -> None:
        """The table of a long run. What is zero is left out: in the morning "done 1,200 failed 3" is what a person reads."""
        seconds, eta = max(status.seconds, 1e-9), status.eta_seconds
        steps = {}
        for name, tally in status.steps.items():
            counts = {"queued": tally.queued, "running": tally.running, "failed": tally.failed, "resumed": tally.resumed}
            steps[name] = {
                "done": tally.done,
                **{word: count for word, count in counts.items() if count},
                "frames_per_second": round(tally.frames / seconds, 2),
            }
        self.event(
            event="status",
            steps=steps,
            sources=status.sources,
            sources_known=status.sources_known,
            workers=status.workers,
            busy_share=round(status.busy_share, 3),
            eta_seconds=None if eta is None else round(eta),
        )
        if not self.bars:
            return
        known = "?" if status.sources_known is None else status.sources_known
        left = "" if eta is None else f", about {eta / 60:.0f} min left"
        busy = f"{status.workers} workers {status.busy_share:.0%} busy"
        columns = list(dict.fromkeys(word for fields in steps.values() for word in fields))
        table = Table("step", *columns, title=f"{status.sources} of {known} sources, {busy}{left}")
        for name, fields in steps.items():
            table.add_row(name, *(str(fields.get(word, "")) for word in columns))
        self.display.console.print(table)

    def say(self, text: str) -> None:
        if self.bars:
            self.display.console.print(text, markup=False, highlight=False)

    def lost(self, failure: Failure) -> None:
        where = "" if failure.pts is None else f" pts {failure.pts}"
        if self.bars:
            # Paths are data, and what stands in brackets in one is no style.
            said = Text.assemble(("lost", "red"), f" {failure.uri}{where} ({failure.stage}): {failure.message}")
            self.display.console.print(said, soft_wrap=True)
        self.event(
            event="lost",
            uri=failure.uri,
            stage=failure.stage,
            reason=failure.reason,
            message=failure.message,
            pts=failure.pts,
        )

    def plan(
        self, job: str, sources: Sequence[Source], outputs: Outputs | None = None, refused: Sequence[Source] = (), **more: Any
    ) -> None:
        """Print what --dry-run shows: every input, where its result goes, and what that carries."""
        inputs = []
        for one in (*sources, *refused):
            said: dict[str, Any] = {
                "uri": one.uri,
                "frames": one.info.n_frames,
                "width": one.info.width,
                "height": one.info.height,
            }
            if outputs is not None:
                said |= planned(one, outputs)
                said["refused"] = one in refused
            inputs.append(said)
        if outputs is not None:
            more = {"outputs": [outputs.of(source).video for source in sources], **more}
        print(json.dumps({"event": "plan", "job": job, "inputs": inputs, **more}, indent=1 if self.bars else None))

    def write_report(
        self,
        job: str,
        store: Store,
        summary: Summary,
        where: Place,
        inputs: int,
        out: str | None,
        typed: Sequence[str] = (),
        *,
        kept: bool = True,
    ) -> None:
        """The report of this run, at `where`. The job is done by then: what hinders the report is told, and no more.

        out: only what was rendered there is shown. typed: the inputs as they were typed. kept: the store stays.
        """
        count = len(store.stored_source_ids())
        if count > MOST_REPORTED:
            self.note("report", f"not written for {count:,} sources unasked; styleres report {store.root} writes it")
            return
        seconds = time.monotonic() - self.started
        try:
            run = RunFacts.of(job, summary, inputs=inputs, seconds=seconds, out=out, typed=typed)
            if kept:
                remember_run(store, run)
            title = f"{job} of {inputs:,} {'input' if inputs == 1 else 'inputs'}"
            write_report(where, store, entries_of(store, out), [run], title=title)
            self.report = str(where)
        except (OSError, StoreError, ValueError) as error:
            self.note("report", f"could not be written ({error}); the results are not touched by it")

    def finish(self, job: str, summary: Summary, *, inputs: int, allowed: Allowed = 0, **more: Any) -> int:
        """The last line; returns the exit code: 1 where more inputs lost something than are allowed to."""
        self.close()
        fields = {
            "inputs": inputs,
            "frames": summary.counts["frames"],
            "faces": summary.counts["faces"],
            "edits": summary.counts["edits"],
            "failures": summary.lost_count,
            "inputs_failed": summary.sources_failed,
            "inputs_finished_before": summary.sources_skipped,
            **({"report": self.report} if self.report is not None else {}),
            **more,
        }
        if self.bars:
            words = "  ".join(f"{name} {value}" for name, value in fields.items())
            print(f"{job}: {words}  in {time.monotonic() - self.started:.1f} s")
        seconds = {name: round(value, 3) for name, value in sorted(summary.seconds.items())}
        self.event(event="done", job=job, **fields, seconds_by_part=seconds)
        limit = allowed if isinstance(allowed, int) else allowed * max(inputs, 1)
        return FAILED if summary.sources_failed > limit or (summary.lost_count and not limit) else 0


def planned(source: Source, outputs: Outputs) -> dict[str, Any]:
    """Describe where a source's result goes, and what becomes of everything that the source has."""
    try:
        carriage = outputs.carriage(source)
        output = outputs.of(source).video
    except ValueError as error:
        return {"output": None, "carriage": [{"what": "video", "fate": "dropped", "how": str(error), "loss": True}]}
    return {"output": output, "carriage": [asdict(item) for item in carriage.items]}


Allowed = int | float
"""Number or share of the inputs that may lose something."""
