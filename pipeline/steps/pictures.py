"""pictures: files => rows of every table, and edited files. One item is a picture; those of a worker are done together.

A picture needs none of the barriers of a clip, so all that is wanted of it is done while it is in memory: it is read from its
file or bucket once, hashed, decoded once, and its faces fill batches with those of its neighbours. Rows that earlier runs have
stored of the same bytes are read instead of made again. The rules of each step are those of the steps for clips.

Rows go into a folder of their own with an entry that vouches for them (`pipeline.engine.packs`); `steps/join.py` makes packs of
such folders.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import PurePosixPath
from typing import Any, ClassVar, Final, Literal, assert_never, final

import cv2
import numpy as np
import pyarrow as pa

from ops.device import Device, resolve_device
from ops.editing.library import load_edits
from ops.editing.plan import PlannedEdits, plan_edits
from ops.editing.smoothing import keeps_codes
from ops.face.align import CropMode, crop_face
from ops.face.appearance import describe
from ops.face.detect import DetectorFactory, Face
from ops.face.paste import PasteSettings
from ops.face.track import FrameFaces, TrackResult, TrackSettings, track_faces, track_whole_frames
from ops.face.turn import turned_degrees
from ops.inversion.session import Precision, Session
from ops.metrics.identity import IdentitySettings, open_identity
from ops.video.errors import MediaError
from ops.video.image import LoadedImage, encoded_image, load_image
from ops.video.probe import image_info
from pipeline.engine.ledger import BEGUN
from pipeline.engine.packs import ENTRIES, STAGED, STRIPS, Known, Strip, Wanted, other_settings
from pipeline.engine.stage import OUTPUT_EXISTS, Batched, Picture, Result, Source, Step
from pipeline.engine.timer import Timer
from pipeline.sources.fetch import FETCHER
from pipeline.sources.inputs import unreadable
from pipeline.sources.outputs import Admission, Outputs
from pipeline.sources.rows import source_rows
from pipeline.steps.model import open_model
from pipeline.steps.plan import PlanSettings, covering, largest_side, never_acting, records_of, turned, unknown_tracks
from pipeline.steps.quality import compared, kept_identity, row_of
from pipeline.steps.render import Face as FaceToRender
from pipeline.steps.render import generate, paste_face, people_in
from pipeline.steps.scan import require_same_detector, rows_of_faces
from pipeline.steps.sheet import strip_png, write_sheet
from pipeline.steps.track import left_of, left_out
from pipeline.store.columns import (
    array_from_column,
    edits_table,
    frames_table,
    latents_table,
    residuals_from_table,
    residuals_table,
    tracks_table,
    wplus_from_table,
)
from pipeline.store.deleted import Deleted, deleted_of
from pipeline.store.packs import is_pack
from pipeline.store.parts import DamagedPart, StoreError, Written, write_rows
from pipeline.store.places import Place, exists, joined, listed, local_output, place, remove, write_all, writing
from pipeline.store.records import write_record
from pipeline.store.tables import Store
from schemas import Failure, failures_table, quality_schema, source_id_from_sha256, source_id_of_unreadable

HELD_BYTES: Final = 256 << 20
"""Bytes of decoded pictures in memory at most; a larger picture is there alone."""
GROUP_BYTES: Final = 8 << 20
COMPARED_PIXELS: Final = 64
"""Side of the crops in which a reconstruction is compared with its source."""

Sheets = Literal["job", "each", "none"]


@dataclass(frozen=True)
class Inverting:
    """Settings that decide the rows of a picture, beside the model."""

    detector: DetectorFactory
    decided_by: Mapping[str, Any] | None
    """`DetectorFactory.decides` as the driver found it; None for a model whose crop needs no face."""
    tracking: TrackSettings
    crop: CropMode


@dataclass(frozen=True)
class Rendering:
    """Settings that decide an edited picture, beside its rows."""

    plan: PlanSettings
    recipe_id: str
    paste: PasteSettings
    outputs: Outputs
    title: str
    sheets: Sheets = "job"
    sheet_rows: int = 6
    identity: IdentitySettings | None = None
    """The recogniser that measures how much of a face's identity an edit keeps; None: it is not measured."""
    admit: Callable[[Source], Failure | None] = lambda source: None
    """Returns why the results of a picture must not be written, or would lack something of it; None if neither holds."""


