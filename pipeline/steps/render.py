"""render: frames, residuals and planned codes => encoded segments. One item is a chunk of whole segments of a source.

Loads the generator and E2 only: no encoder, no detector.

A segment is a closed group of pictures with an encoder of its own, and starts at a multiple of `gop_frames` from the source's
first frame. So the edited video has the same bytes however its segments are spread over chunks and workers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from threading import Lock
from typing import ClassVar, Final, NamedTuple, TypeVar, assert_never, final

import numpy as np
import pyarrow as pa
from av.video.frame import VideoFrame

from ops.device import Device, resolve_device
from ops.face.align import crop_face
from ops.face.framing import Framing
from ops.face.paste import PasteSettings, paste
from ops.face.person import people_weights, person_in
from ops.files.atomic import replaced_file
from ops.files.digest import sha256_of
from ops.inversion.session import Precision, Session
from ops.metrics.identity import IdentitySettings, open_identity
from ops.networks.parts import SEEN_SIZE
from ops.video.carriage import options_for
from ops.video.convert import Picture
from ops.video.decode import Backend
from ops.video.encode import EncodeOptions, encode_segment
from ops.video.frame_file import FrameFile, encoded_frame
from pipeline.engine.overlap import Turns, ahead, in_order, pool_of
from pipeline.engine.stage import Batched, Chunk, Result, Source, Step
from pipeline.engine.timer import Timer
from pipeline.sources.readers import Readers
from pipeline.sources.sequences import is_sequence, read_frames
from pipeline.steps.model import open_model
from pipeline.steps.plan import PlannedRows, PlanOf, planned_pts
from pipeline.steps.quality import Quality, quality_moments
from pipeline.steps.sheet import sheet_moments, write_strip
from pipeline.steps.whole import PartsOf, WholeTable
from pipeline.store.columns import array_from_column, residuals_from_table
from pipeline.store.places import Place, joined, local_output, place
from pipeline.store.tables import Store, StoreError, Written

T = TypeVar("T")
QUEUE_BYTES: Final = 256 << 20
BYTES_PER_PIXEL: Final = 6
"""Bytes per pixel of a frame on its way: as RGB, and as it was decoded."""


@dataclass(frozen=True, eq=False)
class Face:
    """One face to render in one frame."""

    quad_42: np.ndarray
    landmarks_52: np.ndarray
    fade: float
    unedited_LD: np.ndarray
    edited_LD: np.ndarray
    style_offset_S: np.ndarray | None
    residual: np.ndarray | None
    size: int
    """Side in pixels of the pictures to make of it."""
    track: int


@dataclass(frozen=True, eq=False)
class Planned:
    """A chunk with the faces to render in it."""

    chunk: Chunk
    faces: dict[int, list[Face]]
    """pts => faces, in order of track."""
    sheet: frozenset[int]
    """The pts that go onto the contact sheet."""
    quality: Quality
    timer: Timer
    strips: list[Written] = field(default_factory=list)
    """Strips of the contact sheet, as they are written."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a chunk on its way."""

    one: Planned
    pts: int
    rgb: np.ndarray
    """uint8 [h, w, 3], upright."""
    native: VideoFrame | tuple[str, FrameFile]
    """The frame as it was decoded; for a sequence its file's name and content."""
    source: np.ndarray
    """`rgb` before anything was edited."""
    made: tuple[Pictured, ...] = ()
    """The pictures that were pasted into it."""


class Pictured(NamedTuple):
    """A face and the model's pictures of it, float [h, w, 3], 0..255."""

    face: Face
    edited: np.ndarray
    base: np.ndarray | None
    """The picture without the edit; None if neither the paste, a contact sheet nor a measure needs it."""
    reference: np.ndarray | None
    """Picture that the paste compares with: `base`, or None for the source itself; the same with or without a sheet."""


@dataclass(frozen=True, eq=False)
class Generated:
    """A frame with the pictures to paste into it."""

    frame: Frame
    faces: tuple[Pictured, ...]
    people: tuple[np.ndarray | None, ...]
    """For each face the mask in which its edit may show, as `ops.face.person` finds it; None if the paste computes it."""


