"""The rows of `quality`: what they measure, and that they do not depend on how the work was cut."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

from ops.checkpoints.bundle import Bundle
from ops.metrics.edited_face import mean_change, measured, trouble
from ops.metrics.identity import IdentityNetwork
from pipeline.engine.stage import Source
from pipeline.steps.quality import THUMBNAILS, WORST_KEPT, Quality, surroundings
from pipeline.store.tables import Store
from tests import tiny

EDITS = ("warm=0:0,1:3", "cold=1@track=1")


def test_every_edited_face_has_a_row_whatever_the_chunks(tmp_path: Path, kept: Store, source: Source, bundle: Bundle) -> None:
    found = []
    for chunk_frames, batch in ((8, 4), (64, 8)):
        paths, summary = tiny.rendered(
            tmp_path / "out", kept, [source], bundle, *EDITS, chunk_frames=chunk_frames, batch_size=batch
        )
        assert not summary.lost
        rows = kept.read("quality", source.source_id)
        mine = rows.filter(pc.equal(rows["path"], str(paths[0])))
        assert len(mine) == summary.counts["edits"] > 50
        found.append(mine)
        paths[0].unlink()
        for manifest in (Path(str(kept.root)) / "manifests").glob("render-*/*"):
            manifest.unlink()
    assert found[0].equals(found[1])
    rows = found[0]
    pictures, thumbnails = rows["picture"].drop_null(), rows["thumbnail"].drop_null()
    segments = -(-source.info.n_frames // tiny.LOSSLESS.gop_frames)
    assert len(pictures) == min(segments, WORST_KEPT) and 0 < len(thumbnails) <= 2 * THUMBNAILS
    # The worst of all has its picture.
    worst = int(np.argmax(rows["trouble"].to_numpy()))
    assert rows["picture"][worst].as_py() is not None
    # No flicker where a segment or a track begins, and some where the strength changes.
    firsts = [int(source.info.pts[at]) for at in range(0, source.info.n_frames, tiny.LOSSLESS.gop_frames)]
    keys = list(zip(rows["track_id"].to_pylist(), rows["pts"].to_pylist(), strict=True))
    flicker = dict(zip(keys, rows["flicker"].to_pylist(), strict=True))
    for (track, pts), value in flicker.items():
        assert (value is None) == (pts in firsts or (track, previous(source, pts)) not in flicker)
    assert rows["identity"].null_count == len(rows)


def previous(source: Source, pts: int) -> int:
    return int(source.info.pts[int(np.searchsorted(source.info.pts, pts)) - 1])


class Colour(IdentityNetwork):
    """A recogniser that knows people by their mean colour."""

    @property
    def name(self) -> str:
        return "colour"

    def embed(self, faces: np.ndarray) -> np.ndarray:
        found = faces.reshape(len(faces), -1, 3).mean(1).astype(np.float64)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_numbers_are_those_of_the_formulas(source: Source) -> None:
    quality = Quality(source.whole(), 8, frozenset({int(source.info.pts[1])}), Colour())
    quad_42 = np.array([[9.5, 9.5], [9.5, 73.5], [73.5, 73.5], [73.5, 9.5]])
    landmarks_52 = np.array([[30, 30], [50, 30], [40, 45], [32, 55], [48, 55]], float)
    frame = np.full((96, 160, 3), (100, 100, 100), np.uint8)
    base = np.full((32, 32, 3), 110.0, np.float32)
    for at, level in enumerate((112.0, 118.0, 300.0)):
        result = frame.copy()
        result[:] = (100, 0, 0) if at == 2 else (100, 100, 100)
        quality.add(int(source.info.pts[at]), 0, frame, result, base, np.full_like(base, level), quad_42, landmarks_52)
    first, second, third = quality.rows
    assert first["inversion_error"] == pytest.approx(10) and first["flicker"] is None and first["edit_size"] == pytest.approx(2)
    assert second["flicker"] == pytest.approx(6) and second["trouble"] == pytest.approx(6 / 5)
    assert third["edit_size"] == pytest.approx(255 - 110), "levels beyond white are white"
    assert first["identity"] == pytest.approx(1) and third["identity"] == pytest.approx(1 / 3**0.5, abs=0.02)
    assert [row["picture"] is not None for row in quality.rows] == [False, False, True], "the worst of the segment"
    assert [row["thumbnail"] is not None for row in quality.rows] == [False, True, False]
    both = np.asarray(Image.open(BytesIO(third["picture"])).convert("RGB"))
    before, after = (half.reshape(-1, 3).mean(0) for half in np.array_split(both, 2, axis=1))
    assert before == pytest.approx([100] * 3, abs=6) and after[0] > 90 and after[1] < 45


def test_a_gap_has_no_flicker(source: Source) -> None:
    quality = Quality(source.whole(), 100, frozenset())
    quad_42, frame = np.array([[0.0, 0], [0, 31], [31, 31], [31, 0]]), np.zeros((96, 160, 3), np.uint8)
    for at in (0, 2, 3):
        crop = np.zeros((8, 8, 3), np.float32)
        quality.add(int(source.info.pts[at]), 0, frame, frame, crop, crop, quad_42, np.zeros((5, 2)))
    assert [row["flicker"] for row in quality.rows] == [None, None, 0.0]


def test_trouble_is_the_worst_measure() -> None:
    assert trouble(0, None, None) == 0 and trouble(20, 0, 1) == 1 and trouble(2, 10, 1) == 2
    assert trouble(2, None, 0.4) == pytest.approx(1)


def test_a_crop_is_measured_at_its_own_shape() -> None:
    assert measured(np.zeros((64, 256, 3), np.uint8)).shape == (32, 128, 3)
    assert mean_change(measured(np.full((16, 16, 3), 300.0)), measured(np.zeros((16, 16, 3)))) == 255


def test_a_face_beyond_the_frame_shows_the_frame() -> None:
    frame = np.zeros((40, 60, 3), np.uint8)
    away = np.array([[900.0, 900], [900, 931], [931, 931], [931, 900]])
    assert surroundings(frame, away).shape == (40, 60, 3)
    assert surroundings(frame, np.array([[10.0, 10], [10, 20], [20, 20], [20, 10]])).shape[0] in (13, 14)
    large = np.array([[0.0, 0], [0, 1999], [1999, 1999], [1999, 0]])
    assert max(surroundings(np.zeros((2000, 2000, 3), np.uint8), large).shape) == 512
