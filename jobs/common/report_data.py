"""Reads what a report shows from a store: sources, what was made of them, how it came out, and what was lost."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine.summary import Summary
from pipeline.steps.plan import shot_cuts
from pipeline.store.packs import members_of
from pipeline.store.places import folders, is_url, joined, listed, place, size_of
from pipeline.store.records import BrokenRecord, read_record, write_record
from pipeline.store.tables import Store, StoreError
from schemas import PASSED_THROUGH, Failure

RUNS_KEPT: Final = 100
MEASURES: Final = ("inversion_error", "flicker", "identity")


@dataclass(frozen=True)
class RunFacts:
    """A run of a job, as it was when it ended."""

    job: str
    command: str
    ended: str
    """UTC, ISO 8601, to the second."""
    seconds: float
    inputs: int
    frames: int
    faces: int
    edits: int
    lost: int
    inputs_failed: int
    inputs_finished_before: int
    out: str | None = None
    typed: tuple[str, ...] = ()
    """The inputs as they were typed."""

    @classmethod
    def of(
        cls, job: str, summary: Summary, *, inputs: int, seconds: float, out: str | None, typed: Sequence[str] = ()
    ) -> RunFacts:
        return cls(
            job,
            shlex.join(command_words()),
            datetime.now(UTC).isoformat(timespec="seconds"),
            round(seconds, 1),
            inputs,
            summary.counts["frames"],
            summary.counts["faces"],
            summary.counts["edits"],
            summary.lost_count,
            summary.sources_failed,
            summary.sources_skipped,
            out,
            tuple(typed),
        )

    def again(self, entry: Entry) -> str | None:
        """The command of this run for one source of it alone; None where it did not make this entry."""
        if entry.output is not None and (self.out is None or not is_below(entry.output, self.out)):
            return None
        words = [word for word in shlex.split(self.command) if word not in self.typed]
        if self.job == "render":
            more = ["--only", entry.source_id]
        elif self.typed and (is_url(entry.uri) or PurePath(entry.uri).is_absolute()):
            more = [entry.uri]
        else:
            return None
        overwrite = [] if "--overwrite" in words else ["--overwrite"]
        at = words.index(self.job) + 1 if self.job in words else len(words)  # python -m jobs.edit says it in its module
        return shlex.join([*words[:at], *more, *words[at:], *overwrite])


def command_words() -> list[str]:
    """The command as a person types it: `styleres edit …`, `python -m jobs.edit …`."""
    program = PurePath(sys.argv[0])
    if program.parent.name == "jobs" and program.suffix == ".py" and program.stem != "cli":
        return ["python", "-m", f"jobs.{program.stem}", *sys.argv[1:]]
    return ["styleres", *sys.argv[1:]]


def remember_run(store: Store, facts: RunFacts) -> None:
    """Add a run to those that the store knows of; the oldest go."""
    runs = [asdict(one) for one in known_runs(store)]
    write_record(joined(store.root, RUNS_FILE), {"runs": [*runs, asdict(facts)][-RUNS_KEPT:]})


def known_runs(store: Store) -> list[RunFacts]:
    """Oldest first; none if none were written, or the file is damaged."""
    try:
        runs = read_record(joined(store.root, RUNS_FILE))["runs"]
        return [RunFacts(**one | {"typed": tuple(one["typed"])}) for one in runs]
    except (BrokenRecord, FileNotFoundError, KeyError, TypeError):
        return []


RUNS_FILE: Final = "meta/runs.json"


@dataclass(frozen=True, eq=False)
class Entry:
    """A source, or one edited file of it."""

    source_id: str
    uri: str
    kind: str
    """`video`, `image`, or empty for an input that could not be read."""
    frames: int
    seconds: float
    tracks: int
    faces: int
    output: str | None = None
    """The edited file; None where it was inverted only, or lost."""
    recipe_id: str | None = None
    edits: int = 0
    """Faces edited, frame by frame."""
    medians: Mapping[str, float] = field(default_factory=dict)
    """Those of `MEASURES` that were measured."""
    worst: float | None = None
    """Largest trouble of any frame; None where nothing was measured that could be one."""
    failures: tuple[Failure, ...] = ()
    pictured: bool = True
    """Whether rows of `quality` hold pictures of it; those of a pack hold measures alone, and its files are the pictures."""

    @property
    def lost(self) -> tuple[Failure, ...]:
        return tuple(one for one in self.failures if one.reason not in PASSED_THROUGH)

    @property
    def name(self) -> str:
        return PurePath(self.uri.rsplit("#", 1)[-1] if "#" in self.uri else self.uri).name or self.uri

    @property
    def anchor(self) -> str:
        if self.output is None:
            return f"s-{self.source_id}"
        return f"s-{self.source_id}-{hashlib.sha256(self.output.encode()).hexdigest()[:8]}"

    @property
    def rank(self) -> tuple[bool, float, str]:
        """For sorting: losses first, then by trouble."""
        return not self.lost, -(self.worst or 0.0), self.uri


@dataclass(frozen=True)
class WorstFrame:
    """A frame of an edited file with a picture, and why it is here."""

    entry: Entry
    track: int
    seconds: float
    trouble: float
    why: str
    picture: bytes

    @property
    def clock(self) -> str:
        return clock_of(self.seconds)


@dataclass(frozen=True, eq=False)
class Series:
    """One track over time."""

    track: int
    seconds_N: np.ndarray
    values: Mapping[str, np.ndarray]
    """`inversion_error`, …: float [N], NaN where there is none."""


@dataclass(frozen=True, eq=False)
class Details:
    """The content of an entry's section, beside its numbers."""

    thumbnails: tuple[tuple[float, bytes], ...]
    """(seconds, WebP of source and result)."""
    worst: tuple[WorstFrame, ...] = ()
    series: tuple[Series, ...] = ()
    strengths: Mapping[str, tuple[Series, ...]] = field(default_factory=dict)
    """Edit => its strength, times its weight, on each track."""
    cuts: tuple[float, ...] = ()
    """Seconds of the shots' beginnings, but for the first."""


