"""Lists inputs lazily (files, folders, globs, shards, tables, lists) and probes them a few at a time.

    clip.mp4  photo.png  s3://bucket/clip.mp4      one file each
    folder/  s3://bucket/folder/                   every video and image below it
    'clips/*.mp4'  'photos/**/*.jpg'               a glob, in quotes
    shard.tar  's3://bucket/{00000..00099}.tar'    every image of a WebDataset shard
    faces.parquet                                  every row's image (bytes, or Hugging Face's struct)
    'shot/frame_*.png@25'  frames:shot.tar@25      a frame sequence: one clip (`sequences.py`)
    @list.txt                                      one of the above on each line

Nothing here keeps more than it is working on: a million entries need as much memory as ten.

Whatever is wrong with one entry, in listing, opening or reading it, is that entry's matter: it becomes a failure, and the
others go on. Names are data: bytes that are no UTF-8, brackets, line ends and lengths are told apart from the place they name.
"""

from __future__ import annotations

import errno
import fnmatch
import glob
import hashlib
import os
import re
import struct
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import pyarrow.parquet as pq

from ops.video.errors import MediaError
from ops.video.image import IMAGE_SUFFIXES
from ops.video.probe import probe
from pipeline.engine.stage import Picture, Source, snake_case
from pipeline.sources.fetch import FETCHER, image_column, is_plain
from pipeline.sources.outputs import MEDIA_SUFFIXES
from pipeline.sources.sequences import probe_sequence, sequence_of
from pipeline.store.packs import mark_of
from pipeline.store.places import Remote, is_url, listed_below, place
from schemas import Failure, source_id_from_sha256, source_id_of_unreadable

TEXT_ART = "tty"
"""FFmpeg takes any text file called .txt or .nfo for ANSI art, and plays it."""
PROBED_TOGETHER = 16
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


LeftOut = Callable[[str, str], bool]
"""(path, the folder that is listed) => whether it is left out of the inputs; the one who decides reports it to the user."""
MADE_WITH = "styleres-video"
"""Comment of edited videos, by which they are known; pictures have it in EXIF."""


class InputError(ValueError):
    """An input that names nothing; the message says what was expected."""


@dataclass(frozen=True)
class Entry:
    """One input."""

    uri: str
    name: str
    """Path of its results below the output folder."""
    found: bool = False
    """Found in a folder or by a pattern, so that nobody has asked for this file by name."""
    picture: bool = False
    """It is a picture, or nothing."""
    mark: int = 0
    """`pipeline.store.packs.mark_of` where whoever listed it has seen its length and time of change; 0 otherwise."""


def is_explicit(argument: str) -> bool:
    """One file, named by itself; anything else is a set, of which nobody knows how large it is."""
    if "\0" in argument:
        return True  # no file: probing it says so
    argument = without_file_scheme(argument)
    if sequence_of(argument) is not None:
        return True
    if argument.startswith("@") or argument.endswith((".tar", ".parquet", "/")):
        return False
    if is_url(argument):
        return PurePosixPath(argument).suffix.lower() in MEDIA_SUFFIXES and not glob.has_magic(argument)
    return not os.path.isdir(argument) and (os.path.exists(argument) or not glob.has_magic(argument))


def without_file_scheme(argument: str) -> str:
    """`file:///a%20b.mp4` => `/a b.mp4`; anything else as it is."""
    if not argument.lower().startswith("file:"):
        return argument
    parts = urlsplit(argument)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        return argument
    return unquote(parts.path, errors="surrogateescape")


def shown(name: str) -> str:
    """A name as text that every table and terminal takes: bytes that are no UTF-8 as `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def unreadable(uri: str, reason: str, message: str) -> Failure:
    """The row of an entry that never came to be a source."""
    named = shown(uri)
    return Failure(source_id_of_unreadable(named), named, "probe", reason, message)


def entries(arguments: Sequence[str], left_out: LeftOut = lambda path, root: False) -> Iterator[Entry | Failure]:
    """Every input of every argument, in no particular order within a folder; a failure for what cannot be listed.

    No two entries have one name: where several arguments are sets, the second of two equal names gets part of its place's
    digest. `left_out`: which local paths below a folder or glob are left out, such as a run's own results.
    """
    names = _Names()
    for argument in arguments:
        try:
            for entry in _expanded(without_file_scheme(argument), left_out):
                yield names.apart(entry) if isinstance(entry, Entry) else entry
        except InputError as error:
            yield unreadable(_uri_of(argument), "no_media", str(error))
        except Exception as error:  # a file system, an archive or a cloud may raise anything, and others wait
            yield unreadable(_uri_of(argument), snake_case(type(error).__name__), f"{shown(argument)}: {_said(error)}")


def _uri_of(argument: str) -> str:
    return argument if is_url(argument) or argument.startswith("@") else os.path.abspath(argument.replace("\0", ""))


def _said(error: BaseException) -> str:
    """An exception in a line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


