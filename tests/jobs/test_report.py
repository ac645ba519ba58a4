"""styleres report, and the report that a job leaves: what is in it, and that nothing of it comes from elsewhere."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app
from jobs.common import report_page
from jobs.common.report_data import entries_of, is_below, known_runs
from jobs.common.report_page import picture_pair
from pipeline.store.places import place
from pipeline.store.tables import Store
from tests import tiny
from tests.jobs.conftest import Styleres, tree

VOID = {"meta", "link", "img", "br", "input", "path"}


class Page(HTMLParser):
    """A page that is well formed, with its ids, links and pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        assert self.open == [], "every element is closed"
        assert len(self.ids) == len(set(self.ids)), "every id is there once"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found["href"] or ""] if tag == "a" else []
        self.addresses += [found[name] or "" for name in ("src", "href") if name in found and tag != "a"]

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another element"


def read(path: Path) -> tuple[str, Page]:
    text = path.read_text("utf-8")
    page = Page(text)
    assert all(one.startswith("data:") for one in page.addresses), "nothing is fetched"
    assert "http://" not in text and "https://" not in text
    return text, page


def report(*words: object) -> Result:
    result = CliRunner().invoke(app, ["report", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_job_leaves_a_report_of_what_it_did(tmp_path: Path, styleres: Styleres, clip: Path, other: Path) -> None:
    broken, empty = tmp_path / "no <b>video.mp4", tiny.marked_clip(tmp_path / "empty.mp4", 6, people=0, sound=None)
    broken.write_bytes(b"no video")
    out, root = tmp_path / "out", tmp_path / "store"
    words = ("edit", clip, other, broken, empty, "--edit", "warm=0:0,0.5:2", "--edit", "cold=1", "--out", out, "--store", root)
    ran = styleres(*words, report=True)
    assert ran.code == 1 and ran.done["report"] == str(out / "report.html")
    text, page = read(out / "report.html")
    assert "no <b>video" not in text and "no &lt;b&gt;video.mp4" in text, "names are data"
    assert "1 thing was lost, in 1 of 4 inputs" in re.sub(r"\s+", " ", text) and "media_error" in text
    sections = [one for one in page.ids if one.startswith("s-")]
    assert len(sections) == 3, "two were edited, one was lost; where nobody was there was nothing to do"
    assert {link.removeprefix("#") for link in page.links if link.startswith("#s-")} == set(sections)
    assert sections[0].startswith("s-x"), "what was lost comes first"
    for expected in (
        "strength of warm",
        "strength of cold",
        "inversion error over",
        "flicker over",
        "Worst frames",
        "--overwrite",
    ):
        assert expected in text, expected
    assert text.count('<path class="t1"') >= 4, "the second person has lines of their own"
    (run,) = known_runs(Store.open(root))
    assert (run.job, run.inputs, run.lost, run.frames, run.edits) == ("edit", 4, 1, 38, ran.done["edits"])
    # The same from the store, later, and from the folder of results.
    again = report(root, "--out", tmp_path / "again.html")
    assert f"{clip} --edit" in read(tmp_path / "again.html")[0] or f"{clip} --overwrite" in read(tmp_path / "again.html")[0]
    assert again.exit_code == 0 and again.stdout.split() == [str(tmp_path / "again.html")]
    assert "empty.mp4" in read(tmp_path / "again.html")[0], "a store shows every source"
    before = tree(root)
    assert report(out, "--out", tmp_path / "out.html").exit_code == 0 and tree(root) == before
    assert [one for one in read(tmp_path / "out.html")[1].ids if one.startswith("s-")] == sections


def test_a_report_of_a_place_named_from_here(
    tmp_path: Path, styleres: Styleres, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, page in (("o.mp4", "o.report.html"), ("folder/", "folder/report.html")):
        ran = styleres("edit", other, "--edit", "warm=1", "--out", name, "--store", "store", "--no-contact-sheet", report=True)
        assert ran.code == 0
        text, parsed = read(tmp_path / page)
        assert "inversion error over" in text and len([one for one in parsed.ids if one.startswith("s-")]) == 1
        assert "--overwrite" in text, "the command that makes it again"
    assert report("folder", "--out", "again.html").exit_code == 0
    assert "--overwrite" in read(tmp_path / "again.html")[0]


@pytest.mark.parametrize(
    ("path", "out", "below"),
    [
        ("/out/sub/x.png", "/out/sub", True),
        ("/out/sub/x.png", "/out/sub/", True),
        ("/out/sub/x.png", "/out/sub/x.png", True),
        ("/out/sub/../x.png", "/out/sub", False),
        ("/out/sub/../x.png", "/out", True),
        ("/out/./sub//x.png", "/out/other/../sub", True),
        ("/out/subway/x.png", "/out/sub", False),
        ("s3://bucket/sub/../x.png", "s3://bucket/sub", True),
        ("s3://bucket/x.png", "s3://bucket/sub", False),
    ],
)
def test_a_result_is_below_the_place_that_its_name_leads_to(path: str, out: str, below: bool) -> None:
    assert is_below(path, out) is below


def test_no_report_where_none_is_wanted(tmp_path: Path, styleres: Styleres, other: Path) -> None:
    ran = styleres("edit", other, "--edit", "warm=1", "--out", tmp_path / "o.mp4", "--no-contact-sheet", "--no-report")
    assert ran.code == 0 and "report" not in ran.done and tree(tmp_path).keys() == {"o.mp4"}


def test_a_store_that_is_thrown_away_leaves_its_report(tmp_path: Path, styleres: Styleres, other: Path) -> None:
    out = tmp_path / "out"
    assert styleres("edit", other, "--edit", "warm=1", "--out", f"{out}/", report=True).code == 0
    assert "inversion error over" in read(out / "report.html")[0]
    refused = report(out)
    assert refused.exit_code == 2 and "was not kept" in refused.stderr
    assert report(tmp_path / "nothing").exit_code == 2


def test_an_inversion_and_its_render_have_a_report_each(tmp_path: Path, styleres: Styleres, other: Path) -> None:
    root = tmp_path / "store"
    assert styleres("invert", other, "--store", root, report=True).done["report"] == str(root / "report.html")
    text, _ = read(root / "report.html")
    assert "Everything was inverted" in text and "trouble" not in re.sub(r"<style>.*?</style>", "", text, flags=re.S)
    for at, edit in enumerate(("warm=1", "cold=2")):  # the second takes the first one's place
        ran = styleres("render", "--store", root, "--edit", edit, "--out", tmp_path / "o.mp4", "--overwrite", report=True)
        assert ran.code == 0 and ran.done["report"] == str(tmp_path / "o.report.html")
        text, page = read(tmp_path / "o.report.html")
        assert f"strength of {edit.split('=')[0]}" in text
        assert ("strength of warm" in text) == (at == 0), "of the file that is there"
        assert len([one for one in page.ids if one.startswith("s-")]) == 1


def test_a_large_report_goes_over_pages(tmp_path: Path, styleres: Styleres, clip: Path, other: Path) -> None:
    root, out = tmp_path / "store", tmp_path / "out"
    assert styleres("edit", clip, other, "--edit", "warm=1", "--out", out, "--store", root, report=True).code == 0
    store = Store.open(root)
    path = tmp_path / "pages" / "r.html"
    pages = report_page.write_report(place(str(path)), store, entries_of(store), [], title="all", page_bytes=1000)
    assert [page.name for page in pages] == ["r.html", "r-2.html"]
    _, first = read(path)
    _, second = read(path.with_name("r-2.html"))
    ids = [one for one in first.ids + second.ids if one.startswith("s-")]
    assert len(ids) == 2 and len(set(ids)) == 2
    assert f"r-2.html#{ids[1]}" in first.links and f"#{ids[0]}" in first.links and "r.html" in second.links


def test_a_damaged_source_is_shown_as_that(tmp_path: Path, styleres: Styleres, clip: Path, other: Path) -> None:
    root, out = tmp_path / "store", tmp_path / "out"
    assert styleres("edit", clip, other, "--edit", "warm=1", "--out", out, "--store", root, report=True).code == 0
    victim = next((root / "quality").rglob("*.parquet"))
    victim.write_bytes(victim.read_bytes()[:200])
    done = report(root, "--out", tmp_path / "r.html")
    assert done.exit_code == 0
    text, page = read(tmp_path / "r.html")
    assert "damaged_part" in text and len([one for one in page.ids if one.startswith("s-")]) == 2


def test_a_report_that_cannot_be_written_is_no_loss(
    tmp_path: Path, styleres: Styleres, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report_page, "write_text", full)
    ran = styleres("edit", other, "--edit", "warm=1", "--out", tmp_path / "o.mp4", report=True)
    assert ran.code == 0 and "report" not in ran.done
    assert any(line["event"] == "report" and "No space" in line["message"] for line in ran.lines)


def test_mistakes_are_sentences(tmp_path: Path, styleres: Styleres, other: Path) -> None:
    root = tmp_path / "store"
    assert styleres("invert", other, "--store", root, "--no-report").code == 0 and not (root / "report.html").exists()
    for words, said in (
        ((root, "--out", tmp_path / "r.pdf"), "is an HTML file"),
        ((root, "--only", "nobody"), "no such source"),
    ):
        done = report(*words)
        assert done.exit_code == 2 and said in done.stderr


def test_a_banner_has_its_pair_of_pictures(tmp_path: Path) -> None:
    """A picture of 4000 x 3 pixels was made half a million wide, and the report was not written."""
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.fromarray(np.zeros((3, 4000, 3), np.uint8)).save(path)
    pair = picture_pair(*map(str, paths), 112)
    assert pair is not None and max(Image.open(io.BytesIO(pair)).size) < 4000
