"""styleres directions, as a command."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app
from ops.checkpoints.bundle import open_bundle
from ops.editing.direction import load_direction
from tests.tiny import tiny_bundle


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    images, bright = [], []
    for i in range(400):
        bright.append(bool(i % 2))
        buffer = io.BytesIO()
        level = rng.integers(140, 255) if bright[-1] else rng.integers(0, 110)
        Image.fromarray(np.full((64, 64, 3), level, np.uint8)).save(buffer, "PNG")
        images.append(buffer.getvalue())
    path = tmp_path_factory.mktemp("faces") / "faces.parquet"
    pq.write_table(pa.table({"image": images, "identity": list(range(400)), "bright": bright}), path)
    return path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["directions", *map(str, arguments)])
    return result.exit_code, result.output


def test_directions_strips_and_a_bundle_that_has_them(tmp_path: Path, faces: Path) -> None:
    model = tiny_bundle(tmp_path / "model")
    known = {entry.name for entry in model.edits}
    out, bundle = tmp_path / "out", tmp_path / "bundle"
    code, printed = run(
        "--data", faces, "--model", model.path, "--attribute", "light=bright", "--ganspace", 2, "--out", out, "--bundle", bundle
    )
    assert code == 0, printed
    assert "light: balanced accuracy" in printed
    about = json.loads((out / "directions.json").read_text())
    assert about["digest"] == model.digest and about["edits"][0]["name"] == "light"
    for name in ("light", "ganspace_0", "ganspace_1"):
        assert np.asarray(Image.open(out / f"{name}.png")).shape[2] == 3
    written = open_bundle(bundle)
    names = {entry.name for entry in written.edits}
    assert {"light", "ganspace_0", "ganspace_1"} <= names
    assert known - names == {name for name in known if name.startswith("ganspace") and name not in names}
    assert load_direction(out / "light.safetensors").any() and set(written.editors()) == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to find"),
        (("--attribute", "light"), "expected NAME=POSITIVE"),
        (("--attribute", "light=dark"), "no attribute dark; it has: bright"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, faces: Path, arguments: tuple[str, ...], message: str) -> None:
    code, printed = run("--data", faces, "--model", tiny_bundle(tmp_path / "m").path, "--out", tmp_path / "out", *arguments)
    assert code == 2 and message in " ".join(printed.split())
