"""Folders of frames are clips: one source, tracked and smoothed, and a folder of frames again."""

from __future__ import annotations

import io
import tarfile
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ops.checkpoints.bundle import Bundle
from ops.editing.recipe import parse_edits
from ops.video.encode import EncodeOptions
from ops.video.probe import probe
from pipeline import flow
from pipeline.engine.course import silent
from pipeline.engine.runner import InProcessRunner
from pipeline.engine.stage import Source
from pipeline.sources.inputs import entries, is_explicit, probed
from pipeline.sources.outputs import Outputs
from pipeline.steps.plan import PlanSettings
from pipeline.store.tables import Store
from schemas import Failure
from tests import tiny
from tests.ops.video.media import decode_all

FRAMES = tiny.marked_frames(18, people=1, absent=range(12, 14))


def write(folder: Path, suffix: str = ".png", first: int = 7) -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(FRAMES, first):
        options = {"lossless": True} if suffix == ".webp" else {"quality": 95} if suffix == ".jpg" else {}
        Image.fromarray(frame).save(folder / f"frame_{number:04d}{suffix}", **options)
    return folder


def found(argument: str) -> Source | Failure:
    (entry,) = entries([argument])
    assert not isinstance(entry, Failure)
    return probed(entry)


def source(argument: str) -> Source:
    one = found(argument)
    assert isinstance(one, Source), one
    return one


def edited(folder: Path, one: Source, bundle: Bundle, *, file: str | None = None, chunk_frames: int = 8) -> flow.Summary:
    store = tiny.open_store(folder / "store", bundle, "float32")
    encode = EncodeOptions(codec="libx264", gop_frames=8, preset="ultrafast") if file else tiny.LOSSLESS
    outputs = Outputs(str(folder / "out"), file, encode)
    settings = flow.RenderSettings(PlanSettings(parse_edits(["warm=1"])), tiny.PASTE, encode=encode, sheet_frames=0)
    compute = flow.Compute("cpu", "fp32", 4, chunk_frames)
    return flow.edit([one], outputs, store, bundle, tiny.INVERTING, settings, compute, InProcessRunner(), silent)


def test_a_folder_of_frames_is_one_clip(tmp_path: Path, bundle: Bundle) -> None:
    shot = source(f"{write(tmp_path / 'shot')}/frame_*.png@25")
    assert (shot.info.n_frames, shot.info.time_base, shot.kind, shot.name) == (18, Fraction(1, 25), "video", "shot")
    summary = edited(tmp_path, shot, bundle)
    assert not summary.lost and summary.sources_done == 1 and summary.counts["frames"] == 18
    store = Store.open(tmp_path / "store")
    tracks = store.read("tracks")
    assert set(tracks["track_id"].to_pylist()) == {0} and tracks.num_rows == 18
    assert [row["interpolated"] for row in tracks.to_pylist()].count(True) == 2, "the gap is bridged, as in a clip"
    made = sorted((tmp_path / "out" / "shot").iterdir())
    assert [path.name for path in made] == [f"frame_{number:04d}.png" for number in range(7, 25)]
    for path, frame in zip(made, FRAMES, strict=True):
        after = np.asarray(Image.open(path))
        moved = np.abs(after.astype(int) - frame).max(axis=2)
        assert moved.max() > 8 and (moved[:, 120:] == 0).all(), "the face is edited, and nothing outside its mask"
    other = edited(tmp_path / "b", shot, bundle, chunk_frames=64)
    assert not other.lost
    assert [(tmp_path / "b/out/shot" / path.name).read_bytes() == path.read_bytes() for path in made] == [True] * 18
    assert edited(tmp_path, shot, bundle).sources_skipped == 1


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif"])
def test_frames_keep_their_format(tmp_path: Path, bundle: Bundle, suffix: str) -> None:
    shot = source(f"{write(tmp_path / 'shot', suffix)}/frame_%04d{suffix}@24000/1001")
    assert shot.info.time_base == Fraction(1001, 24000)
    assert not edited(tmp_path, shot, bundle).lost
    made = sorted((tmp_path / "out" / "shot").iterdir())
    assert len(made) == 18 and {path.suffix for path in made} == {suffix}
    before, after = (np.asarray(Image.open(path)).astype(int) for path in (tmp_path / "shot" / made[3].name, made[3]))
    assert np.abs(after - before)[:, 125:].max() <= (8 if suffix == ".jpg" else 0)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path, bundle: Bundle, suffix: str) -> None:
    """Outside the mask every number stays; inside they change by steps of 8 bits, and keep what is finer."""
    (tmp_path / "deep").mkdir()
    random = np.random.default_rng(0)
    stored = []
    for number, frame in enumerate(FRAMES):
        fine = frame.astype(np.uint16) * 256 + random.integers(0, 256, frame.shape, np.uint16)
        cv2.imwrite(str(tmp_path / "deep" / f"{number:03d}{suffix}"), fine[..., ::-1])
        stored.append(fine)
    shot = source(f"{tmp_path / 'deep'}/*{suffix}@25")
    assert shot.info.pix_fmt == "rgb48le" and not edited(tmp_path, shot, bundle).lost
    made = cv2.imread(str(tmp_path / "out" / "deep" / f"005{suffix}"), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert made.dtype == np.uint16
    change = made.astype(int) - stored[5]
    inside = np.abs(change).max(axis=2) > 0
    assert (change[:, 120:] == 0).all() and inside.sum() > 200
    free = inside[..., None] & (made > 0) & (made < 65535)
    assert (change[free] % 257 == 0).all()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda folder: (folder / "frame_0010.png").unlink(),
            "1 frames are missing between frame_0007.png and frame_0024.png: 10",
        ),
        (lambda folder: Image.new("RGB", (20, 30)).save(folder / "frame_0012.png"), "20x30 pixels, and the first frame"),
        (lambda folder: Image.new("RGB", (9, 9)).save(folder / "frame_7.png"), "have the same number"),
        (lambda folder: Image.new("RGB", (9, 9)).save(folder / "frame_end.png"), "has no number"),
        (lambda folder: (folder / "frame_0009.png").write_bytes(b"no picture"), "not an image"),
    ],
)
def test_what_is_no_clip_is_said(tmp_path: Path, spoil: object, said: str) -> None:
    folder = write(tmp_path / "shot")
    spoil(folder)  # type: ignore[operator]
    one = found(f"{folder}/frame_*.png@25")
    assert isinstance(one, Failure) and said in one.message


