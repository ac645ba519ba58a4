"""A user's editor as values: `Definition` names its files and settings, and its `offers` are the edits that it gives.

Nothing is opened by a definition before `Definition.editor`. Each kind stands beside its editor; `definitions.py` lists them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pydantic

from ops.editing.editor import AnyEditor, EditError
from ops.editing.values import NAME_PATTERN, Frozen
from ops.files.digest import sha256_of
from ops.generators.protocol import GeneratorConfig

Count = Annotated[int, pydantic.Field(strict=True, ge=0)]
"""The number of a row or a component, from 0."""


class Definition(Frozen, ABC):
    """Abstract: a name, and the file that the editor is read from."""

    name: str = pydantic.Field(pattern=f"^{NAME_PATTERN}$")
    """Name of the edit in recipes; for a definition that gives several, the part before the dot."""
    path: Path

    def files(self) -> dict[str, Path]:
        """Every file that the editor is made of, by its role; `path` first."""
        return {"path": self.path}

    def offers(self) -> list[Offer]:
        """Every edit that it gives. Raises EditError for a folder or a table that cannot be read."""
        return [Offer(self.name, self)]

    @abstractmethod
    def editor(self, offer: Offer, config: GeneratorConfig) -> AnyEditor:
        """Read one of `offers`. Raises EditError for a file that cannot be read, or is not of that kind."""

    def located(self, folder: Path) -> Definition:
        """The same with relative paths taken from `folder`."""
        named = {name: value for name, value in self if isinstance(value, Path)}
        return self.model_copy(update={name: (folder / value.expanduser()).absolute() for name, value in named.items()})


@dataclass(frozen=True)
class Offer:
    """One edit that a definition gives."""

    name: str
    definition: Definition
    chosen: tuple[tuple[str, object], ...] = ()
    """Settings that say which of the edits of its definition it is."""

    @property
    def record(self) -> str:
        """Describe the edit and the bytes that it was read from, on one line; the same wherever the files lie.

        Raises:
            EditError: a file that cannot be read.
        """
        settings = {name: value for name, value in self.definition if name != "name" and not isinstance(value, Path | None)}
        settings |= dict(self.chosen)
        kind = settings.pop("kind")
        try:
            files = [f"{role}={path.name} sha256:{sha256_of(path)}" for role, path in self.definition.files().items()]
        except OSError as error:
            raise EditError(f"{error.filename}: cannot be read ({error.strerror})") from error
        return " ".join([kind, *files, *(f"{name}={value}" for name, value in settings.items())])
