"""Small media made in code, and ways to look at any file without the code under test."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame

from tests import needs
from tests.needs import SHARED

VIDEOS = SHARED / "videos"

# Every clip that is a video; what is broken on purpose has tests of its own.
CLIPS = [
    "carphone_176x144.mp4",
    "face_leaves_returns_480.mp4",
    "hamilton_multi_cuts_audio.mp4",
    "hevc_480.mp4",
    "hostile/av1_320.mp4",
    "hostile/ts_480.ts",
    "lp_d12_motion_512.mp4",
    "lp_d18_man_480.mp4",
    "lp_s18_720p_camera_pan.mp4",
    "noface_car_3s.mp4",
    "odd_321x243_vp9_opus.webm",
    "one_frame.mp4",
    "rot90_meta.mp4",
    "scene_cut_face_noface_face.mp4",
    "two_faces_960x480.mp4",
    "vfr_480.mp4",
]


def clip(name: str) -> Path:
    """The path of a shared clip; without it the test is skipped, or fails where the material is required."""
    return needs.shared(f"videos/{name}")


def moving_frames(n: int, width: int, height: int, seed: int = 0) -> list[np.ndarray]:
    """n frames, uint8 [height, width, 3]: a smooth texture that moves two pixels a frame, with a coloured corner."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 216, (12, 12, 3)).astype(np.uint8)
    big = VideoFrame.from_ndarray(coarse).reformat(width=width + 2 * n, height=height).to_ndarray(format="rgb24")
    frames = [np.ascontiguousarray(big[:, 2 * i : 2 * i + width]) for i in range(n)]
    for frame in frames:  # upright is visible: red, green and blue corners
        frame[:8, :8], frame[:8, -8:], frame[-8:, :8] = (220, 30, 30), (30, 220, 30), (30, 30, 220)
    return frames


def make_video(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 12800),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    color: tuple[int, int, int, int] = (2, 2, 2, 0),
    display: tuple[float, bool, bool] | None = None,
    sound: str | None = None,
    sample_aspect_ratio: Fraction | None = None,
) -> Path:
    """Encode frames with PyAV. `color`: primaries, transfer, matrix, range; `display`: degrees, hflip, vflip."""
    height, width = frames[0].shape[:2]
    step = round(Fraction(1, 25) / time_base)
    pts = pts if pts is not None else [i * step for i in range(len(frames))]
    with av.open(str(path), "w", container_options={"video_track_timescale": str(time_base.denominator)}) as out:
        if path.suffix not in (".mp4", ".mov"):
            out.container_options.clear()
        chosen = options if options is not None else {"preset": "ultrafast", "crf": "20"}
        video = out.add_stream(codec, rate=25, options=chosen, time_base=time_base)
        context = video.codec_context
        context.width, context.height, context.pix_fmt, context.thread_count = width, height, pix_fmt, 1
        context.time_base = time_base
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = color
        if sample_aspect_ratio is not None:
            context.sample_aspect_ratio = sample_aspect_ratio
        if display is not None:
            video.set_display_rotation(display[0], hflip=display[1], vflip=display[2])
        audio = out.add_stream(sound, rate=48000) if sound else None
        matrix = {1: 1, 9: 9}.get(color[2], 5)
        for time, frame in zip(pts, frames, strict=True):
            picture = VideoFrame.from_ndarray(frame).reformat(
                format=pix_fmt, dst_colorspace=matrix, src_color_range=2, dst_color_range=2 if color[3] == 2 else 1
            )
            picture.pts, picture.time_base = time, time_base
            out.mux(context.encode(picture))
        out.mux(context.encode(None))
        if audio is not None:
            seconds = float((pts[-1] + step) * time_base)
            t = np.arange(int(48000 * seconds)) / 48000
            wave = np.stack([np.sin(2 * np.pi * 440 * t), np.sin(2 * np.pi * 660 * t)]).astype(np.float32) * 0.3
            for at in range(0, wave.shape[1] - 1023, 1024):
                piece = AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, at : at + 1024]), "fltp", "stereo")
                piece.sample_rate, piece.pts, piece.time_base = 48000, at, Fraction(1, 48000)
                out.mux(audio.encode(piece))
            out.mux(audio.encode(None))
    return path


def decode_all(path: Path, quarter_turns: int = 0) -> tuple[list[int], list[np.ndarray]]:
    """(pts, frames) by PyAV from front to end with its default conversion: the reference for every other way to read."""
    pts, frames = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            pts.append(frame.pts)
            frames.append(np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns)))
    return pts, frames


def decoded_pts(path: Path) -> list[int]:
    """The pts that decoding the whole file yields, in the order in which it yields them."""
    with av.open(str(path)) as container:
        return [frame.pts for frame in container.decode(video=0)]


def payloads(path: Path, kind: str) -> list[list[tuple[str, Fraction]]]:
    """For each stream of a kind: (md5 of the packet, presentation time in seconds) in file order."""
    with av.open(str(path)) as container:
        wanted = [s.index for s in container.streams if s.type == kind]
    found = []
    for index in wanted:
        with av.open(str(path)) as container:
            packets = [p for p in container.demux(container.streams[index]) if p.size]
            adts = container.format.name == "mpegts"
            # A transport stream frames each AAC packet with a 7 byte header (ADTS), which mp4 does not have.
            found.append([(hashlib.md5(bytes(p)[7 if adts else 0 :]).hexdigest(), p.pts * p.time_base) for p in packets])
    return found


def sound_samples(path: Path) -> np.ndarray:
    """Decoded audio of the first audio stream, float [channels, samples]."""
    with av.open(str(path)) as container:
        return np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal to noise ratio in dB of 8-bit arrays; 99 if equal."""
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return 99.0 if error == 0 else float(10 * np.log10(255.0**2 / error))


class MemoryGrowth:
    """Samples this process's resident memory while its block runs; `peak_bytes` is the most it grew by."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._start = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @staticmethod
    def _resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self.peak_bytes = max(self.peak_bytes, self._resident() - self._start)

    def __enter__(self) -> Self:
        self._start = self._resident()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
