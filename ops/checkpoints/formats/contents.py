"""Recognises the content of a readable file by the names and shapes inside it: one list of every layout that we know."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
from torch import Tensor

from ops.checkpoints.formats.nvidia import is_network_pickle
from ops.checkpoints.formats.openvino import read_random_face
from ops.files.errors import CheckpointError, listing
from ops.files.plain_pickle import load_pickle, plain
from ops.files.sniff import Sniffed, sniff, wrong_file
from ops.files.torch_file import load_torch_file

Format = Literal[
    "styleres", "e4e", "psp", "restyle-e4e", "restyle-psp", "hfgi", "hyperstyle", "sfe", "sfe-inverter", "nvidia", "rosinality",
    "mobilestylegan",
]  # fmt: skip
"""Layouts that `styleres convert` reads."""
ENCODER_TYPES: Mapping[str, Format] = {
    # opts.encoder_type => what the encoder's outputs are; names and shapes of tensors do not tell
    "Encoder4Editing": "e4e",
    "GradualStyleEncoder": "psp",
    "ProgressiveBackboneEncoder": "restyle-e4e",
    "BackboneEncoder": "restyle-psp",
}


@dataclass(frozen=True, eq=False)
class Content:
    """A file's content, and what it is."""

    what: str
    """A noun phrase for people."""
    formats: tuple[Format, ...]
    """Formats that it may have: one, several where the tensors do not tell which, none where it cannot be converted."""
    value: Any
    facts: Mapping[str, str]
    """Sizes and the like, for people."""
    next: str
    """Advice: what to do with it."""
    companion: Literal["w_encoder"] | None = None
    """Name of the part of a model that it is, where that cannot be converted alone."""


def read_content(path: Path) -> Content:
    """Open a file as data and name it. Raises CheckpointError for what is damaged, no data, or of no known kind."""
    found = sniff(path)
    match found.kind:
        case "torch" | "torch-legacy":
            return describe_torch(path, load_torch_file(path))
        case "pickle":
            return describe_pickle(path, load_pickle(path))
        case "safetensors":
            return describe_safetensors(path)
        case "npy" | "npz":
            return describe_arrays(path, found)
        case "text":
            return describe_text(path)
        case "openvino":
            what, then = "MobileStyleGAN in OpenVINO's format", "styleres convert FILE --out FOLDER"
            return Content(what, ("mobilestylegan",), read_random_face(path), {}, then)
        case "onnx":
            return Content("an ONNX network", (), None, {}, "no command takes it; detectors come as insightface packs")
        case _:
            raise wrong_file(path, found, "a model checkpoint or an edit file")


def describe_torch(path: Path, value: object) -> Content:
    """Read the object that torch.save was given."""
    if isinstance(value, Tensor):
        return direction(path, tuple(value.shape), value)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}; expected a dict of tensors, or a direction")
    names = [key for key in value if isinstance(key, str)]
    if "generator_smooth" in value and "e4e" in value:
        return styleres(path, value)
    if isinstance(value.get("state_dict"), dict):
        return encoder_family(path, value)
    if isinstance(value.get("g_ema"), dict) or {"style.1.weight", "conv1.conv.weight"} <= set(names):
        tensors = value.get("g_ema", value)
        facts = {"tensors": str(len(tensors)), "mean code": "in the file" if "latent_avg" in value else "will be measured"}
        return Content("a rosinality StyleGAN2 generator", ("rosinality",), value, facts, "styleres convert FILE --out FOLDER")
    if all(isinstance(value.get(name), Tensor) and value[name].ndim > 0 for name in ("mean", "comp", "std")):
        facts = {"components": str(len(value["comp"])), "width": str(value["mean"].shape[-1])}
        return Content("a GANSpace basis (principal components of W)", (), value, facts, EDIT_FILE)
    if any(name.split(".")[0] in ("course_mapping", "medium_mapping", "fine_mapping") for name in names):
        groups = [group for group in ("course", "medium", "fine") if f"{group}_mapping.mapping.1.weight" in value]
        return Content("a StyleCLIP mapper", (), value, {"groups of rows": ", ".join(groups)}, EDIT_FILE)
    if "classifiers.0.classifier.0.weight" in value:
        heads = {name.split(".")[1] for name in names if name.startswith("classifiers.")}
        return Content("GradCtrl's attribute classifiers", (), value, {"attributes": str(len(heads))}, EDIT_FILE)
    if "synthesis.b4.const" in value:
        return nvidia_tensors(len(names))
    raise CheckpointError(f"{path}: a torch.save file of no known layout; it holds {listing(map(str, value), 8) or 'nothing'}")


EDIT_FILE = "an edit's file: give it to --edit or a recipe (docs/edits.md)"


