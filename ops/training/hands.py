"""Draws hands before a face in the face's own skin: a network that never saw skin before skin takes a fingertip for face.

A hand is a palm and one to five fingers of two bones each, all capsules, shaded as round bodies under one light, with creases
at the joints, nails now and then, a shadow on what lies behind, and the blur of its movement.

Legend: S side of a picture; lengths are shares of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.networks.parts import PARTS

FACE, OTHER = PARTS.index("face"), PARTS.index("other")
LEAST_SKIN = 200
"""Pixels that a face must have for a hand to be drawn in its colour."""


@dataclass(frozen=True)
class Bone:
    """One bone of a hand: a capsule from one point to another."""

    start: tuple[float, float]
    """(x, y) of its first end."""
    end: tuple[float, float]
    radius: float
    depth: float
    """Order of bones: the larger is in front."""
    has_crease: bool = False
    has_nail: bool = False


@torch.no_grad()
def with_hand(image: Tensor, parts: Tensor, unknown: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a hand before a face: image [3, S, S] in [-1, 1], parts [S, S] => both; unchanged if the face has few pixels.

    unknown: the label that stays. draws: the source of all random numbers, on the CPU.
    """
    inside = parts == FACE
    if int(inside.sum()) < LEAST_SKIN:
        return image, parts
    here = inside.nonzero()[torch.randint(0, int(inside.sum()), (60,), generator=draws)]
    skin = image[:, here[:, 0], here[:, 1]].median(dim=1).values.add(1).div(2)
    middle = inside.nonzero().float().mean(dim=0) / parts.shape[0]
    bones = draw_bones((float(middle[1]), float(middle[0])), math.sqrt(float(inside.float().mean())), draws)
    colours, alpha = painted(bones, skin, parts.shape[0], draws)
    shown = shadowed((image + 1) / 2, alpha, draws)
    shown = shown + alpha * (colours - shown)
    covered = (alpha > 0.5) & (parts != unknown)
    return (2 * shown - 1).clamp(-1, 1), torch.where(covered, OTHER, parts)


def draw_bones(middle: tuple[float, float], size: float, draws: torch.Generator) -> list[Bone]:
    """Draw the bones of a hand at random. middle: (x, y) of the face's. size: square root of the face's area."""

    def drawn(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=draws))

    fingers = int(torch.randint(1, 6, (), generator=draws))
    radius = size * drawn(0.05, 0.1)
    target = (middle[0] + size * drawn(-0.45, 0.45), middle[1] + size * drawn(-0.25, 0.6))
    # Hands come from below and from the sides; some, at the brow, from above.
    whence = drawn(-0.3, math.pi + 0.3) if drawn(0, 1) < 0.85 else drawn(0, 2 * math.pi)
    forth = (-math.cos(whence), -math.sin(whence))
    aside = (-forth[1], forth[0])
    reach = size * drawn(0.35, 0.8)
    spread, bones = drawn(-0.06, 0.2), []
    for k in range(fingers):
        at = k - (fingers - 1) / 2
        length = reach * drawn(0.8, 1.1) * (1 - 0.06 * at**2)
        turn, bend = at * spread, drawn(-0.5, 0.5)
        width = radius * drawn(0.88, 1.08)
        base = stepped(stepped(target, forth, math.pi, reach), aside, 0.0, at * 1.95 * radius)
        joint = stepped(base, forth, turn, 0.55 * length)
        tip = stepped(joint, forth, turn + bend, 0.45 * length)
        nail = drawn(0, 1) < 0.35
        bones.append(Bone(base, joint, width, drawn(0, 0.3), has_crease=True))
        bones.append(Bone(joint, tip, width * drawn(0.8, 0.95), drawn(0, 0.3), has_nail=nail))
    if drawn(0, 1) < 0.8:
        near = stepped(target, forth, math.pi, reach + 0.6 * radius)
        far = stepped(near, forth, math.pi, size * drawn(0.2, 0.6))
        bones.append(Bone(near, far, radius * max(1.6, 1.05 * fingers), -0.5))
    return bones


def stepped(start: tuple[float, float], forth: tuple[float, float], turn: float, length: float) -> tuple[float, float]:
    """Return the point at a distance from another, in a direction turned by an angle."""
    cos, sin = math.cos(turn), math.sin(turn)
    return (start[0] + length * (forth[0] * cos - forth[1] * sin), start[1] + length * (forth[0] * sin + forth[1] * cos))


