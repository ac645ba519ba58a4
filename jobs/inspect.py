"""styleres inspect: what is in a store, and which edits a model and the user's files offer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pyarrow.compute as pc
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.common import options
from jobs.common.errors import UsageError, explained
from jobs.common.prepare import definitions_from, open_settled
from ops.checkpoints.bundle import DEFAULT, Bundle, open_bundle
from ops.editing.definitions import Definition
from ops.editing.editor import EditError, check_fits
from ops.editing.library import incomplete, offers
from ops.files.errors import CheckpointError
from pipeline.store.packs import is_pack
from pipeline.store.places import folders
from pipeline.store.tables import Store, StoreError

FAILURE_COLUMNS = ["stage", "reason", "uri", "pts", "last_pts", "message"]


def inspect(
    store: Annotated[
        Path | None, typer.Argument(metavar="[STORE]", help="Folder of the Parquet store.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="An embedded model's name, or a bundle's folder; the store's own if not given.")
    ] = None,
    editor: options.UserEditors = [],  # noqa: B006 (typer copies it)
    editors: options.EditorFolders = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Sources, tracks, sizes and lost items of a store; edits of its model and of editor files, with their units."""
    with explained():
        if store is None and model is None and not editor and not editors:
            raise UsageError("expected a STORE, or --model, --editor or --editors, whose edits to list")
        opened = None if store is None else open_settled(store)
        facts = {} if opened is None else store_facts(opened)
        bundle = bundle_of(opened, model)
        if bundle is not None:
            facts["edits"], facts["incomplete_edits"] = edit_facts(bundle, definitions_from(editor, editors))
    if as_json:
        print(json.dumps(facts))
        return
    console = Console()
    if opened is not None:
        print_store(console, opened, facts)
    if bundle is not None:
        print_edits(console, bundle, facts)


def print_store(console: Console, store: Store, facts: dict[str, Any]) -> None:
    head = f"{store.root}: model {facts['model']}, schema {facts['schema_version']}, residuals {facts['codec']}"
    console.print(head, markup=False, highlight=False, soft_wrap=True)
    sources = Table("source", "file", "frames", "size", "tracks", "faces", "edits", "state")
    for row in facts["sources"]:
        size = "" if row["width"] is None else f"{row['width']}x{row['height']}"
        state = "complete" if row["complete"] else "incomplete" if row["damaged"] is None else row["damaged"]
        recipes = str(len(row["recipes"]))
        sources.add_row(
            row["source_id"],
            *(escape(known(row[name])) for name in ("uri", "frames")),
            size,
            *(known(row[name]) for name in ("tracks", "faces")),
            recipes,
            escape(state),
        )
    console.print(sources)
    kinds: dict[str, set[str]] = {}
    for row in facts["sources"]:
        for step, its in (row["devices"] or {}).items():
            kinds.setdefault(step, set()).update(its)
    if kinds:
        said = "; ".join(f"{step} {' and '.join(sorted(its))}" for step, its in kinds.items())
        console.print(f"computed on: {said}")
    sizes = Table("table", "rows", "bytes", "bytes per face and frame")
    for name, one in facts["tables"].items():
        sizes.add_row(name, str(one["rows"]), str(one["bytes"]), f"{one['bytes_per_face_frame']:.0f}")
    console.print(sizes)
    if facts["failures"]:
        lost = Table("stage", "reason", "file", "pts", "message")
        for row in facts["failures"]:
            span = "" if row["pts"] is None else f"{row['pts']}..{row['last_pts']}"
            lost.add_row(row["stage"], row["reason"], escape(row["uri"]), span, escape(row["message"]))
        console.print(lost)


def known(value: Any) -> str:
    return "" if value is None else str(value)


def print_edits(console: Console, bundle: Bundle, facts: dict[str, Any]) -> None:
    """Edits of one kind, from one file, share a row."""
    shared: dict[tuple[str, str, str, str], list[str]] = {}
    for row in facts["edits"]:
        neutral = "none" if row["neutral"] is None else f"{row['neutral']:g}"
        key = (Path(row["of"]).name, row["unit"] or "", neutral, row["problem"] or "")
        shared.setdefault(key, []).append(row["name"])
    edits = Table("edits", "of", "unit of strength", "neutral", f"why not with {bundle.name}")
    for key, names in shared.items():
        edits.add_row(", ".join(names), *map(escape, key))
    console.print(edits)
    for name, missing in facts["incomplete_edits"].items():
        console.print(f"{name}: {missing}", soft_wrap=True, highlight=False, markup=False)


def bundle_of(store: Store | None, model: str | None) -> Bundle | None:
    """The model whose edits are listed; None for a store whose bundle lies elsewhere and was not named."""
    if model is not None:
        return open_bundle(model)
    if store is None:
        return open_bundle(DEFAULT)
    try:
        return open_bundle(store.info.model_name)
    except CheckpointError:
        return None


