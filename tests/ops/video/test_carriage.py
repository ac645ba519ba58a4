"""What an output carries of its source: planned before the first frame, and there when the file is finished.

Sources are made by code after what cameras, phones, editing programs and television give; a second reader (OpenCV, or PyAV
without the code under test) looks at what was written.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.filter import Graph
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame

from ops.video import EncodeOptions, FrameReader, MediaError, encode_segment, finalize, probe
from ops.video.carriage import Carriage, carriage_of, container_for, options_for, refusal
from ops.video.contents import FORMATS, side_data_numbers
from ops.video.convert import Picture, without_second_field
from ops.video.encode import Preset
from ops.video.probe import SourceInfo
from tests import needs
from tests.ops.video.media import make_video, moving_frames

FAST = EncodeOptions(codec_is_default=True, preset="ultrafast", quality=12)
FACE = (slice(20, 44), slice(30, 60))  # what the stand-in for an edit changes


def case(name: str) -> Path:
    return needs.shared(f"cases/{name}")


def edited(source: Path, out: Path, options: EncodeOptions = FAST) -> tuple[SourceInfo, Carriage]:
    """What the pipeline does with a video, without a model: a patch of every frame gets lighter."""
    info = probe(source)
    held = carriage_of(info, options, out.suffix)
    half = max(1, info.n_frames // 2)
    segments = []

    def pictures(start: int, stop: int) -> object:
        with FrameReader(info, conversion="exact") as reader:
            for pts, picture in reader.read_pictures(start, stop):
                after = picture.source.copy()
                after[FACE] = np.clip(after[FACE].astype(int) + 24, 0, 255).astype(np.uint8)
                yield pts, Picture(after, picture.source, picture.native)

    for start, stop in ((0, half), (half, info.n_frames)):
        if start < stop:
            segments.append(out.with_name(f"{start}.nut"))
            encode_segment(pictures(start, stop), info, held.encode, segments[-1])  # type: ignore[arg-type]
    finalize(segments, info, source, out, held.encode, {"made_with": "styleres-video"}, held)
    return info, held


def remuxed(source: Path, out: Path, rate: Fraction | int | None = None, **tags: str) -> Path:
    """The same packets with tags on the file; `timecode` on the video."""
    settings = {"movflags": "+use_metadata_tags"} if out.suffix in (".mp4", ".mov") else {}
    with av.open(str(source)) as old, av.open(str(out), "w", container_options=settings) as new:
        copies = {}
        for stream in old.streams:
            copies[stream.index] = new.add_stream_from_template(stream, opaque=True)
            if stream.type == "video":
                copies[stream.index].codec_context.framerate = rate or stream.average_rate
                if "timecode" in tags:
                    copies[stream.index].metadata["timecode"] = tags["timecode"]
        new.metadata.update({k: v for k, v in tags.items() if k != "timecode"})
        for packet in old.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                new.mux_one(packet)
    return out


def planes(frame: VideoFrame) -> list[np.ndarray]:
    kind = np.uint16 if max(c.bits for c in frame.format.components) > 8 else np.uint8
    width = [frame.width, *(frame.format.chroma_width(frame.width) for _ in frame.planes[1:])]
    return [
        np.frombuffer(memoryview(p), kind).reshape(p.height, -1)[:, :w].astype(int)
        for p, w in zip(frame.planes, width, strict=False)
    ]


def frames_of(path: Path, stream: int = 0) -> list[VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(container.streams[stream]))


# ------------------------------------------------------------------------------------------------ rates and time codes


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_second_reader_counts_the_frames_and_finds_the_rate(tmp_path: Path, suffix: str) -> None:
    """Matroska said 1000 frames a second: OpenCV counted 835 frames instead of 24."""
    source = make_video(tmp_path / "a.mp4", moving_frames(24, 96, 64), sound="aac")
    edited(source, tmp_path / f"o{suffix}")
    video = cv2.VideoCapture(str(tmp_path / f"o{suffix}"))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(25) and video.get(cv2.CAP_PROP_FRAME_COUNT) in (24, 25)
    assert sum(video.read()[0] for _ in range(30)) == 24
    with av.open(str(tmp_path / f"o{suffix}")) as container:
        assert container.streams.video[0].average_rate == 25


@pytest.mark.parametrize(("timecode", "rate"), [("10:20:30:05", 25), ("01:00:00;02", Fraction(30000, 1001))])
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_time_code_keeps_its_start_and_its_drop_frame_flag(tmp_path: Path, timecode: str, rate: Fraction, suffix: str) -> None:
    base = Fraction(1, 30000) if rate != 25 else Fraction(1, 12800)
    pts = [round(i / rate / base) for i in range(10)]
    plain = make_video(tmp_path / "plain.mp4", moving_frames(10, 96, 64), pts=pts, time_base=base)
    source = remuxed(plain, tmp_path / f"tc{suffix}", rate, timecode=timecode)
    info, held = edited(source, tmp_path / f"o{suffix}")
    assert held.timecode == timecode == info.contents.timecode and not held.losses
    with av.open(str(tmp_path / f"o{suffix}")) as made:
        assert [s.metadata["timecode"] for s in made.streams if s.type == "data"] == [timecode]


def test_a_time_code_that_the_container_cannot_say_is_left_out_with_a_note(tmp_path: Path) -> None:
    plain = make_video(tmp_path / "plain.mkv", moving_frames(6, 96, 64), options={}, codec="ffv1", time_base=Fraction(1, 1000))
    source = remuxed(plain, tmp_path / "tc.mkv", timecode="not a time code")
    info, held = edited(source, tmp_path / "o.mp4")
    (item,) = [item for item in held.items if item.what.startswith("time code")]
    assert item.fate == "dropped" and not item.loss and held.timecode is None
    assert carriage_of(info, FAST, ".mkv").timecode == "not a time code"


# --------------------------------------------------------------------------------------------------------- the streams


def with_streams(path: Path, *, default: int = 0, sound: tuple[str, ...] = ("aac",), subtitle: str | None = None) -> Path:
    """Two pictures of different sizes, the `default`-th of them marked as what players show; sounds; a subtitle."""
    with av.open(str(path), "w") as out:
        videos = []
        for place, (width, height) in enumerate(((96, 64), (64, 48))):
            stream = out.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.disposition = Disposition.default if place == default else 0
            videos.append((stream, moving_frames(8, width, height, seed=place)))
        sounds = [out.add_stream(codec, rate=48000) for codec in sound]
        for stream in sounds:
            stream.codec_context.bit_rate = 64000
        text = out.add_stream(subtitle) if subtitle else None
        if text is not None:
            text.codec_context.subtitle_header = b""
        for i in range(8):
            for stream, frames in videos:
                frame = VideoFrame.from_ndarray(frames[i])
                frame.pts = i
                out.mux(stream.encode(frame))
        for stream, _ in videos:
            out.mux(stream.encode(None))
        for stream in sounds:
            for at in range(0, 12 * 1024, 1024):
                piece = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
                piece.sample_rate, piece.pts = 48000, at
                out.mux(stream.encode(piece))
            out.mux(stream.encode(None))
        if text is not None:
            packet = Packet(b"Hello")
            packet.pts = packet.dts = 0
            packet.duration, packet.time_base, packet.stream = 200, Fraction(1, 1000), text
            out.mux(packet)
    return path


@pytest.mark.parametrize("default", [0, 1])
def test_the_shown_picture_is_edited_and_the_other_one_copied(tmp_path: Path, default: int) -> None:
    """A second video vanished, and which of them players show was not asked."""
    source = with_streams(tmp_path / "two.mp4", default=default)
    info, held = edited(source, tmp_path / "o.mp4")
    assert (info.width, info.height) == ((96, 64), (64, 48))[default] and not held.losses
    with av.open(str(tmp_path / "o.mp4")) as made, av.open(str(source)) as old:
        assert [s.type for s in made.streams] == [s.type for s in old.streams]
        assert [s.disposition for s in made.streams] == [s.disposition for s in old.streams]
        assert [(s.width, s.height) for s in made.streams.video] == [(96, 64), (64, 48)]
    other = 1 - default
    for before, after in zip(frames_of(source, other), frames_of(tmp_path / "o.mp4", other), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(planes(before), planes(after), strict=True)), "copied, bit for bit"
    changed = planes(frames_of(tmp_path / "o.mp4", default)[3])[0] - planes(frames_of(source, default)[3])[0]
    assert changed[24:40, 34:56].mean() > 10


@pytest.mark.parametrize(
    ("name", "suffix", "what", "remedy"),
    [
        ("apac.mov", ".mov", "stream 2, audio (unknown)", None),
        ("v_webvtt.webm", ".mp4", "stream 2, subtitle (webvtt)", ".mkv"),
        ("v_ass.mkv", ".mp4", "stream 2, subtitle (ass)", ".mkv"),
    ],
)
def test_a_stream_that_nothing_can_hold_is_known_at_once(name: str, suffix: str, what: str, remedy: str | None) -> None:
    """It was found after all work, and the advice for an .mkv file was to write .mkv."""
    info = probe(case(name))
    held = carriage_of(info, FAST, suffix)
    assert [item.what for item in held.losses] == [what]
    said = refusal(info, held, FAST)
    assert what in said and "--drop-unsupported" in said
    assert (f"--container {remedy[1:]}" in said) if remedy else ("--container" not in said)


def test_sound_of_windows_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    """FFmpeg's mp4 and Matroska take no wmav2: what takes it is tried out, and not looked up."""
    source = with_streams(tmp_path / "w.asf", sound=("wmav2",))
    info = probe(source)
    (sound,) = [one for one in info.contents.streams if one.kind == "audio"]
    assert ".mp4" not in sound.suffixes
    held = carriage_of(info, FAST, ".mp4")
    assert sound.index in [int(item.what.split()[1].rstrip(",")) for item in held.losses]
    options = EncodeOptions(preset="ultrafast")
    with FrameReader(info) as reader:
        encode_segment(reader.read(0, info.n_frames), info, options, tmp_path / "s.nut")
    with pytest.raises(MediaError, match=r"wmav2.*would be dropped"):
        finalize([tmp_path / "s.nut"], info, source, tmp_path / "o.mp4", options, {})
    assert not (tmp_path / "o.mp4").exists()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_cover_picture_stays_one(tmp_path: Path, suffix: str) -> None:
    plain = make_video(tmp_path / "plain.mp4", moving_frames(6, 96, 64), sound="aac")
    jpeg = cv2.imencode(".jpg", moving_frames(1, 64, 64)[0])[1].tobytes()
    with av.open(str(plain)) as old, av.open(str(tmp_path / "a.mp4"), "w") as new:
        copies = {s.index: new.add_stream_from_template(s, opaque=True) for s in old.streams}
        cover = new.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 64, 64, "yuvj420p", Disposition.attached_pic
        packet = Packet(jpeg)
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 90000), cover, True
        new.mux(packet)
        for packet in old.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                new.mux_one(packet)
    info, held = edited(tmp_path / "a.mp4", tmp_path / f"o{suffix}")
    assert not held.losses and info.n_frames == 6, "the cover is not what is edited"
    with av.open(str(tmp_path / f"o{suffix}")) as made:
        (found,) = [s for s in made.streams.video if s.disposition & Disposition.attached_pic]
        assert bytes(next(p for p in made.demux(found) if p.size)) == jpeg


