"""Measures models on faces of held-out identities: reconstruction, edits, the way there and back, and time.

Every model sees the same faces in the same batches, and every number of every model is made by the same code. Faces come in
batches and go: memory does not grow with their number, but for a few numbers of each face (labels, landmarks).

    x -> W, detail     x_0 = G(W, detail)      g_0 = G(W)            reconstruction: x_0 against x; "W+ only": g_0 against x
    W_e = edit(W)      x_e = G(W_e, detail)    g_e = G(W_e)          edits: x_e against x_0, and against real faces
    x_e -> W'', detail''       G(undo(W''), detail'') against x      cycle

Legend: N faces, A attributes; images [N, 3, R, R] in [-1, 1], R the size of the encoder's input.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ops.data.faces import FaceSource
from ops.editing.editor import Editor
from ops.inversion.inverter import CodeAlone, Inversion, Inverter
from ops.inversion.styleres import StyleRes
from ops.metrics.attributes import AttributeClassifier, logits
from ops.metrics.edits import TO_GOAL, EditScores, PlannedEdit, SignedEdit, both_signs
from ops.metrics.metric import Measurement, Metric
from ops.metrics.pictures import PictureJudge, PictureScores, PictureSet, References
from ops.networks.perceptual import feature_distance
from ops.spaces import crops_from_images, images_from_crops

INVERT: Final = Metric("time: invert", "lower", "ms per face")
FIRST_EDIT: Final = Metric("time: first edit", "lower", "ms per face")
FURTHER_EDIT: Final = Metric("time: further edit", "lower", "ms per face")
TIMED_FACES: Final = 9
"""One by one; the first warms up and does not count."""
EXAMPLES: Final = 6
"""Faces of the contact sheet."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Pictures of the first few faces, uint8 [K, R, R, 3] each."""

    reconstruction: np.ndarray
    added: np.ndarray
    """The first edit with a positive strength."""
    removed: np.ndarray


@dataclass(frozen=True, eq=False)
class Measured:
    """All numbers of one model, or of one model read as W+ only."""

    subject: str
    measurements: tuple[Measurement, ...]
    moved: Mapping[str, Mapping[str, Mapping[str, float]]]
    """Edit => attribute => mean change in `probability` and `logit`."""
    examples: Examples


@dataclass(eq=False)
class _Reading:
    """A model's results, looked at in one way: with everything it has, or its W+ only."""

    subject: str
    model: Inverter
    pictures: PictureScores
    edits: list[EditScores]
    examples: list[np.ndarray] = field(default_factory=list)


