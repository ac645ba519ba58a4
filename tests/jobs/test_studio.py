"""The studio in a real browser, on a server of its own; and who is kept out of it."""

from __future__ import annotations

import asyncio
import http.client
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app
from jobs.common.studio_guard import COOKIE, Guard
from ops.checkpoints.bundle import Bundle
from ops.editing.recipe import load_recipe
from ops.video.probe import probe
from pipeline.store.tables import Store
from tests import browser, needs, tiny

SECONDS = 120_000
"""Of patience in ms: other work may take this machine's processors."""
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Studio:
    address: str
    folder: Path

    @property
    def port(self) -> int:
        found = urlsplit(self.address).port
        assert found is not None
        return found

    @property
    def token(self) -> str:
        return self.address.rpartition("token=")[2]

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """A request without a browser, for what no browser would send."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    needs.package("nicegui")
    with browser.browser() as found:
        yield found


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, clip: Path) -> Iterator[Studio]:
    """A store of a clip with two people, a picture, and a clip with nobody."""
    folder = tmp_path_factory.mktemp("studio")
    picture, empty = folder / "still.png", tiny.marked_clip(folder / "empty.mp4", 6, people=0, sound=None)
    Image.fromarray(tiny.marked_frames(1)[0]).save(picture)
    store, _ = tiny.inverted(folder / "store", [tiny.source_of(path) for path in (clip, picture, empty)], bundle)
    del store
    with served(folder, str(folder / "store"), "--model", str(bundle.path)) as found:
        yield found


@contextmanager
def served(folder: Path, *words: str) -> Iterator[Studio]:
    """The command with these arguments, in that folder."""
    command = [sys.executable, "-m", "jobs.cli", "studio", *words, "--no-browser"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    child = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stderr is not None
    address = child.stdout.readline().strip()
    if not address:
        pytest.fail(child.stderr.read())
    try:
        yield Studio(address, folder)
    finally:
        child.terminate()
        child.wait(60)


def settled(page: Any) -> None:
    """Wait until the picture is a render's."""
    page.wait_for_selector("img[alt=after][data-exact=true]")


def picture(page: Any) -> np.ndarray:
    """Return the picture once it is a render's, read in one go: an inversion can replace it at any moment."""
    data = None
    while data is None:
        settled(page)
        data = page.evaluate(
            """async () => {
                const image = document.querySelector('img[alt=after][data-exact=true]');
                return image && [...new Uint8Array(await (await fetch(image.getAttribute('src'))).arrayBuffer())];
            }"""
        )
    assert bytes(data[:4]) == b"\x89PNG"
    return np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"))


def choose(page: Any, label: str, option: str) -> None:
    if option in page.locator(".source").inner_text():
        return  # it was the first of the store
    before = page.locator("img[alt=after]").get_attribute("src")
    page.get_by_label(label).first.click()
    page.get_by_role("option", name=option).click()
    page.wait_for_function("(old) => document.querySelector('img[alt=after]').getAttribute('src') !== old", arg=before)


def number(page: Any, edit: str, value: str) -> None:
    """Type a strength, and wait for the other picture."""
    before = page.locator("img[alt=after]").get_attribute("src")
    field = page.get_by_label(f"Strength of {edit}")
    field.fill(value)
    field.press("Enter")
    page.wait_for_function("(old) => document.querySelector('img[alt=after]').getAttribute('src') !== old", arg=before)


def opened(chromium: Any, studio: Studio, width: int = browser.DESKTOP) -> Any:
    return browser.opened(chromium, studio.address, width)


@pytest.mark.slow
def test_what_is_seen_is_what_is_rendered(chromium: Any, studio: Studio) -> None:
    with opened(chromium, studio) as page:
        page.set_default_timeout(SECONDS)
        settled(page)
        choose(page, "source", "still.png")
        page.wait_for_function("document.querySelector('.note').textContent === 'Move a slider.'")
        plain = picture(page)
        assert np.array_equal(plain, np.asarray(Image.open(studio.folder / "still.png"))), "no edit: the source"
        slider = page.get_by_role("slider", name="warm").first
        before = page.locator("img[alt=after]").get_attribute("src")
        slider.locator("[tabindex='0']").focus()
        for _ in range(20):
            page.keyboard.press("ArrowRight")
        page.wait_for_function("(old) => document.querySelector('img[alt=after]').getAttribute('src') !== old", arg=before)
        seen = picture(page)
        assert np.abs(seen.astype(int) - plain).mean() > 0.5, "the picture follows the slider"
        number(page, "cold", "1.5")
        seen = picture(page)
        page.get_by_label("render into").fill("pictures")
        page.get_by_role("button", name="Render").click()
        made = page.locator(".result .made-path")
        made.wait_for()
        path = studio.folder / "pictures" / "still.edited.png"
        assert made.inner_text() == str(path)
        assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), seen), "pixel for pixel"
        command = page.locator(".command .code").first.inner_text()
        assert (
            command.startswith("styleres render --store") and "--recipe recipe.yaml --out pictures --paste composite" in command
        )
        assert page.locator(".command .code").nth(1).inner_text().startswith("ray job submit")


