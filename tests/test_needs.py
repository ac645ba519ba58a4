"""A machine that has what tests need cannot pass without having used it."""

from __future__ import annotations

import pytest

from tests import lanes, needs
from tests.imports import ROOT


def test_what_is_missing_skips_and_what_is_required_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(needs.THERE, "cuda", (lambda: False, "torch sees no GPU"))
    monkeypatch.setattr(needs, "REQUIRED", set())
    with pytest.raises(pytest.skip.Exception, match="torch sees no GPU"):
        needs.require("cuda")
    with pytest.raises(pytest.skip.Exception, match="pip install"):
        needs.package("no_such_package_anywhere")
    monkeypatch.setattr(needs, "REQUIRED", {"cuda", "packages"})
    with pytest.raises(pytest.fail.Exception, match=r"torch sees no GPU .STYLERES_REQUIRE has cuda"):
        needs.require("cuda")
    with pytest.raises(pytest.fail.Exception, match="no_such_package_anywhere is not installed"):
        needs.package("no_such_package_anywhere")


def test_a_need_that_there_is_not_is_refused() -> None:
    assert needs.required(" shared, cuda") == {"shared", "cuda"} and needs.required("") == set()
    with pytest.raises(pytest.UsageError, match="gpu: expected some of shared, cuda, chromium, packages"):
        needs.required("shared,gpu")


def test_the_slow_lane_lists_tests_that_there_are() -> None:
    """A name of a test that was renamed would keep nothing out."""
    for node in lanes.listed():
        file, name = node.split("::")
        assert f"def {name.split('[')[0]}(" in (ROOT / file).read_text("utf-8"), f"{node}: run python -m tests.lanes again"
