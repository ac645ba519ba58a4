"""plan: `latents` of a whole source and a recipe => the codes to render. One item is a source; only W+ is read.

Smoothing needs a track as a whole, so this is a barrier, and it is cheap. The plan is a Parquet file in the store's work
folder, one row per face and frame that the recipe acts on.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from io import RawIOBase
from itertools import pairwise
from typing import IO, Any, ClassVar, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ops.editing.editor import AnyEditor
from ops.editing.library import LoadedEdit, load_edits
from ops.editing.plan import PlannedEdits, plan_edits
from ops.editing.recipe import EditRecipe
from ops.editing.smoothing import SmoothingSettings, smooth_codes
from ops.face.align import quad_side_pixels
from ops.face.boxes import box_overlap
from ops.face.shots import find_cuts
from ops.face.turn import TurnSettings, turned_away, turned_degrees
from ops.inversion.inverter import ModelConfig
from pipeline.engine.stage import Chunk, Result, Source, Step
from pipeline.engine.timer import Timer
from pipeline.steps.model import open_model
from pipeline.store.columns import array_from_column, edits_table, nested, rows_or_none, wplus_from_table
from pipeline.store.parts import DamagedPart
from pipeline.store.places import Listed, Place, joined, listed, opened, place, writing
from pipeline.store.tables import Store, StoreError, Written
from schemas import NEVER_ACTS, TURNED_AWAY, Failure

ROWS_PER_GROUP = 256  # a render chunk reads the groups it overlaps


@dataclass(frozen=True)
class PlanSettings:
    recipe: EditRecipe
    smoothing: SmoothingSettings = field(default_factory=SmoothingSettings)
    fade_seconds: float = 0.2
    """Seconds that an edit takes to appear where a track begins or ends in the middle of a shot."""
    turn: TurnSettings = field(default_factory=TurnSettings)
    """Limits beyond which a head is turned too far for an edit, which then fades out as at a track's end."""
    size: int | None = None
    """Side in pixels of the pictures that the generator makes; None for the smallest that covers the source's largest face."""


HIDDEN_OVERLAP = 0.1
"""Intersection over union of the guessed box of a face that is not seen with another's box from which that one hides it."""


@final
@dataclass(frozen=True)
class Plan(Step):
    VERSION: ClassVar[int] = 3  # 3: only what an edit adds is smoothed.

    store: str
    model: str
    settings: PlanSettings
    recipe_id: str
    """The driver's digest of the recipe and of the user's editor files."""

    def open(self) -> Callable[[Chunk], Result]:
        store, settings = Store.open(self.store), self.settings
        bundle, recipe = open_model(self.model, store), settings.recipe
        loaded = load_edits(recipe.names, bundle.editors(), recipe.editors, bundle.config.generator)
        editors = {name: edit.editor for name, edit in loaded.items()}
        recipe_id, records = self.recipe_id, records_of(recipe, loaded, self.recipe_id)

        def plan(chunk: Chunk) -> Result:
            source, timer = chunk.source, Timer()
            # Once for a source, before its chunks are rendered: a missing part would only look like fewer faces.
            # Residuals are most of a store: each chunk checks those that it reads.
            store.require_sound(source.source_id, ("frames", "tracks", "latents"), unread=("residuals",))
            codes = SourceCodes(store, source, settings.turn)
            failures = unknown_tracks(recipe, codes.tracks, source)
            path = plan_path(self.store, source)
            files: list[Written] = []
            pieces: list[tuple[PlannedRows, np.ndarray]] = []
            applied = []
            seen: list[tuple[int, np.ndarray]] = []
            for track in codes.tracks:
                seen.append((track, codes.seconds(track, recipe)))
                with timer("edit"):
                    planned = codes.planned(track, recipe, editors, settings, bundle.config)
                active = planned.active_N
                for first, last in codes.turned_away(track, planned.edits.active_N):
                    failures.append(turned(source, track, first, last))
                if not active.any():
                    continue
                applied.append(
                    edits_table(
                        source.source_id,
                        track,
                        planned.rows.pts_N[active],
                        recipe_id,
                        planned.edits.edits,
                        planned.edits.strength_NE[active],
                        planned.edits.weight_NE[active],
                        records,
                    )
                )
                pieces.append((planned.rows, np.flatnonzero(active)))
            failures += never_acting(recipe, seen, source)
            edited = 0
            with timer("store"):
                # If the recipe acts on nothing, the plan has no rows: a plan that is lost must not look like that.
                with writing(path) as file:
                    edited = write_plan(pieces, file)
                name = f"work/plan/{source.source_id}/{path.name}"
                files.append(Written(name, file.size_bytes, file.sha256, edited, file.tail_sha256))
                if pieces:
                    files.append(store.write_part("edits", source.source_id, recipe_id, pa.concat_tables(applied)))
            return Result({"edits": edited}, timer.seconds, tuple(failures), tuple(files))

        return plan


