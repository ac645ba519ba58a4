"""Both jobs as one flow: what a result may depend on (inputs, settings), and what not (how the work was cut up)."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import safetensors.torch
import torch

import ops.inversion.styleres as styleres
from ops.checkpoints.bundle import Bundle, open_bundle, write_bundle
from ops.editing.definitions import Definition
from ops.editing.library import load_edits
from ops.editing.plan import plan_edits
from ops.editing.recipe import parse_edits
from ops.editing.smoothing import SmoothingSettings
from ops.face.align import crop_face
from ops.face.paste import PasteSettings, paste
from ops.face.person import person_in
from ops.generators.protocol import style_channels
from ops.inversion.session import Session
from ops.video.decode import FrameReader
from ops.video.encode import EncodeOptions
from ops.video.probe import probe
from pipeline import flow
from pipeline.engine.stage import Chunk, Result, Source
from pipeline.sources.readers import Readers
from pipeline.steps import render, scan
from pipeline.steps.plan import Plan, PlanSettings, fades, read_plan, shot_spans
from pipeline.store.columns import array_from_column, residuals_from_table, wplus_from_table
from pipeline.store.tables import Store
from tests import tiny
from tests.ops.video.media import decode_all, payloads, psnr

X264 = EncodeOptions(preset="veryfast", gop_frames=8, quality=20)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, kept: Store, source: Source, bundle: Bundle) -> Path:
    """One render without loss, in chunks of 24 frames and batches of 4, that others are compared with."""
    (video,), _ = tiny.rendered(tmp_path_factory.mktemp("reference"), kept, [source], bundle, "warm=1", chunk_frames=24)
    return video


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, kept: Store, source: Source, bundle: Bundle) -> Path:
    """The same with everything that a default render does: within the person, and with a contact sheet."""
    (video,), _ = default_render(tmp_path_factory.mktemp("encoded"), kept, source, bundle, chunk_frames=24)
    return video


def default_render(
    folder: Path, kept: Store, source: Source, bundle: Bundle, **settings: Any
) -> tuple[list[Path], flow.Summary]:
    return tiny.rendered(
        folder, kept, [source], bundle, "warm=1", encode=X264, paste=PasteSettings(), sheet_frames=2, **settings
    )


def source_frames(source: Source) -> list[np.ndarray]:
    """Frames as a render sees them."""
    with FrameReader(source.info, conversion="exact") as reader:
        return [frame for _, frame in reader.read(0, source.info.n_frames)]


def pictures(path: Path) -> list[np.ndarray]:
    return decode_all(path)[1]


def worst_difference(a: list[np.ndarray], b: list[np.ndarray]) -> int:
    assert len(a) == len(b)
    return max(int(np.abs(x.astype(int) - y).max()) for x, y in zip(a, b, strict=True))


def assert_same_rows(one: Store, two: Store) -> None:
    ours, theirs = tiny.rows_of(one), tiny.rows_of(two)
    for name, rows in theirs.items():
        assert ours[name].equals(rows), name


# ------------------------------------------------------------------------------------------------ what is in the store


def test_the_store_holds_every_face_of_every_frame(kept: Store, source: Source, bundle: Bundle) -> None:
    tracks, latents = kept.read("tracks"), kept.read("latents")
    lengths = {t: pc.sum(pc.equal(tracks["track_id"], t)).as_py() for t in (0, 1, 2)}
    assert lengths == {0: 15, 1: 42, 2: 12}, "left until it goes, right all along, left again as a new track"
    assert latents.select(["track_id", "pts"]) == tracks.select(["track_id", "pts"])
    assert wplus_from_table(latents).shape[1:] == bundle.wplus_shape
    assert residuals_from_table(kept.read("residuals")).shape[1:] == bundle.residual_shape
    assert kept.read("frames")["pts"].to_pylist() == source.info.pts.tolist()
    assert kept.is_complete(source.source_id)


def test_codes_are_those_of_the_crops(kept: Store, source: Source, bundle: Bundle) -> None:
    """The store against the model called by hand, so that rows cannot be swapped among tracks or frames."""
    session = Session(bundle.load("all"), device="cpu", precision="fp32", batch_size=4)
    with FrameReader(source.info) as reader:
        frame_at = dict(reader.read(0, source.info.n_frames))
    tracks = kept.read("tracks")
    quads = array_from_column(tracks, "quad")
    crops = np.stack([crop_face(frame_at[p], q, 32) for p, q in zip(tracks["pts"].to_pylist(), quads, strict=True)])
    wplus_NLD, detail = session.invert(crops)
    assert np.array_equal(wplus_from_table(kept.read("latents")), wplus_NLD)
    assert detail is not None and np.array_equal(residuals_from_table(kept.read("residuals")), detail)
    assert wplus_NLD.std(axis=0).mean() > 0.05, "the premise: faces have different codes"


# ---------------------------------------------------------------------------------------- how the work is cut up: rows


@pytest.mark.parametrize("chunk_frames", [7, 64])
def test_rows_do_not_depend_on_the_length_of_chunks(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, chunk_frames: int
) -> None:
    store, _ = tiny.inverted(tmp_path / "s", [source], bundle, chunk_frames=chunk_frames)
    assert_same_rows(store, kept)
    assert len(store.parts("latents", source.source_id)) != len(kept.parts("latents", source.source_id)), "the premise"


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_rows_do_not_depend_on_the_size_of_batches(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, batch_size: int
) -> None:
    """To the last bits of float32: kernels are chosen by shape."""
    store, _ = tiny.inverted(tmp_path / "s", [source], bundle, batch_size=batch_size)
    ours, theirs = tiny.rows_of(store), tiny.rows_of(kept)
    assert ours["tracks"].equals(theirs["tracks"])
    for name, read in (("latents", wplus_from_table), ("residuals", residuals_from_table)):
        a, b = read(ours[name]), read(theirs[name])
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max(), name


# -------------------------------------------------------------------------------------- how the work is cut up: pixels


@pytest.mark.parametrize("chunk_frames", [8, 64])
def test_the_edited_file_has_the_same_bytes_for_any_chunk(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, encoded: Path, chunk_frames: int
) -> None:
    (video,), summary = default_render(tmp_path, kept, source, bundle, chunk_frames=chunk_frames)
    assert summary.counts["frames"] == 42 and summary.counts["edits"] == 69 and not summary.failures
    assert video.read_bytes() == encoded.read_bytes()


@pytest.mark.parametrize("chunk_frames", [3, 20, 64])
def test_the_edited_frames_have_the_same_bits_for_any_chunk(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, reference: Path, chunk_frames: int
) -> None:
    (video,), summary = tiny.rendered(tmp_path / "b", kept, [source], bundle, "warm=1", chunk_frames=chunk_frames)
    assert summary.counts["frames"] == 42 and summary.counts["edits"] == 69 and not summary.failures
    assert video.read_bytes() == reference.read_bytes()


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_pixels_do_not_depend_on_the_size_of_batches(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, reference: Path, batch_size: int
) -> None:
    (video,), _ = tiny.rendered(tmp_path / "b", kept, [source], bundle, "warm=1", batch_size=batch_size)
    assert worst_difference(pictures(video), pictures(reference)) <= 1
    assert worst_difference(pictures(video), source_frames(source)) > 5, "the premise: the edit is to be seen"


# -------------------------------------------------------------------------------- the direct edit, without any pipeline


def directly_edited(
    source: Source, store: Store, bundle: Bundle, *edits: str, editors: Sequence[Definition] = ()
) -> list[np.ndarray]:
    """crop, invert, edit, generate, paste: in memory, with ops only. Quads are the store's: smoothing is tested elsewhere."""
    session = Session(bundle.load("all"), device="cpu", precision="fp32", batch_size=4)
    frames = source_frames(source)
    with FrameReader(source.info) as reader:
        seen = [frame for _, frame in reader.read(0, source.info.n_frames)]
    rows, spans = store.read("tracks"), shot_spans(store, source)
    result = [frame.copy() for frame in frames]
    ordinal_at = {int(pts): i for i, pts in enumerate(source.info.pts)}
    for track in sorted(set(rows["track_id"].to_pylist())):
        mine = rows.filter(pc.equal(rows["track_id"], track))
        quads, landmarks = array_from_column(mine, "quad"), array_from_column(mine, "landmarks")
        pts_N = mine["pts"].to_numpy()
        crops = np.stack([crop_face(seen[ordinal_at[p]], quads[i], 32) for i, p in enumerate(pts_N.tolist())])
        wplus_NLD, detail = session.invert(crops)
        seconds_N = pts_N * float(source.info.time_base)
        recipe = parse_edits(edits)
        loaded = load_edits(recipe.names, bundle.editors(), editors, bundle.config.generator)
        chosen = {name: edit.editor for name, edit in loaded.items()}
        planned = plan_edits(recipe, chosen, wplus_NLD, seconds_N, track, SmoothingSettings())
        offset_NS = np.zeros((len(pts_N), sum(style_channels(bundle.config.generator).values())), np.float32)
        if planned.style_active_N.any():
            offset_NS[planned.style_active_N] = planned.style_offset_AS
        fade_N = fades(pts_N, spans, source.info.time_base, 0.2).astype(np.float32)
        edited, base = (
            session.generate_levels(planned.edited_NLD, detail, offset_NS),
            session.generate_levels(planned.unedited_NLD, detail),
        )
        for i, pts in enumerate(pts_N.tolist()):
            if not planned.active_N[i]:
                continue
            at = ordinal_at[pts]
            seen_person = person_in(result[at], quads[i])
            result[at] = paste(
                result[at],
                edited[i],
                base[i],
                quads[i],
                PasteSettings(),
                landmarks=landmarks[i],
                fade=float(fade_N[i]),
                person=seen_person,
            )
    return result


