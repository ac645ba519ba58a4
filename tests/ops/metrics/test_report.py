"""Measurements become tables and JSON, and never lose which network they come from."""

from __future__ import annotations

import json
import math

import pytest

from ops.metrics.metric import Measurement, Metric, MetricError, mean_of
from ops.metrics.report import json_of, markdown_of, over_seeds, table_by_edit, table_of

L2 = Metric("L2", "lower", "levels")
KEPT = Metric("identity kept", "higher", "cosine", "MobileFaceNet", "CurricularFace IR-101")
OFFICIAL = Metric("identity kept", "higher", "cosine", "CurricularFace IR-101")


def test_methods_stand_side_by_side() -> None:
    table = table_of(
        [
            Measurement(L2, "W+", 0.5, 4),
            Measurement(KEPT, "W+", 0.25, 4, 0.1),
            Measurement(L2, "both", 0.125, 4, note="rounded"),
            Measurement(KEPT, "both", 0.75, 4, 0.2, "rounded"),
        ]
    )
    assert table.header == ("metric", "W+", "both", "network")
    assert table.rows == (
        ("L2 (levels) ↓", "0.5", "0.125 [1]", "none"),
        ("identity kept (cosine) ↑", "0.25 ± 0.1", "0.75 ± 0.2 [1]", "MobileFaceNet; stands in for CurricularFace IR-101"),
    )
    assert table.notes == ("rounded",)


def test_two_networks_are_two_metrics() -> None:
    """Their numbers do not compare, so they never share a row."""
    table = table_of([Measurement(KEPT, "a", 0.5, 1), Measurement(OFFICIAL, "b", 0.6, 1)])
    assert [row[1:3] for row in table.rows] == [("0.5", "–"), ("–", "0.6")]
    with pytest.raises(ValueError, match="two values"):
        table_of([Measurement(L2, "a", 1, 1), Measurement(L2, "a", 2, 1)])


def test_markdown_and_json() -> None:
    measured = [Measurement(L2, "a|b", math.inf, 3, note="equal"), Measurement(KEPT, "a|b", 1.0, 3)]
    lines = markdown_of(measured).splitlines()
    assert lines[0] == "| metric | a\\|b | network |"
    assert lines[2] == "| L2 (levels) ↓ | ∞ [1] | none |"
    assert lines[-1] == "[1] equal"
    assert (
        markdown_of([Measurement(KEPT, "a", None, 0, note="no face")])
        .splitlines()[2]
        .startswith("| identity kept (cosine) ↑ | – [1]")
    )
    with pytest.raises(ValueError, match="says why"):
        Measurement(KEPT, "a", None, 0)
    infinite, finite = json.loads(json.dumps(json_of(measured), allow_nan=False))
    assert infinite["value"] is None and infinite["note"] == "infinite; equal"
    assert finite["network"] == "MobileFaceNet" and finite["stands_for"] == "CurricularFace IR-101"


def test_means_say_what_they_are_of() -> None:
    one = mean_of(L2, "a", [1.0, 3.0])
    assert (one.value, one.spread, one.count) == (2, 1, 2)
    assert mean_of(L2, "a", [math.inf, 1.0]).spread is None
    with pytest.raises(MetricError, match="nothing to measure"):
        mean_of(L2, "a", [])
    with pytest.raises(MetricError, match="not a number"):
        mean_of(L2, "a", [1.0, math.nan])


def test_the_mean_over_edits_is_taken_within_each_seed() -> None:
    """Its spread is that of the means, not that of edits: seeds that differ everywhere by the same amount are so far apart."""
    runs = [
        [Measurement(L2, "run", value + shift, 9, item=item) for item, value in (("smile", 1.0), ("age", 5.0))]
        for shift in (0.0, 2.0)
    ]
    alone = [Measurement(L2, "one", value, 9, item=item) for item, value in (("smile", 2.0), ("age", 3.0))]
    table = table_by_edit(L2, over_seeds("two seeds", runs) + alone)
    assert table.rows == (
        ("smile (9 faces)", "2 ± 1.4", "2"),
        ("age (9 faces)", "6 ± 1.4", "3"),
        ("mean over edits", "4 ± 1.4", "2.5"),
    )