@dataclass(eq=False)
class Opened:
    """A picture on its way through one worker."""

    at: int
    """Its place in the batch."""
    picture: Picture
    source: Source
    image: LoadedImage
    output: str | None
    stored: bool
    """True if its rows are in the store already."""
    scanned: list[Face] = field(default_factory=list)
    tracked: TrackResult | None = None
    crops: list[np.ndarray] = field(default_factory=list)
    codes: list[Coded] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    edits: int = 0
    edited: bytes = b""

    def names(self) -> tuple[str, str]:
        """Return the keys under which `failures` may have rows of it."""
        return self.source.source_id, source_id_of_unreadable(self.picture.uri)


@dataclass(frozen=True, eq=False)
class Coded:
    """A face with its codes."""

    track_id: int
    quad_42: np.ndarray
    landmarks_52: np.ndarray
    wplus_LD: np.ndarray
    residual: np.ndarray | None


@dataclass(eq=False)
class Rows:
    """Results of a batch: rows of every table, and the content of its entry."""

    tables: dict[str, list[pa.Table]] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)
    """Key of a picture whose rows are new => its mark, hexadecimal."""
    known_as: list[str] = field(default_factory=list)
    rendered: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    edited: list[str] = field(default_factory=list)
    strips: list[dict[str, Any]] = field(default_factory=list)
    drawn: dict[str, Callable[[], bytes]] = field(default_factory=dict)
    """Place of a strip => the function that draws it."""
    failures: list[Failure] = field(default_factory=list)
    measured: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `quality`."""
    pictures: list[str] = field(default_factory=list)

    def add(self, table: str, rows: pa.Table) -> None:
        self.tables.setdefault(table, []).append(rows)


class Refused(Exception):
    """A picture that must not be worked on; its failure says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@final
@dataclass(frozen=True)
class Pictures(Step):
    VERSION: ClassVar[int] = 1

    store: str
    model: str
    wanted: Wanted
    inverting: Inverting | None = None
    rendering: Rendering | None = None
    batch_size: int = 16
    precision: Precision = "fp32"
    device: Device = "auto"

    def open(self) -> Batched:
        return _Worker(self).batched()


