"""What the runner, the account and the driver cost, on this machine with logical GPUs.

    python benchmarks/cluster.py --clip ../shared/videos/carphone_176x144.mp4 --json cluster.json

    efficiency      seconds of one Ray actor over twice those of two, on the same clips; beside it the ideal: one process over
                    two processes at once, without Ray, on halves of them. Cores, memory and caches are shared in both, so the
                    ratio of the two ratios is what the runner costs
    per item        seconds of an item that does nothing: through Ray, and in this process with its entry in the ledger
    replacement     seconds from kill -9 of the only worker until another one has finished the item
    driver memory   peak of Python's memory for 1 000, 10 000 and 100 000 sources of one frame
    resume          seconds to pass over a finished source

Runs take turns, so that a slower minute of the machine meets all of them; what is reported are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ops.video.probe import probe  # noqa: E402
from pipeline.engine.course import Course, Settled  # noqa: E402
from pipeline.engine.ledger import Ledger  # noqa: E402
from pipeline.engine.runner import InProcessRunner, Runner  # noqa: E402
from pipeline.engine.stage import Chunk, Outcome, Result, Source, Stage, Step  # noqa: E402
from pipeline.store.tables import Store, StoreInfo  # noqa: E402

INFO = StoreInfo("none", "0" * 64, (1, 1), (1, 1, 1), "float32", 1, "0")


@dataclass(frozen=True)
class Nothing(Step):
    """An item that costs nothing, or ends its process once."""

    flag: str | None = None

    def open(self) -> Callable[[Chunk], Result]:
        def work(chunk: Chunk) -> Result:
            if self.flag is not None and chunk.start == 10:
                try:
                    os.close(os.open(self.flag, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    return Result()
                Path(self.flag).write_text(str(time.time()))
                os.kill(os.getpid(), signal.SIGKILL)
            return Result()

        return work


def sources_like(template: Source, count: int) -> Iterator[Source]:
    for number in range(count):
        sha256 = f"{number:064x}"[::-1]
        yield replace(template, source_id=sha256[:16], info=replace(template.info, sha256=sha256))


def per_item(template: Source, runner: Runner, items: int, ledger: Ledger | None) -> float:
    stage = Stage("nothing", Nothing(), frames=1, writes=())
    begun = time.perf_counter()
    runner.run(Course([stage], sources_like(template, items), ledger))
    return (time.perf_counter() - begun) / items


def driver_peak(template: Source, count: int) -> int:
    stage = Stage("nothing", Nothing(), frames=64)
    tracemalloc.start()
    course = Course([stage], sources_like(template, count), None)
    course.look_ahead(256)
    while (parcel := course.take()) is not None:
        for item in parcel.items:
            course.settle(parcel.stage, Outcome(item, Result(), None))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def resume_seconds(template: Source, folder: Path, count: int) -> float:
    store = Store.create(folder / "store", INFO)
    stage = Stage("nothing", Nothing(), frames=64, seals="invert")

    def run() -> float:
        begun = time.perf_counter()
        InProcessRunner().run(Course([stage], sources_like(template, count), Ledger(store)))
        return time.perf_counter() - begun

    run()
    return run() / count


def replacement_seconds(template: Source, folder: Path, runner: Runner) -> float:
    flag = folder / f"died-{time.monotonic_ns()}"
    long = replace(template, info=replace(template.info, pts=template.info.pts[:1].repeat(20).cumsum() + range(20)))
    settled: list[float] = []

    def see(event: Any) -> None:
        if isinstance(event, Settled) and event.outcome.item.start == 10:
            settled.append(time.time())

    runner.run(Course([Stage("nothing", Nothing(str(flag)), frames=1)], [long], None, see))
    return settled[0] - float(flag.read_text())


def edit_seconds(clips: Sequence[Path], folder: Path, *options: str) -> float:
    """One `jobs.edit` in a process of its own: its own seconds, which leave out Python's imports."""
    child = begin(clips, folder, *options)
    return finished(child)


def begin(clips: Sequence[Path], folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs.edit", *map(str, clips), "--edit", "smile=2", "--out", str(folder / "out")]
    command += ["--store", str(folder / "store"), "--progress", "json", "--preset", "ultrafast", "--chunk-frames", "16"]
    command += ["--no-contact-sheet", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def finished(child: subprocess.Popen[str]) -> float:
    output, _ = child.communicate()
    if child.returncode != 0:
        raise SystemExit(f"a run ended with {child.returncode}: {output[-2000:]}")
    lines = [json.loads(line) for line in output.splitlines()]
    settled = [line["seconds"] for line in lines if line["event"] == "stage"]
    return settled[-1] - settled[0]  # from the first finished item to the last: Ray's own start is not the runner's


def efficiency(clip: Path, copies: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of: one actor, two actors; one process, two processes at once on halves."""
    taken: dict[str, list[float]] = {"one actor": [], "two actors": [], "one process": [], "two processes": []}
    with tempfile.TemporaryDirectory() as name:
        clips = []
        for number in range(copies):  # the same pictures, another digest
            copy = Path(name) / f"{number}.mp4"
            copy.write_bytes(clip.read_bytes() + (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big"))
            clips.append(copy)
        for turn in range(repeats):
            for workers, kind in ((1, "one actor"), (2, "two actors")):
                folder = Path(name) / f"{turn}-{kind}"
                options = ("--runner", "ray", "--workers", str(workers), "--gpus-per-worker", "1", "--num-gpus", "2")
                taken[kind].append(edit_seconds(clips, folder, *options))
            taken["one process"].append(edit_seconds(clips, Path(name) / f"{turn}-one"))
            halves = [begin(clips[i::2], Path(name) / f"{turn}-half-{i}") for i in range(2)]
            taken["two processes"].append(max(finished(child) for child in halves))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--without-ray", action="store_true", help="only what needs no Ray")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    info = probe(arguments.clip)
    template = Source(info.sha256[:16], replace(info, pts=info.pts[:1]))
    found: dict[str, Any] = {"load": os.getloadavg(), "cores": os.cpu_count()}
    folder = Path(tempfile.mkdtemp())
    try:
        counts = (1_000, 10_000, 100_000)
        found["driver_peak_bytes"] = {count: driver_peak(template, count) for count in counts}
        found["resume_seconds_per_source"] = resume_seconds(template, folder, 500)
        ledger = Ledger(Store.create(folder / "items", INFO))
        here = InProcessRunner()
        found["in_process_seconds_per_item"] = per_item(template, here, arguments.items, None)
        found["with_entry_seconds_per_item"] = per_item(template, here, arguments.items, ledger)
        if not arguments.without_ray:
            from pipeline.on_ray.runner import RayRunner

            runner = RayRunner(workers=1, num_gpus=2)
            runner.run(Course([Stage("nothing", Nothing(), frames=1)], sources_like(template, 2), None))
            found["ray_seconds_per_item"] = per_item(template, runner, arguments.items, None)
            found["replacement_seconds"] = statistics.median(
                replacement_seconds(template, folder, runner) for _ in range(arguments.repeats)
            )
            runner.close()
            taken = efficiency(arguments.clip, arguments.copies, arguments.repeats)
            found["seconds"] = taken
            middle = {name: statistics.median(values) for name, values in taken.items()}
            found["efficiency_of_actors"] = middle["one actor"] / middle["two actors"] / 2
            found["efficiency_of_processes"] = middle["one process"] / middle["two processes"] / 2
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = json.dumps(found, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
