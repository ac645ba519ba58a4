from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ops.video import EncodeOptions, FrameReader, SourceColor, encode_segment, probe
from ops.video.encode import with_decode_times
from ops.video.probe import SourceInfo
from tests.ops.video.media import clip, make_video, moving_frames, psnr

CODECS = ["libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1"]
QUICK = "ultrafast"


def _segment_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]


def _source(tmp_path: Path, frames: list[np.ndarray], **settings: object) -> SourceInfo:
    return probe(make_video(tmp_path / "source.mp4", frames, **settings))  # type: ignore[arg-type]


def _timed(info: SourceInfo, frames: list[np.ndarray]) -> list[tuple[int, np.ndarray]]:
    return list(zip(info.pts.tolist(), frames, strict=True))


@pytest.mark.parametrize("codec", CODECS)
def test_same_frames_give_the_same_bytes(tmp_path: Path, codec: str) -> None:
    frames = moving_frames(20, 128, 96)
    info = _source(tmp_path, frames)
    options = EncodeOptions(codec=codec, preset=QUICK, gop_frames=8, threads=3)  # type: ignore[arg-type]
    written = []
    for name in ("one.nut", "two.nut"):
        assert encode_segment(_timed(info, frames), info, options, tmp_path / name) == 20
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    changed = [f ^ 8 for f in frames]
    encode_segment(_timed(info, changed), info, options, tmp_path / "three.nut")
    assert (tmp_path / "three.nut").read_bytes() != written[0]


@pytest.mark.parametrize("codec", CODECS)
def test_a_segment_stands_alone_and_has_one_packet_per_frame(tmp_path: Path, codec: str) -> None:
    frames = moving_frames(30, 128, 96)
    info = _source(tmp_path, frames)
    path = tmp_path / "s.nut"
    options = EncodeOptions(codec=codec, preset="veryfast", gop_frames=8)  # type: ignore[arg-type]
    encode_segment(_timed(info, frames)[10:], info, options, path)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    assert len(packets) == 20
    assert packets[0].is_keyframe and min(p.pts for p in packets) == packets[0].pts
    keys = [i for i, p in enumerate(packets) if p.is_keyframe]
    assert max(np.diff([*keys, 20])) <= (8 if codec != "ffv1" else 1)
    for key in keys:  # closed: nothing decoded after a key frame is shown before it
        assert all(p.pts > packets[key].pts for p in packets[key + 1 :])
    decoded = _segment_frames(path)
    assert len(decoded) == 20
    assert min(psnr(a, b) for a, b in zip(decoded, frames[10:], strict=True)) > 28


def test_ffv1_loses_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for size in ((96, 64), (97, 65)):
        frames = [rng.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8) for _ in range(3)]
        path = make_video(tmp_path / f"{size[0]}.mp4", frames, pix_fmt="yuv444p", color=(1, 1, 1, 1))
        info = probe(path)
        encode_segment(_timed(info, frames), info, EncodeOptions(codec="ffv1"), tmp_path / "s.nut")
        assert all(np.array_equal(a, b) for a, b in zip(_segment_frames(tmp_path / "s.nut"), frames, strict=True))


@pytest.mark.parametrize(
    "color",
    [(1, 1, 1, 1), (6, 6, 6, 1), (5, 6, 5, 1), (1, 13, 1, 2), (9, 14, 9, 1), (2, 2, 2, 0), (2, 2, 2, 2), (1, 1, 7, 1)],
)
def test_colour_survives_decode_and_encode(tmp_path: Path, color: tuple[int, int, int, int]) -> None:
    """At the best quality, what is decoded comes back, in the source's own matrix and range, and tagged as the source."""
    frames = moving_frames(4, 128, 96)
    info = _source(tmp_path, frames, color=color, options={"preset": "ultrafast", "qp": "0"})
    assert info.color == SourceColor(*color)
    path = tmp_path / "s.nut"
    with FrameReader(info, conversion="exact") as reader:
        given = [f for _, f in reader.read(0, 4)]
    encode_segment(_timed(info, given), info, EncodeOptions(quality=0, preset=QUICK), path)
    with av.open(str(path)) as container:
        coded = list(container.decode(video=0))
    with av.open(info.uri) as container:
        stored = list(container.decode(video=0))
    for new, old in zip(coded, stored, strict=True):
        assert (new.color_primaries, new.color_trc, new.colorspace) == color[:3]
        assert new.color_range == color[3] or (color[3] == 1 and new.color_range == 0)
        for a, b, least in zip(new.planes, old.planes, (60, 38, 38), strict=True):
            # Luma is exact to rounding; chroma was interpolated and averaged again.
            assert psnr(np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8)) > least


