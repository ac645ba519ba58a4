"""join: rows of pictures, as workers wrote them for some dozen each => a pack. One item is a pack.

Reads the folders that entries vouch for and writes one part per table, whose row groups hold some dozen rows. Rows are moved,
never changed, and stand in the order in which the pictures were given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import pyarrow as pa
import pyarrow.compute as pc

import schemas
from pipeline.engine.packs import ENTRIES, RENDERED
from pipeline.engine.stage import Joining, Result, Step
from pipeline.engine.timer import Timer
from pipeline.store.packs import group_rows
from pipeline.store.parts import Part, Written, read_footer, read_rows
from pipeline.store.places import Listed, joined, listed
from pipeline.store.records import read_record
from pipeline.store.tables import Store, range_part


@final
@dataclass(frozen=True)
class Join(Step):
    VERSION: ClassVar[int] = 1

    store: str

    def open(self) -> Callable[[Joining], Result]:
        store = Store.open(self.store)

        def join(item: Joining) -> Result:
            timer = Timer()
            with timer("join"):
                entries = [read_record(joined(store.root, f"{ENTRIES}/{name}.json")) for name in item.entries]
                staged: dict[str, list[Part]] = {}
                members: dict[str, str] = {}
                rendered: dict[str, list[dict[str, Any]]] = {}
                devices: dict[str, set[str]] = {}
                for entry in entries:
                    folders = {one["path"].rpartition("/")[0] for one in entry["files"]}
                    there = {one.path: one for name in folders for one in listed(joined(store.root, name))}
                    for one in entry["files"]:
                        path = joined(store.root, one["path"])
                        part = read_footer(there.get(path, Listed(path, one["size_bytes"], "")), whole=True)
                        staged.setdefault(path.stem, []).append(part)
                    for source_id, made in entry["rendered"].items():
                        rendered.setdefault(source_id, []).extend(made)
                    for step, kinds in entry["devices"].items():
                        devices.setdefault(step, set()).update(kinds)
                    members |= {one: mark for one, mark in entry["members"].items() if one not in item.done_inverting}
                files, failed = [], {failure.source_id for failure in item.failures}
                for table in schemas.TABLES:
                    rows = self._rows(store, table, staged.get(table, []), item)
                    if rows is not None and rows.num_rows:
                        files.append(self._written(store, table, item, rows))
                        if table == "failures":
                            failed |= lost_in(rows)
            about = {
                "members": members,
                "rendered": rendered,
                "edited": sorted({one for entry in entries for one in entry["edited"]}),
                "failed": sorted(failed),
                "devices": {step: sorted(kinds) for step, kinds in devices.items()},
            }
            return Result({"packs": 1}, timer.seconds, files=tuple(files), about=about)

        return join

    def _rows(self, store: Store, table: str, parts: list[Part], item: Joining) -> pa.Table | None:
        schema = store.schema(table)
        pieces = []
        seen: set[str] = set()
        for part in parts:
            rows = read_rows(part, schema.names, schema)
            if table not in ("failures", "segments"):
                # Two files of the same bytes, which two workers had at once; or one that was edited again after a kill. Rows of
                # `quality` belong to an edited file.
                of = "path" if table == "quality" else "source_id"
                ids = set(pc.unique(rows[of]).to_pylist())
                twice = ids & (seen if table in RENDERED else seen | item.done_inverting)
                if twice:
                    rows = rows.filter(pc.invert(pc.is_in(rows[of], pa.array(sorted(twice), pa.string()))))
                seen |= ids
            pieces.append(rows)
        if table == "failures" and item.failures:
            pieces.append(schemas.failures_table(item.failures))
        return pa.concat_tables(pieces) if pieces else None

    def _written(self, store: Store, table: str, item: Joining, rows: pa.Table) -> Written:
        ids = pc.count_distinct(rows["source_id"]).as_py()
        part = item.recipe_id if table in RENDERED else range_part(0, ids)
        return store.write_part(table, item.pack_id, part, rows.combine_chunks(), group_rows=group_rows(rows))


def lost_in(rows: pa.Table) -> set[str]:
    """Return the keys of the pictures that lost something, from rows of `failures`."""
    reasons = rows["reason"].to_pylist()
    return {one for one, why in zip(rows["source_id"].to_pylist(), reasons, strict=True) if why not in schemas.PASSED_THROUGH}