def test_a_render_from_the_store_equals_the_direct_edit(tmp_path: Path, kept: Store, source: Source, bundle: Bundle) -> None:
    (video,), _ = tiny.rendered(tmp_path / "o", kept, [source], bundle, "warm=1", paste=PasteSettings())
    assert worst_difference(pictures(video), directly_edited(source, kept, bundle, "warm=1")) == 0


USER_EDITS = (
    "grin=0:0,0.8:2@track=1@ease=linear",
    "brows=0:3,0.8:0@track=1",
    "hair=0.15@track=1@from=0.4@to=1.4@fade=0.3",
    "brows=-1@track=0",
    "warm=1@track=2",
)
"""Every kind of user's editor with keyframes and fades on one track, S alone on another, the model's own on the third."""


def test_users_edits_from_the_store_equal_the_direct_ones(tmp_path: Path, kept: Store, source: Source, bundle: Bundle) -> None:
    editors = tiny.user_editors(tmp_path / "files")
    (video,), summary = tiny.rendered(
        tmp_path / "o", kept, [source], bundle, *USER_EDITS, editors=editors, paste=PasteSettings()
    )
    assert not summary.lost and summary.counts["edits"] == 69
    direct = directly_edited(source, kept, bundle, *USER_EDITS, editors=editors)
    assert worst_difference(pictures(video), direct) == 0
    others = [edit for edit in USER_EDITS if not edit.startswith("brows")]
    (without,), _ = tiny.rendered(tmp_path / "w", kept, [source], bundle, *others, editors=editors, paste=PasteSettings())
    assert worst_difference(pictures(without), direct) > 5, "the premise: the edit in S is to be seen"


