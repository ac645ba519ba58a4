"""Face recognisers of the IR family (Deng et al. 2019, ArcFace, section 3.3): CurricularFace's IR-101 and ArcFace's IR-SE50.

They differ in depth, in squeeze-excitation and in whether the last normalisation has a gain. Names are those of the published
files `CurricularFace_Backbone.pth` and `model_ir_se50.pth`.
"""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from ops.networks.weights import load_strict, read_tensors
from ops.nn.ir import IRUnit

FACE_SIZE = 112
WIDTHS = (64, 64, 128, 256, 512)
IR_101, IR_50 = (3, 13, 30, 3), (3, 4, 14, 3)


class IRBackbone(nn.Module):
    """faces [N, 3, 112, 112] RGB in [-1, 1] => embeddings [N, 512] of unit length."""

    def __init__(self, units: tuple[int, ...], *, squeeze: bool, affine: bool):
        """
        units: of each of the four groups; every group halves the resolution.
        squeeze: units end with squeeze-excitation.
        affine: the last normalisation has a gain and an offset.
        """
        super().__init__()
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        body: list[nn.Module] = []
        for group, count in enumerate(units):
            for i in range(count):
                into, stride = WIDTHS[group if i == 0 else group + 1], 2 if i == 0 else 1
                body.append(IRUnit(into, WIDTHS[group + 1], stride, squeeze=squeeze))
        self.body = nn.Sequential(*body)
        side = FACE_SIZE // 16
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Identity(),  # dropout in training
            nn.Flatten(),
            nn.Linear(512 * side * side, 512),
            nn.BatchNorm1d(512, affine=affine),
        )

    def forward(self, faces: Tensor) -> Tensor:
        if faces.shape[1:] != (3, FACE_SIZE, FACE_SIZE):
            raise ValueError(f"expected faces as [N, 3, {FACE_SIZE}, {FACE_SIZE}], got {list(faces.shape)}; align them first")
        return F.normalize(self.output_layer(self.body(self.input_layer(faces))), dim=1)


def load_curricularface(path: Path) -> IRBackbone:
    """CurricularFace's IR-101 (Huang et al. 2020), the official evaluation's identity network. Raises CheckpointError."""
    return load_strict(lambda: IRBackbone(IR_101, squeeze=False, affine=False), read_tensors(path), str(path))


def load_arcface(path: Path) -> IRBackbone:
    """ArcFace's IR-SE50, the identity network of the training loss. Raises CheckpointError."""
    return load_strict(lambda: IRBackbone(IR_50, squeeze=True, affine=True), read_tensors(path), str(path))