def clock_of(seconds: float) -> str:
    return f"{int(seconds) // 60}:{seconds % 60:05.2f}"


def entries_of(store: Store, out: str | None = None, only: Sequence[str] | None = None) -> Iterator[Entry]:
    """Every source of a store, once for each of its edited files. A source whose rows are damaged has that as its failure.

    out: only files at or below this place; sources without one are left out, unless something of them was lost.
    only: these sources' keys.
    """
    ids = sorted({*store.stored_source_ids(), *store.stored_source_ids("failures")}) if only is None else only
    made = files_made(store)
    for source_id in ids:
        try:
            yield from _entries_of(store, source_id, out, made.get(source_id, ()))
        except StoreError as error:
            failure = Failure(source_id, source_id, "report", "damaged_part", str(error))
            yield Entry(source_id, source_id, "", 0, 0.0, 0, 0, failures=(failure,))


def files_made(store: Store) -> dict[str, list[str]]:
    """Source => the edited pictures that manifests of renders vouch for. Of videos the table `quality` says it, and more."""
    found: dict[str, list[str]] = {}
    for stage in folders(store.root / "manifests"):
        if not stage.startswith("render-"):
            continue
        for file in listed(joined(store.root, f"manifests/{stage}"), ".json"):
            content = store.read_manifest(stage, file.path.stem) or {}
            outputs = [one["path"] for one in content.get("outputs", ())]
            for source_id, mine in members_of(content).items():
                paths = [outputs[at] for at in mine if not outputs[at].endswith(".contact_sheet.png")]
                found.setdefault(source_id, []).extend(paths)
    return found


