"""What is a source's is looked for once, however many chunks it has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ops.checkpoints.bundle import Bundle
from pipeline.engine.stage import Source
from pipeline.store import tables
from pipeline.store.tables import Store
from tests import tiny


def test_a_render_lists_parts_and_reads_footers_once(
    tmp_path: Path, bundle: Bundle, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listing the residuals' folder for each chunk took the square of a clip's length."""
    store, _ = tiny.inverted(tmp_path / "store", [source], bundle, chunk_frames=2)
    assert len(store.parts("residuals", source.source_id)) > 15, "the premise"
    looked: Counter[str] = Counter()
    listed, opened = tables.listed, pq.ParquetFile.__init__

    def counted(folder: Any, suffix: str = "") -> Any:
        looked[Path(str(folder)).parts[-2]] += 1
        return listed(folder, suffix)

    def counted_open(self: Any, file: Any, **options: Any) -> None:
        if options.get("metadata", "absent") is None:
            looked["footer of the plan"] += 1
        opened(self, file, **options)

    monkeypatch.setattr(tables, "listed", counted)
    monkeypatch.setattr(pq.ParquetFile, "__init__", counted_open)
    counts = []
    for chunk_frames in (8, 48):
        looked.clear()
        fresh = Store.open(store.root)
        out, summary = tiny.rendered(tmp_path / str(chunk_frames), fresh, [source], bundle, "warm=1", chunk_frames=chunk_frames)
        assert not summary.lost and out[0].exists()
        counts.append((looked["residuals"], looked["tracks"], looked["footer of the plan"]))
    assert counts[0] == counts[1] and counts[0][2] == 1, counts
