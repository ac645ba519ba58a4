"""Pickles of plain data come back as pickle itself reads them; anything else is refused, and nothing in a file ever runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ops.files.errors import CheckpointError
from ops.files.plain_pickle import load_pickle, plain

SHARED_LIST = [1, 2]
PLAIN: dict[str, Any] = {
    "numbers": [0, 1, -1, 255, 256, 65536, -(2**40), 2**70, 0.0, -1.5, 1e300, True, False, None],
    "text": {"a": "ü", "": "x" * 300, "bytes": b"\x00\xff" * 200},
    "containers": ([], {}, (), [1], (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {"k": [{}]}, list(range(2000))),
    "shared": [SHARED_LIST, SHARED_LIST],
}
ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    np.arange(4, dtype=">i2"),
    np.array(3, np.uint8),
    np.array([True, False]),
]


def file_of(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "data.pkl"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", PLAIN)
def test_plain_data_is_read_as_pickle_reads_it(tmp_path: Path, name: str, protocol: int) -> None:
    assert read_plain_pickle(file_of(tmp_path, pickle.dumps(PLAIN[name], protocol))) == PLAIN[name]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_read_as_pickle_reads_them(tmp_path: Path, protocol: int) -> None:
    twice = ARRAYS[0]
    path = file_of(tmp_path, pickle.dumps([*ARRAYS, {"again": twice}, np.float32(1.5)], protocol))
    *arrays, last, scalar = read_plain_pickle(path)
    for ours, theirs in zip(arrays, ARRAYS, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert last["again"] is arrays[0] and scalar == 1.5


def test_the_official_pickles_are_read(shared: Path) -> None:
    """`pickle` itself, which trusts them, is the reference here."""
    official = shared / "directions" / "official"
    ours = read_plain_pickle(official / "S_mean_std")
    theirs = pickle.loads((official / "S_mean_std").read_bytes(), encoding="latin1")
    for one, two in zip(ours, theirs, strict=True):
        assert len(one) == len(two) == 26
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)
    path = official / "gradctrl_model_params.pkl"
    assert read_plain_pickle(path) == pickle.loads(path.read_bytes())


def read_plain_pickle(path: Path) -> Any:
    return plain(load_pickle(path))


RAN: list[str] = []


def ran(what: str) -> None:
    RAN.append(what)


class Calls:
    """Unpickles by calling `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None):
        self.made = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.made


def hostile() -> dict[str, bytes]:
    objects = np.empty(1, object)
    objects[0] = Calls(ran, "x")
    made: dict[str, Any] = {
        "call": Calls(ran, "x"),
        "call inside": {"a": [Calls(ran, "x")]},
        "eval": Calls(eval, "1 + 1"),
        "system": Calls(os.system, "true"),
        "array of objects": objects,
        "array of strings": np.array(["a"]),
        "array of records": np.zeros(2, [("a", "f4")]),
        "state": Calls(np.dtype, "f4", state={"__class__": int}),
        "a function": len,
    }
    files = {name: pickle.dumps(value, 2) for name, value in made.items()}
    files |= {f"{name}, newest protocol": pickle.dumps(value) for name, value in made.items()}
    files |= {
        "no pickle": b"hello, I am text",
        "empty": b"",
        "never stops": b"\x80\x02]q\x00",
        "stops with nothing": b"\x80\x02.",
        "instance": b"(cos\nsystem\nS'true'\no.",
        "class by name": b"(S'true'\nios\nsystem\n.",
        "persistent": b"Pthing\n.",
        "extension": b"\x80\x02\x82\x01.",
        "unclosed": b"\x80\x02K\x01K\x02t.",
        "a mark": b"(.",
        "unknown memo": b"h\x05.",
        "array without values": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR.",
        "too few bytes": pickle.dumps(ARRAYS[0], 4).replace(b"K\x02K\x03", b"K\x02K\x04"),
        "unhashable key": b"}](K\x01e]s.",
        "cut": pickle.dumps(ARRAYS[0], 4)[:-20],
    }
    return files


@pytest.mark.parametrize("name", hostile())
def test_anything_else_is_refused_and_nothing_runs(tmp_path: Path, name: str) -> None:
    path = file_of(tmp_path, hostile()[name])
    with pytest.raises(CheckpointError) as caught:
        read_plain_pickle(path)
    assert str(path) in str(caught.value) and not RAN


def test_the_premise_pickle_itself_would_run_them() -> None:
    try:
        pickle.loads(hostile()["call"])
        pickle.loads(hostile()["array of objects"])
        assert RAN == ["x", "x"]
    finally:
        RAN.clear()


def test_values_that_hold_themselves_or_themselves_very_often_end(tmp_path: Path) -> None:
    itself: list[Any] = []
    itself.append(itself)
    often: list[Any] = [1]
    for _ in range(60):
        often = [often, often]
    deep = b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b"."
    for data in (pickle.dumps(itself), pickle.dumps(often), deep):
        with pytest.raises(CheckpointError):
            read_plain_pickle(file_of(tmp_path, data))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_plain_pickle(tmp_path / "none.pkl")