@pytest.mark.slow
def test_keyframes_are_set_saved_and_rendered(chromium: Any, studio: Studio) -> None:
    with opened(chromium, studio) as page:
        page.set_default_timeout(SECONDS)
        settled(page)
        choose(page, "source", "marked.mp4")
        assert page.locator(".lane").count() == 3, "every face, and two tracks"
        assert page.locator(".lane .who img").count() == 2
        number(page, "warm", "2")
        page.get_by_label("Keyframe of warm").click()
        page.locator(".key").wait_for()
        box = page.locator(".lane .track").first.bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
        page.wait_for_function("document.querySelector('.clock').textContent === '0:00.57'")
        number(page, "warm", "-1")
        page.wait_for_function("document.querySelectorAll('.key').length === 2")
        page.get_by_role("button", name="Undo").click()
        page.wait_for_function("document.querySelectorAll('.key').length === 1")
        page.get_by_role("button", name="Redo").click()
        page.wait_for_function("document.querySelectorAll('.key').length === 2")
        page.get_by_label("recipe").fill("moving.yaml")
        page.get_by_role("button", name="Save").click()
        page.get_by_text("saved moving.yaml").wait_for()
        (entry,) = load_recipe(studio.folder / "moving.yaml").edits
        assert [(one.at_seconds, one.strength) for one in entry.keyframes] == [(0.0, 2.0), (0.57, -1.0)]
        page.get_by_label("render into").fill("clips")
        page.get_by_role("button", name="Render").click()
        page.locator(".result video").wait_for()
        assert probe(studio.folder / "clips" / "marked.edited.mp4").n_frames == 20
        page.wait_for_function("document.querySelector('.result video').readyState > 1")


@pytest.mark.slow
def test_a_second_tab_has_a_draft_of_its_own(chromium: Any, studio: Studio) -> None:
    with opened(chromium, studio) as one, opened(chromium, studio, browser.PHONE) as two:
        for page in (one, two):
            page.set_default_timeout(SECONDS)
            settled(page)
            choose(page, "source", "marked.mp4")
            settled(page)
        number(one, "warm", "3")
        settled(one)
        assert two.get_by_label("Strength of warm").input_value() == "0.00"
        assert two.locator(".command").count() == 0 and one.locator(".command").count() == 2
        wide, window = two.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= window, "nothing has to be scrolled sideways on a telephone"


@pytest.mark.slow
def test_a_clip_without_faces_says_so(chromium: Any, studio: Studio) -> None:
    with opened(chromium, studio) as page:
        page.set_default_timeout(SECONDS)
        settled(page)
        choose(page, "source", "empty.mp4")
        page.get_by_text("No face was found in this source.").wait_for()
        number(page, "warm", "3")
        assert page.locator(".lane").count() == 1


@pytest.mark.slow
def test_a_clip_is_shown_while_it_is_inverted(chromium: Any, tmp_path: Path) -> None:
    clip = needs.shared("videos/lp_d12_motion_512.mp4")
    with served(tmp_path, str(clip), "--store", "store", "--model", "mini64") as studio, opened(chromium, studio) as page:
        page.set_default_timeout(SECONDS)
        page.wait_for_function("document.body.textContent.includes('inverting:')")
        settled(page)
        assert "lp_d12_motion_512.mp4" in page.locator(".source").inner_text()
        plain = picture(page)
        number(page, "smile", "2")
        page.wait_for_function("!/inverting:|Faces are still being looked for/.test(document.body.textContent)")
        number(page, "smile", "2.5")
        assert np.abs(picture(page).astype(int) - plain).max() > 8, "the edit is to be seen as soon as there are faces"
    assert Store.open(tmp_path / "store").stored_source_ids()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../outside.yaml", "/tmp/outside.yaml", "a/../../outside.yaml", "recipe.txt", ""])
