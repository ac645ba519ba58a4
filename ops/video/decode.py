"""Reads frames of a source by ordinal: exactly, forwards, in bounded memory.

Two backends stand behind one class. decord applies rotation itself, but fails on some formats and reads ahead without
bound; PyAV reads everything FFmpeg does. Both give the same bits where both are allowed (docs/decisions/0006).
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Literal, Self, get_args

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ops.video.convert import Conversion, Picture, RgbReader
from ops.video.decord_source import DecordSource, decord_can_read, decord_is_bounded
from ops.video.errors import MediaError
from ops.video.image import load_image
from ops.video.probe import SourceInfo, changed_size, decoder_of, open_media, video_stream

Backend = Literal["auto", "decord", "pyav"]


class FrameReader:
    """Reads ranges of frames of one source. A context manager; not for use by several threads at once.

    Reading is forwards; a range that starts earlier, or behind a later key frame, seeks. A seek never changes a pixel: if
    it does not lead to exactly the expected timestamps, the reader decodes from the front instead.
    """

    def __init__(
        self, info: SourceInfo, backend: Backend = "auto", *, conversion: Conversion = "fast", threads: int = 0
    ) -> None:
        """
        `info`: from `probe`.
        `backend`: "auto" takes decord if it is known to give the same bits as PyAV and the source is short, else PyAV.
        `conversion`: "fast", or "exact" for pixels that will be encoded again (see `ops.video.convert`); "exact" needs PyAV.
        `threads`: threads of the decoder; 0 lets it choose. Does not change the pixels.

        Raises `ValueError` for unknown options, `MediaError` if the chosen backend cannot open the source.
        """
        if backend not in get_args(Backend):
            raise ValueError(f"backend: expected one of {get_args(Backend)}, got {backend!r}")
        if conversion not in get_args(Conversion):
            raise ValueError(f"conversion: expected one of {get_args(Conversion)}, got {conversion!r}")
        if backend == "decord" and conversion == "exact":
            raise ValueError('conversion "exact" needs PyAV, and decord was asked for: take backend "auto" or "pyav"')
        self._info = info
        self._conversion = conversion
        self._threads = threads
        self._decord: DecordSource | None = None
        self._pyav: _PyavSource | None = None
        self._may_fall_back = backend == "auto"
        self._closed = False
        if info.kind == "video" and backend != "pyav" and conversion == "fast":
            if backend == "decord":
                self._decord = DecordSource(info, threads)
            elif decord_can_read(info) and decord_is_bounded(info):
                try:
                    self._decord = DecordSource(info, threads)
                except MediaError:
                    self._decord = None  # PyAV reads it, or raises the reason

    @property
    def info(self) -> SourceInfo:
        """The source that is read."""
        return self._info

    @property
    def backend(self) -> Literal["decord", "pyav", "image"]:
        """The backend that reads at present; "auto" falls back from decord to PyAV when decord fails in the middle."""
        if self._info.kind == "image":
            return "image"
        return "decord" if self._decord is not None else "pyav"

    def read(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (pts, frame) for the frame ordinals [start, stop), in order.

        `frame`: uint8 [height, width, 3] RGB, upright, C-contiguous, writable and the caller's own.
        Raises `IndexError` for ordinals outside the source and `MediaError`, naming file and pts, at the first frame that
        cannot be decoded; reading may go on behind it with a new call.
        """
        if not 0 <= start <= stop <= self._info.n_frames:
            raise IndexError(
                f"{self._info.uri}: expected 0 <= start <= stop <= {self._info.n_frames} frames, got [{start}, {stop})"
            )
        if self._closed:
            raise ValueError(f"{self._info.uri}: the reader is closed; open a new one")
        return self._read(start, stop)

    def read_pictures(self, start: int, stop: int) -> Iterator[tuple[int, Picture]]:
        """Yield (pts, picture) as `read` does, each with the frame that the decoder gave; videos and "exact" only.

        `edited` and `source` of a picture are one array, so that nothing has been edited yet.
        """
        if self._info.kind != "video" or self._conversion != "exact":
            raise ValueError(f'{self._info.uri}: pictures need a video and the conversion "exact"')
        if not 0 <= start <= stop <= self._info.n_frames:
            raise IndexError(
                f"{self._info.uri}: expected 0 <= start <= stop <= {self._info.n_frames} frames, got [{start}, {stop})"
            )
        return self._read_pictures(start, stop)

    def _read_pictures(self, start: int, stop: int) -> Iterator[tuple[int, Picture]]:
        if self._pyav is None:
            self._pyav = _PyavSource(self._info, self._conversion, self._threads)
        for i in range(start, stop):
            rgb, native = self._pyav.both(i)
            yield int(self._info.pts[i]), Picture(rgb, rgb, native)

    def _read(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        if self._info.kind == "image":
            for i in range(start, stop):
                yield int(self._info.pts[i]), self._image()
            return
        if self._decord is not None:
            try:
                for pts, frame in self._decord.read(start, stop):
                    yield pts, frame
                    start += 1
                return
            except MediaError:
                if not self._may_fall_back:
                    raise
                # PyAV goes on where decord stopped, and names the broken frame if there is one.
                self._decord = None
        if self._pyav is None:
            self._pyav = _PyavSource(self._info, self._conversion, self._threads)
        for i in range(start, stop):
            yield int(self._info.pts[i]), self._pyav.frame(i)

    def _image(self) -> np.ndarray:
        frame = load_image(self._info.uri).frame
        if frame.shape != (self._info.height, self._info.width, 3):
            raise MediaError(self._info.uri, "the image changed since it was probed", "probe it again")
        return frame

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._closed = True
        self._decord = None
        if self._pyav is not None:
            self._pyav.close()
            self._pyav = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _PyavSource:
    """One forward decoder that can be put back to a key frame."""

    def __init__(self, info: SourceInfo, conversion: Conversion, threads: int) -> None:
        self._info = info
        self._threads = threads
        self._reader = RgbReader(conversion)
        self._container: InputContainer | None = None
        self._frames: Iterator[VideoFrame] = iter(())
        self._ahead: VideoFrame | None = None  # decoded, and later than the frame that was asked for
        self._next = 0  # ordinal that the decoder reaches next
        self._sought = False
        self._may_seek = True
        self._why = ""

    def frame(self, i: int) -> np.ndarray:
        """Return frame ordinal `i`, uint8 [height, width, 3], upright."""
        return self.both(i)[0]

    def both(self, i: int) -> tuple[np.ndarray, VideoFrame]:
        """Return frame ordinal `i`, uint8 [height, width, 3] upright, and as it was decoded."""
        target = int(self._info.pts[i])
        if self._container is None or i < self._next or self._key_between(i):
            self._start_before(i)
        frame = self._forward_to(target)
        if frame is None and self._sought:
            # The seek led somewhere else than the index says; never again in this file.
            self._may_seek = False
            self._start_before(i)
            frame = self._forward_to(target)
        self._next = i + 1
        if frame is None:
            raise MediaError(
                self._info.uri,
                f"the frame at pts {target} ({self._info.pts_seconds(i):.3f} s, ordinal {i}) cannot be decoded{self._why}",
                "the stream is damaged there; repair or cut the file, or let the item fail",
            )
        return self._upright(frame, target), frame

    def _upright(self, frame: VideoFrame, target: int) -> np.ndarray:
        rgb = self._info.orientation.upright(self._reader.rgb(frame))
        if rgb.shape != (self._info.height, self._info.width, 3):
            upright = self._info.width, self._info.height
            raise changed_size(self._info.uri, (rgb.shape[1], rgb.shape[0]), upright, target)
        return rgb

    def _key_ordinal(self, i: int) -> int:
        """Return the ordinal of the last key frame at or before frame `i`; 0 if there is none to seek to."""
        if not self._may_seek or self._info.keyframe_pts.size == 0:
            return 0
        k = int(np.searchsorted(self._info.keyframe_pts, self._info.pts[i], side="right")) - 1
        return 0 if k < 0 else int(np.searchsorted(self._info.pts, self._info.keyframe_pts[k]))

    def _key_between(self, i: int) -> bool:
        return self._key_ordinal(i) > self._next

    def _start_before(self, i: int) -> None:
        self.close()
        self._container = open_media(self._info.uri)
        stream = video_stream(self._container, self._info.stream_index)
        for other in self._container.streams:
            if other.index != stream.index:
                other.discard = av.stream.Discard.all
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = self._threads
        self._next = self._key_ordinal(i)
        self._sought = self._next > 0
        self._ahead, self._why = None, ""
        if self._sought:
            try:
                self._container.seek(int(self._info.pts[self._next]), stream=stream, backward=True, any_frame=False)
            except av.FFmpegError:
                self._may_seek = False
                self._start_before(i)
                return
        self._frames = self._decoded(self._container, stream, self._sought)

    def _decoded(self, container: InputContainer, stream: VideoStream, sought: bool) -> Iterator[VideoFrame]:
        first_key: int | None = None
        decode = decoder_of(stream, self._threads)
        try:
            for packet in container.demux(stream):
                if sought and first_key is None and packet.size:
                    if not packet.is_keyframe or packet.pts is None:
                        continue
                    first_key = packet.pts
                try:
                    frames = decode(packet)
                except av.error.InvalidDataError as error:
                    self._why = f" ({error.strerror})"
                    continue
                for frame in frames:
                    # Frames shown before the key frame may refer to frames before it, which were not decoded.
                    if frame.pts is not None and (first_key is None or frame.pts >= first_key):
                        yield frame
        except av.FFmpegError as error:
            self._why = f" ({error.strerror})"

    def _forward_to(self, target: int) -> VideoFrame | None:
        """Return the frame with exactly this pts, or None if decoding passes it by."""
        while True:
            frame = self._ahead if self._ahead is not None else next(self._frames, None)
            self._ahead = None
            if frame is None or frame.pts == target:
                return frame
            if frame.pts is not None and frame.pts > target:
                self._ahead = frame
                return None

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None
