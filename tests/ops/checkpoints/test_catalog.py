"""The catalogue names what is known, and fetching keeps nothing that is not verified. Over HTTP, on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ops.checkpoints.catalog import Asset, FetchError, downloaded, known_by_digest, read_catalog
from ops.files.digest import sha256_of
from ops.files.errors import CheckpointError

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PAGE = b"<!doctype html><html><head><title>Quota exceeded</title></head></html>"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        promised = len(CONTENT)
        match self.path:
            case "/file" | "/changed":
                body = CONTENT if self.path == "/file" else CONTENT[::-1]
            case "/page":
                body, promised = PAGE, len(PAGE)
            case "/short":
                body = CONTENT[:1000]
            case "/empty":
                body, promised = b"", 0
            case _:
                self.send_error(404)
                return
        self.send_response(200)
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def asset(url: str | None, **more: str) -> Asset:
    return Asset("thing", "thing.bin", "a thing", "none", url=url, **more)  # type: ignore[arg-type]


def silent(done: int, whole: int | None) -> None:
    """No progress."""


def test_a_file_is_downloaded_verified_and_handed_over(tmp_path: Path, server: str) -> None:
    seen: list[tuple[int, int | None]] = []
    with downloaded(asset(f"{server}/file", sha256=DIGEST), tmp_path, lambda *both: seen.append(both)) as path:
        assert path.read_bytes() == CONTENT and path.name == "thing.bin"
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and list(tmp_path.iterdir()) == [], "it is gone if nobody kept it"


@pytest.mark.parametrize(
    ("path", "sha256", "message"),
    [
        ("/changed", DIGEST, f"the catalogue names {DIGEST}"),
        ("/short", DIGEST, "cannot download|ended after 1,000 of 10,240"),
        ("/short", None, "cannot download|ended after 1,000 of 10,240"),
        ("/page", DIGEST, "a web page titled 'Quota exceeded'"),
        ("/page", None, "a web page titled 'Quota exceeded'"),
        ("/empty", None, "an empty file"),
        ("/nothing", DIGEST, "404"),
    ],
)
def test_what_is_not_the_file_is_not_kept(tmp_path: Path, server: str, path: str, sha256: str | None, message: str) -> None:
    wanted = asset(f"{server}{path}", **({} if sha256 is None else {"sha256": sha256}))
    with pytest.raises(FetchError, match=message), downloaded(wanted, tmp_path, silent):
        raise AssertionError("handed over")
    assert list(tmp_path.iterdir()) == []


def test_without_an_address_or_a_network_the_way_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(FetchError, match=r"get it from https://example.org"),
        downloaded(asset(None, page="https://example.org"), tmp_path, silent),
    ):
        pass
    with (
        pytest.raises(FetchError, match="machine without a network"),
        downloaded(asset("http://127.0.0.1:9/x"), tmp_path, silent),
    ):
        pass
    with pytest.raises(FetchError, match="http or https"), downloaded(asset("file:///etc/passwd"), tmp_path, silent):
        pass


def test_the_catalogue_knows_the_official_edit_files_by_their_digests(shared: Path) -> None:
    catalog, folder = read_catalog(), shared / "directions" / "official"
    digests = [line.split() for line in (folder / "SHA256").read_text().splitlines()]
    assert len(digests) == 11
    for digest, name, path in digests:
        entry = known_by_digest(digest, catalog)
        assert entry is not None and entry.path == path and sha256_of(folder / name) == digest, name
        assert entry.source == f"https://github.com/hamzapehlivan/StyleRes/raw/HEAD/{path}"
    assert known_by_digest("0" * 64, catalog) is None


def test_the_catalogue_invents_no_address() -> None:
    """Only files of the release's repository have one; models are named with their page at most."""
    for entry in read_catalog().values():
        assert entry.url is None and (entry.source is None) == (entry.format is not None), entry.name
        assert entry.licence and entry.about and (entry.sha256 is None or len(entry.sha256) == 64)


def test_a_bad_catalogue_says_so(tmp_path: Path) -> None:
    for text, message in (("[a]\nfile = 1\nwhat = 2\n", "not a catalogue"), ("[[", "not a catalogue")):
        (tmp_path / "c.toml").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            read_catalog(tmp_path / "c.toml")
    (tmp_path / "c.toml").write_text('[a]\nfile = "x"\nabout = "x"\nlicence = "x"\nformat = "onnx"\n')
    with pytest.raises(CheckpointError, match="has the format 'onnx'"):
        read_catalog(tmp_path / "c.toml")
