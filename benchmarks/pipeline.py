"""What a run costs: share of model compute, speed of `edit` and `render`, peak memory, size of the store.

    python benchmarks/pipeline.py --clip ../shared/videos/lp_d18_man_480.mp4 --json pipeline.json

Every run is a process of its own that does what `styleres edit` and `styleres render` do (in-process runner, all defaults), so
that its peak memory is its own. Edit and render take turns, so that a slower minute of the machine meets both.

What is counted, per run:
    job seconds        from the first line of the job to its last: probing, loading models, everything but Python's imports
    process seconds    the whole process, imports included
    model seconds      time in the detector's, the encoder's and the generator's calls, transfers included
    peak memory        ru_maxrss of the process
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
MODEL_PARTS = ("detect", "model")
AIM_SHARE, AIM_RATIO, AIM_MEMORY = 0.70, 1.8, 0.10
PER_FACE_TABLES = ("latents", "residuals", "faces", "tracks")


class BenchmarkError(RuntimeError):
    """A run that did not end well; its output is in the message."""


@dataclass(frozen=True)
class Run:
    """One process that did one job."""

    job: str
    frames: int
    faces: int
    job_seconds: float
    process_seconds: float
    peak_bytes: int
    seconds_by_part: dict[str, float]

    @property
    def model_share(self) -> float:
        return sum(self.seconds_by_part.get(part, 0.0) for part in MODEL_PARTS) / self.job_seconds


@dataclass(frozen=True)
class Measured:
    """Everything the table is made of."""

    clip: str
    repeats: int
    edits: list[Run]
    renders: list[Run]
    long_edit: Run | None
    long_times: int
    store_bytes: dict[str, int]
    store_rows: int


def run_job(job: str, arguments: Sequence[str]) -> Run:
    """Run `python -m jobs.JOB` as a child and read its last line and its peak memory.

    Raises BenchmarkError where the job fails, or loses something.
    """
    command = [sys.executable, "-m", f"jobs.{job}", *arguments, "--progress", "json", "--overwrite"]
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert child.stdout is not None
        output = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)  # wait4 took it from under Popen
        errors.seek(0)
        if child.returncode != 0:
            raise BenchmarkError(f"{shlex.join(command)} ended with {child.returncode}:\n{output}{errors.read()}")
    done = json.loads(output.splitlines()[-1])
    return Run(
        job=job,
        frames=done["frames"],
        faces=done["faces"],
        job_seconds=done["seconds"],
        process_seconds=seconds,
        peak_bytes=usage.ru_maxrss * 1024,
        seconds_by_part=done["seconds_by_part"],
    )


def repeated_clip(source: Path, times: int, out: Path) -> None:
    """The same packets `times` over, one after the other; nothing is decoded. Keeps picture and sound."""
    with av.open(str(source)) as probe:
        video = probe.streams.video[0]
        assert video.time_base is not None
        shown = [(p.pts, p.duration or 0) for p in probe.demux(video) if p.pts is not None]
        last, length = max(shown)
        step = length or (last - min(shown)[0]) // max(len(shown) - 1, 1)
        period: Fraction = (last + step - min(shown)[0]) * video.time_base
    with av.open(str(out), "w") as target:
        streams = {}
        last_dts: dict[int, int] = {}
        for turn in range(times):
            with av.open(str(source)) as container:
                wanted = [container.streams.video[0], *container.streams.audio[:1]]
                for stream in wanted:
                    if turn == 0:
                        streams[stream.index] = target.add_stream_from_template(stream)
                for packet in container.demux(wanted):
                    if packet.dts is None or packet.pts is None:
                        continue
                    index = packet.stream.index
                    offset = round(turn * period / packet.time_base)
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    if packet.dts <= last_dts.get(index, packet.dts - 1):
                        continue  # an audio packet that reaches into the next turn
                    last_dts[index] = packet.dts
                    packet.stream = streams[index]
                    target.mux(packet)


def store_sizes(store: Path) -> tuple[dict[str, int], int]:
    """Table => bytes of its files; and the number of inverted faces."""
    sizes = {folder.name: 0 for folder in sorted(store.iterdir()) if folder.is_dir()}
    for name in sizes:
        sizes[name] = sum(file.stat().st_size for file in (store / name).rglob("*.parquet"))
    rows = sum(pq.read_metadata(file).num_rows for file in (store / "latents").rglob("*.parquet"))
    return {name: size for name, size in sizes.items() if size}, rows


def measure(clip: Path, edit: str, other_edit: str, repeats: int, long_times: int) -> Measured:
    with tempfile.TemporaryDirectory(prefix="styleres-benchmark-") as folder:
        work = Path(folder)
        edits, renders = [], []
        for turn in range(repeats):
            store = work / f"store{turn}"  # a new one each time, or there would be nothing left to invert
            out = ["--out", str(work / "edited.mp4")]
            edits.append(run_job("edit", [str(clip), "--edit", edit, "--store", str(store), *out]))
            renders.append(run_job("render", ["--store", str(store), "--edit", other_edit, *out]))
            print(progress_line(edits[-1]), progress_line(renders[-1]), file=sys.stderr, flush=True)
        sizes, rows = store_sizes(store)
        long_edit = None
        if long_times > 1:
            long_clip = work / f"long{clip.suffix}"
            repeated_clip(clip, long_times, long_clip)
            arguments = [
                str(long_clip),
                "--edit",
                edit,
                "--store",
                str(work / "long_store"),
                "--out",
                str(work / "long_edited.mp4"),
            ]
            long_edit = run_job("edit", arguments)
            print(progress_line(long_edit), file=sys.stderr, flush=True)
        return Measured(str(clip), repeats, edits, renders, long_edit, long_times, sizes, rows)


def progress_line(run: Run) -> str:
    rate = run.frames / run.job_seconds
    return f"{run.job}: {rate:.1f} frames/s, model {run.model_share:.0%}, {run.peak_bytes / 2**20:.0f} MiB;"


def table(measured: Measured, command: str) -> str:
    """The result as Markdown, aims beside results."""
    edits, renders = measured.edits, measured.renders
    frames = edits[0].frames
    pairs = list(zip(edits, renders, strict=True))

    def median(values: Sequence[float]) -> float:
        return statistics.median(values)

    def spread(values: Sequence[float], form: str) -> str:
        return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"

    def verdict(reached: bool) -> str:
        return "reached" if reached else "**missed**"

    share = [run.model_share for run in edits]
    ratio = [e.job_seconds / r.job_seconds for e, r in pairs]
    whole_ratio = [e.process_seconds / r.process_seconds for e, r in pairs]
    rows = [
        (
            "model compute, detector included, of `edit`",
            spread(share, ".1%"),
            f"≥ {AIM_SHARE:.0%}",
            verdict(median(share) >= AIM_SHARE),
        ),
        ("model compute of `render`", spread([run.model_share for run in renders], ".1%"), "", ""),
        ("`edit`, frames/s", spread([frames / run.job_seconds for run in edits], ".2f"), "", ""),
        ("`render` from the store, frames/s", spread([frames / run.job_seconds for run in renders], ".2f"), "", ""),
        ("`render` against `edit`", spread(ratio, ".2f"), f"≥ {AIM_RATIO}", verdict(median(ratio) >= AIM_RATIO)),
        ("the same with Python's start and imports", spread(whole_ratio, ".2f"), "", ""),
    ]
    peak = max(run.peak_bytes for run in edits)
    rows.append((f"peak memory of `edit`, {frames} frames", f"{peak / 2**20:.0f} MiB", "", ""))
    rows.append(("peak memory of `render`", f"{max(run.peak_bytes for run in renders) / 2**20:.0f} MiB", "", ""))
    if measured.long_edit is not None:
        long = measured.long_edit
        growth = long.peak_bytes / peak - 1
        rows.append(
            (
                f"peak memory of `edit`, {long.frames} frames",
                f"{long.peak_bytes / 2**20:.0f} MiB ({growth:+.1%})",
                f"within {AIM_MEMORY:.0%}",
                verdict(growth <= AIM_MEMORY),
            )
        )
        rows.append((f"`edit`, {long.frames} frames: frames/s", f"{long.frames / long.job_seconds:.2f}", "", ""))
        rows.append((f"model compute of `edit`, {long.frames} frames", f"{long.model_share:.1%}", "", ""))
    faces = max(measured.store_rows, 1)
    whole = sum(measured.store_bytes.values())
    parts = ", ".join(f"{name} {measured.store_bytes.get(name, 0) / faces:.0f}" for name in PER_FACE_TABLES)
    rows.append(("store, bytes per face and frame", f"{whole / faces:.0f} ({parts})", "", ""))

    lines = [f"`{command}`", "", machine(), "", "| what | median (least to most) | aim | |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", f"Where the seconds of `edit` and `render` go (median of {measured.repeats}):", ""]
    names = sorted({name for run in edits + renders for name in run.seconds_by_part})
    shown = [*names, "elsewhere"]
    lines += [f"| | {' | '.join(shown)} | sum |", "|---|" + "---|" * (len(shown) + 1)]
    for label, runs in (("edit", edits), ("render", renders)):
        seconds = [median([run.seconds_by_part.get(name, 0.0) for run in runs]) for name in names]
        elsewhere = median([run.job_seconds - sum(run.seconds_by_part.values()) for run in runs])
        total = median([run.job_seconds for run in runs])
        lines.append(f"| {label} | {' | '.join(f'{value:.2f}' for value in [*seconds, elsewhere, total])} |")
    return "\n".join(lines)


def machine() -> str:
    """What it ran on."""
    processor = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = names[0] if names else processor
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    return f"{len(os.sched_getaffinity(0))} cores ({processor}), Python {platform.python_version()}, OMP_NUM_THREADS {threads}."


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a run costs.")
    parser.add_argument("--clip", type=Path, required=True, help="A video with a face; the aims are for a 480p one.")
    parser.add_argument("--edit", default="smile=2", help="What `edit` does.")
    parser.add_argument("--other-edit", default="age=2", help="What `render` does with the store.")
    parser.add_argument("--repeats", type=int, default=5, help="Runs of edit and of render, taking turns.")
    parser.add_argument("--long-times", type=int, default=10, help="Length of the long clip in clips; 1 leaves it out.")
    parser.add_argument("--json", type=Path, help="Write every run here.")
    options = parser.parse_args()
    if options.repeats < 1 or not options.clip.is_file():
        parser.error("expected --clip to be a file and --repeats to be 1 or more")
    measured = measure(options.clip.resolve(), options.edit, options.other_edit, options.repeats, options.long_times)
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(measured), indent=1))
    command = shlex.join(["python", "benchmarks/pipeline.py", *sys.argv[1:]])
    print(table(measured, command))


if __name__ == "__main__":
    main()
