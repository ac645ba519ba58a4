"""Pickles are read as data: whatever a hostile one asks for, nothing of it runs."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ops.checkpoints.convert import convert, read_checkpoint
from ops.checkpoints.formats.contents import read_content
from ops.files.errors import CheckpointError
from ops.files.plain_pickle import Inert, load_pickle, plain
from ops.files.torch_file import load_torch_file
from tests.ops.checkpoints import foreign


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def command(mark: Path) -> str:
    return f"{sys.executable} -c \"open({str(mark)!r}, 'w')\""


def text(value: str) -> bytes:
    """Opcodes that put a string on the stack."""
    raw = value.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def hostile(mark: Path) -> dict[str, bytes]:
    """Programs that would make the file `mark`."""
    run, line = command(mark), f"open({str(mark)!r}, 'w')"
    stack_global = b"\x80\x04" + b"\x8c\x02os" + b"\x8c\x06system" + b"\x93" + text(run) + b"\x85R."
    dotted = b"\x80\x04" + text("torch") + text("os.system") + b"\x93" + text(run) + b"\x85R."
    trusted_root = b"\x80\x04" + text("dnnlib.util") + text("os.system") + b"\x93" + text(run) + b"\x85R."
    getattr_trick = b"\x80\x02cbuiltins\ngetattr\ncos\npath\n" + text("os") + b"\x86R."
    inst = b"(" + text(run) + b"ios\nsystem\n."
    build = b"\x80\x02ctorch._utils\n_rebuild_parameter\n}" + text("__code__") + b"Nsb."
    slots = b"\x80\x02ctorch._utils\n_rebuild_parameter\nN}" + text("_make") + b"ccollections\nOrderedDict\ns\x86b."
    return {
        "os.system, GLOBAL": pickle.dumps(Calls(os.system, run), protocol=2),
        "os.system, STACK_GLOBAL": stack_global,
        "os.system, INST": inst,
        "a dotted name": dotted,
        "a dotted name in NVIDIA's package": trusted_root,
        "builtins.eval": pickle.dumps(Calls(eval, line)),
        "builtins.exec": pickle.dumps(Calls(exec, line), protocol=2),
        "subprocess": pickle.dumps({"G_ema": Calls(subprocess.call, [sys.executable, "-c", line])}),
        "__import__": pickle.dumps(Calls(__import__, "tests.ops.checkpoints.hostile")),
        "getattr": getattr_trick,
        "nested in _load_from_bytes": pickle.dumps(Calls(torch.storage._load_from_bytes, pickle.dumps(Calls(os.system, run)))),  # type: ignore[attr-defined]
        "torch.load": pickle.dumps(Calls(torch.load, io.BytesIO(b""))),
        "a function's code": build,
        "a function's slot": slots,
        "numpy object array": pickle.dumps(np.array([Calls(os.system, run)], dtype=object)),
    }


@pytest.mark.parametrize("name", hostile(Path("x")))
@pytest.mark.parametrize("suffix", [".pkl", ".pt"])
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, name: str, suffix: str) -> None:
    mark, path = tmp_path / "ran", tmp_path / f"network{suffix}"
    path.write_bytes(hostile(mark)[name])
    with pytest.raises(CheckpointError):
        convert(path, tmp_path / "out")
    assert not mark.exists() and not (tmp_path / "out").exists()


def test_the_hostile_pickles_would_run_with_pickle_itself(tmp_path: Path) -> None:
    """The premise: they are real."""
    for name in (
        "os.system, GLOBAL",
        "os.system, STACK_GLOBAL",
        "os.system, INST",
        "builtins.eval",
        "nested in _load_from_bytes",
    ):
        mark = tmp_path / name.replace(" ", "_")
        content = hostile(mark)[name]
        if "nested" in name:
            inner = next(arg for op, arg, _ in pickletools.genops(content) if op.name.endswith("BYTES"))
            content = bytes(inner)
        pickle.loads(content)
        assert mark.exists(), name


@pytest.mark.parametrize("name", ["os.system, GLOBAL", "builtins.eval"])
def test_a_hostile_torch_file_runs_nothing(tmp_path: Path, name: str) -> None:
    """Inside torch.save's zip, and in its layout before 1.6."""
    for zipped in (True, False):
        mark, path = tmp_path / f"ran{zipped}", tmp_path / "model.pt"
        reduced = {
            "os.system, GLOBAL": Calls(os.system, command(mark)),
            "builtins.eval": Calls(eval, f"open({str(mark)!r}, 'w')"),
        }
        content = {"e4e": {"x": reduced[name]}, "latent_avg": torch.zeros(2), "generator_smooth": {}}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match="no code is run"):
            load_torch_file(path)
        assert not mark.exists()


