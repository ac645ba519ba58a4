"""styleres preview: one PNG of a few faces, from a clip or from a store, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app
from jobs.common.preview_sheet import GAP, MARGIN, THUMBNAIL, TILE
from ops.checkpoints.bundle import Bundle
from ops.face.align import crop_face
from ops.inversion.inverter import Inverter
from pipeline.store.columns import array_from_column
from pipeline.store.tables import Store
from tests import tiny
from tests.jobs.conftest import Styleres, tree

Preview = Callable[..., Result]


@pytest.fixture
def preview(monkeypatch: pytest.MonkeyPatch, bundle: Bundle, tmp_path: Path) -> Preview:
    """Runs `styleres preview` with the tiny model, in a working folder of its own."""
    tiny.command_finds_marks(monkeypatch)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*words: object) -> Result:
        result = CliRunner().invoke(app, ["preview", *map(str, words), "--model", str(bundle.path)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def tile(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    left, top = MARGIN + THUMBNAIL + 2 * GAP + column * (TILE + GAP), 92 + row * (TILE + GAP)
    return sheet[top : top + TILE, left : left + TILE]


def columns(sheet: np.ndarray) -> int:
    return (sheet.shape[1] - 2 * MARGIN - THUMBNAIL - GAP) // (TILE + GAP)


def rows(sheet: np.ndarray) -> int:
    return (sheet.shape[0] - 92 - 52) // (TILE + GAP)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_a_clip_has_a_row_for_each_face_and_a_column_for_each_edit(preview: Preview, clip: Path, tmp_path: Path) -> None:
    done = preview(clip, "--edit", "warm=2", "--edit", "cold=1", "--faces", "3")
    assert done.exit_code == 0 and done.stdout == "marked.preview.png\n"
    assert tree(tmp_path).keys() == {"work", "work/marked.preview.png"}, "and nothing else is left"
    sheet = read(tmp_path / "work" / "marked.preview.png")
    assert (rows(sheet), columns(sheet)) == (3, 6)
    source, inversion, warm, cold, both, pasted = (tile(sheet, 0, at).astype(int) for at in range(6))
    assert np.abs(warm - inversion).mean() > 1 and np.abs(cold - inversion).mean() > 1, "each edit shows"
    assert np.abs(both - warm).mean() > 0.5 and np.abs(both - cold).mean() > 0.5, "together they are more than one"
    assert np.abs(pasted - source).mean() > 0.5, "and the result is not the source"
    # Both people come, and the first of them again in another frame.
    marks = {int(np.abs(tile(sheet, at, 0)[TILE // 3, TILE // 2].astype(int) - tiny.MARKS[0]).max() < 90) for at in range(3)}
    assert marks == {0, 1}


def test_one_edit_is_not_shown_twice(preview: Preview, clip: Path, tmp_path: Path) -> None:
    assert preview(clip, "--edit", "warm=2", "--faces", "1", "--out", tmp_path / "a.png").exit_code == 0
    sheet = read(tmp_path / "a.png")
    assert (rows(sheet), columns(sheet)) == (1, 4)


def test_a_ladder_has_a_column_for_each_strength(preview: Preview, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "ladder.png"
    done = preview(clip, "--edit", "warm", "--edit", "cold", "--strengths", "-2,0,2", "--faces", "2", "--out", out)
    assert done.exit_code == 0, done.stderr
    sheet = read(out)
    assert (rows(sheet), columns(sheet)) == (4, 4), "two faces × two edits; the source and three strengths"
    source, less, none, more = (tile(sheet, 0, at).astype(int) for at in range(4))
    assert np.array_equal(source, none), "a strength of 0 leaves the frame as it is"
    assert np.abs(less - source).mean() > 0.5 and np.abs(more - source).mean() > 0.5 and np.abs(less - more).mean() > 0.5


def test_a_store_is_shown_as_it_is_rendered_and_not_inverted_again(
    preview: Preview, styleres: Styleres, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, root, out = tmp_path / "frame.png", tmp_path / "store", tmp_path / "sheet.png"
    Image.fromarray(tiny.marked_frames(1)[0]).save(picture)
    assert styleres("edit", picture, "--edit", "warm=2", "--out", tmp_path / "edited.png", "--store", root).code == 0
    monkeypatch.setattr(Inverter, "invert", lambda *_: pytest.fail("a store is never inverted"))
    tiny.refuse_detectors(monkeypatch)
    before = tree(root)
    assert preview(root, "--edit", "warm=2", "--faces", "2", "--out", out).exit_code == 0
    assert tree(root) == before, "looking changes nothing"
    sheet, edited, store = read(out), read(tmp_path / "edited.png"), Store.open(root)
    quads = array_from_column(store.read("tracks"), "quad")
    assert rows(sheet) == len(quads) == 2
    for row, quad_42 in enumerate(quads):
        expected = crop_face(edited, quad_42, TILE)
        inner = slice(12, -12)  # corners are round
        assert np.array_equal(tile(sheet, row, 3)[inner, inner], expected[inner, inner])


def test_a_store_is_shown_over_its_shots_and_tracks(
    preview: Preview, styleres: Styleres, clip: Path, other: Path, tmp_path: Path
) -> None:
    root, out = tmp_path / "store", tmp_path / "sheet.png"
    assert styleres("invert", clip, other, "--store", root).code == 0
    assert preview(root, "--edit", "warm=2@track=0", "--faces", "4", "--out", out).exit_code == 0
    assert rows(read(out)) == 4
    one = preview(root, "--only", "other.mp4", "--edit", "warm=2", "--faces", "2", "--out", out)
    assert one.exit_code == 0 and rows(read(out)) == 2


@pytest.mark.parametrize(
    "words, said",
    [
        (("--edit", "wram=1"), "did you mean 'warm'"),
        (("--edit", "warm=1@track=1"), "tracks have no numbers before"),
        (("--edit", "warm=1", "--strengths", "1,2"), "--edit warm"),
        (("--edit", "warm", "--strengths", "1,two"), "expected numbers"),
        (("--edit", "warm=1", "--out", "sheet.jpg"), "a preview is a PNG"),
        (("--edit", "warm=1", "--only", "x"), "the input is none"),
        (("--edit", "warm=1", "--size", "48"), "makes pictures of"),
        ((), "expected --edit"),
    ],
)
def test_a_mistake_is_one_sentence(preview: Preview, clip: Path, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = preview(clip, *words)
    assert done.exit_code == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert tree(tmp_path).keys() == {"work"}


def test_nobody_in_it_is_a_sentence(preview: Preview, tmp_path: Path) -> None:
    empty = tiny.marked_clip(tmp_path / "empty.mp4", 6, people=0, sound=None)
    done = preview(empty, "--edit", "warm=1")
    assert done.exit_code == 2 and "no face in the 6 frames" in done.stderr


def test_only_a_preview_is_replaced(preview: Preview, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "holiday.png"
    Image.new("RGB", (8, 8)).save(out)
    words = (clip, "--edit", "warm=1", "--faces", "1", "--out", out)
    refused = preview(*words)
    assert refused.exit_code == 2 and "is no preview" in refused.stderr and Image.open(out).size == (8, 8)
    assert preview(*words, "--overwrite").exit_code == 0 and preview(*words).exit_code == 0
