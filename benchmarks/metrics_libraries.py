"""Which well-kept libraries agree with the official evaluation's metrics, on the golden set's pictures.

    python -m benchmarks.metrics_libraries --golden ../shared/golden

Each library is optional: one that is not installed, or that cannot be imported here, is a row that says so. None of them is a
dependency of this project. Into an environment of their own, they install with

    pip install --no-deps pytorch-msssim torchmetrics lightning-utilities scikit-image lpips piq pytorch-fid clean-fid

Differences are relative to the official value, the largest over the golden set's pairs.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import linalg
from torch import Tensor

from ops.metrics.fid import frechet_distance
from ops.metrics.similarity import ms_ssim, ssim
from tests.golden import SALT, draw, input_image

Pair = tuple[Tensor, Tensor]
TOLERANCE = 2e-4
"""Of the golden set: below it, a library agrees."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare libraries with the official evaluation's metrics.")
    parser.add_argument("--golden", type=Path, required=True, help="Folder of the golden vectors.")
    golden = parser.parse_args().golden / "public"
    print("| library | metric | result |\n|---|---|---|")
    stored = np.load(golden / "styleres_metrics_ssim.npz")
    pairs = golden_pairs(stored)
    expected_ssim = [float(stored[f"ssim/{j}"]) for j in range(4)]
    expected_ms = [float(stored[f"msssim/{j}"]) for j in range(4)]
    compared("this project", "SSIM", lambda: of_pairs(lambda x, y: float(ssim(x, y)), pairs), expected_ssim)
    compared("this project", "MS-SSIM", lambda: of_pairs(lambda x, y: float(ms_ssim(x, y)), pairs), expected_ms)
    for name, run in SSIM_LIBRARIES:
        compared(name, "SSIM", lambda run=run: of_pairs(run, pairs), expected_ssim)  # type: ignore[misc]
    for name, run in MS_SSIM_LIBRARIES:
        compared(name, "MS-SSIM", lambda run=run: of_pairs(run, pairs), expected_ms)  # type: ignore[misc]
    for name in ("lpips", "piq", "pytorch_fid.fid_score", "cleanfid.fid", "torch_fidelity", "torchvision"):
        imported(name)
    fid_rows(golden)


def golden_pairs(stored: np.lib.npyio.NpzFile) -> list[Pair]:
    """(result, reference) of the golden set, in [-1, 1]."""
    pairs = []
    for j in range(4):
        first, second, share = stored[f"pair/{j}"]
        a, b = input_image(int(first)), input_image(int(second))
        noise = 0.03 * draw(f"{SALT}noise{j}", (1, 3, 256, 256))
        pairs.append(((a * (1 - share) + b * share + noise).clamp(-1, 1), a))
    return pairs


def of_pairs(run: Callable[[Tensor, Tensor], float], pairs: list[Pair]) -> list[float]:
    return [run(x, y) for x, y in pairs]


def pytorch_msssim_ssim(x: Tensor, y: Tensor) -> float:
    from pytorch_msssim import ssim as other

    return float(other(x, y, data_range=2.0))


def pytorch_msssim_ms(x: Tensor, y: Tensor) -> float:
    from pytorch_msssim import ms_ssim as other

    return float(other(x, y, data_range=2.0))


def torchmetrics_ssim(x: Tensor, y: Tensor) -> float:
    from torchmetrics.functional.image import structural_similarity_index_measure as other

    return float(other(x, y, data_range=2.0))


def torchmetrics_ms(x: Tensor, y: Tensor) -> float:
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as other

    return float(other(x, y, data_range=2.0))


def torchmetrics_ms_unclamped(x: Tensor, y: Tensor) -> float:
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as other

    return float(other(x, y, data_range=2.0, normalize=None))


def skimage_ssim(x: Tensor, y: Tensor) -> float:
    from skimage.metrics import structural_similarity as other

    a, b = (t[0].permute(1, 2, 0).numpy().astype(np.float64) for t in (x, y))
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(other(a, b, data_range=2.0, channel_axis=2, **settings))


SSIM_LIBRARIES: tuple[tuple[str, Callable[[Tensor, Tensor], float]], ...] = (
    ("pytorch-msssim", pytorch_msssim_ssim),
    ("torchmetrics", torchmetrics_ssim),
    ("scikit-image (Gaussian weights, no sample covariance)", skimage_ssim),
)
MS_SSIM_LIBRARIES: tuple[tuple[str, Callable[[Tensor, Tensor], float]], ...] = (
    ("pytorch-msssim", pytorch_msssim_ms),
    ("torchmetrics", torchmetrics_ms),
    ("torchmetrics (normalize=None)", torchmetrics_ms_unclamped),
)


def compared(library: str, metric: str, run: Callable[[], list[float]], expected: list[float]) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = run()
    except ImportError as error:
        print(f"| {library} | {metric} | not usable: {error} |")
        return
    worst = max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
    print(f"| {library} | {metric} | {'agrees' if worst <= TOLERANCE else 'differs'}: {worst:.1e} at most |")


def imported(name: str) -> None:
    """A library that brings a network of its own: whether it can be imported at all."""
    try:
        __import__(name)
    except ImportError as error:
        print(f"| {name} | | not usable: {error} |")
        return
    print(f"| {name} | | can be imported |")


def fid_rows(golden: Path) -> None:
    """scipy's root of a product of covariances: of full rank, and of fewer rows than features."""
    expected = float(np.load(golden / "styleres_metrics_fid.npz")["frechet_200x64"])
    drawn = draw(f"{SALT}fid_act", (2, 200, 64)).double().numpy()
    a, b = drawn[0], 1.2 * drawn[1] + 0.1
    compared("this project", "Frechet distance, 200 rows of 64", lambda: [frechet_distance(a, b)], [expected])
    compared("scipy sqrtm", "Frechet distance, 200 rows of 64", lambda: [by_scipy(a, b)], [expected])
    rng = np.random.default_rng(0)
    for count, width in ((40, 64), (256, 512), (512, 2048)):
        # Features of a network are correlated and positive, like these.
        mixing = rng.normal(size=(width, width)) / np.sqrt(width)
        a, b = (np.maximum(rng.normal(size=(count, width)) @ mixing + shift, 0) for shift in (0.0, 0.1))
        begun = time.perf_counter()
        ours = frechet_distance(a, b)
        ours_seconds = time.perf_counter() - begun
        begun = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = by_scipy(a, b)
        seconds = time.perf_counter() - begun
        found = f"{theirs:.6g} in {seconds:.1f} s; by singular values {ours:.6g} in {ours_seconds:.1f} s"
        print(f"| scipy sqrtm | Frechet distance, {count} rows of {width} | {found}: {abs(theirs - ours) / ours:.1e} apart |")


def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    """The release's formula."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(cov_a @ cov_b)
    return float(np.real(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root)))


if __name__ == "__main__":
    main()
