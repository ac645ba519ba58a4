"""A random change of perspective, as HFGI warps residual images to teach their alignment (Wang et al. 2022, section 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
"""(x, y) of top left, top right, bottom right, bottom left, where the picture is the square from -1 to 1."""


def random_perspective(images: Tensor, corners_N42: Tensor) -> Tensor:
    """images [N, C, H, W] whose corners move inwards by a share of half the side, [N, 4, 2] in 0..1 => the same shape.

    Convention: coordinates are those of `F.grid_sample` without aligned corners; bilinear; outside is 0. Corners that do not
    move leave an image to the bit.
    """
    start_42 = torch.tensor(CORNERS, device=images.device, dtype=torch.float32)
    end_N42 = start_42 * (1 - corners_N42.float())
    source_from_target = homography(end_N42, start_42.expand_as(end_N42))
    height, width = images.shape[2:]
    x_W = (torch.arange(width, device=images.device) + 0.5) * (2 / width) - 1
    y_H = (torch.arange(height, device=images.device) + 0.5) * (2 / height) - 1
    y_HW, x_HW = torch.meshgrid(y_H, x_W, indexing="ij")
    target_HW3 = torch.stack([x_HW, y_HW, torch.ones_like(x_HW)], dim=-1)
    source_NHW3 = torch.einsum("nij,hwj->nhwi", source_from_target, target_HW3)
    grid_NHW2 = source_NHW3[..., :2] / source_NHW3[..., 2:]
    warped = F.grid_sample(images.float(), grid_NHW2, mode="bilinear", padding_mode="zeros", align_corners=False)
    still_N = (corners_N42 == 0).all(dim=2).all(dim=1)
    return torch.where(still_N[:, None, None, None], images, warped.to(images.dtype))


def homography(source_N42: Tensor, target_N42: Tensor) -> Tensor:
    """Four points each => [N, 3, 3] with target ~ H source: the eight linear equations of a projective map, H_33 = 1."""
    x, y = source_N42.unbind(dim=2)
    u, v = target_N42.unbind(dim=2)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rows_u = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], dim=2)
    rows_v = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], dim=2)
    solved = torch.linalg.solve(torch.cat([rows_u, rows_v], dim=1), torch.cat([u, v], dim=1))
    return torch.cat([solved, torch.ones_like(solved[:, :1])], dim=1).reshape(-1, 3, 3)
