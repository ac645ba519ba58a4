"""What an image set costs: pictures per second, processor ms per picture by part, files, bytes, memory, and how that grows.

    python -m benchmarks.frames --faces FACES.parquet --count 2000 --json frames.json

edit        `edit` with a store, in this process, of COUNT small JPEGs with one face each, which are made of FACES (a table of
            aligned faces). Milliseconds are the processor's, so that other work on the machine changes them little
overhead    all of it but decode, encode and the networks (detect, model, person): reading, hashing, tracking, cropping,
            pasting, rows, entries, packs
a_picture_more
            with --few, after a run to warm up: what the pictures cost that this run has more than one of so few
again       the same command over finished pictures
growth      the driver alone over 1,000 to 100,000 listed pictures whose worker only writes rows: seconds and memory
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jobs.common.prepare import open_store
from ops.checkpoints.bundle import open_bundle
from ops.editing.recipe import parse_edits
from pipeline import flow
from pipeline.engine import timer
from pipeline.engine.course import Course, silent
from pipeline.engine.ledger import Ledger
from pipeline.engine.packs import ENTRIES, STAGED, Packs, Wanted
from pipeline.engine.runner import InProcessRunner
from pipeline.engine.stage import Batched, Picture, Result, Stage, Step
from pipeline.sources.fetch import image_bytes, image_column
from pipeline.sources.inputs import Probing, entries
from pipeline.sources.outputs import Admission, Outputs
from pipeline.steps.join import Join
from pipeline.steps.plan import PlanSettings
from pipeline.store.columns import latents_table
from pipeline.store.parts import Written, write_rows
from pipeline.store.places import joined
from pipeline.store.records import write_record
from pipeline.store.tables import Store, StoreInfo

OWN_WORK = ("decode", "detect", "model", "person", "encode")
"""Parts that are not overhead: the picture's own, and networks."""
INFO = StoreInfo("none", "0" * 64, (1, 8), (1, 1, 1), "float32", 1, "0")