def _entries_of(store: Store, source_id: str, out: str | None, made: Sequence[str]) -> Iterator[Entry]:
    failures = tuple(Failure(**row) for row in store.failures(source_id).to_pylist())
    rows = store.read("sources", source_id).to_pylist()
    if not rows:
        uri = failures[0].uri if failures else source_id
        yield Entry(source_id, uri, "", 0, 0.0, 0, 0, failures=failures)
        return
    row = rows[0]
    tick = row["time_base_num"] / row["time_base_den"]
    seconds = 0.0 if row["kind"] == "image" else (row["last_pts"] - row["pts"]) * tick
    tracks = pc.count_distinct(store.read("tracks", source_id, columns=["track_id"])["track_id"]).as_py()
    faces = len(store.read("latents", source_id, columns=["track_id"]))
    base = Entry(source_id, row["uri"], row["kind"], row["frame_count"], seconds, tracks, faces, failures=failures)
    columns = ["path", "recipe_id", *MEASURES, "trouble", *(["thumbnail"] if row["kind"] == "image" else [])]
    quality = store.read("quality", source_id, columns=columns)
    files: dict[str, list[str]] = {}
    for path, recipe_id in dict.fromkeys(zip(quality["path"].to_pylist(), quality["recipe_id"].to_pylist(), strict=True)):
        if out is None or is_below(path, out):
            files.setdefault(path, []).append(recipe_id)
    pictures = [path for path in dict.fromkeys(made) if path not in files and (out is None or is_below(path, out))]
    for path in pictures:
        yield replace(base, output=path, edits=faces)
    if not files and not pictures and (out is None or base.lost):
        yield base
    for path, recipes in files.items():
        recipe_id = recipes[0] if len(recipes) == 1 else recipe_in(store, source_id, path, recipes)
        mine = quality.filter(pc.and_(pc.equal(quality["path"], path), pc.equal(quality["recipe_id"], recipe_id)))
        medians = {}
        for name in MEASURES:
            values = mine[name].drop_null()
            if len(values):
                medians[name] = float(np.median(values.to_numpy()))
        yield Entry(
            **{name: getattr(base, name) for name in ("source_id", "uri", "kind", "frames", "seconds", "tracks", "faces")},
            output=path,
            recipe_id=recipe_id,
            edits=len(mine),
            medians=medians,
            worst=pc.max(mine["trouble"]).as_py() if medians else None,
            failures=failures,
            pictured=row["kind"] != "image" or mine["thumbnail"].null_count < len(mine),
        )


def recipe_in(store: Store, source_id: str, path: str, recipes: Sequence[str]) -> str:
    """Return the recipe whose result a file is, of several that were rendered into it one after the other."""
    size_bytes = size_of(place(path))
    for stage in folders(store.root / "manifests"):
        content = store.read_manifest(stage, source_id) or {}
        recipe_id = content.get("decides", {}).get("plan", {}).get("recipe")
        if recipe_id in recipes and {"path": path, "size_bytes": size_bytes} in [
            {"path": one["path"], "size_bytes": one["size_bytes"]} for one in content.get("outputs", ())
        ]:
            return str(recipe_id)
    return recipes[-1]


def is_below(path: str, out: str) -> bool:
    """Whether a result is a place or lies below it, by their names; `sub/../x.png` does not lie below `sub`.

    A bucket's names are taken as they are: `..` is none but a name there.
    """
    if not is_url(path) and not is_url(out):
        path, out = os.path.normpath(path), os.path.normpath(out)
    return path == out or path.startswith(out.rstrip("/") + "/")


def details_of(store: Store, entry: Entry) -> Details:
    """Read what the section of an edited file shows. Raises StoreError for damaged parts."""
    source = store.read("sources", entry.source_id).to_pylist()[0]
    tick, begin = source["time_base_num"] / source["time_base_den"], source["pts"]
    rows = measures_of(store, entry)
    seconds_N = (rows["pts"].to_numpy() - begin) * tick
    pictures = [(at, one) for at, one in enumerate(rows["picture"].to_pylist()) if one is not None]
    worst = sorted((_worst_frame(entry, rows, at, float(seconds_N[at]), one) for at, one in pictures), key=lambda w: -w.trouble)
    thumbnails = [(float(seconds_N[at]), one) for at, one in enumerate(rows["thumbnail"].to_pylist()) if one is not None]
    track_N = rows["track_id"].to_numpy()
    series = []
    for track in np.unique(track_N):
        mine = track_N == track
        values = {name: floats(rows[name])[mine] for name in MEASURES if name in entry.medians}
        series.append(Series(int(track), seconds_N[mine], values))
    return Details(
        tuple(thumbnails),
        tuple(worst),
        tuple(series),
        strengths_of(store, entry, begin, tick),
        cuts_of(store, entry, begin, tick),
    )