@final
@dataclass(frozen=True)
class Render(Step):
    VERSION: ClassVar[int] = (
        6  # 5: a face is as sharp as its source. 6: hands are told from faces; an edit removes more of what it replaces.
    )

    store: str
    model: str
    paste: PasteSettings = field(default_factory=PasteSettings)
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    batch_size: int = 16
    precision: Precision = "fp32"
    device: Device = "auto"
    backend: Backend = "auto"
    sheet_frames: int = 6
    """Frames on the contact sheet, evenly spread over those that are edited; 0 for none."""
    threads: int = 1
    """Cores of the worker. With more than one, or an accelerator, decoding, the model, pasting and encoding overlap."""
    own_codes: bool = False
    """True if the plan leaves faces the codes that they were inverted to."""
    identity: IdentitySettings | None = None
    """The recogniser that measures how much of a face's identity an edit keeps; None: it is not measured."""

    def open(self) -> Batched:
        # Frames that are encoded again are converted exactly: the fast conversion darkens by about one level each way.
        store, readers = Store.open(self.store), Readers(self.backend, "exact")
        bundle = open_model(self.model, store)
        model, framing = bundle.load("generate"), bundle.framing
        session = Session(model, device=resolve_device(self.device), precision=self.precision, batch_size=self.batch_size)

        whole = WholeTable(store, "tracks", ("track_id", "pts", "quad", "landmarks"))
        residuals = PartsOf(store, "residuals")
        plan = PlanOf(self.store)
        identity = None if self.identity is None else open_identity(self.identity)
        sheets: dict[tuple[str, str], tuple[frozenset[int], frozenset[int]]] = {}
        """For the last source: the pts of the contact sheet, and of the thumbnails."""

        def load(chunk: Chunk) -> Planned:
            timer = Timer()
            with timer("store"):
                faces = faces_of(store, chunk, whole, residuals, plan)
                of = (chunk.source.source_id, chunk.key)
                sheet = sheets.get(of) if chunk.key else None
                if sheet is None:
                    edited = planned_pts(self.store, chunk.source)
                    sheet = sheet_moments(edited, self.sheet_frames), quality_moments(edited)
                    sheets.clear()
                    sheets[of] = sheet
            quality = Quality(chunk, self.encode.gop_frames, sheet[1], identity)
            return Planned(chunk, faces, sheet[0], quality, timer)

        # An accelerator must not wait for a decoder or an encoder; on a CPU the model itself uses all cores.
        overlaps = self.threads > 1 or session.device.type != "cpu"
        pool = pool_of(max(1, self.threads - 1), "paste") if overlaps else None
        reading = Turns()

        def finish(loaded: Sequence[Planned]) -> list[Result]:
            """Render all items as one stream of frames, so that a batch of faces may span several of them."""
            # One thread does the parts inside each other, and each second counts once; threads side by side have a timer each.
            encoding = Timer()
            decoding, modelling, pasting = (encoding,) * 3 if pool is None else (Timer(), Timer(), Timer())
            # Measured anew: items that are tried together first, and then each by itself, have their rows and strips once.
            together = [replace(one, quality=one.quality.anew(), strips=[], timer=encoding) for one in loaded]
            lock = Lock()

            def frames() -> Generator[Frame, None, None]:
                with reading:  # until an item's last frame is decoded; then the next one's begin
                    for one in together:
                        yield from decoding.timed("decode", decoded(one, readers))

            def pasted(made: Generated) -> Frame:
                if pool is None:
                    return self._pasted(made, pasting)
                timer = Timer()
                frame = self._pasted(made, timer)
                with lock:
                    for name, spent in timer.seconds.items():
                        pasting.seconds[name] += spent
                return frame

            with ExitStack() as stack:

                def closed(made: Generator[T, None, None]) -> Generator[T, None, None]:
                    """Have it closed with the others, the last first: a failure must not keep the next item waiting."""
                    return stack.enter_context(closing(made))

                stream = closed(frames())
                depth = held_frames(together, session.batch_size)
                if pool is not None:
                    stream = closed(ahead(stream, depth))
                generated = closed(self._generated(stream, session, framing, modelling))
                if pool is None:
                    edited: Iterator[Frame] = map(pasted, generated)
                else:
                    edited = closed(in_order(pasted, closed(ahead(generated, depth)), pool, 2 * self.threads))
                results = [self._written(one, islice(edited, one.chunk.frames)) for one in together]
            seconds: list[dict[str, float]] = [one.timer.seconds for one in loaded]
            for timer in (encoding,) if pool is None else (decoding, modelling, pasting, encoding):
                for name, spent in timer.seconds.items():
                    seconds[0][name] += spent
            devices = (session.device.type,)
            return [replace(result, seconds=each, devices=devices) for result, each in zip(results, seconds, strict=True)]

        return Batched(load, finish, overlaps=overlaps)

    def _written(self, one: Planned, edited: Iterator[Frame]) -> Result:
        """Encode the edited frames of a chunk, a segment at a time; those of a sequence one by one."""
        source, chunk = one.chunk.source, one.chunk
        write = self._frames if is_sequence(source.info) else self._segments
        files = write(one, map(self._measured, edited))
        edits = sum(len(here) for here in one.faces.values())
        counts = {"frames": chunk.frames, "edits": edits}
        with one.timer("quality"):
            files.append(one.quality.write(self.store))
        return Result(counts, files=(*files, *sorted(one.strips, key=lambda strip: strip.path)))

    def _measured(self, frame: Frame) -> Frame:
        """Measure a frame's faces. Frames come here in order, however many threads pasted them."""
        one = frame.one
        with one.timer("quality"):
            for made in frame.made:
                places = (made.face.quad_42, made.face.landmarks_52)
                one.quality.add(frame.pts, made.face.track, frame.source, frame.rgb, made.base, made.edited, *places)
        return replace(frame, made=())  # a frame in a queue of the encoder holds no pictures

    def _segments(self, one: Planned, edited: Iterator[Frame]) -> list[Written]:
        source, chunk, files = one.chunk.source, one.chunk, []
        options = options_for(source.info, self.encode)
        natives = ((frame, frame.native) for frame in edited)
        pictures = ((frame.pts, Picture(frame.rgb, frame.source, at)) for frame, at in natives if isinstance(at, VideoFrame))
        for start in range(chunk.start, chunk.stop, self.encode.gop_frames):
            group = islice(pictures, min(self.encode.gop_frames, chunk.stop - start))
            with one.timer("encode"):
                encode = partial(encode_segment, group, source.info, options)
                files.append(kept(self.store, source, "segments", f"{start:09d}.nut", encode))
        return files

    def _frames(self, one: Planned, edited: Iterator[Frame]) -> list[Written]:
        files = []
        for frame in edited:
            assert isinstance(frame.native, tuple)
            name, file = frame.native
            with one.timer("encode"):
                data = encoded_frame(name, frame.rgb, file)
            files.append(kept(self.store, one.chunk.source, "frames", name, partial(write_whole, data=data)))
        return files

    def _generated(
        self, frames: Iterable[Frame], session: Session, framing: Framing, timer: Timer
    ) -> Generator[Generated, None, None]:
        """Yield frames with the pictures of their faces. Holds as many frames as a batch of faces needs, and no more."""
        waiting: list[Frame] = []
        count = 0
        for frame in frames:
            waiting.append(frame)
            count += len(frame.one.faces.get(frame.pts, ()))
            if count >= session.batch_size or len(waiting) >= 4 * session.batch_size:
                yield from self._together(waiting, session, framing, timer)
                waiting, count = [], 0
        yield from self._together(waiting, session, framing, timer)

    def _together(self, frames: list[Frame], session: Session, framing: Framing, timer: Timer) -> Iterator[Generated]:
        here = [(face, frame.pts in frame.one.sheet) for frame in frames for face in frame.one.faces.get(frame.pts, ())]
        pictures: Iterator[Pictured] = iter(())
        places = [(frame.source, face.quad_42) for frame in frames for face in frame.one.faces.get(frame.pts, ())]
        with timer("person"):
            people = iter(people_in(places, session, self.paste))
        if here:
            with timer("model"):
                # Faces of one batch may come from several sources, and so have several sizes.
                groups = [list(group) for _, group in groupby(here, key=lambda pair: pair[0].size)]
                made = [
                    generate(
                        [face for face, _ in one], session, framing, self.paste, [shown for _, shown in one], self.own_codes
                    )
                    for one in groups
                ]
            pictures = (picture for group in made for picture in group)
        for frame in frames:
            count = len(frame.one.faces.get(frame.pts, ()))
            yield Generated(frame, tuple(islice(pictures, count)), tuple(islice(people, count)))

    def _pasted(self, made: Generated, timer: Timer) -> Frame:
        frame, one = made.frame, made.frame.one
        result = frame.rgb
        for (face, edited_crop, base_crop, reference), person in zip(made.faces, made.people, strict=True):
            result = paste_face(result, face, edited_crop, reference, self.paste, timer, person)
            if frame.pts in one.sheet:
                assert base_crop is not None
                with timer("sheet"):
                    source = one.chunk.source
                    crops = (frame.source, base_crop, edited_crop, result)
                    one.strips.append(write_strip(self.store, source, frame.pts, *crops, face.quad_42))
        return replace(frame, rgb=result, made=made.faces)


