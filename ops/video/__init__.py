"""Reads video and image files: facts of a source and its frames; writes the edited file made from them."""

from __future__ import annotations

from ops.video.decode import FrameReader
from ops.video.encode import EncodeOptions, encode_segment
from ops.video.errors import MediaError
from ops.video.image import write_image
from ops.video.mux import finalize
from ops.video.probe import SourceColor, SourceInfo, probe, source_digest

__all__ = [
    "EncodeOptions",
    "FrameReader",
    "MediaError",
    "SourceColor",
    "SourceInfo",
    "encode_segment",
    "finalize",
    "probe",
    "source_digest",
    "write_image",
]