def painted(bones: list[Bone], skin_3: Tensor, side: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paint bones => colours [3, S, S] in 0 to 1, opacity [S, S] in 0 to 1."""
    light = torch.randn(3, generator=draws)
    light[2] = 1.0 + light[2].abs()
    light = light / light.norm()
    front = torch.full((side, side), -math.inf)
    shade, gap = torch.ones(side, side), torch.full((side, side), math.inf)
    tint = torch.zeros(side, side)
    ambient, steep = 0.4 + 0.55 * torch.rand(1, generator=draws), torch.rand(1, generator=draws)
    for bone in bones:
        along, across, reach = local(bone, side)
        depth = (1 - (reach / bone.radius).square()).clamp(min=0).sqrt()
        height = torch.where(reach < bone.radius, bone.radius * depth + bone.depth * bone.radius, -math.inf)
        x, y = across
        lit = (x * light[0] + y * light[1] + depth * light[2]).clamp(min=0)
        value = (ambient + (1 - ambient) * lit) * (1 - 0.45 * steep * (1 - depth) ** 2)
        if bone.has_crease:
            value = value * (1 - 0.15 * torch.exp(-(((along - 1) * bone_length(bone) / (0.12 * bone.radius)) ** 2)))
        nail = torch.zeros(side, side)
        if bone.has_nail:
            beyond = (along - 1) * bone_length(bone) / bone.radius
            nail = ((0.62 - torch.hypot(beyond - 0.15, reach / bone.radius * 0.9)) * 12).clamp(0, 1)
        wins = height > front
        front, shade, tint = torch.where(wins, height, front), torch.where(wins, value, shade), torch.where(wins, nail, tint)
        gap = torch.minimum(gap, reach - bone.radius)
    grain = F.interpolate(torch.randn(1, 3, 12, 12, generator=draws), size=(side, side), mode="bicubic")[0]
    own = skin_3 * (0.85 + 0.3 * torch.rand(1, generator=draws)) * (0.97 + 0.06 * torch.rand(3, generator=draws))
    colours = own[:, None, None] * shade * (1 + 0.03 * grain)
    pale = (colours * torch.tensor([1.12, 1.02, 1.05])[:, None, None] + 0.03).clamp(0, 1)
    colours = (colours + tint * (pale - colours)).clamp(0, 1)
    alpha = (0.5 - gap * side).clamp(0, 1)
    # Pixels under the soft border belong to the hand, too: no bone covers them, and they get the colour of the nearest edge.
    colours = torch.where((front == -math.inf)[None], own[:, None, None] * 0.6 * ambient, colours)
    return moving(colours, alpha, draws)


def moving(colours: Tensor, alpha: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blur a third of the hands along a line by up to a tenth of the side, and soften all of them a little."""
    chosen, angle, length, soft = torch.rand(4, generator=draws).tolist()
    layer = torch.cat([colours * alpha, alpha[None]])[None]
    steps = 1 + round(0.1 * alpha.shape[0] * length) if chosen < 1 / 3 else 1
    if steps > 1:
        move = torch.tensor([math.cos(2 * math.pi * angle), math.sin(2 * math.pi * angle)]) / alpha.shape[0]
        total = torch.zeros_like(layer)
        for k in range(steps):
            shift = (2 * move * (k - steps / 2)).tolist()
            theta = torch.tensor([[[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]]]])
            total += F.grid_sample(layer, F.affine_grid(theta, list(layer.shape), align_corners=False), align_corners=False)
        layer = total / steps
    if soft < 0.5:
        layer = F.avg_pool2d(layer, 3, 1, 1)
    alpha = layer[0, 3]
    return layer[0, :3] / alpha.clamp(min=1e-3), alpha


def shadowed(image: Tensor, alpha: Tensor, draws: torch.Generator) -> Tensor:
    """Darken the picture beside the hand, towards one side of it."""
    shift_x, shift_y, dark = torch.rand(3, generator=draws).tolist()
    side = alpha.shape[0]
    theta = torch.tensor([[[1.0, 0.0, 0.08 * (shift_x - 0.5)], [0.0, 1.0, -0.08 * shift_y]]])
    cast = F.grid_sample(alpha[None, None], F.affine_grid(theta, [1, 1, side, side], align_corners=False), align_corners=False)
    wide = 2 * (side // 48) + 1
    cast = F.avg_pool2d(F.avg_pool2d(cast, wide, 1, wide // 2), wide, 1, wide // 2)[0, 0]
    return image * (1 - 0.6 * dark * cast)


def local(bone: Bone, side: int) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """Compute each pixel's place on a bone.

    => (share of the bone's length, 0 to 1 within it; unit-radius offset (x, y) from its axis; distance from its axis).
    """
    x, y = places(side)
    (x0, y0), length = bone.start, bone_length(bone)
    ux, uy = (bone.end[0] - x0) / length, (bone.end[1] - y0) / length
    along = (x - x0) * ux + (y - y0) * uy
    held = along.clamp(0, length)
    dx, dy = x - x0 - held * ux, y - y0 - held * uy
    return along / length, (dx / bone.radius, dy / bone.radius), torch.hypot(dx, dy)


def bone_length(bone: Bone) -> float:
    return max(math.dist(bone.start, bone.end), 1e-4)


@cache
def places(side: int) -> tuple[Tensor, Tensor]:
    at = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(at, at, indexing="ij")
    return x, y