def records_of(recipe: EditRecipe, loaded: Mapping[str, LoadedEdit], recipe_id: str) -> dict[str, str]:
    """Return the records of the user's editors: name => kind and digest of its files.

    Raises StoreError if the files differ from those from which the driver made the `recipe_id`.
    """
    records = {name: edit.record for name, edit in loaded.items() if edit.record is not None}
    if recipe.id_with(records) != recipe_id:
        raise StoreError(
            f"the files of the editors {', '.join(records) or 'none'} on {platform.node()} are not those that the run "
            "began with; put the same files on every node"
        )
    return records


def unknown_tracks(recipe: EditRecipe, tracks: Sequence[int], source: Source) -> list[Failure]:
    """Return a row for each track that the recipe names and that is not among the source's `tracks`."""
    return [
        Failure(
            source.source_id,
            source.uri,
            "plan",
            "unknown_track",
            f"the recipe names track {track}; this source has tracks {list(tracks) or 'none'}",
            track_id=track,
        )
        for track in recipe.missing_tracks(tracks)
    ]


def hidden_moments(rows: pa.Table) -> dict[int, np.ndarray]:
    """Return track => the pts, int64 [M], in which it is not seen because another person's face hides it.

    `rows`: all rows of `tracks` of a source. An edit there would be made to the wrong person.
    """
    track_N, pts_N = rows["track_id"].to_numpy(), rows["pts"].to_numpy()
    guessed_N, box_N4 = rows["interpolated"].to_numpy(zero_copy_only=False), array_from_column(rows, "box")
    hidden: dict[int, list[int]] = {}
    for row in np.flatnonzero(guessed_N):
        others = np.flatnonzero((pts_N == pts_N[row]) & ~guessed_N & (track_N != track_N[row]))
        if others.size and box_overlap(box_N4[row][None], box_N4[others]).max() > HIDDEN_OVERLAP:
            hidden.setdefault(int(track_N[row]), []).append(int(pts_N[row]))
    return {track: np.array(moments, np.int64) for track, moments in hidden.items()}


def away_moments(rows: pa.Table, turn: TurnSettings) -> dict[int, np.ndarray]:
    """Return track => the pts, int64 [M], in which its head is turned away. `rows`: all rows of `tracks` of a source."""
    track_N, pts_N = rows["track_id"].to_numpy(), rows["pts"].to_numpy()
    degrees_N = turned_degrees(array_from_column(rows, "landmarks"))
    away: dict[int, np.ndarray] = {}
    for track in np.unique(track_N).tolist():
        mine = np.flatnonzero(track_N == track)
        mine = mine[np.argsort(pts_N[mine], kind="stable")]
        found = mine[turned_away(degrees_N[mine], turn)]
        if found.size:
            away[track] = pts_N[found]
    return away


def in_sight(pts_N: np.ndarray, hidden_M: np.ndarray, time_base: Fraction, seconds: float) -> np.ndarray:
    """Return 0 for frames in which a face is not seen well enough, rising to 1 over `seconds` before and after; float [N]."""
    if hidden_M.size == 0:
        return np.ones(len(pts_N))
    apart_N = np.abs(pts_N[:, None] - hidden_M[None, :]).min(axis=1) * float(time_base)
    return np.clip(apart_N / seconds, 0.0, 1.0) if seconds > 0 else (apart_N > 0).astype(np.float64)


