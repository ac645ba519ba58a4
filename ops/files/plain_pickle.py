"""Pickles as data. A pickle is a program; this reader runs only the part of the language that builds values.

Every name that a pickle asks for is answered from one table of harmless makers (`find_class`); none is ever imported. Objects
of classes that only the file's own program knows become `Inert`: a record of the class's name, its arguments and its state.
Sources of classes that NVIDIA's pickles carry along (`module_src`) are strings here, and stay strings.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, final

import numpy as np
import torch
from torch import Tensor

from ops.files.errors import CheckpointError
from ops.files.sniff import sniff, wrong_file

INERT_PACKAGES = ("torch_utils", "training", "dnnlib", "metrics")
"""Roots of NVIDIA's own modules: what they name becomes `Inert`."""
DTYPES = (
    "float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool", "half", "float",
    "double", "short", "int", "long",
)  # fmt: skip
NUMPY_KINDS = frozenset("biufc")
MAX_AXES = 16


class Refused(pickle.UnpicklingError):
    """A pickle asks for something that is not data."""


class Inert:
    """Stands for an object of an unknown class: data only."""

    module = ""
    name = ""
    arguments: tuple[object, ...] = ()
    state: object = None

    def __new__(cls, *arguments: object, **keywords: object) -> Inert:
        """Pickles may call this alone, without `__init__`."""
        self = super().__new__(cls)
        self.arguments = arguments
        return self

    def __init__(self, *arguments: object, **keywords: object) -> None:
        """`__new__` has kept the arguments."""

    def __setstate__(self, state: object) -> None:
        self.state = state


class InertDict(dict[Any, Any]):
    """dnnlib's EasyDict: a dict, whatever state comes with it."""

    def __setstate__(self, state: object) -> None:
        """A dict has no other state worth keeping."""


@final
class _Maker:
    """A callable that a pickle may call but not change."""

    __slots__ = ("_make",)
    _make: Callable[..., object]

    def __init__(self, make: Callable[..., object]) -> None:
        object.__setattr__(self, "_make", make)

    def __call__(self, *arguments: object) -> object:
        try:
            return self._make(*arguments)
        except Refused:
            raise
        except Exception as error:
            raise Refused(f"a call with arguments that do not fit ({error})") from error

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise Refused(f"it sets an attribute {name!r} of a function")


class _Array:
    """A NumPy array on its way: shape, type and bytes come with its state."""

    value: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise Refused("an array's state has another form than NumPy writes")
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _DType) or not isinstance(content, bytes) or not _is_shape(shape):
            raise Refused("an array that is not of plain numbers")
        flat = np.frombuffer(content, dtype.numpy())
        self.value = flat.reshape(shape, order="F" if fortran else "C").copy()


class _DType:
    """A NumPy number type on its way: byte order comes with its state."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) >= 2 and state[1] in ("<", ">", "|", "=")):
            raise Refused("a NumPy type's state has another form than NumPy writes")
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


def _is_shape(value: object) -> bool:
    return isinstance(value, tuple) and len(value) <= MAX_AXES and all(type(size) is int and size >= 0 for size in value)


def _dtype(code: object, *_: object) -> _DType:
    if not isinstance(code, str) or np.dtype(code).kind not in NUMPY_KINDS:
        raise Refused(f"NumPy values of type {code!r}; only numbers are data")
    return _DType(code)


def _reconstruct(kind: object, *_: object) -> _Array:
    if kind is not _Array:
        raise Refused("NumPy's _reconstruct of something else than an array")
    return _Array()


def _from_buffer(content: object, dtype: object, shape: object, order: object = "C") -> _Array:
    """How NumPy writes arrays since protocol 5."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", bytes(content) if isinstance(content, bytearray) else content))
    return array


def _scalar(dtype: object, content: object = None) -> object:
    if not isinstance(dtype, _DType) or not isinstance(content, bytes):
        raise Refused("a NumPy scalar that is not a number")
    return np.frombuffer(content, dtype.numpy(), count=1)[0].item()


def _encode(text: object, encoding: object = "latin1", *_: object) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8"):
        raise Refused("_codecs.encode of something else than text")
    return text.encode(encoding)


def _storage(content: object) -> torch.UntypedStorage | torch.TypedStorage:
    """torch.storage._load_from_bytes. The bytes are a pickle again, and are read as data again."""
    if not isinstance(content, bytes):
        raise Refused("a storage from something else than bytes")
    try:
        storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise Refused(f"a nested storage that is not plain data ({str(error).splitlines()[0][:200]})") from error
    if not isinstance(storage, torch.UntypedStorage | torch.TypedStorage):
        raise Refused("a nested torch file that holds no storage")
    return storage


