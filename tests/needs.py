"""What a test may need that is not everywhere. Where it is missing the test is skipped, unless somebody says that it is there.

    STYLERES_REQUIRE=shared,cuda pytest

turns skips for want of those into failures, so that a machine that has them cannot pass without having looked.

    shared      the folder ../shared: golden vectors, clips, models
    cuda        a GPU that torch sees
    chromium    a browser (Debian: apt-get install chromium), for the pages of reports and of the studio
    packages    the packages of the extras [test] and [train]
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch

SHARED: Final = Path(__file__).resolve().parents[2] / "shared"
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
THERE: Final[dict[str, tuple[Callable[[], bool], str]]] = {
    "shared": (SHARED.is_dir, f"no shared material at {SHARED}: golden vectors, clips and models are not in the repository"),
    "cuda": (torch.cuda.is_available, "torch sees no GPU"),
    "chromium": (lambda: any(map(shutil.which, BROWSERS)), "Chromium is not installed"),
    "packages": (lambda: True, ""),
}


def required(text: str) -> set[str]:
    """The needs that `STYLERES_REQUIRE` names. Raises UsageError for one that there is not."""
    named = {word.strip() for word in text.split(",")} - {""}
    if unknown := sorted(named - set(THERE)):
        raise pytest.UsageError(f"STYLERES_REQUIRE: {', '.join(unknown)}: expected some of {', '.join(THERE)}")
    return named


REQUIRED: Final = required(os.environ.get("STYLERES_REQUIRE", ""))


def missing(need: str, why: str, *, module: bool = False) -> None:
    """Skip the test, or the module that is being imported; fail it where the need is required."""
    if need in REQUIRED:
        pytest.fail(f"{why} (STYLERES_REQUIRE has {need})", pytrace=False)
    pytest.skip(why, allow_module_level=module)


def require(need: str) -> None:
    """Skip or fail where the need is not met."""
    is_there, why = THERE[need]
    if not is_there():
        missing(need, why)


def shared(path: str) -> Path:
    """A file or folder below ../shared."""
    require("shared")
    found = SHARED / path
    if not found.exists():
        missing("shared", f"{found} is not there")
    return found


def package(name: str) -> Any:
    """Import a package of an extra; for a module's top, or within a test."""
    try:
        return importlib.import_module(name)
    except ImportError:
        missing("packages", f"{name} is not installed: pip install 'styleres-video[test,train]'", module=True)
