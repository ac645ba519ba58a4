"""styleres inspect: what is in a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pyarrow.compute as pc
import typer
from rich.console import Console
from rich.table import Table

from jobs.errors import explained
from pipeline.store import Store


def inspect(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Folder of the Parquet store.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Sources, tracks, sizes and lost items of a store."""
    with explained():
        facts = store_facts(Store.open(store))
    if as_json:
        print(json.dumps(facts))
        return
    console = Console()
    console.print(f"{store}: model {facts['model']}, schema {facts['schema_version']}, residuals {facts['codec']}")
    sources = Table("source", "file", "frames", "size", "tracks", "faces", "edits", "state")
    for row in facts["sources"]:
        size = f"{row['width']}x{row['height']}"
        state = "complete" if row["complete"] else "incomplete"
        recipes = str(len(row["recipes"]))
        sources.add_row(
            row["source_id"], row["uri"], str(row["frames"]), size, str(row["tracks"]), str(row["faces"]), recipes, state
        )
    console.print(sources)
    sizes = Table("table", "rows", "bytes", "bytes per face and frame")
    for name, one in facts["tables"].items():
        sizes.add_row(name, str(one["rows"]), str(one["bytes"]), f"{one['bytes_per_face_frame']:.0f}")
    console.print(sizes)
    if facts["failures"]:
        lost = Table("stage", "reason", "file", "pts", "message")
        for row in facts["failures"]:
            span = "" if row["pts"] is None else f"{row['pts']}..{row['last_pts']}"
            lost.add_row(row["stage"], row["reason"], row["uri"], span, row["message"])
        console.print(lost)


def store_facts(store: Store) -> dict[str, Any]:
    """Everything `styleres inspect` shows, as JSON values."""
    rows, sizes, per_face = store.row_counts(), store.sizes_bytes(), store.bytes_per_face_frame()
    sources = []
    for row in store.sources().to_pylist():
        source_id = row["source_id"]
        tracks = store.read("tracks", source_id, columns=["track_id"])
        latents = store.read("latents", source_id, columns=["track_id"])
        recipes = store.read("edits", source_id, columns=["recipe_id"])
        sources.append(
            {
                "source_id": source_id,
                "uri": row["uri"],
                "frames": row["frame_count"],
                "width": row["width"],
                "height": row["height"],
                "tracks": pc.count_distinct(tracks["track_id"]).as_py(),
                "faces": len(latents),
                "recipes": pc.unique(recipes["recipe_id"]).to_pylist(),
                "complete": store.is_complete(source_id),
            }
        )
    failures = store.failures().select(["stage", "reason", "uri", "pts", "last_pts", "message"]).to_pylist()
    return {
        "model": store.info.model_name,
        "model_digest": store.info.model_digest,
        "schema_version": store.info.schema_version,
        "codec": store.info.residual_codec,
        "wplus_shape": list(store.info.wplus_shape),
        "residual_shape": list(store.info.residual_shape),
        "sources": sources,
        "tables": {
            name: {"rows": rows[name], "bytes": sizes[name], "bytes_per_face_frame": per_face.get(name, 0.0)} for name in rows
        },
        "failures": failures,
    }


def main() -> None:
    typer.run(inspect)


if __name__ == "__main__":
    main()
