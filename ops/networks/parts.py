"""Finds the pixels of an aligned face that are face, hair and neck, so that a paste leaves a hand before a mouth alone.

EfficientNet-Lite0's first eleven blocks, read at four scales, finest last. Its weights lie in the package;
`styleres train parts` makes them. Trained on CelebAMask-HQ (Lee et al. 2020), whose labels count hands and objects before a
face as background.

Legend: N batch, K parts, S side of the network's input.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.networks.weights import load_strict, read_tensors
from ops.nn.lite import LiteTrunk
from ops.nn.pointwise import Pointwise

Part = Literal["other", "face", "hair", "neck"]
PARTS: Final[tuple[Part, ...]] = ("other", "face", "hair", "neck")
"""Names of the network's outputs. Face: skin, brows, eyes, nose, mouth, ears, glasses. Other: all else, things before a face
included."""
SEEN_SIZE: Final = 192
PARTS_SIZE: Final = SEEN_SIZE // 2
WEIGHTS: Final = Path(__file__).with_name("parts.safetensors")
TAPS, TAP_CHANNELS, WIDTHS = (0, 2, 4, 10), (16, 24, 40, 112), (32, 48, 64, 64)


class FaceParts(nn.Module):
    """images [N, 3, S, S] in [-1, 1], FFHQ-aligned => logits [N, K, S/2, S/2]."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = LiteTrunk(TAPS)
        self.sides = nn.ModuleList(Pointwise(count, width) for count, width in zip(TAP_CHANNELS, WIDTHS, strict=True))
        above = (*WIDTHS[1:], WIDTHS[-1])
        self.mixes = nn.ModuleList(nn.Conv2d(into, width, 3, padding=1) for into, width in zip(above, WIDTHS, strict=True))
        self.last = Pointwise(WIDTHS[0], len(PARTS))

    def forward(self, images: Tensor) -> Tensor:
        scales = self.trunk(images)
        x = self.sides[-1](scales[-1])
        for level in reversed(range(len(TAPS))):
            side = self.sides[level](scales[level])
            x = F.relu(self.mixes[level](_enlarged(x, side.shape[-1]))) + side
        logits: Tensor = self.last(F.relu(x))
        return logits


def _enlarged(x: Tensor, side: int) -> Tensor:
    return x if x.shape[-1] == side else F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)


@cache
def face_parts() -> FaceParts:
    """Return the network with the package's weights, on the CPU. Shared: do not train or move it.

    Raises:
        CheckpointError: weights of another network.
    """
    return load_strict(FaceParts, read_tensors(WEIGHTS), str(WEIGHTS))


@cache
def face_parts_on(device: torch.device) -> FaceParts:
    """Return a copy of `face_parts` on a device."""
    return load_strict(FaceParts, read_tensors(WEIGHTS), str(WEIGHTS)).to(device)


@torch.inference_mode()
def parts_of(network: FaceParts, images: Tensor) -> Tensor:
    """Find the parts of images [N, 3, H, H] of any side in [-1, 1] => probabilities [N, K, S/2, S/2], 0..1, of sum 1."""
    seen = images
    if images.shape[-1] != SEEN_SIZE:
        seen = F.interpolate(images, size=(SEEN_SIZE, SEEN_SIZE), mode="bilinear", align_corners=False, antialias=True)
    return network(seen).softmax(dim=1)
