"""Whatever a file is called, and whatever listing, opening, probing or reading it raises: its own loss, or it works."""

from __future__ import annotations

import errno
import io
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.common.report import Reporter
from ops.video.errors import MediaError
from pipeline.engine.stage import Source
from pipeline.sources import inputs
from pipeline.sources.fetch import FETCHER
from pipeline.sources.inputs import Entry, Probing, entries, made_here
from pipeline.sources.outputs import Outputs, edited_name, is_same_file
from schemas import Failure, failures_table


def png(value: int) -> bytes:
    target = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(target, "PNG")
    return target.getvalue()


NAMES = [
    "plain.png", "with space.png", "-dash.png", "--out.png", "[bracket].png", "[/y].png", "[dQw4]x.png", "[red]no style.png",
    "new\nline.png", "tab\t.png", "quote'\".png", "back\\slash.png", "*star?.png", "{0..3}.png", "per%20cent.png", "#1.png",
    "a.tar#b.png", "@at.png", "שלום.png", "‮rtl.png", "👩🏽‍🚀.png", "e\u0301.png", unicodedata.normalize("NFC", "e\u0301.png"),
    "x" * 240 + ".png", "é" * 120 + ".png", "UPPER.PNG", "two..dots.png", "semi;colon&.png", "$HOME.png", "~.png", "%s.png",
]  # fmt: skip


def listed(folder: Path) -> tuple[list[Source], list[Failure]]:
    lost: list[Failure] = []
    found = list(Probing(entries([str(folder)]), lost.append))
    return found, lost


def test_a_name_is_data(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for place, name in enumerate(NAMES):
        (folder / name).parent.mkdir(exist_ok=True)  # one has a slash, which makes it a file in a folder
        (folder / name).write_bytes(png(place))
    found, lost = listed(folder)
    assert not lost and sorted(one.output_name for one in found) == sorted(NAMES)
    outputs = Outputs(str(tmp_path / "out"), sheets=True, sets=True)
    made = [outputs.of(source) for source in found]
    assert len({one.video for one in made}) == len(NAMES), "an output for each input"
    (tmp_path / "out").mkdir()
    for one in made:
        for path in (one.video, one.contact_sheet):
            Path(str(path)).parent.mkdir(exist_ok=True)
            Path(str(path)).write_bytes(b"")  # every name is one that the file system takes
    for source in found:
        (again,) = [one for one in entries([source.uri]) if isinstance(one, Entry)]
        assert again.uri == source.uri, "and a name given by itself is that file"


def test_random_names_never_meet(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    letters = [*"ab.[]/\\'\" \n\t*?{}#@%~", "é", "é", "שׁ", "👩", "mp4", "png", ".avi", ".mp4"]
    names = {"".join(rng.choice(letters, rng.integers(1, 12))).replace("/", "") for _ in range(4000)}
    made: dict[str, str] = {}
    for name in sorted(names):
        for suffix in (".mp4", ".avi", ".png"):
            given = f"{name}{suffix}"
            if given.startswith("."):
                continue  # hidden files are no inputs of a folder
            source = type("S", (), {"output_name": given})()
            target = edited_name(source, ".mp4" if suffix != ".png" else ".png", whole=True)  # type: ignore[arg-type]
            assert len(Path(target).name.encode()) <= 255
            assert made.setdefault(target, given) == given, f"{given!r} and {made[target]!r} would be one file"


def test_bytes_that_are_no_text_are_a_loss_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(png(1))
    bad = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(bad, "wb") as file:
        file.write(png(2))
    found, lost = listed(tmp_path)
    assert [one.output_name for one in found] == ["good.png"]
    (failure,) = lost
    assert failure.reason == "bad_name" and "caf\\xe9.png" in failure.message and "UTF-8" in failure.message
    assert failures_table([failure]).num_rows == 1 and json.dumps(failure.message)


def test_links_that_lead_nowhere_or_back_are_losses(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(png(1))
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "not there.png")
    found, lost = listed(tmp_path)
    assert [one.output_name for one in found] == ["sub/a.png"]
    assert sorted(Path(one.uri).name for one in lost) == ["gone.png", "self.png", "up"]
    assert all(one.message.count("\n") == 0 for one in lost)


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "Input/output error")]
)
def test_a_folder_that_cannot_be_listed_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(png(ord(name)))
    real = os.scandir

    def scandir(folder: str | Path) -> object:
        if str(folder).endswith("/b"):
            raise error
        return real(folder)

    monkeypatch.setattr(inputs.os, "scandir", scandir)
    found, lost = listed(tmp_path)
    assert sorted(one.output_name for one in found) == ["a/x.png", "c/x.png"]
    assert [Path(one.uri).name for one in lost] == ["b"] and str(error.strerror) in lost[0].message


