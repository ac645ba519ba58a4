"""Tells what a file is by its first bytes, whatever its name says: so that a wrong file is named instead of half read."""

from __future__ import annotations

import json
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ops.files.errors import CheckpointError

Kind = Literal[
    "torch", "torch-legacy", "pickle", "safetensors", "npy", "npz", "zip", "onnx", "json", "text",
    "openvino", "html", "git-lfs", "truncated", "empty", "folder", "missing", "other",
]  # fmt: skip

HEAD_BYTES = 4096
RANDOM_FACE = "random_face/data/SynthesisNetwork.xml"  # of the wheel that MobileStyleGAN is published in
TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number that torch.save wrote before 1.6
SIGNATURES = (
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x89HDF", "an HDF5 file (Keras or old TensorFlow weights)"),
    (b"PAR1", "a Parquet file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x00\x00\x00\x1cftyp", "an MP4 video"),
    (b"\x00\x00\x00 ftyp", "an MP4 video"),
)


@dataclass(frozen=True)
class Sniffed:
    """A file's container, and the words for it."""

    kind: Kind
    about: str
    """Completes "this is ..."; for html and git-lfs it says how such a file comes about."""


def sniff(path: Path) -> Sniffed:
    """Look at a file's first bytes, and at the table of contents of a zip. Reads no content and runs nothing."""
    if path.is_dir():
        return Sniffed("folder", "a folder")
    if not path.is_file():
        return Sniffed("missing", "nothing: there is no such file")
    size = path.stat().st_size
    if size == 0:
        return Sniffed("empty", "an empty file: its download has failed")
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return Sniffed("git-lfs", "a git-lfs pointer, not the file itself: run git lfs pull in the repository it comes from")
    if re.match(rb"(?i)<!doctype html|<html|<head|<\?xml[^>]*>\s*<html", text):
        title = re.search(rb"(?is)<title[^>]*>(.*?)</title>", head)
        named = f" titled {title[1].decode('utf-8', 'replace').strip()[:80]!r}" if title else ""
        return Sniffed("html", f"a web page{named}: a login, an error or a download quota came instead of the file")
    if head.startswith(b"PK\x03\x04"):
        return _sniff_zip(path)
    if head.startswith(TORCH_LEGACY):
        return Sniffed("torch-legacy", "a torch.save file of the old layout")
    if len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return Sniffed("pickle", "a Python pickle")
    if head.startswith(b"\x93NUMPY"):
        return Sniffed("npy", "a NumPy array")
    for signature, about in SIGNATURES:
        if head.startswith(signature):
            return Sniffed("other", about)
    if (found := _sniff_safetensors(path, head, size)) is not None:
        return found
    if path.suffix.lower() == ".onnx" or (head[0] == 0x08 and 1 <= head[1] <= 15 and head[2:3] in (b"\x12", b"\x1a", b"\x3a")):
        return Sniffed("onnx", "an ONNX network")
    if re.fullmatch(rb"[\t\n\r\x20-\x7e\x80-\xff]*", head):
        return Sniffed("json", "a JSON file") if text[:1] in (b"{", b"[") else Sniffed("text", "a text file")
    return Sniffed("other", f"a file of no known kind (it begins with {head[:8].hex(' ')})")


def _sniff_zip(path: Path) -> Sniffed:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        size = path.stat().st_size
        return Sniffed("truncated", f"a zip archive (torch.save or .npz) cut off after {size:,} bytes: download it again")
    if any(name.endswith("data.pkl") for name in names):
        return Sniffed("torch", "a torch.save file")
    if RANDOM_FACE in names:
        return Sniffed("openvino", "a wheel with MobileStyleGAN in OpenVINO's format")
    if names and all(name.endswith(".npy") for name in names):
        return Sniffed("npz", "a NumPy .npz archive")
    return Sniffed("zip", f"a zip archive of {', '.join(names[:3]) or 'nothing'}: unpack it, and name the file inside")


def _sniff_safetensors(path: Path, head: bytes, size: int) -> Sniffed | None:
    if len(head) < 10 or head[8:9] != b"{":
        return None
    (length,) = struct.unpack("<Q", head[:8])
    if length > 100_000_000:
        return None
    with path.open("rb") as stream:
        header = stream.read(8 + length)[8:]
    try:
        entries = json.loads(header)
        end = max((entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return Sniffed("truncated", f"a safetensors file cut off after {size:,} bytes: download it again")
    if 8 + length + end > size:
        expected = 8 + length + end
        return Sniffed("truncated", f"a safetensors file cut off after {size:,} of {expected:,} bytes: download it again")
    return Sniffed("safetensors", "a safetensors file")


def wrong_file(path: Path, found: Sniffed, expected: str) -> CheckpointError:
    """The error for a file that is something else; to be raised."""
    return CheckpointError(f"{path}: this is {found.about}; expected {expected}")