def test_names_do_not_lead_out_of_the_folder(chromium: Any, studio: Studio, name: str) -> None:
    before = sorted(studio.folder.parent.rglob("outside*"))
    with opened(chromium, studio) as page:
        page.set_default_timeout(SECONDS)
        settled(page)
        choose(page, "source", "still.png")
        number(page, "warm", "1")
        page.get_by_label("recipe").fill(name)
        page.get_by_role("button", name="Save").click()
        page.get_by_text(re.compile("name a file in the folder|expected a name that ends")).first.wait_for()
    assert sorted(studio.folder.parent.rglob("outside*")) == before and not Path("/tmp/outside.yaml").exists()


@pytest.mark.slow
def test_who_has_no_token_or_another_name_is_refused(studio: Studio) -> None:
    needs.package("nicegui")
    here = f"127.0.0.1:{studio.port}"
    good = studio.get(f"/?token={studio.token}", Host=here)
    assert good[0] == 200
    refused = (
        ("/", {}),
        ("/?token=wrong", {}),
        (f"/?token={studio.token[:-1]}", {}),
        (f"/?token={studio.token}", {"Host": f"evil.example:{studio.port}"}),
        (f"/?token={studio.token}", {"Host": here, "Origin": "http://evil.example"}),
        ("/picture/0123456789abcdef", {"Cookie": f"{COOKIE}=wrong"}),
        ("/_nicegui_ws/socket.io/?EIO=4&transport=polling", {}),
    )
    for path, headers in refused:
        status, body = studio.get(path, **{"Host": here} | headers)
        assert status == 403 and body.startswith(b"styleres studio: "), (path, headers)
    cookie = {"Host": here, "Cookie": f"{COOKIE}={studio.token}"}
    for path in (
        "/picture/..%2f..%2fstore%2fmeta%2finfo.json",
        "/result/..%2f..%2fetc%2fpasswd",
        "/result/store",
        "/picture/x",
    ):
        assert studio.get(path, **cookie)[0] == 404, path
    assert f"0100007F:{studio.port:04X}" in Path("/proc/net/tcp").read_text("utf-8"), "it listens on 127.0.0.1, and only there"
    assert f"00000000:{studio.port:04X}" not in Path("/proc/net/tcp").read_text("utf-8")


def test_mistakes_are_sentences(tmp_path: Path, bundle: Bundle) -> None:
    for words, said in (
        ([str(tmp_path / "nothing.mp4")], "expected a store, or a video or picture"),
        ([str(tmp_path / "nothing.mp4"), "--recipe", str(tmp_path / "none.yaml")], "cannot be read as a recipe"),
    ):
        result = CliRunner().invoke(app, ["studio", *words, "--no-browser"])
        assert result.exit_code == 2 and said in result.stderr


def test_the_guard_lets_in_who_has_the_cookie() -> None:
    """Without a server: every branch of it."""
    seen: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})

    def asked(
        kind: str = "http", query: str = "", hosts: Any = frozenset({"localhost"}), **headers: str
    ) -> list[dict[str, Any]]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {}

        scope = {
            "type": kind,
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        with ThreadPoolExecutor(1) as pool:  # playwright's own loop may run in this thread
            pool.submit(asyncio.run, Guard(inner, "secret", hosts)(scope, receive, send)).result()
        return sent

    first = asked(query="token=secret", host="localhost:1")
    assert first[0]["status"] == 200 and b"HttpOnly; SameSite=Strict" in dict(first[0]["headers"])[b"set-cookie"]
    cookie = asked(host="localhost:1", cookie=f"a=b; {COOKIE}=secret", origin="http://localhost:1")
    assert cookie[0]["status"] == 200 and cookie[0]["headers"] == []
    assert asked("websocket", host="localhost", cookie=f"{COOKIE}=secret") == [] and seen[-1] == "websocket"
    assert asked("lifespan") == [] and seen[-1] == "lifespan"
    count = len(seen)
    for kind, headers in (
        ("http", {"host": "localhost"}),
        ("http", {"host": "localhost.evil.example", "cookie": f"{COOKIE}=secret"}),
        ("http", {"host": "[bad", "cookie": f"{COOKIE}=secret"}),
        ("http", {"cookie": f"{COOKIE}=secret"}),
        ("http", {"host": "localhost", "cookie": f"{COOKIE}=secret", "origin": "null"}),
        ("websocket", {"host": "localhost", "cookie": f"{COOKIE}=secret", "origin": "http://evil.example"}),
    ):
        sent = asked(kind, **headers)
        assert sent[0].get("status", sent[0].get("code")) in (403, 1008), headers
    assert len(seen) == count, "none of these came through"
    assert asked(query="token=secret", hosts=None, host="anything")[0]["status"] == 200