def direction(path: Path, shape: tuple[int, ...], value: object) -> Content:
    """A bare tensor: [D], [1, D], [L, D] or [1, L, D]."""
    if not (1 <= len(shape) <= 3 and shape[-1] >= 16 and (len(shape) < 3 or shape[0] == 1)):
        raise CheckpointError(f"{path}: a bare tensor {list(shape)}; an edit direction is [D], [1, D], [L, D] or [1, L, D]")
    rows = 1 if len(shape) == 1 else shape[-2]
    facts = {"shape": str(list(shape)), "space": "W, for every row" if rows == 1 else f"W+ of {rows} rows"}
    return Content("an edit direction", (), value, facts, EDIT_FILE)


def styleres(path: Path, value: dict[str, Any]) -> Content:
    """The official layout; what else a training state holds is left out."""
    parts = {part: value[part] for part in ("e4e", "generator_smooth")}
    if not all(isinstance(part, dict) for part in parts.values()) or not isinstance(value.get("latent_avg"), Tensor):
        raise CheckpointError(
            f"{path}: a StyleRes file holds dicts e4e and generator_smooth and a tensor latent_avg; this one holds others"
        )
    facts = {
        "tensors": f"{len(parts['e4e'])} in e4e, {len(parts['generator_smooth'])} in generator_smooth (E1 and E2 among them)",
        "numbers": f"{sum(t.numel() for part in parts.values() for t in part.values() if isinstance(t, Tensor)):,}",
        "latent_avg": str(list(value["latent_avg"].shape)),
        "resolution": f"{resolution_of(parts['generator_smooth'])} px",
    }
    return Content(
        "a StyleRes checkpoint in the official layout", ("styleres",), value, facts, "styleres convert FILE --out FOLDER"
    )


def encoder_family(path: Path, value: dict[str, Any]) -> Content:
    """e4e, and its relatives of the same layout, told apart by what else they hold and by `opts`."""
    tensors = {name: tensor for name, tensor in value["state_dict"].items() if isinstance(name, str)}
    prefixes = sorted({name.split(".")[0] for name in tensors})
    options = options_of(value)
    facts = {"tensors": str(len(tensors)), "parts": ", ".join(prefixes)}
    if options:
        kept = ("encoder_type", "dataset_type", "stylegan_size", "output_size")
        facts["options"] = ", ".join(f"{name}={options[name]}" for name in kept if name in options)
    convert, beside = "styleres convert FILE --out FOLDER", " --with FILE"
    encoder_type = options.get("encoder_type")
    encoder = {name.removeprefix("encoder.") for name in tensors if name.startswith("encoder.")}
    if "residue" in prefixes:
        return Content("an HFGI checkpoint", ("hfgi",), value, facts, convert)
    if "hypernet" in prefixes:
        return Content("a HyperStyle checkpoint", ("hyperstyle",), value, facts, convert + beside)
    if "inverter" in prefixes:
        return Content("a StyleFeatureEditor checkpoint", ("sfe",), value, facts, convert + 2 * beside)
    if any(name.startswith("fs_backbone.") for name in encoder):
        what = "a StyleFeatureEditor inverter (the first phase, without the feature editor)"
        return Content(what, ("sfe-inverter",), value, facts, convert + 2 * beside)
    if "linear.weight" in encoder and not any(name.startswith("styles.") for name in encoder):
        then = "name it after --with when you convert a HyperStyle checkpoint"
        return Content("an encoder of W (HyperStyle's faces_w_encoder)", (), value, facts, then, "w_encoder")
    if not encoder:
        what = f"a training checkpoint of {', '.join(prefixes) or 'nothing'}"
        return Content(what, (), value, facts, f"{KNOWN_FAMILY} can be converted")
    stem = tensors.get("encoder.input_layer.0.weight")
    six = isinstance(stem, Tensor) and stem.ndim == 4 and stem.shape[1] == 6
    one_of: tuple[Format, Format] = ("restyle-e4e", "restyle-psp") if six else ("e4e", "psp")
    if encoder_type is None:
        what = "a ReStyle checkpoint (over e4e or over pSp)" if six else "an e4e or a pSp checkpoint"
        return Content(what, one_of, value, facts, f"{convert} --format {one_of[0]} or {one_of[1]}")
    known = ENCODER_TYPES.get(str(encoder_type))
    if known not in one_of:
        what = f"a checkpoint of another encoder, {encoder_type}"
        return Content(what, (), value, facts, f"{KNOWN_FAMILY} can be converted")
    assert known is not None
    what = {"e4e": "an e4e checkpoint", "psp": "a pSp checkpoint"}.get(known, f"a ReStyle checkpoint ({known})")
    return Content(what, (known,), value, facts, convert)


KNOWN_FAMILY = "files of StyleRes, e4e, pSp, ReStyle, HFGI, HyperStyle and StyleFeatureEditor"


