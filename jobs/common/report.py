"""Shows a running job: bars to a person at a terminal, a table now and then to one who reads a log, JSON lines to a program."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Literal, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from jobs.common.errors import FAILED
from jobs.common.report_data import RunFacts, entries_of, remember_run
from jobs.common.report_page import write_report
from pipeline.engine.course import Event, Lost, Noted, Settled, Status, Tally
from pipeline.engine.stage import Source
from pipeline.flow import Summary, lost_of
from pipeline.sources.outputs import Outputs
from pipeline.store.places import Place, place
from pipeline.store.tables import Store, StoreError
from schemas import NEVER_ACTS, Failure

MOST_REPORTED = 20_000
"""Sources of a store whose report is written unasked: it takes some milliseconds for each of them, of the driver's time."""


Mode = Literal["bars", "text", "json", "quiet"]
"""quiet: for callers from Python."""
TEXT_COLUMNS = 120
"""Width of a table in a log, which has no terminal's."""


class Reporter:
    """bars: to stderr, for a terminal. text: lines and a table now and then on stdout, for a log that a person reads. json: one
    object a line on stdout, for a program. The last line or lines go to stdout. A context manager."""

    def __init__(self, *, progress: str = "auto"):
        self.mode: Mode = mode_of(progress)
        self.started = time.monotonic()
        self.rows: dict[str, TaskID] = {}
        self.began: dict[str, float] = {}
        """Stage => when its first item was done, or resumed."""
        self.losses: Counter[str] = Counter()
        self.last_line = 0.0
        self.report: str | None = None
        """Place of this run's report, once it is written."""
        self.display = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=None, complete_style="bar.complete"),
            TextColumn("{task.completed}/{task.fields[known]}", justify="right"),
            TextColumn("{task.fields[rate]}", justify="right", style="cyan"),
            TextColumn("{task.fields[left]}", justify="right"),
            TextColumn("{task.fields[lost]}", style="red"),
            console=Console(stderr=True),
        )

    def __enter__(self) -> Self:
        if self.bars:
            self.display.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def bars(self) -> bool:
        return self.mode == "bars"

    def close(self) -> None:
        """Leave the bars as they are. A display that never started would print an empty line instead."""
        if self.bars:
            self.display.stop()

    def event(self, **fields: Any) -> None:
        """One JSON line, for a program."""
        if self.mode == "json":
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
        """A fact that people should know, other than a loss."""
        self.say(Text(f"{kind}: {uri + ': ' if uri else ''}{message}"))
        self.event(event=kind, message=message, **({"uri": uri} if uri else {}))

    def settled(self, event: Settled) -> None:
        """Lines at most once a second, but for a stage's first and last and for every loss."""
        tally, name = event.tally, event.stage.name
        done = tally.done + tally.failed
        now = time.monotonic()
        self.began.setdefault(name, now)
        if event.outcome.failure is not None:
            self.lost(event.outcome.failure)
        for failure in event.outcome.result.failures if event.outcome.result is not None else ():
            if failure.reason == NEVER_ACTS:
                self.see(Noted("warning", failure.message, failure.uri))
        for failure in lost_of(event.outcome.result.failures) if event.outcome.result is not None else ():
            self.lost(failure)
        if self.bars:
            self.draw(name, tally, now)
        if done in (1, tally.known) or now - self.last_line >= 1:
            self.last_line = now
            self.event(event="stage", stage=name, done=done, items=tally.known)

    def draw(self, name: str, tally: Tally, now: float) -> None:
        """One step's bar: items, frames a second, what is left of the items that are known, and losses so far."""
        done = tally.done + tally.failed
        # The first item opens the step's model: its time says little of the others'.
        fresh, elapsed = tally.frames, now - self.started
        rate = fresh / elapsed if elapsed > 0 else 0.0
        left = seconds_left(now - self.began[name], done - tally.resumed - 1, tally.known - done)
        fields: dict[str, Any] = {
            "known": f"{tally.known:,}",
            "rate": f"{rate:,.1f} frames/s" if fresh else "",
            "left": "done" if done == tally.known else "" if left is None else f"{clock(left)} left",
            "lost": f"{self.losses[name]:,} lost" if self.losses[name] else "",
        }
        if name not in self.rows:
            self.rows[name] = self.display.add_task(name, total=tally.known, **fields)
        self.display.update(self.rows[name], completed=done, total=tally.known, **fields)

    def status(self, status: Status) -> None:
        """How far a long run is. What is zero is left out: in the morning "done 1,200 failed 3" is what a person reads."""
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
        known = "?" if status.sources_known is None else f"{status.sources_known:,}"
        left = "" if not eta else f", about {clock(eta)} left"
        who = f"{status.workers} {'worker' if status.workers == 1 else 'workers'} {status.busy_share:.0%} busy"
        lost = f", {self.losses.total():,} lost" if self.losses.total() else ""
        headline = f"{clock(time.monotonic() - self.started)}  {status.sources:,} of {known} sources, {who}{left}{lost}"
        if self.bars:
            # The bars say the rest.
            if "" not in self.rows:
                self.rows[""] = self.display.add_task("", total=None, known="", rate="", left="", lost="")
            total = status.sources_known
            shown: dict[str, Any] = {"known": known, "rate": who, "left": left.removeprefix(", about "), "lost": ""}
            self.display.update(self.rows[""], description="sources", completed=status.sources, total=total, **shown)
        if self.mode == "text":
            columns = list(dict.fromkeys(word for fields in steps.values() for word in fields))
            table = Table("step", box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
            for word in columns:
                table.add_column(word.replace("frames_per_second", "frames/s"), justify="right")
            for name, row in steps.items():
                table.add_row(name, *(f"{row[word]:,}" if word in row else "" for word in columns))
            self.say(Text(headline))
            self.say(table)

    def say(self, what: Text | Table) -> None:
        """To whoever reads; not in JSON. Paths are data, and brackets in one are not styles."""
        if self.bars:
            self.display.console.print(what, soft_wrap=True)
        elif self.mode == "text":
            plain = Console(file=sys.stdout, width=TEXT_COLUMNS, color_system=None, highlight=False)
            plain.print(what, soft_wrap=isinstance(what, Text))
            sys.stdout.flush()

    def lost(self, failure: Failure) -> None:
        where = "" if failure.pts is None else f" pts {failure.pts}"
        self.losses[failure.stage] += 1
        self.say(Text.assemble(("lost", "red"), f" {failure.uri}{where} ({failure.stage}): {failure.message}"))
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
        print(json.dumps({"event": "plan", "job": job, "inputs": inputs, **more}, indent=None if self.mode == "json" else 1))

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
        out = None if out is None else str(place(out))  # as the store names what was written
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
        if self.mode in ("bars", "text"):
            print("\n".join(last_lines(job, summary, inputs, time.monotonic() - self.started, self.report, more)))
        seconds = {name: round(value, 3) for name, value in sorted(summary.seconds.items())}
        self.event(event="done", job=job, **fields, seconds_by_part=seconds)
        limit = allowed if isinstance(allowed, int) else allowed * max(inputs, 1)
        return FAILED if summary.sources_failed > limit or (summary.lost_count and not limit) else 0


def mode_of(progress: str) -> Mode:
    """`--progress`. auto: bars on a terminal, text in the log of a submitted Ray job, JSON elsewhere."""
    if progress != "auto":
        return progress  # type: ignore[return-value]
    if sys.stderr.isatty():
        return "bars"
    return "text" if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else "json"


def seconds_left(elapsed: float, done: int, waiting: int) -> float | None:
    """As if the items that wait took as long as those that were done since the first; None where that says nothing."""
    return elapsed / done * waiting if done > 0 and elapsed > 0 else None


def clock(seconds: float) -> str:
    """`12 s`, `3 min`, `2 h 05 min`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def last_lines(
    job: str, summary: Summary, inputs: int, seconds: float, report: str | None, places: Mapping[str, Any]
) -> list[str]:
    """Lines for a person at the end: what was done, what was lost, and where everything is."""
    counts = summary.counts
    did = [f"{counts['frames']:,} frames", f"{counts['faces']:,} faces inverted", f"{counts['edits']:,} edited"]
    did = [one for one, count in zip(did, (counts["frames"], counts["faces"], counts["edits"]), strict=True) if count]
    before = f" ({summary.sources_skipped:,} finished before)" if summary.sources_skipped else ""
    its = f"{summary.sources_failed:,} {'input' if summary.sources_failed == 1 else 'inputs'}"
    lost = f"{summary.lost_count:,} lost, in {its}" if summary.lost_count else "nothing was lost"
    what = ", ".join(did) or "nothing was left to do"
    lines = [f"{job}: {inputs:,} {'input' if inputs == 1 else 'inputs'}{before}, {what}, in {clock(seconds)}; {lost}"]
    named = {"result": places.get("out"), "report": report, "store": places.get("store")}
    return lines + [f"  {name:<7} {where}" for name, where in named.items() if where]


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
