"""How long a person waits: for a preview of a clip and of a store, from the start of the command to its end.

    python benchmarks/looking.py --clip CLIP [--store STORE] [--rounds 3]

A preview is its own process, imports included, as a user starts it. On a busy machine the processor seconds are the number that
can be compared; both are printed, the fastest of the rounds. STORE: one of the default model; made of the clip if not given.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EDITS = ("--edit", "smile=1", "--edit", "age=4")


def timed(*words: str) -> tuple[float, float]:
    """(wall, processor) seconds of a `styleres` command. Raises CalledProcessError."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "jobs.cli", *words], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def fastest(rounds: int, *words: str) -> str:
    runs = [timed(*words) for _ in range(rounds)]
    wall, processor = (min(column) for column in zip(*runs, strict=True))
    return f"{wall:.1f} s | {processor:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = chosen.store or Path(folder) / "store"
        if chosen.store is None:
            timed("invert", str(chosen.clip), "--store", str(store))
        out = ("--out", str(Path(folder) / "sheet.png"))
        cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
        print(f"{cores} cores, load of others {load:.1f} before the first\n")
        print("| what | wall | processor |\n|---|---|---|")
        ladder = ("--edit", "smile", "--strengths=-1,0,1,2")
        for name, words in (
            ("preview of a clip, two edits, three faces", (str(chosen.clip), *EDITS)),
            ("preview of a store, the same", (str(store), *EDITS)),
            ("ladder of four strengths from the store", (str(store), *ladder)),
        ):
            print(f"| {name} | {fastest(chosen.rounds, 'preview', *words, *out)} |", flush=True)


if __name__ == "__main__":
    main()