def turned(source: Source, track: int, first: int | None = None, last: int | None = None) -> Failure:
    """Return the row of a face without its edit, in a stretch [first, last] of pts of its track, or in all of it."""
    if first is None or last is None:
        message = "the head is turned too far: the face is not edited (--turned-degrees)"
        return Failure(source.source_id, source.uri, "plan", TURNED_AWAY, message, track_id=track)
    seconds = [(pts - int(source.info.pts[0])) * float(source.info.time_base) for pts in (first, last)]
    span = f"from {seconds[0]:.2f} to {seconds[1]:.2f} s"
    message = f"the head is turned too far {span}: the edit is faded out there (--turned-degrees)"
    return Failure(source.source_id, source.uri, "plan", TURNED_AWAY, message, track_id=track, pts=first, last_pts=last)


def never_acting(recipe: EditRecipe, seen: Sequence[tuple[int, np.ndarray]], source: Source) -> list[Failure]:
    """Return a row for each entry of the recipe whose span has no frame of its faces, as it would do nothing without a word.

    `seen`: tracks, and the seconds of their frames on the recipe's clock.
    """
    rows = []
    for entry in recipe.edits:
        if entry.from_seconds is None and entry.to_seconds is None:
            continue
        mine = [seconds_N for track, seconds_N in seen if entry.tracks is None or track in entry.tracks]
        if not mine or any((entry.weights(seconds_N, (entry.tracks or (0,))[0]) > 0).any() for seconds_N in mine):
            continue
        first, last = min(float(one[0]) for one in mine), max(float(one[-1]) for one in mine)
        counted = "on its container's clock" if recipe.clock == "container" else "counted from its first frame"
        message = f"{entry.to_text()} acts on no frame: its faces are seen from {first:.3f} to {last:.3f} s, {counted}"
        rows.append(Failure(source.source_id, source.uri, "plan", NEVER_ACTS, message))
    return rows


def by_track(rows: pa.Table) -> pa.Table:
    """Return the rows in order of track, stable within each track, in one piece."""
    track_N = rows["track_id"].to_numpy()
    if (np.diff(track_N) < 0).any():  # a single face is in order, and spares a copy of all codes
        rows = rows.take(pa.array(np.argsort(track_N, kind="stable")))
    return rows.combine_chunks()


def plan_folder(store: str, source: Source) -> Place:
    return joined(place(store), f"work/plan/{source.source_id}")


def plan_path(store: str, source: Source) -> Place:
    return plan_folder(store, source) / "plan.parquet"


@dataclass(frozen=True, eq=False)
class PlannedRows:
    """The faces to render in one range of pts, in order of pts, then track."""

    pts_N: np.ndarray
    track_N: np.ndarray
    fade_N: np.ndarray
    unedited_NLD: np.ndarray
    edited_NLD: np.ndarray
    style_offset: Sequence[np.ndarray | None]
    """For each face, offsets of S of the edited code, float32 [S]; None for a face on which no edit in S acts."""
    size: int
    """Side in pixels of the pictures to make; one for a whole source, or a clip would change its sharpness."""


@dataclass(frozen=True, eq=False)
class PlannedTrack:
    """Edited codes of one track's faces."""

    rows: PlannedRows
    """For every frame, those on which the recipe does not act included."""
    active_N: np.ndarray
    """bool [N]: the frames to render. In the others the source's own pixels pass through."""
    edits: PlannedEdits