def write_pictures(faces: Path, folder: Path, count: int) -> None:
    """JPEGs of 200 x 180 px with one face each, all different."""
    table = pq.read_table(faces, columns=[image_column(pq.read_schema(faces))])
    folder.mkdir(parents=True)
    for number in range(count):
        face = (
            Image.open(io.BytesIO(image_bytes(table.column(0)[number % len(table)].as_py()))).convert("RGB").resize((128, 128))
        )
        canvas = Image.new("RGB", (200, 180), (90, 100, 110))
        canvas.paste(face, (36 + number // len(table), 26))
        canvas.save(folder / f"{number:06d}.jpg", quality=92)


def edit(folder: Path, model: str) -> dict[str, Any]:
    """Everything below FOLDER/in; => what it cost."""
    bundle = open_bundle(model)
    store = open_store(folder / "store", bundle, "float16")
    outputs = Outputs(str(folder / "out"), sets=True)
    rendering = flow.RenderSettings(PlanSettings(parse_edits(["smile=1"])))
    policy = flow.Policy(False, Admission(outputs, False, False))
    found = Probing(entries([str(folder / "in")]), lambda failure: None, open_pictures=False)
    begun, used = time.perf_counter(), time.process_time()
    summary = flow.edit(
        found, outputs, store, bundle, flow.InvertSettings(), rendering, flow.Compute("cpu"), InProcessRunner(), silent, policy
    )
    seconds, processor = time.perf_counter() - begun, time.process_time() - used
    files = [path for path in (folder / "store").rglob("*") if path.is_file()]
    count = summary.sources_done
    return {
        "pictures": count,
        "edits": summary.counts["edits"],
        "lost": summary.lost_count,
        "pictures_per_second": count / seconds,
        "processor_ms": 1000 * processor / count,
        "ms_by_part": {name: 1000 * float(spent) / count for name, spent in sorted(summary.seconds.items())},
        "overhead_ms": 1000 * (processor - sum(float(summary.seconds[name]) for name in OWN_WORK)) / count,
        "files": len(files),
        "store_bytes": sum(path.stat().st_size for path in files),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def a_picture_more(few: dict[str, Any], many: dict[str, Any]) -> dict[str, float]:
    """Milliseconds of each picture that one run has more than another: without what is paid once, as loading a model is."""
    count = many["pictures"] - few["pictures"]
    of = {one: [run[one] for run in (few, many)] for one in ("processor_ms", "overhead_ms")}
    of |= {name: [run["ms_by_part"].get(name, 0.0) for run in (few, many)] for name in many["ms_by_part"]}
    return {name: (many["pictures"] * b - few["pictures"] * a) / count for name, (a, b) in of.items()}


@dataclass(frozen=True)
class RowsOnly(Step):
    """A worker that opens no picture, and writes rows of codes that are all zero."""

    store: str

    def open(self) -> Batched:
        store = Store.open(self.store)

        def finish(pictures: Sequence[Picture]) -> list[Result]:
            entry = f"{pictures[0].order:016x}"
            ids = [picture.source_id for picture in pictures]
            zeros = np.zeros(len(ids), np.int64)
            rows: pa.Table = latents_table(ids, 0, zeros, np.zeros((len(ids), *INFO.wplus_shape), np.float32))
            name = f"{STAGED}/{entry}/latents.parquet"
            file = write_rows(joined(store.root, name), rows, "latents")
            written = Written(name, file.size_bytes, file.sha256, len(ids), file.tail_sha256)
            content = {"inverting": "x", "rendering": "", "recipe_id": "", "pictures": ids, "known_as": ids, "edited": []}
            content |= {"members": {one.source_id: f"{one.mark:016x}" for one in pictures}, "rendered": {}, "strips": []}
            write_record(joined(store.root, f"{ENTRIES}/{entry}.json"), content | {"files": [asdict(written)], "devices": {}})
            return [Result({"frames": 1}, about={"entry": entry, "source_id": one}) for one in ids]

        return Batched(lambda picture: picture, finish)


def growth(count: int) -> dict[str, float]:
    """Seconds of the driver, and peak of its Python memory, for so many pictures."""

    def listed() -> Iterator[Picture]:
        for number in range(1, count + 1):
            yield Picture(f"/pictures/{number:09d}.jpg", f"{number:09d}.jpg", number, number, f"{number * 0x9E3779B9:016x}")

    folder = Path(tempfile.mkdtemp())
    try:
        store = Store.create(folder / "store", INFO)
        root = str(store.root)
        used = time.process_time()
        packs = Packs(Stage("pictures", RowsOnly(root)), Stage("join", Join(root), frames=1), store, Wanted("x"))
        InProcessRunner().run(Course([], listed(), Ledger(store), packs=packs))
        seconds = time.process_time() - used
        shutil.rmtree(folder)
        store = Store.create(folder / "store", INFO)
        tracemalloc.start()
        packs = Packs(Stage("pictures", RowsOnly(root)), Stage("join", Join(root), frames=1), store, Wanted("x"))
        InProcessRunner().run(Course([], listed(), Ledger(store), packs=packs))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"ms_per_picture": 1000 * seconds / count, "peak_mib": peak / (1 << 20)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--few", type=int, default=0, help="pictures of a run beside it, for what a picture more costs")
    parser.add_argument("--model", default="mini64")
    parser.add_argument("--most", type=int, default=100_000, help="pictures of the largest run of the growth")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    timer.CLOCK = time.process_time
    folder = Path(tempfile.mkdtemp())
    found: dict[str, Any] = {"load": os.getloadavg(), "cores": os.cpu_count()}
    try:
        write_pictures(arguments.faces, folder / "in", arguments.count)
        if arguments.few:
            for name in ("warm", "few"):
                write_pictures(arguments.faces, folder / name / "in", arguments.few)
                few = edit(folder / name, arguments.model)
        found["edit"] = edit(folder, arguments.model)
        if arguments.few:
            found["a_picture_more"] = a_picture_more(few, found["edit"])
        used = time.process_time()
        found["again"] = {"skipped_ms": 0.0} | {k: v for k, v in edit(folder, arguments.model).items() if k == "pictures"}
        found["again"]["skipped_ms"] = 1000 * (time.process_time() - used) / arguments.count
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found["growth"] = {count: growth(count) for count in (1_000, 10_000, 100_000) if count <= arguments.most}
    text = json.dumps(found, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
