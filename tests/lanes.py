"""Which tests are in the slow lane by measurement: those that `slow.txt` lists, besides those that are marked where they stand.

    python -m pytest -p tests.lanes --measure seconds.txt -m "not slow and not nightly"     processor seconds of every test
    python -m tests.lanes seconds.txt 0.9                                                   list those above 0.9 s

Processor seconds, children included, because they are the same on a busy machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

LIST: Final = Path(__file__).with_name("slow.txt")


def listed() -> list[str]:
    """Node ids of the list."""
    lines = LIST.read_text("utf-8").splitlines()
    return [line.split("\t", 1)[1] for line in lines if line and not line.startswith("#")]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--measure", type=Path, help="Write processor seconds of every test here.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    path = item.config.getoption("--measure")
    before = os.times()
    found = yield
    if path is not None:
        after = os.times()
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{sum(after[:4]) - sum(before[:4]):.2f}\t{item.nodeid}\n")
    return found


def main() -> None:
    measured, least = Path(sys.argv[1]), float(sys.argv[2])
    rows = sorted(
        (float(line.split("\t")[0]), line.split("\t")[1].strip()) for line in measured.read_text("utf-8").splitlines()
    )
    kept = [(seconds, name) for seconds, name in reversed(rows) if seconds > least]
    text = f"# Processor seconds of tests that are slow: all above {least:g} s. Written by `python -m tests.lanes`.\n"
    LIST.write_text(text + "".join(f"{seconds:.1f}\t{name}\n" for seconds, name in kept), "utf-8")
    quick = sum(seconds for seconds, _ in rows) - sum(seconds for seconds, _ in kept)
    print(f"{len(kept)} tests of {sum(seconds for seconds, _ in kept):.0f} s are slow; {quick:.0f} s of the others are left")


if __name__ == "__main__":
    main()
