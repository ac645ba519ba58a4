"""Places: a local path or an object store's URL, behind pathlib's interface, and files that appear whole.

A local place is a `pathlib.Path`; `s3://…`, `gs://…` and what else pyarrow can open is a `Remote`. Credentials and
endpoints are those of the stores' own tools (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, …),
so that workers on other nodes need nothing but their environment. `AWS_ENDPOINT_URL` and `STORAGE_EMULATOR_HOST` name a
server of one's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeAlias, final

import pyarrow as pa
import pyarrow.fs as pa_fs

from ops.files.atomic import PUBLISHING, replace_files, replaced_file
from pipeline.store import s3
from pipeline.store.kept import KEPT
from pipeline.store.s3 import Access, Found, pages

_URL = re.compile(r"[a-z][a-z0-9+.-]+://")
GOOGLE = ("gs", "gcs")
"""Kinds of URL of a store in which pyarrow sees no folder unless an object stands for it, as nobody's tools make one."""

_PART_BYTES = 64 << 20
WHOLE_BYTES = 16 << 20
"""A file of a bucket that is not larger is read as a whole, and its bytes are kept for a while."""
TAIL_BYTES = 16 << 10


class PlaceError(ValueError):
    """A place that cannot be used; the message says what to do."""


@cache
def filesystem(scheme: str, host: str) -> pa_fs.FileSystem:
    """One connection pool for each kind and bucket, in each process."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if scheme == "s3" and (endpoint or region):
        # A store of one's own, or a region that need not be asked for over the network.
        kind, _, address = (endpoint or "").rpartition("://")
        return pa_fs.S3FileSystem(
            region=region or "us-east-1",
            endpoint_override=address or None,
            scheme=kind or "https",
            force_virtual_addressing=False,
            allow_delayed_open=True,  # a small object is one request instead of three
        )
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if scheme in GOOGLE and emulator:
        kind, _, address = emulator.rpartition("://")
        return pa_fs.GcsFileSystem(anonymous=True, scheme=kind or "http", endpoint_override=address)
    return pa_fs.FileSystem.from_uri(f"{scheme}://{host}/")[0]


@final
@dataclass(frozen=True)
class Remote:
    """A file or folder of an object store; the few properties of a pathlib path that we use. Picklable."""

    scheme: str
    key: str
    """Bucket and path, without slashes at the ends."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.key}"

    def __truediv__(self, name: str) -> Remote:
        return self.joinpath(name)

    def joinpath(self, *names: str) -> Remote:
        return Remote(self.scheme, "/".join([self.key, *names]))

    @property
    def name(self) -> str:
        return self.key.rsplit("/", 1)[-1]

    @property
    def stem(self) -> str:
        return self.name.rsplit(".", 1)[0]

    @property
    def suffix(self) -> str:
        return "." + self.name.rsplit(".", 1)[1] if "." in self.name else ""

    def with_name(self, name: str) -> Remote:
        return Remote(self.scheme, self.key.removesuffix(self.name) + name)

    @property
    def fs(self) -> pa_fs.FileSystem:
        return filesystem(self.scheme, self.key.split("/", 1)[0])

    def open(self, mode: str = "rb") -> pa.NativeFile:
        return self.fs.open_input_file(self.key)

    @property
    def bucket(self) -> tuple[str, str]:
        """The bucket's name, and the path in it."""
        name, _, path = self.key.partition("/")
        return name, path

    @property
    def access(self) -> Access | None:
        """For whoever asks S3 itself; None where pyarrow has to."""
        return Access.from_environment() if self.scheme == "s3" else None

    def read_bytes(self) -> bytes:
        if (access := self.access) is not None:
            return s3.read(access, *self.bucket)
        with self.fs.open_input_stream(self.key) as file:
            return file.read()

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)


Place: TypeAlias = Path | Remote


@dataclass(frozen=True)
class Listed:
    """A file in a folder, as its listing shows it."""

    path: Place
    size_bytes: int
    version: str
    """Changes when the file is written again."""


def is_url(where: str | Place) -> bool:
    return isinstance(where, Remote) or (isinstance(where, str) and _URL.match(where) is not None)


def place(where: str | Place) -> Place:
    """A path or URL as typed => a place; local ones absolute.

    Raises:
        PlaceError: a kind of URL that pyarrow cannot open here.
    """
    if isinstance(where, Remote):
        return where
    if not is_url(where):
        return Path(where).absolute()
    scheme, _, key = str(where).partition("://")
    if scheme == "file":
        return Path("/" + key.lstrip("/"))
    key = re.sub(r"/+", "/", key).strip("/")
    found = Remote(scheme, key)
    try:
        _ = found.fs
    except (OSError, ValueError, NotImplementedError) as error:
        raise PlaceError(
            f"{where}: expected a path, s3://BUCKET/… or gs://BUCKET/…; this place cannot be opened ({error})"
        ) from error
    return found


def joined(folder: Place, relative: str) -> Place:
    """`folder / relative` for a relative name that may contain slashes."""
    return folder.joinpath(*relative.split("/"))


