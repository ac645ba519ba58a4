"""Results against the pictures they should be, and sets of pictures against each other, by whatever networks are at hand.

Pictures come in batches and go; what stays is a few numbers per metric. Results are measured as the 8-bit pictures a user gets.

Legend: N pictures; pictures uint8 [N, R, R, 3].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

import numpy as np
import torch
from torch import Tensor

from ops.device import channels_last
from ops.face.detect import Detector
from ops.metrics.fid import frechet_distance, inception_features
from ops.metrics.identity import IdentityNetwork, face_landmarks, faces_at
from ops.metrics.metric import Measurement, Metric, MetricError
from ops.metrics.running import FeatureMoments, RunningMean
from ops.metrics.similarity import ssim_and_ms_ssim
from ops.networks.inception_v3 import InceptionV3
from ops.networks.lpips_alex import LpipsAlex
from ops.networks.perceptual import Perceptual, feature_distance
from ops.networks.protocol import PROTOCOL_SIZE, protocol_images
from ops.spaces import images_from_crops

PictureMetric = Literal["ssim", "ms-ssim", "lpips", "fid", "efficientnet-fid", "identity"]
L2: Final = Metric("L2", "lower", "mean squared, [-1, 1]")
FEATURE_DISTANCE: Final = Metric("feature distance", "lower", "", "EfficientNet-Lite0", "LPIPS")
SSIM: Final = Metric("SSIM", "higher", "")
MS_SSIM: Final = Metric("MS-SSIM", "higher", "")
LPIPS: Final = Metric("LPIPS", "lower", "", "AlexNet v0.1")
FID: Final = Metric("FID", "lower", "", "Inception v3 (torchvision)")
EFFICIENTNET_FID: Final = Metric("Frechet distance", "lower", "", "EfficientNet-Lite0, pooled", "FID (Inception v3)")

AT_ONCE: Final = 8
"""Pictures of 256 px in float64 that are compared at a time."""


@final
@dataclass(frozen=True, eq=False)
class PictureNetworks:
    """The networks that are at hand; None for those that are not."""

    lpips: LpipsAlex | None = None
    inception: InceptionV3 | None = None
    identity: IdentityNetwork | None = None
    detector: Detector | None = None
    """Finds the landmarks that `identity` needs."""

    def available(self) -> tuple[PictureMetric, ...]:
        """The metrics that can be computed. The substitute of FID only where FID itself cannot."""
        found: list[PictureMetric] = ["ssim", "ms-ssim"]
        if self.lpips is not None:
            found.append("lpips")
        found.append("efficientnet-fid" if self.inception is None else "fid")
        if self.identity is not None and self.detector is not None:
            found.append("identity")
        return tuple(found)


@final
@dataclass(frozen=True, eq=False)
class References:
    """A batch of pictures that others are compared with, and what of them is computed once."""

    crops: np.ndarray
    taps: list[Tensor]
    """EfficientNet-Lite0's features, fine to coarse."""
    landmarks: Sequence[np.ndarray | None]
    """Landmarks of each face, float [5, 2] at 256 px; None where none was found, or none is needed."""
    embedded: np.ndarray
    """Embeddings of the faces that have landmarks, [K, D]; empty where none is needed."""

    @property
    def with_face(self) -> np.ndarray:
        return np.array([five is not None for five in self.landmarks], bool)


