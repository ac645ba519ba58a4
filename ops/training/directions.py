"""Edit directions of a bundle: InterFaceGAN boundaries over inverted labelled faces, and GANSpace components of W.

Legend: N faces, L rows of W+, D width of W, K components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ops.editing.ganspace import GanSpaceBasis
from ops.face.detect import DetectorSettings, build_detector
from ops.stylegan2.generator import Generator

RIDGE = 0.1


@dataclass(frozen=True)
class Boundary:
    """A direction as it goes into a bundle, and how well its boundary separates faces it was not fitted on."""

    direction_D: Tensor
    """Strength 1 leads from the average face without the attribute to the average face with it, along the boundary's normal."""
    accuracy: float


def find_boundary(codes_ND: Tensor, labels_N: np.ndarray, *, seed: int = 0) -> Boundary:
    """The normal of the linear boundary between two classes of codes (Shen et al., CVPR 2020, section 3.1).

    InterFaceGAN fits a support vector machine; this is the logistic form of the same linear classifier, class-balanced, with
    a ridge that trades a little accuracy for a normal along which faces really differ: with 0.01 its cosine to the difference
    of the class means is 0.5, with 0.1 it is 0.8, and a smile classifier moves twice as far. A fifth of the faces is kept out
    of the fit and gives `accuracy` (balanced over the classes).
    """
    labels = torch.from_numpy(np.asarray(labels_N, bool))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    held, fitted = order[: len(order) // 5], order[len(order) // 5 :]
    mean, std = codes_ND[fitted].mean(dim=0), codes_ND[fitted].std(dim=0) + 1e-6
    x, y = ((codes_ND - mean) / std).double(), labels.double()
    weight = torch.where(labels, 0.5 / labels[fitted].double().mean(), 0.5 / (1 - labels[fitted].double().mean()))
    normal = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([normal, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = x[fitted] @ normal + bias
        value = F.binary_cross_entropy_with_logits(logits, y[fitted], weight[fitted]) + RIDGE * normal.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        right = ((x[held] @ normal + bias) > 0) == labels[held]
        accuracy = 0.5 * (right[labels[held]].double().mean() + right[~labels[held]].double().mean())
        direction = F.normalize((normal / std).float(), dim=0)
    return Boundary(scaled(direction, codes_ND, labels), float(accuracy))


def scaled(direction_D: Tensor, codes_ND: Tensor, labels: Tensor) -> Tensor:
    """Unit direction => as long as the class means are apart along it."""
    along = codes_ND @ direction_D
    return direction_D * (along[labels].mean() - along[~labels].mean())


def orthogonalised(direction_D: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Conditional manipulation (Shen et al., CVPR 2020, section 3.3): what is left after projecting out other attributes."""
    if not others:
        return direction_D
    basis = torch.linalg.qr(torch.stack(list(others), dim=1)).Q
    return direction_D - basis @ (basis.t() @ direction_D)


def yaw_proxy(images: np.ndarray) -> np.ndarray:
    """uint8 [N, R, R, 3] => [N]: nose right of the eyes' middle, in inter-ocular distances; NaN without a face.

    Of an aligned face the nose moves against the eyes as the head turns; sign and order are all a boundary needs.
    """
    detector = build_detector(DetectorSettings(min_score=0.3, threads=1))
    values = np.full(len(images), np.nan)
    for i, image in enumerate(images):
        # Detectors are trained on faces with surroundings; an aligned crop has next to none.
        faces = detector.detect(np.pad(image, ((image.shape[0] // 4,) * 2, (image.shape[1] // 4,) * 2, (0, 0)), mode="edge"))
        if faces:
            left, right, nose = faces[0].landmarks_52[:3]
            values[i] = (nose[0] - (left[0] + right[0]) / 2) / max(float(np.hypot(*(right - left))), 1.0)
    return values


@torch.no_grad()
def ganspace_basis(generator: Generator, components: int, *, samples: int = 50_000, seed: int = 0) -> GanSpaceBasis:
    """Principal components of W = M(z) (Härkönen et al., NeurIPS 2020, section 2.1)."""
    z = torch.randn(samples, generator.config.z_dim, generator=torch.Generator().manual_seed(seed))
    codes = torch.cat([generator.mapping(part) for part in z.split(4096)]).double()
    mean = codes.mean(dim=0)
    eigenvalues, vectors = torch.linalg.eigh(torch.cov((codes - mean).t()))
    largest = torch.argsort(eigenvalues, descending=True)[:components]
    return GanSpaceBasis(mean.float(), vectors[:, largest].t().float().contiguous(), eigenvalues[largest].sqrt().float())


def labels_from(attributes: Mapping[str, np.ndarray], positive: str, negative: str | None) -> tuple[np.ndarray, np.ndarray]:
    """(rows that take part, their labels): with a `negative` attribute only faces that have exactly one of the two."""
    if negative is None:
        return np.arange(len(attributes[positive])), attributes[positive]
    rows = np.flatnonzero(attributes[positive] != attributes[negative])
    return rows, attributes[positive][rows]