@final
class _Worker:
    """State that a worker keeps between batches. One thread loads, one finishes."""

    def __init__(self, step: Pictures) -> None:
        self.step, self.store = step, Store.open(step.store)
        bundle = open_model(step.model, self.store)
        self.bundle, self.framing = bundle, bundle.framing
        parts: Literal["all", "invert", "generate"] = "invert" if step.rendering is None else "generate"
        if step.inverting is not None and step.rendering is not None:
            parts = "all"
        model = bundle.load(parts)
        self.session = Session(model, device=resolve_device(step.device), precision=step.precision, batch_size=step.batch_size)
        self.detector = None
        if step.inverting is not None and step.inverting.decided_by is not None:
            require_same_detector(step.inverting.detector, step.inverting.decided_by)
            self.detector = step.inverting.detector.build(step.device)
        if step.rendering is not None:
            recipe = step.rendering.plan.recipe
            loaded = load_edits(recipe.names, bundle.editors(), recipe.editors, bundle.config.generator)
            self.editors = {name: edit.editor for name, edit in loaded.items()}
            self.records = records_of(recipe, loaded, step.rendering.recipe_id)
            self.identity = None if step.rendering.identity is None else open_identity(step.rendering.identity)
        self.known = Known(self.store, step.wanted)
        self.there: set[str] = set()
        """Places of edited files of the batch at which a file exists already."""
        self.sound: set[str] = set()
        """Packs whose footers are as they were written."""
        self.deleted = {one.path.stem for one in listed(self.store.root / "deleted", ".json")}
        self.sheet = Candidates(step.rendering.sheet_rows if step.rendering and step.rendering.sheets == "job" else 0)

    def batched(self) -> Batched:
        return Batched(self.load, self.finish)

    # ---------------------------------------------------------------------------------------------------- one picture

    def load(self, picture: Picture) -> tuple[Picture, bytes]:
        """Read a picture's bytes, once."""
        return picture, FETCHER.data(picture.uri)

    def opened(self, at: int, picture: Picture, data: bytes, timer: Timer) -> Opened | Result:
        """Decode a picture; => a result instead if nothing is left to do of it. Raises Refused, MediaError."""
        with timer("hash"):
            sha256 = hashlib.sha256(data).hexdigest()
        source_id = source_id_from_sha256(sha256)
        if picture.sha256 and sha256 != picture.sha256:
            message = f"{picture.uri}: is not the file that was inverted or probed any more; invert it again"
            raise Refused(Failure(picture.known_as, picture.uri, "probe", "changed", message))
        stored = self.known.is_inverted(source_id, sha256)
        output = self.output_of(picture)
        if stored and (output is None or self.known.is_rendered(source_id, output)):
            return Result(about={"done": True, "source_id": source_id})
        try:
            with timer("decode"):
                image = load_image(picture.uri, data)
        except MediaError as error:
            raise Refused(unreadable(picture.uri, "media_error", str(error))) from error
        if image.own and picture.found:
            return Result(about={"own": True})
        info = image_info(picture.uri, image, len(data), sha256)
        source = Source(source_id, info, picture.name)
        self.require_admitted(source, output)
        if not stored and self.step.inverting is None:
            message = f"{picture.uri}: its rows are not in the store; run styleres invert, or edit, with this store"
            raise Refused(Failure(source_id, picture.uri, "probe", "incomplete", message))
        if not stored and not self.step.wanted.overwrite:
            before = self.known.other_settings(source_id)
            if before is not None:
                raise Refused(other_settings(source, self.store, before, self.step.wanted.decides))
        return Opened(at, picture, source, image, output, stored)

    def output_of(self, picture: Picture) -> str | None:
        return None if self.step.rendering is None else self.step.rendering.outputs.of(picture).video

    def require_admitted(self, source: Source, output: str | None) -> None:
        if self.step.rendering is None or output is None:
            return
        admit = self.step.rendering.admit
        if output not in self.there and isinstance(admit, Admission):
            admit = replace(admit, overwrite=True)  # no need to look again
        failure = admit(source)
        if failure is None or (failure.reason == OUTPUT_EXISTS and self.known.owns(output)):
            return
        raise Refused(failure)

    # ------------------------------------------------------------------------------------------------------- a batch

    def finish(self, loaded: Sequence[tuple[Picture, bytes]]) -> list[Result | Exception]:
        timer, rows = Timer(), Rows()
        results: list[Result | Exception] = [Result()] * len(loaded)
        entry = secrets.token_hex(8)
        self.begin(entry, [picture for picture, _ in loaded])
        done: list[Opened] = []
        for group in self.groups(loaded, results, timer):
            self.scan([one for one in group if not one.stored], timer)
            self.read_codes([one for one in group if one.stored], timer)
            self.invert([one for one in group if not one.stored], rows, timer)
            if self.step.rendering is not None:
                self.render(group, self.step.rendering, rows, entry, timer)
            self.write(group, rows, timer)
            for one in group:
                one.image = BLANK
            done += group
        if done:
            self.record(entry, done, rows, results, timer)
        for at, result in enumerate(results):
            if isinstance(result, Result):
                results[at] = replace(result, seconds=dict(timer.seconds))
                break
        return results

    def begin(self, entry: str, pictures: Sequence[Picture]) -> None:
        """Write down the files that are going to be made: a run that is killed may make them again."""
        if self.step.rendering is None:
            return
        outputs = [one for one in map(self.output_of, pictures) if one is not None]
        self.there = {one for one in outputs if exists(place(one))}
        if not all(map(self.known.owns, self.there)) and not self.step.wanted.overwrite:
            self.known.look_at_begun()  # another worker may have begun them, and died
        fresh = [one for one in outputs if one not in self.there or self.known.owns(one)]
        if fresh:
            write_record(joined(self.store.root, f"{BEGUN}/{self.step.wanted.rendering}/{entry}.json"), {"places": fresh})
            self.known.own_places(fresh)

    def groups(
        self, loaded: Sequence[tuple[Picture, bytes]], results: list[Result | Exception], timer: Timer
    ) -> Iterator[list[Opened]]:
        """Yield pictures that are done together: as many as fill a batch of the model and fit into memory."""
        group: list[Opened] = []
        held = 0
        for at, (picture, data) in enumerate(loaded):
            try:
                one = self.opened(at, picture, data, timer)
            except Refused as refused:
                results[at] = Result(failures=(refused.failure,), about={"refused": True})
                continue
            except Exception as error:
                results[at] = error
                continue
            if isinstance(one, Result):
                results[at] = one
                continue
            group.append(one)
            held += one.image.frame.nbytes
            if len(group) >= self.step.batch_size or held >= HELD_BYTES:
                yield group
                group, held = [], 0
        if group:
            yield group

    # ---------------------------------------------------------------------------------------------------- inverting

    def scan(self, group: Sequence[Opened], timer: Timer) -> None:
        """Find faces, tracks and crops of pictures without rows."""
        inverting = self.step.inverting
        for one in group:
            assert inverting is not None
            source, frame = one.source, one.image.frame
            gone = deleted_of(self.store, source.source_id) if source.source_id in self.deleted else Deleted()
            if self.detector is not None:
                with timer("detect"):
                    found = [face for face in self.detector.detect(frame) if not gone.covers(0, face.box_xyxy)]
                    one.scanned = [replace(face, appearance=describe(frame, face.landmarks_52)) for face in found]
            with timer("track"):
                frames = [FrameFaces(0, 0.0, one.scanned)]
                if self.framing.crop == "ffhq":
                    tracked = track_faces(frames, Fraction(1), inverting.tracking)
                else:
                    quad_42 = self.framing.frame_quad(source.info.height, source.info.width)
                    tracked = track_whole_frames(frames, quad_42, inverting.tracking)
                one.tracked = left_of(tracked, gone)
                one.failures += left_out(source, frames, one.tracked)
            with timer("crop"):
                one.crops = [self.framing.cut(frame, track.quads[0], inverting.crop) for track in one.tracked.tracks]

    def invert(self, group: Sequence[Opened], rows: Rows, timer: Timer) -> None:
        """Compute the codes of pictures without rows, and add these rows."""
        if not group:
            return
        crops = [crop for one in group for crop in one.crops]
        detail: np.ndarray | None = None
        wplus_NLD = np.zeros((0, *self.bundle.wplus_shape), np.float32)
        if crops:
            with timer("model"):
                wplus_NLD, detail = self.session.invert(np.stack(crops))
        with timer("store"):
            finite = np.atleast_1d(np.isfinite(wplus_NLD).all(axis=(1, 2)))
            if detail is not None:
                finite &= np.isfinite(detail).all(axis=tuple(range(1, detail.ndim)))
            owners = [(one, track) for one in group for track in (one.tracked.tracks if one.tracked is not None else ())]
            kept = [pair for pair, good in zip(owners, finite, strict=True) if good]
            for (one, track), good in zip(owners, finite, strict=True):
                if not good:
                    one.failures.append(not_finite(one.source, track.track_id))
            ids = [one.source.source_id for one, _ in kept]
            tracks_N, pts_N = np.array([track.track_id for _, track in kept], np.int32), np.zeros(len(kept), np.int64)
            residuals: np.ndarray | None = None
            fresh = self.fresh(group, rows)
            if kept:
                latents = latents_table(ids, tracks_N, pts_N, wplus_NLD[finite])
                new = pa.array([one in fresh for one, _ in kept])
                rows.add("latents", latents.filter(new))
                if detail is not None:
                    table = residuals_table(ids, tracks_N, pts_N, detail[finite], self.store.info.residual_codec)
                    rows.add("residuals", table.filter(new))
                    residuals = residuals_from_table(table)  # as a render from the store would read them
            for at, (one, track) in enumerate(kept):
                held = None if residuals is None else residuals[at]
                one.codes.append(Coded(track.track_id, track.quads[0], track.landmarks[0], wplus_NLD[finite][at], held))
            self.add_small_rows(fresh, rows)

    def fresh(self, group: Sequence[Opened], rows: Rows) -> list[Opened]:
        """Return the pictures whose rows this batch does not have yet: two files may have the same bytes."""
        found = []
        for one in group:
            if one.source.source_id not in rows.members:
                rows.members[one.source.source_id] = f"{one.picture.mark:016x}"
                found.append(one)
        return found

    def add_small_rows(self, fresh: Sequence[Opened], rows: Rows) -> None:
        """Add rows of `sources`, `frames`, `faces` and `tracks` for several pictures."""
        if not fresh:
            return
        rows.add("sources", source_rows([one.source for one in fresh]))
        ids = [one.source.source_id for one in fresh]
        zeros_N = np.zeros(len(fresh), np.int64)
        counts_N = np.array([len(one.scanned) for one in fresh])
        rows.add("frames", frames_table(ids, zeros_N, np.full(len(fresh), np.nan), counts_N))
        faces = [(one.source.source_id, index, face) for one in fresh for index, face in enumerate(one.scanned)]
        if faces:
            source_ids, indices, each = zip(*faces, strict=True)
            rows.add("faces", rows_of_faces(source_ids, [0] * len(faces), indices, each))
        tracks = [(one.source.source_id, track) for one in fresh for track in (one.tracked.tracks if one.tracked else ())]
        if tracks:
            rows.add(
                "tracks",
                tracks_table(
                    [source_id for source_id, _ in tracks],
                    np.array([track.track_id for _, track in tracks]),
                    np.zeros(len(tracks), np.int64),
                    np.array([track.shot for _, track in tracks]),
                    np.stack([track.boxes[0] for _, track in tracks]),
                    np.stack([track.landmarks[0] for _, track in tracks]),
                    np.stack([track.quads[0] for _, track in tracks]),
                    np.array([track.interpolated[0] for _, track in tracks]),
                    np.array([track.scores[0] for _, track in tracks]),
                ),
            )

    def read_codes(self, group: Sequence[Opened], timer: Timer) -> None:
        """Read codes of pictures whose rows are in the store; damaged rows are made again."""
        if not group:
            return
        with timer("store"):
            by_holder: dict[str, list[Opened]] = {}
            for one in group:
                held = self.store.holder_of(one.source.source_id)
                by_holder.setdefault(held, []).append(one)
            again: list[Opened] = []
            for holder, mine in by_holder.items():
                if not is_pack(holder) and not self.store.has_manifest("invert", holder):
                    again += mine  # damage has cost their rows since this run began
                    continue
                try:
                    self.read_from(holder, mine)
                except DamagedPart:
                    if self.step.inverting is None:
                        raise
                    again += self.damaged(holder, mine)
            if again and self.step.inverting is None:
                raise StoreError(f"{again[0].picture.uri}: its rows are damaged; run styleres invert, or edit, with this store")
            for one in again:
                one.stored, one.codes = False, []
        self.scan(again, timer)

    def damaged(self, holder: str, group: Sequence[Opened]) -> list[Opened]:
        """Return the pictures of a damaged pack whose own rows cannot be read; the others get their codes."""
        found = []
        for one in group:
            try:
                self.read_from(holder, [one])
            except DamagedPart:
                found.append(one)
        return found

    def read_from(self, holder: str, group: Sequence[Opened]) -> None:
        ids = {one.source.source_id for one in group}
        if holder not in self.sound:
            self.store.require_sound(holder, ("tracks", "latents", "residuals"))
            self.sound.add(holder)
        tracks = self.store.read_some("tracks", holder, ids, ["source_id", "track_id", "quad", "landmarks"])
        latents = self.store.read_some("latents", holder, ids)
        kept = self.store.read_some("residuals", holder, ids)
        wplus_NLD = wplus_from_table(latents)
        quads, landmarks = array_from_column(tracks, "quad"), array_from_column(tracks, "landmarks")
        residuals = residuals_from_table(kept) if self.store.info.residual_shape != (0,) else None
        place_of = {key: at for at, key in enumerate(keys_of(tracks))}
        residual_of = {key: at for at, key in enumerate(keys_of(kept))}
        codes: dict[str, list[Coded]] = {}
        for at, key in enumerate(keys_of(latents)):
            row = place_of[key]
            held = None if residuals is None else residuals[residual_of[key]]
            codes.setdefault(key[0], []).append(Coded(key[1], quads[row], landmarks[row], wplus_NLD[at], held))
        for one in group:
            one.codes = sorted(codes.get(one.source.source_id, []), key=lambda code: code.track_id)

    # ---------------------------------------------------------------------------------------------------- rendering

    def render(self, group: Sequence[Opened], rendering: Rendering, rows: Rows, entry: str, timer: Timer) -> None:
        """Edit the pictures, and encode them in the formats of their files."""
        faces: list[tuple[Opened, Coded, FaceToRender]] = []
        applied: list[tuple[str, int, PlannedEdits]] = []
        with timer("edit"):
            for one in group:
                faces += self.planned(one, rendering, applied)
        with timer("store"):
            if applied:
                names = applied[0][2].edits
                rows.add(
                    "edits",
                    edits_table(
                        [source_id for source_id, _, _ in applied],
                        np.array([track_id for _, track_id, _ in applied]),
                        np.zeros(len(applied), np.int64),
                        rendering.recipe_id,
                        names,
                        np.concatenate([planned.strength_NE for _, _, planned in applied]),
                        np.concatenate([planned.weight_NE for _, _, planned in applied]),
                        self.records,
                    ),
                )
                rows.edited += [source_id for source_id, _, _ in applied]
        frames = {id(one): one.image.frame for one in group}
        # Faces of one size fill batches together, whichever picture they come from.
        for size in sorted({face.size for _, _, face in faces}):
            mine = [(one, face) for one, _, face in faces if face.size == size]
            shown = [self.is_shown(one, rendering) for one, _ in mine]
            own_codes = keeps_codes(rendering.plan.smoothing)
            with timer("model"):
                made = generate([face for _, face in mine], self.session, self.framing, rendering.paste, shown, own_codes)
            with timer("person"):
                people = people_in([(one.image.frame, face.quad_42) for one, face in mine], self.session, rendering.paste)
            for (one, _), (face, edited_crop, base_crop, reference), person in zip(mine, made, people, strict=True):
                frames[id(one)] = paste_face(frames[id(one)], face, edited_crop, reference, rendering.paste, timer, person)
                with timer("quality"):
                    self.measure(one, face, reference, edited_crop, frames[id(one)], rows)
                one.edits += 1
                if base_crop is None:
                    continue
                with timer("sheet"):
                    self.show(one, face, base_crop, edited_crop, frames[id(one)], rows, entry)
        for one in group:
            assert one.output is not None
            with timer("encode"):
                one.edited = encoded_image(one.output, frames[id(one)], like=one.image)

    def measure(
        self, one: Opened, face: FaceToRender, reference: np.ndarray | None, edited: np.ndarray, result: np.ndarray, rows: Rows
    ) -> None:
        """Add a row of `quality`. Another face's edit may be in `result`, too."""
        assert one.output is not None and self.step.rendering is not None
        source = one.image.frame
        kept = kept_identity(self.identity, source, result, face.landmarks_52)
        row = row_of(0, face.track, compared(source, reference, edited, face.quad_42), None, kept)
        of = {"source_id": one.source.source_id, "recipe_id": self.step.rendering.recipe_id, "path": one.output}
        rows.measured.append(row | of)

    def is_shown(self, one: Opened, rendering: Rendering) -> bool:
        """Return whether a contact sheet is sure to show the picture; one whose paste compares may also be among the worst."""
        return rendering.sheets == "each" or (rendering.sheets == "job" and self.sheet.takes(one.source.source_id, 0.0))

    def planned(
        self, one: Opened, rendering: Rendering, applied: list[tuple[str, int, PlannedEdits]]
    ) -> Iterator[tuple[Opened, Coded, FaceToRender]]:
        """Return the faces of a picture on which the recipe acts."""
        recipe, source = rendering.plan.recipe, one.source
        zero = np.zeros(1)
        one.failures += unknown_tracks(recipe, [code.track_id for code in one.codes], source)
        one.failures += never_acting(recipe, [(code.track_id, zero) for code in one.codes], source)
        size = rendering.plan.size
        if size is None:
            size = covering(largest_side([code.quad_42 for code in one.codes]), self.bundle.config)
        again = source.source_id in {source_id for source_id, _, _ in applied}
        for code in one.codes:
            if turned_degrees(code.landmarks_52[None])[0] >= rendering.plan.turn.away_degrees:
                one.failures.append(turned(source, code.track_id))
                continue
            planned = plan_edits(recipe, self.editors, code.wplus_LD[None], zero, code.track_id, rendering.plan.smoothing)
            if not planned.active_N.any():
                continue
            if not again:
                applied.append((source.source_id, code.track_id, planned))
            offset = planned.style_offset_AS[0] if planned.style_active_N.any() else None
            face = FaceToRender(
                code.quad_42,
                code.landmarks_52,
                1.0,
                planned.unedited_NLD[0],
                planned.edited_NLD[0],
                offset,
                code.residual,
                size,
                code.track_id,
            )
            yield one, code, face

    def show(
        self, one: Opened, face: FaceToRender, base: np.ndarray, edited: np.ndarray, pasted: np.ndarray, rows: Rows, entry: str
    ) -> None:
        """Keep a strip of a picture that may come onto the job's sheet, or write the picture's own."""
        assert self.step.rendering is not None
        rendering, name = self.step.rendering, PurePosixPath(one.source.output_name).name
        match rendering.sheets:
            case "none":
                return
            case "each":
                said, worst = "", 0.0
            case "job":
                worst = unlikeness(one.image.frame, face.quad_42, base)
                # If the paste needs no reconstruction, only those of pictures that were chosen before are there.
                if rendering.paste.mode != "replace" and not self.sheet.takes(one.source.source_id, worst):
                    return
                said = f"{name}  {worst:.1f} levels"
            case other:
                assert_never(other)
        file_name = f"{STRIPS}/{entry}-{one.at:05d}-{one.edits:03d}.png"
        rows.strips.append({"source_id": one.source.source_id, "name": name, "path": file_name, "worst": worst})
        strip = partial(strip_png, one.image.frame, base, edited, pasted, face.quad_42, said)
        if rendering.sheets == "each":
            self.write_strip(file_name, strip)
        else:
            rows.drawn[file_name] = strip
            kept = {one["path"] for one in rows.strips if self.sheet.has(one["source_id"], one["worst"])}
            rows.drawn = {path: draws for path, draws in rows.drawn.items() if path in kept}  # each holds its picture

    def write_strip(self, name: str, strip: Callable[[], bytes]) -> None:
        with writing(joined(self.store.root, name)) as file:
            file.write(strip())

    def write_best_strips(self, rows: Rows) -> None:
        """Write the strips of a batch that are still candidates: most were replaced by others."""
        rows.strips = [one for one in rows.strips if self.sheet.has(one["source_id"], one["worst"])]
        for one in rows.strips:
            self.write_strip(one["path"], rows.drawn[one["path"]])
        rows.drawn.clear()

    # ------------------------------------------------------------------------------------------------------ writing

    def write(self, group: Sequence[Opened], rows: Rows, timer: Timer) -> None:
        """Write the edited files, and their contact sheets if each has one."""
        if self.step.rendering is None:
            return
        with timer("write"):
            write_all({place(one.output): one.edited for one in group if one.output is not None})
            for one in group:
                self.note_written(one, self.step.rendering, rows)

    def note_written(self, one: Opened, rendering: Rendering, rows: Rows) -> None:
        """Record the files of a picture; remove the strips that its own sheet was made of."""
        if one.output is None:
            return
        made = [Written(one.output, len(one.edited), hashlib.sha256(one.edited).hexdigest())]
        one.edited = b""
        if rendering.sheets == "each":
            of = (strip["path"] for strip in rows.strips if strip["source_id"] == one.source.source_id)
            strips = [joined(self.store.root, path) for path in of]
            if strips:
                where = f"{one.output.rsplit('.', 1)[0]}.contact_sheet.png"
                with local_output(place(where)) as path:
                    write_sheet(strips, f"{PurePosixPath(one.source.uri).name}: {rendering.title}", path)
                    data = path.read_bytes()
                    made.append(Written(where, len(data), hashlib.sha256(data).hexdigest()))
            for strip in strips:
                remove(strip)
        rows.rendered.setdefault(one.source.source_id, []).extend(asdict(file) for file in made)

    def record(self, entry: str, done: Sequence[Opened], rows: Rows, results: list[Result | Exception], timer: Timer) -> None:
        """Write the rows of all pictures of the batch, then the entry that vouches for them and for the files."""
        if self.step.rendering is not None and self.step.rendering.sheets == "job":
            with timer("sheet"):
                self.write_best_strips(rows)
        with timer("store"):
            rows.failures += [failure for one in done for failure in one.failures]
            if rows.failures:
                rows.add("failures", failures_table(rows.failures))
            if rows.measured:
                rows.add("quality", pa.Table.from_pylist(rows.measured, schema=quality_schema()))
            files = []
            for table, pieces in rows.tables.items():
                name = f"{STAGED}/{entry}/{table}.parquet"
                together = pa.concat_tables(pieces)
                file = write_rows(joined(self.store.root, name), together, table, staged=True)
                files.append(Written(name, file.size_bytes, file.sha256, together.num_rows, file.tail_sha256))
            kept = [] if self.step.rendering is None or self.step.rendering.sheets == "each" else rows.strips
            content = {
                "inverting": self.step.wanted.inverting if rows.members else "",
                "rendering": self.step.wanted.rendering,
                "recipe_id": self.step.wanted.recipe_id,
                "pictures": [one.picture.uri for one in done],
                "known_as": sorted(
                    {name for one in done for name in (one.source.source_id, source_id_of_unreadable(one.picture.uri))}
                ),
                "members": rows.members,
                "edited": sorted(set(rows.edited)),
                "rendered": rows.rendered,
                "strips": kept,
                "files": [asdict(file) for file in files],
                "devices": {"pictures": sorted({self.session.device.type, *self.detected_on()})},
            }
            write_record(joined(self.store.root, f"{ENTRIES}/{entry}.json"), content)
        for place_in_batch, one in enumerate(done):
            faces = len(one.codes) if not one.stored else 0
            counts = {"frames": 1, "detections": len(one.scanned), "faces": faces, "edits": one.edits}
            about: dict[str, Any] = {"entry": entry, "source_id": one.source.source_id}
            if place_in_batch == 0:
                about["strips"] = kept
            results[one.at] = Result(
                counts,
                failures=tuple(one.failures),
                files=tuple(files) if place_in_batch == 0 else (),
                devices=(self.session.device.type,),
                about=about,
            )

    def detected_on(self) -> tuple[str, ...]:
        return () if self.detector is None else (self.detector.device_kind,)


