"""A listing that begins before it ends, signed as AWS's own documentation signs its example."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.store.s3_pages import Access, pages, request, signed

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

    def answer(access: Access, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        asked.append(query)
        assert path == "/bucket" and query["prefix"] == "set/"
        number = int(query.get("continuation-token", "0"))
        return 200, page([f"set/{number}-{i}.jpg" for i in range(3)], str(number + 1) if number < 2 else None)

    monkeypatch.setattr("pipeline.store.s3_pages.request", answer)
    found = pages(EXAMPLE, "bucket", "set/")
    first = next(found)
    assert len(asked) == 1 and [one.key for one in first] == [f"bucket/set/0-{i}.jpg" for i in range(3)]
    assert first[0].size_bytes == 7 and first[0].modified_ns == 1_769_860_800_250_000_000
    assert [len(one) for one in found] == [3, 3] and len(asked) == 3


def test_a_refusal_is_said_and_a_busy_server_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(503, b"slow down"), (200, page(["a"], None)), (403, b"AccessDenied")]
    monkeypatch.setattr("pipeline.store.s3_pages.request", lambda *asked: answers.pop(0))
    assert [len(one) for one in pages(EXAMPLE, "bucket", "")] == [1]
    with pytest.raises(OSError, match="answered with 403: AccessDenied"):
        list(pages(EXAMPLE, "bucket", ""))
    assert callable(request)
