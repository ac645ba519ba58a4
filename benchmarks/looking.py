"""How long a person waits: for a preview, from start to end of the command, and for the studio's picture after a slider moved.

    python -m benchmarks.looking --clip CLIP [--store STORE] [--rounds 3]

A preview is its own process, imports included, as a user starts it. The studio's pictures are made as its page makes them, and
encoded for the browser, without the way there. On a busy machine the processor seconds are the number that can be compared;
both are printed, the fastest of the rounds. STORE: one of the default model; made of the clip if not given.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from jobs.common.prepare import open_settled, stored_bundle
from jobs.common.screen import Look, Screen, png, webp
from ops.editing.recipe import parse_edits
from ops.face.paste import PasteSettings

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


def studio_rows(store: Path, rounds: int) -> Iterator[str]:
    """Rows of the table for the studio, on one face in the middle of the store's first source."""
    opened = open_settled(str(store))
    screen = Screen(opened, stored_bundle(opened, None, "auto"), [])
    clip = screen.clip(next(iter(screen.names())))
    at, sizes = clip.source.info.n_frames // 2, screen.bundle.config.generator.sizes
    for name, look in (
        (f"studio: a slider moved, {sizes[0]} px", Look(PasteSettings(), sizes[0], False)),
        (f"studio: it rests, {sizes[0]} px, a render's bits", Look(PasteSettings(), sizes[0], True)),
        ("studio: it rests, a render's size and bits", Look(PasteSettings(), None, True)),
    ):
        encode = png if look.exact else webp
        screen.edited(clip, at, parse_edits(["smile=0.9"]), look)  # loads the model, and makes the reconstruction
        spent = []
        for number in range(rounds + 2):
            wall, processor = time.perf_counter(), time.process_time()
            encode(screen.edited(clip, at, parse_edits([f"smile={1 + number / 10}"]), look))
            spent.append((time.perf_counter() - wall, time.process_time() - processor))
        wall, processor = (min(column) for column in zip(*spent, strict=True))
        yield f"| {name} | {wall:.2f} s | {processor:.2f} s |"


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
        for row in studio_rows(store, chosen.rounds):
            print(row, flush=True)


if __name__ == "__main__":
    main()
