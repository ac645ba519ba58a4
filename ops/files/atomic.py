"""Files and folders appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path

Publishing = Callable[[], AbstractContextManager[None]]
PUBLISHING: ContextVar[Publishing] = ContextVar("publishing", default=nullcontext)
"""Entered around the moment in which a file appears under its name; whoever may not write any more raises there."""


def beginning(name: str, most_bytes: int = 200) -> str:
    """As much of a name as leaves room for a mark behind it: file systems take 255 bytes."""
    return os.fsencode(name)[:most_bytes].decode("utf-8", "ignore")


@contextmanager
def replaced_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success sync it to disk and rename it to `path`.

    If the body raises, or `PUBLISHING` does, the temporary file is removed and `path` stays as it was. The temporary name is
    unique, so two writers of one path do not mix; the later rename wins.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{beginning(final.name)}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        _sync(temporary)
        with PUBLISHING.get()():
            os.replace(temporary, final)
        sync_folder(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Write several files, each whole or not at all. All are on disk when they appear, and their folders are synced once.

    If `PUBLISHING` raises, none of them appears. Who is interrupted leaves some of them, and the others as they were.
    """
    folders = {path.parent for path in contents}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    temporary = {path: path.with_name(f".{beginning(path.name)}.{uuid.uuid4().hex[:12]}.tmp") for path in contents}
    left = list(temporary.values())
    try:
        for path, data in contents.items():
            with open(temporary[path], "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        with PUBLISHING.get()():
            for path in contents:
                os.replace(temporary[path], path)
                left.remove(temporary[path])
        for folder in folders:
            sync_folder(folder)
    finally:
        for path in left:
            path.unlink(missing_ok=True)


@contextmanager
def replaced_folder(path: str | Path, *, ours: Collection[str] | None = None) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success sync it to disk and let it take the place of what is there.

    A reader finds the old folder or the new one. Linux exchanges the two in one step; where it cannot (other systems, most
    network disks) the old one is renamed away first, and comes back if the new one cannot follow. If the body raises, `path`
    stays as it was.

    ours: names that the writer's format knows. Of the old folder these go, and everything else stays; None: all of it goes.
    """
    final = Path(path).resolve()
    mark = uuid.uuid4().hex[:12]
    temporary, old = final.with_name(f".{final.name}.{mark}.tmp"), final.with_name(f".{final.name}.{mark}.old")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        written = {entry.name for entry in temporary.iterdir()}
        kept = (
            [] if ours is None or not final.is_dir() else [one for one in final.iterdir() if one.name not in {*ours, *written}]
        )
        for entry in kept:
            if not entry.is_dir():
                _link(entry, temporary / entry.name)
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        sync_folder(temporary)
        with PUBLISHING.get()():
            if not final.exists():
                os.replace(temporary, final)
            elif exchange(temporary, final):
                os.replace(temporary, old)
            else:
                os.replace(final, old)
                try:
                    os.replace(temporary, final)
                except BaseException:
                    os.replace(old, final)
                    raise
        for entry in kept:
            if (old / entry.name).is_dir():  # folders have no second name: the last to come over
                os.replace(old / entry.name, final / entry.name)
        sync_folder(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _link(file: Path, to: Path) -> None:
    try:
        os.link(file, to)
    except OSError:  # a disk without links
        shutil.copy2(file, to)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut, where the system can open folders at all."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse; their rename is as durable as they make it
    finally:
        os.close(descriptor)


def exchange(one: Path, other: Path) -> bool:
    """Let two folders of one disk trade places in one step; False where the system cannot do that, and nothing has happened.

    Linux can, on its own file systems; other systems and most network file systems cannot.
    """
    code = rename_exchange(one, other)
    if code == 0:
        sync_folder(one.parent)
        sync_folder(other.parent)
        return True
    if code in (errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(one))


def rename_exchange(one: Path, other: Path) -> int:
    """`renameat2(…, RENAME_EXCHANGE)`, which Python does not offer; => 0 or an error's number."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return errno.ENOSYS
    here, both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    failed = call(here, os.fsencode(one), here, os.fsencode(other), both) != 0
    return ctypes.get_errno() if failed else 0