@final
class SourceCodes:
    """Codes of a source, with the places and times of its faces: all that planning a recipe reads from a store.

    Raises what `Store.read` raises.
    """

    def __init__(self, store: Store, source: Source, turn: TurnSettings | None = None) -> None:
        self.source = source
        # Track by track, so that each is a slice: codes are nearly all that grows with a clip.
        self._codes = by_track(store.read("latents", source.source_id))
        found = np.unique(self._codes["track_id"].to_numpy(), return_index=True, return_counts=True)
        tracks, starts, counts = (part.tolist() for part in found)
        self.tracks: list[int] = tracks
        self._slices = {track: (start, count) for track, start, count in zip(tracks, starts, counts, strict=True)}
        self.shots = shot_spans(store, source)
        """First and last pts of every shot."""
        columns = ["track_id", "pts", "box", "quad", "landmarks", "interpolated"]
        where = store.read("tracks", source.source_id, columns=columns)
        self._behind = hidden_moments(where)
        self._away = away_moments(where, turn or TurnSettings())
        self._largest_face = largest_face(where)

    def pts(self, track: int) -> np.ndarray:
        """Return the pts at which the track has codes, int64 [N], increasing."""
        return self._rows(track)["pts"].to_numpy()

    def seconds(self, track: int, recipe: EditRecipe) -> np.ndarray:
        """Return these instants in seconds on the recipe's clock, float64 [N]."""
        begin = 0 if recipe.clock == "container" else int(self.source.info.pts[0])
        return (self.pts(track) - begin) * float(self.source.info.time_base)

    def wplus(self, track: int) -> np.ndarray:
        """Return the track's codes as they were inverted, float32 [N, L, D]."""
        return wplus_from_table(self._rows(track))

    def _rows(self, track: int) -> pa.Table:
        return self._codes.slice(*self._slices[track])

    def size(self, settings: PlanSettings, config: ModelConfig) -> int:
        """Return the side in pixels of the pictures to make of this source."""
        return settings.size or covering(self._largest_face, config)

    def fade(self, track: int, seconds: float) -> np.ndarray:
        """Return the fade of each frame, 0..1: below 1 at the track's ends, where others hide it, and where it turns away."""
        pts_N, time_base = self.pts(track), self.source.info.time_base
        none = np.zeros(0, np.int64)
        unseen_M = np.concatenate([self._behind.get(track, none), self._away.get(track, none)])
        return fades(pts_N, self.shots, time_base, seconds) * in_sight(pts_N, unseen_M, time_base, seconds)

    def turned_away(self, track: int, acting_N: np.ndarray) -> list[tuple[int, int]]:
        """Return first and last pts of each stretch in which the track's head is turned away and an edit would act."""
        away_N = np.isin(self.pts(track), self._away.get(track, np.zeros(0, np.int64))) & acting_N
        edges = np.flatnonzero(np.diff(np.concatenate([[False], away_N, [False]])))
        pts_N = self.pts(track)
        return [(int(pts_N[start]), int(pts_N[stop - 1])) for start, stop in edges.reshape(-1, 2)]

    def planned(
        self,
        track: int,
        recipe: EditRecipe,
        editors: Mapping[str, AnyEditor],
        settings: PlanSettings,
        config: ModelConfig,
        *,
        rows: slice = slice(None),
        smoothed_NLD: np.ndarray | None = None,
    ) -> PlannedTrack:
        """Edit the codes of one track. `settings.recipe` is ignored.

        rows: slice of the track's frames to plan; their edits do not depend on which others are planned.
        smoothed_NLD: the whole track's codes, smoothed as `settings` say, to plan one track many times; None computes them.

        Raises as `plan_edits`.
        """
        pts_N, seconds_N = self.pts(track)[rows], self.seconds(track, recipe)[rows]
        smoothed_NLD = self.smoothed(track, recipe, settings) if smoothed_NLD is None else smoothed_NLD
        smoothed_NLD, wplus_NLD = smoothed_NLD[rows], self.wplus(track)[rows]
        planned = plan_edits(recipe, editors, wplus_NLD, seconds_N, track, settings.smoothing, smoothed_NLD=smoothed_NLD)
        fade_N = self.fade(track, settings.fade_seconds)[rows]
        offsets: list[np.ndarray | None] = [None] * len(pts_N)
        for row, offset_S in zip(np.flatnonzero(planned.style_active_N), planned.style_offset_AS, strict=True):
            offsets[row] = offset_S
        tracks_N, size = np.full(len(pts_N), track, np.int32), self.size(settings, config)
        made = PlannedRows(pts_N, tracks_N, fade_N, planned.unedited_NLD, planned.edited_NLD, offsets, size)
        return PlannedTrack(made, planned.active_N & (fade_N > 0), planned)

    def smoothed(self, track: int, recipe: EditRecipe, settings: PlanSettings) -> np.ndarray:
        """Return the track's codes before any edit, smoothed as `settings` say, float32 [N, L, D]."""
        return smooth_codes(self.wplus(track), self.seconds(track, recipe), settings.smoothing)