@pytest.mark.parametrize("chunk_frames", [8, 64])
def test_users_edits_have_the_same_bytes_for_any_chunk(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, chunk_frames: int
) -> None:
    editors = tiny.user_editors(tmp_path / "files")
    (one,), _ = tiny.rendered(tmp_path / "a", kept, [source], bundle, *USER_EDITS, editors=editors, chunk_frames=24)
    (two,), _ = tiny.rendered(tmp_path / "b", kept, [source], bundle, *USER_EDITS, editors=editors, chunk_frames=chunk_frames)
    assert two.read_bytes() == one.read_bytes()


def test_only_faces_with_an_edit_in_style_space_have_an_offset_in_the_plan(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle
) -> None:
    recipe = parse_edits(["warm=1", "brows=1@track=1@from=0.4@to=0.8"]).with_editors(tiny.user_editors(tmp_path / "files"))
    step = Plan(str(kept.root), str(bundle.path), PlanSettings(recipe), flow.identity_of(recipe, bundle)[0])
    step.open()(source.whole())
    span = int(source.info.pts[0]), int(source.info.pts[-1])
    planned = read_plan(str(kept.root), source, span)
    assert planned is not None and len(planned.pts_N) == 69
    has = np.array([offset is not None for offset in planned.style_offset])
    inside = (planned.track_N == 1) & np.isin(planned.pts_N, source.info.pts[10:20])
    np.testing.assert_array_equal(has, inside)
    offset = next(one for one in planned.style_offset if one is not None)
    loaded = load_edits(["brows"], {}, recipe.editors, bundle.config.generator)["brows"].editor
    np.testing.assert_array_equal(offset, loaded.offset(torch.ones(1))[0].numpy())  # type: ignore[attr-defined]


@pytest.mark.parametrize("edit", ["brows=0", "brows=1@track=7", "brows=3@from=100"])
def test_an_edit_in_style_space_of_nothing_gives_the_decoded_source(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, edit: str
) -> None:
    editors = tiny.user_editors(tmp_path / "files")
    (video,), _ = tiny.rendered(tmp_path / "o", kept, [source], bundle, edit, editors=editors)
    assert worst_difference(pictures(video), source_frames(source)) == 0


def test_what_was_applied_is_told_with_the_files_it_came_from(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle
) -> None:
    """In the store, row by row, and in the edited file itself. Another file under the same name is another recipe."""
    editors = tiny.user_editors(tmp_path / "files")
    edits = ("grin=1.25@track=1", "warm=0.5@track=1")
    (video,), _ = tiny.rendered(tmp_path / "a", kept, [source], bundle, *edits, editors=editors)
    digest = hashlib.sha256((tmp_path / "files" / "grin.npy").read_bytes()).hexdigest()
    record = f"direction path=grin.npy sha256:{digest} rows=(1, 6)"
    rows = kept.read("edits", source.source_id)
    mine = rows.filter(pc.equal(rows["recipe_id"], parse_edits(edits).id_with({"grin": record})))
    told = set(zip(*(mine[name].to_pylist() for name in ("edit", "strength", "editor")), strict=True))
    assert told == {("grin", 1.25, record), ("warm", 0.5, None)} and len(mine) == 84
    with av.open(str(video)) as file:
        assert any(f"grin: {record}" in value for value in file.metadata.values()), file.metadata
    np.save(tmp_path / "files" / "grin.npy", np.load(tmp_path / "files" / "grin.npy")[::-1].copy())
    recipe = parse_edits(edits).with_editors(editors)
    Plan(str(kept.root), str(bundle.path), PlanSettings(recipe), flow.identity_of(recipe, bundle)[0]).open()(source.whole())
    after = kept.read("edits", source.source_id)
    assert len(after) == len(rows) + 84, "the rows of the first render stay"


