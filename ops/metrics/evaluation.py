"""What a bundle is worth on faces of held-out identities: reconstruction, and edits judged by classifiers that are not its own.

Legend: N faces, A attributes; images [N, 3, R, R] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ops.editing.editor import Editor
from ops.inversion.styleres import StyleRes
from ops.metrics.attributes import AttributeClassifier, probabilities
from ops.metrics.metric import Measurement, Metric
from ops.metrics.pictures import PictureJudge
from ops.spaces import crops_from_images, images_from_crops
from ops.training.perceptual import Perceptual

WPLUS_ONLY, WITH_RESIDUAL = "W+ alone", "with E1 and E2"
L2 = Metric("L2", "lower", "mean squared, [-1, 1]")
FEATURE_DISTANCE = Metric("feature distance", "lower", "", "EfficientNet-Lite0", "LPIPS")


@dataclass(frozen=True)
class Reconstruction:
    """Means over the faces; smaller is better."""

    l2: float
    """Mean squared error in [-1, 1]."""
    perceptual: float
    """`feature_distance` on EfficientNet-Lite0: LPIPS's form, not LPIPS's network; 0 to 4."""


@dataclass(frozen=True)
class EditEffect:
    """Mean change of each classifier's probability against the unedited reconstruction."""

    edit: str
    strength: float
    moved: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    faces: int
    wplus_only: Reconstruction
    styleres: Reconstruction
    cycle_l2: float
    """Mean squared error after a smile edit, re-inversion and the opposite edit, against the input."""
    effects: tuple[EditEffect, ...]
    wplus_effects: tuple[EditEffect, ...]
    """The same edits without the residual: what the code alone does."""
    classifier_accuracy: Mapping[str, float]
    """Of the judges, on the real held-out faces."""
    pictures: tuple[Measurement, ...] = ()
    """What a `PictureJudge` measured of both reconstructions."""

    def measurements(self) -> list[Measurement]:
        """The reconstruction of both methods side by side, for a table."""
        found = []
        for subject, one in ((WPLUS_ONLY, self.wplus_only), (WITH_RESIDUAL, self.styleres)):
            found.append(Measurement(L2, subject, one.l2, self.faces))
            found.append(Measurement(FEATURE_DISTANCE, subject, one.perceptual, self.faces))
        return [*found, *self.pictures]


@torch.no_grad()
def evaluate(
    model: StyleRes,
    crops: np.ndarray,
    labels: Mapping[str, np.ndarray],
    editors: Mapping[str, Editor],
    edits: Sequence[tuple[str, float]],
    judge: AttributeClassifier,
    pictures: PictureJudge | None = None,
    *,
    batch: int = 32,
) -> Evaluation:
    """crops uint8 [N, R, R, 3] of held-out faces, R the model's input and output size.

    pictures: a judge whose references are `crops`; it sees results as the 8-bit pictures that a user gets.
    """
    images = images_from_crops(crops)
    perceptual = Perceptual()
    parts = [model.invert(part) for part in images.split(batch)]
    codes = torch.cat([part.wplus_NLD for part in parts])
    details = torch.cat([part.detail for part in parts if part.detail is not None])

    def with_residual(wplus_NLD: Tensor) -> Tensor:
        pairs = zip(wplus_NLD.split(batch), details.split(batch), strict=True)
        return torch.cat([model.generate(code, detail) for code, detail in pairs])

    def code_alone(wplus_NLD: Tensor) -> Tensor:
        generator = model.generator
        return torch.cat([generator(generator.styles(code)) for code in wplus_NLD.split(batch)])

    def edited(name: str, strength: float) -> Tensor:
        return editors[name].apply(codes, torch.full((len(codes),), strength))

    def reconstruction(outputs: Tensor) -> Reconstruction:
        distances = [perceptual(a, b) for a, b in zip(outputs.split(batch), images.split(batch), strict=True)]
        return Reconstruction(float((outputs - images).square().mean()), float(torch.cat(distances).mean()))

    full, plain = with_residual(codes), code_alone(codes)
    judged_full, judged_plain = probabilities(judge, full), probabilities(judge, plain)
    effects, wplus_effects = [], []
    for name, strength in edits:
        code = edited(name, strength)
        effects.append(_effect(name, strength, judge, probabilities(judge, with_residual(code)) - judged_full))
        wplus_effects.append(_effect(name, strength, judge, probabilities(judge, code_alone(code)) - judged_plain))

    name, strength = edits[0]
    there = with_residual(edited(name, strength))
    cycled = []
    for part in there.split(batch):
        inversion = model.invert(part)
        back = editors[name].apply(inversion.wplus_NLD, torch.full((len(part),), -strength))
        cycled.append(model.generate(back, inversion.detail))
    real = probabilities(judge, images)
    accuracy = {
        attribute: float(((real[:, i] > 0.5).numpy() == labels[attribute]).mean())
        for i, attribute in enumerate(judge.attributes)
    }
    return Evaluation(
        faces=len(images),
        wplus_only=reconstruction(plain),
        styleres=reconstruction(full),
        cycle_l2=float((torch.cat(cycled) - images).square().mean()),
        effects=tuple(effects),
        wplus_effects=tuple(wplus_effects),
        classifier_accuracy=accuracy,
        pictures=tuple(
            one
            for subject, outputs in ((WPLUS_ONLY, plain), (WITH_RESIDUAL, full))
            for one in ([] if pictures is None else pictures.measure(subject, crops_from_images(outputs)))
        ),
    )


def _effect(name: str, strength: float, judge: AttributeClassifier, change_NA: Tensor) -> EditEffect:
    moved = {attribute: float(change_NA[:, i].mean()) for i, attribute in enumerate(judge.attributes)}
    return EditEffect(name, strength, moved)
