"""styleres store: look after a store. verify, compact, export, relink, delete-track."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from jobs.common.errors import FAILED, UsageError, explained
from jobs.common.prepare import finish, named_sources, open_settled
from pipeline.engine.ledger import Ledger
from pipeline.store import upkeep
from pipeline.store.lock import held
from pipeline.store.tables import DamagedPart, Store
from schemas import TABLES

app = typer.Typer(no_args_is_help=True, help="Look after a store: checksums, larger parts, export, removing a person.")

Where = Annotated[str, typer.Argument(metavar="STORE", help="Folder or URL of the store.", show_default=False)]
Only = Annotated[list[str], typer.Option("--only", help="Key, path or file name of a source; all if not given.")]
MIB = 1 << 20


def chosen(store: Store, only: list[str]) -> list[str]:
    """Keys of the sources meant. Raises UsageError for one that the store does not have."""
    return named_sources(store, only) if only else store.stored_source_ids()


def holders(store: Store, only: list[str]) -> list[str]:
    """Sources that are meant, and the packs that pictures lie in: what is looked after as one."""
    if only:
        return list(dict.fromkeys(map(store.holder_of, chosen(store, only))))
    return sorted({holder for table in TABLES for holder in store.holders(table)})


def ended(job: str, damaged: Sequence[str], **facts: object) -> NoReturn:
    """A line for each damaged file, one with numbers, and the exit code."""
    for line in damaged:
        print(json.dumps({"event": "damaged", "message": line}))
    print(json.dumps({"event": "done", "job": job, "damaged": len(damaged)} | facts))
    raise typer.Exit(FAILED if damaged else 0)


@app.command()
def verify(
    store: Where,
    only: Only = [],  # noqa: B006 (typer copies it)
    keep: Annotated[bool, typer.Option("--keep", help="Only say what is damaged; leave it where it is.")] = False,
) -> None:
    """Read every byte and compare with the checksums. Damaged parts are put aside: the same invert makes them again."""
    with explained():
        opened = open_settled(store)
        damaged: list[str] = []
        if not upkeep.is_writable(opened.root):  # then no run writes to it meanwhile, and nothing can be put aside
            for source_id in holders(opened, only):
                damaged += opened.verify(source_id).values()
            ended("store verify", damaged)
        with held(opened.root, "store verify"):
            finish(opened.root)
            for source_id in holders(opened, only):
                damaged += opened.verify(source_id).values() if keep else Ledger(opened).put_damaged_aside(source_id)
    ended("store verify", damaged)


@app.command()
def compact(
    store: Where,
    only: Only = [],  # noqa: B006
    part_mib: Annotated[int, typer.Option("--part-mib", min=1, help="Size of a part at most.")] = upkeep.JOINED_BYTES // MIB,
) -> None:
    """Join the parts of finished sources into larger ones: fewer files, the same rows."""
    with explained():
        opened = open_settled(store)
        before = after = 0
        damaged: list[str] = []
        with held(opened.root, "store compact"):
            finish(opened.root)
            for source_id in holders(opened, only):
                damaged += opened.broken_manifests(source_id, ["invert"]).values()
                if opened.is_complete(source_id):
                    try:
                        one = upkeep.compact(opened, source_id, part_bytes=part_mib * MIB)
                    except DamagedPart as error:
                        damaged.append(str(error))
                        continue
                    before, after = before + one[0], after + one[1]
    ended("store compact", damaged, parts_before=before, parts_after=after)


@app.command()
def export(
    store: Where,
    table: Annotated[str, typer.Option("--table", help="latents, tracks, residuals, ...", show_default=False)],
    out: Annotated[str, typer.Option("--out", help="A .parquet or .arrow file, local or a URL.", show_default=False)],
    only: Only = [],  # noqa: B006
) -> None:
    """Write one table as one file. Sources that are damaged are named and left out; the exit code is 1 then."""
    with explained():
        opened = open_settled(store)
        rows, damaged = upkeep.export(opened, table, out, chosen(opened, only) if only else None)
    ended("store export", damaged, rows=rows, out=out)


@app.command()
def relink(
    store: Where,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Where the files are now.", show_default=False)],
) -> None:
    """Tell the store where its sources' files are now: renamed or moved, but the same bytes. Nothing is inverted again."""
    with explained():
        opened = open_settled(store)
        with held(opened.root, "store relink"):
            finish(opened.root)
            moved, unknown = upkeep.relink(opened, files)
    for old, new in moved:
        print(json.dumps({"event": "relinked", "from": old, "to": new}))
    for line in unknown:
        print(json.dumps({"event": "lost", "message": line}))
    print(json.dumps({"event": "done", "job": "store relink", "relinked": len(moved), "unknown": len(unknown)}))
    raise typer.Exit(FAILED if unknown else 0)


@app.command("delete-track")
def delete_track(
    store: Where,
    source: Annotated[str, typer.Option("--source", help="Key, path or file name.", show_default=False)],
    track: Annotated[int, typer.Option("--track", min=0, help="Number of the track.", show_default=False)],
) -> None:
    """Remove one person's track from every table, detections and embeddings too, for good.

    Once begun it is finished: where it is killed, the next command with this store finishes it first, whichever it is. The
    store keeps where the person is in the frames (numbers, no pictures), and inverting the same file again, for whatever reason
    and with --overwrite too, leaves out the faces that lie there. With other detector settings, look at what is found in frames
    where nothing was. Edited files that still show the person are named; they are yours to delete, and so are copies of the
    store.
    """
    with explained():
        opened = open_settled(store)
        source_id, *others = chosen(opened, [source])
        if others:
            raise UsageError(
                f"--source {source}: several sources are called that; give the key of one: {source_id}, {', '.join(others)}"
            )
        with held(opened.root, "store delete-track"):
            finish(opened.root)
            removed, made = upkeep.delete_track(opened, source_id, track)
    print(json.dumps({"event": "done", "job": "store delete-track", "rows_removed": removed, "files_that_show_it": made}))


def main() -> None:
    app()


if __name__ == "__main__":
    main()
