"""Trains the network that tells face, hair and neck from all else, hands before the face included.

Few faces are labelled and fewer have a hand before them. So each is seen turned, scaled, shifted, mirrored, degraded, and often
with something before it: a drawn hand (`ops.training.hands`), or strokes filled from elsewhere in some picture of the batch.

Legend: N batch, S side of the network's input.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ops.data.faces import DataError, split_of
from ops.networks.parts import PARTS, PARTS_SIZE, SEEN_SIZE, FaceParts
from ops.nn.lite import load_imagenet
from ops.spaces import images_from_crops
from ops.training.degrade import degraded
from ops.training.distributed import Worker
from ops.training.hands import with_hand
from ops.training.trainer import Learner, Step, Task

UNKNOWN: Final = 255
"""The label of pixels outside the photograph; they do not count."""
FACE_LABELS, HAIR_LABEL, NECK_LABEL = range(1, 13), 13, 17
"""Labels of CelebAMask-HQ by the data set's numbers."""
COLOURS = np.array([[0, 0, 0], [220, 60, 60], [60, 200, 60], [70, 90, 230]], np.uint8)


@dataclass(frozen=True, eq=False)
class LabelledFaces:
    images: np.ndarray
    """uint8 [N, R, R, 3]."""
    parts: np.ndarray
    """uint8 [N, R, R]: numbers of PARTS, or UNKNOWN."""


@dataclass(frozen=True)
class PartsSettings:
    learning_rate: float = 1e-3
    trunk_rate: float = 0.3
    """The trunk's learning rate as a multiple of `learning_rate`."""
    covered_share: float = 0.3
    """Share of faces, 0..1, that a thing is put before."""
    hand_share: float = 0.5
    """Share of faces, 0..1, that a hand is put before."""


def load_parts(path: Path, *, held_out: bool) -> LabelledFaces:
    """Read the faces of one split, by their file's name, from a Parquet file with `file`, `image` and `mask` (a label a pixel).

    Raises DataError for a file without these columns.
    """
    try:
        table = pq.read_table(path, columns=["file", "image", "mask"]).to_pylist()
    except Exception as error:  # pyarrow raises many kinds
        raise DataError(f"{path}: expected a Parquet file with columns file, image and mask ({error})") from error
    chosen = [row for row in table if (split_of(row["file"]) == "held_out") == held_out]
    to_part = np.zeros(256, np.uint8)
    to_part[list(FACE_LABELS)] = PARTS.index("face")
    to_part[HAIR_LABEL], to_part[NECK_LABEL], to_part[UNKNOWN] = PARTS.index("hair"), PARTS.index("neck"), UNKNOWN

    def pixels(content: bytes, mode: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(content)).convert(mode))

    images = np.stack([pixels(row["image"], "RGB") for row in chosen])
    return LabelledFaces(images, to_part[np.stack([pixels(row["mask"], "L") for row in chosen])])


@final
class PartsTask(Task):
    """Training of the network of face parts, for `ops.training.trainer`; it draws its own pictures."""

    name = "parts"

    def __init__(self, faces: LabelledFaces, held_out: LabelledFaces, settings: PartsSettings, *, worker: Worker | None = None):
        self.faces, self.held_out, self.settings = faces, held_out, settings
        network = FaceParts()
        load_imagenet(network.trunk)
        rate = settings.learning_rate
        head = [p for name, p in network.named_parameters() if not name.startswith("trunk.")]
        groups = [{"params": network.trunk.parameters(), "lr": rate * settings.trunk_rate}, {"params": head, "lr": rate}]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-4)
        self.learner = Learner("parts", network, optimizer, torch.float32, clip_norm=1.0)
        self.learn = (worker or Worker()).wrap(network)

    def learners(self) -> list[Learner]:
        return [self.learner]

    def step(self, step: Step) -> dict[str, Tensor]:
        chosen = torch.randint(0, len(self.faces.images), (step.batch,), generator=step.draws).numpy()
        images = images_from_crops(self.faces.images[chosen])
        parts = torch.from_numpy(self.faces.parts[chosen].astype(np.int64))
        images, parts = moved(images, parts, step.draws)
        images, parts = covered(images, parts, self.settings.covered_share, step.draws)
        images, parts = with_hands(images, parts, self.settings.hand_share, step.draws)
        logits = self.learn(degraded(images, step.draws)[step.mine])
        loss = F.cross_entropy(logits, at_size(parts, PARTS_SIZE)[step.mine], ignore_index=UNKNOWN)
        self.learner.step(loss)
        return {"parts": loss.detach()}

    @torch.no_grad()
    def found(self, images: np.ndarray) -> Tensor:
        """Find the parts of images => their numbers [N, S/2, S/2]."""
        seen = F.interpolate(images_from_crops(images), size=(SEEN_SIZE, SEEN_SIZE), mode="bilinear", antialias=True)
        return torch.cat([self.learner.module(some).argmax(dim=1) for some in seen.split(16)])

    def measures(self) -> dict[str, float]:
        """Measure the intersection over union, 0..1, of each part on faces that are never trained on."""
        found = self.found(self.held_out.images)
        truth = at_size(torch.from_numpy(self.held_out.parts.astype(np.int64)), PARTS_SIZE)
        known, values = truth != UNKNOWN, {}
        for number, part in enumerate(PARTS):
            here, there = (found == number) & known, (truth == number) & known
            values[f"iou_{part}"] = float((here & there).sum() / (here | there).sum().clamp(min=1))
        return values

    def pictures(self) -> np.ndarray | None:
        """Draw rows of faces, the parts that were found, and their labels."""
        some = self.held_out.images[:12]
        side = some.shape[1]
        enlarge = side // PARTS_SIZE + 1
        found = COLOURS[self.found(some).numpy()].repeat(enlarge, 1).repeat(enlarge, 2)[:, :side, :side]
        truth = COLOURS[np.where(self.held_out.parts[:12] == UNKNOWN, 0, self.held_out.parts[:12])]
        return np.concatenate([np.concatenate(list(row), axis=1) for row in (some, found, truth)])


