"""What an account says is true: of which model, which detector, which machine, and what was lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ops.checkpoints import bundle as bundles
from ops.checkpoints.bundle import Bundle, open_bundle
from ops.editing.recipe import parse_edits
from pipeline import flow
from pipeline.engine.runner import InProcessRunner, silent
from pipeline.engine.stage import Source
from pipeline.steps.plan import Plan, PlanSettings
from pipeline.store.tables import Store, StoreError
from tests import tiny

pytestmark = pytest.mark.usefixtures("marks")


@pytest.fixture
def own(tmp_path: Path, bundle: Bundle) -> Bundle:
    """A copy of the tiny model, which a test may spoil."""
    return open_bundle(shutil.copytree(bundle.path, tmp_path / "model"))


# ------------------------------------------------------------------------------------------------ which model, which files


def test_another_model_at_the_same_path_is_refused_by_whoever_opens_it(tmp_path: Path, source: Source, own: Bundle) -> None:
    """A node that has other weights at the path that the driver named would fill a store with codes of two models."""
    store, summary = tiny.inverted(tmp_path / "store", [source], own)
    assert not summary.lost
    tiny.tiny_bundle(own.path, seed=1)  # as on another node
    with pytest.raises(StoreError, match=r"model 'tiny' with digest .* put the same files on every node$") as refused:
        tiny.rendered(tmp_path / "out", store, [source], own, "warm=1")
    assert str(own.path) in str(refused.value) and own.digest[:16] in str(refused.value)
    with pytest.raises(StoreError, match="put the same files on every node"):
        compute, settings = flow.Compute("cpu", "fp32", 4, 16), flow.InvertSettings()
        again = Store.create(tmp_path / "again", store.info)
        flow.invert([source], again, own, settings, compute, InProcessRunner(), silent)
    assert again.row_counts()["latents"] == 0


def test_editor_files_that_changed_since_the_run_began_are_refused(
    tmp_path: Path, source: Source, kept: Store, bundle: Bundle
) -> None:
    recipe = parse_edits(["grin=1"]).with_editors(tiny.user_editors(tmp_path / "files"))
    step = Plan(str(kept.root), str(bundle.path), PlanSettings(recipe), flow.identity_of(recipe, bundle)[0])
    step.open()
    np.save(tmp_path / "files" / "grin.npy", np.load(tmp_path / "files" / "grin.npy")[::-1].copy())
    with pytest.raises(StoreError, match=r"the files of the editors grin on .* are not those that the run began with"):
        step.open()


def test_weights_are_hashed_once_in_a_process_and_not_before_they_are_asked_for(
    own: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    class Counted:
        def __init__(self) -> None:
            self.inner = hashlib_sha256()

        def update(self, data: bytes) -> None:
            read.append(own.path)
            self.inner.update(data)

        def hexdigest(self) -> str:
            return self.inner.hexdigest()

    hashlib_sha256 = bundles.hashlib.sha256
    monkeypatch.setattr(bundles.hashlib, "sha256", Counted)
    opened = open_bundle(own.path)
    opened.load("generate")
    opened.editors()
    assert not read, "opening and loading need no digest"
    first = opened.digest
    count = len(read)
    assert count and open_bundle(own.path).digest == first and len(read) == count
    tiny.tiny_bundle(own.path, seed=1)
    assert open_bundle(own.path).digest != first and opened.digest == first
