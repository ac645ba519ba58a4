"""The catalogue of published files (`catalog.toml` beside this file), and fetching one of them."""

from __future__ import annotations

import hashlib
import shutil
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from ops.checkpoints.formats.contents import Format
from ops.files.errors import CheckpointError
from ops.files.sniff import sniff, wrong_file

CATALOG = Path(__file__).with_name("catalog.toml")
TIMEOUT_SECONDS = 60
BLOCK_BYTES = 1 << 20


class FetchError(CheckpointError):
    """A file that cannot be had, or is not the one that was meant. The message says what to do."""


@dataclass(frozen=True)
class Asset:
    """One published file."""

    name: str
    file: str
    about: str
    licence: str
    format: Format | None = None
    """Format that it is converted from; None for an edit's file, which is used as it is."""
    repository: str | None = None
    path: str | None = None
    url: str | None = None
    page: str | None = None
    sha256: str | None = None

    @property
    def source(self) -> str | None:
        """Address of the download; None if it is not known for certain."""
        if self.url is not None:
            return self.url
        if self.repository is not None and self.path is not None:
            return f"https://github.com/{self.repository}/raw/HEAD/{urllib.parse.quote(self.path)}"
        return None


def read_catalog(path: Path = CATALOG) -> dict[str, Asset]:
    """Assets by name. Raises CheckpointError for a file of another form."""
    try:
        entries = tomllib.loads(path.read_text("utf-8"))
        assets = {name: Asset(name=name, **entry) for name, entry in entries.items()}
    except (OSError, tomllib.TOMLDecodeError, TypeError) as error:
        raise CheckpointError(f"{path}: not a catalogue ({error}); compare it with {CATALOG}") from error
    for asset in assets.values():
        if asset.format is not None and asset.format not in get_args(Format):
            raise CheckpointError(f"{path}: {asset.name} has the format {asset.format!r}; expected one of {get_args(Format)}")
    return assets


def known_by_digest(sha256: str, assets: dict[str, Asset]) -> Asset | None:
    """The asset with these bytes."""
    return next((asset for asset in assets.values() if asset.sha256 == sha256), None)


@contextmanager
def downloaded(asset: Asset, folder: Path, progress: Callable[[int, int | None], None]) -> Iterator[Path]:
    """The asset's file, verified, in a temporary folder inside `folder` that is gone afterwards.

    progress: called with bytes so far and all bytes, if the server says. Raises FetchError.
    """
    source = asset.source
    if source is None:
        where = f"get it from {asset.page}" if asset.page else "get it from where its authors publish it"
        then = f"then: styleres convert {asset.file} --out FOLDER" if asset.format else "then name the file"
        raise FetchError(f"{asset.name}: no address of {asset.file} is known for certain; {where}, {then}")
    if urllib.parse.urlsplit(source).scheme not in ("http", "https"):
        raise FetchError(f"{asset.name}: expected an address of http or https, got {source}")
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".styleres-fetch-", dir=folder) as temporary:
        path = Path(temporary) / asset.file
        digest = download(asset, source, path, progress)
        verify(asset, source, path, digest)
        yield path


def download(asset: Asset, source: str, path: Path, progress: Callable[[int, int | None], None]) -> str:
    """Write what the address gives; return its SHA-256. Raises FetchError for no answer, and for less than was promised."""
    digest, received, promised = hashlib.sha256(), 0, None
    try:
        request = urllib.request.Request(source, headers={"User-Agent": "styleres-video"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer, path.open("wb") as file:
            length = answer.headers.get("Content-Length")
            promised = int(length) if length and length.isdigit() else None
            while block := answer.read(BLOCK_BYTES):
                file.write(block)
                digest.update(block)
                received += len(block)
                progress(received, promised)
    except (OSError, urllib.error.URLError, ValueError) as error:
        # An HTTPError is a URLError too, and its text names the status.
        reason = error.reason if type(error) is urllib.error.URLError else error
        raise FetchError(
            f"{asset.name}: cannot download {source} ({reason}). On a machine without a network, bring {asset.file} from one "
            "that has it" + (f" and run styleres convert {asset.file} --out FOLDER" if asset.format else "")
        ) from error
    if promised is not None and received != promised:
        raise FetchError(f"{asset.name}: {source} ended after {received:,} of {promised:,} bytes; fetch it again")
    return digest.hexdigest()


def verify(asset: Asset, source: str, path: Path, digest: str) -> None:
    """Raises FetchError where a web page came, or other bytes than the catalogue names."""
    found = sniff(path)
    if found.kind in ("html", "git-lfs", "empty", "truncated"):
        raise FetchError(f"{asset.name}: from {source}: {wrong_file(path.relative_to(path.parent), found, asset.about)}")
    if asset.sha256 is not None and digest != asset.sha256:
        raise FetchError(
            f"{asset.name}: {source} has the SHA-256 {digest}, and the catalogue names {asset.sha256}: another file, or a "
            "changed one; nothing was kept"
        )


def keep(path: Path, out: Path) -> None:
    """Move a downloaded file to its place. Raises FetchError where there is one already."""
    if out.exists():
        raise FetchError(f"{out} exists already; use another --out")
    shutil.move(path, out)
