"""Listings that begin before they end and objects in one request, signed as AWS's own documentation signs its example."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pytest

from pipeline.store.kept import Kept, md5_of
from pipeline.store.s3 import Access, Request, copy, pages, read, request, signed, size

EXAMPLE = Access("https://examplebucket.s3.amazonaws.com", "us-east-1", "AKIAIOSFODNN7EXAMPLE", "", None)
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def test_the_signature_is_the_one_of_the_documentation() -> None:
    """GET Bucket (List Objects) of "Signature Calculations for the Authorization Header", Amazon S3 API Reference."""
    access = Access(EXAMPLE.endpoint, EXAMPLE.region, EXAMPLE.key, SECRET, None)
    moment = datetime(2013, 5, 24, tzinfo=UTC)
    headers = signed(access, "examplebucket.s3.amazonaws.com", "/", "max-keys=2&prefix=J", moment)
    assert headers["authorization"].endswith("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")


def page(keys: list[str], token: str | None) -> bytes:
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    objects = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-01-31T12:00:00.250Z</LastModified><Size>7</Size></Contents>"
        for key in keys
    )
    return f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{more}{objects}</ListBucketResult>'.encode()


def test_each_page_is_there_before_the_next_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []

    def answer(access: Access, wanted: Request, *more: object) -> tuple[int, bytes]:
        query = dict(wanted.query)
        asked.append(query)
        assert wanted.path == "/bucket" and query["prefix"] == "set/"
        number = int(query.get("continuation-token", "0"))
        return 200, page([f"set/{number}-{i}.jpg" for i in range(3)], str(number + 1) if number < 2 else None)

    monkeypatch.setattr("pipeline.store.s3.request", answer)
    found = pages(EXAMPLE, "bucket", "set/")
    first = next(found)
    assert len(asked) == 1 and [one.key for one in first] == [f"bucket/set/0-{i}.jpg" for i in range(3)]
    assert first[0].size_bytes == 7 and first[0].modified_ns == 1_769_860_800_250_000_000
    assert [len(one) for one in found] == [3, 3] and len(asked) == 3


def test_a_refusal_is_said_and_a_busy_server_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(503, b"slow down"), (200, page(["a"], None)), (403, b"AccessDenied")]
    monkeypatch.setattr("pipeline.store.s3.request", lambda *asked: answers.pop(0))
    assert [len(one) for one in pages(EXAMPLE, "bucket", "")] == [1]
    with pytest.raises(OSError, match="answered with 403: AccessDenied"):
        list(pages(EXAMPLE, "bucket", ""))
    assert callable(request)


OBJECT = b"0123456789" * 1000


class Objects(BaseHTTPRequestHandler):
    """One object under any name but `none`; `cut` ends after its half the first time, and so does its connection."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str | None, int]] = []  # noqa: RUF012 (emptied by the test)

    def do_HEAD(self) -> None:
        self.send_response(404 if self.path == "/bucket/none" else 200)
        self.send_header("Content-Length", str(len(OBJECT)))
        self.end_headers()

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Range"], self.client_address[1]))
        data = OBJECT if self.path != "/bucket/none" else b"NoSuchKey"
        if found := self.headers["Range"]:
            data = data[int(found.removeprefix("bytes=").removesuffix("-")) :]
        self.send_response(404 if self.path == "/bucket/none" else 206 if found else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.path == "/bucket/cut" and len(self.asked) == 1:
            data, self.close_connection = data[: len(data) // 2], True
        self.wfile.write(data)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Access]:
    Objects.asked.clear()
    served = ThreadingHTTPServer(("127.0.0.1", 0), Objects)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield Access(f"http://127.0.0.1:{served.server_port}", "us-east-1", "x", "y", None)
    served.shutdown()
    thread.join()
    served.server_close()


def test_an_object_is_one_request_on_a_connection_that_stays(server: Access) -> None:
    assert read(server, "bucket", "a b/c.bin") == OBJECT and read(server, "bucket", "d.bin", 9_990) == OBJECT[-10:]
    out = BytesIO()
    copy(server, "bucket", "d.bin", out)
    assert out.getvalue() == OBJECT
    paths, ranges, ports = zip(*Objects.asked, strict=True)
    assert paths == ("/bucket/a%20b/c.bin", "/bucket/d.bin", "/bucket/d.bin") and ranges == (None, "bytes=9990-", None)
    assert len(set(ports)) == 1
    assert size(server, "bucket", "d.bin") == len(OBJECT) and size(server, "bucket", "none") is None
    with pytest.raises(FileNotFoundError, match="s3://bucket/none: reading was answered with 404: NoSuchKey"):
        read(server, "bucket", "none")


@pytest.mark.parametrize("whole", [True, False])
def test_an_answer_that_ends_early_is_asked_for_again(server: Access, whole: bool) -> None:
    out = BytesIO()
    if whole:
        out.write(read(server, "bucket", "cut"))
    else:
        copy(server, "bucket", "cut", out)
    assert out.getvalue() == OBJECT and len(Objects.asked) == 2


def test_kept_bytes_are_those_of_the_version_that_is_asked_for() -> None:
    known = Kept(limit_bytes=10)
    known.add_written("a", b"12345")
    assert known.of("a", md5_of(b"12345")) == b"12345"
    assert known.of("a", md5_of(b"54321")) is None and known.of("a", "") is None and known.of("b", md5_of(b"12345")) is None
    known.add("b", "1700000000", b"1234")
    known.add("c", md5_of(b"99"), b"98")  # a fault on its way
    assert known.of("b", "1700000000") == b"1234" and known.of("c", md5_of(b"99")) is None
    assert known.of("a", md5_of(b"12345")) == b"12345"
    known.add("d", "1", b"123")  # 12 bytes are more than fit: what was used longest ago goes
    assert known.of("b", "1700000000") is None and known.of("a", md5_of(b"12345")) and known.of("d", "1") == b"123"
    known.add("e", "1", b"12345678901")
    assert known.of("e", "1") is None
