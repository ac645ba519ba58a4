"""Arrays and tables: what goes in comes out, and what cannot be kept is refused with its place."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import schemas
from pipeline.store import columns

PTS = np.array([-512, 0, 1024], np.int64)


def test_codes_come_back_bit_for_bit_without_a_copy() -> None:
    wplus_NLD = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)
    table = columns.latents_table("s", 7, PTS, wplus_NLD)
    again = columns.wplus_from_table(table)
    assert again.dtype == np.float32 and not again.flags.writeable
    np.testing.assert_array_equal(again, wplus_NLD)
    assert np.shares_memory(again, columns.wplus_from_table(table))
    assert table.column("track_id").to_pylist() == [7, 7, 7]
    assert table.column("pts").to_pylist() == [-512, 0, 1024]


@pytest.mark.parametrize("codec", schemas.RESIDUAL_CODECS)
def test_residuals_come_back_as_the_codec_promises(codec: schemas.ResidualCodec) -> None:
    residual = np.random.default_rng(1).normal(scale=9, size=(3, 2, 4, 5)).astype(np.float32)
    again = columns.residuals_from_table(columns.residuals_table("s", 0, PTS, residual, codec))
    assert again.dtype == np.float32
    match codec:
        case "float32":
            np.testing.assert_array_equal(again, residual)
        case "float16":
            np.testing.assert_array_equal(again, residual.astype(np.float16).astype(np.float32))
        case "int8":
            most = np.abs(residual).max(axis=(2, 3), keepdims=True)
            assert (np.abs(again - residual) <= most / columns.INT8_STEPS / 2 * 1.001).all(), "half a step of its own channel"
            np.testing.assert_allclose(np.abs(again).max(axis=(2, 3), keepdims=True), most, rtol=1e-6)
    # Not the same numbers by accident of memory layout: channels, rows and columns all differ in size.
    assert again.shape == (3, 2, 4, 5)


def test_slices_and_several_pieces_read_right() -> None:
    wplus_NLD = np.arange(6 * 2 * 3, dtype=np.float32).reshape(6, 2, 3)
    residual = wplus_NLD * 10
    pts = np.arange(6)
    codes = columns.latents_table("s", 0, pts, wplus_NLD)
    maps = columns.residuals_table("s", 0, pts, residual, "float16")
    np.testing.assert_array_equal(columns.wplus_from_table(codes.slice(2, 3)), wplus_NLD[2:5])
    np.testing.assert_array_equal(columns.residuals_from_table(maps.slice(2, 3)), residual[2:5])
    pieces = pa.concat_tables([maps.slice(1, 2), maps.slice(0, 0), maps.slice(4, 2)])
    np.testing.assert_array_equal(columns.residuals_from_table(pieces), residual[[1, 2, 4, 5]])
    pieces = pa.concat_tables([codes.slice(1, 2), codes.slice(0, 0), codes.slice(4, 2)])
    np.testing.assert_array_equal(columns.wplus_from_table(pieces), wplus_NLD[[1, 2, 4, 5]])


def test_no_rows_keep_their_shape() -> None:
    none = np.zeros(0, np.int64)
    codes = columns.latents_table("s", 0, none, np.zeros((0, 4, 6)))
    maps = columns.residuals_table("s", 0, none, np.zeros((0, 2, 3, 5)), "float16")
    assert columns.wplus_from_table(codes).shape == (0, 4, 6)
    assert columns.residuals_from_table(maps).shape == (0, 2, 3, 5)
    assert columns.residuals_from_table(maps.schema.empty_table()).shape == (0, 2, 3, 5)
    assert columns.wplus_from_table(codes.schema.empty_table()).shape == (0, 4, 6)
    empty = columns.faces_table("s", [], [], np.zeros((0, 4)), np.zeros((0, 5, 2)), [], [])
    assert empty.num_rows == 0 and empty.schema.equals(schemas.faces_schema())
    assert columns.array_from_column(empty, "landmarks").shape == (0, 5, 2)


def test_a_row_of_int8_depends_on_no_other_and_a_channel_of_zeros_stays_zero() -> None:
    residual = np.random.default_rng(2).normal(size=(3, 4, 5, 6)).astype(np.float32)
    residual[1] *= 1000
    residual[2, 3] = 0
    together = columns.residuals_table("s", 0, PTS, residual, "int8")
    alone = columns.residuals_table("s", 0, PTS[:1], residual[:1], "int8")
    assert together.slice(0, 1).equals(alone)
    again = columns.residuals_from_table(together)
    assert (again[2, 3] == 0).all() and np.isfinite(again).all()
    np.testing.assert_array_equal(columns.residuals_from_table(together.slice(1, 2)), again[1:])
    flat = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.abs(columns.residuals_from_table(columns.residuals_table("s", 0, PTS, flat, "int8")) - flat).max() < 0.5


def test_float16_refuses_what_it_cannot_hold_and_names_it() -> None:
    residual = np.zeros((3, 2, 2, 2), np.float32)
    residual[1, 0, 0, 0] = 7e4
    with pytest.raises(columns.ColumnError, match=r"track 5 at pts 0 .* residual codec float32"):
        columns.residuals_table("s", np.array([4, 5, 6]), PTS, residual, "float16")
    kept = columns.residuals_table("s", 5, PTS, residual, "float32")
    np.testing.assert_array_equal(columns.residuals_from_table(kept), residual)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_track_and_pts(poison: float) -> None:
    wplus_NLD = np.zeros((3, 4, 6), np.float32)
    wplus_NLD[2, 3, 1] = poison
    with pytest.raises(columns.ColumnError, match="track 3 at pts 1024"):
        columns.latents_table("s", 3, PTS, wplus_NLD)
    with pytest.raises(columns.ColumnError, match="track 3 at pts 1024"):
        columns.residuals_table("s", 3, PTS, wplus_NLD[:, None], "float32")


def test_unknown_scores_are_null_and_read_as_nan() -> None:
    table = columns.tracks_table(
        "s", 1, PTS, 0, np.zeros((3, 4)), np.zeros((3, 5, 2)), np.arange(24.0).reshape(3, 4, 2),
        np.array([False, True, False]), np.array([0.5, np.nan, 0.75]),
    )  # fmt: skip
    assert table.column("score").to_pylist() == [0.5, None, 0.75]
    np.testing.assert_array_equal(columns.array_from_column(table, "score"), [0.5, np.nan, 0.75])
    np.testing.assert_array_equal(columns.array_from_column(table, "interpolated"), [False, True, False])
    quad = columns.array_from_column(table, "quad")
    assert quad.dtype == np.float64
    np.testing.assert_array_equal(quad, np.arange(24.0).reshape(3, 4, 2))
    frames = columns.frames_table("s", PTS, np.array([np.nan, 3.5, 4.0]), np.array([1, 0, 2]))
    assert frames.column("cut_score").to_pylist() == [None, 3.5, 4.0]
    assert frames.column("track_id").to_pylist() == [-1, -1, -1]


def test_faces_without_an_embedding_hold_null() -> None:
    table = columns.faces_table(
        "s", PTS, np.array([0, 0, 1]), np.ones((3, 4)), np.ones((3, 5, 2)), np.array([0.9, 0.8, 0.7]),
        [np.array([1.0, 0.0]), None, np.array([0.0, 1.0])],
    )  # fmt: skip
    assert table.column("embedding").to_pylist() == [[1.0, 0.0], None, [0.0, 1.0]]


def test_edits_are_long_and_in_order_of_frame_then_entry() -> None:
    strength_NE = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    table = columns.edits_table("s", 4, PTS, "r", ["smile", "age"], strength_NE, strength_NE / 30)
    rows = table.select(["pts", "position", "edit", "strength"]).to_pylist()
    assert [tuple(r.values()) for r in rows[:3]] == [
        (-512, 0, "smile", 1),
        (-512, 1, "age", 10),
        (0, 0, "smile", 2),
    ]
    assert len(rows) == 6
    with pytest.raises(columns.ColumnError, match=r"\(3, 2\) for 3 frames and 2 entries"):
        columns.edits_table("s", 4, PTS, "r", ["smile", "age"], strength_NE[:, :1], strength_NE)


def test_edits_say_which_editor_of_the_user_it_was() -> None:
    strength_NE = np.ones((3, 2))
    table = columns.edits_table("s", 4, PTS, "r", ["smile", "grin"], strength_NE, strength_NE, {"grin": "direction …"})
    assert table["editor"].to_pylist() == [None, "direction …"] * 3


def test_rows_of_which_some_are_null_come_back_in_their_places() -> None:
    rows = [None, np.array([1.0, 2.0], np.float32), None, np.array([3.0, 4.0], np.float32)]
    column = pa.array(rows, pa.list_(pa.float32()))
    for table in (pa.table({"a": column}), pa.table({"a": pa.chunked_array([column[:2], column[2:]])})):
        again = columns.rows_or_none(table, "a")
        for ours, theirs in zip(again, rows, strict=True):
            assert ours is theirs or np.array_equal(ours, theirs)
    again = columns.rows_or_none(pa.table({"a": column}).slice(1, 2), "a")
    assert again[0].tolist() == [1.0, 2.0] and again[1] is None


def test_wrong_shapes_lengths_and_times_are_refused() -> None:
    with pytest.raises(columns.ColumnError, match=r"\[N, L, D\]"):
        columns.latents_table("s", 0, PTS, np.zeros((3, 24)))
    with pytest.raises(columns.ColumnError, match="2 rows where pts has 3"):
        columns.latents_table("s", 0, PTS, np.zeros((2, 4, 6)))
    with pytest.raises(columns.ColumnError, match="as many as pts"):
        columns.latents_table("s", np.array([0, 1]), PTS, np.zeros((3, 4, 6)))
    with pytest.raises(columns.ColumnError, match="seconds are derived"):
        columns.latents_table("s", 0, PTS / 512, np.zeros((3, 4, 6)))
    with pytest.raises(columns.ColumnError, match=r"\[N, 5, 2\], got \(3, 5, 3\)"):
        columns.faces_table("s", PTS, np.zeros(3), np.ones((3, 4)), np.ones((3, 5, 3)), np.ones(3), [None] * 3)
    with pytest.raises(columns.ColumnError, match=r"\[N, C, H, W\]"):
        columns.residuals_table("s", 0, PTS, np.zeros(3), "float32")


def test_columns_that_are_no_numbers_are_refused() -> None:
    table = columns.edits_table("s", 0, PTS, "r", ["smile"], np.ones((3, 1)), np.ones((3, 1)))
    with pytest.raises(columns.ColumnError, match="does not hold numbers"):
        columns.array_from_column(table, "edit")
    lost = schemas.failures_table([schemas.Failure("s", "a", "scan", "x")])
    with pytest.raises(columns.ColumnError, match="1 nulls"):
        columns.array_from_column(lost, "pts")