def largest_face(rows: pa.Table) -> float:
    """Return the longest side of all quads of a source, from rows of `tracks`, in source pixels; 0 without a face."""
    return largest_side(array_from_column(rows, "quad"))


def largest_side(quads_N42: Iterable[np.ndarray]) -> float:
    """Return the longest side of several quads in source pixels; 0 without a quad."""
    return max((quad_side_pixels(quad) for quad in quads_N42), default=0.0)


def covering(pixels: float, config: ModelConfig) -> int:
    """Return the side of the smallest picture of a model that has a pixel for each of the source's; no smaller than the model's
    input, which the rest of the picture is made from."""
    sizes = [size for size in config.generator.sizes if size >= min(config.input_size, config.generator.resolution)]
    return next((size for size in sizes if size >= pixels), sizes[-1])


def write_plan(tracks: Sequence[tuple[PlannedRows, np.ndarray]], out: IO[bytes] | RawIOBase) -> int:
    """Write the chosen rows of several tracks, in order of pts, then track; return how many.

    Written a group of rows at a time: codes are most of a plan, and one table of all would hold them twice more.
    """
    if not tracks:
        pq.write_table(pa.table({"track_id": pa.array([], pa.int32()), "pts": pa.array([], pa.int64())}), out)
        return 0
    pts = np.concatenate([planned.pts_N[rows] for planned, rows in tracks])
    owner = np.repeat(np.arange(len(tracks)), [len(rows) for _, rows in tracks])
    places = np.concatenate([rows for _, rows in tracks])
    order = np.lexsort([owner, pts])  # tracks come by their number
    writer: pq.ParquetWriter | None = None
    try:
        for start in range(0, len(order), ROWS_PER_GROUP):
            group = [(tracks[owner[at]][0], places[at]) for at in order[start : start + ROWS_PER_GROUP]]
            shape = group[0][0].unedited_NLD.shape[1:]
            table = pa.table(
                {
                    "track_id": np.array([planned.track_N[row] for planned, row in group], np.int32),
                    "pts": np.array([planned.pts_N[row] for planned, row in group], np.int64),
                    "fade": np.array([planned.fade_N[row] for planned, row in group], np.float32),
                    "size": np.array([planned.size for planned, _ in group], np.int32),
                    "base": nested(np.stack([planned.unedited_NLD[row] for planned, row in group]), np.float32, shape, "base"),
                    "edited": nested(
                        np.stack([planned.edited_NLD[row] for planned, row in group]), np.float32, shape, "edited"
                    ),
                    # Lists rather than arrays of one size: a face without an offset then takes no space.
                    "style_offset": pa.array([planned.style_offset[row] for planned, row in group], pa.list_(pa.float32())),
                }
            )
            writer = writer or pq.ParquetWriter(out, table.schema, use_dictionary=False, write_page_checksum=True)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    return len(order)


def read_plan(store: str, source: Source, pts_range: tuple[int, int]) -> PlannedRows | None:
    """Read the planned rows with pts in a range, both ends included; None if the recipe acts on nothing there."""
    first, last = pts_range
    return planned_rows(plan_rows(store, source, filters=[("pts", ">=", first), ("pts", "<=", last)]))


def planned_rows(rows: pa.Table) -> PlannedRows | None:
    if len(rows) == 0:
        return None
    return PlannedRows(
        rows["pts"].to_numpy(),
        rows["track_id"].to_numpy(),
        rows["fade"].to_numpy(),
        array_from_column(rows, "base"),
        array_from_column(rows, "edited"),
        rows_or_none(rows, "style_offset"),
        rows["size"][0].as_py(),
    )