def test_a_float16_store_renders_almost_the_same(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, reference: Path
) -> None:
    """Half the space costs 11 bits of mantissa: far below one level of 255."""
    half, _ = tiny.inverted(tmp_path / "s", [source], bundle, codec="float16")
    assert half.sizes_bytes()["residuals"] < 0.6 * kept.sizes_bytes()["residuals"]
    (one,), _ = tiny.rendered(tmp_path / "a", half, [source], bundle, "warm=1")
    worst = min(psnr(a, b) for a, b in zip(pictures(one), pictures(reference), strict=True))
    assert worst > 55, f"{worst:.1f} dB"
    assert worst_difference(pictures(one), pictures(reference)) <= 1


def test_an_int8_store_renders_what_people_cannot_tell_apart(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, reference: Path
) -> None:
    """An eighth of the space and less; rows do not depend on the length of chunks."""
    small, _ = tiny.inverted(tmp_path / "s", [source], bundle, codec="int8")
    other, _ = tiny.inverted(tmp_path / "t", [source], bundle, codec="int8", chunk_frames=7)
    assert_same_rows(small, other)
    assert small.sizes_bytes()["residuals"] < 0.3 * kept.sizes_bytes()["residuals"]
    (one,), _ = tiny.rendered(tmp_path / "a", small, [source], bundle, "warm=1")
    worst = min(psnr(a, b) for a, b in zip(pictures(one), pictures(reference), strict=True))
    assert worst > 45, f"{worst:.1f} dB"


