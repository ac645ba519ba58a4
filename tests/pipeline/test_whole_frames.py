"""Models whose crop needs no face: no detector, one track per shot, and the whole frame is edited."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ops.checkpoints.bundle import Bundle, open_bundle
from ops.face.framing import Crop
from ops.face.paste import PasteSettings, paste
from ops.files.errors import CheckpointError
from ops.inversion.session import Session
from ops.video.decode import FrameReader
from pipeline.engine.stage import Source
from pipeline.store.columns import array_from_column, residuals_from_table, wplus_from_table
from tests import tiny
from tests.ops.video.media import decode_all, make_video, moving_frames

CONTENT = (24, 32)


@pytest.fixture(autouse=True)
def no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.refuse_detectors(monkeypatch)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """30 frames with a cut at frame 12."""
    frames = moving_frames(30, 96, 54)
    frames[12:] = [255 - frame // 2 for frame in frames[12:]]
    path = make_video(
        tmp_path_factory.mktemp("clip") / "car.mp4", frames, options={"preset": "ultrafast", "crf": "8", "g": "10"}
    )
    return tiny.source_of(path)


@pytest.fixture(params=["none", "centre"])
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    return tiny.tiny_bundle(tmp_path / "bundle", crop=request.param, content=CONTENT)


def test_every_frame_has_a_code_and_a_cut_begins_a_track(tmp_path: Path, clip: Source, bundle: Bundle) -> None:
    store, summary = tiny.inverted(tmp_path / "s", [clip], bundle, chunk_frames=7)
    assert summary.counts == {"frames": 30, "detections": 0, "tracks": 2, "faces": 30} and not summary.failures
    tracks = store.read("tracks")
    assert tracks["pts"].to_pylist() == clip.info.pts.tolist() == store.read("latents")["pts"].to_pylist()
    assert tracks["track_id"].to_pylist() == tracks["shot"].to_pylist() == [0] * 12 + [1] * 18
    quads = array_from_column(tracks, "quad")
    assert (quads == bundle.framing.frame_quad(54, 96)).all()
    assert np.isnan(array_from_column(tracks, "landmarks")).all() and tracks["score"].null_count == 30
    session = Session(bundle.load(), device="cpu", precision="fp32", batch_size=4)
    with FrameReader(clip.info) as reader:
        crops = np.stack([bundle.framing.cut(frame, quads[0]) for _, frame in reader.read(0, 30)])
    assert not crops[:, :4].any() and not crops[:, 28:].any() and crops[:, 4:28].std() > 5
    assert np.array_equal(wplus_from_table(store.read("latents")), session.invert(crops)[0])


def test_rows_and_pixels_do_not_depend_on_how_the_work_is_cut(tmp_path: Path, clip: Source, bundle: Bundle) -> None:
    one, _ = tiny.inverted(tmp_path / "a", [clip], bundle, chunk_frames=7)
    two, _ = tiny.inverted(tmp_path / "b", [clip], bundle, chunk_frames=64)
    for name, rows in tiny.rows_of(one).items():
        # NaN is no value that Arrow calls equal to itself.
        assert rows.drop_columns("landmarks" if name == "tracks" else []).equals(
            tiny.rows_of(two)[name].drop_columns("landmarks" if name == "tracks" else [])
        ), name
    (first,), _ = tiny.rendered(tmp_path / "x", one, [clip], bundle, "warm=1", chunk_frames=8)
    (second,), _ = tiny.rendered(tmp_path / "y", two, [clip], bundle, "warm=1", chunk_frames=64)
    assert first.read_bytes() == second.read_bytes()


def test_no_edit_is_the_source_bit_for_bit_and_an_edit_reaches_where_it_should(
    tmp_path: Path, clip: Source, bundle: Bundle
) -> None:
    store, _ = tiny.inverted(tmp_path / "s", [clip], bundle)
    with FrameReader(clip.info, conversion="exact") as reader:
        frames = [frame for _, frame in reader.read(0, 30)]
    (still,), summary = tiny.rendered(tmp_path / "still", store, [clip], bundle, "warm=0")
    assert summary.counts["frames"] == 30
    assert all(np.array_equal(a, b) for a, b in zip(decode_all(still)[1], frames, strict=True))
    (video,), summary = tiny.rendered(tmp_path / "edited", store, [clip], bundle, "warm=3", sheet_frames=2)
    assert summary.counts["edits"] == 30 and not summary.failures and video.with_suffix(".contact_sheet.png").exists()
    moved = np.mean([np.abs(a.astype(int) - b).max(axis=2) for a, b in zip(decode_all(video)[1], frames, strict=True)], axis=0)
    if bundle.framing.crop == "none":
        rim = np.concatenate([moved[0], moved[-1], moved[:, 0], moved[:, -1]])
        assert rim.mean() > 0.3 * moved.mean() > 1, "up to the frame's edge"
    else:
        assert not moved[:, :12].any() and not moved[:, 84:].any() and moved[:, 20:76].mean() > 3
        assert moved[0, 20:76].mean() > 0.3 * moved[:, 20:76].mean(), "it fills the height"


def test_the_edited_file_is_the_edit_done_by_hand(tmp_path: Path, clip: Source, bundle: Bundle) -> None:
    store, _ = tiny.inverted(tmp_path / "s", [clip], bundle)
    (video,), _ = tiny.rendered(tmp_path / "edited", store, [clip], bundle, "warm=3")
    base = wplus_from_table(store.read("latents"))
    edited = bundle.editors()["warm"].apply(torch.from_numpy(base.copy()), torch.full((30,), 3.0)).numpy()
    detail = residuals_from_table(store.read("residuals"))
    session = Session(bundle.load(), device="cpu", precision="fp32", batch_size=4)
    pairs = [session.generate_levels(codes, detail)[:, 4:28] for codes in (edited, base)]
    quad, settings = bundle.framing.frame_quad(54, 96), PasteSettings().fitted(bundle.framing.crop)
    with FrameReader(clip.info, conversion="exact") as reader:
        frames = [frame for _, frame in reader.read(0, 30)]
    expected = [paste(frame, a, b, quad, settings) for frame, a, b in zip(frames, *pairs, strict=True)]
    made = decode_all(video)[1]
    assert max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(made, expected, strict=True)) <= 1


def test_a_track_of_a_shot_can_be_edited_alone(tmp_path: Path, clip: Source, bundle: Bundle) -> None:
    store, _ = tiny.inverted(tmp_path / "s", [clip], bundle)
    with FrameReader(clip.info, conversion="exact") as reader:
        frames = [frame for _, frame in reader.read(0, 30)]
    (video,), summary = tiny.rendered(tmp_path / "edited", store, [clip], bundle, "warm=3@track=1")
    assert summary.counts["edits"] == 18
    same = [np.array_equal(a, b) for a, b in zip(decode_all(video)[1], frames, strict=True)]
    assert same == [True] * 12 + [False] * 18, "the cut resets everything, and nothing fades over it"


def test_bundles_say_their_crop_and_older_ones_mean_faces(tmp_path: Path) -> None:
    bundle = tiny.tiny_bundle(tmp_path / "b", crop="centre", content=CONTENT)
    assert open_bundle(bundle.path).framing == bundle.framing and bundle.framing.content_hw == CONTENT
    config = bundle.path / "config.json"
    content = json.loads(config.read_text())
    for crop, size, message in (
        ("round", CONTENT, "ffhq, none or centre"),
        ("none", (25, 32), "whole pixels"),
        ("none", 3, "config"),
    ):
        config.write_text(json.dumps(content | {"crop": crop, "content": size}))
        with pytest.raises(CheckpointError, match=message):
            open_bundle(bundle.path)
    del content["crop"], content["content"]
    config.write_text(json.dumps(content))
    older: Crop = open_bundle(bundle.path).framing.crop
    assert older == "ffhq" and open_bundle(bundle.path).framing.content_hw == (32, 32)
