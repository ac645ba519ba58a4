"""The losses of StyleRes (CVPR 2023, Eq. 4-9) and of e4e, one function each.

Legend: N batch, L rows of W+, D width of W; images [N, 3, R, R] in [-1, 1]. Per-sample losses return [N], so that the
caller can restrict them to samples without (or with) an edit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_loss(images: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error per sample => [N] (L_l2 of Eq. 5, in the squared form of the authors' training tree)."""
    return (images - targets).square().mean(dim=(1, 2, 3))


def adversarial_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating generator loss, softplus(-D(x')) => scalar (the counterpart of L_adv, Eq. 8)."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """softplus(D(x')) + softplus(-D(x)) => scalar: -L_adv of Eq. 8."""
    return F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()


def r1_penalty(real_logits: Tensor, real_images: Tensor) -> Tensor:
    """E || grad_x D(x) ||^2 on real images => scalar (Mescheder et al. 2018); the loss adds gamma / 2 of it."""
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def feature_regulariser(delta: Tensor) -> Tensor:
    """mean |dF| => scalar, L_F of Eq. 9 in the L1 form of the authors' training tree."""
    return delta.float().abs().mean()


def delta_regulariser(offsets_NLD: Tensor) -> Tensor:
    """Mean squared distance of the rows of W+ from their first row => scalar: keeps codes near W
    (e4e, Tov et al. 2021, Eq. 3)."""
    return (offsets_NLD[:, 1:] - offsets_NLD[:, :1]).square().mean()


def edit_fidelity_loss(image_change: Tensor, code_change: Tensor, pool: int = 2) -> Tensor:
    """|| P(x'_a - x'_0) - P(G(W_a) - G(W)) ||^2 / || P(G(W_a) - G(W)) ||^2 => [N], P average pooling. Ours, not the paper's.

    image_change: what the edit changes in the output, code_change: what it changes without the residual, both [N, 3, R, R].
    0 is an edit that passes whole, 1 one that is painted over. E2 can satisfy reconstruction and cycle alike by painting the
    input over any edit, and at 64 px, where the residual can hold the whole picture, it does (docs/decisions/0005).
    """
    wanted = F.avg_pool2d(code_change, pool)
    distance = (F.avg_pool2d(image_change, pool) - wanted).square().mean(dim=(1, 2, 3))
    return distance / (wanted.square().mean(dim=(1, 2, 3)) + 1e-4)


def simulated_edit(wplus_NLD: Tensor, random_w_ND: Tensor, alpha_N: Tensor) -> Tensor:
    """W_a = W + a (W_r - W) / 10 (Eq. 2) => W+ [N, L, D]; alpha 0 is no edit."""
    return wplus_NLD + edit_offset(wplus_NLD, random_w_ND, alpha_N)


def edit_offset(wplus_NLD: Tensor, random_w_ND: Tensor, alpha_N: Tensor) -> Tensor:
    """The vector that Eq. 2 adds; the cycle subtracts the very same one after re-encoding."""
    return alpha_N[:, None, None] * (random_w_ND[:, None, :] - wplus_NLD) / 10


def affine_reversal(edited_NLD: Tensor, random_w_ND: Tensor, alpha_N: Tensor) -> Tensor:
    """W of W_a by the inverse of Eq. 2: (W_a - a W_r / 10) / (1 - a / 10) => W+ [N, L, D].

    The exact inverse of a code that came back unchanged; of one that did not, it stretches the difference by 1 / (1 - a / 10),
    which is why training subtracts `edit_offset` instead, as the authors' training tree does.
    """
    share_N11 = alpha_N[:, None, None] / 10
    return (edited_NLD - share_N11 * random_w_ND[:, None, :]) / (1 - share_N11)


def sample_alpha(batch: int, generator: torch.Generator) -> Tensor:
    """Per sample: 0 with probability one half, else uniform in (4, 5) => [N] (section 3.3, "works best in our ablation")."""
    edited = torch.rand(batch, generator=generator) < 0.5
    return torch.where(edited, 4 + torch.rand(batch, generator=generator), torch.zeros(()))
