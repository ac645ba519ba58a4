"""An evaluation's numbers against the same ones written out slowly, and what it says of models that cheat."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from ops.checkpoints.bundle import Bundle
from ops.data.faces import FaceSource, open_faces, split_of
from ops.editing.editor import Editor
from ops.inversion.inverter import Inversion, Inverter
from ops.inversion.methods import Method
from ops.inversion.styleres import StyleRes
from ops.metrics.attributes import AttributeClassifier, logits
from ops.metrics.edits import PlannedEdit, both_signs
from ops.metrics.evaluation import EXAMPLES, TIMED_FACES, Evaluator, Measured
from ops.metrics.fid import frechet_distance
from ops.metrics.pictures import PictureJudge, PictureNetworks
from ops.networks.perceptual import Perceptual
from ops.spaces import crops_from_images, images_from_crops
from tests import tiny

COUNT = 12
WARM = PlannedEdit("warm", 2.0, "smiling")
COLD = PlannedEdit("cold", 1.0, "young", brings=False)
FREE = PlannedEdit("cold", 0.5)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny.tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="module")
def face_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 blurred colour fields of held-out identities; a smile is every third, youth every second."""
    rng = np.random.default_rng(0)
    identities = [i for i in range(2000) if split_of(i) == "held_out"][:18]
    images = []
    for _ in identities:
        buffer = io.BytesIO()
        small = rng.integers(40, 215, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC).save(buffer, "PNG")
        images.append(buffer.getvalue())
    every = np.arange(len(identities))
    path = tmp_path_factory.mktemp("faces") / "faces.parquet"
    table = pa.table({"image": images, "identity": identities, "smiling": every % 3 == 0, "young": every % 2 == 0})
    pq.write_table(table, path, row_group_size=7)
    return path


def evaluator_of(path: Path, edits: tuple[PlannedEdit, ...], batch: int = 8, *, labelled: bool = True) -> Evaluator:
    torch.manual_seed(0)
    judge = AttributeClassifier(("young", "smiling")).eval() if labelled else None
    faces, everyone = open_faces(path, 32, "held_out", limit=COUNT), open_faces(path, 32, "held_out")
    return Evaluator(faces, everyone, edits, judge, PictureJudge(PictureNetworks(), ("efficientnet-fid",)), batch=batch)


def values(measured: Measured) -> dict[tuple[str, str, str], float]:
    return {
        (one.metric.name, one.metric.unit, one.item): one.value
        for one in measured.measurements
        if one.value is not None and not one.metric.name.startswith("time")
    }


def number(found: Mapping[tuple[str, str, str], float], name: str, item: str = "", unit: str = "") -> float:
    (value,) = [v for (n, u, i), v in found.items() if n == name and i == item and u.startswith(unit)]
    return value