def _tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> Tensor:
    """torch._utils._rebuild_tensor_v2, inside the bounds of its storage."""
    if not isinstance(storage, torch.TypedStorage) or not _is_shape(size) or not _is_shape(stride) or type(offset) is not int:
        raise Refused("a tensor that is not described by a storage, an offset, sizes and strides")
    assert isinstance(size, tuple) and isinstance(stride, tuple)
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True) if count > 1)
    if offset < 0 or (0 not in size and last >= storage._size()):
        raise Refused(f"a tensor of {list(size)} reaches beyond its storage of {storage._size()} numbers")
    return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage, offset, size, stride)


def _parameter(data: object, *_: object) -> Tensor:
    if not isinstance(data, Tensor):
        raise Refused("a parameter that is no tensor")
    return data


def _inert_class(module: str, name: str) -> type:
    if name.split(".")[-1] == "EasyDict":
        return type("EasyDict", (InertDict,), {})
    return type(name.split(".")[-1], (Inert,), {"module": module, "name": name})


class _Reader(pickle.Unpickler):
    """Answers every name from one table. New makers for every file: nothing a file does outlives it."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "builtins" | "__builtin__", "set" | "frozenset" | "dict" | "list" | "tuple" | "int" | "float" | "bool" | "str":
                return _Maker(
                    {
                        "set": set, "frozenset": frozenset, "dict": dict, "list": list, "tuple": tuple, "int": int,
                        "float": float, "bool": bool, "str": str,
                    }[name]
                )  # fmt: skip
            case "numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct":
                return _Maker(_reconstruct)
            case "numpy.core.numeric" | "numpy._core.numeric", "_frombuffer":
                return _Maker(_from_buffer)
            case "numpy.core.multiarray" | "numpy._core.multiarray", "scalar":
                return _Maker(_scalar)
            case "numpy", "ndarray":
                return _Array
            case "numpy", "dtype":
                return _Maker(_dtype)
            case "_codecs", "encode":
                return _Maker(_encode)
            case "torch.storage", "_load_from_bytes":
                return _Maker(_storage)
            case "torch._utils", "_rebuild_tensor_v2":
                return _Maker(_tensor)
            case "torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state":
                return _Maker(_parameter)
            case "torch", "Size":
                return _Maker(tuple)
            case "torch", "device":
                return _Maker(lambda *words: ":".join(map(str, words)))
            case "torch", "memory_format" | "contiguous_format" | "channels_last" | "preserve_format":
                return f"torch.{name}"
            case "torch", _ if name in DTYPES:
                return f"torch.{name}"
            case _ if module.split(".")[0] in INERT_PACKAGES:
                return _inert_class(module, name)
        raise Refused(f"it asks for {module}.{name}")

    def persistent_load(self, pid: object) -> NoReturn:
        raise Refused(f"it refers to an object outside the file ({str(pid)[:80]})")


def load_pickle(path: Path, expected: str = "a pickle of data") -> object:
    """A pickle's content: plain values, containers, tensors, and `Inert` objects; arrays are still wrapped (see `plain`).

    Raises CheckpointError for another kind of file and for a pickle that asks for anything else; nothing of it has run then.
    """
    found = sniff(path)
    if found.kind != "pickle":
        raise wrong_file(path, found, expected)
    with path.open("rb") as stream:
        try:
            return _Reader(stream, encoding="latin1").load()
        except Refused as error:
            raise CheckpointError(
                f"{path}: a pickle that asks for more than data: {error}. Nothing of it was run. If you trust the file, turn "
                "it into tensors with the program that wrote it"
            ) from error
        except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise CheckpointError(f"{path}: a damaged or cut off pickle ({error}); download it again") from error
        except (MemoryError, RecursionError, OverflowError, ImportError) as error:
            raise CheckpointError(f"{path}: a pickle that no program wrote ({error!r}); do not use it") from error


def plain(value: object, depth: int = 0) -> object:
    """Lists, tuples and dicts again, with arrays as `np.ndarray`. For pickles of data without objects."""
    if depth > 50:
        raise CheckpointError("a pickle nested deeper than any data is")
    match value:
        case _Array():
            if value.value is None:
                raise CheckpointError("a pickled array without content")
            return value.value
        case list():
            return [plain(one, depth + 1) for one in value]
        case tuple():
            return tuple(plain(one, depth + 1) for one in value)
        case dict():
            return {key: plain(one, depth + 1) for key, one in value.items()}
        case _:
            return value
