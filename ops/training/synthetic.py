"""Codes of faces that were never photographed: what a network learns from where the truth must be known.

Legend: N batch, L rows of W+, D width of W, K directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ops.generators.protocol import Generator


@dataclass(frozen=True)
class CodeSettings:
    """How codes are drawn. Photographs are less typical than samples of W and more so than none: truncation varies."""

    truncation: tuple[float, float] = (0.35, 1.05)
    mixed_share: float = 0.3
    """Share of codes whose later rows come from another sample (style mixing)."""
    mixed_from: tuple[int, int] = (2, 14)
    """First row that the other sample gives, at least and below."""
    moved_share: float = 0.35
    """Probability that a code is moved along a direction, for each direction."""


class Rotation:
    """Slots of a pool, of which one is filled anew every few steps, in turn.

    What a slot is filled from follows from the seed and the number of the step alone, so that a resumed run sees what it would
    have seen.
    """

    def __init__(self, size: int, refresh_every: int, seed: int):
        self.size, self.refresh_every, self.seed = size, refresh_every, seed
        self.versions = [-1] * size

    def due(self, step: int) -> Iterator[tuple[int, torch.Generator]]:
        """The slots that are not what they are in a step, each with what to draw from."""
        refreshed = step // self.refresh_every
        for slot in range(self.size):
            version = (refreshed - slot + self.size - 1) // self.size if refreshed > slot else 0
            if self.versions[slot] != version:
                self.versions[slot] = version
                yield slot, torch.Generator().manual_seed((self.seed * 1_000_003 + slot) * 10_007 + version)


@torch.no_grad()
def draw_codes(
    generator: Generator, count: int, draws: torch.Generator, settings: CodeSettings, directions_KD: Tensor | None = None
) -> Tensor:
    """=> W+ [N, L, D] on the generator's device.

    directions_KD: each as long as a typical strength; a moved code goes a normally distributed multiple along it.
    """
    config, device = generator.config, generator.mapping.w_avg.device
    z = torch.randn(2 * count, config.z_dim, generator=draws)
    low, high = settings.truncation
    truncation = low + (high - low) * torch.rand(2 * count, 1, generator=draws)
    mean = generator.mapping.w_avg
    own, other = (mean + truncation.to(device) * (generator.mapping(z.to(device)) - mean)).chunk(2)
    first, end = settings.mixed_from
    row = torch.randint(first, end, (count, 1), generator=draws)
    mixed = torch.rand(count, 1, generator=draws) < settings.mixed_share
    from_other = (torch.arange(config.num_ws) >= row) & mixed
    wplus = torch.where(from_other.to(device)[:, :, None], other[:, None], own[:, None])
    return wplus + along_directions(count, directions_KD, draws, settings.moved_share, device)


def along_directions(
    count: int, directions_KD: Tensor | Sequence[Tensor] | None, draws: torch.Generator, share: float, device: torch.device
) -> Tensor:
    """Steps along some of the directions => [N, 1, D], zero where there is none."""
    if directions_KD is None or len(directions_KD) == 0:
        return torch.zeros(count, 1, 1, device=device)
    directions = torch.stack(list(directions_KD))
    chosen = torch.rand(count, len(directions), generator=draws) < share
    strength = torch.randn(count, len(directions), generator=draws) * chosen
    return (strength.to(device) @ directions.to(device))[:, None]