class Hashing(io.RawIOBase):
    """Passes bytes on and counts and digests them on their way."""

    def __init__(self, out: IO[bytes]) -> None:
        super().__init__()
        self._out = out
        self._digest = hashlib.sha256()
        self._tail = b""
        self.size_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._out.write(view)
        self._digest.update(view)
        self._tail = (self._tail + bytes(view[-TAIL_BYTES:]))[-TAIL_BYTES:]
        self.size_bytes += len(view)
        return len(view)

    def tell(self) -> int:
        return self.size_bytes

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    @property
    def tail_sha256(self) -> str:
        """SHA-256 of the last `TAIL_BYTES`, or of all where there are fewer."""
        return hashlib.sha256(self._tail).hexdigest()


@contextlib.contextmanager
def writing(path: Place) -> Iterator[Hashing]:
    """A file to write into that appears at `path` whole if the body succeeds, and not at all if it raises.

    Locally: a temporary name beside it, fsync, rename. On an object store: one upload at the end, which is atomic there.
    """
    if isinstance(path, Remote):
        buffer = io.BytesIO()
        yield Hashing(buffer)
        with PUBLISHING.get()():
            upload(buffer.getbuffer(), path)
        if path.suffix == ".parquet" and len(buffer.getbuffer()) <= WHOLE_BYTES:
            KEPT.add_written(path, buffer.getvalue())
        return
    with replaced_file(path) as temporary, open(temporary, "wb") as file:
        yield Hashing(file)


def write_all(contents: Mapping[Place, bytes]) -> None:
    """Write several files, each of which appears whole or not at all."""
    for path, data in contents.items():
        if isinstance(path, Remote):
            with writing(path) as file:
                file.write(data)
    replace_files({path: data for path, data in contents.items() if isinstance(path, Path)})


def upload(data: memoryview, path: Remote) -> None:
    """The object exists once the stream is closed, and closing is the last thing done."""
    with path.fs.open_output_stream(path.key, buffer_size=0) as out:
        for start in range(0, len(data), _PART_BYTES):
            out.write(data[start : start + _PART_BYTES])


def write_text(path: Place, text: str) -> None:
    with writing(path) as file:
        file.write(text.encode("utf-8"))


def listed(folder: Place, suffix: str = "") -> list[Listed]:
    """The files directly in a folder whose names end in `suffix`, by name; hidden ones never. [] where there is none."""
    if isinstance(folder, Remote) and (access := folder.access) is not None:
        bucket, path = folder.bucket
        objects = (one for page in pages(access, bucket, f"{path}/" if path else "", "/") for one in page)
        return [
            Listed(Remote(folder.scheme, one.key), one.size_bytes, one.etag or str(one.modified_ns))
            for one in objects
            if one.key.endswith(suffix) and not one.key.endswith("/") and "/." not in one.key.removeprefix(folder.key)
        ]
    if isinstance(folder, Remote):
        return [
            Listed(folder / facts.base_name, facts.size, str(facts.mtime_ns))
            for facts in _remote_entries(folder)
            if facts.type == pa_fs.FileType.File and facts.base_name.endswith(suffix) and not facts.base_name.startswith(".")
        ]
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(suffix) and entry.is_file()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [
        Listed(folder / name, facts.st_size, f"{facts.st_mtime_ns}-{facts.st_ino}")
        for name, facts in sorted(found)
        if not name.startswith(".")
    ]


def folders(folder: Place) -> list[str]:
    """Names of the folders directly in a folder, sorted; hidden ones never."""
    if isinstance(folder, Remote) and folder.scheme in GOOGLE:
        below = (str(path).removeprefix(f"{folder}/") for path in files_below(folder))
        names = list({name.split("/", 1)[0] for name in below if "/" in name})
    elif isinstance(folder, Remote):
        names = [facts.base_name for facts in _remote_entries(folder) if facts.type == pa_fs.FileType.Directory]
    else:
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if entry.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
    return sorted(name for name in names if not name.startswith("."))


def files_below(folder: Remote) -> Iterator[Remote]:
    """Every object below a folder, however deep."""
    found = folder.fs.get_file_info(pa_fs.FileSelector(folder.key, recursive=True, allow_not_found=True))
    return (Remote(folder.scheme, facts.path) for facts in found if facts.type == pa_fs.FileType.File)


def listed_below(folder: Remote) -> Iterator[Found]:
    """Every object below a folder, however deep, in the order of the store's listing; of S3 with the first page."""
    if (access := folder.access) is not None:
        bucket, path = folder.bucket
        for page in pages(access, bucket, f"{path}/" if path else ""):
            yield from (one for one in page if not one.key.endswith("/"))
        return
    found = folder.fs.get_file_info(pa_fs.FileSelector(folder.key, recursive=True, allow_not_found=True))
    for one in found:
        if one.type == pa_fs.FileType.File:
            yield Found(one.path, one.size, one.mtime_ns or 0)


def sizes_below(folder: Place) -> dict[str, int]:
    """Every file below a folder, however deep, by its name relative to it => bytes."""
    if isinstance(folder, Remote):
        return {one.key.removeprefix(f"{folder.key}/"): one.size_bytes for one in listed_below(folder)}
    return {
        os.path.relpath(os.path.join(where, name), folder): os.stat(os.path.join(where, name)).st_size
        for where, _, names in os.walk(folder)
        for name in names
    }


