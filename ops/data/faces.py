"""Aligned face images, split by identity, from what people have: our Parquet layout, a folder, a Hugging Face data set.

FACES.parquet       columns `image` (encoded bytes), `identity` (int), and any boolean attributes
FOLDER              images; a sub-folder is one identity, a file directly in it is one by itself
hf:NAME[@SPLIT]     a name or folder that `datasets.load_dataset` takes: `image`, and `identity` and booleans if there
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, final

import numpy as np
import pyarrow as pa
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


IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


class DataError(ValueError):
    """Training data that is not what was expected; the message says what to do."""


@final
class FaceSource:
    """The faces of one split, read and resized (Lanczos, antialiased) when they are asked for."""

    def __init__(
        self, name: str, size: int, pictures: Pictures, rows: list[int], identity: np.ndarray, attributes: dict[str, np.ndarray]
    ):
        self.name, self.size = name, size
        self.identity, self.attributes = identity, attributes
        self._pictures, self._rows = pictures, rows

    def __len__(self) -> int:
        return len(self._rows)

    def crops(self, first: int, end: int) -> np.ndarray:
        """Faces [first, end) => uint8 [n, R, R, 3]. Raises DataError for a picture that cannot be decoded."""
        rows = self._rows[first:end]
        images = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        for place, row in enumerate(rows):
            images[place] = _resized(self._pictures, row, self.size, f"{self.name}, image {row}")
        return images

    def batches(self, size: int) -> Iterator[tuple[slice, np.ndarray]]:
        """(which faces, their crops), in order; the last batch may be shorter."""
        for first in range(0, len(self), size):
            end = min(first + size, len(self))
            yield slice(first, end), self.crops(first, end)


def open_faces(source: str | Path, size: int, split: Split, *, limit: int | None = None) -> FaceSource:
    """The faces of one split, the first `limit` of them if given; labels are read now, pictures later.

    Raises DataError for a source that is none of the kinds above, or has no face in this split.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        pictures, identity, attributes = _from_hugging_face(source)
    elif Path(source).is_dir():
        pictures, identity, attributes = _from_folder(Path(source))
    elif Path(source).is_file():
        pictures, identity, attributes = _from_parquet(Path(source))
    else:
        raise DataError(f"{source}: no such file or folder; give a Parquet file, a folder of images, or hf:NAME")
    wanted = [i for i, one in enumerate(identity) if split_of(one) == split][:limit]
    if not wanted:
        raise DataError(f"{source}: none of its {len(identity)} faces is in the split {split!r}; it needs more identities")
    flags = {name: column[wanted] for name, column in attributes.items()}
    return FaceSource(str(source), size, pictures, wanted, np.array([identity[i] for i in wanted]), flags)


def load_faces(source: str | Path, size: int, split: Split, *, limit: int | None = None) -> Faces:
    """`open_faces`, with all pictures decoded. Raises as that does."""
    faces = open_faces(source, size, split, limit=limit)
    return Faces(faces.crops(0, len(faces)), faces.identity, faces.attributes)


Pictures = Callable[[int], Image.Image]
"""Row => the picture, not decoded before it is asked for."""


def _from_parquet(path: Path) -> tuple[Pictures, list[int], dict[str, np.ndarray]]:
    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        missing = {"image", "identity"} - set(schema.names)
        if not missing:
            flags = [field.name for field in schema if field.type == "bool"]
            labels = file.read(["identity", *flags])
    except Exception as error:  # pyarrow lets many kinds through
        raise DataError(f"{path}: cannot be read as Parquet ({error})") from error
    if missing:
        raise DataError(f"{path}: expected columns image and identity, lacks {', '.join(sorted(missing))}")
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    first_rows = np.cumsum([0, *sizes])

    @lru_cache(maxsize=1)  # rows are asked for in order: one group of encoded pictures is held at a time
    def encoded(group: int) -> pa.ChunkedArray:
        try:
            return file.read_row_group(group, columns=["image"])["image"]
        except Exception as error:
            raise DataError(f"{path}: row group {group} cannot be read ({error}); write the file again") from error

    def picture(row: int) -> Image.Image:
        group = int(np.searchsorted(first_rows, row, side="right")) - 1
        return Image.open(io.BytesIO(encoded(group)[row - int(first_rows[group])].as_py()))

    return picture, labels["identity"].to_pylist(), {name: labels[name].to_numpy() for name in flags}


def _from_folder(folder: Path) -> tuple[Pictures, list[int], dict[str, np.ndarray]]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise DataError(f"{folder}: no images in it; expected {', '.join(sorted(IMAGE_SUFFIXES))}")
    owners = [path if path.parent == folder else path.parent for path in files]
    # A hash, so that an identity stays in its split when others are added.
    identity = [zlib.crc32(str(owner.relative_to(folder)).encode()) for owner in owners]
    return lambda i: Image.open(files[i]), identity, {}


def _from_hugging_face(source: str) -> tuple[Pictures, list[int], dict[str, np.ndarray]]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{source}: needs the package datasets; pip install datasets") from error
    name, _, split = source.removeprefix("hf:").partition("@")
    try:
        table = datasets.load_dataset(name, split=split or "train")
    except Exception as error:
        raise DataError(f"{source}: datasets cannot load it ({type(error).__name__}: {error})") from error
    if "image" not in table.column_names:
        raise DataError(f"{source}: expected a column image, it has {', '.join(table.column_names)}")
    if not isinstance(table.features["image"], datasets.Image):
        table = table.cast_column("image", datasets.Image())
    identity = list(table["identity"]) if "identity" in table.column_names else list(range(len(table)))
    flags = [n for n, feature in table.features.items() if isinstance(feature, datasets.Value) and feature.dtype == "bool"]
    return lambda i: table[i]["image"], identity, {name: np.array(table[name], bool) for name in flags}


def _resized(pictures: Pictures, row: int, size: int, what: str) -> np.ndarray:
    try:
        with pictures(row) as picture:
            rgb = picture.convert("RGB")
            return np.asarray(rgb if rgb.size == (size, size) else rgb.resize((size, size), Image.Resampling.LANCZOS))
    except OSError as error:
        raise DataError(f"{what}: cannot be decoded ({error}); remove it") from error


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


def epoch_indices(count: int, seed: int, epoch: int) -> Tensor:
    """The order of one epoch; known from its number alone, so that a resumed run need not replay the ones before."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 7919 + epoch))
