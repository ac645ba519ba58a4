from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from ops.video import EncodeOptions, FrameReader, MediaError, encode_segment, finalize, probe
from ops.video.carriage import shift_ticks
from ops.video.probe import SourceInfo
from tests.ops.video.media import (
    CLIPS,
    MemoryGrowth,
    clip,
    decoded_pts,
    make_video,
    moving_frames,
    payloads,
    psnr,
    sound_samples,
)

FAST = EncodeOptions(preset="ultrafast", quality=12)


def _segments(info: SourceInfo, folder: Path, cuts: Sequence[int], options: EncodeOptions = FAST) -> list[Path]:
    edges = [0, *(c for c in cuts if 0 < c < info.n_frames), info.n_frames]
    paths = []
    with FrameReader(info, conversion="exact", threads=1) as reader:
        for i, (start, stop) in enumerate(pairwise(edges)):
            paths.append(folder / f"{i:03d}.nut")
            encode_segment(reader.read(start, stop), info, options, paths[-1])
    return paths


@pytest.mark.parametrize("name", CLIPS)
def test_every_clip_keeps_times_sound_colour_and_picture(tmp_path: Path, name: str) -> None:
    source = clip(name)
    info = probe(source)
    out = tmp_path / "out.mp4"
    n = info.n_frames
    finalize(_segments(info, tmp_path, [1, n // 3, n - 1]), info, source, out, FAST, {"comment": "edited"})

    made = probe(out)
    assert made.time_base == info.time_base
    # All streams are moved alike, so that the first begins at 0; most begin there already.
    ticks = shift_ticks(info, [s.index for s in info.contents.streams if s.role == "companion"])
    assert made.pts.tolist() == (info.pts - ticks).tolist() == decoded_pts(out)
    assert made.last_duration == info.last_duration
    assert (made.width, made.height, made.rotation_degrees) == (info.width, info.height, 0)
    assert made.color == info.color
    assert made.sample_aspect_ratio == info.sample_aspect_ratio
    assert made.plain

    before, after = payloads(source, "audio"), payloads(out, "audio")
    assert len(before) == len(after) == info.audio_streams
    for old, new in zip(before, after, strict=True):
        assert [digest for digest, _ in old] == [digest for digest, _ in new]
        # mp4 counts audio in samples; sources that count otherwise (90 kHz, milliseconds) come out half a sample off.
        moved = ticks * info.time_base
        assert max(abs(a - moved - b) for (_, a), (_, b) in zip(old, new, strict=True)) <= Fraction(1, 44100)
        if ticks:
            assert min(new[0][1], made.pts[0] * made.time_base) < made.time_base + Fraction(1, 44100)

    with FrameReader(info, conversion="exact") as one, FrameReader(made, conversion="exact") as two:
        for (p, a), (q, b) in zip(one.read(0, min(n, 6)), two.read(0, min(n, 6)), strict=True):
            assert p - ticks == q and psnr(a, b) > 38
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == [], "no temporary file is left"


@pytest.mark.parametrize("name", ["lp_d12_motion_512.mp4", "lp_d18_man_480.mp4", "hamilton_multi_cuts_audio.mp4"])
def test_sound_decodes_to_the_same_samples(tmp_path: Path, name: str) -> None:
    """Also priming (samples to drop at the start) is in the container, and has to survive."""
    info = probe(clip(name))
    finalize(_segments(info, tmp_path, []), info, clip(name), tmp_path / "o.mp4", FAST, {})
    assert np.array_equal(sound_samples(clip(name)), sound_samples(tmp_path / "o.mp4"))


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        ("libx264", ".mov"),
        ("libx264", ".mkv"),
        ("libx265", ".mp4"),
        ("libsvtav1", ".mp4"),
        ("libvpx-vp9", ".mp4"),
        ("ffv1", ".mkv"),
    ],
)
def test_every_codec_joins(tmp_path: Path, codec: str, suffix: str) -> None:
    source = make_video(tmp_path / "a.mp4", moving_frames(30, 128, 96), sound="aac", color=(1, 1, 1, 1))
    info = probe(source)
    options = EncodeOptions(codec=codec, preset="veryfast", gop_frames=9)  # type: ignore[arg-type]
    out = tmp_path / f"out{suffix}"
    finalize(_segments(info, tmp_path, [1, 12, 13, 29], options), info, source, out, options, {})
    made = probe(out)
    assert [p * made.time_base for p in made.pts.tolist()] == [p * info.time_base for p in info.pts.tolist()]
    assert made.color.space == (0 if codec == "ffv1" else 1)
    with FrameReader(info, conversion="exact") as one, FrameReader(made, conversion="exact") as two:
        pairs = list(zip(one.read(0, 30), two.read(0, 30), strict=True))
    if codec == "ffv1":
        assert all(np.array_equal(a, b) for (_, a), (_, b) in pairs)
    else:
        assert min(psnr(a, b) for (_, a), (_, b) in pairs) > 30


def test_the_cuts_of_chunks_do_not_change_times(tmp_path: Path) -> None:
    """Deep reordering in one segment, none in a one-frame segment: one decode order has to fit all."""
    info = probe(clip("vfr_480.mp4"))
    options = EncodeOptions(preset="veryfast", quality=30)
    for cuts in ([], [1, 2, 3], [40], list(range(1, 83, 7))):
        out = tmp_path / "o.mp4"
        finalize(_segments(info, tmp_path, cuts, options), info, info.uri, out, options, {})
        assert decoded_pts(out) == info.pts.tolist()
        with av.open(str(out)) as container:
            packets = [p for p in container.demux(video=0) if p.size]
        assert all(p.dts <= p.pts for p in packets)
        assert all(a.dts < b.dts for a, b in pairwise(packets))


def test_same_input_gives_the_same_file(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", moving_frames(12, 96, 64), sound="aac")
    info = probe(source)
    parts = _segments(info, tmp_path, [5])
    for suffix in (".mp4", ".mkv"):
        for name in ("one", "two"):
            finalize(parts, info, source, tmp_path / (name + suffix), FAST, {"comment": "x"})
        assert (tmp_path / ("one" + suffix)).read_bytes() == (tmp_path / ("two" + suffix)).read_bytes()


def test_offset_between_sound_and_picture_is_kept(tmp_path: Path) -> None:
    step = 512
    pts = [4735 + i * step for i in range(10)]
    source = make_video(tmp_path / "late.mkv", moving_frames(10, 96, 64), pts=pts, sound="aac")
    info = probe(source)
    assert info.pts[0] == 370, "the premise: the picture starts 0.37 s in (Matroska counts milliseconds)"
    finalize(_segments(info, tmp_path, [4]), info, source, tmp_path / "o.mp4", FAST, {})
    made = probe(tmp_path / "o.mp4")
    assert made.pts.tolist() == info.pts.tolist() and made.time_base == info.time_base
    (old,), (new,) = payloads(source, "audio"), payloads(tmp_path / "o.mp4", "audio")
    assert [d for d, _ in old] == [d for d, _ in new]
    assert max(abs(a - b) for (_, a), (_, b) in zip(old, new, strict=True)) <= Fraction(1, 96000)


def test_tags_chapters_languages_and_subtitles_are_kept(tmp_path: Path) -> None:
    plain = make_video(tmp_path / "plain.mp4", moving_frames(25, 96, 64), sound="aac")
    source = tmp_path / "rich.mkv"
    with av.open(str(plain)) as original, av.open(str(source), "w") as out:
        out.metadata.update({"title": "A title", "comment": "said before"})
        video = out.add_stream_from_template(original.streams.video[0])
        sounds = [out.add_stream_from_template(original.streams.audio[0]) for _ in range(2)]
        for stream, language in zip(sounds, ("deu", "fra"), strict=True):
            stream.metadata["language"] = language
        text = out.add_mux_stream("subrip", time_base=Fraction(1, 1000))
        text.metadata["language"] = "eng"
        times = {"id": 1, "start": 0, "end": 400, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}}
        out.set_chapters([times, {**times, "id": 2, "start": 400, "end": 1000, "metadata": {"title": "Two"}}])
        line = av.Packet(b"Hello")
        line.stream, line.pts, line.dts, line.duration, line.time_base = text, 200, 200, 500, Fraction(1, 1000)
        out.mux(line)
        for packet in original.demux():
            if packet.size:
                if packet.stream.type == "audio":
                    again = av.Packet(bytes(packet))
                    again.pts, again.dts, again.duration = packet.pts, packet.dts, packet.duration
                    again.time_base, again.stream = packet.time_base, sounds[1]
                    out.mux(again)
                packet.stream = video if packet.stream.type == "video" else sounds[0]
                out.mux(packet)
    info = probe(source)
    assert (info.audio_streams, info.subtitle_streams) == (2, 1)
    made = tmp_path / "o.mkv"
    finalize(_segments(info, tmp_path, [9]), info, source, made, FAST, {"recipe": "smile=1.5", "model": "m"})
    for kind in ("audio", "subtitle"):
        assert payloads(made, kind) == payloads(source, kind)
    with av.open(str(made)) as container, av.open(str(source)) as original:
        assert container.chapters() == original.chapters() and len(container.chapters()) == 2
        assert [s.metadata.get("language") for s in container.streams][1:] == ["deu", "fra", "eng"]
        tags = {k.lower(): v for k, v in container.metadata.items()}
    assert tags["title"] == "A title"
    assert json.loads(tags["comment"]) == {"recipe": "smile=1.5", "model": "m", "source_comment": "said before"}

    with pytest.raises(MediaError, match=r"subtitle.*\.mkv"):
        finalize(_segments(info, tmp_path, []), info, source, tmp_path / "no.mp4", FAST, {})
    assert not (tmp_path / "no.mp4").exists()


def test_what_a_container_cannot_hold_is_said_with_the_remedy(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", moving_frames(4, 96, 64), sound="aac")
    info = probe(source)
    parts = _segments(info, tmp_path, [])
    with pytest.raises(MediaError, match=r"libx264 video.*\.mkv"):
        finalize(parts, info, source, tmp_path / "o.webm", FAST, {})
    vp9 = EncodeOptions(codec="libvpx-vp9", preset="ultrafast")
    with pytest.raises(MediaError, match=r"stream 1, audio \(aac\) would be dropped.*\.mkv"):
        finalize(_segments(info, tmp_path, [], vp9), info, source, tmp_path / "o.webm", vp9, {})
    with pytest.raises(MediaError, match="no container"):
        finalize(parts, info, source, tmp_path / "o.avi", FAST, {})
    with pytest.raises(MediaError, match="own source"):
        finalize(parts, info, source, source, FAST, {})
    assert not [p for p in tmp_path.iterdir() if p.name.startswith((".", "o."))]


def test_segments_must_be_the_whole_source_in_order(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", moving_frames(12, 96, 64))
    info = probe(source)
    a, b, c = _segments(info, tmp_path, [4, 8])
    out = tmp_path / "o.mp4"
    out.write_bytes(b"an earlier result")
    for wrong in ([a, c], [b, a, c], [a, b, b, c], [a, b], [a, b, c, c], [], [a, tmp_path / "gone.nut", c]):
        with pytest.raises(MediaError):
            finalize(wrong, info, source, out, FAST, {})
    torn = tmp_path / "torn.nut"
    for share in (0.0, 0.2, 0.5, 0.8):
        torn.write_bytes(b.read_bytes()[: int(b.stat().st_size * share)])
        with pytest.raises(MediaError):
            finalize([a, torn, c], info, source, out, FAST, {})
    other = tmp_path / "other.nut"
    with FrameReader(info) as reader:
        encode_segment(reader.read(4, 8), info, EncodeOptions(preset="slow"), other)
    with pytest.raises(MediaError, match="other settings"):
        finalize([a, other, c], info, source, out, FAST, {})
    assert out.read_bytes() == b"an earlier result", "a failure does not touch what was there"
    finalize([a, b, c], info, source, out, FAST, {})
    assert probe(out).n_frames == 12


def test_time_bases_with_a_numerator(tmp_path: Path) -> None:
    """AVI counts frames (1001/30000 s each); mp4 counts the same instants in 1/30000 s."""
    path = make_video(
        tmp_path / "a.avi", moving_frames(6, 96, 64), codec="mjpeg", pix_fmt="yuvj420p", options={}, pts=range(6),
        time_base=Fraction(1, 25), color=(2, 2, 2, 2),
    )  # fmt: skip
    info = probe(path)
    finalize(_segments(info, tmp_path, [2]), info, path, tmp_path / "o.mp4", FAST, {})
    made = probe(tmp_path / "o.mp4")
    assert [p * made.time_base for p in made.pts.tolist()] == [p * info.time_base for p in info.pts.tolist()]
    assert made.color.range == 2


def test_mp4_starts_with_its_index(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", moving_frames(4, 96, 64))
    info = probe(source)
    finalize(_segments(info, tmp_path, []), info, source, tmp_path / "o.mp4", FAST, {})
    data = (tmp_path / "o.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_joining_does_not_hold_the_file_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (480, 640, 3)).astype(np.uint8) for _ in range(4)]
    source = make_video(tmp_path / "a.mp4", noise * 40, options={"preset": "ultrafast", "qp": "12"}, sound="aac")
    info = probe(source)
    options = EncodeOptions(preset="ultrafast", quality=3)
    parts = _segments(info, tmp_path, [40, 80, 120], options)
    size = sum(p.stat().st_size for p in parts)
    assert size > 50 << 20, "the premise: there is much to hold"
    with MemoryGrowth() as memory:
        finalize(parts, info, source, tmp_path / "o.mp4", options, {})
    assert memory.peak_bytes < 25 << 20
