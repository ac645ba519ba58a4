"""A real browser for tests: Debian's Chromium, driven by playwright. Skips, saying why, where either is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests import needs

DESKTOP, PHONE = 1280, 400


def program() -> str:
    """The browser's path."""
    found = next(filter(None, map(shutil.which, needs.BROWSERS)), None)
    if found is None:
        needs.missing("chromium", f"none of {', '.join(needs.BROWSERS)} is installed (Debian: apt-get install chromium)")
    assert found is not None
    return found


@contextmanager
def browser() -> Iterator[Any]:
    """A playwright browser."""
    path = program()
    api = needs.package("playwright.sync_api")
    with api.sync_playwright() as playwright:
        # In a container there is no user namespace for the sandbox; pages of tests are our own.
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield chromium
        finally:
            chromium.close()


@contextmanager
def opened(chromium: Any, address: str, width: int = DESKTOP, *, scheme: str = "light") -> Iterator[Any]:
    """A page at an address. At its end: it had no error on its console, and asked for nothing else than it was."""
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    try:
        page.goto(address)
        yield page
        assert said == [], said
    finally:
        context.close()
