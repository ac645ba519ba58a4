"""The reference networks against the official programs' numbers, and what their loader takes and refuses."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ops.files.errors import CheckpointError
from ops.networks.inception_v3 import load_inception
from ops.networks.ir import load_arcface, load_curricularface
from ops.networks.lpips_alex import LpipsAlex, load_lpips
from ops.networks.mobilefacenet import DEVIATION, MEAN, load_mobilefacenet
from ops.networks.perceptual import VggPerceptual
from ops.networks.vgg16 import Vgg16Block4, load_vgg16
from ops.networks.weights import load_strict, read_tensors
from ops.training.losses import face_of, identity_loss
from tests.golden import RTOL, Golden, input_image, synthetic_weights

KEYS = "styleres_eval_keys.json"


def stored(shared: Path, folder: Path, section: str) -> Path:
    """Synthetic weights as a published file: a flat state dict written by torch."""
    path = folder / f"{section}.pth"
    torch.save(synthetic_weights(shared / "golden", section, KEYS), path)
    return path


def vectors(shared: Path, name: str) -> dict[str, np.ndarray]:
    return dict(np.load(shared / "golden" / "public" / f"styleres_{name}.npz"))


def close(got: Tensor, expected: np.ndarray) -> None:
    error, peak = np.abs(got.double().numpy() - expected).max(), np.abs(expected).max()
    assert error <= RTOL * peak, f"largest error {error:.3e}, allowed {RTOL * peak:.3e}"


@torch.no_grad()
def test_curricularface_agrees_with_the_official_program(shared: Path, tmp_path: Path) -> None:
    expected = vectors(shared, "metrics_id")
    network = load_curricularface(stored(shared, tmp_path, "curricularface_ir101"))
    embedded = network(torch.cat([F.interpolate(input_image(i), size=(112, 112), mode="area") for i in (0, 1)]))
    close(embedded, expected["ir101_embed"])
    close(embedded[0] @ embedded[1], expected["ir101_cos"])
    assert torch.allclose(embedded.norm(dim=1), torch.ones(2))


@torch.no_grad()
def test_arcface_and_its_loss_agree_with_the_official_program(shared: Path, tmp_path: Path) -> None:
    expected = vectors(shared, "metrics_id")
    network = load_arcface(stored(shared, tmp_path, "arcface_irse50"))
    a, b = input_image(0), input_image(1)
    close(network(face_of(torch.cat([a, b]))), expected["arcface_embed"])
    close(identity_loss(network, a, b)[0], expected["arcface_id_loss"])


@torch.no_grad()
def test_inception_agrees_with_the_official_program(shared: Path, tmp_path: Path) -> None:
    from ops.metrics.fid import inception_features, inception_input

    expected = vectors(shared, "metrics_fid")
    network = load_inception(stored(shared, tmp_path, "inception_v3"))
    for row, (index, size) in enumerate(((30, 256), (31, 1024))):
        levels = (input_image(index, size)[0] + 1).mul(127.5).round().byte()
        picture = levels.permute(1, 2, 0).numpy()
        prepared = inception_input([picture])
        mean, std, low, high, *_ = expected["inception_in_stats"][row]
        close(
            torch.tensor([prepared.mean(), prepared.std(unbiased=False), prepared.min(), prepared.max()]),
            [mean, std, low, high],
        )
        close(torch.from_numpy(inception_features(network, picture[None]))[0], expected["inception_feat"][row])


@torch.no_grad()
def test_lpips_agrees_with_the_official_program(shared: Path, tmp_path: Path) -> None:
    expected = vectors(shared, "metrics_lpips")
    network = load_lpips(stored(shared, tmp_path, "lpips_alex"))
    golden = Golden(shared / "golden", "metrics_lpips")
    for j in range(3):
        first, second, share = expected[f"pair/{j}"]
        a, b = input_image(int(first)), input_image(int(second))
        x = a * (1 - share) + b * share
        close(network(x, a)[0], expected[f"lpips/{j}"])
        if j == 0:
            for tap, features in enumerate(network.net(x)):
                golden(f"feat{tap}", features)


@torch.no_grad()
def test_the_perceptual_loss_on_vgg_agrees_with_the_official_program(shared: Path, tmp_path: Path) -> None:
    expected = vectors(shared, "loss_vgg")
    network = load_vgg16(stored(shared, tmp_path, "vgg16_block4"))
    a, b = input_image(0), input_image(1)
    features = network(a)
    close(features[:, ::32, ::4, ::4], expected["sub/feat"])
    assert list(features.shape) == expected["shape/feat"].tolist()
    close(VggPerceptual(network)(a, b)[0], expected["mse"])


@torch.no_grad()
def test_mobilefacenet_is_the_published_network(shared: Path) -> None:
    """The same network lies there as ONNX, which expects [-1, 1] where the state dict's training had ImageNet's scale."""
    import onnxruntime

    models = shared / "models"
    network = load_mobilefacenet(models / "identity" / "mobilefacenet.pt")
    session = onnxruntime.InferenceSession(models / "insightface_root/models/face_default/rec_mobilefacenet.onnx")
    faces = F.interpolate(input_image(0), size=(112, 112), mode="area")
    (embedded,) = session.run(None, {"input0": faces.numpy()})
    undone = (faces * torch.tensor(DEVIATION)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 2 - 1
    close(network(undone), F.normalize(torch.from_numpy(embedded)).numpy())


# ------------------------------------------------------------------------------------------------------ reading files


def lpips_weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return LpipsAlex().state_dict()


def test_lpips_of_two_files_is_that_of_one(tmp_path: Path) -> None:
    one = lpips_weights()
    trunk = {name.replace("net.layers.", "features."): value for name, value in one.items() if name.startswith("net.")}
    trunk["classifier.1.weight"] = torch.zeros(3)
    heads = {f"lin{name[4]}.model.1.weight": value for name, value in one.items() if name.startswith("lin.")}
    torch.save(one, tmp_path / "one.pth")
    torch.save(trunk, tmp_path / "alexnet.pth")
    save_file(heads, tmp_path / "heads.safetensors")
    x, y = input_image(0, 64), input_image(1, 64)
    together = load_lpips(tmp_path / "alexnet.pth", tmp_path / "heads.safetensors")
    assert torch.equal(together(x, y), load_lpips(tmp_path / "one.pth")(x, y))
    with pytest.raises(CheckpointError, match="heads are a file of their own"):
        load_lpips(tmp_path / "alexnet.pth")


def test_every_tensor_is_accounted_for() -> None:
    weights = lpips_weights()
    lacking = {name: value for name, value in weights.items() if name != "net.layers.3.bias"}
    with pytest.raises(CheckpointError, match=r"FILE.*lacks net\.layers\.3\.bias"):
        load_strict(LpipsAlex, lacking, "FILE")
    with pytest.raises(CheckpointError, match=r"does not know: surprise"):
        load_strict(LpipsAlex, weights | {"surprise": torch.zeros(1)}, "FILE")
    with pytest.raises(CheckpointError, match=r"net\.layers\.0\.bias \[3\], expected \[64\]"):
        load_strict(LpipsAlex, weights | {"net.layers.0.bias": torch.zeros(3)}, "FILE")
    with pytest.raises(CheckpointError, match="Vgg16Block4"):
        load_strict(Vgg16Block4, weights, "FILE")


class Hostile:
    """What a pickle can do to whoever opens it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.trace,)  # type: ignore[return-value]