def test_numbers_are_what_the_formulas_say(bundle: Bundle, face_file: Path) -> None:
    """Face by face, without batches, with the model's own invert and generate."""
    evaluator = evaluator_of(face_file, (WARM, COLD))
    model = bundle.load()
    assert isinstance(model, StyleRes)
    full, plain = evaluator.measure(model, bundle.editors(), "tiny", "its W+")
    assert (full.subject, plain.subject) == ("tiny", "its W+")
    faces, perceptual, judge = open_faces(face_file, 32, "held_out"), Perceptual(), evaluator.judge
    assert judge is not None
    editors = bundle.editors()

    def pooled(crops: np.ndarray) -> np.ndarray:
        taps = perceptual.features(images_from_crops(crops))
        return torch.cat([tap.mean(dim=(2, 3)) for tap in taps], dim=1).double().numpy()

    for reading, measured in ((model, full), (model.wplus_only(), plain)):
        found = values(measured)
        l2, lost, cycle, moved, kept_logits, edited_set = [], [], [], [], [], []
        with torch.no_grad():
            for n in range(COUNT):
                crop = faces.crops(n, n + 1)
                inversion = reading.invert(images_from_crops(crop))
                unedited = crops_from_images(reading.generate(inversion.wplus_NLD, inversion.detail))
                error = images_from_crops(unedited) - images_from_crops(crop)
                l2.append(float(error.square().mean()))
                lost.append(float(perceptual(images_from_crops(unedited), images_from_crops(crop))))
                if faces.attributes["smiling"][n]:
                    continue
                code = editors["warm"].apply(inversion.wplus_NLD, torch.tensor([2.0]))
                edited = crops_from_images(reading.generate(code, inversion.detail))
                before, after = (logits(judge, images_from_crops(one))[0] for one in (unedited, edited))
                moved.append(float(torch.sigmoid(after[1]) - torch.sigmoid(before[1])))
                kept_logits.append(abs(float(after[0] - before[0])))
                edited_set.append(edited)
                again = reading.invert(images_from_crops(edited))
                back = editors["warm"].apply(again.wplus_NLD, torch.tensor([-2.0]))
                returned = crops_from_images(reading.generate(back, again.detail))
                cycle.append(float((images_from_crops(returned) - images_from_crops(crop)).square().mean()))
            smiling = np.concatenate([faces.crops(n, n + 1) for n in range(len(faces)) if faces.attributes["smiling"][n]])
            distance = frechet_distance(pooled(np.concatenate(edited_set)), pooled(smiling))
        assert number(found, "L2") == pytest.approx(np.mean(l2), rel=1e-3)
        assert number(found, "feature distance") == pytest.approx(np.mean(lost), rel=1e-3)
        assert number(found, "cycle L2", "warm=+2") == pytest.approx(np.mean(cycle), rel=1e-2)
        assert number(found, "target attribute moved", "warm=+2", "prob") == pytest.approx(np.mean(moved), rel=2e-2, abs=1e-5)
        assert number(found, "other attributes moved", "warm=+2", "mean |change| of logit") == pytest.approx(
            np.mean(kept_logits), rel=2e-2, abs=1e-5
        )
        name = "Frechet distance of edited faces to real faces with what the edit brings"
        assert number(found, name, "warm=+2") == pytest.approx(distance, rel=1e-3)
    assert number(values(plain), "ghost", "warm=+2") == pytest.approx(0, abs=1e-5)
    counts = {one.item: one.count for one in full.measurements if one.metric.name == "ghost"}
    assert counts == {"warm=+2": 8, "warm=-2": 4, "cold=+1": 6, "cold=-1": 6}
    assert full.examples.added.shape == (EXAMPLES, 32, 32, 3)


def test_batches_change_nothing(bundle: Bundle, face_file: Path) -> None:
    small, large = (
        values(evaluator_of(face_file, (WARM, FREE), batch).measure(bundle.load(), bundle.editors(), "tiny")[0])
        for batch in (3, 32)
    )
    assert small == pytest.approx(large, rel=2e-2, abs=2e-4)  # rounding to 8 bits tips over now and then