def test_the_source_that_a_persistent_pickle_carries_is_not_run(tmp_path: Path) -> None:
    foreign.RAN.clear()
    path = tmp_path / "n.pkl"
    foreign.persistent_pickle(path, {"G_ema": foreign.nvidia_state()}, source=foreign.SOURCE + "import os\nos._exit(3)\n")
    read_checkpoint(path)
    assert foreign.RAN == [] and b"os._exit(3)" in path.read_bytes(), "the premise: the source is there"
    content = load_pickle(path)
    assert isinstance(content, dict) and isinstance(content["G_ema"], Inert)
    assert "os._exit" in content["G_ema"].arguments[0]["module_src"], "as text"


def test_a_persistent_pickle_whose_storage_is_hostile_runs_nothing(tmp_path: Path) -> None:
    """A whole network pickle, with one storage's bytes replaced by another pickle."""
    path, mark = tmp_path / "n.pkl", tmp_path / "ran"
    bomb = pickle.dumps(Calls(os.system, command(mark)), protocol=2)
    storage = Calls(torch.storage._load_from_bytes, bomb)  # type: ignore[attr-defined]
    tensor = Calls(torch._utils._rebuild_tensor_v2, storage, 0, (2,), (1,), False, OrderedDict())  # type: ignore[attr-defined]
    path.write_bytes(pickle.dumps({"G_ema": tensor}))
    with pytest.raises(CheckpointError, match="a nested storage that is not plain data"):
        read_checkpoint(path)
    assert not mark.exists()


def test_tensors_stay_inside_their_storage(tmp_path: Path) -> None:
    path = tmp_path / "n.pkl"
    for offset, size, stride in ((0, (9,), (1,)), (7, (2,), (1,)), (0, (2, 2), (1, 9)), (-1, (1,), (1,)), (0, (3,), (-1,))):
        tensor = Calls(
            torch._utils._rebuild_tensor_v2, torch.arange(8.0)._typed_storage(), offset, size, stride, False, OrderedDict()
        )  # type: ignore[attr-defined]
        path.write_bytes(pickle.dumps({"G_ema": tensor}))
        with pytest.raises(CheckpointError, match="pickle that asks for more than data"):
            load_pickle(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_data_come_back_as_they_were(tmp_path: Path, protocol: int) -> None:
    torch.manual_seed(0)
    value = {
        "numbers": [1, 2.5, True, None, -7, 1 << 70],
        "words": ("a", "ä", b"bytes"),
        "arrays": [np.arange(6).reshape(2, 3).astype(dtype) for dtype in ("f4", "<f8", ">f4", "i8", "u1", "?")],
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "set": {1, 2},
        "ordered": OrderedDict(b=1, a=2),
    }
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    again = plain(load_pickle(path))
    assert isinstance(again, dict) and again["numbers"] == value["numbers"] and again["words"] == value["words"]
    for ours, theirs in zip([*again["arrays"], again["fortran"]], [*value["arrays"], value["fortran"]], strict=True):  # type: ignore[misc]
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    assert again["set"] == {1, 2} and list(again["ordered"]) == ["b", "a"]
    tensors = {
        "whole": torch.randn(3, 4),
        "part": torch.randn(6, 6)[1:4, ::2],
        "scalar": torch.tensor(2.0),
        "int": torch.tensor([1]),
    }
    path.write_bytes(pickle.dumps(tensors, protocol=protocol))
    read = load_pickle(path)
    assert isinstance(read, dict) and all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_cut_off_and_odd_pickles_are_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "n.pkl"
    foreign.persistent_pickle(path, {"G_ema": foreign.nvidia_state()})
    whole = path.read_bytes()
    for length in (3, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"damaged|cut off|no known kind|asks for more"):
            read_checkpoint(path)
    for value, message in (
        ((1, 2, 3), "TensorFlow"),
        ({"a": 1}, "no known layout"),
        ({"G_ema": 3}, "expected a network of torch_utils.persistence, got int"),
    ):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(path)


def test_the_official_pickles_of_the_release_are_read(shared: Path) -> None:
    folder = shared / "directions" / "official"
    statistics = plain(load_pickle(folder / "S_mean_std"))
    assert isinstance(statistics, list) and [len(part) for part in statistics] == [26, 26]
    assert statistics[1][0].dtype == np.float32 and sum(len(part) for part in statistics[1]) == 9088
    sizes = read_content(folder / "gradctrl_model_params.pkl").value
    assert sizes["hidden_size"] == 16 and sizes["n_shared_layers"] == 0