def test_a_stated_rate_that_the_frames_do_not_keep_is_not_believed(tmp_path: Path) -> None:
    """Matroska files of earlier versions say 1000 frames a second."""
    source = make_video(tmp_path / "a.mp4", moving_frames(10, 96, 64))
    with av.open(str(source)) as old, av.open(str(tmp_path / "b.mkv"), "w") as new:
        copy = new.add_stream_from_template(old.streams.video[0], opaque=True)
        copy.codec_context.framerate = 1000
        for packet in old.demux():
            if packet.size:
                packet.stream = copy
                new.mux_one(packet)
    edited(tmp_path / "b.mkv", tmp_path / "o.mkv")
    assert cv2.VideoCapture(str(tmp_path / "o.mkv")).get(cv2.CAP_PROP_FPS) == pytest.approx(25, rel=0.02)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(
    "milliseconds",
    [
        [0, 40, 80, 600_120, 600_160],  # somebody has pressed pause
        [0, 40, 120, 160, 280, 320],  # a GIF's delays
        [0, 4, 8],  # a burst whose last frame stays for a whole one
        [0, 5, 15, 35, 75, 155, 315],
        [0, 30_000],
    ],
)
@pytest.mark.parametrize("preset", ["ultrafast", "medium"])
def test_frames_at_any_times_are_written(tmp_path: Path, milliseconds: list[int], suffix: str, preset: Preset) -> None:
    """Means over the frames, the file and decode times are different rates, and the render was lost at its end."""
    frames = moving_frames(len(milliseconds), 96, 64)
    source = make_video(tmp_path / "a.mp4", frames, pts=milliseconds, time_base=Fraction(1, 1000))
    edited(source, tmp_path / f"b{suffix}", replace(FAST, preset=preset))
    assert [round(1000 * frame.time) for frame in frames_of(tmp_path / f"b{suffix}")] == milliseconds


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_single_frame_has_a_rate_that_a_player_can_take(tmp_path: Path, suffix: str) -> None:
    """FFmpeg takes the ticks of a transport stream's clock for the rate: 90,000 frames a second."""
    source = make_video(tmp_path / "a.ts", moving_frames(1, 96, 64), time_base=Fraction(1, 90000))
    info, _ = edited(source, tmp_path / f"b{suffix}")
    assert info.contents.rate == 25 and info.last_duration == 3600
    with av.open(str(tmp_path / f"b{suffix}")) as made:
        assert made.streams.video[0].average_rate == 25