def edit_facts(bundle: Bundle, definitions: Sequence[Definition]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Every edit of the model and of the definitions with its unit and neutral strength, and, where it cannot be used with this
    model, why; and what the folders lack for others."""
    own, config = bundle.editors(), bundle.config.generator
    rows: list[dict[str, Any]] = [
        {"name": name, "of": bundle.name, "unit": editor.unit, "neutral": editor.neutral, "problem": None, "record": None}
        for name, editor in own.items()
    ]
    for name, offer in offers(definitions).items():
        row: dict[str, Any] = {"name": name, "of": str(offer.definition.path), "unit": None, "neutral": None, "record": None}
        row["problem"] = "the model has an edit of that name; use another, or --editors PREFIX=FOLDER" if name in own else None
        try:
            editor = offer.definition.editor(offer, config)
            row |= {"unit": editor.unit, "neutral": editor.neutral, "record": offer.record}
            check_fits(editor, config, name)
        except EditError as error:
            row["problem"] = str(error).removeprefix(f"{name}: ")
        rows.append(row)
    return rows, incomplete(definitions)


PER_FACE = ("tracks", "latents")
"""A picture has one row in them for each track."""


def store_facts(store: Store) -> dict[str, Any]:
    """Everything `styleres inspect` shows, as JSON values. Of a damaged source there are its key and what is wrong."""
    counts: Counter[str] = Counter()
    sources: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    # A source that could not even be probed has failures and nothing else.
    for source_id in sorted({*store.holders(), *store.holders("failures")}):
        try:
            facts = pack_facts(store, source_id) if is_pack(source_id) else None
            if facts is None:
                facts = [source_facts(store, row) for row in store.read("sources", source_id).to_pylist()]
            its_rows, lost = store.row_counts(source_id), store.failures(source_id).select(FAILURE_COLUMNS).to_pylist()
        except StoreError as error:
            blank = dict.fromkeys(("uri", "frames", "width", "height", "tracks", "faces", "devices"))
            for one in store.members(source_id) if is_pack(source_id) else [source_id]:
                sources.append({"source_id": one, **blank, "recipes": [], "complete": False, "damaged": str(error)})
        else:
            sources += facts
            counts.update(its_rows)
            failures += lost
    sizes, per_face = store.sizes_bytes(), store.bytes_per_face_frame(counts["latents"])
    return {
        "model": store.info.model_name,
        "model_digest": store.info.model_digest,
        "schema_version": store.info.schema_version,
        "codec": store.info.residual_codec,
        "wplus_shape": list(store.info.wplus_shape),
        "residual_shape": list(store.info.residual_shape),
        "sources": sources,
        "tables": {
            name: {"rows": counts[name], "bytes": sizes[name], "bytes_per_face_frame": per_face.get(name, 0.0)}
            for name in sizes
        },
        "failures": failures,
    }


def pack_facts(store: Store, pack_id: str) -> list[dict[str, Any]]:
    """The pictures of a pack, as `source_facts`; each table is read once. Raises StoreError where it is damaged."""
    whole, devices = store.is_complete(pack_id), devices_of(store, pack_id)
    damaged = next(iter(store.broken_manifests(pack_id, ["invert"]).values()), None)
    tracks, faces = (Counter(store.read(name, pack_id, columns=["source_id"])["source_id"].to_pylist()) for name in PER_FACE)
    recipes: dict[str, set[str]] = {}
    for holder in filter(is_pack, store.holders("edits")):
        rows = store.read("edits", holder, columns=["source_id", "recipe_id"])
        for source_id, recipe_id in zip(*(rows[name].to_pylist() for name in rows.column_names), strict=True):
            recipes.setdefault(source_id, set()).add(recipe_id)
    return [
        {
            "source_id": row["source_id"],
            "uri": row["uri"],
            "frames": row["frame_count"],
            "width": row["width"],
            "height": row["height"],
            "tracks": tracks[row["source_id"]],
            "faces": faces[row["source_id"]],
            "recipes": sorted(recipes.get(row["source_id"], ())),
            "complete": whole,
            "devices": devices,
            "damaged": damaged,
        }
        for row in store.read("sources", pack_id).to_pylist()
    ]


def source_facts(store: Store, row: Mapping[str, Any]) -> dict[str, Any]:
    """The source of a row of `sources`. Raises StoreError where it is damaged."""
    source_id = row["source_id"]
    tracks = store.read("tracks", source_id, columns=["track_id"])
    latents = store.read("latents", source_id, columns=["track_id"])
    recipes = store.read("edits", source_id, columns=["recipe_id"])
    return {
        "source_id": source_id,
        "uri": row["uri"],
        "frames": row["frame_count"],
        "width": row["width"],
        "height": row["height"],
        "tracks": pc.count_distinct(tracks["track_id"]).as_py(),
        "faces": len(latents),
        "recipes": pc.unique(recipes["recipe_id"]).to_pylist(),
        "complete": store.is_complete(source_id),
        "devices": devices_of(store, source_id),
        "damaged": next(iter(store.broken_manifests(source_id, ["invert"]).values()), None),
    }


def devices_of(store: Store, source_id: str) -> dict[str, list[str]]:
    """Step => kinds of device that computed what is stored of a source and what its renders made; empty for older stores."""
    found: dict[str, list[str]] = {}
    for stage in folders(store.root / "manifests"):
        for step, kinds in ((store.read_manifest(stage, source_id) or {}).get("devices") or {}).items():
            found[step] = sorted({*found.get(step, []), *kinds})
    return found


def main() -> None:
    typer.run(inspect)


if __name__ == "__main__":
    main()
