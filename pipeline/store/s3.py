"""Listing, reading and emptying an S3 bucket: a page of a listing is one request, and so is an object, or its end.

pyarrow gives a listing when it has all of it and without the objects' ETags, and asks for the length of an object before it
reads it. This asks itself, signed by AWS Signature Version 4, with the credentials and the endpoint of the environment; without
a key there (a role of the machine, a profile) pyarrow has to do it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock
from typing import IO, Final
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

PAGE_KEYS: Final = 1000
TIMEOUT_SECONDS: Final = 60.0
ATTEMPTS: Final = 4
WAIT_SECONDS: Final = 0.1
"""Before the second attempt; four times as long before each further one."""
BLOCK_BYTES: Final = 1 << 20
MOST_IDLE: Final = 8
"""Connections that wait for the next request."""


@dataclass(frozen=True)
class Found:
    """An object, as a listing shows it."""

    key: str
    """Bucket and path."""
    size_bytes: int
    modified_ns: int
    etag: str = ""
    """The MD5 of the bytes of an object that was written by one request and is not encrypted by a key of its owner's."""


@dataclass(frozen=True)
class Access:
    """Endpoint and credentials."""

    endpoint: str
    region: str
    key: str
    secret: str
    token: str | None

    @classmethod
    def from_environment(cls) -> Access | None:
        """None where the environment has no key, or says neither where the bucket is nor who serves it."""
        key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
        if not key or not secret:
            return None
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if not region and not endpoint:
            return None
        region = region or "us-east-1"
        return cls(endpoint or f"https://s3.{region}.amazonaws.com", region, key, secret, os.environ.get("AWS_SESSION_TOKEN"))


@dataclass(frozen=True)
class Request:
    """One request."""

    path: str
    """As in a URL: `/bucket`, `/bucket/key`."""
    query: Mapping[str, str] = field(default_factory=dict)
    method: str = "GET"
    start: int = 0
    """The first byte wanted."""
    content: bytes = b""
    """Bytes to send."""


def pages(access: Access, bucket: str, prefix: str, delimiter: str = "") -> Iterator[list[Found]]:
    """The objects of a bucket whose keys begin so, a page at a time, in the order of their keys. Raises OSError.

    delimiter: leaves out objects whose keys have it after the prefix.
    """
    token: str | None = None
    while True:
        query = {"list-type": "2", "max-keys": str(PAGE_KEYS), "prefix": prefix}
        if delimiter:
            query["delimiter"] = delimiter
        if token is not None:
            query["continuation-token"] = token
        said = f"s3://{bucket}/{prefix}: listing"
        root = ElementTree.fromstring(_answered(said, access, Request(_path(bucket), query)))
        space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
        found = []
        for one in root.iter(f"{space}Contents"):
            texts = (one.findtext(f"{space}{name}", "") for name in ("Key", "Size", "LastModified", "ETag"))
            key, size, modified, etag = texts
            found.append(Found(f"{bucket}/{key}", int(size), _nanoseconds(modified), etag.strip('"')))
        yield found
        token = root.findtext(f"{space}NextContinuationToken")
        if root.findtext(f"{space}IsTruncated") != "true" or not token:
            return


def read(access: Access, bucket: str, key: str, start: int = 0) -> bytes:
    """The bytes of an object, from one of them to its end. Raises OSError, FileNotFoundError where there is none."""
    return _answered(f"s3://{bucket}/{key}: reading", access, Request(_path(bucket, key), start=start))


def copy(access: Access, bucket: str, key: str, out: IO[bytes]) -> None:
    """As `read`, into an empty file, a block at a time."""
    _answered(f"s3://{bucket}/{key}: reading", access, Request(_path(bucket, key)), out)


def size(access: Access, bucket: str, key: str) -> int | None:
    """The bytes of an object; None where there is none. Raises OSError."""
    try:
        said = f"s3://{bucket}/{key}: asking for it"
        return int(_answered(said, access, Request(_path(bucket, key), method="HEAD")))
    except FileNotFoundError:
        return None


def delete(access: Access, bucket: str, keys: Sequence[str]) -> None:
    """Remove objects; no error for those that are not there. Raises OSError."""
    for at in range(0, len(keys), PAGE_KEYS):
        root = ElementTree.Element("Delete")
        ElementTree.SubElement(root, "Quiet").text = "true"
        for key in keys[at : at + PAGE_KEYS]:
            ElementTree.SubElement(ElementTree.SubElement(root, "Object"), "Key").text = key
        said = f"s3://{bucket}/{keys[at]}: removing it and {len(keys) - 1} more"
        wanted = Request(_path(bucket), {"delete": ""}, "POST", content=ElementTree.tostring(root))
        answer = _answered(said, access, wanted)
        if b"<Error>" in answer:
            raise OSError(f"{said} was answered with {answer[:300].decode('utf-8', 'replace')}")


