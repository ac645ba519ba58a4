"""Results against the pictures they should be: every picture metric whose networks are at hand.

Legend: N pictures; pictures uint8 [N, R, R, 3].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, final

import numpy as np
import torch

from ops.face.detect import Detector
from ops.metrics.fid import frechet_distance, inception_features
from ops.metrics.identity import IdentityNetwork, detected_faces, identity_similarities
from ops.metrics.metric import Measurement, Metric, MetricError, mean_of
from ops.metrics.networks.inception_v3 import InceptionV3
from ops.metrics.networks.lpips_alex import LpipsAlex
from ops.metrics.protocol import PROTOCOL_SIZE, protocol_images
from ops.metrics.similarity import ms_ssim, ssim
from ops.spaces import images_from_crops
from ops.training.perceptual import Perceptual

PictureMetric = Literal["ssim", "ms-ssim", "lpips", "fid", "efficientnet-fid", "identity"]
SSIM: Final = Metric("SSIM", "higher", "")
MS_SSIM: Final = Metric("MS-SSIM", "higher", "")
LPIPS: Final = Metric("LPIPS", "lower", "", "AlexNet v0.1")
FID: Final = Metric("FID", "lower", "", "Inception v3 (torchvision)")
EFFICIENTNET_FID: Final = Metric("Frechet distance", "lower", "", "EfficientNet-Lite0, pooled", "FID (Inception v3)")
BATCH: Final = 16


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
class PictureJudge:
    """Compares results with one set of references, whose features are computed once for all results."""

    def __init__(self, references: np.ndarray, networks: PictureNetworks, metrics: tuple[PictureMetric, ...]) -> None:
        """Raises MetricError for a metric whose network is not there."""
        missing = [name for name in metrics if name not in networks.available() and name != "efficientnet-fid"]
        if missing:
            raise MetricError(f"{', '.join(missing)}: the network is not there; give its weights, or leave the metric out")
        self._references = references
        self._networks = networks
        self._metrics = metrics
        self._perceptual = Perceptual() if "efficientnet-fid" in metrics else None
        self._features = {name: self._features_of(name, references) for name in metrics if name in ("fid", "efficientnet-fid")}
        self._faces = self._faces_of(references) if "identity" in metrics else []

    def measure(self, subject: str, results: np.ndarray) -> list[Measurement]:
        """Every chosen metric of `results`, which belong to the references one by one."""
        if results.shape != self._references.shape:
            raise MetricError(
                f"{subject}: expected results like the references {list(self._references.shape)}, got {list(results.shape)}"
            )
        return [self._measure(name, subject, results) for name in self._metrics]

    def _measure(self, name: PictureMetric, subject: str, results: np.ndarray) -> Measurement:
        match name:
            case "ssim":
                return mean_of(SSIM, subject, self._in_pairs(name, results), self._size_note())
            case "ms-ssim":
                values = np.array(self._in_pairs(name, results))
                known = values[np.isfinite(values)]
                note = self._size_note()
                if len(known) < len(values):
                    left_out = f"{len(values) - len(known)} of {len(values)} pairs have negative contrast and are left out"
                    note = f"{note}; {left_out}" if note else left_out
                return _mean_if_any(MS_SSIM, subject, known, note)
            case "lpips":
                return mean_of(LPIPS, subject, self._in_pairs(name, results), self._size_note())
            case "fid" | "efficientnet-fid":
                features = self._features_of(name, results)
                value = frechet_distance(features, self._features[name])
                count, dimensions = features.shape
                note = f"{count} pictures in {dimensions} dimensions: biased upwards, compare equal counts only"
                metric = FID if name == "fid" else EFFICIENTNET_FID
                return Measurement(metric, subject, value, count, None, note if count <= dimensions else "")
            case "identity":
                network = self._networks.identity
                assert network is not None
                cosines = identity_similarities(network, self._faces_of(results), self._faces)
                unseen = len(results) - len(cosines)
                note = f"{unseen} of {len(results)} pairs left out: no face found in one of the two" if unseen else ""
                return _mean_if_any(identity_metric(network), subject, cosines, note)

    @torch.no_grad()
    def _in_pairs(self, name: PictureMetric, results: np.ndarray) -> list[float]:
        values: list[float] = []
        for start in range(0, len(results), BATCH):
            pair = protocol_images(results[start : start + BATCH]), protocol_images(self._references[start : start + BATCH])
            match name:
                case "ssim":
                    found = ssim(*pair)
                case "ms-ssim":
                    found = ms_ssim(*pair)
                case _:
                    assert self._networks.lpips is not None
                    found = self._networks.lpips(*pair)
            values += found.tolist()
        return values

    @torch.no_grad()
    def _features_of(self, name: PictureMetric, pictures: np.ndarray) -> np.ndarray:
        if name == "fid":
            assert self._networks.inception is not None
            return inception_features(self._networks.inception, pictures)
        assert self._perceptual is not None
        rows = []
        for start in range(0, len(pictures), BATCH):
            taps = self._perceptual.features(images_from_crops(pictures[start : start + BATCH]))
            rows.append(torch.cat([tap.float().mean(dim=(2, 3)) for tap in taps], dim=1))
        return torch.cat(rows).double().numpy()

    def _faces_of(self, pictures: np.ndarray) -> list[np.ndarray | None]:
        assert self._networks.detector is not None
        return detected_faces(self._networks.detector, pictures)

    def _size_note(self) -> str:
        side = self._references.shape[1]
        return "" if side == PROTOCOL_SIZE else f"pictures of {side} px, brought to {PROTOCOL_SIZE} px as the protocol asks"


def _mean_if_any(metric: Metric, subject: str, values: np.ndarray, note: str) -> Measurement:
    """Where every pair was left out, the number is missing and its note says why; the other metrics are worth having."""
    if len(values) == 0:
        return Measurement(metric, subject, None, 0, None, note)
    return mean_of(metric, subject, values.tolist(), note)


def identity_metric(network: IdentityNetwork) -> Metric:
    """Cosine of a face with its reference; ours is never the official number, if only for the alignment."""
    return Metric("identity kept", "higher", "cosine", network.name, "CurricularFace IR-101 on faces found by MTCNN")
