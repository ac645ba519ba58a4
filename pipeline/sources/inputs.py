"""Lists inputs lazily (files, folders, globs, shards, tables, lists) and probes them a few at a time.

    clip.mp4  photo.png  s3://bucket/clip.mp4      one file each
    folder/  s3://bucket/folder/                   every video and image below it
    'clips/*.mp4'  'photos/**/*.jpg'               a glob, in quotes
    shard.tar  's3://bucket/{00000..00099}.tar'    every image of a WebDataset shard
    faces.parquet                                  every row's image (bytes, or Hugging Face's struct)
    @list.txt                                      one of the above on each line

Nothing here keeps more than it is working on: a million entries need as much memory as ten.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import tarfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath

import pyarrow.fs as pa_fs
import pyarrow.parquet as pq

from ops.video.errors import MediaError
from ops.video.image import IMAGE_SUFFIXES
from ops.video.probe import probe
from pipeline.engine.stage import Source
from pipeline.sources.fetch import FETCHER, image_column, is_plain
from pipeline.store.places import GOOGLE, Remote, files_below, is_url, place
from schemas import Failure, source_id_from_sha256, source_id_of_unreadable

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv"})
"""Suffixes of videos in a folder; a file named by itself may be called anything."""
MEDIA_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
TEXT_ART = "tty"
"""FFmpeg takes any text file called .txt or .nfo for ANSI art, and plays it."""
PROBED_TOGETHER = 16
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


class InputError(ValueError):
    """An input that names nothing; the message says what was expected."""


@dataclass(frozen=True)
class Entry:
    """One input."""

    uri: str
    name: str
    """Path of its results below the output folder."""


def is_explicit(argument: str) -> bool:
    """One file, named by itself; anything else is a set, of which nobody knows how large it is."""
    if argument.startswith("@") or argument.endswith((".tar", ".parquet", "/")):
        return False
    if is_url(argument):
        return PurePosixPath(argument).suffix.lower() in MEDIA_SUFFIXES and not glob.has_magic(argument)
    return not os.path.isdir(argument) and (os.path.exists(argument) or not glob.has_magic(argument))


def entries(arguments: Sequence[str]) -> Iterator[Entry | Failure]:
    """Every input of every argument, in no particular order within a folder; a failure for a set of which there is nothing."""
    for argument in arguments:
        try:
            yield from _expanded(argument)
        except InputError as error:
            uri = argument if is_url(argument) or argument.startswith("@") else str(Path(argument).absolute())
            yield Failure(source_id_of_unreadable(uri), uri, "probe", "no_media", str(error))


def _expanded(argument: str) -> Iterator[Entry]:
    braces = _BRACES.search(argument)
    if argument.startswith("@"):
        yield from _of_list(Path(argument[1:]))
    elif braces is not None and not os.path.exists(argument):
        width = len(braces[1])
        for number in range(int(braces[1]), int(braces[2]) + 1):
            yield from _expanded(argument[: braces.start()] + f"{number:0{width}d}" + argument[braces.end() :])
    elif is_explicit(argument):
        # Not pathlib, which interns the parts of every path: of a million, that shows.
        uri = argument if is_url(argument) else os.path.join(os.getcwd(), argument)
        yield Entry(uri, uri.rsplit("/", 1)[-1])
    elif argument.endswith(".tar"):
        yield from _of_tar(argument)
    elif argument.endswith(".parquet"):
        yield from _of_table(argument)
    elif glob.has_magic(argument) and not os.path.exists(argument):
        yield from _of_glob(argument)
    else:
        yield from _of_folder(argument)


def _of_list(path: Path) -> Iterator[Entry]:
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    yield from _expanded(line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"@{path}: expected a text file with an input on each line ({error})") from error


def _of_folder(argument: str) -> Iterator[Entry]:
    root = place(argument)
    pending, empty = deque([root]), True
    while pending:
        folder = pending.popleft()
        for path, is_folder in _scanned(folder):
            if is_folder:
                pending.append(path)
            elif path.suffix.lower() in MEDIA_SUFFIXES:
                empty = False
                yield Entry(str(path), str(path).removeprefix(f"{root}/"))
    if empty:
        raise InputError(
            f"{argument}: expected videos or images in this folder, found none ({', '.join(sorted(MEDIA_SUFFIXES))})"
        )


def _scanned(folder: Path | Remote) -> Iterator[tuple[Path | Remote, bool]]:
    """(path, is a folder), one after the other as the system gives them."""
    if isinstance(folder, Remote) and folder.scheme in GOOGLE:
        yield from ((path, False) for path in files_below(folder))
        return
    if isinstance(folder, Remote):
        for facts in folder.fs.get_file_info(pa_fs.FileSelector(folder.key, allow_not_found=True)):
            yield folder / facts.base_name, facts.type == pa_fs.FileType.Directory
        return
    with os.scandir(folder) as found:
        for entry in found:
            if not entry.name.startswith("."):
                yield Path(entry.path), entry.is_dir()


def _of_glob(pattern: str) -> Iterator[Entry]:
    absolute = os.path.abspath(pattern)
    fixed = absolute
    while glob.has_magic(fixed):
        fixed = os.path.dirname(fixed)
    folder, last = os.path.split(absolute)
    empty = True
    if last == "**" or "**" in folder:
        paths: Iterator[str] = glob.iglob(absolute, recursive=True)
    else:  # glob.iglob would hold the names of a whole folder
        paths = (
            str(path)
            for parent in (glob.iglob(folder) if glob.has_magic(folder) else [folder])
            if os.path.isdir(parent)
            for path, is_folder in _scanned(Path(parent))
            if not is_folder and fnmatch.fnmatchcase(path.name, last)
        )
    for path in paths:
        if os.path.isfile(path):
            empty = False
            yield Entry(path, os.path.relpath(path, fixed))
    if empty:
        raise InputError(f"{pattern}: no file fits this pattern")


def _of_tar(argument: str) -> Iterator[Entry]:
    uri = argument if is_url(argument) else str(Path(argument).absolute())
    try:
        with tarfile.open(FETCHER.path(uri), "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined] # tarfile remembers all that it has seen
                if member.isfile() and PurePosixPath(member.name).suffix.lower() in IMAGE_SUFFIXES:
                    yield Entry(f"{uri}#{member.name}", f"{PurePosixPath(uri).stem}/{inside(member.name)}")
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{argument}: expected a tar file with images ({error})") from error


def _of_table(argument: str) -> Iterator[Entry]:
    uri = argument if is_url(argument) else str(Path(argument).absolute())
    try:
        with pq.ParquetFile(FETCHER.path(uri)) as file:
            image_column(file.schema_arrow)
            count = file.metadata.num_rows
    except (OSError, ValueError) as error:
        raise InputError(f"{argument}: expected a Parquet file with a column of encoded images ({error})") from error
    for row in range(count):
        yield Entry(f"{uri}#{row}", f"{PurePosixPath(uri).stem}/{row:09d}")


def inside(name: str) -> str:
    """A member's name that cannot lead out of the output folder."""
    return "/".join(part for part in PurePosixPath(name).parts if part not in ("..", "/", "."))


