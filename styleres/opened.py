"""A store, opened to look into: sources, tracks, codes as arrays or tensors, single edited frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from jobs.common.prepare import named_sources, open_settled, stored_bundle
from ops.checkpoints.bundle import Bundle
from ops.device import Device, resolve_device
from ops.editing.library import load_edits
from ops.face.paste import PasteSettings
from ops.inversion.session import Session
from pipeline.steps.plan import PlanSettings, SourceCodes
from pipeline.steps.stills import FrameReaders, edited_still, stored_faces, stored_source
from pipeline.store.columns import array_from_column, residuals_from_table, wplus_from_table
from pipeline.store.tables import Store
from schemas import Failure
from styleres.recipes import Edits, recipe_of


def open_store(where: str | Path, *, model: str | None = None) -> FaceStore:
    """A store that `styleres invert` or `styleres.invert` made.

    model: the folder of its bundle, where that is not an embedded one.

    Raises StoreError where there is none, UsageError for another model than it was made with.
    """
    return FaceStore(open_settled(str(where)), model)


@dataclass(frozen=True)
class Source:
    """A video or picture of a store."""

    key: str
    """First 16 hex digits of the SHA-256 of its bytes: it follows the content."""
    uri: str
    kind: str
    """`video` or `image`."""
    frames: int
    width: int
    height: int
    complete: bool
    """Its inversion is finished."""

    @property
    def name(self) -> str:
        return PurePath(self.uri).name


class FaceStore:
    """A store. Cheap to open; rows are read when they are asked for."""

    def __init__(self, store: Store, model: str | None = None) -> None:
        self.store = store
        self._model = model

    def __repr__(self) -> str:
        return f"<store {self.store.root} of model {self.store.info.model_name}, {len(self.store.stored_source_ids())} sources>"

    @cached_property
    def bundle(self) -> Bundle:
        """The model that it was made with."""
        return stored_bundle(self.store, self._model, "auto")

    @property
    def edits(self) -> dict[str, str]:
        """The model's edits: name => what a strength of 1 is."""
        return {name: editor.unit for name, editor in self.bundle.editors().items()}

    def sources(self) -> list[Source]:
        """Every source, in order of key. Raises StoreError where one is damaged."""
        return [
            Source(
                row["source_id"],
                row["uri"],
                row["kind"],
                row["frame_count"],
                row["width"],
                row["height"],
                self.store.is_complete(row["source_id"]),
            )
            for row in self.store.sources().to_pylist()
        ]

    def tracks(self, *only: str) -> Iterator[Track]:
        """Every track, source by source.

        only: names, paths or keys of sources; all if not given. Raises UsageError for one that the store does not have.
        """
        wanted = set(named_sources(self.store, only)) if only else None
        for source in self.sources():
            if wanted is not None and source.key not in wanted:
                continue
            rows = self.store.read("latents", source.key, columns=["track_id"])
            for number in sorted(set(rows["track_id"].to_pylist())):
                yield Track(self.store, source, number)

    def failures(self) -> list[Failure]:
        """Every lost item, with its reason."""
        return [Failure(**row) for row in self.store.failures().to_pylist()]

    def table(self, name: str, source: str | None = None) -> pa.Table:
        """Rows of a table (schemas/README.md), of one source's key or of all."""
        return self.store.read(name, source)

    def still(
        self,
        source: str,
        seconds: float,
        edits: Edits,
        *,
        paste: PasteSettings = PasteSettings(),  # noqa: B008 (frozen)
        size: int | None = None,
        device: Device = "auto",
    ) -> Still:
        """One frame as `render` makes it, in a second; the first call loads the generator.

        source: its name, path or key. seconds: since its first frame; the nearest frame is taken. size: side in pixels of the
        generated faces, as `--size`.

        Raises UsageError for a source that is not there, or whose file cannot be read any more.
        """
        (key,) = named_sources(self.store, [source])[:1]
        opened = stored_source(self.store, key)
        recipe = recipe_of(edits, self.bundle)
        ordinal = int(np.abs((opened.info.pts - opened.info.pts[0]) * float(opened.info.time_base) - seconds).argmin())
        loaded = load_edits(recipe.names, self.bundle.editors(), recipe.editors, self.bundle.config.generator)
        known = {name: one.editor for name, one in loaded.items()}
        codes, settings = SourceCodes(self.store, opened), PlanSettings(recipe, size=size)
        faces = stored_faces(self.store, codes, int(opened.info.pts[ordinal]), recipe, known, settings, self.bundle)
        frame = FrameReaders().frame(opened, ordinal)
        made = edited_still(frame, faces, self._session(device), self.bundle, paste.fitted(self.bundle.framing.crop))
        return Still(made.source, made.result, len(made.faces))

    def _session(self, device: Device) -> Session:
        name = resolve_device(device)
        if getattr(self, "_loaded", (None, None))[0] != name:
            session = Session(self.bundle.load("generate"), device=name, precision="fp32", batch_size=16)
            self._loaded = (name, session)
        return self._loaded[1]


@dataclass(frozen=True)
class Still:
    """One frame, before and after; uint8 [H, W, 3] RGB."""

    source: np.ndarray
    result: np.ndarray
    faces: int
    """Faces that the recipe acts on in it."""


@dataclass(frozen=True)
class Track:
    """One identity in one shot."""

    store: Store
    source: Source
    number: int

    def codes(self) -> np.ndarray:
        """W+ of every frame of it, float32 [N, L, D], in order of time."""
        return wplus_from_table(self._rows("latents"))

    def codes_tensor(self) -> torch.Tensor:
        """The same as a tensor of its own."""
        return torch.from_numpy(self.codes().copy())

    def pts(self) -> np.ndarray:
        """Presentation times, int64 [N], in the source's units."""
        return self._rows("latents", ["pts"])["pts"].to_numpy()

    def seconds(self) -> np.ndarray:
        """The same in seconds since the source's first frame, float64 [N]."""
        row = self.store.read("sources", self.source.key).to_pylist()[0]
        return (self.pts() - row["pts"]) * (row["time_base_num"] / row["time_base_den"])

    def quads(self) -> np.ndarray:
        """Corners of the crop in source pixels, TL BL BR TR, float64 [N, 4, 2]; also of frames that have no code."""
        return array_from_column(self._rows("tracks"), "quad")

    def residuals(self) -> np.ndarray:
        """Return what W+ cannot hold, float32 [N, C, H, W]; megabytes for each frame of a large model."""
        return residuals_from_table(self._rows("residuals"))

    def _rows(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        wanted: Any = None if columns is None else ["track_id", *columns]
        rows = self.store.read(table, self.source.key, columns=wanted)
        return rows.filter(pc.equal(rows["track_id"], self.number)).combine_chunks()
