"""Reads pickles of plain data (containers, numbers, text, numpy arrays) without unpickling them.

`pickle` would call whatever a file names. This is a reader of its own: `pickletools.genops` only tells the opcodes apart, and
those that build plain data are carried out here. A name in the file is never imported: numpy's few are recognised as text, any
other is an error. So a hostile file can do no more than fail.
"""

from __future__ import annotations

import pickletools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ops.editing.editor import EditError

_MARK = object()
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUFFER_MODULES = ("numpy.core.numeric", "numpy._core.numeric")  # protocol 5


@dataclass(frozen=True)
class _Name:
    """What the file names, as text."""

    module: str
    name: str


@dataclass(eq=False)
class _Dtype:
    text: str
    order: str = "="

    def numpy(self) -> np.dtype:
        """Raises ValueError for types that are not plain numbers: an object array would hold anything."""
        if not (self.text[:1] in "biufc" and self.text[1:].isdecimal() and self.order in "<>=|"):
            raise ValueError(f"an array of type {self.text!r}, and only numbers are read")
        return np.dtype(self.text).newbyteorder(self.order)  # type: ignore[arg-type]


@dataclass(eq=False)
class _Array:
    """An array that the file has begun; its BUILD gives the rest."""

    value: np.ndarray | None = None


def read_plain_pickle(path: str | Path) -> Any:
    """The value in a pickle file: None, numbers, text, bytes, lists, tuples, dicts and numpy arrays of numbers.

    Text of Python 2 is taken as Latin-1, which numpy's own arrays of that time need.

    Raises:
        EditError: a file that cannot be read, is no pickle, or asks for anything else (says for what).
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EditError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return _resolved(_value_of(data), {})
    # Bytes that are no pickle break the reader in many ways; none of them runs anything.
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, RecursionError, MemoryError) as error:
        raise EditError(f"{path}: cannot be read as a pickle of plain data: {error or type(error).__name__}") from error


def _value_of(data: bytes) -> Any:
    """Carries out the opcodes on a stack, as pickle does, but for those that could call something."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        at = len(stack) - 1
        while stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("it closes what it never began")
        items = stack[at + 1 :]
        del stack[at:]
        return items

    for opcode, argument, _ in pickletools.genops(data):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                stack.append(_MARK)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case (
                "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4" | "FLOAT" | "BINFLOAT"
                | "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8"
                | "STRING" | "BINSTRING" | "SHORT_BINSTRING"
                | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8"
            ):  # fmt: skip
                stack.append(argument)
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "LIST":
                stack.append(since_mark())
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                items = [stack.pop() for _ in range(count)]
                stack.append(tuple(reversed(items)))
            case "DICT":
                stack.append(_pairs(since_mark()))
            case "APPEND":
                item = stack.pop()
                _list(stack[-1]).append(item)
            case "APPENDS":
                items = since_mark()
                _list(stack[-1]).extend(items)
            case "SETITEM":
                item, key = stack.pop(), stack.pop()
                _dict(stack[-1])[key] = item
            case "SETITEMS":
                items = since_mark()
                _dict(stack[-1]).update(_pairs(items))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                module, _, name = str(argument).partition(" ")
                stack.append(_Name(module, name))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_Name(module, name))
            case "REDUCE":
                arguments, called = stack.pop(), stack.pop()
                stack.append(_made(called, arguments))
            case "BUILD":
                state = stack.pop()
                _build(stack[-1], state)
            case other:
                raise ValueError(f"it uses {other}, which plain data does not need")
    raise ValueError("it ends before its value is whole")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"it appends to {type(value).__name__}")
    return value


def _dict(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"it sets a key of {type(value).__name__}")
    return value


def _pairs(items: Sequence[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def _made(called: Any, arguments: Any) -> Any:
    """What the few known names give; nothing is called."""
    match called, arguments:
        case _Name(module, "_reconstruct"), (_Name("numpy", "ndarray"), *_) if module in _ARRAY_MODULES:
            return _Array()
        case _Name("numpy", "dtype"), (str(text), *_):
            return _Dtype(text)
        case _Name(module, "scalar"), (_Dtype() as dtype, bytes() | str() as data) if module in _ARRAY_MODULES:
            return np.frombuffer(_bytes(data), dtype.numpy())[0].item()
        case _Name(module, "_frombuffer"), (data, _Dtype() as dtype, shape, str(order)) if module in _BUFFER_MODULES:
            return _Array(_array(data, dtype, shape, order))
        case _Name("_codecs", "encode"), (str(text), "latin1" | "latin-1"):  # how Python 3 writes bytes for Python 2
            return text.encode("latin-1")
        case _Name("__builtin__" | "builtins", "bytes"), ():
            return b""
        case _Name(module, name), _:
            raise ValueError(f"it asks for {module}.{name}, and only plain data is read; nothing was run")
    raise ValueError(f"it calls {type(called).__name__}, and only plain data is read; nothing was run")


def _build(value: Any, state: Any) -> None:
    match value, state:
        case _Dtype(), (_, str(order), *_):
            value.order = order
        case _Array(), (_, tuple() as shape, _Dtype() as dtype, bool(fortran) | int(fortran), bytes() | str() as data):
            value.value = _array(_bytes(data), dtype, shape, "F" if fortran else "C")
        case _:
            raise ValueError(f"it gives {type(value).__name__} a state that plain data does not have; nothing was run")


def _array(data: bytes, dtype: _Dtype, shape: Any, order: Any) -> np.ndarray:
    """A writable array in this machine's byte order."""
    flat = np.frombuffer(data, dtype.numpy())
    return flat.astype(flat.dtype.newbyteorder("=")).reshape(shape, order=order)


def _bytes(data: bytes | str) -> bytes:
    """Python 2 wrote an array's bytes as text."""
    return data.encode("latin-1") if isinstance(data, str) else data


def _resolved(value: Any, done: dict[int, Any]) -> Any:
    """Puts arrays in place of what stood for them, each value once, however often and however deep it is referred to."""
    if id(value) in done:
        return done[id(value)]
    match value:
        case _Array():
            if value.value is None:
                raise ValueError("an array without its values")
            result: Any = value.value
        case _Name() | _Dtype():
            raise ValueError(f"it holds {value}, and only plain data is read; nothing was run")
        case list():
            result = done[id(value)] = []
            result.extend(_resolved(item, done) for item in value)
        case tuple():
            result = tuple(_resolved(item, done) for item in value)
        case dict():
            result = done[id(value)] = {}
            result.update((_resolved(key, done), _resolved(item, done)) for key, item in value.items())
        case _ if value is _MARK:
            raise ValueError("it leaves a mark in the value")
        case _:
            result = value
    done[id(value)] = result
    return result
