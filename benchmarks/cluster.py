"""What the runner, the account and the driver cost, on this machine with logical GPUs.

    python benchmarks/cluster.py --clip ../shared/videos/carphone_176x144.mp4 --json cluster.json

    efficiency      seconds of one Ray actor over twice those of two, on the same clips; beside it the ideal: one process over
                    two processes at once, without Ray, on halves of them. Cores, memory and caches are shared in both, so the
                    ratio of the two ratios is what the runner costs
    per item        seconds of an item that does nothing: through Ray, and in this process with its entry in the ledger
    replacement     seconds from kill -9 of the only worker until another one has finished the item
    driver memory   peak of Python's memory for 1 000, 10 000 and 100 000 sources of one frame
    resume          seconds to pass over a finished source

    python -m benchmarks.cluster --nodes --clip CLIP --faces FACES.parquet --clips 40 --pictures 2000 --json nodes.json

    four nodes      the same job in this process and on a cluster of four nodes of half a core each, with inputs, store and
                    output in a bucket (moto's), one node killed on the way and one added; then the command again, over what is
                    finished. Rows and files of both are compared, processor seconds and requests to the bucket counted

    python -m benchmarks.cluster --finished 10000     a second run over so many pictures of a bucket that are finished

Runs take turns, so that a slower minute of the machine meets all of them; what is reported are medians.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.bucket import BUCKET, asked, bucket  # noqa: E402
from benchmarks.frames import write_pictures  # noqa: E402
from ops.files.digest import sha256_of  # noqa: E402
from ops.video.probe import probe  # noqa: E402
from pipeline.engine.course import Course, Settled  # noqa: E402
from pipeline.engine.ledger import Ledger  # noqa: E402
from pipeline.engine.runner import InProcessRunner, Runner  # noqa: E402
from pipeline.engine.stage import Chunk, Outcome, Result, Source, Stage, Step  # noqa: E402
from pipeline.store.places import joined, place, sizes_below, writing  # noqa: E402
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
    while (batch := course.take()) is not None:
        for item in batch.items:
            course.settle(batch.stage, Outcome(item, Result(), None))
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


# ---------------------------------------------------------------------------------------------------- four nodes


MARK = "STYLERES_BENCHMARK"


class Processors:
    """Processor seconds of all processes that have a mark in their environment, the dead ones as they were last seen."""

    def __init__(self, mark: str) -> None:
        self._mark = f"{MARK}={mark}".encode()
        self._seconds: dict[int, tuple[str, float]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            self._look()

    def _look(self) -> None:
        for folder in Path("/proc").iterdir():
            try:
                if not folder.name.isdigit() or self._mark not in (folder / "environ").read_bytes().split(b"\0"):
                    continue
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                command = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            kind = "workers" if command[0].startswith(b"ray::") else "driver" if b"jobs.edit" in command else "ray itself"
            self._seconds[int(folder.name)] = kind, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ended(self) -> dict[str, float]:
        self._look()
        self._ended.set()
        self._thread.join()
        found: Counter[str] = Counter()
        for kind, seconds in self._seconds.values():
            found[kind] += seconds  # type: ignore[assignment]
        return {kind: round(float(seconds), 1) for kind, seconds in found.items()}


def bucket_edit(name: str, mark: str, *options: str, given: str = "in") -> subprocess.Popen[str]:
    """`edit` of what lies in the bucket, store and output there."""
    root = f"s3://{BUCKET}"
    command = [sys.executable, "-m", "jobs.edit", f"{root}/{given}", "--edit", "smile=1", "--out", f"{root}/{name}/out"]
    command += ["--store", f"{root}/{name}/store", "--progress", "json", "--preset", "ultrafast", "--chunk-frames", "16"]
    command += ["--no-report", "--device", "cpu", "--model", "mini64", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", MARK: mark}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def followed(child: subprocess.Popen[str], see: Callable[[dict[str, Any]], None] = lambda line: None) -> dict[str, Any]:
    """Read a run to its end; => its last line, with its seconds."""
    begun, line = time.perf_counter(), {}
    assert child.stdout is not None and child.stderr is not None
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(child.stderr or ()), daemon=True)
    reader.start()
    for text in child.stdout:
        if text.startswith("{"):  # Ray says things of its own
            line = json.loads(text)
            see(line)
    if child.wait() != 0:
        raise SystemExit(f"a run ended with {child.returncode}: {line} {''.join(errors)[-3000:]}")
    return line | {"wall_seconds": time.perf_counter() - begun}


def upload(clip: Path, faces: Path, clips: int, frames: int, pictures: int, folder: Path) -> None:
    """Short clips, all different, and small pictures with a face each."""
    write_pictures(faces, folder / "in/pictures", pictures)
    short = cut_of(clip, folder / "short.mp4", frames)
    (folder / "in/clips").mkdir(parents=True)
    for number in range(clips):
        tail = (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big")
        (folder / f"in/clips/{number:03d}.mp4").write_bytes(short.read_bytes() + tail)
    for path in sorted((folder / "in").rglob("*.*")):
        with writing(place(f"s3://{BUCKET}/{path.relative_to(folder)}")) as file:
            file.write(path.read_bytes())


def cut_of(clip: Path, path: Path, frames: int) -> Path:
    """The first frames of a clip, encoded again, without its sound."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "12", "g": "12"})
        context = video.codec_context
        stream = source.streams.video[0]
        context.width, context.height, context.pix_fmt = stream.width, stream.height, "yuv420p"
        for number, frame in enumerate(islice(source.decode(stream), frames)):
            picture = VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"))
            picture.pts, picture.time_base = number, Fraction(1, 25)
            out.mux(context.encode(picture))
        out.mux(context.encode(None))
    return path


