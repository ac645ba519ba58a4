"""styleres studio: a local page to compose a recipe by looking, from a clip or from a store."""

from __future__ import annotations

import secrets
import shutil
import socket
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from jobs.common import options
from jobs.common.errors import UsageError, explained
from jobs.common.prepare import codec_for, definitions_from, open_settled, open_store, stored_bundle
from jobs.common.screen import Screen
from jobs.common.studio_guard import LOOPBACK
from jobs.common.studio_work import Work
from ops.checkpoints.bundle import DEFAULT
from ops.device import Device
from ops.editing.recipe import load_recipe
from pipeline.store.places import exists, joined, place


def studio(
    where: Annotated[str, typer.Argument(metavar="CLIP|STORE", help="A store, or a video or picture.", show_default=False)],
    store: Annotated[
        str | None, typer.Option("--store", help="Where a CLIP is inverted to; NAME.store in the working folder if not given.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="A recipe to begin with.")] = None,
    editor: options.UserEditors = [],  # noqa: B006 (typer copies it)
    editors: options.EditorFolders = [],  # noqa: B006
    model: Annotated[str | None, typer.Option(help="An embedded model's name, or a bundle's folder.")] = None,
    method: options.MethodName = "auto",
    device: Annotated[Device, typer.Option("--device", help="auto: CUDA where there is a GPU.")] = "auto",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 0,
    host: Annotated[
        str, typer.Option("--host", help="Another address than this machine's own lets others in; they need the token.")
    ] = "127.0.0.1",
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address and open nothing.")] = False,
) -> None:
    """A page to compose a recipe: sliders of every edit, keyframes on a time line, before and after, render. Needs [studio]."""
    with explained():
        try:
            from jobs.common.studio_page import Workshop, serve
        except ImportError as error:
            raise UsageError(
                f"the studio needs the extra [studio], and {error.name} is not installed: pip install 'styleres-video[studio]'"
            ) from error
        definitions = definitions_from(editor, editors)
        start = None if recipe is None else load_recipe(recipe)
        work = None
        if exists(joined(place(where), "meta/info.json")):
            opened = open_settled(where)
            bundle = stored_bundle(opened, model, method)
        else:
            if not Path(where).is_file():
                raise UsageError(f"{where}: expected a store, or a video or picture; found neither")
            bundle = options.bundle_from(model or DEFAULT, method)
            root = store or f"{Path(where).stem}.store"
            # Made here, so that the page has something to look into before the first frame is inverted.
            opened = open_store(root, bundle, codec_for(place(root), "auto"))
            words = ["invert", where, "--store", root, "--model", str(bundle.path), "--device", device, "--no-report"]
            work = Work(words)
        screen = Screen(opened, bundle, definitions, device)
        address, number = bound(host, port)
        token = secrets.token_urlsafe(16)
        url = f"http://{address if ':' not in address else f'[{address}]'}:{number}/?token={token}"
        if host not in LOOPBACK:
            print(
                f"styleres studio: warning: --host {host} lets other machines reach this page. Whoever has the token sees the "
                "faces of this store and can start renders here; the connection is not encrypted",
                file=sys.stderr,
            )
        workshop = Workshop(screen, start, work, editor, editors)
        try:
            serve(
                workshop, host, number, token, hosts=LOOPBACK if host in LOOPBACK else None, ready=lambda: told(url, no_browser)
            )
        finally:
            workshop.close()


def told(url: str, no_browser: bool) -> None:
    print(url, flush=True)
    if not no_browser and (shutil.which("xdg-open") or sys.platform in ("darwin", "win32")):
        webbrowser.open(url)


def bound(host: str, port: int) -> tuple[str, int]:
    """The address to print and a port that is free. Raises UsageError for one that is not."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((host, port))
            return (socket.gethostname() if host in ("0.0.0.0", "::") else host), one.getsockname()[1]
    except OSError as error:
        raise UsageError(f"--host {host} --port {port}: {error.strerror}; name another, or leave them out") from error


def main() -> None:
    typer.run(studio)


if __name__ == "__main__":
    main()
