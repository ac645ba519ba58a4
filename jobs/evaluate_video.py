"""styleres evaluate video: an edited video against its source, frame by frame, in one pass over both."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jobs.common.errors import FAILED, UsageError, explained
from jobs.common.evaluate_options import TABLE, EditedVideo, Recogniser, Reports, rich_table, write_reports
from jobs.common.prepare import open_settled, probe_inputs
from jobs.common.values import Chosen, options_of
from ops.face.detect import Detector, DetectorSettings, Face
from ops.face.mask import MaskSettings
from ops.face.shots import shot_scores
from ops.face.track import FrameFaces, track_faces
from ops.metrics.metric import MetricError
from ops.metrics.report import json_of, markdown_of, table_of
from ops.metrics.video import WHOLE, TrackRows, measure_video
from ops.video.decode import FrameReader
from ops.video.errors import MediaError
from ops.video.probe import SourceInfo
from pipeline.store.columns import array_from_column
from pipeline.store.tables import Store
from schemas import source_id_from_sha256

MOST_COLUMNS = 6
"""Tracks that a table shows one by one; of more it shows only the whole."""


@options_of(TABLE, EditedVideo, Recogniser, Reports)
def video_command(chosen: Chosen) -> None:
    """Flicker, seams, identity and its drift, jitter of the quads, and what changed outside the mask, of an edited video."""
    video, reports = chosen.make(EditedVideo), chosen.make(Reports)
    source, edited, mask = video.source, video.edited, video.mask
    try:
        with explained():
            before, after = probed(source, video.allow_hdr), probed(edited, video.allow_hdr)
            require_same_frames(before, after)
            # Cheap refusals first: a store without this source is found before a network is loaded.
            tracks = None if video.store is None else stored_tracks(open_settled(video.store), before)
            identity = chosen.make(Recogniser).open()
            origin = f"store {video.store}"
            if tracks is None:
                tracks = detected_tracks(before, DetectorSettings().build("cpu"))
                origin = "found by CenterFace for this report, not by the edit"
            measurements = measure_video(frame_pairs(before, after), tracks, before.time_base, MaskSettings(mask), identity)
    except (MediaError, MetricError) as error:
        print(f"styleres: error: {error}", file=sys.stderr)
        raise SystemExit(FAILED) from error
    title = f"{edited.name} against {source.name}: {before.n_frames} frames, {len(tracks)} tracks ({origin}), mask {mask}"
    console = Console()
    console.print(title, markup=False)  # a file name may hold brackets
    shown = measurements if len(tracks) <= MOST_COLUMNS else [one for one in measurements if one.subject == WHOLE]
    console.print(rich_table(table_of(shown)))
    if len(shown) < len(measurements):
        console.print(f"over all {len(tracks)} tracks; --json has each of them")
    content: dict[str, Any] = {
        "source": str(source),
        "edited": str(edited),
        "frames": before.n_frames,
        "tracks": len(tracks),
        "tracks_from": origin,
        "mask": mask,
        "measurements": json_of(measurements),
    }
    write_reports(reports, content, f"{title}\n\n{markdown_of(shown)}")


def probed(path: Path, allow_hdr: bool) -> SourceInfo:
    """Raises MetricError with the reason why a file is not a video."""
    sources, failures = probe_inputs([path], allow_hdr=allow_hdr)
    if failures:
        raise MetricError(failures[0].message)
    return sources[0].info


def require_same_frames(source: SourceInfo, edited: SourceInfo) -> None:
    """Both show the same number of frames of one size at the same instants, counted from the first.

    Instants may differ by one tick of the coarser clock: containers round them differently. Raises MetricError.
    """
    pair = f"{edited.uri} is no edit of {source.uri}"
    if (source.width, source.height) != (edited.width, edited.height):
        raise MetricError(
            f"{pair}: expected {source.width}x{source.height} pixels, got {edited.width}x{edited.height}; "
            "name the full-size result of `styleres render`, not its contact sheet or its side-by-side view"
        )
    if source.n_frames != edited.n_frames:
        raise MetricError(f"{pair}: expected {source.n_frames} frames, got {edited.n_frames}; name the whole source and result")
    tick = max(source.time_base, edited.time_base)
    for i in range(source.n_frames):
        here, there = since_start(source, i), since_start(edited, i)
        if abs(here - there) > tick:
            raise MetricError(
                f"{pair}: frame {i} is shown at {float(there):.4f} s, in the source at {float(here):.4f} s after the first; "
                "the timing was changed on the way, so frames cannot be compared one by one"
            )


def since_start(info: SourceInfo, i: int) -> Fraction:
    """Seconds from the first frame to frame ordinal `i`."""
    return (int(info.pts[i]) - int(info.pts[0])) * info.time_base


def stored_tracks(store: Store, source: SourceInfo) -> list[TrackRows]:
    """The tracks that the edit was made with. Raises UsageError where the store does not hold this source."""
    source_id = source_id_from_sha256(source.sha256)
    if not store.is_complete(source_id):
        held = ", ".join(Path(row["uri"]).name for row in store.sources().to_pylist()[:20])
        raise UsageError(f"{store.root}: has no finished inversion of {source.uri}; it has: {held or 'nothing'}")
    table = store.read("tracks", source_id, columns=["track_id", "pts", "quad", "landmarks"])
    track_N, pts_N = table["track_id"].to_numpy(), table["pts"].to_numpy()
    quads, landmarks = array_from_column(table, "quad"), array_from_column(table, "landmarks")
    return [
        TrackRows(int(track), pts_N[track_N == track], quads[track_N == track], landmarks[track_N == track])
        for track in np.unique(track_N)
    ]


def detected_tracks(source: SourceInfo, detector: Detector) -> list[TrackRows]:
    """The same, found now in the source with default settings."""
    found: list[tuple[int, list[Face]]] = []

    def seen() -> Iterator[np.ndarray]:
        with FrameReader(source) as reader:
            for pts, frame in reader.read(0, source.n_frames):
                found.append((pts, detector.detect(frame)))
                yield frame

    scores = shot_scores(seen(), None)
    frames = [FrameFaces(pts, score, faces) for (pts, faces), score in zip(found, scores, strict=True)]
    result = track_faces(frames, source.time_base)
    return [TrackRows(track.track_id, track.pts, track.quads, track.landmarks) for track in result.tracks]


def frame_pairs(source: SourceInfo, edited: SourceInfo) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(pts of the source, source frame, edited frame), both converted exactly."""
    with FrameReader(source, conversion="exact") as before, FrameReader(edited, conversion="exact") as after:
        pairs = zip(before.read(0, source.n_frames), after.read(0, edited.n_frames), strict=True)
        for (pts, source_frame), (_, edited_frame) in pairs:
            yield pts, source_frame, edited_frame
