"""Where the results of a source go: a rule, so that a million inputs need no list."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import final

from ops.video.carriage import Carriage, carriage_of, container_for
from ops.video.encode import EncodeOptions
from ops.video.image import IMAGE_SUFFIXES
from pipeline.engine.stage import Source

MEDIA_SUFFIXES = frozenset(
    {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".mxf"}
    | {".vob", ".ogv", ".asf", ".divx", ".dv", ".f4v", ".3g2", ".m2v", ".qt", ".gif"}
    | IMAGE_SUFFIXES
)
SUFFIXED = (".edited.side_by_side.webm", ".edited.jpeg.contact_sheet.png")
"""The longest of what a name may get at its end."""


@dataclass(frozen=True)
class Output:
    """Where the results of one source go: paths or URLs."""

    video: str
    """The edited file: a video, or an image for an image."""
    contact_sheet: str | None
    side_by_side: str | None


@final
@dataclass(frozen=True)
class Outputs:
    """`folder`: of everything. `file`: the edited file itself, where there is one input. `encode`: how videos are encoded,
    which decides what containers there are to choose from. `container`: the suffix of every video; None for each source's own.

    `sheet`: the contact sheet's own path; with `sheets`, it is beside the edited file if not given.
    """

    folder: str
    file: str | None = None
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    container: str | None = None
    sheets: bool = False
    sheet: str | None = None
    side_by_side: bool = False
    sets: bool = False
    """Nobody has compared the names, so `a.avi` becomes `a.avi.edited.mp4`: there may be an `a.mp4`."""

    def of(self, source: Source) -> Output:
        """NAME.edited.SUFFIX below the folder, under the name that the source's list gave it."""
        where = self.file
        if where is None:
            where = f"{self.folder}/{edited_name(source, self.suffix_of(source), whole=self.sets)}"
        stem, suffix = where.rsplit(".", 1)
        sheet = self.sheet or f"{where if self.sets else stem}.contact_sheet.png"
        beside = f"{stem}.side_by_side.{suffix}" if self.side_by_side and source.info.kind == "video" else None
        return Output(where, sheet if self.sheets else None, beside)

    def carriage(self, source: Source) -> Carriage:
        """Return what the edited file will carry of its source."""
        suffix = PurePosixPath(self.file).suffix if self.file is not None else self.suffix_of(source)
        return carriage_of(source.info, self.encode, suffix.lower())

    def suffix_of(self, source: Source) -> str:
        """An image keeps its format, a video its container where that holds the codec; else `a.avi` becomes `a.edited.mp4`.

        Raises `ValueError` where the container asked for does not hold the codec.
        """
        own = PurePosixPath(source.output_name).suffix
        if source.info.kind == "image":
            return own if own.lower() in IMAGE_SUFFIXES else ".png"
        suffix = container_for(source.info, self.encode, own.lower(), self.container)
        return own if own.lower() == suffix else suffix


def edited_name(source: Source, suffix: str, *, whole: bool = False) -> str:
    """NAME.edited.SUFFIX, never longer than file systems allow.

    With `whole`, different names stay different: one whose suffix changes keeps its old one (`a.avi.edited.mp4`), and so
    does one that would then be the same (`a.avi.mp4`).
    """
    path = PurePosixPath(source.output_name)
    keeps = whole and (path.suffix != suffix or PurePosixPath(path.stem).suffix.lower() in MEDIA_SUFFIXES)
    return str(path.with_name(f"{shortened(path.name if keeps else path.stem)}.edited{suffix}"))


def shortened(stem: str) -> str:
    """A stem with room behind it for the longest of `SUFFIXED` within 255 bytes; what is cut off leaves its digest."""
    data = stem.encode()
    room = 255 - max(len(one) for one in SUFFIXED)
    if len(data) <= room:
        return stem
    digest = hashlib.sha256(data).hexdigest()[:8]
    return f"{data[: room - 9].decode('utf-8', 'ignore')}~{digest}"
