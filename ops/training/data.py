"""Aligned face images with attributes and identities from one Parquet file, split by identity.

Columns read: `image` (encoded bytes), `identity` (int), and any boolean attributes.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

Split = Literal["train", "classifier", "held_out"]


@dataclass(frozen=True, eq=False)
class Faces:
    """Decoded faces of one split."""

    images: np.ndarray
    """uint8 [N, R, R, 3] RGB."""
    identity: np.ndarray
    """int [N]."""
    attributes: dict[str, np.ndarray]
    """name => bool [N]."""


def split_of(identity: int) -> Split:
    """Whole identities go to one split, by a hash that does not depend on the order of the file.

    5 % are held out for evaluation; 15 % train only the attribute classifiers that judge edits, so that these share no face
    with the model; the rest trains the model.
    """
    bucket = zlib.crc32(str(identity).encode()) % 100
    if bucket < 5:
        return "held_out"
    return "classifier" if bucket < 20 else "train"


def load_faces(path: Path, size: int, split: Split, *, limit: int | None = None) -> Faces:
    """Read and resize (Lanczos, antialiased) the faces of one split; the first `limit` of them if given."""
    table = pq.read_table(path)
    wanted = [i for i, identity in enumerate(table["identity"].to_pylist()) if split_of(identity) == split][:limit]
    table = table.take(wanted)
    images = np.empty((len(wanted), size, size, 3), np.uint8)
    for i, encoded in enumerate(table["image"].to_pylist()):
        with Image.open(io.BytesIO(encoded)) as picture:
            rgb = picture.convert("RGB")
            images[i] = np.asarray(rgb if rgb.size == (size, size) else rgb.resize((size, size), Image.Resampling.LANCZOS))
    attributes = {name: table[name].to_numpy() for name in table.column_names if table.schema.field(name).type == "bool"}
    return Faces(images, table["identity"].to_numpy(), attributes)


def shuffled_indices(count: int, batch: int, generator: torch.Generator, steps: int | None = None) -> Iterator[Tensor]:
    """Index batches, each epoch in a new order without its incomplete last batch; endless unless `steps` is given."""
    if count < batch:
        raise ValueError(f"expected at least one batch of {batch} faces, got {count}")
    done = 0
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - batch + 1, batch):
            if done == steps:
                return
            yield order[start : start + batch]
            done += 1


def shuffled_batches(images: np.ndarray, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless float images [batch, 3, R, R] in [-1, 1], mirrored with probability one half."""
    raw = torch.from_numpy(images)
    for indices in shuffled_indices(len(raw), batch, generator):
        chosen = raw[indices].permute(0, 3, 1, 2).float().sub_(127.5).div_(127.5)
        mirrored = torch.rand(batch, 1, 1, 1, generator=generator) < 0.5
        yield torch.where(mirrored, chosen.flip(3), chosen)
