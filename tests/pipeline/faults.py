"""A whole edit of two clips as one call, and a process that forks children which do it and are killed on the way.

    python -m tests.pipeline.faults edit FOLDER SEED KILLS

prints how many children were killed, and how often the edit was finished: it then begins again in a new folder, round-1, …

    python -m tests.pipeline.faults compact|compact-by-files|delete-track STORE FOLDER

leaves FOLDER/0, FOLDER/1, …: copies of the store, in each of which a child was killed one change later while it compacted it
(by files: as if folders could not trade places), or deleted track 0 of its sources.

A child dies by SIGKILL just before or just after a random one of its changes to the disk: a rename, a removal, a folder made.
All imports happen before the first fork.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.common.prepare import open_store
from ops.checkpoints.bundle import Bundle, open_bundle
from ops.editing.recipe import parse_edits
from ops.files import atomic
from ops.video.encode import EncodeOptions
from pipeline import flow
from pipeline.engine.course import Report, silent
from pipeline.engine.runner import InProcessRunner, Runner
from pipeline.engine.stage import Chunk, Result, Source, Step
from pipeline.sources.outputs import Outputs
from pipeline.steps.plan import PlanSettings
from pipeline.store import upkeep
from pipeline.store.tables import Store
from tests import tiny

OPERATIONS = ("replace", "unlink", "mkdir", "rmdir", "link")


def edited(
    folder: Path,
    sources: Sequence[Source],
    bundle: Bundle,
    runner: Runner | None = None,
    report: Report = silent,
    sheet_frames: int = 0,
) -> flow.Summary:
    """Edit the sources; the store and the files are below the folder."""
    store = open_store(folder / "store", bundle, "float32")
    settings = flow.RenderSettings(
        PlanSettings(parse_edits(["warm=1"])),
        tiny.PASTE,
        encode=EncodeOptions(codec="ffv1", pix_fmt="bgr0", gop_frames=8),
        sheet_frames=sheet_frames,
    )
    compute = flow.Compute("cpu", "fp32", 4, 8)
    outputs = Outputs(str(folder / "out"), encode=settings.encode, sheets=bool(sheet_frames))
    return flow.edit(sources, outputs, store, bundle, tiny.INVERTING, settings, compute, runner or InProcessRunner(), report)


def left_by(folder: Path) -> dict[str, Any]:
    """What a run leaves: rows of every table without regard to parts, and the bytes of every output."""
    store = Store.open(folder / "store")
    tables = ("sources", "frames", "faces", "tracks", "latents", "residuals", "edits", "failures")
    found: dict[str, Any] = {name: store.read(name).to_pylist() for name in tables}
    found["complete"] = [one for one in store.stored_source_ids() if store.is_complete(one)]
    found["out"] = {p.name: p.read_bytes() for p in sorted((folder / "out").iterdir())}
    for name in ("ledger", "work"):
        found[name] = [str(p) for p in (folder / "store" / name).rglob("*") if p.is_file()]
    found["leftovers"] = [str(p) for p in folder.rglob(".*.tmp")]
    return found


def killed_after(count: int, after: bool) -> None:
    """This process dies at the `count`th change to the disk from now on."""
    left = [count]

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def change(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **named)
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return change

    for name in OPERATIONS:
        setattr(os, name, wrapped(getattr(os, name)))
    setattr(atomic, "rename_exchange", wrapped(atomic.rename_exchange))  # noqa: B010 (the type is the same)


@dataclass(frozen=True)
class KillOnce(Step):
    """A step whose worker dies at its first item, once; the flag says that it has."""

    step: Step
    flag: str

    def open(self) -> Any:
        opened = self.step.open()

        def die() -> None:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self.flag, os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)

        if hasattr(opened, "load"):
            from pipeline.engine.stage import Batched

            def finish(loaded: Sequence[Any]) -> list[Result]:
                die()
                return opened.finish(loaded)

            return Batched(opened.load, finish)

        def work(chunk: Chunk) -> Result:
            die()
            return opened(chunk)

        return work


def main() -> None:
    match sys.argv[1:]:
        case ["edit", folder, seed, kills]:
            kill_edits(Path(folder), int(seed), int(kills))
        case ["compact" | "compact-by-files" | "delete-track" as job, store, folder]:
            kill_upkeep(job, Path(store), Path(folder))
        case other:
            sys.exit(f"expected edit, compact, compact-by-files or delete-track, got {other}")


def kill_upkeep(job: str, store: Path, folder: Path) -> None:
    if job == "compact-by-files":
        setattr(atomic, "rename_exchange", lambda one, other: errno.ENOSYS)  # noqa: B010
    for count in range(1000):
        copy = folder / str(count)
        shutil.copytree(store, copy)
        child = os.fork()
        if child == 0:
            killed_after(count + 1, after=False)
            opened = Store.open(copy)
            for source_id in opened.stored_source_ids():
                if job == "delete-track":
                    upkeep.delete_track(opened, source_id, 0)
                else:
                    upkeep.compact(opened, source_id)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            shutil.rmtree(copy)
            sys.exit(os.waitstatus_to_exitcode(status))


def kill_edits(folder: Path, seed: int, kills: int) -> None:
    torch.set_num_threads(1)
    bundle = open_bundle(folder / "bundle")
    sources = [tiny.source_of(path) for path in sorted((folder / "in").iterdir())]
    drawn, killed, rounds = random.Random(seed), 0, 0
    while True:
        count, late = drawn.randint(1, 25), drawn.random() < 0.5
        child = os.fork()
        if child == 0:
            if killed < kills:
                killed_after(count, late)
            summary = edited(folder / f"round-{rounds}", sources, bundle)
            os._exit(3 if summary.lost else 0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
            continue
        if os.waitstatus_to_exitcode(status) != 0:
            sys.exit("a run that was not killed lost something")
        rounds += 1
        if killed >= kills:
            break
    print(json.dumps({"killed": killed, "rounds": rounds}))


if __name__ == "__main__":
    main()