def test_a_render_loads_no_encoder_and_no_detector(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither built nor needed on the disk: a bundle without those tensors renders the same file."""

    def refused(*args: object, **named: object) -> None:
        raise AssertionError("a render built an encoder or a detector")

    for name in ("E4eEncoder", "Alignment", "Extraction"):
        monkeypatch.setattr(styleres, name, refused)
    tiny.refuse_detectors(monkeypatch)
    weights = safetensors.torch.load_file(bundle.path / "weights.safetensors")
    stripped = write_bundle(
        tmp_path / "bundle",
        name="tiny",
        method="styleres",
        config=bundle.config,
        licence="",
        edits=bundle.edits,
        weights=tiny.without(weights, "encoder.", "alignment.", "extraction."),
        directions=safetensors.torch.load_file(bundle.path / "directions.safetensors"),
        card="",
    )
    assert (stripped.path / "weights.safetensors").stat().st_size < 0.7 * (bundle.path / "weights.safetensors").stat().st_size
    # Other bytes are another model, which a render refuses; this one's generator is the same.
    monkeypatch.setattr(Bundle, "digest", kept.info.model_digest)
    (video,), _ = tiny.rendered(tmp_path / "b", kept, [source], stripped, "warm=1")
    assert video.read_bytes() == reference.read_bytes()


# ----------------------------------------------------------------------------------------- what stays as the source has it


@pytest.mark.parametrize("edit", ["warm=0", "warm=1@track=7", "warm=1@from=100"])
def test_an_edit_of_nothing_gives_the_decoded_source(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, edit: str
) -> None:
    (video,), summary = tiny.rendered(tmp_path / "o", kept, [source], bundle, edit)
    assert worst_difference(pictures(video), source_frames(source)) == 0
    assert summary.counts["edits"] == 0


def test_an_edit_that_cancels_out_gives_the_decoded_source(tmp_path: Path, kept: Store, source: Source, bundle: Bundle) -> None:
    """Through the model this time: equal codes make equal pictures. (c + d) - d may miss c by a last bit, so may a pixel."""
    (video,), summary = tiny.rendered(tmp_path / "o", kept, [source], bundle, "cold=1@from=0", "cold=-1@from=0")
    assert summary.counts["edits"] == 69
    assert worst_difference(pictures(video), source_frames(source)) <= 1


@pytest.mark.parametrize("mode", ["delta", "replace"])
def test_pixels_outside_the_mask_are_the_sources(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, mode: Any
) -> None:
    (video,), _ = tiny.rendered(tmp_path / "o", kept, [source], bundle, "warm=3", paste=replace(tiny.PASTE, mode=mode))
    tracks = kept.read("tracks")
    quads = array_from_column(tracks, "quad")
    changed = 0
    for at, (before, after) in enumerate(zip(source_frames(source), pictures(video), strict=True)):
        inside = np.zeros(before.shape[:2], bool)
        for row in np.flatnonzero(tracks["pts"].to_numpy() == source.info.pts[at]):
            low, high = np.ceil(quads[row].min(0)).astype(int), np.floor(quads[row].max(0)).astype(int)
            inside[max(low[1], 0) : high[1] + 1, max(low[0], 0) : high[0] + 1] = True
        assert not inside.all(), "the premise"
        assert np.array_equal(before[~inside], after[~inside])
        changed += int((before[inside] != after[inside]).sum())
    assert changed > 10000, "the premise: it was a real edit"


def test_times_and_sound_are_the_sources(tmp_path: Path, kept: Store, source: Source, bundle: Bundle) -> None:
    (video,), _ = tiny.rendered(tmp_path / "o", kept, [source], bundle, "warm=1", encode=X264)
    made = probe(video)
    assert made.pts.tolist() == source.info.pts.tolist() and made.time_base == source.info.time_base
    assert payloads(video, "audio") == payloads(Path(source.uri), "audio")


# ------------------------------------------------------------------------------------------------- whom and when


def where_changed(video: Path, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """For each frame: whether the left half changed, whether the right half did."""
    pairs = zip(pictures(video), source_frames(source), strict=True)
    moved = [(a.astype(int) != b).any(axis=2) for a, b in pairs]
    return np.array([m[:, :70].any() for m in moved]), np.array([m[:, 90:].any() for m in moved])


def test_each_track_has_its_own_edit(tmp_path: Path, kept: Store, source: Source, bundle: Bundle) -> None:
    (left,), _ = tiny.rendered(tmp_path / "l", kept, [source], bundle, "warm=1@track=0+2")
    (right,), _ = tiny.rendered(tmp_path / "r", kept, [source], bundle, "cold=1@track=1")
    (both,), _ = tiny.rendered(tmp_path / "b", kept, [source], bundle, "warm=1@track=0+2", "cold=1@track=1")
    (l_left, l_right), (r_left, r_right) = where_changed(left, source), where_changed(right, source)
    assert l_left[:14].all() and not l_left[15:30].any() and l_left[31:].all() and not l_right.any()
    assert r_right.all() and not r_left.any()
    for one, two, joint in zip(pictures(left), pictures(right), pictures(both), strict=True):
        assert np.array_equal(joint[:, :70], one[:, :70]) and np.array_equal(joint[:, 90:], two[:, 90:])


def test_a_span_acts_in_its_frames_only(tmp_path: Path, kept: Store, source: Source, bundle: Bundle) -> None:
    """25 frames a second: [0.4 s, 0.8 s) is frames 10 to 19."""
    (video,), summary = tiny.rendered(tmp_path / "o", kept, [source], bundle, "warm=1@track=1@from=0.4@to=0.8")
    _, right = where_changed(video, source)
    assert np.flatnonzero(right).tolist() == list(range(10, 20))
    assert summary.counts["edits"] == 10
    rows = kept.read("edits", source.source_id)
    mine = rows.filter(pc.equal(rows["recipe_id"], parse_edits(["warm=1@track=1@from=0.4@to=0.8"]).recipe_id))
    assert mine["pts"].to_pylist() == source.info.pts[10:20].tolist() and set(mine["track_id"].to_pylist()) == {1}


def test_keyframes_and_fades_move_the_strength(tmp_path: Path, kept: Store, source: Source, bundle: Bundle) -> None:
    (video,), _ = tiny.rendered(tmp_path / "k", kept, [source], bundle, "warm=0:0,1.6:2@track=1@ease=linear")
    change = [np.abs(a.astype(float) - b)[:, 90:].mean() for a, b in zip(pictures(video), source_frames(source), strict=True)]
    assert change[0] == 0 and change[35] > 2.5 * change[10] > 0
    assert all(later > earlier for earlier, later in pairwise(change[:25])), "grows from frame to frame"
    rows = kept.read("edits", source.source_id)
    rows = rows.filter(pc.equal(rows["recipe_id"], parse_edits(["warm=0:0,1.6:2@track=1@ease=linear"]).recipe_id))
    assert np.allclose(rows["strength"].to_numpy(), np.minimum(np.arange(1, 42) / 40, 1) * 2, atol=1e-6)


def test_an_edit_comes_and_goes_where_a_face_does(tmp_path: Path, kept: Store, source: Source, bundle: Bundle) -> None:
    """Within a shot a face that is lost or found would else pop: strength falls to the frame where it is last seen."""
    (video,), _ = tiny.rendered(tmp_path / "f", kept, [source], bundle, "warm=2@track=0", fade_seconds=0.4)
    (hard,), _ = tiny.rendered(tmp_path / "h", kept, [source], bundle, "warm=2@track=0", fade_seconds=0)
    soft_change, hard_change = (
        [np.abs(a.astype(float) - b)[:, :70].mean() for a, b in zip(pictures(v), source_frames(source), strict=True)]
        for v in (video, hard)
    )
    assert soft_change[0] == hard_change[0] > 0, "the first frame of a shot has nothing to fade from"
    assert 0 < soft_change[14] < 0.25 * hard_change[14]


def test_an_unknown_track_is_reported_and_the_others_are_edited(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle
) -> None:
    (video,), summary = tiny.rendered(tmp_path / "o", kept, [source], bundle, "warm=1@track=9", "cold=1@track=1")
    (failure,) = summary.lost
    assert failure.reason == "unknown_track" and failure.track_id == 9
    assert "9" in failure.message and "[0, 1, 2]" in failure.message, "says which tracks there are"
    assert summary.counts["edits"] == 42 and video.exists()


# ------------------------------------------------------------------------------------------------------ when things fail


def test_a_chunk_that_fails_is_a_row_and_costs_only_itself(
    tmp_path: Path, source: Source, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames 16 to 31 cannot be scanned; they pass through, the rest is edited."""
    open_step = scan.Scan.open

    def open_broken(self: scan.Scan) -> Callable[[Chunk], Result]:
        function = open_step(self)

        def broken(chunk: Chunk) -> Result:
            if chunk.start == 16:
                raise RuntimeError("poison")
            return function(chunk)

        return broken

    monkeypatch.setattr(scan.Scan, "open", open_broken)
    store, summary = tiny.inverted(tmp_path / "s", [source], bundle)
    (failure,) = summary.lost
    assert (failure.stage, failure.reason, failure.message) == ("scan", "runtime_error", "poison")
    assert (failure.pts, failure.last_pts) == (int(source.info.pts[16]), int(source.info.pts[31]))
    assert next(f for f in store.failures().to_pylist() if f["stage"] == "scan")["message"] == "poison"
    (video,), rendering = tiny.rendered(tmp_path / "o", store, [source], bundle, "warm=1@track=1")
    _, right = where_changed(video, source)
    assert not rendering.lost and right[:14].all() and not right[17:31].any()


def test_a_source_that_cannot_be_rendered_does_not_stop_the_others(tmp_path: Path, source: Source, bundle: Bundle) -> None:
    other = tiny.source_of(tiny.marked_clip(tmp_path / "other.mp4", 12, people=1))
    store, _ = tiny.inverted(tmp_path / "s", [source, other], bundle)
    Path(other.uri).unlink()
    videos, summary = tiny.rendered(tmp_path / "o", store, [other, source], bundle, "warm=1")
    assert [video.exists() for video in videos] == [False, True]
    assert {f.uri for f in summary.lost} == {other.uri} and summary.counts["outputs"] == 1
    assert store.failures(other.source_id)["stage"].to_pylist() == ["render"]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_clip_that_is_done_again_without_its_neighbour_has_its_rows_once(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, threads: int
) -> None:
    """Small clips are rendered together; where one spoils it for all, each is rendered for itself."""
    other = tiny.source_of(tiny.marked_clip(tmp_path / "other.mp4", 12, people=1))
    store, _ = tiny.inverted(tmp_path / "s", [source, other], bundle)
    Path(other.uri).unlink()
    sizes = {"chunk_frames": 64, "cpus_per_worker": threads, "sheet_frames": 2}
    videos, summary = tiny.rendered(tmp_path / "o", store, [source, other], bundle, "warm=1", **sizes)
    assert [f.uri for f in summary.lost] == [other.uri], summary.lost
    assert videos[0].exists()
    rows = store.read("quality", source.source_id)
    assert len(set(zip(rows["track_id"].to_pylist(), rows["pts"].to_pylist(), strict=True))) == len(rows) == 69


def test_codes_that_are_not_finite_are_rows_and_their_frames_pass_through(
    tmp_path: Path, source: Source, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    invert, calls = Session.invert, []

    def poisoned(self: Session, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        wplus_NLD, detail = invert(self, crops)
        if not calls:
            wplus_NLD[0] = np.nan
        calls.append(len(crops))
        return wplus_NLD, detail

    monkeypatch.setattr(Session, "invert", poisoned)
    store, summary = tiny.inverted(tmp_path / "s", [source], bundle, chunk_frames=64)
    (failure,) = summary.lost
    assert failure.reason == "not_finite" and failure.track_id == 0 and failure.pts == int(source.info.pts[0])
    assert len(store.read("latents")) == 68 and summary.counts["faces"] == 68


def test_a_clip_without_a_face_passes_through_whole(tmp_path: Path, bundle: Bundle) -> None:
    empty = tiny.source_of(tiny.marked_clip(tmp_path / "empty.mp4", 10, people=0))
    store, inverting = tiny.inverted(tmp_path / "s", [empty], bundle)
    (video,), rendering = tiny.rendered(tmp_path / "o", store, [empty], bundle, "warm=1", sheet_frames=4)
    assert [f.reason for f in inverting.failures] == ["no_face"] and not inverting.lost and not rendering.failures
    assert worst_difference(pictures(video), source_frames(empty)) == 0
    assert not video.with_suffix(".contact_sheet.png").exists(), "there is nothing to show"


# --------------------------------------------------------------------------------------------------------- other ways


def test_w_plus_alone_goes_the_same_way(tmp_path: Path, source: Source) -> None:
    """The e4e method keeps no residual: no rows of it, and the same flow."""
    bundle = tiny.tiny_bundle(tmp_path / "e4e", method="e4e")
    store, inverting = tiny.inverted(tmp_path / "s", [source], bundle)
    (video,), rendering = tiny.rendered(tmp_path / "o", store, [source], bundle, "warm=1")
    assert not inverting.lost and not rendering.lost
    assert len(store.read("residuals")) == 0 and rendering.counts["edits"] == 69
    assert where_changed(video, source)[1].all()


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_either_decoder_gives_the_same_rows_and_file(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, backend: Any
) -> None:
    """Also where decord is asked for by name: a render decodes exactly, which only PyAV can."""
    (reference,), _ = tiny.rendered(tmp_path / "a", kept, [source], bundle, "warm=1")
    store, inverting = tiny.inverted(tmp_path / "s", [source], bundle, backend=backend)
    (video,), rendering = tiny.rendered(tmp_path / "b", store, [source], bundle, "warm=1", backend=backend)
    assert not inverting.lost and not rendering.lost
    assert_same_rows(store, kept)
    assert video.read_bytes() == reference.read_bytes()


def test_a_contact_sheet_has_a_row_for_each_face_and_moment(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle
) -> None:
    from PIL import Image

    (video,), _ = tiny.rendered(tmp_path / "o", kept, [source], bundle, "warm=1@track=1", sheet_frames=4)
    sheet = Image.open(video.with_suffix(".contact_sheet.png"))
    assert sheet.width == 4 * 256 and sheet.height == 2 * 28 + 4 * 256
    pixels = np.asarray(sheet)[56:]
    source_tiles, pasted_tiles = pixels[:, :256], pixels[:, 768:]
    assert (source_tiles != pasted_tiles).any(axis=(1, 2)).mean() > 0.5


def test_the_rows_of_a_source_are_read_once_and_not_for_each_of_its_chunks(
    tmp_path: Path, source: Source, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracks and the plan's instants are of the whole source: read for each chunk, they cost the square of its length."""
    read: Counter[str] = Counter()
    of_store, of_plan = Store.read, render.planned_pts

    def counted(self: Store, table: str, *arguments: Any, **named: Any) -> pa.Table:
        read[table] += 1
        return of_store(self, table, *arguments, **named)

    def planned(*arguments: Any) -> np.ndarray:
        read["planned"] += 1
        return of_plan(*arguments)

    monkeypatch.setattr(Store, "read", counted)
    monkeypatch.setattr(render, "planned_pts", planned)
    store, _ = tiny.inverted(tmp_path / "s", [source], bundle, chunk_frames=4)
    assert read["tracks"] == 1, "by invert"
    (video,), _ = tiny.rendered(tmp_path / "o", store, [source], bundle, "warm=1", chunk_frames=8, sheet_frames=2)
    assert read["tracks"] == 3 and read["planned"] == 1 and video.exists(), "once more by plan, and once by render"


def test_two_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one, two = tiny.tiny_bundle(tmp_path / "a"), tiny.tiny_bundle(tmp_path / "b", seed=1)
    assert one.digest != two.digest and open_bundle(tmp_path / "a").digest == one.digest
    assert replace(one, path=two.path).name == two.name and not torch.equal(
        one.load().state_dict()["latent_avg"], two.load().state_dict()["latent_avg"]
    )


def test_the_encoders_seconds_are_not_the_models(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread generates while the encoder waits for its frames: the time is the model's alone."""
    generate = Session.generate_levels

    def slow(session: Session, *arguments: Any, **named: Any) -> np.ndarray:
        time.sleep(0.1)
        return generate(session, *arguments, **named)

    monkeypatch.setattr(Session, "generate_levels", slow)
    started = time.perf_counter()
    _, summary = tiny.rendered(tmp_path, kept, [source], bundle, "warm=1")
    assert summary.seconds["model"] > 1 > summary.seconds["encode"] > 0
    assert sum(summary.seconds.values()) < time.perf_counter() - started


# --------------------------------------------------------------------------------------------------- workers that overlap


@pytest.mark.parametrize("threads", [2, 4])
def test_the_edited_file_has_the_same_bytes_for_any_number_of_threads(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, encoded: Path, threads: int
) -> None:
    """Decoding, the model, pasting and encoding side by side; the contact sheet too."""
    (video,), summary = default_render(tmp_path, kept, source, bundle, cpus_per_worker=threads)
    assert not summary.lost and summary.counts["edits"] == 69 and summary.seconds["paste"] > 0
    assert video.read_bytes() == encoded.read_bytes()
    sheet = ".contact_sheet.png"
    assert video.with_suffix(sheet).read_bytes() == encoded.with_suffix(sheet).read_bytes()


@pytest.mark.parametrize("threads", [2, 4])
def test_the_rows_are_the_same_for_any_number_of_threads(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, threads: int
) -> None:
    store, summary = tiny.inverted(tmp_path / "s", [source], bundle, cpus_per_worker=threads)
    assert not summary.lost
    for table in ("frames", "faces", "tracks", "latents", "residuals"):
        assert store.read(table).equals(kept.read(table)), table


def test_the_frame_before_a_chunk_is_not_decoded_again(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going back to it is going back to a key frame: of a clip with one, to the clip's begin for each chunk."""
    ranges: list[tuple[int, int]] = []
    read = Readers.read

    def noted(self: Readers, source: Source, start: int, stop: int) -> Any:
        ranges.append((start, stop))
        return read(self, source, start, stop)

    monkeypatch.setattr(scan.Readers, "read", noted)
    tiny.inverted(tmp_path / "s", [source], bundle)
    count = source.info.n_frames
    assert ranges[: -(-count // 16)] == [(at, min(at + 16, count)) for at in range(0, count, 16)]


def test_items_of_a_worker_go_on_side_by_side(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first item's last frame is not encoded before the second item has come to the model."""
    generate, written = Session.generate_levels, render.Render._written
    second, calls = Event(), []

    def generated(self: Session, *given: Any, **named: Any) -> np.ndarray:
        calls.append(len(given[0]))
        if sum(calls) > 2 * 16:  # edited and not, of more faces than one item has frames
            second.set()
        return generate(self, *given, **named)

    def late(self: render.Render, one: render.Planned, edited: Any) -> Result:
        result = written(self, one, edited)
        if one.chunk.start == 0:
            assert second.wait(60), "the second item waits for the first"
        return result

    monkeypatch.setattr(Session, "generate_levels", generated)
    monkeypatch.setattr(render.Render, "_written", late)
    _, summary = tiny.rendered(tmp_path / "o", kept, [source], bundle, "warm=1", cpus_per_worker=2)
    assert not summary.lost


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("step", ["scan", "invert", "render"])
def test_an_item_that_fails_in_the_middle_keeps_no_other_waiting(
    tmp_path: Path, source: Source, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, step: str, threads: int
) -> None:
    """Its frames are being decoded when the model or the detector fails; those of the others are decoded after them."""
    failed: list[int] = []

    def failing(function: Callable[..., Any]) -> Callable[..., Any]:
        def once(*given: Any, **named: Any) -> Any:
            if not failed:
                failed.append(1)
                raise ValueError("broken once")
            return function(*given, **named)

        return once

    whole = tiny.inverted(tmp_path / "s", [source], bundle)[0] if step == "render" else None
    owner, name = (
        (tiny.MarkDetector, "detect") if step == "scan" else (Session, "invert" if step == "invert" else "generate_levels")
    )
    monkeypatch.setattr(owner, name, failing(getattr(owner, name)))
    if whole is None:
        _, summary = tiny.inverted(tmp_path / "t", [source], bundle, cpus_per_worker=threads)
    else:
        _, summary = tiny.rendered(tmp_path / "o", whole, [source], bundle, "warm=1", cpus_per_worker=threads)
    (lost,) = summary.lost
    assert lost.stage == step and lost.message == "broken once" and failed


def test_an_accelerator_finds_where_edits_may_show_in_batches(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for one: of every face once, in the frame as it was; and the paste does not look again."""
    found: list[int] = []

    def weights(crops: np.ndarray, device: torch.device) -> np.ndarray:
        found.append(len(crops))
        return np.zeros((len(crops), 96, 96), np.float32)

    def there(places: Any, session: Session, settings: PasteSettings) -> Any:
        monkeypatch.setattr(session, "device", torch.device("meta"))
        try:
            return people_in(places, session, settings)
        finally:
            monkeypatch.setattr(session, "device", torch.device("cpu"))

    people_in = render.people_in
    monkeypatch.setattr(render, "people_weights", weights)
    monkeypatch.setattr(render, "people_in", there)
    monkeypatch.setattr(render, "person_in", pytest.fail)
    (video,), summary = tiny.rendered(
        tmp_path / "o", kept, [source], bundle, "warm=1", cpus_per_worker=2, paste=PasteSettings()
    )
    assert not summary.lost and sum(found) >= 69 and max(found) > 1
    assert worst_difference(pictures(video), source_frames(source)) == 0, "nowhere"


def test_the_unedited_picture_is_made_only_where_it_is_needed(
    tmp_path: Path, kept: Store, source: Source, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Counter[str]()
    generate = Session.generate_levels

    def counted(self: Session, wplus_NLD: np.ndarray, *rest: Any, **named: Any) -> np.ndarray:
        made["edited" if named.get("unedited_NLD") is not None else "base"] += len(wplus_NLD)
        return generate(self, wplus_NLD, *rest, **named)

    monkeypatch.setattr(Session, "generate_levels", counted)
    pasted = replace(tiny.PASTE, mode="replace")
    (plain,), _ = tiny.rendered(tmp_path / "a", kept, [source], bundle, "warm=1", paste=pasted)
    assert made == {"edited": 69}
    made.clear()
    (shown,), _ = tiny.rendered(tmp_path / "b", kept, [source], bundle, "warm=1", paste=pasted, sheet_frames=2)
    assert made["edited"] == 69 and 0 < made["base"] <= 4
    assert plain.read_bytes() == shown.read_bytes()
    made.clear()
    tiny.rendered(tmp_path / "c", kept, [source], bundle, "warm=1")
    assert made == {"edited": 69, "base": 69}, "delta adds the difference of the two"