def test_a_hostile_file_is_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "was_here"
    for name, write in (("torch.pth", torch.save), ("plain.pt", lambda content, path: path.write_bytes(pickle.dumps(content)))):
        path = tmp_path / name
        write({"weight": Hostile(trace)}, path)
        with pytest.raises(CheckpointError, match=r"holds objects besides tensors|this is a Python pickle"):
            read_tensors(path)
        assert not trace.exists()
    pickle.loads((tmp_path / "plain.pt").read_bytes())
    assert trace.exists(), "the file is harmless: the test shows nothing"


@pytest.mark.parametrize("content", [b"", b"no tensors", b"PK\x03\x04" + bytes(100), b"\x80\x02" + bytes(50)])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_broken_files_are_explained(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"this is .*; expected a weight file"):
        read_tensors(path)


def test_truncated_files_are_explained(tmp_path: Path) -> None:
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"whole{suffix}"
        weights = {"a": torch.zeros(1000)}
        torch.save(weights, path) if suffix == ".pth" else save_file(weights, path)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(CheckpointError, match="cut off after"):
            read_tensors(path)


def test_other_content_is_named(tmp_path: Path) -> None:
    for content, message in (
        ({"state_dict": {"a": torch.zeros(1)}}, "no tensors: state_dict"),
        ([torch.zeros(1)], "got list"),
        ({}, "an empty one"),
    ):
        torch.save(content, tmp_path / "file.pt")
        with pytest.raises(CheckpointError, match=message):
            read_tensors(tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match="no such file"):
        read_tensors(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="this is a folder"):
        read_tensors(tmp_path)


def test_nothing_here_needs_torchvision() -> None:
    assert "torchvision" not in sys.modules
