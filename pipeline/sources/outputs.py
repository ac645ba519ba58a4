"""Where the results of a source go: a rule, so that a million inputs need no list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import final

from ops.video.image import IMAGE_SUFFIXES
from pipeline.engine.stage import Source

KEPT_SUFFIXES = (".mp4", ".mov", ".mkv")
SUFFIXES_OF_CODEC = {"ffv1": (".mkv",), "libvpx-vp9": (".mp4", ".mkv", ".webm"), "libsvtav1": (".mp4", ".mkv", ".webm")}
"""Containers that hold a codec; the others go into `KEPT_SUFFIXES`."""


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
    """`folder`: of everything. `file`: the edited file itself, where there is one input. `suffixes`: of the video codec.

    `sheet`: the contact sheet's own path; with `sheets`, it is beside the edited file if not given.
    """

    folder: str
    file: str | None = None
    suffixes: tuple[str, ...] = KEPT_SUFFIXES
    sheets: bool = False
    sheet: str | None = None
    side_by_side: bool = False
    sets: bool = False
    """Nobody has compared the names, so `a.avi` becomes `a.avi.edited.mp4`: there may be an `a.mp4`."""

    def of(self, source: Source) -> Output:
        """NAME.edited.SUFFIX below the folder, under the name that the source's list gave it."""
        where = self.file if self.file is not None else f"{self.folder}/{edited_name(source, self.suffixes, whole=self.sets)}"
        stem, suffix = where.rsplit(".", 1)
        sheet = self.sheet or f"{where if self.sets else stem}.contact_sheet.png"
        beside = f"{stem}.side_by_side.{suffix}" if self.side_by_side and source.info.kind == "video" else None
        return Output(where, sheet if self.sheets else None, beside)


def edited_name(source: Source, suffixes: tuple[str, ...] = KEPT_SUFFIXES, *, whole: bool = False) -> str:
    """An image keeps its format, a video its container where that holds the codec; else `a.avi` becomes `a.edited.mp4`."""
    path = PurePosixPath(source.output_name)
    suffix = path.suffix.lower()
    image = source.info.kind == "image"
    kept = suffix in IMAGE_SUFFIXES if image else suffix in KEPT_SUFFIXES and suffix in suffixes
    made = path.suffix if kept else ".png" if image else suffixes[0]
    return str(path.with_name(f"{path.stem if kept or not whole else path.name}.edited{made}"))
