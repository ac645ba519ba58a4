from __future__ import annotations

import random
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ops.video import FrameReader, MediaError, probe
from ops.video.decord_source import decord_can_read, decord_is_bounded
from ops.video.orientation import Orientation
from tests.ops.video.media import CLIPS, MemoryGrowth, clip, decode_all, make_video, moving_frames, psnr


def _ranges(n: int, seed: int) -> list[tuple[int, int]]:
    """Ranges that go on, jump ahead, and jump back."""
    rng = random.Random(seed)
    starts = [0, min(3, n - 1), n - 1, 0] + [rng.randrange(n) for _ in range(6)]
    return [(a, min(n, a + rng.randint(1, 4))) for a in starts]


def _check_ranges(path: Path, backend: str, seed: int = 0) -> None:
    info = probe(path)
    pts, frames = decode_all(path, info.rotation_degrees // 90)
    with FrameReader(info, backend, threads=1) as reader:
        assert reader.backend == backend
        for start, stop in _ranges(info.n_frames, seed):
            got = list(reader.read(start, stop))
            assert [p for p, _ in got] == pts[start:stop]
            for (_, frame), expected in zip(got, frames[start:stop], strict=True):
                assert np.array_equal(frame, expected), f"frames {start} to {stop}"


@pytest.mark.parametrize("name", CLIPS)
def test_pyav_ranges_are_those_of_a_full_decode(name: str) -> None:
    _check_ranges(clip(name), "pyav")


@pytest.mark.parametrize("name", CLIPS)
def test_decord_is_bit_identical_where_it_is_allowed(name: str) -> None:
    allowed = decord_can_read(probe(clip(name)))
    assert allowed == (name not in ("hostile/av1_320.mp4", "hostile/ts_480.ts", "odd_321x243_vp9_opus.webm"))
    if allowed:
        _check_ranges(clip(name), "decord")


@pytest.mark.parametrize("name", CLIPS)
def test_auto_gives_every_frame_of_every_clip(name: str) -> None:
    info = probe(clip(name))
    with FrameReader(info, threads=1) as reader:
        assert reader.backend == ("decord" if decord_can_read(info) and decord_is_bounded(info) else "pyav")
        count = 0
        for i, (pts, frame) in enumerate(reader.read(0, info.n_frames)):
            assert pts == info.pts[i] and type(pts) is int
            assert frame.shape == (info.height, info.width, 3) and frame.dtype == np.uint8
            assert frame.flags.c_contiguous and frame.flags.writeable
            count += 1
    assert count == info.n_frames


@pytest.mark.parametrize(
    "options",
    [
        {"x264-params": "open-gop=1:keyint=12:scenecut=0:bframes=3:b-adapt=0"},
        {"x264-params": "intra-refresh=1:keyint=12"},
        {"x264-params": "keyint=9:scenecut=0"},
    ],
    ids=["open-gop", "intra-refresh", "closed"],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_seeks_are_exact_whatever_the_key_frames_mean(tmp_path: Path, options: dict[str, str], suffix: str) -> None:
    """decord 0.6 gives wrong pixels after seeks in the first two kinds; "auto" must not."""
    path = make_video(tmp_path / f"a{suffix}", moving_frames(60, 96, 64), options={"preset": "veryfast"} | options)
    info = probe(path)
    assert info.keyframe_pts.size > 2, "the premise: there is something to seek to"
    for seed in range(3):
        _check_ranges(path, "pyav", seed)
    pts, frames = decode_all(path)
    with FrameReader(info, threads=1) as reader:
        for start, stop in _ranges(60, 7):
            for (p, frame), expected, q in zip(reader.read(start, stop), frames[start:stop], pts[start:stop], strict=True):
                assert p == q and np.array_equal(frame, expected)


def test_fast_conversion_is_bit_identical_for_colour_tags(tmp_path: Path) -> None:
    frames = moving_frames(4, 96, 64)
    for color in [(1, 1, 1, 1), (6, 6, 6, 1), (1, 1, 1, 2), (2, 2, 2, 2), (9, 14, 9, 1), (2, 2, 2, 0)]:
        path = make_video(tmp_path / "tagged.mp4", frames, color=color)
        info = probe(path)
        with FrameReader(info, "decord") as one, FrameReader(info, "pyav") as two:
            for (_, a), (_, b) in zip(one.read(0, 4), two.read(0, 4), strict=True):
                assert np.array_equal(a, b), color


@pytest.mark.parametrize("color", [(1, 1, 1, 1), (6, 6, 6, 1), (1, 1, 1, 2), (9, 14, 9, 1), (2, 2, 2, 0)])
def test_exact_conversion_obeys_matrix_and_range(tmp_path: Path, color: tuple[int, int, int, int]) -> None:
    """Flat YUV against the formula of ITU-T H.273 (8.3): half a level at most; the fast conversion is up to 3 off."""
    rng = np.random.default_rng(3)
    full = color[3] == 2
    kr, kb = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}.get(color[2], (0.299, 0.114))
    path = tmp_path / "flat.mkv"
    values = [(int(rng.integers(70, 180)), int(rng.integers(112, 144)), int(rng.integers(112, 144))) for _ in range(12)]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = 32, 32, "yuv420p"
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = color
        for i, value in enumerate(values):
            frame = av.VideoFrame(32, 32, "yuv420p")
            for plane, v in zip(frame.planes, value, strict=True):
                plane.update(bytes([v]) * plane.buffer_size)
            frame.pts, frame.time_base = i, Fraction(1, 25)
            out.mux(context.encode(frame))
        out.mux(context.encode(None))
    info = probe(path)
    assert (info.color.space, info.color.range) == (color[2], color[3])
    with FrameReader(info, conversion="exact") as reader:
        for (y, u, v), (_, frame) in zip(values, reader.read(0, len(values)), strict=True):
            luma, chroma = (1.0, 1.0) if full else (255 / 219, 255 / 224)
            grey, blue, red = (y - (0 if full else 16)) * luma, (u - 128) * chroma, (v - 128) * chroma
            r, b = grey + 2 * (1 - kr) * red, grey + 2 * (1 - kb) * blue
            g = (grey - kr * r - kb * b) / (1 - kr - kb)
            assert np.abs(frame[16, 16].astype(float) - [r, g, b]).max() < 0.6


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("hflip", [False, True])
def test_orientation_is_applied(tmp_path: Path, degrees: int, hflip: bool) -> None:
    frames = moving_frames(3, 96, 64)
    plain = make_video(tmp_path / "plain.mp4", frames)
    path = make_video(tmp_path / "turned.mp4", frames, display=(degrees, hflip, False))
    info = probe(path)
    expected = Orientation(info.rotation_degrees // 90, info.mirrored)
    assert (info.width, info.height) == ((64, 96) if degrees % 180 else (96, 64))
    assert info.mirrored == hflip
    _, stored = decode_all(plain)
    with FrameReader(info) as reader:
        for (_, frame), raw in zip(reader.read(0, 3), stored, strict=True):
            assert np.array_equal(frame, expected.upright(raw))


def test_mirrored_display_matrix_puts_the_corners_where_it_says(tmp_path: Path) -> None:
    """Red is stored top left and green top right; a horizontal flip shows green top left."""
    path = make_video(tmp_path / "flip.mp4", moving_frames(2, 96, 64), display=(0, True, False))
    with FrameReader(probe(path)) as reader:
        ((_, frame),) = reader.read(0, 1)
    assert frame[3, 3].argmax() == 1 and frame[3, -4].argmax() == 0


def test_rotation_that_is_no_quarter_turn_is_refused(tmp_path: Path) -> None:
    path = make_video(tmp_path / "slanted.mp4", moving_frames(2, 96, 64), display=(30, False, False))
    with pytest.raises(MediaError, match="multiples of 90"):
        probe(path)


def _damage(path: Path, ordinal: int) -> Path:
    """Overwrite the packet of one frame with noise; the container around it stays whole."""
    with av.open(str(path)) as container:
        packet = [bytes(p) for p in container.demux(video=0) if p.size][ordinal]
    data = bytearray(path.read_bytes())
    assert data.count(packet) == 1
    at, size = data.index(packet), len(packet)
    data[at : at + size] = np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
    broken = path.with_name("broken" + path.suffix)
    broken.write_bytes(data)
    return broken


@pytest.mark.parametrize("backend", ["pyav", "auto"])
def test_a_broken_frame_is_named_and_reading_can_go_on(tmp_path: Path, backend: str) -> None:
    frames = moving_frames(12, 96, 64)
    path = make_video(
        tmp_path / "intra.mkv", frames, codec="ffv1", pix_fmt="yuv420p", options={"level": "3", "slicecrc": "1", "g": "1"}
    )
    _, expected = decode_all(path)
    broken = _damage(path, 5)
    info = probe(broken)
    assert info.n_frames == 12
    with FrameReader(info, backend) as reader:
        seen = []
        with pytest.raises(MediaError, match=f"pts {info.pts[5]} ") as caught:
            for pts, frame in reader.read(0, 12):
                seen.append(pts)
                assert np.array_equal(frame, expected[len(seen) - 1])
        assert str(broken) in str(caught.value)
        assert seen == info.pts[:5].tolist()
        rest = list(reader.read(6, 12))
    assert [p for p, _ in rest] == info.pts[6:].tolist()
    assert all(np.array_equal(f, e) for (_, f), e in zip(rest, expected[6:], strict=True))


def test_decord_does_not_repeat_a_frame_in_place_of_a_broken_one(tmp_path: Path) -> None:
    """Its default hides broken frames; here it either raises or gives what PyAV gives."""
    path = make_video(tmp_path / "a.mp4", moving_frames(30, 96, 64), options={"preset": "ultrafast", "g": "1", "bf": "0"})
    broken = _damage(path, 9)
    info = probe(broken)
    outcomes = []
    for backend in ("auto", "pyav"):
        got, error = [], ""
        with FrameReader(info, backend, threads=1) as reader:
            try:
                got.extend(p for p, _ in reader.read(0, info.n_frames))
            except MediaError as caught:
                error = caught.reason
        outcomes.append((got, error))
    assert outcomes[0] == outcomes[1]


def test_options_and_ranges_are_checked() -> None:
    info = probe(clip("one_frame.mp4"))
    with pytest.raises(ValueError, match="backend"):
        FrameReader(info, "opencv")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="conversion"):
        FrameReader(info, conversion="good")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="exact"):
        FrameReader(info, "decord", conversion="exact")
    with FrameReader(info) as reader:
        assert list(reader.read(1, 1)) == []
        for start, stop in [(-1, 1), (0, 2), (1, 0)]:
            with pytest.raises(IndexError):
                reader.read(start, stop)
    with pytest.raises(ValueError, match="closed"):
        reader.read(0, 1)


