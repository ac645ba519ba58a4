"""Finds where in an aligned crop an edit may show: face, hair and neck, but not a hand before them nor what is behind."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import torch

from ops.face.align import crop_face
from ops.face.mask import around_face
from ops.networks.parts import PARTS, SEEN_SIZE, face_parts, face_parts_on, parts_of
from ops.spaces import images_from_crops

GROWN_SHARE: Final = 1 / 96  # of the side: how far beyond its outline a head may grow; of more, what is behind shows a halo
SEEN_FROM, SEEN_TO = 0.3, 0.7  # of the probability
STRANGE_BELOW, KNOWN_FROM = 0.05, 0.2  # of the oval's share in which a person is seen


def person_in(frame: np.ndarray, quad_42: np.ndarray) -> np.ndarray:
    """frame uint8 [H, W, 3] RGB, a face's quad => float32 [96, 96] in the quad, how much of an edit may show there, 0..1."""
    return person_weights(crop_face(frame, quad_42, (SEEN_SIZE, SEEN_SIZE)))


def person_weights(crop: np.ndarray) -> np.ndarray:
    """crop uint8 [192, 192, 3] RGB, FFHQ-aligned => as `person_in`.

    Runs on the CPU, where frames are pasted, one face at a time: its last bits do not depend on the company.
    """
    probabilities = parts_of(face_parts(), images_from_crops(crop[None]))[0].numpy()
    return allowed(1.0 - probabilities[PARTS.index("other")])


def people_weights(crops: np.ndarray, device: torch.device) -> np.ndarray:
    """crops uint8 [N, 192, 192, 3] RGB, FFHQ-aligned => float32 [N, 96, 96], each as `person_weights`, found on an accelerator.

    There the network takes a fiftieth of what it takes a core, which would keep the accelerator waiting. Last bits differ.
    """
    probabilities = parts_of(face_parts_on(device), images_from_crops(crops, device)).float().cpu().numpy()
    return np.stack([allowed(1.0 - one[PARTS.index("other")]) for one in probabilities])


def allowed(seen: np.ndarray) -> np.ndarray:
    """Probability that a pixel is the person's [S, S] => how much of an edit may show there, 0..1.

    Beyond the face's oval the outline is let out a little and softened: an edit may round a cheek or lift hair. Within the oval
    what lies before the face is left as exactly as it was seen. Where almost nothing of a face is seen the network does not
    know this kind of picture (a drawing, a night view), and an edit that the user asked for shows everywhere.
    """
    weight = np.clip((seen - SEEN_FROM) / (SEEN_TO - SEEN_FROM), 0.0, 1.0).astype(np.float32)
    reach = 2 * round(GROWN_SHARE * len(weight)) + 1
    wider = cv2.GaussianBlur(cv2.dilate(weight, np.ones((reach, reach), np.uint8)), (0, 0), reach / 4)
    around = around_face(len(weight))
    inner = float((weight * (1 - around)).sum() / (1 - around).sum())
    known = min(max((inner - STRANGE_BELOW) / (KNOWN_FROM - STRANGE_BELOW), 0.0), 1.0)
    found: np.ndarray = 1 - np.float32(known) * (1 - np.maximum(weight, around * wider))
    return found