class Probing:
    """Entries => sources, a few at once on threads, in order. What cannot be read goes to `lost`.

    Takes the next entries only as sources are asked for.
    """

    def __init__(
        self, found: Iterator[Entry | Failure], lost: Callable[[Failure], None], *, allow_hdr: bool = False, threads: int = 4
    ) -> None:
        self._found, self._lost, self._allow_hdr = found, lost, allow_hdr
        self._pool = ThreadPoolExecutor(threads, "probe")
        self._threads = threads
        self.failed = 0

    def __iter__(self) -> Iterator[Source]:
        waiting: deque[Future[list[Source | Failure]]] = deque()
        try:
            while True:
                while len(waiting) < 2 * self._threads and (block := list(islice(self._found, PROBED_TOGETHER))):
                    waiting.append(self._pool.submit(self._probe_all, block))
                if not waiting:
                    return
                for one in waiting.popleft().result():
                    if isinstance(one, Source):
                        yield one
                    else:
                        self.failed += 1
                        self._lost(one)
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _probe_all(self, block: Sequence[Entry | Failure]) -> list[Source | Failure]:
        return [one if isinstance(one, Failure) else probed(one, allow_hdr=self._allow_hdr) for one in block]


def probed(entry: Entry, *, allow_hdr: bool = False) -> Source | Failure:
    """One entry as a source, or why it cannot be one."""
    try:
        path = FETCHER.path(entry.uri)
        modified_ns = path.stat().st_mtime_ns if is_plain(entry.uri) and path.exists() else None
        info = probe(path, allow_hdr=allow_hdr)
        if info.container == TEXT_ART:
            raise MediaError(entry.uri, "this is a text file, and a video or an image was expected", "name a media file")
    except (MediaError, OSError) as error:
        return Failure(source_id_of_unreadable(entry.uri), entry.uri, "probe", "media_error", str(error))
    return Source(source_id_from_sha256(info.sha256), replace(info, uri=entry.uri), entry.name, modified_ns)
