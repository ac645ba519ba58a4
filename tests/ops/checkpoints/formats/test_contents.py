"""A wrong file is named for what it is; a right one for what it holds."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ops.checkpoints.convert import read_checkpoint
from ops.checkpoints.formats.contents import read_content
from ops.files.errors import CheckpointError
from ops.files.sniff import sniff
from tests.ops.checkpoints import foreign

HTML = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>Sorry</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1575000000\n"


def wrong_files(folder: Path) -> dict[str, tuple[bytes, str, str]]:
    """name => (bytes, kind, words of the message)."""
    foreign.styleres_file(folder / "whole.pt")
    whole = (folder / "whole.pt").read_bytes()
    save_file({"a": torch.zeros(100, 100)}, folder / "whole.safetensors")
    tensors = (folder / "whole.safetensors").read_bytes()
    torch.save({"a": torch.zeros(100)}, folder / "old.pt", _use_new_zipfile_serialization=False)
    old = (folder / "old.pt").read_bytes()
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        archive.writestr("styleres/model.pt", b"x")
    return {
        "styleres.pt": (HTML, "html", "a web page titled 'Google Drive - Quota exceeded'"),
        "page.pkl": (b"  \n<html><body>404</body></html>", "html", "a web page"),
        "lfs.pt": (LFS, "git-lfs", "git lfs pull"),
        "empty.pt": (b"", "empty", "an empty file"),
        "cut.pt": (whole[: len(whole) // 2], "truncated", "cut off after"),
        "head.pt": (whole[:100], "truncated", "cut off after 100 bytes"),
        "cut.safetensors": (tensors[:5000], "truncated", "cut off after 5,000 of"),
        "headless.safetensors": (tensors[:30], "truncated", "a safetensors file cut off"),
        "old.pt": (old[: len(old) - 40], "torch-legacy", "damaged"),
        "zip.pt": ((folder / "x.zip").read_bytes(), "zip", "unpack it"),
        "picture.pt": (b"\x89PNG\r\n\x1a\n" + bytes(50), "other", "a PNG image"),
        "keras.h5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "other", "HDF5"),
        "archive.tar.gz": (b"\x1f\x8b\x08" + bytes(50), "other", "gzip"),
        "noise.pt": (bytes(range(200, 256)) + bytes(10), "other", "begins with c8 c9"),
        "settings.json": (b'{"a": 1}', "json", "a JSON file"),
        "notes.txt": (b"hello\n", "text", "no known layout"),
        "net.onnx": (b"\x08\x07\x12\x07pytorch" + bytes(60), "onnx", "an ONNX network"),
        "objects.npy": (b"\x93NUMPY\x01\x00" + bytes(20), "npy", "NumPy"),
    }


def test_wrong_files_are_named(tmp_path: Path) -> None:
    for name, (content, kind, words) in wrong_files(tmp_path).items():
        path = tmp_path / f"_{name}"
        path.write_bytes(content)
        assert sniff(path).kind == kind, name
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path)
        message = str(caught.value)
        assert str(path) in message and words in message, (name, message)
    with pytest.raises(CheckpointError, match="expected a model checkpoint"):
        read_checkpoint(tmp_path / "_styleres.pt")
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="a folder"):
        read_checkpoint(tmp_path)


def test_what_a_file_holds(tmp_path: Path) -> None:
    mapper = {f"{group}_mapping.mapping.{i}.weight": torch.zeros(2, 2) for group in ("course", "fine") for i in (1, 2)}
    files: dict[str, tuple[object, str]] = {
        "d.pt": (torch.zeros(1, 18, 512), "an edit direction"),
        "mapper.pt": (mapper, "a StyleCLIP mapper"),
        "pca.pt": ({"mean": torch.zeros(1, 8), "comp": torch.zeros(3, 1, 8), "std": torch.ones(3)}, "a GANSpace basis"),
        "clf.pth": ({"classifiers.0.classifier.0.weight": torch.zeros(16, 512)}, "GradCtrl's attribute classifiers"),
        "g.pt": ({"g_ema": foreign.rosinality_generator(), "latent_avg": torch.zeros(14)}, "a rosinality StyleGAN2"),
        "n.pt": (foreign.nvidia_state(), "tensors by NVIDIA's names"),
    }
    for name, (value, what) in files.items():
        torch.save(value, tmp_path / name)
        assert what in read_content(tmp_path / name).what, name
    np.save(tmp_path / "fs3.npy", np.zeros((6048, 4), np.float32))
    np.savez(tmp_path / "many.npz", a=np.zeros(512), b=np.zeros(512))
    np.save(tmp_path / "d.npy", np.zeros((18, 512), np.float32))
    save_file({"smile": torch.zeros(512), "age": torch.zeros(18, 512)}, tmp_path / "d.safetensors")
    for name, what in (
        ("fs3.npy", "StyleCLIP's table of channels"),
        ("many.npz", "a file of NumPy arrays"),
        ("d.npy", "an edit direction"),
        ("d.safetensors", "a file of edit directions"),
    ):
        assert what in read_content(tmp_path / name).what, name


@pytest.mark.parametrize(
    "content",
    [torch.zeros(3), torch.zeros(2, 18, 512), {"a": 1}, [1, 2], {}, "words", {"state_dict": {"netD.x": torch.zeros(1)}}],
)
def test_torch_files_of_no_known_layout_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "x.pt")


def test_arrays_of_objects_are_not_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> object:
            return (Path.touch, (tmp_path / "ran",))

    np.save(tmp_path / "bomb.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="objects"):
        read_content(tmp_path / "bomb.npy")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Bomb()))
    assert (tmp_path / "ran").exists(), "the premise"


def test_every_official_edit_file_is_named(shared: Path) -> None:
    expected = {
        "S_mean_std": "statistics of StyleSpace",
        "age.pt": "an edit direction",
        "pose.pt": "an edit direction",
        "smile.pt": "an edit direction",
        "ffhq_pca.pt": "a GANSpace basis",
        "ganspace_configs.csv": "a table of GANSpace edits",
        "gradctrl_model.pth": "GradCtrl's attribute classifiers",
        "gradctrl_model_params.pkl": "the sizes of GradCtrl's classifiers",
        "styleclip_global_examples.csv": "examples of StyleCLIP's global directions",
        "styleclip_mapping_configs.csv": "a table of StyleCLIP mappers",
        "templates.txt": "StyleCLIP's templates",
    }
    for name, what in expected.items():
        assert what in read_content(shared / "directions" / "official" / name).what, name


def test_a_header_that_lies_is_no_safetensors_file(tmp_path: Path) -> None:
    for header in ([1], {"a": 3}, {"a": {"data_offsets": "x"}}):
        raw = json.dumps(header).encode()
        (tmp_path / "x.safetensors").write_bytes(len(raw).to_bytes(8, "little") + (raw if raw[:1] == b"{" else b"{" + raw))
        assert sniff(tmp_path / "x.safetensors").kind == "truncated"
