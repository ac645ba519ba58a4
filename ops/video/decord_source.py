"""Reads ranges of frames by decord with the same results as PyAV, from the files for which that is known."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from ops.video.errors import MediaError
from ops.video.probe import SourceInfo

_BATCH_FRAMES = 16
_BATCH_BYTES = 64 << 20
# decord hands packets to its decoder until a frame comes back and drops none, so behind a slow consumer it holds the whole
# rest of the stream, decoded: 1.5 GB for 2160 frames of 480x480 (docs/decisions/0006).
_READ_AHEAD_BYTES = 128 << 20

# Measured bit-identical to PyAV's default conversion. Not so: odd sizes, interlaced frames, other chroma layouts and bit
# depths. Its seeks give wrong pixels, silently, in streams with open groups of pictures or intra refresh.
_CODECS = frozenset({"h264", "hevc", "vp9", "mpeg4"})
_PIXELS = frozenset({"yuv420p", "yuvj420p"})
_CONTAINERS = ("mp4", "matroska")


def decord_can_read(info: SourceInfo) -> bool:
    """Return whether decord is known to give the same pixels as PyAV and to find every frame; no file is opened."""
    return (
        info.kind == "video"
        and info.plain
        and info.codec in _CODECS
        and info.pix_fmt in _PIXELS
        and any(name in info.container.split(",") for name in _CONTAINERS)
        and info.width % 2 == 0
        and info.height % 2 == 0
        and not info.mirrored
        and info.stream_index == 0
        and not info.color.is_hdr
    )


def decord_is_bounded(info: SourceInfo) -> bool:
    """Return whether all frames of the source, decoded, fit into memory at once: decord may read that far ahead."""
    return info.n_frames * info.width * info.height * 3 <= _READ_AHEAD_BYTES


class DecordSource:
    """Reads ranges of frames of one source by decord, in batches of at most 16 frames and 64 MiB."""

    def __init__(self, info: SourceInfo, threads: int) -> None:
        """Raises `MediaError` if decord is not installed, cannot open the file, or disagrees with `info` on its frames."""
        try:
            import decord
        except (ImportError, OSError) as error:
            raise MediaError(info.uri, f"decord cannot be loaded ({error})", "install decord, or read with PyAV") from error
        decord.logging.set_level(decord.logging.QUIET)
        self._info = info
        try:
            # Its default is to repeat the last good frame in place of a broken one, silently; any such frame is an error here.
            self._reader = decord.VideoReader(info.uri, ctx=decord.cpu(0), num_threads=threads, fault_tol=1e-12)
            shown = self._reader.get_frame_timestamp(range(len(self._reader)))[:, 0].astype(np.float64)
        except Exception as error:  # decord raises its own class from C++ and plain RuntimeError
            raise MediaError(info.uri, f"decord cannot open it: {_first_line(error)}", "read it with PyAV") from error
        self._check_frames(shown)
        self._batch = max(1, min(_BATCH_FRAMES, _BATCH_BYTES // (info.width * info.height * 3)))

    def _check_frames(self, shown: np.ndarray) -> None:
        info = self._info
        if shown.size != info.n_frames:
            raise MediaError(info.uri, f"decord finds {shown.size} frames, there are {info.n_frames}", "read it with PyAV")
        # decord's times are float32 seconds and begin at 0 or at the start offset; only the steps are compared.
        expected = (info.pts - info.pts[0]).astype(np.float64) * float(info.time_base)
        steps = np.diff(expected)
        tolerance = (0.5 * steps.min() if steps.size else 1.0) + 1e-6
        if np.abs((shown - shown[0]) - expected).max() > tolerance:
            raise MediaError(info.uri, "decord's frame times differ from the container's", "read it with PyAV")

    def read(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (pts, frame) of the ordinals [start, stop); frames as `FrameReader.read` gives them."""
        for first in range(start, stop, self._batch):
            ordinals = list(range(first, min(first + self._batch, stop)))
            try:
                batch = self._reader.get_batch(ordinals).asnumpy()
            except Exception as error:
                raise MediaError(
                    self._info.uri,
                    f"decord cannot decode pts {int(self._info.pts[first])} to {int(self._info.pts[ordinals[-1]])}:"
                    f" {_first_line(error)}",
                    "read it with PyAV",
                ) from error
            if batch.shape[1:] != (self._info.height, self._info.width, 3):
                raise MediaError(
                    self._info.uri,
                    f"decord gives frames of {batch.shape[2]}x{batch.shape[1]},"
                    f" expected {self._info.width}x{self._info.height}",
                    "read it with PyAV",
                )
            for i, frame in zip(ordinals, batch, strict=True):
                # A copy, so that keeping one frame does not keep its whole batch.
                yield int(self._info.pts[i]), frame.copy()


def _first_line(error: Exception) -> str:
    with contextlib.suppress(IndexError):
        return str(error).strip().splitlines()[0]
    return type(error).__name__
