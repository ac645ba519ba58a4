"""Folders appear whole or not at all, whatever happens on the way and whatever the disk can do."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops.files import atomic
from ops.files.atomic import PUBLISHING, replace_files, replaced_folder


def fill(folder: Path, text: str, *names: str) -> None:
    for name in names:
        (folder / name).write_text(text, "utf-8")


def content(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text("utf-8") for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(params=["exchange", "two renames"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "rename_exchange", lambda one, other: errno.ENOSYS)


@pytest.mark.usefixtures("disk")
def test_the_new_takes_the_olds_place_and_strangers_stay(tmp_path: Path) -> None:
    out = tmp_path / "model"
    with replaced_folder(out) as folder:
        fill(folder, "old", "a", "b", "c")
    (out / "runs").mkdir()
    fill(out, "mine", "notes.txt", "runs/log")
    with replaced_folder(out, ours=("a", "b", "c")) as folder:
        fill(folder, "new", "a", "b")
    assert content(out) == {"a": "new", "b": "new", "notes.txt": "mine", "runs/log": "mine"}
    with replaced_folder(out) as folder:
        fill(folder, "last", "a")
    assert content(out) == {"a": "last"} and list(tmp_path.iterdir()) == [out]


@pytest.mark.usefixtures("disk")
def test_whoever_dies_on_the_way_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "model"
    with replaced_folder(out) as folder:
        fill(folder, "old", "a", "b")
    with pytest.raises(KeyboardInterrupt), replaced_folder(out) as folder:
        fill(folder, "new", "a")
        raise KeyboardInterrupt
    assert content(out) == {"a": "old", "b": "old"} and list(tmp_path.iterdir()) == [out]
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(target) == out and str(source).endswith(".tmp"):
            raise OSError(errno.EIO, "no")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    if atomic.rename_exchange(tmp_path, tmp_path) == errno.ENOSYS:  # then two renames, of which the second fails
        with pytest.raises(OSError, match="no"), replaced_folder(out) as folder:
            fill(folder, "new", "a", "b")
        assert content(out) == {"a": "old", "b": "old"} and list(tmp_path.iterdir()) == [out]


def test_a_reader_meets_the_old_or_the_new_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "model"
    with replaced_folder(out) as folder:
        fill(folder, "0", "a", "b")
    if atomic.rename_exchange(out, out) == errno.ENOSYS:
        pytest.skip("this system cannot exchange folders in one step")
    stop, seen = threading.Event(), list[str]()

    def look() -> None:
        while not stop.is_set():
            descriptor = os.open(out, os.O_RDONLY)  # FileNotFoundError where the folder is away for a moment
            try:
                seen.append("".join(sorted(os.listdir(descriptor))))
            except FileNotFoundError:
                pass
            finally:
                os.close(descriptor)

    def watched() -> None:
        try:
            look()
        except FileNotFoundError:
            seen.append("nothing")

    reader = threading.Thread(target=watched)
    reader.start()
    for i in range(1, 30):
        with replaced_folder(out) as folder:
            fill(folder, str(i), "a", "b")
    stop.set()
    reader.join()
    # A folder that was opened and has since been replaced may be half removed; the one under the name is always whole.
    assert "nothing" not in seen and "ab" in seen
    assert content(out) == {"a": "29", "b": "29"}


def test_files_that_are_written_together_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    made = {tmp_path / "a.txt": b"one", tmp_path / "deep" / "b.txt": b"two"}
    replace_files(made)
    assert {path: path.read_bytes() for path in made} == made
    entered: list[int] = []

    @contextmanager
    def refusing() -> Iterator[None]:
        entered.append(1)
        raise RuntimeError("another run has the store")
        yield

    token = PUBLISHING.set(refusing)
    try:
        with pytest.raises(RuntimeError, match="another run"):
            replace_files({tmp_path / "a.txt": b"three", tmp_path / "c.txt": b"four"})
    finally:
        PUBLISHING.reset(token)
    assert content(tmp_path) == {"a.txt": "one", "deep/b.txt": "two"} and entered == [1], "nothing of it, and nothing beside"


def test_of_files_that_are_written_together_nothing_is_left_where_one_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError):
        replace_files({tmp_path / "b.txt": b"one", tmp_path / "a.txt": b"two"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"], "whole files, and no temporary ones"
