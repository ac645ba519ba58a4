"""Attribute classifiers that judge edits: a small network trained on real faces whose identities the model never saw.

Legend: N batch, A attributes; images [N, 3, R, R] in [-1, 1], brought to 64 px for the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ops.data.faces import Faces, shuffled_indices
from ops.device import channels_last
from ops.networks.weights import load_strict, read_tensors
from ops.spaces import images_from_bytes

JUDGED = ("smiling", "male", "young", "eyeglasses", "bangs", "blond_hair", "black_hair", "mouth_slightly_open")
"""Attributes that the classifier of `styleres evaluate` learns, where the data have them; in the order of its outputs."""
JUDGE_SIZE = 64
"""Side of the pictures that it sees."""
NAMES = "attributes"
"""Key of the outputs' names in a file's metadata."""


class AttributeClassifier(nn.Module):
    """images => logits [N, A]. Five strided convolutions: enough for 64 px, and trained in a minute or two on a CPU."""

    def __init__(self, attributes: Sequence[str], width: int = 32):
        super().__init__()
        self.attributes = tuple(attributes)
        layers: list[nn.Module] = []
        channels = 3
        for level in range(4):
            out = width * 2**level
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
            channels = out
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(channels * 16, len(self.attributes)))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).flatten(1))


def load_judge(path: Path) -> AttributeClassifier:
    """The classifier that `save_judge` wrote. Raises CheckpointError for another file."""
    tensors = read_tensors(path)
    names = JUDGED  # a file without names has these
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, framework="pt") as file:
            stored = (file.metadata() or {}).get(NAMES)
        names = tuple(stored.split(",")) if stored else names
    return load_strict(lambda: AttributeClassifier(names), tensors, str(path))


def save_judge(judge: AttributeClassifier, path: Path) -> None:
    """Weights and the names of the outputs, as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in judge.state_dict().items()}
    save_file(weights, path, {NAMES: ",".join(judge.attributes)})


def train_classifier(faces: Faces, attributes: Sequence[str], *, epochs: int = 10, seed: int = 0) -> AttributeClassifier:
    """Binary cross-entropy on `faces` of 64 px, mirrored and shifted at random; the result is in evaluation mode."""
    torch.manual_seed(seed)
    draws = torch.Generator().manual_seed(seed)
    model = channels_last(AttributeClassifier(attributes))
    images = torch.from_numpy(faces.images)
    labels = torch.from_numpy(np.stack([faces.attributes[name] for name in attributes], axis=1)).float()
    batch = 64
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for chosen in shuffled_indices(len(images), batch, draws, steps):
        x = images_from_bytes(images[chosen])
        mirrored = torch.rand(batch, 1, 1, 1, generator=draws) < 0.5
        x = torch.where(mirrored, x.flip(3), x)
        dx, dy = torch.randint(-3, 4, (2,), generator=draws).tolist()
        x = torch.roll(x, (dy, dx), dims=(2, 3))
        loss = F.binary_cross_entropy_with_logits(model(x), labels[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def logits(model: AttributeClassifier, images: Tensor, batch: int = 64) -> Tensor:
    """images [N, 3, R, R] => [N, A]: the logarithm of the odds of each attribute."""
    return torch.cat([model(_at_judge_size(part)) for part in images.split(batch)])


def probabilities(model: AttributeClassifier, images: Tensor, batch: int = 64) -> Tensor:
    """images [N, 3, R, R] => [N, A] in 0..1."""
    return torch.sigmoid(logits(model, images, batch))


def _at_judge_size(images: Tensor) -> Tensor:
    size = (JUDGE_SIZE, JUDGE_SIZE)
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