@final
class Evaluator:
    """The faces, what is measured of them, and what of them is the same for every model."""

    def __init__(
        self,
        faces: FaceSource,
        everyone: FaceSource,
        edits: Sequence[PlannedEdit],
        judge: AttributeClassifier | None,
        pictures: PictureJudge,
        *,
        batch: int = 32,
        size: int | None = None,
    ) -> None:
        """everyone: the faces that real sets are made of, all that are held out; of the same data and size as `faces`.

        size: side in pixels of the pictures that the models make, one of each one's sizes; None for their largest. All is
        measured at the faces' size.

        The cycle is measured on the first edit. Without a judge no attribute is.
        """
        self.faces, self.edits, self.judge, self.pictures, self.batch = faces, both_signs(edits), judge, pictures, batch
        self.size = size
        self.attributes = () if judge is None else judge.attributes
        self.device = pictures.device
        if judge is not None:
            judge.to(self.device)
        self._real = PictureSet(pictures)
        self._sources = [PictureSet(pictures) for _ in self.edits]
        self._goals = [None if edit.edit.attribute not in faces.attributes else PictureSet(pictures) for edit in self.edits]
        self._landmarks: list[np.ndarray | None] = []
        right = {name: 0 for name in self.attributes if name in faces.attributes}
        for rows, crops in faces.batches(batch):
            self._landmarks += pictures.landmarks(crops)
            taps = pictures.taps(crops)
            self._real.add(crops, taps)
            for edit, source in zip(self.edits, self._sources, strict=True):
                chosen = np.flatnonzero(edit.concerned(self._labels(rows), len(crops)))
                source.add(crops[chosen], _rows_of(taps, chosen))
            guesses = self._judged(crops) > 0
            for name in right:
                guess = guesses[:, self.attributes.index(name)].cpu().numpy()
                right[name] += int((guess == faces.attributes[name][rows]).sum())
        self.accuracy = {name: count / len(faces) for name, count in right.items()}
        """Accuracy of the judge on the real held-out faces."""
        for rows, crops in everyone.batches(batch):
            taps = pictures.taps(crops)
            for edit, goal in zip(self.edits, self._goals, strict=True):
                if goal is not None:
                    assert edit.edit.attribute is not None
                    chosen = np.flatnonzero(everyone.attributes[edit.edit.attribute][rows] == edit.wanted)
                    goal.add(crops[chosen], _rows_of(taps, chosen))

    def unedited(self, subject: str) -> tuple[Measurement, ...]:
        """How far the real faces that are edited are from the real ones that the edits lead to: what an edit that does nothing,
        on a perfect reconstruction, would have."""
        return tuple(
            one
            for edit, source, goal in zip(self.edits, self._sources, self._goals, strict=True)
            if goal is not None
            for one in source.distances(goal, subject, edit.item, TO_GOAL)
        )

    @torch.no_grad()
    def measure(
        self,
        model: Inverter,
        editors: Mapping[str, Editor],
        subject: str,
        wplus_subject: str | None = None,
        watch: Callable[[int], None] = lambda faces: None,
    ) -> list[Measured]:
        """The model, and with `wplus_subject` also what its W+ alone gives. watch: told how many faces are done.

        Raises MetricError for a picture that cannot be measured, and KeyError for an edit without an editor.
        """
        model.to(self.device)
        code_alone = model.wplus_only() if isinstance(model, StyleRes) else CodeAlone(model)
        readings = [self._reading(subject, model)]
        if wplus_subject is not None and model.config.detail_shape is not None:
            readings.append(self._reading(wplus_subject, code_alone))
        for rows, crops in self.faces.batches(self.batch):
            references = self.pictures.references(crops, self._landmarks[rows])
            images = images_from_crops(crops, self.device)
            inversion = model.invert(images)
            code_before = self._shown(code_alone.generate(inversion.wplus_NLD, None, size=self.size))
            before = []
            for reading in readings:
                unedited = self._unedited(reading, model, inversion, code_before)
                reading.pictures.add(unedited, references)
                before.append(self._judged(unedited))
                if rows.start == 0:
                    reading.examples.append(unedited[:EXAMPLES])
            for place, edit in enumerate(self.edits):
                chosen = np.flatnonzero(edit.concerned(self._labels(rows), len(crops)))
                if not len(chosen):
                    continue
                some = torch.from_numpy(chosen).to(self.device)
                part = Inversion(inversion.wplus_NLD[some], None if inversion.detail is None else inversion.detail[some])
                edited = _edited(editors, edit, part)
                code_after = self._shown(code_alone.generate(edited.wplus_NLD, None, size=self.size))
                for reading, logits_before in zip(readings, before, strict=True):
                    whole = reading.model is model and edited.detail is not None
                    outputs = (
                        self._shown(model.generate(edited.wplus_NLD, edited.detail, unedited_NLD=part.wplus_NLD))
                        if whole
                        else code_after
                    )
                    concerned = self.pictures.chosen(references, chosen)
                    self._score(reading, place, editors, concerned, outputs, logits_before[some])
                    reading.edits[place].add_ghosts(images[some], outputs, code_before[some], code_after)
            watch(rows.stop)
        return [self._finished(reading, editors) for reading in readings]

    def _reading(self, subject: str, model: Inverter) -> _Reading:
        pairs = zip(self.edits, self._goals, strict=True)
        scores = [EditScores(edit, self.pictures, self.attributes, goal) for edit, goal in pairs]
        return _Reading(subject, model, PictureScores(self.pictures), scores)

    def _unedited(self, reading: _Reading, model: Inverter, inversion: Inversion, code_before: Tensor) -> np.ndarray:
        """As a user gets it: 8 bits."""
        if reading.model is not model or inversion.detail is None:
            return crops_from_images(code_before)
        return crops_from_images(self._shown(model.generate(inversion.wplus_NLD, inversion.detail, size=self.size)))

    def _score(
        self,
        reading: _Reading,
        place: int,
        editors: Mapping[str, Editor],
        references: References,
        outputs: Tensor,
        logits_before: Tensor,
    ) -> None:
        scores, results = reading.edits[place], crops_from_images(outputs)
        scores.add_result(results, references, logits_before, self._judged(results))
        undone = _undone(editors, scores.edit)
        if place < 2 and undone is not None:  # both signs of the first edit
            again = reading.model.invert(images_from_crops(results, self.device))
            back = _edited(editors, undone, again)
            returned = crops_from_images(
                self._shown(reading.model.generate(back.wplus_NLD, back.detail, unedited_NLD=again.wplus_NLD))
            )
            errors = images_from_crops(returned) - images_from_crops(references.crops)
            distance = feature_distance(self.pictures.taps(returned), references.taps)
            scores.add_cycle(errors.double().square().mean(dim=(1, 2, 3)).numpy(), distance.cpu().numpy())

    def _finished(self, reading: _Reading, editors: Mapping[str, Editor]) -> Measured:
        subject = reading.subject
        found = reading.pictures.measurements(subject, self._real)
        for scores in reading.edits:
            found += scores.measurements(subject)
        found += self._times(reading, editors)
        return Measured(
            subject,
            tuple(found),
            {scores.edit.item: scores.moved() for scores in reading.edits},
            self._examples(reading, editors),
        )

    def _times(self, reading: _Reading, editors: Mapping[str, Editor]) -> list[Measurement]:
        """Medians over a few faces, one by one."""
        model, count = reading.model, min(TIMED_FACES, len(self.faces))
        seconds: dict[Metric, list[float]] = {INVERT: [], FIRST_EDIT: [], FURTHER_EDIT: []}
        for crop in self.faces.crops(0, count):
            started = self._now()
            inversion = model.invert(images_from_crops(crop[None], self.device))
            inverted = self._now()
            edited = _edited(editors, self.edits[0], inversion) if self.edits else inversion
            self._after(model, edited, inversion)
            done = self._now()
            seconds[INVERT].append(inverted - started)
            seconds[FIRST_EDIT].append(done - started)
            seconds[FURTHER_EDIT].append(done - inverted)
        threads = torch.get_num_threads()
        precision = str(model.feature_dtype).removeprefix("torch.")
        where = f"processor time, threads: {threads}" if self.device.type == "cpu" else self.device.type
        note = f"median of {max(1, count - 1)} faces one by one, {precision}, {where}"
        return [
            Measurement(metric, reading.subject, 1000 * statistics.median(found[1:] or found), count, None, note)
            for metric, found in seconds.items()
        ]

    def _examples(self, reading: _Reading, editors: Mapping[str, Editor]) -> Examples:
        crops = self.faces.crops(0, EXAMPLES)
        inversion = reading.model.invert(images_from_crops(crops, self.device))
        pictures = []
        for edit in self.edits[:2]:
            edited = _edited(editors, edit, inversion)
            pictures.append(
                crops_from_images(
                    self._shown(reading.model.generate(edited.wplus_NLD, edited.detail, unedited_NLD=inversion.wplus_NLD))
                )
            )
        unedited = np.concatenate(reading.examples)
        added, removed = pictures if pictures else (unedited, unedited)
        return Examples(unedited, added, removed)

    def _labels(self, rows: slice) -> dict[str, np.ndarray]:
        return {name: values[rows] for name, values in self.faces.attributes.items()}

    def _judged(self, crops: np.ndarray) -> Tensor:
        """=> logits [N, A]; A is 0 without a judge."""
        if self.judge is None:
            return torch.zeros(len(crops), 0)
        return logits(self.judge, images_from_crops(crops, self.device))

    def _after(self, model: Inverter, edited: Inversion, before: Inversion) -> Tensor:
        """Pictures of an edited code, at the size where everything is measured."""
        return self._shown(model.generate(edited.wplus_NLD, edited.detail, unedited_NLD=before.wplus_NLD, size=self.size))

    def _shown(self, images: Tensor) -> Tensor:
        """The generator's images at the size of the encoder's, where everything is measured."""
        size = self.faces.size
        return images if images.shape[-1] == size else F.adaptive_avg_pool2d(images, size)

    def _now(self) -> float:
        """Seconds; on a CPU those that this process computed, so that what else the machine does is not counted."""
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _edited(editors: Mapping[str, Editor], edit: SignedEdit, inversion: Inversion) -> Inversion:
    codes = inversion.wplus_NLD
    strengths = torch.full((len(codes),), edit.strength, device=codes.device)
    return Inversion(editors[edit.edit.name].apply(codes, strengths), inversion.detail)


def _rows_of(taps: Sequence[Tensor], rows: np.ndarray) -> list[Tensor]:
    return [tap[torch.from_numpy(rows).to(tap.device)] for tap in taps]


def _undone(editors: Mapping[str, Editor], edit: SignedEdit) -> SignedEdit | None:
    """The edit that takes it back; None for one that moves to a target, which forgets where it came from."""
    return SignedEdit(edit.edit, -edit.sign) if editors[edit.edit.name].neutral == 0 else None
