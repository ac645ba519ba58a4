"""Defines what an inversion method is to the program: two functions of tensors, and the shape of what is kept between.

    invert(images)               => Inversion(W+, detail)      what does not depend on the edit, computed once
    generate(W+', detail)        => images                     what does; generate(inversion.wplus, ...) is the reconstruction

Legend: N batch, L rows of W+, D width of W, S all channels of the style space, R side of the generator's images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.generators.protocol import Generator, GeneratorConfig


@dataclass(frozen=True, eq=False)
class Inversion:
    """A method's record of N images: all that a later edit needs."""

    wplus_NLD: Tensor
    """float32; includes the mean code. What edits change."""
    detail: Tensor | None
    """The part that W+ could not hold, as it is stored: [N, *ModelConfig.detail_shape]; only the method knows its meaning.
    None for methods that keep nothing else."""


class ModelConfig(Protocol):
    """Sizes that every method has."""

    @property
    def generator(self) -> GeneratorConfig: ...

    @property
    def input_size(self) -> int:
        """Side in pixels of the images that `invert` takes."""

    @property
    def detail_shape(self) -> tuple[int, ...] | None:
        """Shape of one face's detail; None where W+ is all."""

    @property
    def injection_resolution(self) -> int:
        """Side of the generator's features that the detail replaces; 0 where it replaces none."""


ModuleT = TypeVar("ModuleT", bound=nn.Module)
Parts = Literal["all", "invert", "generate"]
"""The half of a model that is built: a render never holds an encoder, an inversion nothing that only edits need."""


class Inverter(nn.Module, ABC):
    """Abstract: an inversion method on one generator.

    `feature_dtype` is the type of the feature maps of encoders, of whatever transforms the detail, and of the generator;
    styles, demodulation, RGB and W+ stay float32 whatever it is.
    """

    config: ModelConfig
    generator: Generator
    feature_dtype: torch.dtype = torch.float32
    keeps_source: bool = False
    """True: a picture of the input's size, made of a code and its detail, is the source to the eye, and the source stands for
    it."""

    @abstractmethod
    def invert(self, images: Tensor) -> Inversion:
        """images [N, 3, S, S] in [-1, 1], S the config's input size => Inversion."""

    @abstractmethod
    def generate(
        self,
        wplus_NLD: Tensor,
        detail: Tensor | None,
        style_offset_NS: Tensor | None = None,
        *,
        unedited_NLD: Tensor | None = None,
        size: int | None = None,
    ) -> Tensor:
        """W+ (edited or not) and the detail of the same images => images float32 [N, 3, R, R].

        unedited_NLD: the code that came with the detail, where `wplus_NLD` is another; None says that it is the same. Methods
            whose detail follows an edit need it, others take no notice.
        size: R, one of the generator's sizes; None for its largest.
        style_offset_NS: added to S of the code, all entries one after the other (`ops.generators.protocol.style_channels`).
        """

    def encoded(self, encoder: nn.Module, images: Tensor, start_NLD: Tensor) -> tuple[Tensor, Tensor]:
        """Add what an encoder of offsets says to a code, mostly the mean one => (W+ [N, L, D], the encoder's features)."""
        with self.reduced(images.device):
            offsets_NLD, features = encoder(images)
        return start_NLD + offsets_NLD.float(), features

    def styles(self, wplus_NLD: Tensor, style_offset_NS: Tensor | None = None) -> Sequence[Tensor]:
        """S of a code, with an offset as `generate` takes it."""
        return offset_styles(self.generator.styles(wplus_NLD), style_offset_NS)

    def reduced(self, device: torch.device) -> torch.autocast:
        """Around encoders and residual networks: their convolutions run in `feature_dtype`."""
        return torch.autocast(device.type, self.feature_dtype, enabled=self.feature_dtype != torch.float32)


@final
class CodeAlone(Inverter):
    """Another method's W+ and nothing else: what its code can express. Shares the weights."""

    def __init__(self, whole: Inverter):
        super().__init__()
        self.config, self.generator, self.feature_dtype = whole.config, whole.generator, whole.feature_dtype
        self.whole = [whole]  # a list: its weights are not this model's own

    def invert(self, images: Tensor) -> Inversion:
        return Inversion(self.whole[0].invert(images).wplus_NLD, None)

    def generate(
        self,
        wplus_NLD: Tensor,
        detail: Tensor | None,
        style_offset_NS: Tensor | None = None,
        *,
        unedited_NLD: Tensor | None = None,
        size: int | None = None,
    ) -> Tensor:
        return self.generator(self.styles(wplus_NLD, style_offset_NS), size=size, dtype=self.feature_dtype)


def offset_styles(styles: Sequence[Tensor], style_offset_NS: Tensor | None) -> Sequence[Tensor]:
    """S + an offset given as one row of all channels.

    Raises:
        ValueError: another number of channels than S has.
    """
    if style_offset_NS is None:
        return styles
    sizes = [style.shape[1] for style in styles]
    if style_offset_NS.shape != (len(styles[0]), sum(sizes)):
        raise ValueError(f"expected an offset of S as [{len(styles[0])}, {sum(sizes)}], got {list(style_offset_NS.shape)}")
    return [style + part for style, part in zip(styles, style_offset_NS.split(sizes, dim=1), strict=True)]


def pooled(images: Tensor, size: int) -> Tensor:
    """Means of blocks, from the generator's size to an encoder's ("AAP" in the official programs)."""
    return images if images.shape[-1] == size else F.adaptive_avg_pool2d(images, size)


def bilinear(x: Tensor, size: int) -> Tensor:
    """Bilinear with pixel centres and *without* anti-aliasing, as HFGI and StyleFeatureEditor resize."""
    return x if x.shape[-1] == size else F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


def only(part: ModuleT | None, wanted: Parts) -> ModuleT:
    """A part of a model that was built. Raises ValueError, saying which parts to load, where it was not."""
    if part is None:
        raise only_other(wanted)
    return part


def only_other(wanted: Parts) -> ValueError:
    """The error for a part that was not built; to be raised."""
    other = "generate" if wanted == "invert" else "invert"
    return ValueError(f"this model was loaded to {other} only; load it with parts='{wanted}' or 'all' to {wanted}")


def misfits(checks: dict[str, tuple[object, object]]) -> None:
    """Raises ValueError that names every pair of sizes that should be equal and is not."""
    wrong = [f"{what}: {a} against {b}" for what, (a, b) in checks.items() if a != b]
    if wrong:
        raise ValueError("the parts of the model do not fit together: " + "; ".join(wrong))