def _path(*names: str) -> str:
    return "".join(f"/{quote(name)}" for name in names)


def _nanoseconds(text: str) -> int:
    """2026-01-31T12:00:00.250Z => ns since 1970."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000


def _answered(said: str, access: Access, wanted: Request, out: IO[bytes] | None = None) -> bytes:
    """The answer's body. Raises OSError, also for an answer that is none."""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(WAIT_SECONDS * 4 ** (attempt - 1))
        if out is not None:
            out.seek(0)
            out.truncate()
        try:
            status, answer = request(access, wanted, out)
        except OSError:
            if attempt == ATTEMPTS - 1:
                raise
            continue
        if status in (200, 206):
            return answer
        if status < 500 and status != 429:
            break
    kind = FileNotFoundError if status == 404 else OSError
    raise kind(f"{said} was answered with {status}: {answer[:300].decode('utf-8', 'replace')}")


class _Idle:
    """Connections on which an answer has ended."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: dict[tuple[str, str], list[http.client.HTTPConnection]] = {}

    def take(self, scheme: str, host: str) -> http.client.HTTPConnection:
        with self._lock:
            if kept := self._kept.get((scheme, host)):
                return kept.pop()
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        return kind(host, timeout=TIMEOUT_SECONDS)

    def keep(self, scheme: str, host: str, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            kept = self._kept.setdefault((scheme, host), [])
            if len(kept) < MOST_IDLE:
                kept.append(connection)
                return
        connection.close()

    def drop(self, scheme: str, host: str) -> None:
        """The server has closed one, so the others are likely closed too."""
        with self._lock:
            kept = self._kept.pop((scheme, host), [])
        for connection in kept:
            connection.close()


_IDLE = _Idle()


def request(access: Access, wanted: Request, out: IO[bytes] | None = None) -> tuple[int, bytes]:
    """One signed request => (status, body); of a HEAD that finds something the body is its length. Raises OSError.

    out: where the body goes to, if it is the object's.
    """
    parts = urlsplit(access.endpoint)
    host, path, method, content = parts.netloc, parts.path.rstrip("/") + wanted.path, wanted.method, wanted.content
    text = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(wanted.query.items()))
    headers = signed(access, host, path, text, datetime.now(UTC), method, content)
    if content:
        headers["content-md5"] = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    if wanted.start:
        headers["range"] = f"bytes={wanted.start}-"
    connection = _IDLE.take(parts.scheme, host)
    try:
        connection.request(method, f"{path}?{text}" if text else path, body=content or None, headers=headers)
        answer = connection.getresponse()
        if out is None or answer.status not in (200, 206):
            body = answer.read()
            if method == "HEAD" and answer.status == 200:
                body = answer.getheader("Content-Length", "").encode()
        else:
            body, length = b"", answer.length
            while block := answer.read(BLOCK_BYTES):
                out.write(block)
            if length is not None and out.tell() != length:
                raise OSError(f"{access.endpoint}{path}: the answer ended after {out.tell()} bytes of {length}")
    except http.client.HTTPException as error:
        connection.close()
        _IDLE.drop(parts.scheme, host)
        raise OSError(f"{access.endpoint}: {error!r}") from error
    except BaseException:
        connection.close()
        _IDLE.drop(parts.scheme, host)
        raise
    if answer.will_close:
        connection.close()
    else:
        _IDLE.keep(parts.scheme, host, connection)
    return answer.status, body


def signed(
    access: Access, host: str, path: str, query: str, now: datetime, method: str = "GET", content: bytes = b""
) -> dict[str, str]:
    """Headers of a request, as "Signature Version 4 signing process" of AWS General Reference says."""
    moment, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    sha256 = hashlib.sha256(content).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": sha256, "x-amz-date": moment}
    if access.token:
        headers["x-amz-security-token"] = access.token
    names = ";".join(sorted(headers))
    listed = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = "\n".join([method, path, query, listed, names, sha256])
    scope = f"{day}/{access.region}/s3/aws4_request"
    to_sign = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{access.secret}".encode()
    for part in (day, access.region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    credential = f"AWS4-HMAC-SHA256 Credential={access.key}/{scope}, SignedHeaders={names}, Signature={signature}"
    return headers | {"authorization": credential}
