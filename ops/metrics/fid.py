"""Frechet inception distance (Heusel et al. 2017) in the official evaluation's form (StarGAN-v2's).

torchvision's Inception v3, so the numbers compare neither with TensorFlow's weights (pytorch-fid, clean-fid) nor with pictures
prepared in another way: the release measures JPEG files, and says itself that the number is very sensitive to that.

Legend: N pictures, D features.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ops.metrics.metric import MetricError
from ops.metrics.running import FeatureMoments
from ops.networks.inception_v3 import INPUT_SIZE, InceptionV3
from ops.networks.protocol import PROTOCOL_SIZE

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def inception_input(pictures: Iterable[np.ndarray]) -> Tensor:
    """pictures uint8 [H, W, 3] of any size => float32 [N, 3, 299, 299]: PIL to 256 px (bicubic), to 299 px (bilinear), then
    ImageNet's mean and deviation."""
    ready = []
    for picture in pictures:
        image = Image.fromarray(picture).resize((PROTOCOL_SIZE, PROTOCOL_SIZE), Image.Resampling.BICUBIC)
        ready.append(np.asarray(image.resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BILINEAR)))
    pixels = torch.from_numpy(np.stack(ready)).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_DEVIATION)[:, None, None]


@torch.no_grad()
def inception_features(network: InceptionV3, pictures: np.ndarray, batch: int = 16) -> np.ndarray:
    """pictures uint8 [N, H, W, 3] => float64 [N, 2048]; computed where the network is."""
    device = next(network.parameters()).device
    found = [network(inception_input(pictures[start : start + batch]).to(device)) for start in range(0, len(pictures), batch)]
    return torch.cat(found).double().cpu().numpy()


def frechet_distance(a_ND: np.ndarray | FeatureMoments, b_ND: np.ndarray | FeatureMoments) -> float:
    """|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of two sets of features, in float64; 0 for equal ones.

    C is the covariance with N - 1. With C = A^T A, the trace of the root is the sum of the singular values of A B^T. The
    official program takes the matrix root of C_a C_b, which is singular for N <= D: the same number to 1e-7, from a solver that
    promises nothing there and takes 100 times as long (docs/metrics.md).

    Raises MetricError for fewer than two rows, values that are not finite, or sets of different width.
    """
    a, b = _moments(a_ND), _moments(b_ND)
    for moments in (a, b):
        if moments.count < 2:
            raise MetricError(f"Frechet distance: expected at least two rows of features [N, D], got {moments.count}")
    if len(a.mean_D) != len(b.mean_D):
        raise MetricError(f"Frechet distance: expected one width, got {len(a.mean_D)} and {len(b.mean_D)} features")
    roots = a.root(), b.root()
    overlap = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    spread = sum(float(np.square(root).sum()) for root in roots)
    return max(0.0, float(np.square(a.mean_D - b.mean_D).sum()) + spread - 2 * float(overlap))


def _moments(features: np.ndarray | FeatureMoments) -> FeatureMoments:
    if isinstance(features, FeatureMoments):
        return features
    moments = FeatureMoments()
    moments.add(features)
    return moments
