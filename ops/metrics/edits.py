"""Measures what an edit did to faces that lack what it brings: one edit and one sign at a time.

The paper's protocol (StyleRes, CVPR 2023, section 4): faces without an attribute are edited towards it and compared, as a set,
with real faces that have it; faces with it are edited away from it and compared with real faces without it.

Legend: N faces, A attributes; images [N, 3, R, R] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
from torch import Tensor

from ops.metrics.ghosts import GhostSums
from ops.metrics.metric import Measurement, Metric
from ops.metrics.pictures import PictureJudge, PictureSet, References, identity_measurement
from ops.metrics.running import RunningMean

CLASSIFIER: Final = "attribute classifier"
TARGET_PROBABILITY: Final = Metric("target attribute moved", "higher", "probability", CLASSIFIER)
TARGET_LOGIT: Final = Metric("target attribute moved", "higher", "logit", CLASSIFIER)
OTHERS_PROBABILITY: Final = Metric("other attributes moved", "lower", "mean |change| of probability", CLASSIFIER)
OTHERS_LOGIT: Final = Metric("other attributes moved", "lower", "mean |change| of logit", CLASSIFIER)
GHOST: Final = Metric("ghost", "lower", "share of the old detail where the edit is")
KEPT: Final = Metric("detail kept elsewhere", "higher", "share of it where the edit is not")
CYCLE_L2: Final = Metric("cycle L2", "lower", "mean squared, [-1, 1]")
CYCLE_FEATURES: Final = Metric("cycle feature distance", "lower", "", "EfficientNet-Lite0", "LPIPS")


@dataclass(frozen=True)
class PlannedEdit:
    """An edit, how far, and which attribute tells whether it is there."""

    name: str
    strength: float
    """Above 0; the opposite sign is measured too."""
    attribute: str | None = None
    """None: every face is edited with both signs, and no set of real faces is what the edit leads to."""
    brings: bool = True
    """Whether a positive strength brings the attribute or takes it away."""


@dataclass(frozen=True)
class SignedEdit:
    """One sign of a planned edit."""

    edit: PlannedEdit
    sign: int

    @property
    def strength(self) -> float:
        return self.sign * self.edit.strength

    @property
    def item(self) -> str:
        return f"{self.edit.name}={self.strength:+g}"

    @property
    def wanted(self) -> bool:
        """Whether this sign brings the attribute."""
        return self.edit.brings == (self.sign > 0)

    def concerned(self, labels: Mapping[str, np.ndarray], count: int) -> np.ndarray:
        """Return which of `count` faces lack what it brings: bool [N]; all of them without labels."""
        if self.edit.attribute is None or self.edit.attribute not in labels:
            return np.ones(count, bool)
        return labels[self.edit.attribute] != self.wanted

    def goal(self) -> str:
        """The real faces that it leads to, in words."""
        assert self.edit.attribute is not None
        return f"{'' if self.wanted else 'not '}{self.edit.attribute.replace('_', ' ')}"


def both_signs(edits: Sequence[PlannedEdit]) -> list[SignedEdit]:
    return [SignedEdit(edit, sign) for edit in edits for sign in (1, -1)]


@final
class EditScores:
    """Running numbers of one signed edit of one subject."""

    def __init__(
        self, edit: SignedEdit, judge: PictureJudge, attributes: Sequence[str], goal: PictureSet | None = None
    ) -> None:
        """goal: real faces with what the edit brings; None where no label says which these are."""
        self.edit, self._judge, self._attributes, self._goal = edit, judge, tuple(attributes), goal
        self._set = PictureSet(judge)
        self._ghosts = GhostSums()
        self._identity, self._cycle_l2, self._cycle_features = RunningMean(), RunningMean(), RunningMean()
        self._target = RunningMean(), RunningMean()
        self._others = RunningMean(), RunningMean()
        self._all = [(RunningMean(), RunningMean()) for _ in self._attributes]
        self._faceless = 0

    def add_result(self, results: np.ndarray, references: References, before: Tensor, after: Tensor) -> None:
        """results: edited pictures uint8 [N, R, R, 3] of the references' faces; before, after: the classifier's logits [N, A]
        of the subject's unedited and edited pictures."""
        if self._goal is not None:
            self._set.add(results, self._judge.taps(results))
        if "identity" in self._judge.metrics:
            self._faceless += int((~references.with_face).sum())
            self._identity.add(self._judge.identity(results, references))
        changes = torch.sigmoid(after) - torch.sigmoid(before), after - before
        for which, change_NA in enumerate(one.double().cpu().numpy() for one in changes):
            for i, means in enumerate(self._all):
                means[which].add(change_NA[:, i])
            target = self._target_column()
            if target is not None:
                self._target[which].add(change_NA[:, target] if self.edit.wanted else -change_NA[:, target])
            others = np.abs(np.delete(change_NA, [] if target is None else [target], axis=1))
            self._others[which].add(others.mean(axis=1) if others.shape[1] else np.zeros(0))

    def add_ghosts(self, source: Tensor, edited: Tensor, code_before: Tensor, code_after: Tensor) -> None:
        """See `ops.metrics.ghosts`."""
        self._ghosts.add(source, edited, code_before, code_after)

    def add_cycle(self, l2_N: np.ndarray, feature_distance_N: np.ndarray) -> None:
        """Edited, inverted again, the edit undone: distances to the source."""
        self._cycle_l2.add(l2_N)
        self._cycle_features.add(feature_distance_N)

    def moved(self) -> dict[str, dict[str, float]]:
        """Mean change of every attribute, in probability and in logits."""
        return {
            name: {"probability": means[0].mean, "logit": means[1].mean}
            for name, means in zip(self._attributes, self._all, strict=True)
        }

    def measurements(self, subject: str) -> list[Measurement]:
        item, found = self.edit.item, []
        if self._goal is not None:
            found += self._set.distances(self._goal, subject, item, TO_GOAL)
        if self._attributes and self._target_column() is not None:
            found.append(self._target[0].measurement(TARGET_PROBABILITY, subject, item))
            found.append(self._target[1].measurement(TARGET_LOGIT, subject, item))
        if len(self._attributes) > 1:
            found.append(self._others[0].measurement(OTHERS_PROBABILITY, subject, item))
            found.append(self._others[1].measurement(OTHERS_LOGIT, subject, item))
        if "identity" in self._judge.metrics:
            found.append(identity_measurement(self._judge, self._identity, subject, self._faceless, item))
        for metric, value in ((GHOST, self._ghosts.ghost), (KEPT, self._ghosts.kept)):
            note = "" if value is not None else "no face to measure"
            found.append(Measurement(metric, subject, value, self._ghosts.count, None, note, item))
        if self._cycle_l2.count:
            found.append(self._cycle_l2.measurement(CYCLE_L2, subject, item))
            found.append(self._cycle_features.measurement(CYCLE_FEATURES, subject, item))
        return found

    def _target_column(self) -> int | None:
        attribute = self.edit.edit.attribute
        return self._attributes.index(attribute) if attribute in self._attributes else None


TO_GOAL: Final = "of edited faces to real faces with what the edit brings"
