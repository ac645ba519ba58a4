"""finalize: segments => the edited file, its contact sheet and, on request, a side-by-side video. One item is a source."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

import numpy as np

from ops.video.decode import FrameReader
from ops.video.encode import EncodeOptions, encode_segment
from ops.video.image import load_image, write_image
from ops.video.mux import finalize
from ops.video.probe import probe
from pipeline.render import image_path, segment_path
from pipeline.sheet import join_strips
from pipeline.stage import Chunk, Result, Source, Step
from pipeline.timer import Timer


@dataclass(frozen=True)
class Output:
    """Where the results of one source go."""

    video: str
    """The edited file: a video, or an image for an image."""
    contact_sheet: str | None
    side_by_side: str | None


@final
@dataclass(frozen=True)
class Finalize(Step):
    work: str
    outputs: dict[str, Output]
    """source_id => where its results go."""
    metadata: dict[str, str]
    """What was done, for the file's own comment."""
    title: str
    encode: EncodeOptions = field(default_factory=EncodeOptions)

    def open(self) -> Callable[[Chunk], Result]:
        def finish(chunk: Chunk) -> Result:
            source, timer = chunk.source, Timer()
            output = self.outputs[source.source_id]
            with timer("finalize"):
                if source.info.kind == "image":
                    write_image(output.video, load_image(image_path(self.work, source)).frame, like=source.uri)
                else:
                    starts = range(0, source.info.n_frames, self.encode.gop_frames)
                    segments = [segment_path(self.work, source, start) for start in starts]
                    finalize(segments, source.info, source.uri, output.video, self.encode, self.metadata)
                if output.contact_sheet is not None:
                    title = f"{Path(source.uri).name}: {self.title}"
                    join_strips(self.work, source, title, Path(output.contact_sheet))
            if output.side_by_side is not None and source.info.kind == "video":
                with timer("side_by_side"):
                    write_side_by_side(source, output, self.work, self.encode, self.metadata)
            shutil.rmtree(Path(self.work) / source.source_id, ignore_errors=True)
            return Result({"outputs": 1}, timer.seconds)

        return finish


def write_side_by_side(source: Source, output: Output, work: str, options: EncodeOptions, metadata: dict[str, str]) -> None:
    """source | edited, with the source's sound. Read back from the finished file, so it shows what the viewer will see."""
    assert output.side_by_side is not None
    wide = replace(source.info, width=2 * source.info.width)
    with (
        FrameReader(source.info, conversion="exact") as left,
        FrameReader(probe(output.video), conversion="exact") as right,
    ):

        def pairs(start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
            both = zip(left.read(start, stop), right.read(start, stop), strict=True)
            for (pts, before), (_, after) in both:
                yield pts, np.concatenate([before, after], axis=1)

        segments = []
        for start in range(0, source.info.n_frames, options.gop_frames):
            path = Path(work) / source.source_id / "side_by_side" / f"{start:09d}.nut"
            path.parent.mkdir(parents=True, exist_ok=True)
            encode_segment(pairs(start, min(start + options.gop_frames, source.info.n_frames)), wide, options, path)
            segments.append(path)
    finalize(segments, wide, source.uri, output.side_by_side, options, metadata)
