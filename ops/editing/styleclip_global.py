"""StyleCLIP's global directions (Patashnik et al., ICCV 2021, Sec. 6): from two texts to a step in S.

Legend of axes: N frames, S all channels of S one after the other, K channels of the convolutions, E width of CLIP's space.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, final

import numpy as np
import pydantic
import torch
import torch.nn.functional as F

from ops.editing.clip_text import clip_text_feature
from ops.editing.definition import Definition, Offer
from ops.editing.editor import AnyEditor, EditError, StyleEditor, check_style_size
from ops.editing.files import BARE, read_tensors
from ops.files.plain_pickle import load_pickle, plain
from ops.generators.protocol import GeneratorConfig, style_channels

CLIP_MODEL = "openai/clip-vit-base-patch32"
"""The text encoder of the official global directions, under the name that `transformers` knows."""
LAYERS_MOVED = 11
"""Number of convolutions that are edited, from the coarsest: the official program leaves finer ones and every torgb alone."""


@final
class StyleclipGlobalEditor(StyleEditor):
    """S + strength · direction of a text; see `global_direction`."""

    def __init__(self, direction_S: torch.Tensor) -> None:
        self._direction_S = direction_S.detach().float()

    @property
    def unit(self) -> str:
        """The meaning of a strength of 1."""
        return "standard deviations by which the most relevant channel of S moves; 0 is no edit, −s undoes s; 1 to 5 is usual"

    @property
    def neutral(self) -> float | None:
        """0: nothing is added."""
        return 0.0

    def offset(self, strength_N: torch.Tensor) -> torch.Tensor:
        """strength · direction. See `StyleEditor.offset`."""
        return strength_N[:, None] * self._direction_S.to(strength_N.device)


def text_direction(target_E: torch.Tensor, neutral_E: torch.Tensor) -> torch.Tensor:
    """Δt: the unit step from the neutral to the target text, each of them made unit first => [E].

    Raises:
        EditError: vectors of different or other shapes, or texts that mean the same to CLIP.
    """
    if target_E.ndim != 1 or target_E.shape != neutral_E.shape:
        raise EditError(f"text features are two vectors [E], got {list(target_E.shape)} and {list(neutral_E.shape)}")
    step_E = F.normalize(target_E.double(), dim=0) - F.normalize(neutral_E.double(), dim=0)
    if not step_E.any() or not torch.isfinite(step_E).all():
        raise EditError("the target and the neutral text have the same features (or not finite ones): there is no direction")
    return F.normalize(step_E, dim=0)


def global_direction(
    relevance_KE: torch.Tensor,
    step_E: torch.Tensor,
    deviations_S: torch.Tensor,
    disentanglement: float,
    config: GeneratorConfig,
    *,
    name: str = "global direction",
) -> torch.Tensor:
    """Δs for Δt => [S] (Eq. 3 and Sec. 6.2 of the paper, in the official program's form).

        r = fs3 · Δt          r ← 0 where |r| < β          r ← r / max |r|          Δs = r · σ

    The maximum is over all convolutions' channels; the first `LAYERS_MOVED` convolutions then move, nothing else does.

    Args:
        relevance_KE: `fs3.npy`: what each channel of the convolutions, in order, does in CLIP's space.
        step_E: Δt, of unit length.
        deviations_S: standard deviation of every channel of S (`S_mean_std`).
        disentanglement: β.

    Raises:
        EditError: arrays of another generator or another CLIP, or a β that leaves no channel.
    """
    sizes = style_channels(config)
    check_style_size(len(deviations_S), config, name)
    convolutions = [layer for layer in sizes if not layer.endswith(".torgb")]
    count = sum(sizes[layer] for layer in convolutions)
    if relevance_KE.shape != (count, len(step_E)):
        raise EditError(
            f"{name}: expected the relevance of {count} channels in {len(step_E)} dimensions of CLIP for this generator, "
            f"got {list(relevance_KE.shape)}; an edit belongs to one generator"
        )
    relevance_K = relevance_KE.double() @ step_E.double()
    largest = float(relevance_K.abs().max())
    relevance_K = torch.where(relevance_K.abs() < disentanglement, 0.0, relevance_K)
    if not relevance_K.any():
        raise EditError(f"{name}: no channel reaches the disentanglement {disentanglement:g}; the largest is {largest:.3g}")
    relevance_K = relevance_K / relevance_K.abs().max()
    by_layer = dict(zip(convolutions, relevance_K.split([sizes[layer] for layer in convolutions]), strict=True))
    moved = {layer: by_layer[layer] for layer in convolutions[:LAYERS_MOVED]}
    direction_S = torch.cat([moved.get(layer, torch.zeros(size, dtype=torch.float64)) for layer, size in sizes.items()])
    return (direction_S * deviations_S.double()).float()


def load_relevance(path: str | Path) -> torch.Tensor:
    """`fs3.npy` => [K, E].

    Raises:
        EditError: a file that cannot be read, or another rank.
    """
    (relevance, *more) = read_tensors(path, "StyleCLIP's fs3.npy").values()
    if more or relevance.ndim != 2:
        raise EditError(f"{path}: expected one array [channels, width of CLIP], got {list(relevance.shape)}")
    return relevance


def load_deviations(path: str | Path) -> torch.Tensor:
    """The standard deviations in the official `S_mean_std` => [S]; the means are not needed.

    Raises:
        EditError: not a pickle of plain data, or not a list of means and deviations by layer.
    """
    content = plain(load_pickle(Path(path)))
    match content:
        case [list(), list() as deviations] if deviations and all(isinstance(one, np.ndarray) for one in deviations):
            return torch.cat([torch.from_numpy(np.asarray(one, np.float32).reshape(-1)) for one in deviations])
    raise EditError(f"{path}: expected a list of two lists of arrays, means and deviations, by layer of S")


def load_text_feature(path: str | Path, text: str) -> torch.Tensor:
    """The feature of one text, by its name in a file of tensors [E] => [E].

    Raises:
        EditError: a file that cannot be read, or without that text (lists those it has).
    """
    features = read_tensors(path, "text features by name")
    if text not in features:
        held = ", ".join(repr(name) for name in sorted(features) if name != BARE)[:500]
        raise EditError(f"{path}: has no features of {text!r}; it has {held or 'one tensor without a name'}")
    return features[text].reshape(-1)


@final
class GlobalDefinition(Definition):
    """A StyleCLIP global direction: from a neutral to a target text, by `fs3.npy` (or the folder that holds it)."""

    kind: Literal["styleclip-global"]
    target: str = pydantic.Field(min_length=1)
    neutral: str = pydantic.Field(min_length=1)
    disentanglement: Annotated[float, pydantic.Field(strict=True, ge=0, allow_inf_nan=False)]
    """β: channels whose relevance is below it do not move; larger moves fewer."""
    stats: Path | None = None
    """`S_mean_std`; beside `path` if not given."""
    texts: Path | None = None
    """Text features by name; without it CLIP computes them."""
    templates: Path | None = None
    """Sentences with {} for CLIP, one a line; `templates.txt` beside `path` if not given."""
    clip: str | None = None
    """A CLIP model's folder or name; `CLIP_MODEL` if not given."""

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> GlobalDefinition:
        if self.texts is not None and (self.templates is not None or self.clip is not None):
            raise ValueError("texts gives the features, so there is nothing for CLIP to do: leave templates and clip out")
        return self

    def located(self, folder: Path) -> Definition:
        """Also fills in what stands beside `path`."""
        located = super().located(folder)
        assert isinstance(located, GlobalDefinition)
        path = located.path if located.path.suffix else located.path / "fs3.npy"
        beside = {"path": path, "stats": located.stats or path.parent / "S_mean_std"}
        if located.texts is None:
            templates = located.templates or path.parent / "templates.txt"
            return located.model_copy(update=beside | {"templates": templates, "clip": located.clip or CLIP_MODEL})
        return located.model_copy(update=beside)

    def files(self) -> dict[str, Path]:
        """The relevances, the deviations, and the texts' features or templates."""
        more = {"stats": self.stats, "texts": self.texts, "templates": self.templates}
        return super().files() | {role: path for role, path in more.items() if path is not None}

    def editor(self, offer: Offer, config: GeneratorConfig) -> AnyEditor:
        relevance = load_relevance(self.path)
        assert self.stats is not None, "located"
        deviations = load_deviations(self.stats)
        if self.texts is not None:
            target = load_text_feature(self.texts, self.target)
            neutral = load_text_feature(self.texts, self.neutral)
        else:
            assert self.templates is not None and self.clip is not None, "located"
            target = clip_text_feature(self.target, self.templates, self.clip)
            neutral = clip_text_feature(self.neutral, self.templates, self.clip)
        step = text_direction(target, neutral)
        return StyleclipGlobalEditor(
            global_direction(relevance, step, deviations, self.disentanglement, config, name=offer.name)
        )