BLANK: Final = LoadedImage(np.zeros((0, 0, 3), np.uint8), None, "", "")  # type: ignore[arg-type]
"""Stands in place of a picture that is done."""


@final
class Candidates:
    """Strips that may come onto the job's sheet, as far as one worker knows: of the smallest keys, and of the worst faces."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._keys: list[str] = []
        self._worst: list[float] = []

    def takes(self, source_id: str, worst: float) -> bool:
        """Add a strip; => whether it is among the best that were seen so far."""
        keys = sorted({*self._keys, source_id})[: self._rows]
        most = sorted([*self._worst, worst], reverse=True)[: self._rows // 2]
        taken = (source_id in keys and keys != self._keys) or most != self._worst
        self._keys, self._worst = keys, most
        return taken

    def has(self, source_id: str, worst: float) -> bool:
        """Return whether a strip is still among them."""
        return source_id in self._keys or worst in self._worst


def unlikeness(frame: np.ndarray, quad_42: np.ndarray, base: np.ndarray) -> float:
    """Return the mean difference in levels of a reconstruction, float [h, w, 3], from the frame's pixels in its quad."""
    size = (COMPARED_PIXELS, COMPARED_PIXELS)
    small = cv2.resize(np.asarray(base, np.float32), size, interpolation=cv2.INTER_AREA)
    return float(np.abs(np.clip(small, 0, 255) - crop_face(frame, quad_42, size)).mean())


def keys_of(rows: pa.Table) -> list[tuple[str, int]]:
    return list(zip(rows["source_id"].to_pylist(), rows["track_id"].to_pylist(), strict=True))


def not_finite(source: Source, track_id: int) -> Failure:
    message = "the encoder gave values that are not finite; the frame passes through"
    return Failure(source.source_id, source.uri, "invert", "not_finite", message, track_id=track_id, pts=0)


def write_job_sheet(store: Store, rendering: Rendering, strips: Sequence[Strip]) -> None:
    """Write the contact sheet of all pictures of a run, in place of an earlier one; a file of another origin stays."""
    where = place(rendering.outputs.job_sheet)
    if not strips or (exists(where) and not is_own_sheet(where)):
        return
    rows = [joined(store.root, one.path) for one in strips]
    with local_output(where) as path:
        write_sheet(rows, f"{rendering.title}: a fair sample, then those that are least like their source", path)


def is_own_sheet(where: Place) -> bool:
    try:
        return load_image(str(where), where.read_bytes()).own
    except MediaError:
        return False
