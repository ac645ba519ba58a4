"""A still is the frame that a render makes: same codes, same pictures, same paste."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ops.checkpoints.bundle import Bundle
from ops.editing.library import load_edits
from ops.editing.recipe import EditRecipe, parse_edits
from ops.editing.smoothing import SmoothingSettings
from ops.face.paste import PasteSettings
from ops.inversion.session import Session
from ops.video.decode import FrameReader
from ops.video.encode import EncodeOptions
from ops.video.probe import probe
from pipeline import flow
from pipeline.engine.course import silent
from pipeline.engine.runner import InProcessRunner
from pipeline.engine.stage import Source
from pipeline.sources.outputs import Outputs
from pipeline.steps.plan import PlanSettings, SourceCodes
from pipeline.steps.stills import FrameReaders, edited_still, stored_faces
from pipeline.store.tables import Store
from tests import tiny

EDITS = ("warm=0:0,0.8:3", "cold=1@track=1@from=0.5@fade_in=0.3", "brows=0.4")
"""Keyframes, a span with a fade on one track, and an edit in S."""


def made(
    store: Store, source: Source, bundle: Bundle, recipe: EditRecipe, settings: PlanSettings, pasting: PasteSettings, at: int
) -> tuple[np.ndarray, int]:
    loaded = load_edits(recipe.names, bundle.editors(), recipe.editors, bundle.config.generator)
    editors = {name: one.editor for name, one in loaded.items()}
    session = Session(bundle.load("generate"), device="cpu", precision="fp32", batch_size=4)
    codes = SourceCodes(store, source)
    faces = stored_faces(store, codes, int(source.info.pts[at]), recipe, editors, settings, bundle)
    still = edited_still(FrameReaders().frame(source, at), faces, session, bundle, pasting)
    return still.result, len(still.faces)


def test_a_still_is_the_rendered_frame(tmp_path: Path, kept: Store, source: Source, bundle: Bundle) -> None:
    recipe = parse_edits(EDITS).with_editors(tiny.user_editors(tmp_path / "editors"))
    smoothing = SmoothingSettings("gaussian", sigma_seconds=0.1)
    settings, pasting = PlanSettings(recipe, smoothing, fade_seconds=0.3), PasteSettings("delta")
    # RGB without loss, so that the file holds what was pasted.
    encode = EncodeOptions(codec="ffv1", gop_frames=8, pix_fmt="bgr0")
    outputs = Outputs(str(tmp_path / "out"), encode=encode, container=".mkv")
    rendering = flow.RenderSettings(settings, pasting, encode, sheet_frames=0)
    compute = flow.Compute("cpu", "fp32", 4, 16)
    summary = flow.render([source], outputs, kept, bundle, rendering, compute, InProcessRunner(), silent)
    assert not summary.lost
    with FrameReader(probe(Path(outputs.of(source).video)), conversion="exact") as reader:
        frames = [frame for _, frame in reader.read(0, source.info.n_frames)]
    counts = set()
    for at in (0, 3, 13, 14, 20, 30, 41):  # beginning, ends of the track that goes away and comes back, end
        result, faces = made(kept, source, bundle, recipe, settings, pasting, at)
        counts.add(faces)
        assert np.array_equal(result, frames[at]), f"frame {at} differs by {np.abs(result - frames[at].astype(int)).max()}"
    assert counts == {1, 2}, "frames with one face and with two were looked at"


def test_a_few_rows_are_planned_as_the_whole_track_is(kept: Store, source: Source, bundle: Bundle) -> None:
    recipe, settings = parse_edits(EDITS[:2]), PlanSettings(parse_edits(EDITS[:2]), SmoothingSettings("savgol"))
    codes = SourceCodes(kept, source)
    assert len(codes.tracks) == 3
    for track in codes.tracks:
        whole = codes.planned(track, recipe, bundle.editors(), settings, bundle.config)
        smoothed = codes.smoothed(track, recipe, settings)
        for known in (None, smoothed):
            some = codes.planned(track, recipe, bundle.editors(), settings, bundle.config, rows=slice(3, 7), smoothed_NLD=known)
            assert np.array_equal(some.rows.edited_NLD, whole.rows.edited_NLD[3:7])
            assert np.array_equal(some.rows.fade_N, whole.rows.fade_N[3:7]) and (some.active_N == whole.active_N[3:7]).all()
        assert not np.array_equal(smoothed, codes.wplus(track)), "there is something to smooth"


def test_whom_no_edit_acts_on_is_left_out(kept: Store, source: Source, bundle: Bundle) -> None:
    recipe = parse_edits(["warm=1@track=1"])
    codes, settings, pts = SourceCodes(kept, source), PlanSettings(recipe), int(source.info.pts[5])
    acted = stored_faces(kept, codes, pts, recipe, bundle.editors(), settings, bundle)
    assert [face.track for face in acted] == [1]
    everyone = stored_faces(kept, codes, pts, recipe, bundle.editors(), settings, bundle, everyone=True)
    assert [face.track for face in everyone] == [0, 1]
    other = everyone[0]
    assert np.array_equal(other.unedited_LD, other.edited_LD)


@pytest.mark.parametrize("pts", [-1, 10**9])
def test_a_moment_without_faces_has_none(kept: Store, source: Source, bundle: Bundle, pts: int) -> None:
    recipe = parse_edits(["warm=1"])
    found = stored_faces(kept, SourceCodes(kept, source), pts, recipe, bundle.editors(), PlanSettings(recipe), bundle)
    assert found == []
