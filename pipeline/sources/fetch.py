"""Inputs as local files: a path is itself; a URL, a member of a tar file and a row of a Parquet file are copied first.

    clip.mp4   s3://bucket/clip.mp4   shards/00017.tar#portraits/0042.jpg   faces.parquet#1234   s3://bucket/00017.tar#0042.png

Copies live in a temporary folder of the process and are kept while there is room, the last used ones longest.
"""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, final

import pyarrow as pa
import pyarrow.parquet as pq

from ops.files.digest import sha256_of
from ops.video.errors import MediaError
from ops.video.probe import require_file
from pipeline.engine.stage import Source
from pipeline.store.places import Remote, download, is_url, place

CACHE_BYTES, FEWEST_COPIES = 8 << 30, 32
_MEMBER = re.compile(r"(.+\.(?:tar|parquet))#(.+)", re.S)
_SUFFIX_OF_MAGIC = {
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}


def member_of(uri: str) -> tuple[str, str] | None:
    """(container, member) of a tar member or a Parquet row; None for a file of its own, even one with a # in its name."""
    match = _MEMBER.fullmatch(uri)
    if match is None or (not is_url(uri) and Path(uri).exists()):
        return None
    return match[1], match[2]


def is_plain(uri: str) -> bool:
    """A local file, which needs no copy."""
    return not is_url(uri) and member_of(uri) is None


@final
class Fetcher:
    """One for a process; threads may share it. The last few copies always stay, so that what was asked for can be opened."""

    def __init__(self, limit_bytes: int = CACHE_BYTES) -> None:
        self._limit = limit_bytes
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._copies: OrderedDict[str, tuple[Path, int]] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}
        self._tar: tuple[str, dict[str, tuple[int, int]]] | None = None
        self._table: tuple[str, int, int, pa.ChunkedArray] | None = None

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return Fetcher, (self._limit,)  # copies belong to the process that made them

    def path(self, uri: str) -> Path:
        """A local file with the input's bytes, until other inputs push it out.

        Raises MediaError where there is no such file or member.
        """
        if is_plain(uri):
            return Path(uri)
        with self._lock:
            if uri in self._copies:
                self._copies.move_to_end(uri)
                return self._copies[uri][0]
            fetching = self._fetching.setdefault(uri, threading.Lock())
        with fetching:
            if uri in self._copies:  # another thread has fetched it meanwhile
                return self._copies[uri][0]
            try:
                path = self._fetched(uri)
            except (OSError, KeyError, ValueError, IndexError, tarfile.TarError, pa.ArrowException) as error:
                raise MediaError(uri, f"it cannot be fetched: {error}", "check that it is still there") from error
            with self._lock:
                self._copies[uri] = (path, path.stat().st_size)
                self._fetching.pop(uri, None)
                while len(self._copies) > FEWEST_COPIES and sum(size for _, size in self._copies.values()) > self._limit:
                    _, (old, _) = self._copies.popitem(last=False)
                    old.unlink(missing_ok=True)
        return path

    def data(self, uri: str) -> bytes:
        """The input's bytes, read once and kept nowhere. Raises MediaError where there is no such file or member."""
        try:
            if member := member_of(uri):
                return self._member_bytes(*member)
            where = place(uri)
            if isinstance(where, Path):
                require_file(where)  # reading a pipe would never end
            return where.read_bytes()
        except MediaError:
            raise
        except (OSError, KeyError, ValueError, IndexError, tarfile.TarError, pa.ArrowException) as error:
            said = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise MediaError(uri, f"it cannot be read: {said}", "check that it is still there") from error

    def _fetched(self, uri: str) -> Path:
        member = member_of(uri)
        if member is None:
            remote = place(uri)
            assert isinstance(remote, Remote)
            path = self._new_path(remote.suffix)
            download(remote, path)
            return path
        data = self._member_bytes(*member)
        path = self._new_path(suffix_of(member[1], data))
        path.write_bytes(data)
        return path

    def _new_path(self, suffix: str) -> Path:
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="styleres-inputs-")
            self._count += 1
            return Path(self._folder.name) / f"{self._count:09d}{suffix}"

    def members(self, container: str) -> list[str]:
        """Names of the files in a tar file, in their order there. Raises MediaError where there is none."""
        try:
            return list(self._index(container, self.path(container)))
        except (OSError, tarfile.TarError) as error:
            raise MediaError(container, f"it cannot be read: {error}", "check that it is a tar file") from error

    def _index(self, container: str, local: Path) -> dict[str, tuple[int, int]]:
        """Member => its place and length."""
        index = self._tar
        if index is None or index[0] != container:
            with tarfile.open(local) as tar:
                index = (container, {one.name: (one.offset_data, one.size) for one in tar if one.isfile()})
            self._tar = index
        return index[1]

    def _member_bytes(self, container: str, member: str) -> bytes:
        local = self.path(container)
        if container.endswith(".tar"):
            offset, size = self._index(container, local)[member]
            with open(local, "rb") as file:
                file.seek(offset)
                return file.read(size)
        row, table = int(member), self._table
        if table is None or table[0] != container or not table[1] <= row < table[2]:
            table = (container, *row_group(local, row))
            self._table = table
        return image_bytes(table[3][row - table[1]].as_py())


def suffix_of(name: str, data: bytes) -> str:
    """The name's own suffix, or what the first bytes say for a row that has no name."""
    suffix = os.path.splitext(name)[1]
    if suffix:
        return suffix
    return next((found for magic, found in _SUFFIX_OF_MAGIC.items() if data.startswith(magic)), ".bin")


def image_column(schema: pa.Schema) -> str:
    """The column of encoded images: bytes, or a struct with bytes, as Hugging Face datasets write it.

    Raises ValueError where there is none, or several.
    """
    found = [
        field.name
        for field in schema
        if pa.types.is_binary(field.type)
        or pa.types.is_large_binary(field.type)
        or (pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ]
    named = [name for name in found if name in ("image", "img", "jpg", "png", "bytes")]
    chosen = found if len(found) == 1 else named
    if len(chosen) != 1:
        raise ValueError(f"expected one column of image bytes, found {found or 'none'} among {schema.names}; name it `image`")
    return chosen[0]


def row_group(path: Path, row: int) -> tuple[int, int, pa.ChunkedArray]:
    """(first row, row after the last, encoded images) of the row group that holds a row."""
    with pq.ParquetFile(path) as file:
        column, start = image_column(file.schema_arrow), 0
        for group in range(file.metadata.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            if start <= row < stop:
                return start, stop, file.read_row_group(group, columns=[column])[column]
            start = stop
    raise IndexError(f"no row {row}; there are {start}")


def image_bytes(value: Any) -> bytes:
    data = value.get("bytes") if isinstance(value, dict) else value
    if not data:
        raise ValueError("the row has no image bytes")
    return bytes(data)


FETCHER = Fetcher()


def require_unchanged(source: Source, path: Path, digest: str | None = None) -> None:
    """The file must be what was probed: results are filed under its digest.

    A file with another modification time is read again and compared; the clock itself plays no part.
    Raises MediaError.
    """
    try:
        facts = path.stat()
    except OSError as error:
        raise MediaError(source.uri, f"it is gone since it was probed ({error.strerror})", "put it back") from error
    same = facts.st_size == source.info.size_bytes
    if same and digest is None and source.modified_ns is not None and facts.st_mtime_ns != source.modified_ns:
        digest = sha256_of(path)
    if not same or (digest is not None and digest != source.info.sha256):
        raise MediaError(
            source.uri, "it is not the file that was probed any more", "let nothing write to it, and run the same command again"
        )