@final
class PictureJudge:
    """The chosen metrics with their networks. The L2 and feature distances are always among them."""

    def __init__(
        self, networks: PictureNetworks, metrics: tuple[PictureMetric, ...], device: torch.device | str = "cpu"
    ) -> None:
        """Raises MetricError for a metric whose network is not there."""
        missing = [name for name in metrics if name not in networks.available() and name != "efficientnet-fid"]
        if missing:
            raise MetricError(f"{', '.join(missing)}: the network is not there; give its weights, or leave the metric out")
        self.networks, self.metrics, self.device = networks, metrics, torch.device(device)
        self._perceptual = channels_last(Perceptual()).to(self.device)
        for network in (networks.lpips, networks.inception):
            if network is not None:
                network.to(self.device)

    def landmarks(self, crops: np.ndarray) -> list[np.ndarray | None]:
        """Find the landmarks of each face, where identity is measured; this is slow, and the same for every model."""
        if "identity" not in self.metrics:
            return [None] * len(crops)
        assert self.networks.detector is not None
        return face_landmarks(self.networks.detector, crops)

    def references(self, crops: np.ndarray, landmarks: Sequence[np.ndarray | None]) -> References:
        known = [i for i, five in enumerate(landmarks) if five is not None]
        embedded = self._embed(crops[known], [landmarks[i] for i in known]) if known else np.zeros((0, 0))
        return References(crops, self.taps(crops), landmarks, embedded)

    def chosen(self, references: References, rows: np.ndarray) -> References:
        """Some of them; rows are increasing indices."""
        place = np.cumsum(references.with_face) - 1
        known = rows[references.with_face[rows]]
        torch_rows = torch.from_numpy(rows).to(self.device)
        return References(
            references.crops[rows],
            [tap[torch_rows] for tap in references.taps],
            [references.landmarks[int(i)] for i in rows],
            references.embedded[place[known]] if len(references.embedded) else references.embedded,
        )

    @torch.no_grad()
    def taps(self, crops: np.ndarray) -> list[Tensor]:
        return self._perceptual.features(images_from_crops(crops, self.device))

    def identity(self, results: np.ndarray, references: References) -> np.ndarray:
        """Cosines of the results whose reference has a face, both cut at the reference's landmarks => float64 [K]."""
        known = np.flatnonzero(references.with_face)
        if not len(known):
            return np.zeros(0)
        found = self._embed(results[known], [references.landmarks[int(i)] for i in known])
        return (found * references.embedded).sum(axis=1)

    def _embed(self, crops: np.ndarray, landmarks: Sequence[np.ndarray | None]) -> np.ndarray:
        assert self.networks.identity is not None
        return self.networks.identity.embed(faces_at(crops, [five for five in landmarks if five is not None]))

    def frechet_metrics(self) -> list[Metric]:
        """FID, its substitute, both or neither: as chosen."""
        both: tuple[tuple[PictureMetric, Metric], ...] = (("fid", FID), ("efficientnet-fid", EFFICIENTNET_FID))
        return [metric for name, metric in both if name in self.metrics]


@final
class PictureSet:
    """Features of a set of pictures, for Frechet distances to other sets."""

    def __init__(self, judge: PictureJudge) -> None:
        self._judge = judge
        self._moments = {metric: FeatureMoments() for metric in judge.frechet_metrics()}
        self.count = 0

    def add(self, crops: np.ndarray, taps: Sequence[Tensor]) -> None:
        """taps: the judge's features of the same pictures."""
        self.count += len(crops)
        for metric, moments in self._moments.items():
            if metric == FID:
                assert self._judge.networks.inception is not None
                moments.add(inception_features(self._judge.networks.inception, crops) if len(crops) else np.zeros((0, 2048)))
            else:
                pooled = torch.cat([tap.float().mean(dim=(2, 3)) for tap in taps], dim=1)
                moments.add(pooled.double().cpu().numpy())

    def distances(self, real: PictureSet, subject: str, item: str = "", towards: str = "") -> list[Measurement]:
        """Return the distance of this set from a real one; without a value, but with a reason, where one has fewer than two.

        towards: what the real set is, for the metric's name.
        """
        found = []
        for metric, moments in self._moments.items():
            named = Metric(f"{metric.name} {towards}".strip(), metric.better, metric.unit, metric.network, metric.stands_for)
            count = min(moments.count, real._moments[metric].count)
            if count < 2:
                note = f"{moments.count} pictures against {real.count}: too few"
                found.append(Measurement(named, subject, None, moments.count, None, note, item))
                continue
            width = len(moments.mean_D)
            note = f"at most {width} pictures in {width} dimensions: biased upwards, compare equal counts only"
            value = frechet_distance(moments, real._moments[metric])
            few = count <= width
            found.append(Measurement(named, subject, value, moments.count, None, note if few else "", item))
        return found


