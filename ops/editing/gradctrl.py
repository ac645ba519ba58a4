"""GradCtrl (Chen et al., Exploring Gradient-based Multi-directional Controls in GANs, ECCV 2022): a path along an attribute's
gradient, without the channels that other attributes depend on.

Legend of axes: N frames, L rows of W+, D width of W, A attributes, H hidden units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, final

import pydantic
import torch
import torch.nn.functional as F

from ops.editing.definition import Definition, Offer
from ops.editing.editor import AnyEditor, EditError, Editor, check_codes, check_rows, in_full_blocks
from ops.editing.files import read_tensors
from ops.files.plain_pickle import load_pickle, plain
from ops.generators.protocol import GeneratorConfig

SLOPE = 0.1  # of the classifiers' leaky ReLU
MAX_STEPS = 1000
"""More is a slip: the official demo takes 9."""


@dataclass(frozen=True)
class Control:
    """How one attribute is controlled."""

    rows: tuple[int, int]
    """Rows [first, end) of W+ that move."""
    excluded: Mapping[str, int]
    """Other attributes, and how many of the channels that each depends on most are left alone."""


CONTROLS: Mapping[str, Control] = {
    #            rows              channels left alone for other attributes
    "gender": Control((2, 10), {"smile": 250, "eyeglasses": 100, "age": 100}),
    "smile": Control((2, 8), {"gender": 200, "eyeglasses": 50, "age": 100}),
    "eyeglasses": Control((1, 4), {"gender": 200, "smile": 100, "age": 250}),
    "age": Control((4, 10), {"gender": 100, "eyeglasses": 300}),
}
"""The official table, for the FFHQ model. Its fifth head, pose, is not controlled."""


@dataclass(frozen=True, eq=False)
class Heads:
    """Attribute classifiers of W: for each attribute σ(v · lrelu₀.₁(U w + b) + c)."""

    names: tuple[str, ...]
    hidden_AHD: torch.Tensor
    hidden_bias_AH: torch.Tensor
    output_AH: torch.Tensor
    output_bias_A: torch.Tensor

    def probabilities(self, w_ND: torch.Tensor) -> torch.Tensor:
        """Return the probability of each attribute, [N, A] in [0, 1]."""
        hidden_NAH = torch.einsum("nd,ahd->nah", w_ND, self.hidden_AHD.to(w_ND)) + self.hidden_bias_AH.to(w_ND)
        active_NAH = F.leaky_relu(hidden_NAH, SLOPE)
        return ((active_NAH * self.output_AH.to(w_ND)).sum(dim=2) + self.output_bias_A.to(w_ND)).sigmoid()

    def slopes(self, w_ND: torch.Tensor) -> torch.Tensor:
        """∂ logit / ∂w of every attribute => [N, A, D].

        The probability's gradient is p (1 − p) times it, a positive factor: unit steps and the order of channels by size are
        the same, and where the probability is 0 or 1 to rounding this still has a direction.
        """
        hidden_NAH = torch.einsum("nd,ahd->nah", w_ND, self.hidden_AHD.to(w_ND)) + self.hidden_bias_AH.to(w_ND)
        through_NAH = torch.where(hidden_NAH > 0, 1.0, SLOPE) * self.output_AH.to(w_ND)
        return torch.einsum("nah,ahd->nad", through_NAH, self.hidden_AHD.to(w_ND))


@final
class GradCtrlEditor(Editor):
    """Follows the gradient of one attribute on the first row of W+ and moves rows [first, end) as it went.

    The strength is a signed length of path: |strength| / learning_rate whole steps of that length and a shorter last one, so
    with 0.5, 4.5 is the official nine steps. Positive raises the attribute's probability. With s the sign, step after step:

        g = ∂p/∂v at v,  0 on the excluded attributes' most important channels,  g ← g / ‖g‖
        v ← v − s · step · g            from v = w[0]
        rows ← rows + (w[0] − v)        at the end

    So the gradient is taken along the mirrored path, as the official program does. In float64 and in blocks of one size, so
    that a code comes out of any batch with the same bits.

    Raises:
        EditError: an attribute that the heads do not have, or as many excluded channels as there are.
    """

    def __init__(
        self, heads: Heads, attribute: str, control: Control, *, learning_rate: float = 0.5, name: str = "gradctrl"
    ) -> None:
        check_rows(control.rows, name)
        unknown = [other for other in (attribute, *control.excluded) if other not in heads.names]
        if unknown:
            raise EditError(f"{name}: the classifiers have {', '.join(heads.names)}, not {', '.join(unknown)}")
        if not learning_rate > 0:
            raise EditError(f"{name}: the learning rate is the length of a step, more than 0; got {learning_rate:g}")
        self._width = heads.hidden_AHD.shape[2]
        most = max(control.excluded.values(), default=0)
        if most >= self._width:
            raise EditError(f"{name}: leaves {most} channels alone, and codes have {self._width}; nothing would move")
        self._heads = heads
        self._attribute = heads.names.index(attribute)
        self._excluded = {heads.names.index(other): count for other, count in control.excluded.items()}
        self._rows = control.rows
        self._learning_rate = learning_rate
        self._name = name

    @property
    def unit(self) -> str:
        """The meaning of a strength of 1."""
        return (
            f"length of path in W, in steps of {self._learning_rate:g}; positive raises the attribute's probability; "
            "0 is no edit, the official demo goes 4.5"
        )

    @property
    def neutral(self) -> float | None:
        """0: no step."""
        return 0.0

    def apply(self, wplus_NLD: torch.Tensor, strength_N: torch.Tensor) -> torch.Tensor:
        """W+ => W+ moved along the path; rows outside keep their bits. See `Editor.apply`."""
        check_codes(wplus_NLD, strength_N, what=self._name, width=self._width, row_count=None, rows=self._rows)
        steps_N = strength_N.double().abs() / self._learning_rate
        if bool((steps_N > MAX_STEPS).any()):
            raise EditError(f"{self._name}: a strength of {float(strength_N.abs().max()):g} is more than {MAX_STEPS} steps")
        return in_full_blocks(self._apply_block, wplus_NLD, strength_N)

    def _apply_block(self, wplus_NLD: torch.Tensor, strength_N: torch.Tensor) -> torch.Tensor:
        start_ND = wplus_NLD[:, 0].double()
        at_ND = start_ND.clone()
        left_N = strength_N.double().abs()
        sign_N = strength_N.double().sign()
        while bool((left_N > 0).any()):
            step_N = left_N.clamp(max=self._learning_rate)
            at_ND = at_ND - (sign_N * step_N)[:, None] * self._step(at_ND)
            left_N = left_N - step_N
        edited = wplus_NLD.clone()
        edited[:, slice(*self._rows)] += (start_ND - at_ND).float()[:, None]
        return edited

    def _step(self, w_ND: torch.Tensor) -> torch.Tensor:
        """The unit step of each code; 0 where no channel is left."""
        slopes_NAD = self._heads.slopes(w_ND)
        kept_ND = torch.ones_like(w_ND)
        for other, count in self._excluded.items():
            most_NK = slopes_NAD[:, other].abs().topk(count, dim=1).indices
            kept_ND.scatter_(1, most_NK, 0.0)
        return F.normalize(slopes_NAD[:, self._attribute] * kept_ND, dim=1, eps=1e-300)


def load_heads(path: str | Path, params: str | Path) -> Heads:
    """The official classifiers: `model.pth` (tensors) and `model_params.pkl` (plain data).

    Raises:
        EditError: files that cannot be read, or classifiers of another design.
    """
    settings = plain(load_pickle(Path(params)))
    match settings:
        case {"attributes": str(attributes), "n_shared_layers": 0}:
            names = tuple(name.strip() for name in attributes.split(","))
        case _:
            raise EditError(f"{params}: expected attributes as text and n_shared_layers 0, got {settings!r:.200}")
    tensors = read_tensors(path, "GradCtrl's classifiers")
    keys = [
        f"classifiers.{index}.classifier.{layer}.{part}"
        for index in range(len(names))
        for layer in (0, 2)
        for part in ("weight", "bias")
    ]
    absent, unknown = [key for key in keys if key not in tensors], sorted(tensors.keys() - set(keys))
    if absent or unknown:
        raise EditError(
            f"{path}: expected one classifier for each of {', '.join(names)}; "
            f"missing {', '.join(absent[:5]) or 'none'}, not expected {', '.join(unknown[:5]) or 'none'}"
        )

    def stacked(layer: int, part: str) -> torch.Tensor:
        return torch.stack([tensors[f"classifiers.{i}.classifier.{layer}.{part}"] for i in range(len(names))])

    try:
        heads = Heads(
            names, stacked(0, "weight"), stacked(0, "bias"), stacked(2, "weight").squeeze(1), stacked(2, "bias").squeeze(1)
        )
    except RuntimeError as error:  # torch: stack expects each tensor to be equal size
        raise EditError(f"{path}: classifiers of different sizes ({error})") from error
    count, hidden = len(names), heads.hidden_bias_AH.shape[-1]
    width = heads.hidden_AHD.shape[-1]
    expected = ((count, hidden, width), (count, hidden), (count, hidden), (count,))
    found = tuple(tuple(t.shape) for t in (heads.hidden_AHD, heads.hidden_bias_AH, heads.output_AH, heads.output_bias_A))
    if found != expected:
        raise EditError(f"{path}: expected heads Linear(D, H), LeakyReLU, Linear(H, 1), got tensors of {found}")
    return heads


@final
class GradCtrlDefinition(Definition):
    """GradCtrl's attribute classifiers: NAME of one attribute, or NAME.ATTRIBUTE of each."""

    kind: Literal["gradctrl"]
    attribute: str | None = None
    params: Path | None = None
    """File of the classifiers' heads; the model's name with `_params.pkl` if not given."""
    learning_rate: Annotated[float, pydantic.Field(strict=True, gt=0, allow_inf_nan=False)] = 0.5
    """Length of one step in W."""

    def located(self, folder: Path) -> Definition:
        """Also fills in where the parameters stand."""
        located = super().located(folder)
        assert isinstance(located, GradCtrlDefinition)
        beside = located.path.with_name(f"{located.path.stem}_params.pkl")
        return located.model_copy(update={"params": located.params or beside})

    def files(self) -> dict[str, Path]:
        """The classifiers and their parameters."""
        return super().files() | ({} if self.params is None else {"params": self.params})

    def offers(self) -> list[Offer]:
        """NAME of its attribute, or NAME.ATTRIBUTE of each."""
        if self.attribute is not None:
            return [Offer(self.name, self, (("attribute", self.attribute),))]
        return [Offer(f"{self.name}.{attribute}", self, (("attribute", attribute),)) for attribute in CONTROLS]

    def editor(self, offer: Offer, config: GeneratorConfig) -> AnyEditor:
        attribute = str(dict(offer.chosen)["attribute"])
        assert self.params is not None, "located"
        if attribute not in CONTROLS:
            raise EditError(f"{offer.name}: GradCtrl controls {', '.join(CONTROLS)}, got {attribute!r}")
        heads = load_heads(self.path, self.params)
        return GradCtrlEditor(heads, attribute, CONTROLS[attribute], learning_rate=self.learning_rate, name=offer.name)
