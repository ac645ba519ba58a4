"""Listing a prefix of an S3 bucket page by page, so that work on a million objects begins with the first thousand.

pyarrow gives a listing when it has all of it. This asks for ListObjectsV2 itself, signed by AWS Signature Version 4, with the
credentials and the endpoint of the environment; without a key there (a role of the machine, a profile) pyarrow has to do it.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

PAGE_KEYS: Final = 1000
TIMEOUT_SECONDS: Final = 60.0
ATTEMPTS: Final = 4


@dataclass(frozen=True)
class Found:
    """An object, as a listing shows it."""

    key: str
    """Bucket and path."""
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True)
class Access:
    """Who asks whom."""

    endpoint: str
    region: str
    key: str
    secret: str
    token: str | None

    @classmethod
    def from_environment(cls) -> Access | None:
        """None where the environment has no key."""
        key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
        if not key or not secret:
            return None
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return cls(endpoint or f"https://s3.{region}.amazonaws.com", region, key, secret, os.environ.get("AWS_SESSION_TOKEN"))


def pages(access: Access, bucket: str, prefix: str) -> Iterator[list[Found]]:
    """The objects of a bucket whose keys begin so, a page at a time, in the order of their keys. Raises OSError."""
    token: str | None = None
    while True:
        query = {"list-type": "2", "max-keys": str(PAGE_KEYS), "prefix": prefix}
        if token is not None:
            query["continuation-token"] = token
        root = ElementTree.fromstring(_get(access, bucket, query))
        space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
        found = []
        for one in root.iter(f"{space}Contents"):
            key, size, modified = (one.findtext(f"{space}{name}", "") for name in ("Key", "Size", "LastModified"))
            found.append(Found(f"{bucket}/{key}", int(size), _nanoseconds(modified)))
        yield found
        token = root.findtext(f"{space}NextContinuationToken")
        if root.findtext(f"{space}IsTruncated") != "true" or not token:
            return


def _nanoseconds(text: str) -> int:
    """2026-01-31T12:00:00.250Z => ns since 1970."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000


def _get(access: Access, bucket: str, query: dict[str, str]) -> bytes:
    """The answer's body. Raises OSError, also for an answer that is none."""
    for attempt in range(ATTEMPTS):
        status, body = request(access, f"/{quote(bucket)}", query)
        if status == 200:
            return body
        if (status < 500 and status != 429) or attempt == ATTEMPTS - 1:
            break
    raise OSError(
        f"s3://{bucket}/{query['prefix']}: listing was answered with {status}: {body[:300].decode('utf-8', 'replace')}"
    )


def request(access: Access, path: str, query: dict[str, str]) -> tuple[int, bytes]:
    """One signed GET => (status, body). Raises OSError."""
    parts = urlsplit(access.endpoint)
    host, path = parts.netloc, parts.path.rstrip("/") + path
    text = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))
    headers = signed(access, host, path, text, datetime.now(UTC))
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", f"{path}?{text}", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"{access.endpoint}: {error!r}") from error
    finally:
        connection.close()


def signed(access: Access, host: str, path: str, query: str, now: datetime) -> dict[str, str]:
    """Headers of a GET without a body, as "Signature Version 4 signing process" of AWS General Reference says."""
    moment, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    empty = hashlib.sha256(b"").hexdigest()
    headers = {"host": host, "x-amz-content-sha256": empty, "x-amz-date": moment}
    if access.token:
        headers["x-amz-security-token"] = access.token
    names = ";".join(sorted(headers))
    listed = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = "\n".join(["GET", path, query, listed, names, empty])
    scope = f"{day}/{access.region}/s3/aws4_request"
    to_sign = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{access.secret}".encode()
    for part in (day, access.region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    credential = f"AWS4-HMAC-SHA256 Credential={access.key}/{scope}, SignedHeaders={names}, Signature={signature}"
    return headers | {"authorization": credential}
