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

from ops.checkpoints.bundle import EditEntry
from ops.data.faces import DataError, Faces
from ops.editing.ganspace import GanSpaceBasis
from ops.face.detect import DetectorSettings, build_detector
from ops.generators.protocol import Generator
from ops.inversion.inverter import pooled
from ops.inversion.light import LightStyleRes
from ops.inversion.styleres import StyleRes
from ops.spaces import crops_from_images, images_from_crops

RIDGE = 0.1
GANSPACE_COMPONENTS = 10
UNIT = "; 1 leads from the average face without it to the average face with it"
POSE = "pose"
POSE_FACES = 6000  # a detector looks at each
LIGHT_FACES = 2000  # the generator makes each
FACE_LIGHT = ("face_light", "face_warmth")
LIGHT = (*FACE_LIGHT, "light", "contrast")


@dataclass(frozen=True)
class AttributeEdit:
    """An edit to be found from labels."""

    name: str
    positive: str | None
    """The attribute that a positive strength brings; None: the absence of `negative`."""
    negative: str | None
    """Its opposite; None: the absence of `positive`."""
    without: tuple[str, ...]
    """Other edits by name, whose directions are projected out."""
    about: str
    keeps: tuple[str, ...] = LIGHT
    """Columns of `light_of` that the edit is kept from changing."""


CELEBA_EDITS = (
    AttributeEdit("smile", "smiling", None, ("gender", "age", "eyeglasses"), "more smile"),
    AttributeEdit("age", None, "young", ("eyeglasses", "smile"), "older"),
    AttributeEdit("gender", "male", None, ("smile",), "more masculine"),
    AttributeEdit("eyeglasses", "eyeglasses", None, ("gender", "age", "smile"), "eyeglasses appear"),
    AttributeEdit("hair_colour", "blond_hair", "black_hair", ("gender", "smile"), "from black towards blond hair", FACE_LIGHT),
    AttributeEdit("bangs", "bangs", None, ("gender", "smile"), "bangs appear"),
)


@dataclass(frozen=True, eq=False)
class FoundEdits:
    """Edits for a bundle, and lines about them for people."""

    entries: tuple[EditEntry, ...]
    tensors: dict[str, Tensor]
    """As a bundle's directions.safetensors names them."""
    lines: tuple[str, ...]
    """One per boundary: its accuracy on faces that it was not fitted on."""


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


def light_of(images: np.ndarray) -> dict[str, np.ndarray]:
    """uint8 [N, R, R, 3], FFHQ-aligned => the names of `LIGHT`, [N] each, in 0..1.

    Luminance and red minus blue between eyes and chin, luminance of the whole picture, and its standard deviation.
    """
    size = images.shape[1]
    pixels = images.astype(np.float32) / 255
    luminance = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    face = (slice(None), slice(round(0.38 * size), round(0.82 * size)), slice(round(0.3 * size), round(0.7 * size)))
    return {
        "face_light": luminance[face].mean(axis=(1, 2)),
        "face_warmth": (pixels[face][..., 0] - pixels[face][..., 2]).mean(axis=(1, 2)),
        "light": luminance.mean(axis=(1, 2)),
        "contrast": luminance.std(axis=(1, 2)),
    }


def regression_direction(codes_ND: Tensor, values_N: np.ndarray, *, ridge: float = 1e-3) -> Tensor:
    """The unit direction along which a value grows fastest, of its linear regression on codes: moving across it changes the
    value by nothing, as far as it is linear."""
    mean, std = codes_ND.mean(dim=0), codes_ND.std(dim=0) + 1e-6
    x = ((codes_ND - mean) / std).double()
    y = torch.from_numpy(np.asarray(values_N, np.float64))
    gram = x.t() @ x + ridge * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, x.t() @ (y - y.mean()))
    return F.normalize((weights / std).float(), dim=0)