RAISED = [
    TypeError("Missing"),
    KeyError(256),
    ValueError("unpack"),
    RecursionError("deep"),
    OSError("odd"),
    AssertionError(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    RuntimeError("[/y]"),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["probe", "path", "entry"])
def test_whatever_an_entry_raises_is_its_own_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    for place in range(4):
        (tmp_path / f"{place}.png").write_bytes(png(place))
    real_probe, real_path, real_named = inputs.probe, inputs.FETCHER.path, inputs._named

    def raising(real: object, is_it: object) -> object:
        def call(first: object, *rest: object, **named: object) -> object:
            if "2.png" in str(first):
                raise error
            return real(first, *rest, **named)  # type: ignore[operator]

        return call

    match where:
        case "probe":
            monkeypatch.setattr(inputs, "probe", raising(real_probe, None))
        case "path":
            monkeypatch.setattr(type(inputs.FETCHER), "path", lambda self, uri: raising(real_path, None)(uri))  # type: ignore[operator]
        case "entry":
            monkeypatch.setattr(inputs, "_named", raising(real_named, None))
    arguments = [str(tmp_path / f"{place}.png") for place in range(4)]
    lost: list[Failure] = []
    found = list(Probing(entries(arguments), lost.append))
    assert sorted(one.output_name for one in found) == ["0.png", "1.png", "3.png"]
    (failure,) = lost
    assert failure.uri.endswith("2.png") and failure.stage == "probe" and failure.message


def test_urls_of_files_are_paths(tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(png(1))
    lost: list[Failure] = []
    given = [f"file://{tmp_path}/a%20b.png"]
    (source,) = Probing(entries(given), lost.append)
    assert source.uri == str(tmp_path / "a b.png") and not lost
    assert list(Probing(entries([f"file://{tmp_path}/none.png", "nul\0byte.png"]), lost.append)) == []
    assert len(lost) == 2


def test_a_list_with_a_byte_order_mark_names_its_first_input(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + str(tmp_path / "a.png").encode() + b"\r\nno such.png\n")
    found = list(entries([f"@{tmp_path}/list.txt"]))
    assert [one.uri for one in found] == [str(tmp_path / "a.png"), os.path.join(os.getcwd(), "no such.png")]


def test_a_pipe_is_called_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.mp4")
    found, lost = listed(tmp_path)
    assert not found and "this is a pipe" in lost[0].message


@pytest.mark.parametrize(("make", "said"), [(os.mkfifo, "a pipe"), (os.mkdir, "a folder"), (Path.touch, "is empty")])
def test_whoever_reads_a_picture_asks_first_whether_it_is_a_file(
    tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    """Of a picture in a folder nothing is read before its worker reads it, which waited for a pipe for ever."""
    make(tmp_path / "x.png")
    with pytest.raises(MediaError, match=said):
        FETCHER.data(str(tmp_path / "x.png"))


def test_equal_names_below_several_places_stay_apart(tmp_path: Path) -> None:
    """Four inputs gave two files and the exit code 0."""
    for place in ("A", "B"):
        (tmp_path / place / "sub").mkdir(parents=True)
        for number, name in enumerate(("x.png", "sub/x.png")):
            (tmp_path / place / name).write_bytes(png(10 * number + ord(place)))
    for arguments in (
        [f"{tmp_path}/A", f"{tmp_path}/B"],
        [f"{tmp_path}/A/**/*.png", f"{tmp_path}/B/**/*.png"],
        [f"{tmp_path}/{place}/{name}" for place in ("A", "B") for name in ("x.png", "sub/x.png")],
    ):
        found = [one for one in entries(arguments) if isinstance(one, Entry)]
        assert len(found) == 4 and len({one.name for one in found}) == 4
        assert [one.name for one in found] == [one.name for one in entries(arguments) if isinstance(one, Entry)]


def test_markup_in_a_path_is_shown_as_it_is(tmp_path: Path) -> None:
    """A path with [/y] ended the run on a terminal, and [dQw4] vanished from messages."""
    reporter = Reporter(progress="bars")
    said = io.StringIO()
    reporter.display.console.file = said
    failure = Failure("0" * 16, "/a/[/y] [dQw4]/[red]x.png", "probe", "media_error", "it is [/bold] broken")
    reporter.lost(failure)
    reporter.note("left_out", "[/y]", "/b/[dQw4].png")
    text = said.getvalue().replace("\n", "")
    for piece in ("[/y]", "[dQw4]", "[red]x.png", "[/bold]"):
        assert piece in text


def test_results_say_what_they_are(tmp_path: Path) -> None:
    from ops.video.image import write_image

    write_image(tmp_path / "made.png", np.full((8, 8, 3), 7, np.uint8))
    (tmp_path / "given.png").write_bytes(png(3))
    told: list[str] = []
    lost: list[Failure] = []
    found = list(Probing(entries([str(tmp_path)]), lost.append, own=told.append))
    assert [one.output_name for one in found] == ["given.png"] and [Path(one).name for one in told] == ["made.png"] and not lost
    (asked,) = Probing(entries([str(tmp_path / "made.png")]), lost.append)
    assert made_here(asked), "who names it gets it"


def test_an_output_is_an_input_by_whatever_name(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "there").symlink_to(tmp_path / "real")
    path = tmp_path / "real" / "a.png"
    path.write_bytes(b"picture")
    same = [str(path), str(tmp_path / "there" / "a.png"), str(tmp_path / "real" / ".." / "real" / "a.png")]
    assert all(is_same_file(one, str(path)) for one in same)
    others = [str(tmp_path / "real" / "b.png"), str(tmp_path / "nowhere" / "a.png"), "s3://bucket/a.png"]
    assert not any(is_same_file(one, str(path)) for one in others)
