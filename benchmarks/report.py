"""What a report over a large job takes: time, bytes and pages, and whether it opens in a browser.

    python -m benchmarks.report --store STORE [--clips 500] [--pictures 5000]

STORE: any store with a rendered clip. Its rows stand under so many other keys in a store of the benchmark's own, a part per
source and table as a job writes them; a picture is one frame of it. Nothing is rendered.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.common.report_data import entries_of
from jobs.common.report_page import write_report
from pipeline.store.places import place
from pipeline.store.tables import Store
from schemas import Failure

TABLES = ("frames", "tracks", "latents", "edits", "quality")


def copied(rows: pa.Table, **values: object) -> pa.Table:
    """The rows with the same value in some columns."""
    for name, value in values.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at), pa.array([value] * len(rows), rows.schema.field(at).type))
    return rows


def fill(store: Store, origin: Store, clips: int, pictures: int) -> None:
    """Write the rows of the origin's first rendered source under many keys. Every hundredth lost something."""
    source_id = origin.stored_source_ids("quality")[0]
    rows = {name: origin.read(name, source_id) for name in ("sources", *TABLES)}
    path = rows["quality"]["path"][0].as_py()
    rows["quality"] = rows["quality"].filter(pc.equal(rows["quality"]["path"], path))
    rows["edits"] = rows["edits"].filter(pc.equal(rows["edits"]["recipe_id"], rows["quality"]["recipe_id"][0]))
    with_thumbnail = rows["quality"].filter(pc.is_valid(rows["quality"]["thumbnail"]))
    random = np.random.default_rng(0)
    for at in range(clips + pictures):
        key, is_clip = hashlib.sha256(f"{at}".encode()).hexdigest(), at < clips
        name = f"clip_{at:04d}.mp4" if is_clip else f"photograph_{at:05d}.jpg"
        kind = {} if is_clip else {"kind": "image", "frame_count": 1, "last_pts": rows["sources"]["pts"][0].as_py()}
        store.write_part(
            "sources", key[:16], 0, copied(rows["sources"], source_id=key[:16], uri=f"/in/{name}", sha256=key, **kind)
        )
        pts = rows["quality"]["pts"] if is_clip else with_thumbnail["pts"][:1]
        for table in TABLES:
            mine = rows[table].filter(pc.is_in(rows[table]["pts"], pts.combine_chunks()))
            changed = copied(mine, source_id=key[:16], **({"path": f"/out/{name}"} if table == "quality" else {}))
            if table == "quality":
                scale = pa.scalar(float(random.lognormal(0, 0.4)), pa.float32())
                for measure in ("trouble", "inversion_error"):
                    column = changed.schema.get_field_index(measure)
                    scaled = pc.multiply(changed[measure], scale)
                    changed = changed.set_column(column, changed.schema.field(column), scaled)
            store.write_part(table, key[:16], 0, changed)
        if at % 100 == 7:
            said = "the worker was killed (signal 9)"
            failure = Failure(key[:16], f"/in/{name}", "invert", "worker_died", said, pts=0)
            store.write_failures("invert", [failure])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--keep", type=Path, help="Folder for the report, to look at.")
    chosen = parser.parse_args()
    origin = Store.open(chosen.store)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "store", origin.info)
        started = time.perf_counter()
        fill(store, origin, chosen.clips, chosen.pictures)
        print(f"filled in {time.perf_counter() - started:.0f} s")
        path = (chosen.keep or Path(folder)) / "report.html"
        wall, processor = time.perf_counter(), time.process_time()
        pages = write_report(place(str(path)), store, entries_of(store), [], title="a night")
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        sizes = [Path(str(page)).stat().st_size for page in pages]
        print(f"{chosen.clips} clips, {chosen.pictures} pictures: {wall:.1f} s ({processor:.1f} s of processor)")
        total, first, most = (size / 1e6 for size in (sum(sizes), sizes[0], max(sizes)))
        print(f"{len(pages)} pages, {total:.1f} MB; the first {first:.1f} MB, the largest {most:.1f} MB")
        print(opens(path))


def opens(path: Path) -> str:
    """How long the first page takes until it is drawn, and until its table is sorted."""
    try:
        from tests import browser
    except ImportError as error:
        return f"not opened: {error}"
    with browser.browser() as chromium:
        started = time.perf_counter()
        with browser.opened(chromium, path.as_uri()) as page:
            page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            drawn = time.perf_counter() - started
            started = time.perf_counter()
            page.get_by_role("button", name="faces", exact=True).click()
            rows = page.locator("#table tbody tr").count()
            return f"in Chromium: drawn after {drawn:.1f} s, {rows} rows sorted in {time.perf_counter() - started:.1f} s"


if __name__ == "__main__":
    main()
