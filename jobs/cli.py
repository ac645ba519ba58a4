"""The `styleres` command: a list of its subcommands, each in a file of its own."""

from __future__ import annotations

import typer

from jobs.convert import convert_command
from jobs.directions import directions
from jobs.doctor import doctor
from jobs.edit import edit
from jobs.evaluate import app as evaluate
from jobs.fetch import fetch
from jobs.inspect import inspect
from jobs.invert import invert
from jobs.plan import plan
from jobs.render import render
from jobs.store import app as store
from jobs.train import app as train

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Invert the faces of videos once, edit them many times. Start with: styleres edit INPUT --edit smile=2 --out OUT",
)
app.command()(invert)
app.command()(render)
app.command()(edit)
app.command()(plan)
app.command()(inspect)
app.command("convert")(convert_command)
app.command()(fetch)
app.command()(doctor)
app.command()(directions)
app.add_typer(evaluate, name="evaluate")
app.add_typer(store, name="store")
app.add_typer(train, name="train")