def _remote_entries(folder: Remote) -> list[pa_fs.FileInfo]:
    found = folder.fs.get_file_info(pa_fs.FileSelector(folder.key, allow_not_found=True))
    return sorted(found, key=lambda facts: facts.base_name)


def size_of(path: Place) -> int | None:
    """Bytes of a file; None where there is none."""
    if isinstance(path, Remote):
        if (access := path.access) is not None:
            return s3.size(access, *path.bucket)
        facts = path.fs.get_file_info(path.key)
        return facts.size if facts.type == pa_fs.FileType.File else None
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def exists(path: Place) -> bool:
    return size_of(path) is not None


def contents(one: Listed) -> bytes:
    """All bytes of a file; from memory where it is a bucket's and this process has those of that version."""
    if not isinstance(one.path, Remote):
        return one.path.read_bytes()
    data = kept_contents(one)
    if data is None:
        data = one.path.read_bytes()
        KEPT.add(one.path, one.version, data)
    return data


def kept_contents(one: Listed) -> bytes | None:
    """All bytes of a file where nobody need be asked for them."""
    return KEPT.of(one.path, one.version)


def opened(one: Listed) -> Any:
    """A file to read. A small one of a bucket comes as a whole: asking for its pages one by one takes longer."""
    if isinstance(one.path, Remote) and one.size_bytes <= WHOLE_BYTES:
        return pa.BufferReader(contents(one))
    return one.path.open("rb")


def tail_digest_of(path: Place, size_bytes: int) -> str:
    """SHA-256 of the last `TAIL_BYTES` of a file of that size, as they are there now."""
    start = max(0, size_bytes - TAIL_BYTES)
    if isinstance(path, Remote) and (access := path.access) is not None:
        return hashlib.sha256(s3.read(access, *path.bucket, start)[: size_bytes - start]).hexdigest()
    with path.open("rb") as file:
        file.seek(start)
        return hashlib.sha256(file.read()).hexdigest()


def move(path: Place, to: Place) -> None:
    """Move a file within its disk or bucket; the folder is made, and what was there is replaced."""
    if isinstance(path, Remote) and isinstance(to, Remote):
        path.fs.move(path.key, to.key)
        return
    assert isinstance(path, Path) and isinstance(to, Path)
    to.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, to)


def remove(path: Place) -> None:
    """Remove a file; no error where there is none."""
    if isinstance(path, Remote) and (access := path.access) is not None:
        s3.delete(access, path.bucket[0], [path.bucket[1]])
        return
    if isinstance(path, Remote):
        with contextlib.suppress(FileNotFoundError):
            path.fs.delete_file(path.key)
        return
    path.unlink(missing_ok=True)


def remove_all(paths: Sequence[Place]) -> None:
    """Remove files, in S3 with a request for a thousand of a bucket; no error where there are none."""
    keys: dict[tuple[Access, str], list[str]] = {}
    for path in paths:
        if isinstance(path, Remote) and (access := path.access) is not None:
            keys.setdefault((access, path.bucket[0]), []).append(path.bucket[1])
        else:
            remove(path)
    for (access, bucket), names in keys.items():
        s3.delete(access, bucket, names)


def remove_tree(folder: Place) -> None:
    """Remove a folder and all in it; no error where there is none."""
    if isinstance(folder, Remote) and (access := folder.access) is not None:
        bucket, path = folder.bucket
        for page in pages(access, bucket, f"{path}/"):
            s3.delete(access, bucket, [one.key.partition("/")[2] for one in page])
        return
    with contextlib.suppress(FileNotFoundError):
        if isinstance(folder, Remote) and folder.scheme in GOOGLE:
            folder.fs.delete_dir_contents(folder.key, missing_dir_ok=True)
        elif isinstance(folder, Remote):
            folder.fs.delete_dir(folder.key)
        else:
            shutil.rmtree(folder)


@contextlib.contextmanager
def local_file(path: Place) -> Iterator[Path]:
    """The file under a local path: itself, or a copy for as long as the body runs."""
    if not isinstance(path, Remote):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="styleres-") as folder:
        copy = Path(folder) / path.name
        download(path, copy)
        yield copy


def download(path: Remote, copy: Path) -> None:
    if (access := path.access) is not None:
        with open(copy, "wb") as file:
            s3.copy(access, *path.bucket, file)
        return
    with path.fs.open_input_stream(path.key) as source, open(copy, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


@contextlib.contextmanager
def local_output(path: Place) -> Iterator[Path]:
    """A local path to write a file to, atomically by whoever writes it; what is there afterwards is then at `path`."""
    if not isinstance(path, Remote):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="styleres-") as folder:
        local = Path(folder) / path.name
        yield local
        if local.exists():
            with (
                PUBLISHING.get()(),
                open(local, "rb") as file,
                path.fs.open_output_stream(path.key, buffer_size=0) as out,
            ):
                while block := file.read(_PART_BYTES):
                    out.write(block)