def test_exr_is_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "a.0001.exr").write_bytes(b"v/1\x01")
    one = found(f"{tmp_path}/a.*.exr@25")
    assert isinstance(one, Failure) and "linear light" in one.message and "PNG of 16 bits" in one.message


def test_a_sequence_as_a_video(tmp_path: Path, bundle: Bundle) -> None:
    shot = source(f"{write(tmp_path / 'shot')}/frame_*.png@25")
    assert not edited(tmp_path, shot, bundle, file=str(tmp_path / "out.mp4")).lost
    info = probe(tmp_path / "out.mp4")
    assert info.n_frames == 18 and info.average_rate == 25
    _, frames = decode_all(tmp_path / "out.mp4")
    assert np.abs(frames[2].astype(int) - FRAMES[2])[:, 125:].mean() < 6


def test_shards_and_tables_are_sequences_too(tmp_path: Path, bundle: Bundle) -> None:
    files = sorted(write(tmp_path / "shot").iterdir())
    with tarfile.open(tmp_path / "clip.tar", "w") as tar:
        for path in reversed(files):
            tar.add(path, path.name)
            text = tarfile.TarInfo(f"{path.stem}.json")
            text.size = 2
            tar.addfile(text, io.BytesIO(b"{}"))
    order = list(reversed(range(18)))
    rows = {"frame": [at + 7 for at in order], "image": [files[at].read_bytes() for at in order]}
    pq.write_table(pa.table(rows), tmp_path / "clip.parquet", row_group_size=5)
    one, two, three = (
        source(text)
        for text in (f"{tmp_path}/shot/*.png@25", f"frames:{tmp_path}/clip.tar@25", f"frames: {tmp_path}/clip.parquet@25")
    )
    assert one.source_id == two.source_id == three.source_id, "the same frames in the same order"
    assert [name.name for name in (two, three)] == ["clip", "clip"]
    assert not edited(tmp_path, three, bundle).lost
    made = sorted(path.name for path in (tmp_path / "out" / "clip").iterdir())
    assert made == [f"{number:06d}.png" for number in range(7, 25)]
    (tmp_path / "list.txt").write_text(f"frames: {tmp_path}/shot/*.png@25\n")
    (entry,) = entries([f"@{tmp_path}/list.txt"])
    assert isinstance(probed(entry), Source) if not isinstance(entry, Failure) else False
    assert is_explicit("shot/*.png@25") and not is_explicit("shot/*.png")