def at_size(parts: Tensor, size: int) -> Tensor:
    """Resize labels [N, R, R] => [N, size, size], by the nearest."""
    return F.interpolate(parts[:, None].float(), size=(size, size), mode="nearest")[:, 0].long()


def moved(images: Tensor, parts: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turn, scale, shift and mirror pictures and labels, as an aligner may be wrong => both at the network's input side."""
    count = len(images)
    angle = 0.5 * (torch.rand(count, generator=draws) - 0.5)
    scale = torch.exp(0.5 * (torch.rand(count, generator=draws) - 0.5))
    shift = 0.3 * (torch.rand(count, 2, generator=draws) - 0.5)
    mirrored = torch.where(torch.rand(count, generator=draws) < 0.5, -1.0, 1.0)
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    theta = torch.stack(
        [torch.stack([mirrored * cos, -sin, shift[:, 0]], 1), torch.stack([mirrored * sin, cos, shift[:, 1]], 1)], 1
    )
    grid = F.affine_grid(theta, [count, 1, SEEN_SIZE, SEEN_SIZE], align_corners=False)
    inside = (grid.abs() <= 1).all(dim=3)
    pictures = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    labels = F.grid_sample(parts[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    return pictures, torch.where(inside, labels[:, 0].round().long(), UNKNOWN)


def covered(images: Tensor, parts: Tensor, share: float, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Put a stroke or several before a share of the faces, shaped like fingers, a hand, a cup or a microphone."""
    images, parts = images.clone(), parts.clone()
    side = images.shape[-1]
    place = (torch.arange(side) + 0.5) / side
    other = PARTS.index("other")
    for n in range(len(images)):
        chosen, source = torch.rand(2, generator=draws).tolist()
        centre = 0.2 + 0.6 * torch.rand(2, generator=draws)
        angle, length, width, spread = torch.rand(4, generator=draws).tolist()
        strokes = int(torch.randint(1, 5, (), generator=draws))
        zoom = 0.3 + 0.5 * torch.rand((), generator=draws)
        light = (0.6 + 0.7 * torch.rand((), generator=draws)) * (0.9 + 0.2 * torch.rand(3, 1, 1, generator=draws))
        from_place = (2 * torch.rand(2, generator=draws) - 1) * (1 - zoom)
        if chosen >= share:
            continue
        angle, length, width = 2 * math.pi * angle, 0.06 + 0.3 * length, (0.03 + 0.12 * width) / strokes**0.5
        reach = torch.full((side, side), math.inf)
        for stroke in range(strokes):
            along = angle + (stroke - (strokes - 1) / 2) * 0.3 * (spread - 0.3)
            aside = (stroke - (strokes - 1) / 2) * 2.2 * width
            x = place[None, :] - centre[0] + aside * math.sin(angle)
            y = place[:, None] - centre[1] - aside * math.cos(angle)
            forth = (x * math.cos(along) + y * math.sin(along)).clamp(-length, length)
            reach = torch.minimum(reach, torch.hypot(x - forth * math.cos(along), y - forth * math.sin(along)))
        alpha = ((width - reach) * side + 0.5).clamp(0, 1)
        theta = torch.tensor([[[zoom, 0.0, from_place[0]], [0.0, zoom, from_place[1]]]])
        grid = F.affine_grid(theta, [1, 3, side, side], align_corners=False)
        filled = F.grid_sample(images[int(source * len(images))][None], grid, align_corners=False)[0]
        filled = ((filled + 1) * light - 1).clamp(-1, 1)
        images[n] = images[n] + alpha * (filled - images[n])
        parts[n] = torch.where((alpha > 0.5) & (parts[n] != UNKNOWN), other, parts[n])
    return images, parts


def with_hands(images: Tensor, parts: Tensor, share: float, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Put a drawn hand before a share of the faces."""
    images, parts = images.clone(), parts.clone()
    for n, chosen in enumerate(torch.rand(len(images), generator=draws).tolist()):
        if chosen < share:
            images[n], parts[n] = with_hand(images[n], parts[n], UNKNOWN, draws)
    return images, parts