def contents_of(name: str) -> tuple[dict[str, str], dict[str, Any]]:
    """SHA-256 of every edited file, and the rows of every table in one order, of a run."""
    root = place(f"s3://{BUCKET}/{name}/out")
    files = {path: sha256_of(joined(root, path)) for path in sizes_below(root) if "contact_sheet" not in path}
    store = Store.open(f"s3://{BUCKET}/{name}/store")
    rows = {}
    for table in ("sources", "frames", "faces", "tracks", "latents", "residuals", "edits", "failures", "quality", "segments"):
        found = store.read(table)
        keys = [key for key in dict.fromkeys(("source_id", "pts", "track_id")) if key in found.column_names]
        found = found.sort_by([(key, "ascending") for key in keys])
        plain = [column for column in found.column_names if column not in ("path", "uri")]
        rows[table] = found.select(plain).replace_schema_metadata(None)
    return files, rows


def four_nodes(clip: Path, faces: Path, clips: int, frames: int, pictures: int) -> dict[str, Any]:
    """The same job here and on four nodes of half a core each; one is killed at a quarter, another comes at the half."""
    from ray.cluster_utils import Cluster

    found: dict[str, Any] = {"clips": clips, "frames of a clip": frames, "pictures": pictures}
    folder = Path(tempfile.mkdtemp())
    os.environ |= {"RAY_worker_niceness": "0", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with bucket() as port:
        upload(clip, faces, clips, frames, pictures, folder)
        shutil.rmtree(folder)
        asked(port)
        processors = Processors("here")
        line = followed(bucket_edit("here", "here"))
        found["here"] = {"line": line, "processor_seconds": processors.ended()} | asked(port)
        print(json.dumps(found["here"]), flush=True)

        processors = Processors("nodes")
        os.environ[MARK] = "nodes"
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            nodes = [cluster.add_node(num_cpus=1) for _ in range(4)]
            cluster.wait_for_nodes()
            del os.environ[MARK]
            events: list[str] = []
            counts: dict[str, int] = {}

            def see(event: dict[str, Any]) -> None:
                if event["event"] != "stage" or event["stage"] not in ("pictures", "finalize"):
                    return
                counts[event["stage"]] = event["done"]
                done, total = sum(counts.values()), clips + pictures
                if done >= total / 4 and not events:
                    cluster.remove_node(nodes[1], allow_graceful=False)
                    events.append(f"a node was killed after {done} inputs")
                elif done >= total / 2 and len(events) == 1:
                    cluster.add_node(num_cpus=1)
                    events.append(f"a node was added after {done} inputs")

            line = followed(bucket_edit("nodes", "nodes", "--ray-address", cluster.address), see)
            found["nodes"] = {"line": line, "events": events, "processor_seconds": processors.ended()} | asked(port)
            print(json.dumps(found["nodes"]), flush=True)
        finally:
            cluster.shutdown()

        ours, theirs = contents_of("here"), contents_of("nodes")
        equal = sum(theirs[0].get(path) == digest for path, digest in ours[0].items())
        found["files"] = {"here": len(ours[0]), "nodes": len(theirs[0]), "equal": equal}
        found["rows"] = {
            table: {"here": len(rows), "nodes": len(theirs[1][table]), "equal": bool(rows.equals(theirs[1][table]))}
            for table, rows in ours[1].items()
        }
        asked(port)
        processors = Processors("again")
        line = followed(bucket_edit("nodes", "again"))
        found["again"] = {"line": line, "processor_seconds": processors.ended()} | asked(port)
    return found


def finished_pictures(count: int) -> dict[str, Any]:
    """The command again over so many finished pictures of a bucket: small ones without a face, so that they are soon done."""
    found: dict[str, Any] = {"pictures": count}
    random = np.random.default_rng(1)
    with bucket() as port:
        for number in range(count):
            data = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8)).save(data, "JPEG")
            with writing(place(f"s3://{BUCKET}/small/{number // 1000:03d}/{number:06d}.jpg")) as file:
                file.write(data.getvalue())
        asked(port)
        for turn in ("first", "again"):
            processors = Processors(turn)
            line = followed(bucket_edit("small-edited", turn, given="small"))
            found[turn] = {"line": line, "processor_seconds": processors.ended()} | asked(port)
            print(json.dumps(found[turn]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--without-ray", action="store_true", help="only what needs no Ray")
    parser.add_argument("--nodes", action="store_true", help="the job on four nodes, and nothing else")
    parser.add_argument("--finished", type=int, help="a second run over so many pictures of a bucket, and nothing else")
    parser.add_argument("--faces", type=Path, help="a table of aligned faces, of which pictures are made")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.finished:
        told(finished_pictures(arguments.finished), arguments.json)
        return
    if arguments.nodes:
        told(four_nodes(arguments.clip, arguments.faces, arguments.clips, arguments.frames, arguments.pictures), arguments.json)
        return
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
    told(found, arguments.json)


def told(found: dict[str, Any], where: Path | None) -> None:
    text = json.dumps(found, indent=1)
    print(text)
    if where:
        where.write_text(text + "\n")


if __name__ == "__main__":
    main()
