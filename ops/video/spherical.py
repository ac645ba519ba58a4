"""Writes 360° projection and stereo layout, which PyAV reads with a video's frames and cannot set on a stream.

In mp4 and mov they are boxes of the sample description (Spherical Video V2 RFC), put into the finished file. In Matroska
FFmpeg's muxer writes them for a stream whose template has them, so such a template is made: a small mp4 in memory.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

_EQUIRECTANGULAR, _CUBEMAP, _TILE = 0, 1, 2  # AVSphericalProjection
_SIDE_BY_SIDE, _TOP_BOTTOM = 1, 2  # AVStereo3DType
_PATH = (b"mdia", b"minf", b"stbl", b"stsd")

Numbers = tuple[int, ...] | None
"""Numbers as in `ops.video.contents.Contents`."""


def can_carry(spherical: Numbers, stereo: Numbers) -> bool:
    """Return whether the boxes can express a projection and a stereo layout."""
    projected = spherical is None or (spherical[0] in (_EQUIRECTANGULAR, _CUBEMAP, _TILE) and len(spherical) >= 9)
    viewed = stereo is None or (stereo[0] in (0, _SIDE_BY_SIDE, _TOP_BOTTOM) and not stereo[1] & 1)
    return projected and viewed


def write_layout(path: Path, track: int, spherical: Numbers, stereo: Numbers) -> None:
    """Put projection and stereo layout into the sample description of a finished mp4 or mov file.

    `track`: index of the track. Sample positions behind the index move with it. Raises `ValueError` if the file has no
    such track, or positions that would not fit their 32 bits any more.
    """
    boxes = _boxes(spherical, stereo)
    with open(path, "rb") as file:
        places = list(_top_boxes(file))
        at, size = next((a, s) for kind, a, s in places if kind == b"moov")
        file.seek(at)
        index = bytearray(file.read(size))
    first_data = min(a for kind, a, _ in places if kind == b"mdat")
    if at < first_data:
        _shift_positions(index, len(boxes))
    changed = _inserted(index, track, boxes)
    temporary = path.with_name(f"{path.name}.layout")
    try:
        with open(path, "rb") as old, open(temporary, "wb") as new:
            _copy(old, new, at)
            new.write(changed)
            old.seek(at + size)
            shutil.copyfileobj(old, new, 1 << 20)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def template_with(stream: VideoStream, packet: Packet, spherical: Numbers, stereo: Numbers) -> InputContainer:
    """Return an open container whose only stream is like `stream`, with projection and stereo layout.

    `packet`: a packet of the stream, which the small file holds.
    """
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as out:
        copy = out.add_stream_from_template(stream, opaque=True)
        sent = Packet(bytes(packet))
        sent.pts, sent.dts, sent.duration, sent.is_keyframe = 0, 0, 1, True
        sent.time_base, sent.stream = packet.time_base, copy
        out.mux_one(sent)
    data = target.getvalue()
    at, size = next((a, s) for kind, a, s in _boxes_in(data, 0, len(data)) if kind == b"moov")
    made = _inserted(bytearray(data[at : at + size]), 0, _boxes(spherical, stereo))
    return av.open(io.BytesIO(data[:at] + made + data[at + size :]), "r")


def _boxes(spherical: Numbers, stereo: Numbers) -> bytes:
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


def _inserted(moov: bytearray, track: int, boxes: bytes) -> bytes:
    """Insert `boxes` at the end of a track's first sample description."""
    traks = [(a, s) for kind, a, s in _boxes_in(moov, 8, len(moov)) if kind == b"trak"]
    if track >= len(traks):
        raise ValueError(f"expected track {track} in a finished file, found {len(traks)}")
    parents = [0]
    at, size = traks[track]
    parents.append(at)
    for kind in _PATH:
        at, size = next((a, s) for found, a, s in _boxes_in(moov, at + 8, at + size) if found == kind)
        parents.append(at)
    entry = at + 16  # behind version, flags and the number of entries
    parents.append(entry)
    end = entry + struct.unpack_from(">I", moov, entry)[0]
    for place in parents:
        struct.pack_into(">I", moov, place, struct.unpack_from(">I", moov, place)[0] + len(boxes))
    return bytes(moov[:end]) + boxes + bytes(moov[end:])


def _shift_positions(moov: bytearray, by: int) -> None:
    """Shift the positions of every track's chunks by `by` bytes (ISO/IEC 14496-12, 8.7.5)."""
    for kind, at, size in _boxes_in(moov, 8, len(moov)):
        if kind != b"trak":
            continue
        for found in _PATH[:-1]:
            at, size = next((a, s) for one, a, s in _boxes_in(moov, at + 8, at + size) if one == found)
        for one, table, _ in _boxes_in(moov, at + 8, at + size):
            if one not in (b"stco", b"co64"):
                continue
            form = ">I" if one == b"stco" else ">Q"
            width = struct.calcsize(form)
            for i in range(struct.unpack_from(">I", moov, table + 12)[0]):
                place = table + 16 + i * width
                moved = struct.unpack_from(form, moov, place)[0] + by
                if moved >= 1 << 8 * width:
                    raise ValueError("expected sample positions below 4 GiB in a table of 32 bits")
                struct.pack_into(form, moov, place, moved)


def _boxes_in(data: bytes | bytearray, at: int, stop: int) -> list[tuple[bytes, int, int]]:
    """Return (kind, first byte, size) of the boxes that lie side by side in [at, stop)."""
    found = []
    while at + 8 <= stop:
        size = struct.unpack_from(">I", data, at)[0]
        if size == 1:
            size = struct.unpack_from(">Q", data, at + 8)[0]
        if size < 8:
            size = stop - at
        found.append((bytes(data[at + 4 : at + 8]), at, size))
        at += size
    return found


def _top_boxes(file: BinaryIO) -> list[tuple[bytes, int, int]]:
    found, at = [], 0
    stop = file.seek(0, os.SEEK_END)
    while at + 8 <= stop:
        file.seek(at)
        head = file.read(16)
        size = struct.unpack(">I", head[:4])[0]
        if size == 1:
            size = struct.unpack(">Q", head[8:])[0]
        if size < 8:
            size = stop - at
        found.append((head[4:8], at, size))
        at += size
    return found


def _copy(old: BinaryIO, new: BinaryIO, count: int) -> None:
    while count:
        piece = old.read(min(count, 1 << 20))
        new.write(piece)
        count -= len(piece)
