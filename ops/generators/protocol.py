"""Defines what a generator is to the rest of the program: W+ => S => picture, with two seams.

Every inversion method we follow asks two things of a generator, and it offers just these two seams:
  * `Injection`: replace the features at a named place (StyleRes and HFGI between the two convolutions of a resolution, SFE
    after both);
  * `weight_deltas`: scale convolution weights, per sample (HyperStyle).

Which row of W+ feeds which module, how many channels it has, and where features can be read are data of the architecture
(`style_inputs`, `places`). Nobody outside derives them from a resolution.

Legend: N batch, L rows of W+, D width of W, C channels, R side of a picture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ops.generators.mapping import MappingNetwork


@dataclass(frozen=True)
class StyleInput:
    """One entry of S: a module that reads a style."""

    name: str
    channels: int
    """Numbers of the style, which scales the module's input."""
    row: int
    """The row of W+ that it is made from."""
    out_channels: int = 0
    """O of the weights that a delta scales, [O, I, k, k]; 0 for a module without weights."""
    makes_colours: bool = False
    """Its output is a picture."""


@dataclass(frozen=True)
class Place:
    """A place where features can be read and replaced."""

    name: str
    resolution: int
    """Side of the features in cells."""
    channels: int
    rows: int
    """How many leading rows of W+ the features here depend on."""


class GeneratorConfig(Protocol):
    """Sizes that every architecture has."""

    @property
    def resolution(self) -> int:
        """R: side in pixels of its largest picture."""

    @property
    def w_dim(self) -> int:
        """D."""

    @property
    def z_dim(self) -> int: ...

    @property
    def num_ws(self) -> int:
        """L."""

    @property
    def style_inputs(self) -> tuple[StyleInput, ...]:
        """The entries of S, in the order of S."""

    @property
    def places(self) -> tuple[Place, ...]:
        """In the order in which features pass through them. The first of a resolution lies between its two convolutions, the
        last behind both."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides in pixels of the pictures that it can give, from the same S; ascending, R is the last."""


def style_channels(config: GeneratorConfig) -> dict[str, int]:
    """Name => channels of each entry of S, in the order of S."""
    return {entry.name: entry.channels for entry in config.style_inputs}


def between_convolutions(config: GeneratorConfig, resolution: int) -> Place:
    """The place between the two convolutions of a resolution. Raises ValueError where it has none."""
    return _at(config, resolution)[0]


def behind_convolutions(config: GeneratorConfig, resolution: int) -> Place:
    """The place behind both convolutions of a resolution. Raises ValueError where it has none."""
    return _at(config, resolution)[-1]


def _at(config: GeneratorConfig, resolution: int) -> list[Place]:
    found = [place for place in config.places if place.resolution == resolution]
    if not found:
        sides = sorted({place.resolution for place in config.places})
        raise ValueError(f"expected features at one of {sides}, got {resolution}")
    return found


def place_named(config: GeneratorConfig, name: str) -> Place:
    """A place by its name. Raises ValueError, listing the names, for another."""
    for place in config.places:
        if place.name == name:
            return place
    raise ValueError(f"expected a place among {', '.join(place.name for place in config.places)}, got {name}")


@dataclass(frozen=True)
class Injection:
    """Replace x, the features [N, C, s, s] at a place, by `transform(x)`.

    What the generator itself reads from x to make a picture of that resolution (StyleGAN2's torgb) still sees x: only the
    modules above see what replaced it.
    """

    place: str
    transform: Callable[[Tensor], Tensor]


class Generator(nn.Module, ABC):
    """Abstract: W+ => S by `styles`, S => picture by `forward`; `features` stops early.

    Precision: parameters, styles and the sum of colours are float32; only feature maps take `dtype`.
    """

    config: GeneratorConfig
    mapping: MappingNetwork

    def styles(self, wplus_NLD: Tensor) -> list[Tensor]:
        """W+ [N, L, D] => S, float32: one [N, C] for each of the config's `style_inputs`.

        Raises:
            ValueError: another shape than [N, L, D].
        """
        if wplus_NLD.shape[1:] != (self.config.num_ws, self.config.w_dim):
            raise ValueError(
                f"expected W+ as [N, {self.config.num_ws}, {self.config.w_dim}], got {list(wplus_NLD.shape)}; "
                "repeat a code of W over the rows first"
            )
        rows = wplus_NLD.float().unbind(dim=1)
        return [self.style(entry.name, rows[entry.row]) for entry in self.config.style_inputs]

    @abstractmethod
    def style(self, name: str, row_ND: Tensor) -> Tensor:
        """A row of W+ [N, D] => the style [N, C] of one module, its gain included."""

    @abstractmethod
    def features(self, styles: Sequence[Tensor], place: str, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """S => F: the features [N, C, s, s] at a place, where an `Injection` would replace them."""

    @abstractmethod
    def forward(
        self,
        styles: Sequence[Tensor],
        *,
        size: int | None = None,
        injection: Injection | None = None,
        weight_deltas: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """S => picture float32 [N, 3, R, R] in nominal [-1, 1], noise constant.

        size: R, one of the config's `sizes`; None for the largest.
        weight_deltas: name of a style input => [N, O, I, k, k] or broadcastable; the module runs with W * (1 + delta).

        Raises:
            ValueError: a size or a place that the architecture does not have.
        """

    def picture_size(self, size: int | None) -> int:
        """`size`, or the largest. Raises ValueError for one that is not among the config's `sizes`."""
        if size is None:
            return self.config.resolution
        if size not in self.config.sizes:
            raise ValueError(f"expected a picture of one of {list(self.config.sizes)} px, got {size}")
        return size
