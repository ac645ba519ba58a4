"""`styleres edit` on a clip of a car, with models that look at whole frames."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from jobs.cli import app
from ops.face.framing import Crop
from ops.inversion.presets import cars512, preset
from ops.inversion.styleres import StyleRes
from ops.video.decode import FrameReader
from ops.video.probe import probe
from tests import tiny


@pytest.mark.parametrize("crop", ["none", "centre"])
def test_a_car_is_edited_from_end_to_end(
    tmp_path: Path, shared_videos: Path, monkeypatch: pytest.MonkeyPatch, crop: Crop
) -> None:
    tiny.refuse_detectors(monkeypatch)
    clip = tiny.cut_of(shared_videos / "noface_car_3s.mp4", tmp_path / "car.mp4", 25)
    bundle = tiny.tiny_bundle(tmp_path / "bundle", crop=crop, content=(24, 32))
    words = ["edit", str(clip), "--edit", "warm=3", "--out", str(tmp_path / "out.mkv"), "--codec", "ffv1"]
    ran = CliRunner().invoke(app, [*words, "--model", str(bundle.path), "--progress", "json", "--store", str(tmp_path / "s")])
    assert ran.exit_code == 0, ran.stderr
    done = json.loads(ran.stdout.splitlines()[-1])
    assert (done["frames"], done["faces"], done["edits"], done["failures"]) == (25, 25, 25, 0)
    with (
        FrameReader(probe(clip), conversion="exact") as one,
        FrameReader(probe(tmp_path / "out.mkv"), conversion="exact") as two,
    ):
        pairs = zip(one.read(0, 25), two.read(0, 25), strict=True)
        moved = [float(np.abs(a.astype(int) - b).mean()) for (_, a), (_, b) in pairs]
    assert min(moved) > 1, "every frame"
    assert (tmp_path / "out.contact_sheet.png").exists()
    refusal = CliRunner().invoke(app, [*words, "--model", str(bundle.path), "--mask", "face", "--overwrite"])
    assert refusal.exit_code == 2 and "needs faces" in refusal.stderr


def test_the_full_size_preset_has_the_papers_shapes() -> None:
    config = cars512()
    assert config == preset("cars512") and config.generator.num_ws == config.encoder.num_ws == 16
    with torch.device("meta"):
        model = StyleRes(config)
        encoder, alignment, extraction = model.inverting()
        wplus_NLD, encoder_features = encoder(torch.empty(2, 3, 256, 256))
        assert wplus_NLD.shape == (2, 16, 512)
        styles = model.generator.styles(wplus_NLD)
        features = model.generator.features(styles, "b64.conv0")
        residual = extraction(alignment(encoder_features, features))
        assert residual.shape == (2, 512, 64, 64)
        delta, gate = model.generating()(features, residual)
        assert delta.shape == (2, 512, 64, 64) and gate.shape == (2, 1, 64, 64) and len(styles) == 23
    assert config.generator.channels[512] == 64 and config.generator.channels[128] == 256
