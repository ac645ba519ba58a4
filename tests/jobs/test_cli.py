"""The list of subcommands, and that it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from jobs.cli import COMMANDS, app, loaded


def test_the_list_imports_no_subcommand() -> None:
    """Nor torch, which takes seconds; in a process of its own, where nothing else has imported it."""
    program = (
        "import sys\n"
        "from jobs.cli import app\n"
        "try:\n    app(['--help'])\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "heavy = [name for name in ('torch', 'numpy', 'av', 'pyarrow', 'jobs.edit') if name in sys.modules]\n"
        "print('heavy:', heavy)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("heavy: []\n"), ran.stdout[-200:]
    assert all(f" {name} " in ran.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_is_there(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    assert f" {name} [OPTIONS]" in result.output
    assert loaded(name).help, "says what it does"


def test_an_unknown_subcommand_is_refused_with_what_is_alike() -> None:
    result = CliRunner().invoke(app, ["rendr"])
    assert result.exit_code == 2 and "No such command 'rendr'" in result.output
    assert CliRunner().invoke(app, []).exit_code == 2
