"""The losses of StyleRes (CVPR 2023, Eq. 4-9) and of e4e, one function each.

Legend: N batch, L rows of W+, D width of W; images [N, 3, R, R] in [-1, 1]. Per-sample losses return [N]; `batch_mean`
restricts them to the samples that they concern.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.face.mask import around_face

Embedder = Callable[[Tensor], Tensor]
"""Faces [N, 3, 112, 112] in [-1, 1] => embeddings [N, D], of any length: the identity network of `identity_loss`."""

# In an FFHQ-aligned image: the square that face recognition networks are shown (rows 35 to 223, columns 32 to 220 of 256).
FACE_TOP, FACE_LEFT, FACE_SIDE = 35 / 256, 32 / 256, 188 / 256


def batch_mean(values_N: Tensor, concerned_N: Tensor | None = None) -> Tensor:
    """Mean over the *whole* batch, where a sample that a loss does not concern counts as 0 => scalar.

    So a loss weighs the same per sample however many samples of a batch it concerns, and the mean over the slices of a
    batch is the mean over the batch: several processes learn what one would.
    """
    return values_N.mean() if concerned_N is None else torch.where(concerned_N, values_N, 0.0).mean()


def pixel_loss(images: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error per sample => [N] (L_l2 of Eq. 5, in the squared form of the authors' training tree)."""
    return (images - targets).square().mean(dim=(1, 2, 3))


def face_of(images: Tensor) -> Tensor:
    """FFHQ-aligned images [N, 3, R, R] => [N, 3, 112, 112], what an identity network is shown."""
    size = images.shape[-1]
    top, left, side = round(FACE_TOP * size), round(FACE_LEFT * size), round(FACE_SIDE * size)
    face = images[:, :, top : top + side, left : left + side]
    if side >= 112:
        return F.adaptive_avg_pool2d(face, 112)
    return F.interpolate(face, size=(112, 112), mode="bilinear", align_corners=False)


def identity_loss(embed: Embedder, images: Tensor, targets: Tensor) -> Tensor:
    """1 - cos(e(x'), e(x)) => [N], 0 (one person) to 2 (L_id of Eq. 7). No gradient reaches the targets."""
    with torch.no_grad():
        reference = embed(face_of(targets))
    return 1 - F.cosine_similarity(embed(face_of(images)), reference, dim=1)


def adversarial_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating generator loss, softplus(-D(x')) => scalar (the counterpart of L_adv, Eq. 8)."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """softplus(D(x')) + softplus(-D(x)) => scalar: -L_adv of Eq. 8."""
    return F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()


def r1_penalty(real_logits: Tensor, real: Tensor) -> Tensor:
    """E || grad_x D(x) ||^2 on real samples [N, ...] => scalar (Mescheder et al. 2018); the loss adds gamma / 2 of it."""
    (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean()


def feature_regulariser(delta: Tensor) -> Tensor:
    """mean |dF| => [N], L_F of Eq. 9 in the L1 form of the authors' training tree."""
    return delta.float().abs().mean(dim=(1, 2, 3))


def delta_regulariser(offsets_NLD: Tensor) -> Tensor:
    """Mean squared distance of the rows of W+ from their first row => scalar: keeps codes near W
    (e4e, Tov et al. 2021, Eq. 3)."""
    return (offsets_NLD[:, 1:] - offsets_NLD[:, :1]).square().mean()


COMPOSITE_TONE = 9  # pixels at 64 px: what is wider is tone, what is finer is structure
COMPOSITE_EDGE = 5
COMPOSITE_FROM, COMPOSITE_TO = 0.05, 0.12
COMPOSITE_DOUBT_FACE, COMPOSITE_DOUBT_AROUND = 0.15, 1.2