class _Names:
    """Tells names that were seen from new ones, in memory that does not grow.

    A Bloom filter: it never takes a name for new that was there, and of a million new ones takes some hundred for seen, which
    then have longer names than they need. The same inputs in the same order get the same names.
    """

    _BITS = 1 << 25

    def __init__(self) -> None:
        self._seen: bytearray | None = None

    def apart(self, entry: Entry) -> Entry:
        """The entry, under a name that no entry before it has."""
        if self._is_new(entry.name):
            return entry
        digest = hashlib.sha256(os.fsencode(entry.uri)).hexdigest()[:8]
        path = PurePosixPath(entry.name)
        apart = replace(entry, name=str(path.with_name(f"{path.stem}.{digest}{path.suffix}")))
        self._is_new(apart.name)
        return apart

    def _is_new(self, name: str) -> bool:
        """Whether a name was not there yet; it is now."""
        if self._seen is None:
            self._seen = bytearray(self._BITS // 8)
        digest = hashlib.blake2b(os.fsencode(name), digest_size=16).digest()
        new = False
        for bit in struct.unpack("<4I", digest):
            place, mask = (bit % self._BITS) >> 3, 1 << (bit & 7)
            if not self._seen[place] & mask:
                new = True
                self._seen[place] |= mask
        return new


def _expanded(argument: str, left_out: LeftOut) -> Iterator[Entry | Failure]:
    braces = _BRACES.search(argument)
    sequence = sequence_of(argument)
    if sequence is not None:
        yield Entry(sequence.uri, sequence.name)
    elif argument.startswith("@"):
        yield from _of_list(Path(argument[1:]), left_out)
    elif braces is not None and not os.path.exists(argument):
        width = len(braces[1])
        for number in range(int(braces[1]), int(braces[2]) + 1):
            yield from _expanded(argument[: braces.start()] + f"{number:0{width}d}" + argument[braces.end() :], left_out)
    elif is_explicit(argument):
        # Not pathlib, which interns the parts of every path: of a million, that shows.
        uri = argument if is_url(argument) else os.path.join(os.getcwd(), argument)
        yield from _named(uri, uri.rsplit("/", 1)[-1])
    elif argument.endswith(".tar"):
        yield from _of_tar(argument)
    elif argument.endswith(".parquet"):
        yield from _of_table(argument)
    elif glob.has_magic(argument) and not os.path.exists(argument):
        yield from _of_glob(argument, left_out)
    else:
        yield from _of_folder(argument, left_out)


def _named(uri: str, name: str, *, found: bool = False, mark: int = 0) -> Iterator[Entry | Failure]:
    """An entry, unless a store could not write its name down."""
    try:
        uri.encode()
    except UnicodeEncodeError:
        yield unreadable(uri, "bad_name", f"{shown(uri)}: its name is not UTF-8, and a store keeps text; rename the file")
    else:
        yield Entry(uri, name, found, os.path.splitext(uri)[1].lower() in IMAGE_SUFFIXES, mark)


def _of_list(path: Path, left_out: LeftOut) -> Iterator[Entry | Failure]:
    try:
        # Windows' editors put a mark before the first line.
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = (line.strip() for line in file)
            for line in filter(None, lines):
                try:
                    yield from _expanded(without_file_scheme(line), left_out)
                except InputError as error:
                    yield unreadable(_uri_of(line), "no_media", str(error))
                except Exception as error:
                    yield unreadable(_uri_of(line), snake_case(type(error).__name__), f"{shown(line)}: {_said(error)}")
    except OSError as error:
        raise InputError(f"@{path}: expected a text file with an input on each line ({error})") from error


def _of_folder(argument: str, left_out: LeftOut) -> Iterator[Entry | Failure]:
    root = place(argument)
    if isinstance(root, Remote):
        yield from _of_prefix(argument, root, left_out)
        return
    pending, empty = deque([root]), True
    above: dict[tuple[int, int], None] = {}  # folders that were entered by a link, which may lead back
    while pending:
        folder = pending.popleft()
        for path, is_folder in _scanned(folder):
            if isinstance(path, Failure):
                empty = False
                yield path
            elif left_out(str(path), str(root)):
                empty = False
            elif is_folder:
                if path.is_symlink():
                    facts = path.stat()
                    if _leads_back(path, facts) or (facts.st_dev, facts.st_ino) in above:
                        empty = False
                        yield unreadable(str(path), "link_loop", f"{shown(str(path))}: this link leads to a folder above it")
                        continue
                    above[facts.st_dev, facts.st_ino] = None
                pending.append(path)
            elif path.suffix.lower() in MEDIA_SUFFIXES:
                empty = False
                yield from _named(str(path), str(path).removeprefix(f"{root}/"), found=True)
    if empty:
        raise InputError(no_media(argument))


def _of_prefix(argument: str, root: Remote, left_out: LeftOut) -> Iterator[Entry | Failure]:
    """Objects below a folder of an object store; work begins with the first page of its listing."""
    empty = True
    for facts in listed_below(root):
        path = Remote(root.scheme, facts.key)
        if any(part.startswith(".") for part in facts.key.removeprefix(f"{root.key}/").split("/")):
            continue
        if left_out(str(path), str(root)):
            empty = False
        elif path.suffix.lower() in MEDIA_SUFFIXES:
            empty = False
            mark = mark_of(str(path), facts.size_bytes, facts.modified_ns)
            yield from _named(str(path), str(path).removeprefix(f"{root}/"), found=True, mark=mark)
    if empty:
        raise InputError(no_media(argument))


def no_media(argument: str) -> str:
    return f"{argument}: expected videos or images in this folder, found none ({', '.join(sorted(MEDIA_SUFFIXES))})"


def _leads_back(link: Path, facts: os.stat_result) -> bool:
    """Whether a link to a folder leads to one that the link lies in."""
    return any(
        (above.st_dev, above.st_ino) == (facts.st_dev, facts.st_ino) for above in (parent.stat() for parent in link.parents)
    )


def _scanned(folder: Path) -> Iterator[tuple[Path | Failure, bool]]:
    """(path, is a folder), one after the other as the system gives them; a failure for what it will not show."""
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if entry.name.startswith("."):
                    continue
                try:
                    is_folder = entry.is_dir()
                except OSError as error:
                    yield unreadable(entry.path, _reason(error), f"{shown(entry.path)}: {_said(error)}"), False
                else:
                    yield Path(entry.path), is_folder
    except OSError as error:
        yield (
            unreadable(str(folder), _reason(error), f"{shown(str(folder))}: this folder cannot be listed ({_said(error)})"),
            False,
        )


def _reason(error: OSError) -> str:
    return "link_loop" if error.errno == errno.ELOOP else snake_case(type(error).__name__)


def _of_glob(pattern: str, left_out: LeftOut) -> Iterator[Entry | Failure]:
    absolute = os.path.abspath(pattern)
    fixed = absolute
    while glob.has_magic(fixed):
        fixed = os.path.dirname(fixed)
    folder, last = os.path.split(absolute)
    empty = True
    if last == "**" or "**" in folder:
        found: Iterator[str | Failure] = glob.iglob(absolute, recursive=True)
    else:  # glob.iglob would hold the names of a whole folder
        found = _fitting(glob.iglob(folder) if glob.has_magic(folder) else [folder], last)
    for path in found:
        if isinstance(path, Failure):
            empty = False
            yield path
        elif os.path.isfile(path):
            empty = False
            if not left_out(path, fixed):
                yield from _named(path, os.path.relpath(path, fixed), found=True)
    if empty:
        raise InputError(f"{pattern}: no file fits this pattern")


def _fitting(parents: Iterable[str], pattern: str) -> Iterator[str | Failure]:
    """Files of folders whose names fit a pattern, and failures for those that do but cannot be looked at."""
    for parent in parents:
        if not os.path.isdir(parent):
            continue
        for path, is_folder in _scanned(Path(parent)):
            if isinstance(path, Failure):
                if path.uri == shown(parent) or fnmatch.fnmatchcase(os.path.basename(path.uri), pattern):
                    yield path
            elif not is_folder and fnmatch.fnmatchcase(path.name, pattern):
                yield str(path)


def _of_tar(argument: str) -> Iterator[Entry | Failure]:
    uri = argument if is_url(argument) else str(Path(argument).absolute())
    try:
        container = mark_of_container(uri)
        with tarfile.open(FETCHER.path(uri), "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined] # tarfile remembers all that it has seen
                if member.isfile() and PurePosixPath(member.name).suffix.lower() in IMAGE_SUFFIXES:
                    mark = mark_in(container, member.name)
                    yield from _named(f"{uri}#{member.name}", f"{PurePosixPath(uri).stem}/{inside(member.name)}", mark=mark)
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{argument}: expected a tar file with images ({error})") from error


def _of_table(argument: str) -> Iterator[Entry | Failure]:
    uri = argument if is_url(argument) else str(Path(argument).absolute())
    try:
        with pq.ParquetFile(FETCHER.path(uri)) as file:
            image_column(file.schema_arrow)
            count = file.metadata.num_rows
        container = mark_of_container(uri)
    except (OSError, ValueError) as error:
        raise InputError(f"{argument}: expected a Parquet file with a column of encoded images ({error})") from error
    for row in range(count):
        yield Entry(f"{uri}#{row}", f"{PurePosixPath(uri).stem}/{row:09d}", picture=True, mark=mark_in(container, str(row)))


def mark_of_container(uri: str) -> str:
    """Return what tells a shard or table from another of the same name."""
    where = place(uri)
    if isinstance(where, Remote):
        facts = where.fs.get_file_info(where.key)
        return f"{uri} {facts.size} {facts.mtime_ns}"
    found = where.stat()
    return f"{uri} {found.st_size} {found.st_mtime_ns}"


def mark_in(container: str, member: str) -> int:
    return mark_of(f"{container}#{member}", 0, 0)


def inside(name: str) -> str:
    """A member's name that cannot lead out of the output folder."""
    return "/".join(part for part in PurePosixPath(name).parts if part not in ("..", "/", "."))


class Probing:
    """Entries => sources, a few at once on threads, in order. What cannot be read goes to `lost`.

    Takes the next entries only as sources are asked for. Of pictures nothing is read, unless `open_pictures`: whoever works on
    one reads it, and once.
    """

    def __init__(
        self,
        found: Iterator[Entry | Failure],
        lost: Callable[[Failure], None],
        *,
        allow_hdr: bool = False,
        own: Callable[[str], None] = lambda uri: None,
        open_pictures: bool = True,
        threads: int = 4,
    ) -> None:
        """`own`: told of each file that was found and is a result of this program, and so left out."""
        self._found, self._lost, self._allow_hdr, self._own = found, lost, allow_hdr, own
        self._pool = ThreadPoolExecutor(threads, "probe")
        self._threads, self._open_pictures = threads, open_pictures
        self.failed = 0

    def __iter__(self) -> Iterator[Source | Picture]:
        waiting: deque[Future[list[tuple[Entry | Failure, Source | Picture | Failure]]]] = deque()
        try:
            while True:
                while len(waiting) < 2 * self._threads and (block := list(islice(self._found, PROBED_TOGETHER))):
                    waiting.append(self._pool.submit(self._probe_all, block))
                if not waiting:
                    return
                for entry, one in waiting.popleft().result():
                    if isinstance(one, Source) and isinstance(entry, Entry) and entry.found and made_here(one):
                        self._own(one.uri)
                    elif not isinstance(one, Failure):
                        yield one
                    else:
                        self.failed += 1
                        self._lost(one)
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _probe_all(self, block: Sequence[Entry | Failure]) -> list[tuple[Entry | Failure, Source | Picture | Failure]]:
        return [(one, self._looked_at(one)) for one in block]

    def _looked_at(self, one: Entry | Failure) -> Source | Picture | Failure:
        if isinstance(one, Failure):
            return one
        if one.picture and not self._open_pictures:
            return unopened(one)
        return probed(one, allow_hdr=self._allow_hdr)


def unopened(entry: Entry) -> Picture:
    """A picture of which nothing is known but where it is, how long, and how old."""
    mark = entry.mark
    if not mark and is_plain(entry.uri):
        with suppress(OSError):  # whoever opens it says so
            facts = os.stat(entry.uri)
            mark = mark_of(entry.uri, facts.st_size, facts.st_mtime_ns)
    return Picture(entry.uri, entry.name, mark=mark, found=entry.found)


def made_here(source: Source) -> bool:
    """Whether a file is a result of this program, by what it says of itself."""
    contents = source.info.contents
    if contents.picture is not None:
        return contents.picture.own
    return any(key.lower() == "comment" and f'"made_with":"{MADE_WITH}"' in value for key, value in contents.tags)


def probed(entry: Entry, *, allow_hdr: bool = False) -> Source | Failure:
    """One entry as a source, or why it cannot be one."""
    try:
        if sequence_of(entry.uri) is not None:
            info = probe_sequence(entry.uri)
            return Source(source_id_from_sha256(info.sha256), info, entry.name)
        path = FETCHER.path(entry.uri)
        modified_ns = path.stat().st_mtime_ns if is_plain(entry.uri) and path.exists() else None
        info = probe(path, allow_hdr=allow_hdr)
        if info.container == TEXT_ART:
            raise MediaError(entry.uri, "this is a text file, and a video or an image was expected", "name a media file")
    except MediaError as error:
        return unreadable(entry.uri, "media_error", str(error))
    except Exception as error:  # whatever a decoder or a file system raises: the others are no worse for it
        message = f"{shown(entry.uri)}: it cannot be read ({_said(error)})"
        return unreadable(entry.uri, "media_error" if isinstance(error, OSError) else snake_case(type(error).__name__), message)
    return Source(source_id_from_sha256(info.sha256), replace(info, uri=entry.uri), entry.name, modified_ns)
