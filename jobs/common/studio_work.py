"""Runs commands of this program for the studio, in processes of their own, and follows their JSON lines."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final


@final
class Work:
    """A `styleres` command that runs. Thread-safe to look at."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.said = ""
        """The last sentence for people."""
        self.done: dict[str, Any] | None = None
        """Its last line, once it has ended by itself."""
        self.losses: list[str] = []
        self._steps: dict[str, tuple[int, int]] = {}
        here = Path(__file__).resolve().parents[2]  # the job's own modules, whatever the working folder is
        code = f"import sys; sys.path.insert(0, {str(here)!r}); from jobs.cli import app; app()"
        command = [sys.executable, "-c", code, *words, "--progress", "json"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None and self._process.stderr is not None
        for line in self._process.stdout:
            if not line.startswith("{"):
                continue
            event = json.loads(line)
            if event["event"] == "stage":
                self._steps[event["stage"]] = (event["done"], event["items"])
                self.said = f"{event['stage']} {event['done']} of {event['items']}"
            elif event["event"] == "lost":
                self.losses.append(event["message"])
            elif event["event"] == "done":
                self.done = event
        error = self._process.stderr.read().strip()
        if self._process.wait() and self.done is None:
            self.losses.append(error.splitlines()[-1] if error else f"it ended with exit code {self._process.returncode}")

    @property
    def running(self) -> bool:
        return self._reader.is_alive()

    @property
    def share(self) -> float:
        """How far it is, 0..1, by the items of the steps that it has come to."""
        steps = list(self._steps.values())
        return sum(done for done, _ in steps) / max(sum(items for _, items in steps), 1)

    def stop(self) -> None:
        """End the command. What is finished stays; the same command continues from there."""
        self._process.terminate()
        self._reader.join(20)