def test_pictures_come_and_go(bundle: Bundle, face_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than a batch of faces at a time, whatever their number."""
    asked: list[int] = []
    crops = FaceSource.crops

    def recorded(self: FaceSource, first: int, end: int) -> np.ndarray:
        asked.append(end - first)
        return crops(self, first, end)

    monkeypatch.setattr(FaceSource, "crops", recorded)
    evaluator_of(face_file, (WARM,), 4).measure(bundle.load(), bundle.editors(), "tiny")
    assert max(asked) <= max(4, TIMED_FACES, EXAMPLES) and sum(asked) > 2 * COUNT


def test_faces_without_labels_are_measured_without_attributes(bundle: Bundle, face_file: Path) -> None:
    evaluator = evaluator_of(face_file, (FREE,), labelled=False)
    (measured,) = evaluator.measure(bundle.load(), bundle.editors(), "tiny")
    found = values(measured)
    names = {name for name, _, _ in found}
    assert "ghost" in names and "cycle L2" in names and not any("attribute" in name or "edited" in name for name in names)
    counts = {one.count for one in measured.measurements if one.metric.name == "ghost"}
    assert counts == {COUNT}, "both signs of every face"
    assert evaluator.unedited("source") == ()


@pytest.mark.parametrize("method", ["psp", "restyle", "hfgi", "hyperstyle", "sfe"])
def test_every_method_is_measured_as_it_is(tmp_path: Path, face_file: Path, method: Method) -> None:
    """With what it keeps beside W+: the L2 is that of its own invert and generate; ghosts are seen against its code alone."""
    bundle = tiny.tiny_bundle(tmp_path / method, method=method)
    model = bundle.load()
    (measured,) = evaluator_of(face_file, (WARM,)).measure(model, bundle.editors(), method)
    images = images_from_crops(open_faces(face_file, 32, "held_out", limit=COUNT).crops(0, COUNT))
    with torch.no_grad():
        found = [model.invert(part) for part in images.split(8)]
        shown = torch.cat([model.generate(one.wplus_NLD, one.detail) for one in found])
    levels = images_from_crops(crops_from_images(shown))
    assert number(values(measured), "L2") == pytest.approx(float((levels - images).square().mean()), rel=1e-3)
    assert any(name == "ghost" for name, _, _ in values(measured))


def test_a_target_edit_has_no_way_back(bundle: Bundle, face_file: Path) -> None:
    evaluator = evaluator_of(face_file, (PlannedEdit("ganspace_0", 1.0),), labelled=False)
    (measured,) = evaluator.measure(bundle.load(), bundle.editors(), "tiny")
    assert not any(name == "cycle L2" for name, _, _ in values(measured))


@final
class PaintsOver(Inverter):
    """Reconstructs perfectly, and shows the source whatever the edit: its detail is the source itself."""

    def __init__(self, model: StyleRes) -> None:
        super().__init__()
        self.inner, self.config, self.generator = model, model.config, model.generator

    def invert(self, images: Tensor) -> Inversion:
        return Inversion(self.inner.invert(images).wplus_NLD, images)

    def generate(
        self,
        wplus_NLD: Tensor,
        detail: Tensor | None,
        style_offset_NS: Tensor | None = None,
        *,
        unedited_NLD: Tensor | None = None,
        size: int | None = None,
    ) -> Tensor:
        return self.inner.wplus_only().generate(wplus_NLD, None) if detail is None else detail


@final
class Pastes(Inverter):
    """Adds what the code missed of the source to whatever the edited code gives: the residual does not follow the edit."""

    def __init__(self, model: StyleRes) -> None:
        super().__init__()
        self.inner, self.config, self.generator = model, model.config, model.generator

    def invert(self, images: Tensor) -> Inversion:
        code = self.inner.invert(images).wplus_NLD
        return Inversion(code, images - self.inner.wplus_only().generate(code, None))

    def generate(
        self,
        wplus_NLD: Tensor,
        detail: Tensor | None,
        style_offset_NS: Tensor | None = None,
        *,
        unedited_NLD: Tensor | None = None,
        size: int | None = None,
    ) -> Tensor:
        images = self.inner.wplus_only().generate(wplus_NLD, None)
        return images if detail is None else images + detail


@pytest.mark.parametrize("cheat", [PaintsOver, Pastes])
def test_models_that_cheat_are_seen(bundle: Bundle, face_file: Path, cheat: type[PaintsOver] | type[Pastes]) -> None:
    model = bundle.load()
    assert isinstance(model, StyleRes)
    evaluator = evaluator_of(face_file, (WARM,))
    (measured,) = evaluator.measure(cheat(model).eval(), bundle.editors(), "cheat")
    found = values(measured)
    assert number(found, "L2") < 1e-4 and number(found, "Frechet distance") < 1e-3
    for item in ("warm=+2", "warm=-2"):
        if cheat is Pastes:
            assert number(found, "ghost", item) == pytest.approx(1, abs=1e-3)
            assert number(found, "detail kept elsewhere", item) == pytest.approx(1, abs=1e-3)
    if cheat is PaintsOver:
        assert number(found, "ghost", "warm=+2") > 0.5, "this model's codes move fine detail too, which counts against it"
        assert number(found, "target attribute moved", "warm=+2", "logit") == pytest.approx(0, abs=1e-3)
        name = "Frechet distance of edited faces to real faces with what the edit brings"
        doing_nothing = {one.item: one.value for one in evaluator.unedited("source")}
        assert number(found, name, "warm=+2") == pytest.approx(doing_nothing["warm=+2"], rel=1e-3)


def test_signs_and_goals() -> None:
    labels = {"smiling": np.array([True, False, False]), "young": np.array([True, True, False])}
    smile, less, older, younger = both_signs((WARM, COLD))
    assert [edit.item for edit in (smile, less, older, younger)] == ["warm=+2", "warm=-2", "cold=+1", "cold=-1"]
    assert smile.concerned(labels, 3).tolist() == [False, True, True] and smile.goal() == "smiling"
    assert less.concerned(labels, 3).tolist() == [True, False, False] and less.goal() == "not smiling"
    assert older.concerned(labels, 3).tolist() == [True, True, False] and older.goal() == "not young"
    assert younger.concerned(labels, 3).tolist() == [False, False, True]
    unknown = replace(WARM, attribute="bald")
    assert both_signs((unknown,))[0].concerned(labels, 3).all()


def test_an_editor_that_is_not_there(bundle: Bundle, face_file: Path) -> None:
    editors: dict[str, Editor] = {}
    with pytest.raises(KeyError, match="warm"):
        evaluator_of(face_file, (WARM,)).measure(bundle.load(), editors, "tiny")