def composite_target(images: Tensor, code_images: Tensor, edited_code_images: Tensor) -> tuple[Tensor, Tensor]:
    """x, G(W), G(W_a) [N, 3, R, R] => (what x' should look like, the mask m [N, 1, R, R]). Ours, not the paper's.

        t = m (G(W_a) + L(x - G(W))) + (1 - m) (x + L(G(W_a) - G(W)))

    L keeps what is wider than a few pixels. Where the edit changes structure, the code alone says what is seen, in the tone of
    the source; elsewhere the source stays, with the edit's change of tone. With s(d) the local mean of |d - L(d)|, m grows from
    0 to 1 as s(G(W_a) - G(W)) - k s(x - G(W)) goes from COMPOSITE_FROM to COMPOSITE_TO: where the code draws something else
    than what is there, it has to change the more to be believed. k is COMPOSITE_DOUBT_FACE in the face of an FFHQ crop, and
    COMPOSITE_DOUBT_AROUND at ears, collar and background, of which no code knows much. Without an edit t is x.
    """
    scale = images.shape[-1] / 64
    change, missed = edited_code_images - code_images, images - code_images
    tone, missed_tone = (_smooth(one, COMPOSITE_TONE, scale) for one in (change, missed))
    moved, wrong = (
        _smooth((one - wide).abs().mean(dim=1, keepdim=True), COMPOSITE_EDGE, scale)
        for one, wide in ((change, tone), (missed, missed_tone))
    )
    around = torch.tensor(around_face(images.shape[-1])).to(images)
    doubt = COMPOSITE_DOUBT_FACE + (COMPOSITE_DOUBT_AROUND - COMPOSITE_DOUBT_FACE) * around
    mask = ((moved - doubt * wrong - COMPOSITE_FROM) / (COMPOSITE_TO - COMPOSITE_FROM)).clamp(0, 1)
    return mask * (edited_code_images + missed_tone) + (1 - mask) * (images + tone), mask


def _smooth(x: Tensor, width: int, scale: float) -> Tensor:
    """Mean over squares of about `width` pixels at 64 px, twice; at the border, over what is there of them."""
    side = 2 * round(width * scale / 2 - 0.5) + 1
    for _ in range(2):
        x = F.avg_pool2d(x, side, stride=1, padding=side // 2, count_include_pad=False)
    return x


def composite_loss(outputs: Tensor, target: Tensor, mask: Tensor, emphasis: float = 4.0) -> Tensor:
    """Mean of (1 + emphasis m) (x' - t)^2 => [N], for a `composite_target`: where an edit acts is a small part of a picture."""
    return ((1 + emphasis * mask) * (outputs - target).square()).mean(dim=(1, 2, 3))


def edit_offset(wplus_NLD: Tensor, random_w_ND: Tensor, alpha_N: Tensor) -> Tensor:
    """Return the offset a (W_r - W) / 10 of a simulated edit, W_a = W + a (W_r - W) / 10 (Eq. 2) => [N, L, D].

    wplus_NLD: codes. random_w_ND: W of random z. alpha_N: a of each; 0 edits nothing. The cycle subtracts the same offset after
    re-encoding.
    """
    return alpha_N[:, None, None] * (random_w_ND[:, None, :] - wplus_NLD) / 10


def affine_reversal(edited_NLD: Tensor, random_w_ND: Tensor, alpha_N: Tensor) -> Tensor:
    """W of W_a by the inverse of Eq. 2: (W_a - a W_r / 10) / (1 - a / 10) => W+ [N, L, D].

    The exact inverse of a code that came back unchanged; of one that did not, it stretches the difference by 1 / (1 - a / 10),
    which is why training subtracts `edit_offset` unless told otherwise, as the authors' training tree does.
    """
    share_N11 = alpha_N[:, None, None] / 10
    return (edited_NLD - share_N11 * random_w_ND[:, None, :]) / (1 - share_N11)


def sample_alpha(
    batch: int, generator: torch.Generator, *, share: float = 0.5, between: tuple[float, float] = (4.0, 5.0)
) -> Tensor:
    """Per sample: uniform in `between` with probability `share`, else 0 => [N] (section 3.3, "works best in our ablation")."""
    edited = torch.rand(batch, generator=generator) < share
    low, high = between
    return torch.where(edited, low + (high - low) * torch.rand(batch, generator=generator), torch.zeros(()))
