"""A report in a real browser: it opens without errors, sorts, filters and shows its worst frames, on a desk and a telephone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.common.report_data import entries_of
from jobs.common.report_page import write_report
from ops.checkpoints.bundle import Bundle
from pipeline.engine.stage import Source
from pipeline.store.places import place
from pipeline.store.tables import Store
from schemas import Failure
from tests import browser, tiny

pytestmark = pytest.mark.slow  # a browser takes seconds to start
NARROW = "[document.documentElement.scrollWidth, innerWidth]"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.browser() as found:
        yield found


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, clip: Path, other: Path) -> Path:
    folder = tmp_path_factory.mktemp("report")
    sources: list[Source] = [tiny.source_of(clip), tiny.source_of(other)]
    store, _ = tiny.inverted(folder / "store", sources, bundle)
    tiny.rendered(folder / "out", store, sources, bundle, "warm=0:0,0.5:2", "cold=1", fade_seconds=0)
    lost = Failure("x" + "0" * 15, "/in/lost & found <i>.mp4", "probe", "media_error", "it cannot be read")
    store.write_failures("probe", [lost])
    path = folder / "report.html"
    write_report(place(str(path)), store, entries_of(Store.open(folder / "store")), [], title="tonight")
    return path


@pytest.mark.parametrize("width", [browser.DESKTOP, browser.PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_is_readable(chromium: Any, page_file: Path, width: int, scheme: str) -> None:
    with browser.opened(chromium, page_file.as_uri(), width, scheme=scheme) as page:
        wide, window = page.evaluate(NARROW)
        assert wide <= window, "nothing has to be scrolled sideways"
        ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
        brightness = [sum(int(part) for part in colour[4:-1].split(",")) for colour in (ink, paper)]
        assert abs(brightness[0] - brightness[1]) > 500 and (brightness[1] > brightness[0]) == (scheme == "light")
        assert page.locator("h1").inner_text() == "tonight"
        assert "1 thing was lost, in 1 of 3 inputs" in page.locator(".verdict").inner_text()
        assert page.locator(".plot path.t1").count() >= 4 and page.locator(".plot svg").first.bounding_box()["height"] > 40


def test_the_table_sorts_and_filters(chromium: Any, page_file: Path) -> None:
    with browser.opened(chromium, page_file.as_uri()) as page:

        def names() -> list[str]:
            return page.locator("#table tbody tr:visible td:first-child").all_inner_texts()

        def column(at: int) -> list[str]:
            return page.locator(f"#table tbody tr td:nth-child({at})").all_inner_texts()

        assert names()[0] == "lost & found <i>.mp4"
        page.get_by_role("button", name="source", exact=True).press("Enter")  # by the keyboard
        assert names() == ["lost & found <i>.mp4", "marked.mp4", "other.mp4"]
        page.get_by_role("button", name="source", exact=True).press("Enter")
        assert names() == ["other.mp4", "marked.mp4", "lost & found <i>.mp4"]
        page.get_by_role("button", name="faces", exact=True).click()
        assert column(4) == ["40", "12", "0"], "numbers as numbers, the largest first"
        page.get_by_role("button", name="trouble").click()
        values = column(7)
        assert values[-1] == "" and float(values[0]) >= float(values[1]), "what was not measured comes last"
        page.get_by_role("button", name="trouble").click()
        assert column(7) == [*sorted(values[:2], key=float), ""]
        page.locator("#filter").fill("lost")
        assert names() == ["lost & found <i>.mp4"] and page.locator("#count").inner_text() == "1 of 3 rows"


def test_a_worst_frame_opens_and_shows_its_source(chromium: Any, page_file: Path) -> None:
    with browser.opened(chromium, page_file.as_uri()) as page:
        shots, viewer = page.locator(".gallery .shot"), page.locator("#viewer")
        count = shots.count()
        assert count >= 2 and not viewer.is_visible()
        shots.first.focus()
        page.keyboard.press("Enter")
        assert viewer.is_visible()
        first = viewer.locator("p").inner_text()
        assert "inversion error" in first
        page.keyboard.press("ArrowRight")
        assert viewer.locator("p").inner_text() != first
        page.keyboard.press("ArrowLeft")
        assert viewer.locator("p").inner_text() == first
        image = viewer.locator("img")
        assert image.evaluate("image => image.naturalWidth") > 100
        page.keyboard.down(" ")
        assert "translateX(0%)" in image.get_attribute("style")
        page.keyboard.up(" ")
        assert "translateX(-50%)" in image.get_attribute("style")
        stage, inside = viewer.locator(".stage").bounding_box(), image.bounding_box()
        assert abs(inside["width"] - 2 * stage["width"]) < 2, "half of the picture fills the stage"
        page.keyboard.press("Escape")
        assert not viewer.is_visible()


def test_links_lead_to_the_sources(chromium: Any, page_file: Path) -> None:
    with browser.opened(chromium, page_file.as_uri(), browser.PHONE) as page:
        page.locator("#table").get_by_text("other.mp4").click()
        target = page.locator(page.evaluate("location.hash"))
        assert target.locator("h3").inner_text().startswith("other.mp4")
        page.wait_for_function("Math.abs(document.querySelector(location.hash).getBoundingClientRect().top) < 400")