def options_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """`opts` of a training script: a dict or a Namespace; empty where the file has none."""
    options = value.get("opts")
    if isinstance(options, argparse.Namespace):
        return vars(options)
    return options if isinstance(options, dict) else {}


def nvidia_tensors(count: int) -> Content:
    facts = {"tensors": str(count)}
    return Content(
        "a StyleGAN2 generator's tensors by NVIDIA's names", (), None, facts, "a part of a folder for styleres train"
    )


def resolution_of(tensors: Mapping[str, Any]) -> int:
    """Largest block of a generator by NVIDIA's names; 0 without any."""
    blocks = [name.split(".")[1][1:] for name in map(str, tensors) if name.startswith("synthesis.b")]
    return max((int(block) for block in blocks if block.isdigit()), default=0)


def describe_pickle(path: Path, value: object) -> Content:
    """A pickle that the plain reader could read."""
    if is_network_pickle(value) or (isinstance(value, tuple) and len(value) == 3):
        facts = {"networks": ", ".join(map(str, value)) if isinstance(value, dict) else "G, D, Gs (TensorFlow)"}
        return Content("an NVIDIA StyleGAN network pickle", ("nvidia",), value, facts, "styleres convert FILE --out FOLDER")
    data = plain(value)
    if isinstance(data, list) and len(data) == 2 and all(isinstance(part, list) for part in data):
        arrays = [one for part in data for one in part]
        if arrays and all(isinstance(one, np.ndarray) for one in arrays):
            facts = {"layers": str(len(data[1])), "channels": str(sum(one.size for one in data[1]))}
            return Content("statistics of StyleSpace (means and deviations of S)", (), data, facts, EDIT_FILE)
    if isinstance(data, dict) and {"n_shared_layers", "hidden_size"} <= set(data):
        return Content("the sizes of GradCtrl's classifiers", (), data, {k: str(v) for k, v in data.items()}, EDIT_FILE)
    raise CheckpointError(f"{path}: a pickle of data of no known layout (a {type(data).__name__})")


def describe_safetensors(path: Path) -> Content:
    """By the names in the header; no tensor is read."""
    with safetensors.safe_open(path, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if "generator.synthesis.b4.const" in shapes:
        facts = {"tensors": str(len(shapes))}
        return Content("a bundle's weights", (), None, facts, f"name its folder, {path.parent}")
    if "synthesis.b4.const" in shapes:
        return nvidia_tensors(len(shapes))
    if len(shapes) == 1:
        return direction(path, next(iter(shapes.values())), None)
    if shapes and all(len(shape) <= 3 for shape in shapes.values()):
        return Content("a file of edit directions", (), None, {"tensors": listing(shapes, 8)}, EDIT_FILE)
    raise CheckpointError(f"{path}: a safetensors file of no known layout; it holds {listing(shapes, 8) or 'nothing'}")


def describe_arrays(path: Path, found: Sniffed) -> Content:
    """A direction, or StyleCLIP's table of channels, as NumPy wrote it."""
    try:
        loaded = np.load(path, allow_pickle=False, mmap_mode="r" if found.kind == "npy" else None)
        arrays = {"": loaded} if found.kind == "npy" else {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise CheckpointError(f"{path}: {found.about} that holds objects or is damaged ({error})") from error
    if len(arrays) == 1:
        (array,) = arrays.values()
        if array.ndim == 2 and array.shape[0] > 1000:
            facts = {"channels": str(array.shape[0]), "text features": str(array.shape[1])}
            return Content("StyleCLIP's table of channels (fs3)", (), array, facts, EDIT_FILE)
        return direction(path, array.shape, array)
    facts = {"arrays": ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())}
    return Content("a file of NumPy arrays", (), arrays, facts, EDIT_FILE)


def describe_text(path: Path) -> Content:
    """The official edit tables, by their columns."""
    lines = path.read_text("utf-8", errors="replace").splitlines()
    facts = {"lines": str(len(lines))}
    first = lines[0] if lines else ""
    if len(first.split("\t")) == 5:
        return Content("a table of GANSpace edits", (), lines, facts, EDIT_FILE)
    if [word.strip() in ("True", "False") for word in first.split(",")] == [False, True, True, True]:
        return Content("a table of StyleCLIP mappers", (), lines, facts, EDIT_FILE)
    if first.lower().startswith("neutral,target"):
        return Content("examples of StyleCLIP's global directions", (), lines, facts, "documentation; no command reads it")
    if first and all("{}" in line for line in lines if line.strip()):
        return Content("StyleCLIP's templates of sentences", (), lines, facts, EDIT_FILE)
    raise CheckpointError(f"{path}: a text file of no known layout; it begins {first[:60]!r}")
