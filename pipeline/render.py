"""render: frames, residuals and planned codes => encoded segments. One item is a chunk of whole segments of a source.

Loads the generator and E2 only: no encoder, no detector.

A segment is a closed group of pictures with an encoder of its own, and starts at a multiple of `gop_frames` from the source's
first frame. So the edited video has the same bytes however its segments are spread over chunks and workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import final

import numpy as np

from ops.checkpoints.bundle import open_bundle
from ops.device import Device, resolve_device
from ops.face.framing import Framing
from ops.face.paste import PasteSettings, paste
from ops.inversion.session import Precision, Session
from ops.video.decode import Backend
from ops.video.encode import EncodeOptions, encode_segment
from ops.video.image import write_image
from pipeline.columns import array_from_column, residuals_from_table
from pipeline.plan import planned_pts, read_plan
from pipeline.readers import Readers
from pipeline.sheet import sheet_moments, write_strip
from pipeline.stage import Chunk, Result, Source, Step
from pipeline.store import Store, StoreError
from pipeline.timer import Timer


@dataclass(frozen=True, eq=False)
class Face:
    """One face to render in one frame."""

    quad_42: np.ndarray
    landmarks_52: np.ndarray
    fade: float
    base_LD: np.ndarray
    edited_LD: np.ndarray
    style_offset_S: np.ndarray | None
    residual: np.ndarray | None


@final
@dataclass(frozen=True)
class Render(Step):
    store: str
    model: str
    work: str
    paste: PasteSettings = field(default_factory=PasteSettings)
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    batch_size: int = 16
    precision: Precision = "fp32"
    device: Device = "auto"
    backend: Backend = "auto"
    sheet_frames: int = 6
    """Frames on the contact sheet, evenly spread over those that are edited; 0 for none."""

    def open(self) -> Callable[[Chunk], Result]:
        # Frames that are encoded again are converted exactly: the fast conversion darkens by about one level each way.
        store, readers = Store.open(self.store), Readers(self.backend, "exact")
        bundle = open_bundle(self.model)
        model, framing = bundle.load("generate"), bundle.framing
        session = Session(model, device=resolve_device(self.device), precision=self.precision, batch_size=self.batch_size)

        def render(chunk: Chunk) -> Result:
            source, timer = chunk.source, Timer()
            with timer("store"):
                faces = faces_of(store, self.work, chunk)
                sheet = sheet_moments(planned_pts(self.work, source), self.sheet_frames)
            frames = timer.timed("decode", readers.of(source).read(chunk.start, chunk.stop))
            edited = self._edited(frames, faces, sheet, session, framing, source, timer)
            if source.info.kind == "image":
                for _, frame in edited:
                    write_image(image_path(self.work, source), frame)
            else:
                for start in range(chunk.start, chunk.stop, self.encode.gop_frames):
                    count = min(self.encode.gop_frames, chunk.stop - start)
                    with timer("encode"):
                        encode_segment(islice(edited, count), source.info, self.encode, segment_path(self.work, source, start))
            edits = sum(len(here) for here in faces.values())
            return Result({"frames": chunk.stop - chunk.start, "edits": edits}, timer.seconds)

        return render

    def _edited(
        self,
        frames: Iterator[tuple[int, np.ndarray]],
        faces: dict[int, list[Face]],
        sheet: frozenset[int],
        session: Session,
        framing: Framing,
        source: Source,
        timer: Timer,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(pts, frame) => (pts, edited frame). Holds as many frames as a batch of faces needs, and no more."""
        waiting: list[tuple[int, np.ndarray]] = []
        count = 0
        for pts, frame in frames:
            waiting.append((pts, frame))
            count += len(faces.get(pts, ()))
            if count >= session.batch_size or len(waiting) >= 4 * session.batch_size:
                yield from self._paste_all(waiting, faces, sheet, session, framing, source, timer)
                waiting, count = [], 0
        yield from self._paste_all(waiting, faces, sheet, session, framing, source, timer)

    def _paste_all(
        self,
        frames: list[tuple[int, np.ndarray]],
        faces: dict[int, list[Face]],
        sheet: frozenset[int],
        session: Session,
        framing: Framing,
        source: Source,
        timer: Timer,
    ) -> Iterator[tuple[int, np.ndarray]]:
        here = [face for pts, _ in frames for face in faces.get(pts, ())]
        generated = None
        if here:
            kept = [face.residual for face in here if face.residual is not None]
            detail = np.stack(kept) if kept else None
            with timer("model"):
                edited = session.generate(np.stack([face.edited_LD for face in here]), detail, style_offsets(here))
                # What is unchanged but for the edit: the difference of the two is the edit and nothing else.
                base = session.generate(np.stack([face.base_LD for face in here]), detail)
            generated = zip(here, framing.content(edited), framing.content(base), strict=True)
        for pts, frame in frames:
            result = frame
            for _ in faces.get(pts, ()):
                assert generated is not None
                face, edited_crop, base_crop = next(generated)
                with timer("paste"):
                    result = paste(
                        result,
                        edited_crop,
                        base_crop,
                        face.quad_42,
                        self.paste,
                        landmarks=face.landmarks_52,
                        strength=face.fade,
                    )
                if pts in sheet:
                    with timer("sheet"):
                        write_strip(self.work, source, pts, frame, base_crop, edited_crop, result, face.quad_42)
            yield pts, result


