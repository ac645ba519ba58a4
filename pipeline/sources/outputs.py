"""Places of the results of a source, by a rule, so that a million inputs need no list."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import final

from ops.video.carriage import Carriage, Item, carriage_of, container_for, refusal
from ops.video.encode import EncodeOptions
from ops.video.image import IMAGE_SUFFIXES
from pipeline.engine.stage import OUTPUT_EXISTS, Picture, Source
from pipeline.sources.fetch import is_plain
from pipeline.sources.sequences import is_sequence
from pipeline.store.places import exists, is_url, listed, place
from schemas import Failure

MEDIA_SUFFIXES = frozenset(
    {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".mxf"}
    | {".vob", ".ogv", ".asf", ".divx", ".dv", ".f4v", ".3g2", ".m2v", ".qt", ".gif"}
    | IMAGE_SUFFIXES
)
UNSUPPORTED = "unsupported"
"""The reason of a source whose output cannot carry all that it has."""
SUFFIXED = (".edited.side_by_side.webm", ".edited.jpeg.contact_sheet.png")
"""The longest of what a name may get at its end."""


@dataclass(frozen=True)
class Output:
    """Places of the results of one source: paths or URLs."""

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

    def of(self, source: Source | Picture) -> Output:
        """NAME.edited.SUFFIX below the folder, under the name that the source's list gave it; of a sequence a folder NAME."""
        where = self.file
        if isinstance(source, Source) and is_sequence(source.info) and where is None:
            folder = f"{self.folder}/{source.output_name}"
            return Output(folder, f"{folder}.contact_sheet.png" if self.sheets else None, None)
        if where is None:
            where = f"{self.folder}/{edited_name(source, self.suffix_of(source), whole=self.sets)}"
        stem, suffix = where.rsplit(".", 1)
        sheet = self.sheet or f"{where if self.sets else stem}.contact_sheet.png"
        beside = f"{stem}.side_by_side.{suffix}" if self.side_by_side and source.kind == "video" else None
        return Output(where, sheet if self.sheets else None, beside)

    @property
    def job_sheet(self) -> str:
        """The contact sheet of all pictures of a run."""
        if self.sheet is not None or self.file is not None:
            return self.sheet or f"{str(self.file).rsplit('.', 1)[0]}.contact_sheet.png"
        return f"{self.folder}/contact_sheet.png"

    def carriage(self, source: Source) -> Carriage:
        """Return what the edited file will carry of its source."""
        if is_sequence(source.info) and self.file is None:
            said = "frames of the same names, depth and format"
            return Carriage("", self.encode, (Item(f"{source.info.n_frames} frames", "kept", said),))
        suffix = PurePosixPath(self.file).suffix if self.file is not None else self.suffix_of(source)
        return carriage_of(source.info, self.encode, suffix.lower())

    def suffix_of(self, source: Source | Picture) -> str:
        """An image keeps its format, a video its container where that holds the codec; else `a.avi` becomes `a.edited.mp4`.

        Raises `ValueError` where the container asked for does not hold the codec.
        """
        own = PurePosixPath(source.output_name).suffix
        if isinstance(source, Picture) or source.kind == "image":
            return own if own.lower() in IMAGE_SUFFIXES else ".png"
        suffix = container_for(source.info, self.encode, own.lower(), self.container)
        return own if own.lower() == suffix else suffix


def is_there(where: str) -> bool:
    """Whether a file, or a folder of frames, is there already."""
    return exists(place(where)) or (not PurePosixPath(where).suffix and bool(listed(place(where))))


def is_same_file(output: str, path: str) -> bool:
    """Whether an output is the file under this path, be it by another name; one that is not there yet is none."""
    return not is_url(output) and Path(output).exists() and Path(output).resolve() == Path(path).resolve()


@final
@dataclass(frozen=True)
class Admission:
    """Says why the results of a source must not be written, or would lack something of it. Workers carry it."""

    outputs: Outputs
    overwrite: bool
    drop_unsupported: bool

    def __call__(self, source: Source) -> Failure | None:
        try:
            output, carriage = self.outputs.of(source), self.outputs.carriage(source)
        except ValueError as error:
            return Failure(source.source_id, source.uri, "probe", UNSUPPORTED, str(error))
        if carriage.losses and not self.drop_unsupported:
            message = refusal(source.info, carriage, self.outputs.encode)
            return Failure(source.source_id, source.uri, "probe", UNSUPPORTED, message)
        if is_plain(source.uri) and is_same_file(output.video, source.uri):
            message = f"--out {output.video} is one of the inputs, and a render reads its source to the end; name another"
            return Failure(source.source_id, source.uri, "probe", "output_is_input", message)
        sheets = (output.contact_sheet,) if source.kind == "video" else ()
        files = [file for file in (output.video, *sheets, output.side_by_side) if file]
        existing = [] if self.overwrite else [file for file in files if is_there(file)]
        if existing:
            message = (
                f"{', '.join(existing)} exists already, and this command has not finished it; use --overwrite, or another --out"
            )
            return Failure(source.source_id, source.uri, "probe", OUTPUT_EXISTS, message)
        return None


def edited_name(source: Source | Picture, suffix: str, *, whole: bool = False) -> str:
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
