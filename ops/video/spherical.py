"""360° and stereo layout of a video, which PyAV reads with the frames and cannot set on a stream.

A muxer takes both from the stream that it is given as a template, so a template that has them is made: a small mp4 in memory
with the boxes of Google's Spherical Video V2 specification in its sample description, opened again.
"""

from __future__ import annotations

import io
import struct

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

_EQUIRECTANGULAR, _CUBEMAP, _TILE = 0, 1, 2  # AVSphericalProjection
_SIDE_BY_SIDE, _TOP_BOTTOM = 1, 2  # AVStereo3DType
_CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def can_carry(spherical: tuple[int, ...] | None, stereo: tuple[int, ...] | None) -> bool:
    """Whether the boxes have words for a projection and a stereo layout."""
    flat = spherical is None or (spherical[0] in (_EQUIRECTANGULAR, _CUBEMAP, _TILE) and len(spherical) >= 9)
    mono = stereo is None or (stereo[0] in (0, _SIDE_BY_SIDE, _TOP_BOTTOM) and not stereo[1])
    return flat and mono


def template_with(
    stream: VideoStream, packet: Packet, spherical: tuple[int, ...] | None, stereo: tuple[int, ...] | None
) -> InputContainer:
    """An open container whose only stream is like `stream`, with projection and stereo layout.

    `packet`: one of the stream's, which the small file holds. `spherical`, `stereo`: as in `ops.video.contents.Contents`.
    """
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as out:
        copy = out.add_stream_from_template(stream, opaque=True)
        sent = Packet(bytes(packet))
        sent.pts, sent.dts, sent.duration, sent.is_keyframe = 0, 0, 1, True
        sent.time_base, sent.stream = stream.time_base, copy
        out.mux_one(sent)
    data = target.getvalue()
    return av.open(io.BytesIO(_inserted(data, _boxes(spherical, stereo))))


def _boxes(spherical: tuple[int, ...] | None, stereo: tuple[int, ...] | None) -> bytes:
    made = b""
    if stereo is not None and stereo[0]:
        made += _box(b"st3d", struct.pack(">IB", 0, 2 if stereo[0] == _SIDE_BY_SIDE else 1))
    if spherical is not None:
        projection, yaw, pitch, roll = spherical[:4]
        left, top, right, bottom, padding = (n & 0xFFFFFFFF for n in spherical[4:9])
        if projection == _CUBEMAP:
            shape = _box(b"cbmp", struct.pack(">III", 0, 0, padding))
        else:
            shape = _box(b"equi", struct.pack(">IIIII", 0, top, bottom, left, right))
        head = _box(b"prhd", struct.pack(">Iiii", 0, yaw, pitch, roll))
        made += _box(b"sv3d", _box(b"svhd", struct.pack(">I", 0) + b"\0") + _box(b"proj", head + shape))
    return made


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def _inserted(data: bytes, boxes: bytes) -> bytes:
    """`boxes` at the end of the first sample description; what lies before moov, the frames, keeps its place."""
    out, at, stop = bytearray(data), 0, len(data)
    for kind in _CONTAINERS:
        at, stop = _found(data, kind, at, stop)
        _grow(out, at - 8, len(boxes))
    at, stop = _found(data, b"stsd", at, stop)
    _grow(out, at - 8, len(boxes))
    entry = at + 8  # version, flags and number of entries
    _grow(out, entry, len(boxes))
    end = entry + struct.unpack_from(">I", data, entry)[0]
    return bytes(out[:end]) + boxes + bytes(out[end:])


def _found(data: bytes, kind: bytes, at: int, stop: int) -> tuple[int, int]:
    """[first, last) byte of the body of the first box of a kind."""
    while at + 8 <= stop:
        size = struct.unpack_from(">I", data, at)[0]
        if data[at + 4 : at + 8] == kind:
            return at + 8, at + size
        at += size if size >= 8 else stop
    raise ValueError(f"expected a box {kind!r} in a file that was just written")


def _grow(out: bytearray, at: int, by: int) -> None:
    struct.pack_into(">I", out, at, struct.unpack_from(">I", out, at)[0] + by)
