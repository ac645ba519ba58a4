"""The surface for Python: the same results as the commands, as arrays, and its mistakes as sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import styleres
from jobs.common.errors import UsageError
from ops.checkpoints.bundle import Bundle
from ops.editing.recipe import RecipeError, parse_edits
from ops.face.align import crop_face
from pipeline import flow
from pipeline.steps.plan import PlanSettings
from tests import tiny
from tests.jobs.conftest import bundle, clip, other  # noqa: F401 (fixtures)

COMPUTE = flow.Compute("cpu", "fp32", 4, 16)


@pytest.fixture
def opened(tmp_path: Path, bundle: Bundle, clip: Path) -> styleres.FaceStore:  # noqa: F811
    return inverted(clip, tmp_path / "store", bundle)


def inverted(path: Path | list[Path], store: Path, bundle: Bundle, **more: object) -> styleres.FaceStore:  # noqa: F811
    return styleres.invert(path, store, model=str(bundle.path), settings=tiny.INVERTING, compute=COMPUTE, **more)  # type: ignore[arg-type]


def test_five_lines(tmp_path: Path, opened: styleres.FaceStore, bundle: Bundle, clip: Path) -> None:  # noqa: F811
    done = styleres.render(opened, tmp_path / "o.mp4", "warm=1", compute=COMPUTE)
    assert done.files == (str(tmp_path / "o.mp4"),) and Path(done.files[0]).stat().st_size > 1000
    assert done.summary.counts["edits"] == 40
    tracks = list(opened.tracks())
    assert [(track.source.name, track.number) for track in tracks] == [("marked.mp4", 0), ("marked.mp4", 1)]
    for track in tracks:
        codes = track.codes()
        assert codes.shape == (20, *bundle.wplus_shape) and codes.dtype == np.float32
        tensor = track.codes_tensor()
        assert isinstance(tensor, torch.Tensor) and np.array_equal(tensor.numpy(), codes)
        tensor += 1  # it is the caller's own
        assert np.array_equal(track.codes(), codes)
        assert track.quads().shape == (20, 4, 2) and len(track.residuals()) == 20
        assert track.seconds() == pytest.approx(np.arange(20) / 25) and (np.diff(track.pts()) > 0).all()
    assert not np.array_equal(tracks[0].codes(), tracks[1].codes())
    # The same call again does nothing, and another process opens the same.
    again = inverted(clip, tmp_path / "store", bundle)
    assert np.array_equal(next(again.tracks()).codes(), tracks[0].codes())
    later = styleres.open_store(tmp_path / "store", model=str(bundle.path))
    assert later.edits.keys() == {"warm", "cold", "ganspace_0"} and len(later.table("latents")) == 40
    assert later.sources()[0].complete and later.failures() == []


def test_a_still_is_what_render_writes(tmp_path: Path, bundle: Bundle) -> None:  # noqa: F811
    picture = tmp_path / "frame.png"
    Image.fromarray(tiny.marked_frames(1)[0]).save(picture)
    store = inverted(picture, tmp_path / "store", bundle)
    edits = ["warm=2", "cold=1@track=1"]
    done = styleres.render(store, tmp_path / "o.png", edits, compute=COMPUTE)
    still = store.still("frame.png", 0.0, edits)
    assert np.array_equal(still.result, np.asarray(Image.open(done.files[0]).convert("RGB"))) and still.faces == 2
    assert np.array_equal(still.source, np.asarray(Image.open(picture)))
    assert store.still("frame.png", 0.0, "cold=1@track=1").faces == 1


def test_edits_are_texts_lists_files_and_recipes(tmp_path: Path, opened: styleres.FaceStore) -> None:
    (tmp_path / "recipe.yaml").write_text("version: 1\nedits:\n  - warm=1\n", "utf-8")
    forms = ("warm=1", ["warm=1"], tmp_path / "recipe.yaml", parse_edits(["warm=1"]))
    first, *others = [opened.still("marked.mp4", 0.4, form).result for form in forms]
    assert all(np.array_equal(first, one) for one in others)
    settings = flow.RenderSettings(PlanSettings(parse_edits(["cold=3"])), sheet_frames=0)
    done = styleres.render(opened, tmp_path / "out", "warm=1", settings=settings, compute=COMPUTE)
    assert set(opened.table("edits")["edit"].to_pylist()) == {"warm"} and len(done.files) == 1


def test_crops_are_edited_without_files(bundle: Bundle) -> None:  # noqa: F811
    frame, side = tiny.marked_frames(1)[0], bundle.config.input_size
    quads = [np.array([[x, 20.0], [x, 76], [x + 56, 76], [x + 56, 20]]) for x in (20.0, 84.0)]
    crops = np.stack([crop_face(frame, quad, side) for quad in quads])
    made = styleres.edit_crops(crops, "warm=2", model=str(bundle.path), device="cpu")
    assert made.edited.shape == made.reconstruction.shape == (2, side, side, 3) and made.edited.dtype == np.uint8
    assert made.codes.shape == (2, *bundle.wplus_shape)
    assert np.abs(made.edited.astype(int) - made.reconstruction).mean() > 1
    one = styleres.edit_crops(crops[1:], "warm=2", model=str(bundle.path), device="cpu")
    assert np.array_equal(one.edited[0], made.edited[1]), "faces do not know of each other"
    none = styleres.edit_crops(crops, "warm=0", model=str(bundle.path), device="cpu")
    assert np.array_equal(none.edited, none.reconstruction)
    for wrong in (crops[0], crops.astype(np.float32), crops[:, :8]):
        with pytest.raises(UsageError, match="expected crops uint8"):
            styleres.edit_crops(wrong, "warm=2", model=str(bundle.path))


def test_mistakes_and_losses_are_exceptions(
    tmp_path: Path,
    opened: styleres.FaceStore,
    bundle: Bundle,  # noqa: F811
    other: Path,  # noqa: F811
) -> None:
    with pytest.raises(RecipeError, match="did you mean 'warm'"):
        styleres.render(opened, tmp_path / "o.mp4", "wram=1")
    with pytest.raises(UsageError, match="no such source"):
        opened.still("nobody.mp4", 0, "warm=1")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(styleres.Lost, match=r"broken\.mp4") as lost:
        inverted([other, broken], tmp_path / "store", bundle)
    assert [one.reason for one in lost.value.failures] == ["media_error"]
    assert {source.name for source in opened.sources()} == {"marked.mp4", "other.mp4"}, "the other one was inverted"
    kept = inverted([other, broken], tmp_path / "store", bundle, allow_losses=True)
    assert len(kept.failures()) == 1
    done = styleres.render(kept, tmp_path / "out", "warm=1", only=["other.mp4"], compute=COMPUTE)
    assert [Path(file).name for file in done.files] == ["other.edited.mp4"]


def test_the_document_names_what_there_is() -> None:
    text = (Path(__file__).parents[2] / "docs" / "python.md").read_text("utf-8")
    for name in ("invert", "open_store", "render", "edit_crops", "Lost", "EditedCrops", "FaceStore", "Rendered"):
        assert name in text and name in styleres.__all__
    for name in ("sources", "tracks", "failures", "still", "edits", "table"):
        assert f"store.{name}" in text and hasattr(styleres.FaceStore, name)
    for name in ("codes", "codes_tensor", "residuals", "quads", "pts", "seconds"):
        assert name in text and hasattr(styleres.Track, name)
