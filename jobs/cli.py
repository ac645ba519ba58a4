"""The `styleres` command: a table of its subcommands, each in a file of its own, imported when it is called.

Most of them import torch, which takes seconds; `styleres --help` and a mistyped command need none of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True)
class Subcommand:
    """Module and attribute of a subcommand, and its line in the list."""

    module: str
    attribute: str
    """A function, or a `typer.Typer` with subcommands of its own."""
    about: str


COMMANDS: Final = {
    "invert": Subcommand("jobs.invert", "invert", "Invert every face of every INPUT into the store."),
    "render": Subcommand("jobs.render", "render", "Apply edits to the stored faces and write the edited videos."),
    "edit": Subcommand("jobs.edit", "edit", "Edit the faces of every INPUT: invert, then render."),
    "preview": Subcommand("jobs.preview", "preview", "A few faces with each edit and all together: one picture, in seconds."),
    "plan": Subcommand("jobs.plan", "plan", "What an edit will take: frames, faces, seconds of work, bytes, hours."),
    "describe": Subcommand("jobs.describe", "describe", "The whole contract as JSON: commands, options, exit codes, files."),
    "inspect": Subcommand("jobs.inspect", "inspect", "Sources, tracks, sizes, lost items of a store; edits, their units."),
    "convert": Subcommand("jobs.convert", "convert_command", "Convert another project's checkpoint into a folder of ours."),
    "fetch": Subcommand("jobs.fetch", "fetch", "Fetch an official file: download, verify, convert."),
    "doctor": Subcommand("jobs.doctor", "doctor", "Say what a model or file is; without one, check this machine."),
    "directions": Subcommand("jobs.directions", "directions", "Find edit directions of a model, with strips of pictures."),
    "evaluate": Subcommand("jobs.evaluate", "app", "Measure models side by side, or an edited video against its source."),
    "store": Subcommand("jobs.store", "app", "Look after a store: checksums, larger parts, export, removal."),
    # `train` and what jobs.train_method adds to it.
    "train": Subcommand(
        "jobs.train_method", "app", "Train a prior, E0, edit directions, E1 and E2, other methods; write bundles."
    ),
}


class Commands(TyperGroup):
    """The table, as the group of subcommands that it stands for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:
        """For lists, suggestions and errors: the name and the sentence."""
        found = COMMANDS.get(cmd_name)
        return None if found is None else TyperCommand(cmd_name, help=found.about)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """For calls: the real one. An unknown name ends here, with what is alike."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, loaded(str(name)), rest


def loaded(name: str) -> Any:
    """Imports a subcommand. Raises KeyError for one that is not in the table."""
    wanted = COMMANDS[name]
    what = getattr(import_module(wanted.module), wanted.attribute)
    if not isinstance(what, typer.Typer):
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
        alone.command()(what)
        what = alone
    command = typer.main.get_command(what)
    command.name = name
    return command


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def styleres() -> None:
    """Invert the faces of videos once, edit them many times. Start with: styleres edit INPUT --edit smile=2 --out OUT"""


if __name__ == "__main__":
    app()