@torch.no_grad()
def light_directions(model: StyleRes | LightStyleRes, codes_ND: Tensor) -> dict[str, Tensor]:
    """Per name of `LIGHT`, the direction of W along which it grows in what the generator makes of the codes."""
    generator = model.generator
    size = generator.config.sizes[0]
    pictures = []
    for part in codes_ND.split(max(1, 64 * 64**2 // size**2)):
        wplus_NLD = part[:, None, :].expand(-1, generator.config.num_ws, -1)
        pictures.append(crops_from_images(pooled(generator(generator.styles(wplus_NLD), size=size), min(size, 64))))
    values = light_of(np.concatenate(pictures))
    return {name: regression_direction(codes_ND, values[name]) for name in LIGHT}


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


def find_edits(
    model: StyleRes | LightStyleRes, faces: Faces, edits: Sequence[AttributeEdit], *, pose: bool, components: int
) -> FoundEdits:
    """Boundaries for `edits` (and for yaw, with `pose`) among the faces' codes, and GANSpace `components` of W.

    Photographs of people who smile are lit otherwise than those of people who do not, and so are old and young, men and women.
    A boundary takes that up, and a strong edit then tints the face; so what each edit `keeps` is projected out too.

    Raises DataError where the faces lack an attribute, or an edit is to be free of one that is not sought.
    """
    labels: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for edit in edits:
        labels[edit.name] = labels_of(faces, edit)
    if pose:
        yaw = yaw_proxy(faces.images[:POSE_FACES])
        low, high = np.nanquantile(yaw, [0.25, 0.75])
        turned = np.flatnonzero((yaw < low) | (yaw > high))
        labels[POSE] = (turned, yaw[turned] > high)
    without = {edit.name: edit.without for edit in edits} | {POSE: tuple({"smile", "gender"} & labels.keys())}
    about = {edit.name: edit.about for edit in edits} | {POSE: "the head turns to the right of the picture"}
    unknown = sorted({other for name in labels for other in without[name]} - labels.keys())
    if unknown:
        raise DataError(f"edits are to be found without {', '.join(unknown)}, which must be sought beside them: add it")

    codes = codes_of(model, faces.images) if labels else torch.empty(0)
    boundaries = {name: find_boundary(codes[rows], marked) for name, (rows, marked) in labels.items()}
    keeps = {edit.name: edit.keeps for edit in edits} | {POSE: LIGHT}
    light = light_directions(model, codes[:LIGHT_FACES]) if labels else {}
    entries, tensors, lines = [], {}, []
    for name, boundary in boundaries.items():
        rows, marked = labels[name]
        kept = [boundaries[other].direction_D for other in without[name]] + [light[value] for value in keeps[name]]
        plain = orthogonalised(boundary.direction_D, kept)
        direction = scaled(F.normalize(plain, dim=0), codes[rows], torch.from_numpy(marked))
        lines.append(f"{name}: balanced accuracy {boundary.accuracy:.3f}, {len(marked)} faces, length {direction.norm():.3f}")
        entries.append(EditEntry(name, "direction", about[name] + UNIT))
        tensors[f"direction.{name}"] = direction
    if components > 0:
        basis = ganspace_basis(model.generator, components)
        tensors |= {"ganspace.mean": basis.mean_D, "ganspace.components": basis.components_KD, "ganspace.std": basis.std_K}
    for component in range(components):
        text = f"principal component {component} of W is set to this many standard deviations; 0 is not 'no edit'"
        entries.append(EditEntry(f"ganspace_{component}", "ganspace", text, component=component))
    return FoundEdits(tuple(entries), tensors, tuple(lines))


def labels_of(faces: Faces, edit: AttributeEdit) -> tuple[np.ndarray, np.ndarray]:
    """(rows that take part, their labels). Raises DataError where an attribute is missing or has no two classes."""
    missing = [name for name in (edit.positive, edit.negative) if name is not None and name not in faces.attributes]
    if missing or (edit.positive is None and edit.negative is None):
        have = ", ".join(sorted(faces.attributes)) or "none"
        raise DataError(f"edit {edit.name}: the data has no attribute {', '.join(missing) or '(none named)'}; it has: {have}")
    if edit.positive is None:
        assert edit.negative is not None
        rows, marked = np.arange(len(faces.images)), ~faces.attributes[edit.negative]
    else:
        rows, marked = labels_from(faces.attributes, edit.positive, edit.negative)
    few = min(int(marked.sum()), int((~marked).sum()))
    if few < 20:
        raise DataError(f"edit {edit.name}: {few} faces on one side of the boundary; it needs at least 20, better thousands")
    return rows, marked


@torch.no_grad()
def codes_of(model: StyleRes | LightStyleRes, crops: np.ndarray) -> Tensor:
    """uint8 [N, R, R, 3] => W [N, D]: the mean row of each face's W+."""
    parts = [model.code(images_from_crops(part)).mean(dim=1) for part in np.array_split(crops, max(1, len(crops) // 64))]
    return torch.cat(parts)


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