@final
class PictureScores:
    """Results against their references, one by one; a mean per metric."""

    def __init__(self, judge: PictureJudge) -> None:
        self._judge = judge
        self._l2, self._features, self._ssim, self._ms_ssim, self._lpips, self._identity = (RunningMean() for _ in range(6))
        self._set = PictureSet(judge)
        self._seen = self._negative = self._faceless = 0
        self._side = PROTOCOL_SIZE

    @torch.no_grad()
    def add(self, results: np.ndarray, references: References) -> None:
        """Raises MetricError where there is not one result for each reference."""
        judge = self._judge
        if results.shape != references.crops.shape:
            raise MetricError(f"expected results like the references {list(references.crops.shape)}, got {list(results.shape)}")
        self._seen += len(results)
        self._side = results.shape[1]
        errors = images_from_crops(results) - images_from_crops(references.crops)
        self._l2.add(errors.double().square().mean(dim=(1, 2, 3)).numpy())
        taps = judge.taps(results)
        self._features.add(feature_distance(taps, references.taps).cpu().numpy())
        self._set.add(results, taps)
        if {"ssim", "ms-ssim", "lpips"} & set(judge.metrics):
            for first in range(0, len(results), AT_ONCE):
                self._add_enlarged(results[first : first + AT_ONCE], references.crops[first : first + AT_ONCE])
        if "identity" in judge.metrics:
            self._faceless += int((~references.with_face).sum())
            self._identity.add(judge.identity(results, references))

    def _add_enlarged(self, results: np.ndarray, originals: np.ndarray) -> None:
        judge = self._judge
        x, y = (protocol_images(crops).to(judge.device) for crops in (results, originals))
        if {"ssim", "ms-ssim"} & set(judge.metrics):
            structure, scales = (values.cpu().numpy() for values in ssim_and_ms_ssim(x, y))
            self._ssim.add(structure)
            self._ms_ssim.add(scales[np.isfinite(scales)])
            self._negative += int((~np.isfinite(scales)).sum())
        if judge.networks.lpips is not None and "lpips" in judge.metrics:
            self._lpips.add(judge.networks.lpips(x, y).cpu().numpy())

    def measurements(self, subject: str, real: PictureSet) -> list[Measurement]:
        """real: the references as a set."""
        size = "" if self._side == PROTOCOL_SIZE else f"pictures of {self._side} px, brought to {PROTOCOL_SIZE} px"
        found = [self._l2.measurement(L2, subject), self._features.measurement(FEATURE_DISTANCE, subject)]
        for name in self._judge.metrics:
            match name:
                case "ssim":
                    found.append(self._ssim.measurement(SSIM, subject, note=size))
                case "ms-ssim":
                    left_out = f"{self._negative} of {self._seen} pairs have negative contrast and are left out"
                    note = "; ".join(part for part in (size, left_out if self._negative else "") if part)
                    found.append(self._ms_ssim.measurement(MS_SSIM, subject, note=note))
                case "lpips":
                    found.append(self._lpips.measurement(LPIPS, subject, note=size))
                case "identity":
                    found.append(identity_measurement(self._judge, self._identity, subject, self._faceless))
                case "fid" | "efficientnet-fid":
                    pass  # both at once, below
        return [*found, *self._set.distances(real, subject)]


def identity_measurement(judge: PictureJudge, cosines: RunningMean, subject: str, faceless: int, item: str = "") -> Measurement:
    assert judge.networks.identity is not None
    seen = cosines.count + faceless
    note = f"{faceless} of {seen} pairs left out: no face found in the source" if faceless else ""
    return cosines.measurement(identity_metric(judge.networks.identity), subject, item, note)


def identity_metric(network: IdentityNetwork) -> Metric:
    """Cosine of a face with its reference; ours is never the official number, if only for the alignment."""
    return Metric("identity kept", "higher", "cosine", network.name, "CurricularFace IR-101 on faces found by MTCNN")