def test_memory_does_not_grow_with_length_behind_a_slow_consumer(tmp_path: Path) -> None:
    """600 frames of 640x480 are 550 MB. decord, asked for by name, holds all of them by the hundredth."""
    path = make_video(tmp_path / "long.mp4", moving_frames(2, 640, 480) * 300)
    info = probe(path)
    with FrameReader(info, "auto", threads=1) as reader, MemoryGrowth() as memory:
        for i, _ in enumerate(reader.read(0, info.n_frames)):
            if i < 100:
                time.sleep(0.01)
    assert memory.peak_bytes < 60 << 20


def test_auto_takes_decord_for_short_clips_only(tmp_path: Path) -> None:
    for count, backend in ((145, "decord"), (146, "pyav")):  # 640 x 480 x 3 x 146 > 128 MiB
        info = probe(make_video(tmp_path / f"{count}.mp4", moving_frames(1, 640, 480) * count))
        with FrameReader(info) as reader:
            assert reader.backend == backend


def test_exact_and_fast_conversion_show_the_same_picture() -> None:
    info = probe(clip("lp_d12_motion_512.mp4"))
    with FrameReader(info) as fast, FrameReader(info, conversion="exact") as exact:
        ((_, a),), ((_, b),) = fast.read(40, 41), exact.read(40, 41)
    assert psnr(a, b) > 40
    assert 0.5 < (b.astype(float) - a).mean() < 2.0  # the fast one is darker: this is why there are two