def measures_of(store: Store, entry: Entry) -> pa.Table:
    """The rows of `quality` of an edited file."""
    rows = store.read("quality", entry.source_id)
    return rows.filter(pc.and_(pc.equal(rows["path"], entry.output), pc.equal(rows["recipe_id"], entry.recipe_id)))


def worst_face(store: Store, entry: Entry, picture: bytes) -> WorstFrame:
    """The worst face of an edited picture, shown by the whole of it. Raises StoreError for damaged parts."""
    rows = measures_of(store, entry)
    return _worst_frame(entry, rows, int(np.argmax(rows["trouble"].to_numpy())), 0.0, picture)


def worst_of(store: Store, entry: Entry, count: int) -> list[WorstFrame]:
    """The worst frames of an edited file that have a picture. Raises StoreError for damaged parts."""
    return list(details_of(store, entry).worst[:count])


def _worst_frame(entry: Entry, rows: pa.Table, at: int, seconds: float, picture: bytes) -> WorstFrame:
    row = {name: rows[name][at].as_py() for name in ("track_id", "trouble", *MEASURES)}
    return WorstFrame(entry, row["track_id"], seconds, row["trouble"], why(row), picture)


def why(row: Mapping[str, Any]) -> str:
    """The measures of a row of `quality`, in words."""
    said = [f"inversion error {row['inversion_error']:.1f}"] if row["inversion_error"] is not None else []
    if row["flicker"] is not None:
        said.append(f"flicker {row['flicker']:.1f}")
    if row["identity"] is not None:
        said.append(f"identity {row['identity']:.2f}")
    return ", ".join(said)


def strengths_of(store: Store, entry: Entry, begin: int, tick: float) -> dict[str, tuple[Series, ...]]:
    columns = ["track_id", "pts", "recipe_id", "position", "edit", "strength", "weight"]
    rows = store.read("edits", entry.source_id, columns=columns)
    rows = rows.filter(pc.equal(rows["recipe_id"], entry.recipe_id))
    found: dict[str, list[Series]] = {}
    position_N, track_N = rows["position"].to_numpy(), rows["track_id"].to_numpy()
    value_N = floats(rows["strength"]) * floats(rows["weight"])
    seconds_N = (rows["pts"].to_numpy() - begin) * tick
    for position in np.unique(position_N):
        for track in np.unique(track_N):
            mine = (position_N == position) & (track_N == track)
            if mine.any():
                name = rows["edit"][int(np.flatnonzero(mine)[0])].as_py()
                found.setdefault(name, []).append(Series(int(track), seconds_N[mine], {"strength": value_N[mine]}))
    return {name: tuple(series) for name, series in found.items()}


def cuts_of(store: Store, entry: Entry, begin: int, tick: float) -> tuple[float, ...]:
    rows = store.read("frames", entry.source_id, columns=["pts", "cut_score"])
    return tuple((int(pts) - begin) * tick for pts in shot_cuts(rows))


def floats(column: pa.ChunkedArray) -> np.ndarray:
    """float64 [N], NaN for null."""
    return column.cast(pa.float64()).to_numpy()


def reasons(entries: Sequence[Entry]) -> list[tuple[str, int, str]]:
    """(reason, how often, one of its messages) of everything that was lost, the most frequent first."""
    counts: Counter[str] = Counter()
    example: dict[str, str] = {}
    # A source with several edited files has its failures once.
    for failures in {entry.source_id: entry.lost for entry in entries}.values():
        for one in failures:
            counts[one.reason] += 1
            example.setdefault(one.reason, one.message)
    return [(reason, count, example[reason]) for reason, count in counts.most_common()]