@final
class PlanOf:
    """Reads edit plans; keeps that of the last source open, so that its footer is read once. For one thread."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._of: tuple[str, str] | None = None
        self._file: Listed | None = None
        self._footer: pq.FileMetaData | None = None
        self._spans: list[tuple[int, int]] = []

    def rows(self, chunk: Chunk) -> PlannedRows | None:
        """Return the faces to render in a chunk; None if the recipe acts on nothing there. Raises DamagedPart."""
        if not chunk.key:
            return read_plan(self._store, chunk.source, chunk.pts_range)
        path, of = plan_path(self._store, chunk.source), (chunk.source.source_id, chunk.key)
        known = self._footer if self._of == of else None
        if known is None:
            there = (one for one in listed(plan_folder(self._store, chunk.source)) if one.path == path)
            self._file = next(there, Listed(path, 0, ""))
        assert self._file is not None
        try:
            with opened(self._file) as file:
                plan = pq.ParquetFile(file, metadata=known, page_checksum_verification=True, pre_buffer=True)
                if known is None:
                    self._footer, self._of = plan.metadata, of
                    self._spans = pts_spans(plan.metadata)
                first, last = chunk.pts_range
                groups = [at for at, (start, stop) in enumerate(self._spans) if start <= last and first <= stop]
                if not groups:
                    return None
                rows = plan.read_row_groups(groups)
        except (OSError, pa.ArrowException) as error:
            self._of = None  # another one may take its place
            raise DamagedPart({path: str(error)}) from error
        pts_N = rows["pts"].to_numpy()
        return planned_rows(rows.filter(pa.array((pts_N >= first) & (pts_N <= last))))


def pts_spans(footer: pq.FileMetaData) -> list[tuple[int, int]]:
    """Return first and last pts of each row group of a plan."""
    column = footer.schema.names.index("pts")
    found = [footer.row_group(at).column(column).statistics for at in range(footer.num_row_groups)]
    return [(one.min, one.max) for one in found if one is not None and one.has_min_max]


def planned_pts(store: str, source: Source) -> np.ndarray:
    """Read every pts at which the recipe acts, increasing; only that column is read."""
    return np.unique(plan_rows(store, source, columns=["pts"])["pts"].to_numpy())


def plan_rows(store: str, source: Source, **chosen: Any) -> pa.Table:
    """Read rows of the plan's file. Raises DamagedPart."""
    path = plan_path(store, source)
    try:
        with path.open("rb") as file:
            return pq.read_table(file, page_checksum_verification=True, **chosen)
    except (OSError, pa.ArrowException) as error:
        raise DamagedPart({path: str(error)}) from error


def shot_spans(store: Store, source: Source) -> list[tuple[int, int]]:
    """Return first and last pts of every shot."""
    frames = store.read("frames", source.source_id, columns=["pts", "cut_score"])
    pts = frames["pts"].to_numpy()
    if len(pts) == 0:
        return []
    starts = [0, *np.searchsorted(pts, shot_cuts(frames)).tolist(), len(pts)]
    return [(int(pts[a]), int(pts[b - 1])) for a, b in pairwise(starts)]


def shot_cuts(frames: pa.Table) -> np.ndarray:
    """Return the pts, int64 [C], at which every shot but the first begins, from rows of `frames` of a source."""
    cuts = find_cuts(score or 0.0 for score in frames["cut_score"].to_pylist())
    return frames["pts"].to_numpy()[np.array(cuts, np.int64)]


def fades(pts_N: np.ndarray, shots: list[tuple[int, int]], time_base: Fraction, seconds: float) -> np.ndarray:
    """Return the fade of one track's edit in each frame, float [N], 0..1: below 1 where its face comes or goes within a shot.

    At a cut there is nothing to fade from, so for a track that touches its shot's first or last frame it is 1 there.
    """
    fade_N = np.ones(len(pts_N))
    if seconds <= 0 or len(pts_N) == 0:
        return fade_N
    first, last = pts_N[0], pts_N[-1]
    step = (last - first) / max(len(pts_N) - 1, 1)
    ticks = seconds / float(time_base) + step
    if all(first != start for start, _ in shots):
        fade_N = np.minimum(fade_N, (pts_N - first + step) / ticks)
    if all(last != stop for _, stop in shots):
        fade_N = np.minimum(fade_N, (last - pts_N + step) / ticks)
    return np.clip(fade_N, 0.0, 1.0)