def decoded(one: Planned, readers: Readers) -> Iterator[Frame]:
    """Yield the frames of a chunk, as they are in their file."""
    source, start, stop = one.chunk.source, one.chunk.start, one.chunk.stop
    if is_sequence(source.info):
        for pts, name, file in read_frames(source.info, start, stop):
            yield Frame(one, pts, file.image.frame, (name, file), file.image.frame)
        return
    for pts, picture in readers.read_pictures(source, start, stop):
        yield Frame(one, pts, picture.source, picture.native, picture.source)


def held_frames(together: Sequence[Planned], batch_size: int) -> int:
    """Return how many frames a queue may hold: a batch, if that is not too much memory."""
    largest = max(one.chunk.source.info.width * one.chunk.source.info.height for one in together)
    return max(2, min(batch_size, QUEUE_BYTES // (BYTES_PER_PIXEL * largest)))


def faces_of(store: Store, chunk: Chunk, whole: WholeTable, parts: PartsOf, plans: PlanOf) -> dict[int, list[Face]]:
    """Return pts => the faces to render there, in order of track, from the plan, the tracks and the residuals."""
    source = chunk.source
    plan = plans.rows(chunk)
    if plan is None:
        return {}
    span = int(plan.pts_N[0]), int(plan.pts_N[-1])
    faces: dict[int, list[Face]] = {}
    made = planned_faces(store, source, plan, whole.rows(chunk, span), parts.rows(chunk, span))
    for pts, face in zip(plan.pts_N.tolist(), made, strict=True):
        faces.setdefault(pts, []).append(face)
    return faces


def planned_faces(store: Store, source: Source, plan: PlannedRows, tracks: pa.Table, kept: pa.Table) -> list[Face]:
    """Return the faces of planned rows, in their order. `tracks`, `kept`: rows of `tracks` and `residuals`, at least of those.

    Raises StoreError for a face without a quad or residual.
    """
    quads, landmarks = array_from_column(tracks, "quad"), array_from_column(tracks, "landmarks")
    track_rows = rows_by_key(tracks["track_id"].to_numpy(), tracks["pts"].to_numpy())
    has_residuals = store.info.residual_shape != (0,)
    residuals = residuals_from_table(kept)
    residual_rows = rows_by_key(kept["track_id"].to_numpy(), kept["pts"].to_numpy())
    faces = []
    for row, key in enumerate(zip(plan.track_N.tolist(), plan.pts_N.tolist(), strict=True)):
        if key not in track_rows or (has_residuals and key not in residual_rows):
            raise StoreError(
                f"{store.root}: track {key[0]} at pts {key[1]} of {source.uri} has a code but no quad or residual; "
                "invert the source again with --overwrite"
            )
        at = track_rows[key]
        faces.append(
            Face(
                quads[at],
                landmarks[at],
                float(plan.fade_N[row]),
                plan.unedited_NLD[row],
                plan.edited_NLD[row],
                plan.style_offset[row],
                residuals[residual_rows[key]] if has_residuals else None,
                plan.size,
                key[0],
            )
        )
    return faces


def paste_face(
    frame: np.ndarray,
    face: Face,
    edited_crop: np.ndarray,
    reference: np.ndarray | None,
    settings: PasteSettings,
    timer: Timer | None = None,
    person: np.ndarray | None = None,
) -> np.ndarray:
    """Paste one face's edit into a frame uint8 [H, W, 3]; picture and reference as `generate` returns them.

    person: mask as `people_in` returns it; None to compute it here, if the paste needs it.
    """
    timer = timer or Timer()
    where = person
    if where is None and settings.within == "person":
        with timer("person"):
            where = person_in(frame, face.quad_42)
    with timer("paste"):
        return paste(
            frame, edited_crop, reference, face.quad_42, settings, landmarks=face.landmarks_52, fade=face.fade, person=where
        )


def people_in(
    places: Sequence[tuple[np.ndarray, np.ndarray]], session: Session, settings: PasteSettings
) -> list[np.ndarray | None]:
    """Return for each frame, uint8 [H, W, 3], with a face's quad the mask in which the edit may show, float32 [96, 96], 0..1,
    computed on the session's accelerator in batches; None for each without an accelerator, or if the paste needs none."""
    if settings.within != "person" or session.device.type == "cpu" or not places:
        return [None] * len(places)
    crops = np.stack([crop_face(frame, quad_42, (SEEN_SIZE, SEEN_SIZE)) for frame, quad_42 in places])
    found = session.in_batches(len(crops), lambda rows, batch: people_weights(crops[batch], session.device)[:rows])
    return list(np.concatenate(found))


def paste_needs_base(settings: PasteSettings, session: Session, size: int, *, own_codes: bool) -> bool:
    """Return whether a paste of pictures of `size` px needs the one without the edit.

    A model that gives the source back needs none if its pictures are no larger than its input: larger ones lack finer detail.
    own_codes: faces have the codes that they were inverted to.
    """
    match settings.mode:
        case "replace":
            return False
        case "delta":
            return True
        case "composite":
            return not (session.model.keeps_source and own_codes and size <= session.input_size)
        case other:
            assert_never(other)


def generate(
    faces: Sequence[Face],
    session: Session,
    framing: Framing,
    settings: PasteSettings,
    shown: Sequence[bool],
    own_codes: bool,
) -> list[Pictured]:
    """Generate the pictures of faces of one size that a paste and a contact sheet need.

    shown: whether each comes onto a sheet, with its picture without the edit. own_codes: as in `paste_needs_base`.
    """
    edited = edited_crops(faces, session, framing)
    # Codes that differ by the edit alone: the difference of the two pictures is the edit and nothing else.
    compares = paste_needs_base(settings, session, faces[0].size, own_codes=own_codes)
    bases: list[np.ndarray | None] = [None] * len(faces)
    needed = [at for at, one in enumerate(shown) if compares or one]
    if needed:
        for at, base in zip(needed, base_crops([faces[at] for at in needed], session, framing), strict=True):
            bases[at] = base
    references = bases if compares else [None] * len(faces)
    return [Pictured(*one) for one in zip(faces, edited, bases, references, strict=True)]


def edited_crops(faces: Sequence[Face], session: Session, framing: Framing) -> np.ndarray:
    """Generate the pictures of the edited codes of faces of one size, levels float32 [N, h, w, 3]."""
    unedited_NLD, edited_NLD = (
        np.stack(codes) for codes in zip(*((face.unedited_LD, face.edited_LD) for face in faces), strict=True)
    )
    offsets_NS = style_offsets(faces)
    made = session.generate_levels(edited_NLD, details(faces), offsets_NS, unedited_NLD=unedited_NLD, size=faces[0].size)
    return framing.content(made)


def base_crops(faces: Sequence[Face], session: Session, framing: Framing) -> np.ndarray:
    """Generate the reconstructions of faces of one size, levels float32 [N, h, w, 3]."""
    unedited_NLD = np.stack([face.unedited_LD for face in faces])
    return framing.content(session.generate_levels(unedited_NLD, details(faces), size=faces[0].size))


def details(faces: Sequence[Face]) -> np.ndarray | None:
    """Return the residuals of faces, float32 [N, ...]; None for a method that keeps none."""
    residuals = [face.residual for face in faces if face.residual is not None]
    return np.stack(residuals) if residuals else None


def style_offsets(faces: Sequence[Face]) -> np.ndarray | None:
    """Return the offsets of S of each face's edited code, float32 [N, S]; None if no face has one."""
    size = next((len(face.style_offset_S) for face in faces if face.style_offset_S is not None), None)
    if size is None:
        return None
    none_S = np.zeros(size, np.float32)
    return np.stack([none_S if face.style_offset_S is None else face.style_offset_S for face in faces])


def rows_by_key(track_N: np.ndarray, pts_N: np.ndarray) -> dict[tuple[int, int], int]:
    return {key: row for row, key in enumerate(zip(track_N.tolist(), pts_N.tolist(), strict=True))}


def kept(store: str, source: Source, kind: str, name: str, write: Callable[[Path], object]) -> Written:
    """Write a file into a work folder of the store, on a disk or in a bucket. write: called with a local path to write to."""
    with local_output(work_path(store, source, kind, name)) as path:
        write(path)
        return Written(f"work/{kind}/{source.source_id}/{name}", path.stat().st_size, sha256_of(path))


def write_whole(path: Path, data: bytes) -> None:
    with replaced_file(path) as temporary:
        temporary.write_bytes(data)


def work_path(store: str, source: Source, kind: str, name: str) -> Place:
    return joined(place(store), f"work/{kind}/{source.source_id}/{name}")
