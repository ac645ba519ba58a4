"""Faces of the network of parts with hands drawn before them."""

from __future__ import annotations

import torch

from ops.networks.parts import PARTS
from ops.training.hands import with_hand
from ops.training.parts import UNKNOWN

FACE, OTHER = PARTS.index("face"), PARTS.index("other")
SIDE = 96


def face() -> tuple[torch.Tensor, torch.Tensor]:
    """A disc of skin on blue, and a margin of which nothing is known."""
    at = (torch.arange(SIDE) + 0.5) / SIDE - 0.5
    inside = torch.hypot(at[:, None], at[None, :]) < 0.3
    skin, blue = torch.tensor([0.6, 0.2, 0.0]), torch.tensor([-0.6, -0.4, 0.8])
    image = torch.where(inside, skin[:, None, None], blue[:, None, None])
    parts = torch.where(inside, FACE, OTHER)
    parts[:, :4] = UNKNOWN
    return image, parts


def test_a_hand_is_of_the_faces_skin_and_none_of_the_face() -> None:
    image, parts = face()
    covered, beyond = 0, 0
    for seed in range(12):
        shown, labels = with_hand(image, parts, UNKNOWN, torch.Generator().manual_seed(seed))
        assert shown.shape == image.shape and shown.abs().max() <= 1 and bool(torch.isfinite(shown).all())
        assert torch.equal(labels == UNKNOWN, parts == UNKNOWN), "nothing becomes known"
        taken = (parts == FACE) & (labels != FACE)
        assert bool((labels[taken] == OTHER).all()) and bool((labels[~taken] == parts[~taken]).all())
        covered += int(taken.any())
        behind = shown[:, parts == OTHER]
        beyond += int(((behind[0] > behind[2]) & (behind[0] > -0.6)).sum() > 20)
    assert covered >= 8 and beyond >= 8, "hands lie before the face, and are skin beside it"


def test_a_picture_without_a_face_stays() -> None:
    image, parts = face()
    shown, labels = with_hand(image, torch.full_like(parts, OTHER), UNKNOWN, torch.Generator().manual_seed(0))
    assert torch.equal(shown, image) and bool((labels == OTHER).all())


def test_a_hand_follows_from_its_seed() -> None:
    image, parts = face()
    one, again = (with_hand(image, parts, UNKNOWN, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    assert not torch.equal(one[0], with_hand(image, parts, UNKNOWN, torch.Generator().manual_seed(8))[0])
