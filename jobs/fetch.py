"""styleres fetch: download a published file of the catalogue, verify it and, if it is a model, convert it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import DownloadColumn, Progress

from jobs.common.errors import FAILED, UsageError, explained
from jobs.convert import report
from ops.checkpoints.catalog import CATALOG, Asset, downloaded, keep, read_catalog
from ops.checkpoints.convert import check_free, convert
from ops.files.digest import sha256_of


def fetch(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Entry of the catalogue; lists it if not given.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of a model, or an edit's file; NAME if not given.")] = None,
    catalog: Annotated[Path, typer.Option("--catalog", help="Another catalogue, of a mirror.")] = CATALOG,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there already.")] = False,
) -> None:
    """Fetch an official file: download, verify, convert."""
    with explained(FAILED):
        assets = read_catalog(catalog)
        if name is None:
            print("\n".join(line_of(asset) for asset in assets.values()))
            return
        if name not in assets:
            raise UsageError(f"{name}: not in the catalogue, which has {', '.join(assets)}")
        asset = assets[name]
        place = out or Path(name if asset.format is not None else asset.file)
        if asset.format is not None:
            check_free(place, overwrite)
        elif place.exists():
            raise UsageError(f"{place} exists already; use another --out")
        with Progress(*Progress.get_default_columns(), DownloadColumn(), transient=True, console=Console(stderr=True)) as bar:
            task = bar.add_task(asset.file)
            with downloaded(
                asset, place.absolute().parent, lambda done, all: bar.update(task, completed=done, total=all)
            ) as path:
                digest = sha256_of(path)
                verified = "verified" if asset.sha256 else "the catalogue knows no digest to verify it by"
                if asset.format is None:
                    keep(path, place)
                    said = f"{place}: {asset.about}"
                else:
                    said = report(convert(path, place, wanted=asset.format, licence=asset.licence, overwrite=overwrite))
        print(f"{said}\nSHA-256 {digest} ({verified})\nlicence: {asset.licence}")


def line_of(asset: Asset) -> str:
    where = "fetched" if asset.source else f"by hand from {asset.page}" if asset.page else "by hand"
    return f"{asset.name:<28} {asset.about} [{where}]"


def main() -> None:
    typer.run(fetch)


if __name__ == "__main__":
    main()
