"""finalize: segments => the edited file, its contact sheet and, on request, a side-by-side video. One item is a source."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import ClassVar, final

import numpy as np
import pyarrow as pa

import schemas
from ops.files.digest import sha256_of
from ops.video.carriage import Carriage, carriage_of, options_for
from ops.video.contents import FORMATS
from ops.video.decode import FrameReader
from ops.video.encode import EncodeOptions, encode_segment
from ops.video.image import load_image
from ops.video.mux import finalize
from ops.video.probe import probe
from pipeline.engine.stage import Chunk, Result, Source, Step
from pipeline.engine.timer import Timer
from pipeline.sources.fetch import FETCHER, require_unchanged
from pipeline.sources.outputs import Output, Outputs
from pipeline.sources.sequences import frames_of, is_sequence, require_same
from pipeline.steps.quality import quality_table
from pipeline.steps.render import work_path
from pipeline.steps.sheet import join_strips
from pipeline.store.parts import Written
from pipeline.store.places import joined, local_file, local_output, place, writing
from pipeline.store.tables import Store


@final
@dataclass(frozen=True)
class Finalize(Step):
    VERSION: ClassVar[int] = 2  # 2: pictures keep their depth.

    store: str
    outputs: Outputs
    metadata: dict[str, str]
    """Edits and model, as tags of the edited file."""
    title: str
    recipe_id: str
    encode: EncodeOptions = field(default_factory=EncodeOptions)

    def open(self) -> Callable[[Chunk], Result]:
        store = Store.open(self.store)

        def finish(chunk: Chunk) -> Result:
            source, timer = chunk.source, Timer()
            output = self.outputs.of(source)
            made: list[Written] = []
            segment_bytes: list[int] = []
            with timer("finalize"), ExitStack() as stack:
                # All results so far belong to the source's digest: its sound and metadata must come from the same file.
                if is_sequence(source.info):
                    require_same(source.info)
                    made += self._sequence(source, output)
                else:
                    original = FETCHER.path(source.uri)
                    require_unchanged(source, original, sha256_of(original))
                    segments = self._segment_files(source, stack)
                    segment_bytes = [segment.stat().st_size for segment in segments]
                    made += self._video(source, output, original, segments, timer)
                if output.contact_sheet is not None:
                    title = f"{PurePath(source.uri).name}: {self.title}"
                    with local_output(place(output.contact_sheet)) as path:
                        if join_strips(self.store, source, title, path):
                            made.append(facts_of(path, output.contact_sheet))
            in_one = PurePath(output.video).suffix.lower() in FORMATS
            files = [self._segments(store, source, output, segment_bytes)] if in_one and segment_bytes else []
            rows = quality_table(self.store, source, self.recipe_id, output.video)
            if len(rows):
                files.append(store.write_part("quality", source.source_id, part_of(self.recipe_id, output), rows))
            return Result({"outputs": 1}, timer.seconds, files=tuple(files), outputs=tuple(made))

        return finish

    def _segment_files(self, source: Source, stack: ExitStack) -> list[Path]:
        """Return the segments of a clip, in order, as files on this machine."""
        starts = range(0, source.info.n_frames, self.encode.gop_frames)
        places = [work_path(self.store, source, "segments", f"{start:09d}.nut") for start in starts]
        return [stack.enter_context(local_file(one)) for one in places]

    def _video(self, source: Source, output: Output, original: Path, segments: list[Path], timer: Timer) -> list[Written]:
        """Join the segments of a clip."""
        made = []
        with local_output(place(output.video)) as path:
            held = carriage_of(source.info, self.encode, place(output.video).suffix.lower())
            finalize(segments, source.info, original, path, held.encode, self.metadata, held)
            made.append(facts_of(path, output.video))
            if output.side_by_side is not None:
                with timer("side_by_side"), local_output(place(output.side_by_side)) as beside:
                    write_side_by_side(source, original, path, beside, held, self.metadata)
                    made.append(facts_of(beside, output.side_by_side))
        return made

    def _sequence(self, source: Source, output: Output) -> list[Written]:
        """Write edited frames as files of their own names, or as one video."""
        frames = [(frame.name, work_path(self.store, source, "frames", frame.name)) for frame in frames_of(source.uri)]
        if PurePath(output.video).suffix.lower() not in FORMATS:
            made = []
            for name, work in frames:
                where = joined(place(output.video), name)
                with writing(where) as file:
                    file.write(work.read_bytes())
                made.append(Written(str(where), file.size_bytes, file.sha256))
            return made
        held = carriage_of(source.info, self.encode, PurePath(output.video).suffix.lower())
        options = replace(held.encode, native=False, field_order=0, pix_fmt=None)
        with tempfile.TemporaryDirectory(prefix="styleres-") as folder, local_output(place(output.video)) as path:
            segments = []
            for start in range(0, len(frames), options.gop_frames):
                group = enumerate(frames[start : start + options.gop_frames], start)
                pictures = ((int(source.info.pts[at]), load_image(name, work.read_bytes()).frame) for at, (name, work) in group)
                segments.append(Path(folder) / f"{start:09d}.nut")
                encode_segment(pictures, source.info, options, segments[-1])
            finalize(segments, source.info, segments[0], path, options, self.metadata, replace(held, encode=options))
            return [facts_of(path, output.video)]

    def _segments(self, store: Store, source: Source, output: Output, sizes: list[int]) -> Written:
        """Write one row for each segment of the edited file: between two it can be cut without loss."""
        rows = []
        starts = range(0, source.info.n_frames, self.encode.gop_frames)
        for start, size_bytes in zip(starts, sizes, strict=True):
            stop = min(start + self.encode.gop_frames, source.info.n_frames)
            rows.append(
                {
                    "source_id": source.source_id,
                    "track_id": schemas.NO_TRACK,
                    "pts": int(source.info.pts[start]),
                    "recipe_id": self.recipe_id,
                    "last_pts": int(source.info.pts[stop - 1]),
                    "frame_count": stop - start,
                    "path": output.video,
                    "codec": options_for(source.info, self.encode).codec,
                    "size_bytes": size_bytes,
                }
            )
        table = pa.Table.from_pylist(rows, schema=schemas.segments_schema())
        return store.write_part("segments", source.source_id, part_of(self.recipe_id, output), table)


def part_of(recipe_id: str, output: Output) -> str:
    """Return the name of an edited file's part: two results of one source and recipe must not replace each other's rows."""
    return f"{recipe_id}-{hashlib.sha256(output.video.encode()).hexdigest()[:8]}"


def facts_of(path: Path, where: str) -> Written:
    return Written(where, path.stat().st_size, sha256_of(path))


def write_side_by_side(
    source: Source, original: Path, edited: Path, out: Path, held: Carriage, metadata: dict[str, str]
) -> None:
    """Write source | edited, with the source's sound. Edited frames are read from the finished file, as a viewer sees them."""
    flat = replace(source.info.contents, display_matrix=None, spherical=None, stereo=None)  # two upright pictures on a plane
    wide = replace(source.info, width=2 * source.info.width, contents=flat)
    options = replace(held.encode, native=False, field_order=0, pix_fmt=None)
    segments: list[Path] = []
    with (
        FrameReader(replace(source.info, uri=str(original)), conversion="exact") as left,
        FrameReader(probe(edited), conversion="exact") as right,
        ExitStack() as stack,
    ):

        def pairs(start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
            both = zip(left.read(start, stop), right.read(start, stop), strict=True)
            for (pts, before), (_, after) in both:
                yield pts, np.concatenate([before, after], axis=1)

        for start in range(0, source.info.n_frames, options.gop_frames):
            path = out.with_name(f".{out.stem}.{start:09d}.nut")
            stack.callback(path.unlink, missing_ok=True)
            encode_segment(pairs(start, min(start + options.gop_frames, source.info.n_frames)), wide, options, path)
            segments.append(path)
        finalize(segments, wide, original, out, options, metadata, replace(held, encode=options))
