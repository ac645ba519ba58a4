"""The notebook of the documents runs from its first cell to its last, on a few frames of a real clip with the small model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import needs, tiny

NOTEBOOK = Path(__file__).parents[2] / "docs" / "python.ipynb"


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = needs.package("nbformat"), needs.package("nbclient")
    clip = tiny.cut_of(needs.shared("videos/carphone_176x144.mp4"), tmp_path / "clip.mp4", 4)
    for name, value in (("CLIP", clip), ("MODEL", "mini64"), ("WORK", tmp_path / "work")):
        monkeypatch.setenv(f"STYLERES_{name}", str(value))
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    texts = "\n".join(str(output) for cell in cells for output in cell.outputs)
    assert "clip.mp4 4 frames" in texts and "4 faces edited" in texts and texts.count("image/png") == 2