def faces_of(store: Store, work: str, chunk: Chunk) -> dict[int, list[Face]]:
    """pts => the faces to render there, in order of track, from the plan, the tracks and the residuals."""
    source = chunk.source
    plan = read_plan(work, source, chunk.pts_range)
    if plan is None:
        return {}
    span = int(plan.pts_N[0]), int(plan.pts_N[-1])
    tracks = store.read("tracks", source.source_id, span, ["track_id", "pts", "quad", "landmarks"])
    quads, landmarks = array_from_column(tracks, "quad"), array_from_column(tracks, "landmarks")
    track_rows = rows_by_key(tracks["track_id"].to_numpy(), tracks["pts"].to_numpy())
    kept = store.read("residuals", source.source_id, span)
    residuals = residuals_from_table(kept)
    residual_rows = rows_by_key(kept["track_id"].to_numpy(), kept["pts"].to_numpy())
    faces: dict[int, list[Face]] = {}
    for row, key in enumerate(zip(plan.track_N.tolist(), plan.pts_N.tolist(), strict=True)):
        if key not in track_rows or (len(kept) and key not in residual_rows):
            raise StoreError(
                f"{store.root}: track {key[0]} at pts {key[1]} of {source.uri} has a code but no quad or residual; "
                "invert the source again with --overwrite"
            )
        at = track_rows[key]
        face = Face(
            quads[at],
            landmarks[at],
            float(plan.fade_N[row]),
            plan.base_NLD[row],
            plan.edited_NLD[row],
            plan.style_offset[row],
            residuals[residual_rows[key]] if len(kept) else None,
        )
        faces.setdefault(key[1], []).append(face)
    return faces


def style_offsets(faces: Sequence[Face]) -> np.ndarray | None:
    """What is added to S of each face's edited code, [N, S]; None where nothing is for any of them."""
    size = next((len(face.style_offset_S) for face in faces if face.style_offset_S is not None), None)
    if size is None:
        return None
    none_S = np.zeros(size, np.float32)
    return np.stack([none_S if face.style_offset_S is None else face.style_offset_S for face in faces])


def rows_by_key(track_N: np.ndarray, pts_N: np.ndarray) -> dict[tuple[int, int], int]:
    return {key: row for row, key in enumerate(zip(track_N.tolist(), pts_N.tolist(), strict=True))}


def segment_path(work: str, source: Source, start: int) -> Path:
    folder = Path(work) / source.source_id / "segments"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{start:09d}.nut"


def image_path(work: str, source: Source) -> Path:
    return Path(work) / source.source_id / "edited.png"
