"""The command, called in this process with a tiny model and a stub detector."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from ops.checkpoints.bundle import Bundle
from tests import tiny


@dataclass(frozen=True)
class Ran:
    """What a command left on its way."""

    code: int
    lines: list[dict[str, Any]]
    """Its standard output, each line parsed as JSON."""
    error: str
    """Its standard error."""

    @property
    def done(self) -> dict[str, Any]:
        assert self.lines[-1]["event"] == "done", "the last line counts"
        return self.lines[-1]

    @property
    def lost(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == "lost"]


Styleres = Callable[..., Ran]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny.tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 frames, two people throughout, with sound."""
    return tiny.marked_clip(tmp_path_factory.mktemp("clip") / "marked.mp4", 20)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another clip, 12 frames, one person."""
    return tiny.marked_clip(tmp_path_factory.mktemp("other") / "other.mp4", 12, people=1)


@pytest.fixture
def styleres(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> Styleres:
    """Runs `styleres …`; jobs that take a model get the tiny one, and no time goes to presets, reports or face parts."""
    tiny.command_finds_marks(monkeypatch)

    def run(job: str, *arguments: object, report: bool = False) -> Ran:
        words = [job, *map(str, arguments)]
        if job in ("edit", "invert", "render") and not report and "--no-report" not in words:
            words.append("--no-report")
        if job != "inspect" and "--model" not in words:
            words += ["--model", str(bundle.path)]
        if job in ("edit", "render") and "--preset" not in words:
            words += ["--preset", "ultrafast"]
        if job in ("edit", "render") and "--within" not in words:
            words += ["--within", "crop"]
        result = CliRunner().invoke(app, words)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        lines = [json.loads(line) for line in result.stdout.splitlines()] if job != "inspect" else []
        return Ran(result.exit_code, lines, result.stderr)

    return run


def tree(folder: Path) -> dict[str, int]:
    """Every file below a folder, with the instant it was last written."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))}