@pytest.mark.parametrize(("form", "codec"), [("h264", "libx264"), ("hevc", "libx265")])
def test_a_raw_stream_without_times_is_refused_by_name(tmp_path: Path, form: str, codec: str) -> None:
    options = {"x265-params": "log-level=none"} if form == "hevc" else {}
    source = make_video(tmp_path / f"a.{form}", moving_frames(3, 96, 64), codec=codec, options=options)
    with pytest.raises(MediaError, match=r"raw stream .* nothing of when .* -framerate 25"):
        probe(source)


def test_a_rate_that_is_assumed_is_said(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mjpeg", moving_frames(3, 96, 64), codec="mjpeg", pix_fmt="yuvj420p", options={})
    (item,) = [item for item in carriage_of(probe(source), FAST, ".mp4").items if item.what == "frame times"]
    assert "25 a second are assumed" in item.how and not item.loss


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_tags_of_any_name_go_through(tmp_path: Path, suffix: str) -> None:
    """Matroska writes a space as `_`, and the tag counted as lost when everything was rendered."""
    tags = {
        "Encoding Params": "vers",
        "title-deu": "Haus",
        "weird=;#": "a=b;",
        "empty": "",
        "long": "x" * 70_000,
        "Ü": "日本語 🎬\n2",
    }
    source = remuxed(make_video(tmp_path / "a.mp4", moving_frames(3, 96, 64)), tmp_path / "b.mp4", **tags)
    edited(source, tmp_path / f"c{suffix}")
    with av.open(str(tmp_path / f"c{suffix}")) as made:
        assert {"vers", "Haus", "a=b;", "x" * 70_000, "日本語 🎬\n2"} <= set(made.metadata.values())


@pytest.mark.parametrize("matrix", [8, 10, 14])
def test_a_matrix_that_swscale_lacks_is_read_and_kept(tmp_path: Path, matrix: int) -> None:
    """FFmpeg 8 refuses YCgCo and its like; the message said that x264 cannot encode the size."""
    source = make_video(tmp_path / "a.mkv", moving_frames(3, 96, 64), pix_fmt="yuv444p", color=(1, 1, matrix, 1))
    edited(source, tmp_path / "b.mkv", replace(FAST, codec="ffv1", codec_is_default=False, quality=None))
    old, new = frames_of(source), frames_of(tmp_path / "b.mkv")
    assert new[0].colorspace == matrix
    for before, after in zip(planes(old[1]), planes(new[1]), strict=True):
        assert np.array_equal(before[:16], after[:16])


def test_a_size_that_changes_is_known_before_anything_is_done(tmp_path: Path) -> None:
    parts = []
    for at, size in enumerate([(96, 64), (128, 96)]):
        pts = [(10 * at + i) * 3600 for i in range(10)]
        part = make_video(tmp_path / f"{at}.ts", moving_frames(10, *size), pts=pts, time_base=Fraction(1, 90000))
        parts.append(part.read_bytes())
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    with pytest.raises(MediaError, match="size changes to 128x96"):
        probe(tmp_path / "a.ts")


def test_what_says_who_packed_the_file_stays_behind(tmp_path: Path) -> None:
    """An mp4 said to be packed as OP1a by the program that made the MXF, with its identifier."""
    frames = moving_frames(3, 96, 64)
    source = make_video(tmp_path / "a.mxf", frames, codec="mpeg2video", time_base=Fraction(1, 25), options={"b": "4M"})
    with av.open(str(source)) as made:
        assert "operational_pattern_ul" in made.metadata
    _, held = edited(source, tmp_path / "b.mp4")
    assert not [item for item in held.items if item.what.startswith("tags")]
    with av.open(str(tmp_path / "b.mp4")) as made:
        assert not {key for key in made.metadata if "uid" in key or "product" in key or "operational" in key}


def test_a_source_of_another_kind_goes_where_nothing_is_lost(tmp_path: Path) -> None:
    info = probe(case("v_webvtt.webm"))
    assert container_for(info, FAST, ".webm") == ".mkv"
    assert container_for(info, FAST, ".webm", ".mp4") == ".mp4", "who asks for mp4 is told what is lost"
    old = {"codec": "mpeg4", "options": {}, "time_base": Fraction(1, 25), "pts": [0, 1, 2]}
    plain = probe(make_video(tmp_path / "a.avi", moving_frames(3, 96, 64), **old))  # type: ignore[arg-type]
    assert container_for(plain, FAST, ".avi") == ".mp4"
    with pytest.raises(ValueError, match="cannot hold libx264"):
        container_for(plain, FAST, ".avi", ".webm")


# ---------------------------------------------------------------------------------------------------------- the pixels

DEEP = [
    ("yuv420p10le", "libx264"), ("yuv422p", "libx264"), ("yuv444p", "libx264"), ("yuv422p10le", "libx264"),
    ("yuv444p10le", "libx265"), ("yuv420p10le", "libx265"), ("yuv422p12le", "libx265"),
]  # fmt: skip


@pytest.mark.parametrize(("pix_fmt", "codec"), DEEP)
def test_depth_and_chroma_stay_and_only_the_edit_changes(tmp_path: Path, pix_fmt: str, codec: str) -> None:
    """10-bit, 4:2:2 and 4:4:4 became 8-bit 4:2:0, and text beside a face lost twenty levels."""
    exact = {"codec": "ffv1", "pix_fmt": pix_fmt, "options": {}, "time_base": Fraction(1, 1000)}
    source = make_video(tmp_path / "a.mkv", moving_frames(4, 96, 64), **exact)  # type: ignore[arg-type]
    options = EncodeOptions(codec=codec, preset="ultrafast", quality=0 if codec == "libx264" else 1)  # type: ignore[arg-type]
    _, held = edited(source, tmp_path / "o.mkv", options)
    assert held.encode.pix_fmt == pix_fmt and not held.losses
    full = (1 << max(c.bits for c in av.VideoFormat(pix_fmt).components)) - 1
    for before, after in zip(frames_of(source), frames_of(tmp_path / "o.mkv"), strict=True):
        assert after.format.name == pix_fmt
        for a, b in zip(planes(before), planes(after), strict=True):
            outside = np.abs(a[:, : a.shape[1] // 4] - b[:, : a.shape[1] // 4])
            assert outside.mean() < 0.006 * full
        assert (planes(after)[0] - planes(before)[0])[24:40, 34:56].mean() > 0.05 * full


def test_native_pixels_outside_the_edit_are_exactly_the_sources(tmp_path: Path) -> None:
    """With a lossless encoder nothing but the change is there: no conversion to RGB and back."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 96, 3)).astype(np.uint8) for _ in range(3)]
    source = make_video(tmp_path / "a.mkv", noise, codec="ffv1", pix_fmt="yuv420p10le", options={}, time_base=Fraction(1, 1000))
    edited(source, tmp_path / "o.mkv", EncodeOptions(codec="ffv1"))
    for before, after in zip(frames_of(source), frames_of(tmp_path / "o.mkv"), strict=True):
        for a, b in zip(planes(before), planes(after), strict=True):
            share = a.shape[0] / 64
            top, stop = int(FACE[0].start * share) - 3, int(FACE[0].stop * share) + 3
            assert np.array_equal(a[:top], b[:top]) and np.array_equal(a[stop:], b[stop:])
            assert not np.array_equal(a[top:stop], b[top:stop])


@pytest.mark.parametrize(("made", "codec", "chosen"), [("argb", "qtrle", "qtrle"), ("yuva444p10le", "prores_ks", "prores_ks")])
def test_transparency_goes_through(tmp_path: Path, made: str, codec: str, chosen: str) -> None:
    source = tmp_path / "a.mov"
    rng = np.random.default_rng(1)
    with av.open(str(source), "w") as out:
        stream = out.add_stream(codec, rate=25, options={"profile": "4444"} if codec == "prores_ks" else {})
        stream.width, stream.height, stream.pix_fmt = 96, 64, made
        for i in range(3):
            rgba = np.dstack([moving_frames(1, 96, 64, seed=i)[0], np.tile(np.arange(0, 192, 2, np.uint8), (64, 1))])
            frame = VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=made)
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    del rng
    info = probe(source)
    assert info.contents.alpha and options_for(info, FAST).codec == chosen
    assert [item.what for item in carriage_of(info, EncodeOptions(), ".mp4").losses] == [f"pixels {info.pix_fmt}"]
    edited(source, tmp_path / "o.mov")
    for before, after in zip(frames_of(source), frames_of(tmp_path / "o.mov"), strict=True):
        a, b = before.to_ndarray(format="rgba")[..., 3].astype(int), after.to_ndarray(format="rgba")[..., 3].astype(int)
        assert np.abs(a - b).max() <= (0 if codec == "qtrle" else 2) and a.min() < 10 and a.max() > 180


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparency_beside_the_pictures_goes_through(tmp_path: Path, codec: str) -> None:
    """VP8 and VP9 keep it in packets of its own, which FFmpeg's own decoders leave out: every sticker was refused."""
    source = tmp_path / "a.webm"
    with av.open(str(source), "w") as out:
        stream = out.add_stream(codec, rate=25, options={"auto-alt-ref": "0", "crf": "4", "b": "4M", "cpu-used": "8"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuva420p"
        stream.metadata["alpha_mode"] = "1"
        for i in range(5):
            rgba = np.dstack([moving_frames(1, 96, 64, seed=i)[0], np.tile(np.arange(0, 192, 2, np.uint8), (64, 1))])
            frame = VideoFrame.from_ndarray(rgba, format="rgba").reformat(format="yuva420p")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    info = probe(source)
    assert info.contents.alpha and not info.contents.coded_alpha and info.n_frames == 5
    suffix = container_for(info, FAST, ".webm")
    _, held = edited(source, tmp_path / f"o{suffix}")
    assert held.encode.codec == "prores_ks" and not held.losses
    ramp = np.tile(np.arange(0, 192, 2), (64, 1))
    found = frames_of(tmp_path / f"o{suffix}")
    assert len(found) == 5
    for frame in found:
        assert np.abs(frame.to_ndarray(format="rgba")[..., 3].astype(int) - ramp).mean() < 4


def test_full_range_stays_right_where_nothing_says_it(tmp_path: Path) -> None:
    """ProRes in QuickTime has no word for full range: readers take it for limited, and colours were 8 levels off."""
    full = moving_frames(3, 96, 64)
    exact = {"codec": "ffv1", "pix_fmt": "yuva420p", "options": {}, "color": (1, 1, 1, 2), "time_base": Fraction(1, 1000)}
    source = make_video(tmp_path / "a.mkv", full, **exact)  # type: ignore[arg-type]
    _, held = edited(source, tmp_path / "o.mov")
    assert held.encode.codec == "prores_ks"
    for before, after in zip(frames_of(source), frames_of(tmp_path / "o.mov"), strict=True):
        a, b = (one.to_ndarray(format="rgb24").astype(int) for one in (before, after))
        assert np.abs((a[:16] - b[:16]).mean(axis=(0, 1))).max() < 1


@pytest.mark.parametrize(
    ("pix_fmt", "chosen"),
    [
        ("yuv420p12le", "libx265"),
        ("gray16le", "ffv1"),
        ("gbrp16le", "ffv1"),
        ("yuv422p10le", "libx264"),
        ("yuv420p", "libx264"),
    ],
)
def test_a_default_codec_gives_way_to_one_that_keeps_the_depth(tmp_path: Path, pix_fmt: str, chosen: str) -> None:
    exact = {"codec": "ffv1", "pix_fmt": pix_fmt, "options": {}, "time_base": Fraction(1, 1000)}
    info = probe(make_video(tmp_path / "a.mkv", moving_frames(2, 96, 64), **exact))  # type: ignore[arg-type]
    held = carriage_of(info, FAST, ".mkv")
    assert held.encode.codec == chosen and held.encode.pix_fmt == pix_fmt and not held.losses
    if chosen != "libx264":
        named = carriage_of(info, EncodeOptions(codec="libx264"), ".mkv")
        assert [item.how.split(" does not keep its ")[1] for item in named.losses] == ["depth"]


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_hdr_mastering_metadata_stays(tmp_path: Path, codec: str) -> None:
    said = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"
    options = {"x265-params": f"log-level=none:{said}", "preset": "ultrafast"}
    source = make_video(tmp_path / "a.mp4", moving_frames(3, 96, 64), codec="libx265", pix_fmt="yuv420p10le", options=options)
    _, held = edited(source, tmp_path / "o.mp4", EncodeOptions(codec=codec, preset="ultrafast"))  # type: ignore[arg-type]
    assert "HDR mastering metadata: kept" in map(str, held.items)
    (before, *_), (after, *_) = frames_of(source), frames_of(tmp_path / "o.mp4")
    assert (
        side_data_numbers(before, "CONTENT_LIGHT_LEVEL", 2) == side_data_numbers(after, "CONTENT_LIGHT_LEVEL", 2) == (1000, 400)
    )
    had, got = (side_data_numbers(one, "MASTERING_DISPLAY_METADATA", 22) for one in (before, after))
    assert had is not None and got is not None
    values = [[Fraction(n[i], n[i + 1]) for i in range(0, 20, 2)] for n in (had, got)]
    assert values[0] == values[1] and values[0][0] == Fraction(34000, 50000) and values[0][9] == 1000
    dropped = carriage_of(probe(source), EncodeOptions(codec="libsvtav1"), ".mp4")
    assert any(item.what == "HDR mastering metadata" and item.fate == "dropped" for item in dropped.items)


def test_another_reader_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_video(tmp_path / "a.mp4", moving_frames(6, 96, 64))
    real = cv2.VideoCapture

    class Other:
        def __init__(self, *arguments: object) -> None:
            self._video = real(*arguments)  # type: ignore[call-overload]

        def __getattr__(self, name: str) -> object:
            return getattr(self._video, name)

        def get(self, prop: int) -> float:
            return 7.0 if prop == cv2.CAP_PROP_FRAME_COUNT else float(self._video.get(prop))

    monkeypatch.setattr("ops.video.mux.cv2.VideoCapture", Other)
    with pytest.raises(MediaError, match=r"another reader .OpenCV. finds 7 frames instead of 6"):
        edited(source, tmp_path / "o.mp4")
    assert not (tmp_path / "o.mp4").exists()


def interlaced(path: Path, *, top_first: bool) -> Path:
    options = {"preset": "ultrafast", "crf": "10", "x264-params": "tff=1" if top_first else "bff=1"}
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.flags |= 1 << 18 | 1 << 29
        graph = Graph()
        source = graph.add_buffer(width=96, height=64, format=av.VideoFormat("yuv420p"), time_base=Fraction(1, 25))
        field, sink = graph.add("setfield", "mode=tff" if top_first else "mode=bff"), graph.add("buffersink")
        source.link_to(field)
        field.link_to(sink)
        graph.configure()
        moments = moving_frames(40, 96, 64)
        for i in range(8):
            rgb = moments[4 * i].copy()
            rgb[1::2] = moments[4 * i + 8][1::2]  # the other field is of another moment
            frame = VideoFrame.from_ndarray(rgb).reformat(format="yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            graph.push(frame)
            out.mux(stream.encode(graph.pull()))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("top_first", [True, False])
def test_two_fields_a_frame_stay_two_fields(tmp_path: Path, top_first: bool) -> None:
    source = interlaced(tmp_path / "i.mp4", top_first=top_first)
    info, held = edited(source, tmp_path / "o.mp4")
    assert info.contents.interlaced and not held.losses
    word = "fields, top" if top_first else "fields, bottom"
    assert any(item.what.startswith(word) and item.fate == "kept" for item in held.items)
    assert all(frame.interlaced_frame for frame in frames_of(tmp_path / "o.mp4"))
    orders = []
    for path in (source, tmp_path / "o.mp4"):
        with av.open(str(path)) as container:
            orders.append(container.streams.video[0].codec_context.field_order)
    assert orders[0] == orders[1] and orders[0] > 1
    lost = carriage_of(info, EncodeOptions(codec="libx265"), ".mp4").losses
    assert [item.fate for item in lost] == ["dropped"] and "libx264" in lost[0].how


# ------------------------------------------------------------------------------------------------ side data and tags


@pytest.mark.parametrize("top_first", [True, False])
def test_fields_become_frames_where_that_is_asked_for(tmp_path: Path, top_first: bool) -> None:
    source = interlaced(tmp_path / "a.mp4", top_first=top_first)
    options = replace(FAST, deinterlace=True, codec="libx265", codec_is_default=False)
    _, held = edited(source, tmp_path / "o.mp4", options)
    assert not held.losses and any(str(item).startswith("fields") and item.fate == "converted" for item in held.items)
    kept = slice(0 if top_first else 1, None, 2)
    for before, after in zip(frames_of(source), frames_of(tmp_path / "o.mp4"), strict=True):
        a, b = planes(before)[0], planes(after)[0]
        assert not after.interlaced_frame
        assert np.abs(a - b)[kept][:8].mean() < 6, "the first field stays"
        combed, smooth = (np.abs(p[1:-1] - (p[:-2] + p[2:]) / 2).mean() for p in (a, b))
        assert smooth < 0.5 * combed, "and the other one's lines fit between its lines"


def test_lines_are_drawn_along_edges() -> None:
    """A slanted edge stays an edge: of three directions the one that differs least."""
    y, x = np.mgrid[:8, :16]
    slanted = np.where(x > y + 4, 200, 20).astype(np.uint8)
    woven = slanted.copy()
    woven[1::2] = 0
    made = without_second_field(woven, True)
    assert np.array_equal(made[::2], slanted[::2]) and np.array_equal(made[1:-1], slanted[1:-1])


@pytest.mark.parametrize("display", [(90, False, False), (180, False, False), (270, True, False)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_rotation_stays_side_data(tmp_path: Path, display: tuple[float, bool, bool], suffix: str) -> None:
    source = make_video(tmp_path / "a.mp4", moving_frames(4, 96, 64), display=display)
    info, _ = edited(source, tmp_path / f"o{suffix}")
    before, after = frames_of(source)[0], frames_of(tmp_path / f"o{suffix}")[0]
    assert side_data_numbers(after, "DISPLAYMATRIX", 9) == side_data_numbers(before, "DISPLAYMATRIX", 9)
    made = probe(tmp_path / f"o{suffix}")
    assert (made.width, made.height, made.rotation_degrees, made.mirrored) == (
        info.width, info.height, info.rotation_degrees, info.mirrored,
    )  # fmt: skip
    with FrameReader(info, conversion="exact") as one, FrameReader(made, conversion="exact") as two:
        (_, a), (_, b) = next(iter(one.read(0, 1))), next(iter(two.read(0, 1)))
    assert (b[FACE].astype(int) - a[FACE]).mean() > 10, "the change is where the upright picture has it"


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_360_degrees_and_stereo_stay(tmp_path: Path, suffix: str) -> None:
    from ops.video.spherical import write_layout

    source = make_video(tmp_path / "a.mp4", moving_frames(4, 96, 64), sound="aac")
    write_layout(source, 0, (0, 10 << 16, 20 << 16, 0, 0, 0, 0, 0, 0), (2, 0))
    info, held = edited(source, tmp_path / f"o{suffix}")
    assert info.contents.spherical == (0, 10 << 16, 20 << 16, 0, 0, 0, 0, 0, 0)
    made = frames_of(tmp_path / f"o{suffix}")
    assert len(made) == 4 and side_data_numbers(made[0], "SPHERICAL") == info.contents.spherical
    assert side_data_numbers(made[0], "STEREO3D", 2) == (2, 0)
    assert "360° projection: kept" in [str(item) for item in held.items]


@pytest.mark.parametrize("suffix", [".mov", ".mp4", ".mkv"])
def test_what_a_phone_says_stays(tmp_path: Path, suffix: str) -> None:
    tags = {
        "com.apple.quicktime.make": "Apple",
        "com.apple.quicktime.location.ISO6709": "+48.8577+002.2950+035/",
        "com.apple.quicktime.creationdate": "2023-05-06T09:08:09+0200",
        "title": "A walk",
    }
    source = remuxed(make_video(tmp_path / "a.mp4", moving_frames(4, 96, 64)), tmp_path / "b.mov", **tags)
    edited(source, tmp_path / f"o{suffix}")
    with av.open(str(tmp_path / f"o{suffix}")) as made:
        found = {k.lower(): v for k, v in made.metadata.items()}
    assert {k.lower(): v for k, v in tags.items()}.items() <= found.items()
    assert "styleres-video" in found["comment"]


# ----------------------------------------------------------------------------------------------------------- the clock


def transport(path: Path, first_seconds: float) -> Path:
    """A recording whose clock begins anywhere, with sound that begins 0.1 s before the picture."""
    begin = round(first_seconds * 90000)
    plain = make_video(path.with_suffix(".mp4"), moving_frames(25, 96, 64), sound="aac", time_base=Fraction(1, 90000))
    settings = {"mpegts_copyts": "1"}
    with av.open(str(plain)) as old, av.open(str(path), "w", format="mpegts", container_options=settings) as new:
        copies = {s.index: new.add_stream_from_template(s, opaque=True) for s in old.streams}
        for packet in sorted((p for p in old.demux() if p.size), key=lambda p: p.dts * p.time_base):
            kind = packet.stream.type
            copy = copies[packet.stream.index]
            ahead = 9000 if kind == "audio" else 0
            pts = round(packet.pts * packet.time_base * 90000) + begin - ahead
            dts = round(packet.dts * packet.time_base * 90000) + begin - ahead
            packet.time_base, packet.pts, packet.dts, packet.stream = Fraction(1, 90000), pts, dts, copy
            new.mux_one(packet)
    return path


@pytest.mark.parametrize("first", [38123.0, 95443.2], ids=["anywhere", "over the 33 bits"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_an_output_begins_at_0_with_all_streams_moved_alike(tmp_path: Path, first: float, suffix: str) -> None:
    """The clock of a recording at 38,123 s made a file of ten and a half hours; 2^33 / 90000 s is 95,443.7 s."""
    source = transport(tmp_path / "a.ts", first)
    info, held = edited(source, tmp_path / f"o{suffix}")
    made = probe(tmp_path / f"o{suffix}")
    steps = [float(np.diff(one.pts)[0] * one.time_base) for one in (info, made)]
    assert steps[0] == pytest.approx(steps[1], abs=1e-3) and made.n_frames == info.n_frames == 25
    assert np.all(np.diff(info.pts) > 0)
    with av.open(str(tmp_path / f"o{suffix}")) as container:
        begins = {}
        for packet in container.demux():
            if packet.size:
                begins.setdefault(packet.stream.type, packet.pts * packet.time_base)
        assert container.duration / av.time_base < 3
    assert float(begins["video"] - begins["audio"]) == pytest.approx(0.1, abs=0.03)
    assert abs(float(min(begins.values()))) < 0.03
    assert any(item.what.startswith("clock that begins at") for item in held.items)


def test_the_plan_is_what_the_file_holds_or_there_is_no_file(tmp_path: Path) -> None:
    """finalize reads back what the plan says is kept; here the plan says too much."""
    source = make_video(tmp_path / "a.mp4", moving_frames(4, 96, 64), sound="aac")
    info = probe(source)
    held = replace(carriage_of(info, FAST, ".mp4"), timecode="10:00:00:00")
    with FrameReader(info, conversion="exact") as reader:
        encode_segment(reader.read_pictures(0, 4), info, held.encode, tmp_path / "s.nut")
    finalize([tmp_path / "s.nut"], info, source, tmp_path / "good.mp4", held.encode, {}, held)
    promised = replace(info, contents=replace(info.contents, chapters=2))
    with pytest.raises(MediaError, match="does not hold what was planned: the chapters"):
        finalize([tmp_path / "s.nut"], promised, source, tmp_path / "o.mp4", held.encode, {}, held)
    assert not (tmp_path / "o.mp4").exists()
    assert set(FORMATS) == {".mp4", ".mov", ".mkv", ".webm"}