def test_odd_sizes_are_kept_exactly(tmp_path: Path) -> None:
    frames = moving_frames(5, 97, 65)
    info = _source(tmp_path, frames, pix_fmt="yuv444p")
    for codec, pix_fmt in [("libx264", "yuv444p"), ("libx265", "yuv444p"), ("libvpx-vp9", "yuv420p"), ("libsvtav1", "yuv420p")]:
        options = EncodeOptions(codec=codec, preset=QUICK)  # type: ignore[arg-type]
        assert options.pixel_format(97, 65) == pix_fmt
        encode_segment(_timed(info, frames), info, options, tmp_path / "s.nut")
        assert {f.shape for f in _segment_frames(tmp_path / "s.nut")} == {(65, 97, 3)}
    assert EncodeOptions().pixel_format(98, 66) == "yuv420p"
    with pytest.raises(ValueError, match="even sizes"):
        EncodeOptions(pix_fmt="yuv420p").pixel_format(97, 66)
    assert EncodeOptions(pix_fmt="yuv422p").pixel_format(98, 65) == "yuv422p"


@pytest.mark.parametrize("wrong", ["gap", "order", "size", "type", "foreign", "none", "beyond"])
def test_frames_that_are_not_a_run_of_the_source_are_refused(tmp_path: Path, wrong: str) -> None:
    frames = moving_frames(4, 96, 64)
    info = _source(tmp_path, frames)
    timed = _timed(info, frames)
    match wrong:
        case "gap":
            timed = [timed[0], timed[2]]
        case "order":
            timed = [timed[1], timed[0]]
        case "size":
            timed = [(timed[0][0], frames[0][:-2])]
        case "type":
            timed = [(timed[0][0], frames[0].astype(np.float32))]
        case "foreign":
            timed = [(timed[0][0] + 1, frames[0])]
        case "none":
            timed = []
        case "beyond":
            timed = [*timed, (timed[-1][0] + 512, frames[0])]
    out = tmp_path / "s.nut"
    with pytest.raises(ValueError, match="expected"):
        encode_segment(timed, info, EncodeOptions(preset=QUICK), out)
    assert [p.name for p in tmp_path.iterdir()] == ["source.mp4"], "a failed segment leaves nothing behind"


def test_frames_are_taken_one_at_a_time(tmp_path: Path) -> None:
    info = _source(tmp_path, moving_frames(2, 96, 64) * 40)
    alive: list[int] = []

    def frames() -> Iterator[tuple[int, np.ndarray]]:
        with FrameReader(info, "pyav", threads=1) as reader:
            for pts, frame in reader.read(0, info.n_frames):
                alive.append(pts)
                yield pts, frame

    assert encode_segment(frames(), info, EncodeOptions(preset=QUICK), tmp_path / "s.nut") == 80
    assert alive == info.pts.tolist()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"codec": "h264"}, "codec"),
        ({"preset": "best"}, "preset"),
        ({"threads": 0}, "threads"),
        ({"gop_frames": 0}, "gop_frames"),
        ({"quality": 99}, "quality"),
        ({"codec": "ffv1", "quality": 3}, "lossless"),
        ({"pix_fmt": "nonsense"}, "pix_fmt"),
        ({"codec": "libsvtav1", "pix_fmt": "yuv444p"}, "pix_fmt"),
    ],
)
def test_options_are_checked(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EncodeOptions(**settings)  # type: ignore[arg-type]


def test_rgb_sources_become_tagged_bt709(tmp_path: Path) -> None:
    frames = moving_frames(3, 96, 64)
    path = make_video(tmp_path / "rgb.mkv", frames, codec="ffv1", pix_fmt="bgr0", options={}, time_base=Fraction(1, 1000))
    info = probe(path)
    encode_segment(_timed(info, frames), info, EncodeOptions(quality=1, preset=QUICK), tmp_path / "s.nut")
    with av.open(str(tmp_path / "s.nut")) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_range) == (1, 1)
    assert psnr(_segment_frames(tmp_path / "s.nut")[1], frames[1]) > 30


def test_non_square_pixels_are_kept(tmp_path: Path) -> None:
    info = probe(clip("carphone_176x144.mp4"))
    with FrameReader(info) as reader:
        encode_segment(reader.read(0, 3), info, EncodeOptions(preset=QUICK), tmp_path / "s.nut")
    with av.open(str(tmp_path / "s.nut")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(128, 117)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_decode_time_from_nowhere_costs_no_segment(tmp_path: Path, count: int) -> None:
    """x265 gave 2**54 for the first of two frames now and then, and the muxer refused the packet."""
    with av.open(str(tmp_path / "a.nut"), "w", format="nut", container_options={"avoid_negative_ts": "disabled"}) as container:
        stream = container.add_stream("libx265", rate=25, options={"preset": "ultrafast", "x265-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        packets = []
        for pts, picture in enumerate(moving_frames(count, 96, 64)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = pts, Fraction(1, 25)
            packets += stream.codec_context.encode(frame)
        packets += stream.codec_context.encode(None)
        packets[0].dts = 2**54
        container.mux(with_decode_times(packets))
    with av.open(str(tmp_path / "a.nut")) as made:
        assert [frame.pts * frame.time_base for frame in made.decode(video=0)] == [Fraction(at, 25) for at in range(count)]
