"""styleres report: a store, or a folder of results => one HTML file that a person reads in the morning."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Annotated, Final

import typer

from jobs.common import options
from jobs.common.errors import UsageError, explained
from jobs.common.prepare import named_sources, open_settled
from jobs.common.report_data import entries_of, known_runs
from jobs.common.report_page import NAME, write_report
from pipeline.store.places import Place, exists, joined, place
from pipeline.store.tables import Store

STORE_OF: Final = re.compile(r'<meta name="styleres-store" content="([^"]*)">')
HEAD_BYTES: Final = 4096


def report(
    where: Annotated[
        str, typer.Argument(metavar="STORE|OUT", help="A store, or the folder or file that a job wrote.", show_default=False)
    ],
    out: Annotated[
        str | None, typer.Option("--out", help="The HTML file; report.html in the store, or beside the results, if not given.")
    ] = None,
    only: options.Only = [],  # noqa: B006 (typer copies it)
) -> None:
    """One HTML file: summary, worst frames, a sortable table, and for each source its strip, plots, failures, command."""
    with explained():
        store, results = opened(where)
        keys = named_sources(store, only) if only else None
        path = place(out) if out is not None else joined(store.root if results is None else results, NAME)
        if path.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"--out {out}: a report is an HTML file; name a file that ends so")
        below = None if results is None else str(results)
        runs = [run for run in known_runs(store) if below is None or run.out == below]
        title = Path(str(store.root) if results is None else str(results)).name
        pages = write_report(path, store, entries_of(store, below, keys), runs, title=title)
    for page in pages:
        print(page)


def opened(where: str) -> tuple[Store, Place | None]:
    """The store, and the folder of results if that was named. Raises UsageError where neither is there."""
    root = place(where)
    if exists(joined(root, "meta/info.json")):
        return open_settled(root), None
    page = joined(root, NAME)
    if not exists(page):
        raise UsageError(f"{where}: expected a store, or a folder with the {NAME} of a job; found neither")
    with page.open("rb") as file:
        head = file.read(HEAD_BYTES).decode("utf-8", "replace")
    said = STORE_OF.search(head)
    store = None if said is None else place(html.unescape(said[1]))
    if store is None or not exists(joined(store, "meta/info.json")):
        raise UsageError(f"{where}: its store was not kept (--store keeps it), so there is no other report than {page}")
    return open_settled(store), root


def main() -> None:
    typer.run(report)


if __name__ == "__main__":
    main()
