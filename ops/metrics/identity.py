"""Identity of a face: aligned crops => embeddings of unit length, whose cosine says how alike two faces are (-1 to 1).

The official metric is CurricularFace's IR-101 on faces that MTCNN found in both pictures. We align both by the landmarks that
our own detector finds in the source, so with the official weights the number is the official one but for the alignment, and a
result whose face nobody would find counts instead of being left out. Without them a smaller recogniser stands in;
numbers of two recognisers do not compare, and every report names the one it used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never, final, get_args, get_type_hints

import cv2
import numpy as np
import torch
from torch import nn

from ops.face.detect import ARCFACE_TEMPLATE_52, Detector, DetectorError, similarity_between
from ops.files.digest import sha256_together
from ops.files.errors import CheckpointError
from ops.networks.ir import FACE_SIZE, load_arcface, load_curricularface
from ops.networks.mobilefacenet import load_mobilefacenet
from ops.networks.protocol import at_protocol_size
from ops.spaces import images_from_crops


@dataclass(frozen=True)
class IdentitySettings:
    """A recogniser, and the place of its files."""

    kind: Literal["curricularface", "arcface", "mobilefacenet", "insightface"]
    path: Path
    """The weight file; of kind insightface the pack's folder, which holds its .onnx files."""

    def decides(self) -> dict[str, Any]:
        """What decides its numbers, as JSON values: the network by its bytes. Raises CheckpointError for absent files."""
        files = sorted(self.path.glob("*.onnx")) if self.path.is_dir() else [self.path]
        try:
            return {"kind": self.kind, "network": sha256_together(files)}
        except OSError as error:
            raise CheckpointError(f"{self.path}: expected the weights of {self.kind} ({error.strerror})") from error


def identity_settings(text: str) -> IdentitySettings:
    """`KIND:PATH`. Raises ValueError for another kind."""
    kind, _, path = text.partition(":")
    kinds = get_args(get_type_hints(IdentitySettings)["kind"])
    if kind not in kinds or not path:
        raise ValueError(f"expected KIND:PATH, a kind of {', '.join(kinds)}, got {text!r}")
    return IdentitySettings(kind, Path(path).absolute())  # type: ignore[arg-type]


class IdentityNetwork(ABC):
    """Faces => embeddings."""

    @property
    @abstractmethod
    def name(self) -> str:
        """For reports: whose network it is, exactly enough that equal names mean equal numbers."""

    @abstractmethod
    def embed(self, faces: np.ndarray) -> np.ndarray:
        """faces uint8 [N, 112, 112, 3] RGB, aligned by `identity_crop` => float64 [N, D] of unit length."""


@final
class TorchIdentity(IdentityNetwork):
    """A network of `ops.networks` that takes faces in [-1, 1]."""

    def __init__(self, name: str, network: nn.Module, batch: int = 16) -> None:
        self._name = name
        self._network = network
        self._batch = batch

    @property
    def name(self) -> str:
        return self._name

    @torch.no_grad()
    def embed(self, faces: np.ndarray) -> np.ndarray:
        found = [self._network(part) for part in images_from_crops(faces).split(self._batch)]
        return torch.cat(found).double().numpy()


@final
class PackIdentity(IdentityNetwork):
    """The recogniser of an insightface pack on disk."""

    def __init__(self, folder: Path) -> None:
        if not (folder.is_dir() and any(folder.glob("*.onnx"))):
            raise DetectorError(f"insightface pack {folder}: expected a folder with .onnx files; unpack the pack there")
        from insightface.app import FaceAnalysis  # heavy, and only this class needs it

        # The folder, not the name: FaceAnalysis downloads a pack whose name it does not find.
        analysis = FaceAnalysis(
            name=str(folder.resolve()), allowed_modules=["detection", "recognition"], providers=["CPUExecutionProvider"]
        )
        self._recogniser: Any = analysis.models.get("recognition")
        if self._recogniser is None or tuple(self._recogniser.input_size) != (FACE_SIZE, FACE_SIZE):
            raise DetectorError(
                f"insightface pack {folder}: expected a recognition model for faces of {FACE_SIZE} pixels, found "
                f"{sorted(analysis.models)}; name a pack that has one"
            )
        self._name = f"recogniser of insightface pack {folder.name}"

    @property
    def name(self) -> str:
        return self._name

    def embed(self, faces: np.ndarray) -> np.ndarray:
        # One at a time: published recognisers often have a fixed batch of 1.
        rows = [np.asarray(self._recogniser.get_feat(np.ascontiguousarray(face[:, :, ::-1]))).ravel() for face in faces]
        vectors = np.stack(rows).astype(np.float64)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def open_identity(settings: IdentitySettings) -> IdentityNetwork:
    """Raises CheckpointError or DetectorError where the file is not what its kind asks for."""
    match settings.kind:
        case "curricularface":
            return TorchIdentity("CurricularFace IR-101", load_curricularface(settings.path))
        case "arcface":
            return TorchIdentity("ArcFace IR-SE50", load_arcface(settings.path))
        case "mobilefacenet":
            return TorchIdentity("MobileFaceNet", load_mobilefacenet(settings.path))
        case "insightface":
            return PackIdentity(settings.path)
        case other:
            assert_never(other)


def identity_crop(frame: np.ndarray, landmarks_52: np.ndarray) -> np.ndarray:
    """frame uint8 [H, W, 3] and five landmarks => uint8 [112, 112, 3], where recognisers expect eyes, nose and mouth.

    Least-squares similarity to ArcFace's template, bilinear, black beyond the frame, as the official evaluation warps.
    """
    crop_from_frame = similarity_between(np.asarray(landmarks_52), ARCFACE_TEMPLATE_52)
    return cv2.warpAffine(frame, crop_from_frame, (FACE_SIZE, FACE_SIZE), flags=cv2.INTER_LINEAR)


def face_landmarks(detector: Detector, crops: np.ndarray) -> list[np.ndarray | None]:
    """crops uint8 [N, R, R, 3] of one face each => its five landmarks [5, 2] in the crop brought to 256 px, or None.

    Detection runs at 256 pixels, whatever R, as the official evaluation does. Of several faces the largest counts: the picture
    was cut around it.
    """
    found: list[np.ndarray | None] = []
    for picture in at_protocol_size(crops):
        faces = detector.detect(picture)
        largest = max(faces, key=lambda face: float(np.prod(face.box_xyxy[2:] - face.box_xyxy[:2])), default=None)
        found.append(None if largest is None else largest.landmarks_52)
    return found


def faces_at(crops: np.ndarray, landmarks: Sequence[np.ndarray]) -> np.ndarray:
    """crops uint8 [N, R, R, 3] and the landmarks of each at 256 px => identity crops uint8 [N, 112, 112, 3]."""
    pictures = at_protocol_size(crops)
    return np.stack([identity_crop(picture, five) for picture, five in zip(pictures, landmarks, strict=True)])
