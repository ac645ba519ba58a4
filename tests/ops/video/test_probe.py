from __future__ import annotations

import hashlib
import pickle
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ops.video import MediaError, SourceColor, probe, source_digest
from tests.ops.video.media import CLIPS, clip, decoded_pts, make_video, moving_frames


@pytest.mark.parametrize("name", CLIPS)
def test_timestamps_are_those_that_decoding_yields(name: str) -> None:
    info = probe(clip(name))
    assert info.pts.tolist() == decoded_pts(clip(name))
    assert info.pts.dtype == np.int64 and not info.pts.flags.writeable
    assert np.all(np.diff(info.pts) > 0)
    assert info.last_duration > 0
    assert set(info.keyframe_pts.tolist()) <= set(info.pts.tolist())
    assert info.sha256 == hashlib.sha256(clip(name).read_bytes()).hexdigest() == source_digest(clip(name))


def test_facts_of_the_clips() -> None:
    hamilton = probe(clip("hamilton_multi_cuts_audio.mp4"))
    assert (hamilton.n_frames, int(hamilton.pts[0]), hamilton.time_base) == (275, 10214, Fraction(1, 11988))
    assert hamilton.pts_seconds(0) == pytest.approx(10214 / 11988)
    assert hamilton.color == SourceColor(1, 1, 1, 1)
    assert (hamilton.audio_streams, hamilton.subtitle_streams) == (1, 0)

    turned = probe(clip("rot90_meta.mp4"))
    assert (turned.width, turned.height, turned.rotation_degrees, turned.mirrored) == (480, 512, 90, False)
    assert turned.sample_aspect_ratio == Fraction(16, 15)  # stored as 15/16, and turned with the picture

    assert probe(clip("carphone_176x144.mp4")).sample_aspect_ratio == Fraction(128, 117)
    assert probe(clip("one_frame.mp4")).n_frames == 1
    assert len(set(np.diff(probe(clip("vfr_480.mp4")).pts).tolist())) > 1


def test_info_pickles() -> None:
    info = probe(clip("one_frame.mp4"))
    again = pickle.loads(pickle.dumps(info))
    assert again.pts.tolist() == info.pts.tolist() and again.color == info.color and again.uri == info.uri


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hostile/audio_only.m4a", "no video stream"),
        ("hostile/empty.mp4", "empty"),
        ("hostile/text.mp4", "not a media file"),
        ("hostile/truncated.mp4", "truncated"),
    ],
)
def test_hostile_files_are_refused_with_path_and_reason(name: str, words: str) -> None:
    with pytest.raises(MediaError, match=words) as caught:
        probe(clip(name))
    assert str(clip(name)) in str(caught.value)
    assert "Remedy" in str(caught.value)


def test_missing_path_and_folder(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        probe(tmp_path / "nothing.mp4")
    with pytest.raises(MediaError, match="folder"):
        probe(tmp_path)


def test_media_error_survives_pickling(tmp_path: Path) -> None:
    with pytest.raises(MediaError) as caught:
        probe(tmp_path / "nothing.mp4")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.remedy == caught.value.remedy


@pytest.mark.parametrize(("trc", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused_unless_allowed(tmp_path: Path, trc: int, name: str) -> None:
    path = make_video(tmp_path / "hdr.mp4", moving_frames(3, 64, 64), color=(9, trc, 9, 1))
    with pytest.raises(MediaError, match=f"HDR \\({name}"):
        probe(path)
    assert probe(path, allow_hdr=True).color == SourceColor(9, trc, 9, 1)


@pytest.mark.parametrize("cut", [0.4, 0.8])
def test_a_truncated_file_with_its_index_in_front_is_refused(tmp_path: Path, cut: float) -> None:
    whole = tmp_path / "whole.mp4"
    rng = np.random.default_rng(1)
    noise = [rng.integers(0, 256, (96, 96, 3)).astype(np.uint8) for _ in range(20)]
    frames = make_video(tmp_path / "a.mp4", noise)
    with av.open(str(frames)) as source, av.open(str(whole), "w", container_options={"movflags": "faststart"}) as out:
        copy = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                out.mux(packet)
    assert probe(whole).n_frames == 20
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * cut)])
    with pytest.raises(MediaError, match="truncated"):
        probe(broken)


def test_packets_before_an_edit_lists_start_are_no_frames(tmp_path: Path) -> None:
    """A stream copy cut between key frames keeps packets from the key frame on, and an edit list hides the first ones."""
    source = make_video(tmp_path / "a.mp4", moving_frames(20, 96, 64), options={"preset": "ultrafast", "bf": "0"})
    cut = tmp_path / "cut.mp4"
    with av.open(str(source)) as original, av.open(str(cut), "w") as out:
        copy = out.add_stream_from_template(original.streams.video[0])
        for packet in original.demux(video=0):
            if packet.size:
                packet.pts, packet.dts = packet.pts - 7 * 512, packet.dts - 7 * 512  # time 0 is inside the group
                packet.stream = copy
                out.mux(packet)
    with av.open(str(cut)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    assert len(packets) == 20 and any(p.is_discard for p in packets), "the premise: hidden packets are in the file"
    info = probe(cut)
    assert info.pts.tolist() == decoded_pts(cut)
    assert info.n_frames == 13 and not info.plain


def test_which_streams_are_plain(tmp_path: Path) -> None:
    frames = moving_frames(48, 96, 64)
    closed = {"preset": "veryfast", "x264-params": "keyint=12:scenecut=0"}
    opened = {"preset": "veryfast", "x264-params": "open-gop=1:keyint=12:scenecut=0:bframes=3:b-adapt=0"}
    refresh = {"preset": "veryfast", "x264-params": "intra-refresh=1:keyint=12"}
    assert probe(make_video(tmp_path / "closed.mp4", frames, options=closed)).plain
    assert not probe(make_video(tmp_path / "open.mp4", frames, options=opened)).plain
    for suffix in (".mp4", ".mkv"):
        assert not probe(make_video(tmp_path / f"refresh{suffix}", frames, options=refresh)).plain


def test_a_truncated_matroska_file_is_refused(tmp_path: Path) -> None:
    """Matroska has no index in front: FFmpeg reads what is left without a word."""
    whole = make_video(tmp_path / "whole.mkv", moving_frames(75, 96, 64), sound="aac")
    assert probe(whole).n_frames == 75
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(MediaError, match="header says"):
        probe(broken)
