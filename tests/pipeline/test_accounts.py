"""What an account says is true: of which model, which detector, which machine, and what was lost."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.common.prepare import open_store
from jobs.inspect import devices_of
from ops.checkpoints.bundle import Bundle, open_bundle
from ops.device import Device
from ops.editing.recipe import parse_edits
from ops.face.detect import Detector, DetectorError, DetectorFactory, DetectorSettings
from ops.files import digest
from pipeline import flow
from pipeline.engine.course import Event, Noted, Report, Settled
from pipeline.engine.ledger import key_of
from pipeline.engine.runner import InProcessRunner, silent
from pipeline.engine.stage import Source, Stage
from pipeline.steps.plan import Plan, PlanSettings
from pipeline.steps.track import TrackFaces
from pipeline.store.tables import Store, StoreError
from tests import tiny


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
        compute, settings = flow.Compute("cpu", "fp32", 4, 16), tiny.INVERTING
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

    hashlib_sha256 = digest.hashlib.sha256
    monkeypatch.setattr(digest.hashlib, "sha256", Counted)
    opened = open_bundle(own.path)
    opened.load("generate")
    opened.editors()
    assert not read, "opening and loading need no digest"
    first = opened.digest
    count = len(read)
    assert count and open_bundle(own.path).digest == first and len(read) == count
    tiny.tiny_bundle(own.path, seed=1)
    assert open_bundle(own.path).digest != first and opened.digest == first


# --------------------------------------------------------------------------------------------------- what decides a result


def stages(store: Store, bundle: Bundle, detector: DetectorFactory) -> list[Stage]:
    return flow.invert_stages(store, bundle, flow.InvertSettings(detector=detector), flow.Compute("cpu"))


def test_a_pack_of_the_same_name_with_other_weights_is_another_detector(
    tmp_path: Path, source: Source, bundle: Bundle, kept: Store
) -> None:
    packs = [tmp_path / root / "models" / "pack" for root in ("a", "b", "c")]
    for folder, content in zip(packs, (b"one", b"other", b"one"), strict=True):
        folder.mkdir(parents=True)
        (folder / "det.onnx").write_bytes(content)
    one, other, moved = (
        key_of(stages(kept, bundle, DetectorSettings("insightface", "pack", root=str(folder.parents[1])))[0], source, "")
        for folder in packs
    )
    assert one != other, "its bytes decide"
    assert one == moved, "where it lies does not"
    threads = DetectorSettings("insightface", "pack", root=str(packs[0].parents[1]), threads=3)
    assert key_of(stages(kept, bundle, threads)[0], source, "") == one, "nor do threads"
    (packs[0] / "det.onnx").write_bytes(b"changed since")
    assert key_of(stages(kept, bundle, threads)[0], source, "") != one
    with pytest.raises(DetectorError, match=r"expected .*nowhere"):
        stages(kept, bundle, DetectorSettings("insightface", "nowhere", root=str(tmp_path)))


def test_a_worker_with_another_pack_at_the_same_path_is_refused(tmp_path: Path, kept: Store, bundle: Bundle) -> None:
    folder = tmp_path / "models" / "pack"
    folder.mkdir(parents=True)
    (folder / "det.onnx").write_bytes(b"one")
    (scan, *_) = stages(kept, bundle, DetectorSettings("insightface", "pack", root=str(tmp_path)))
    (folder / "det.onnx").write_bytes(b"other")
    with pytest.raises(DetectorError, match=r"the detector's networks on .* are not those that the run began with"):
        scan.step.open()


def test_a_model_of_whole_frames_has_no_detector_to_decide_anything(tmp_path: Path, kept: Store) -> None:
    cars = tiny.tiny_bundle(tmp_path / "cars", crop="none", content=(24, 32))
    assert stages(kept, cars, tiny.MarkFactory(0.1))[0].decides == stages(kept, cars, tiny.MarkFactory(0.9))[0].decides


def test_a_raised_version_is_another_setting(
    tmp_path: Path, source: Source, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an upgrade that changes what a step gives, old results do not count as finished."""
    tiny.inverted(tmp_path / "store", [source], bundle)
    _, again = tiny.inverted(tmp_path / "store", [source], bundle)
    assert again.sources_skipped == 1, "the premise"
    monkeypatch.setattr(TrackFaces, "VERSION", TrackFaces.VERSION + 1)
    _, upgraded = tiny.inverted(tmp_path / "store", [source], bundle)
    (refused,) = upgraded.lost
    assert f"track.version was {TrackFaces.VERSION - 1}, is {TrackFaces.VERSION}" in refused.message
    assert "scan" not in refused.message and "--overwrite" in refused.message


# ---------------------------------------------------------------------------------------------------------- which machine


class Relabelled(DetectorFactory):
    """The stub detector, on what says it is a GPU."""

    def build(self, device: Device) -> Detector:
        detector = tiny.MarkDetector()
        detector.device_kind = "cuda"
        return detector

    def decides(self) -> dict[str, Any]:
        return tiny.MarkFactory().decides()


def test_the_kind_of_device_is_in_the_manifest_and_a_run_on_another_kind_says_so_and_goes_on(
    tmp_path: Path, source: Source, bundle: Bundle
) -> None:
    store = open_store(tmp_path / "store", bundle, "float32")
    events: list[Event] = []

    def killed(event: Event) -> None:
        if isinstance(event, Settled) and event.stage.name == "scan" and event.tally.done == 2:
            raise KeyboardInterrupt

    def run(detector: DetectorFactory, report: Report) -> flow.Summary:
        settings, compute = flow.InvertSettings(detector=detector), flow.Compute("cpu", "fp32", 4, 8)
        return flow.invert([source], store, bundle, settings, compute, InProcessRunner(), report)

    with pytest.raises(KeyboardInterrupt):
        run(Relabelled(), killed)
    summary = run(tiny.MarkFactory(), events.append)
    assert not summary.lost and summary.sources_done == 1
    (said,) = [event.message for event in events if isinstance(event, Noted) and event.kind == "device"]
    assert said.startswith("scan goes on on cpu, and was begun on cuda")
    manifest = store.read_manifest("invert", source.source_id)
    assert manifest is not None and manifest["devices"] == {"scan": ["cpu", "cuda"], "invert": ["cpu"]}
    assert devices_of(store, source.source_id) == manifest["devices"], "as inspect shows it"
    before = len(events)
    assert run(Relabelled(), events.append).sources_skipped == 1, "the kind of device is in no key"
    assert not [event for event in events[before:] if isinstance(event, Noted) and event.kind == "device"]
