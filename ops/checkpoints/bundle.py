"""Our model format: a folder of data, never of code.

    config.json               sizes, method, crop convention and content, edits, licence
    weights.safetensors       the state dict of the method's class (`ops.inversion.methods`), any float type, or
                              int8 matrices with a `NAME.scale` for each row
    directions.safetensors    tensors that the edits in the config name
    README.md                 the model card: data, licence, crop convention, measured quality

The embedded models are in `ops/bundles`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ops.checkpoints.prior import is_prior
from ops.editing.direction import DirectionEditor
from ops.editing.editor import Editor
from ops.editing.ganspace import GanSpaceBasis, GanSpaceEdit, GanSpaceEditor
from ops.editing.gradctrl import CONTROLS, GradCtrlEditor, Heads
from ops.face.framing import Crop, Framing
from ops.files.atomic import replaced_folder
from ops.files.digest import sha256_together
from ops.files.errors import CheckpointError, listing
from ops.generators.build import sizes_to_json
from ops.inversion.configs import config_from_json
from ops.inversion.inverter import Inverter, Parts
from ops.inversion.methods import Method, MethodConfig, build_inverter

FORMAT = 1
DATA_FILES = ("config.json", "weights.safetensors", "directions.safetensors")
EMBEDDED = Path(__file__).resolve().parents[1] / "bundles"
DEFAULT = "ffhq"
"""The embedded model that commands take where none is named; `mini64` is there for tests."""


@dataclass(frozen=True)
class EditEntry:
    """One edit that comes with the model."""

    name: str
    editor: Literal["direction", "ganspace", "gradctrl"]
    about: str
    """Effect of a positive strength, and of strength 1."""
    rows: tuple[int, int] | None = None
    """Rows [first, end) of W+ that move; None for all."""
    component: int | None = None
    """ganspace only: which principal component."""


@dataclass(frozen=True)
class Bundle:
    """A model on disk: what it is, without its weights."""

    path: Path
    name: str
    method: Method
    config: MethodConfig
    framing: Framing
    """How its images are cut out of pictures, and where in the model's square they lie."""
    edits: tuple[EditEntry, ...]
    licence: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the config, weights and directions: the model's identity. Reads all of them, the first time."""
        return bundle_digest(self.path)

    @property
    def wplus_shape(self) -> tuple[int, int]:
        return self.config.generator.num_ws, self.config.generator.w_dim

    @property
    def residual_shape(self) -> tuple[int, ...]:
        """Shape of a stored residual, [C, H, W]; (0,) for a method that keeps nothing beside W+."""
        return self.config.detail_shape or (0,)

    def load(self, parts: Parts = "all") -> Inverter:
        """The model in float32 on the CPU, in evaluation mode, without gradients.

        parts: "invert" leaves out what only edits need, "generate" every encoder: neither built nor read from the disk.
        Raises CheckpointError that lists missing or unknown tensors.
        """
        with torch.device("meta"):
            model = build_inverter(self.method, self.config, parts)
        wanted = model.state_dict()
        path = self.path / "weights.safetensors"
        with safetensors.safe_open(path, framework="pt") as file:
            stored = {name for name in file.keys() if not name.endswith(SCALE)}  # noqa: SIM118 (not a dict)
            missing = sorted(set(wanted) - stored)
            if missing:
                raise CheckpointError(f"{path}: the model needs tensors that the file lacks: {listing(missing)}")
            if parts == "all" and stored - set(wanted):
                raise CheckpointError(f"{path}: tensors that no part of the model knows: {listing(stored - set(wanted))}")
            state = {name: _read(file, name) for name in wanted}
        wrong = [f"{name} {list(state[name].shape)}" for name in wanted if state[name].shape != wanted[name].shape]
        if wrong:
            raise CheckpointError(f"{path}: shapes that do not fit config.json: {listing(wrong)}")
        model.load_state_dict(state, assign=True)
        return model.requires_grad_(False).eval()

    def editors(self) -> dict[str, Editor]:
        """The model's own edits by name."""
        tensors = load_tensors(self.path / "directions.safetensors")
        return editors_of(self.edits, tensors, self.config.generator.num_ws)


SCALE = ".scale"
"""End of the name of the factors by which an int8 matrix is multiplied, row by row."""


def in_bytes(name: str, matrix: Tensor) -> dict[str, Tensor]:
    """A matrix [O, I] in 8 bits: entries of a bundle's weights."""
    scale = matrix.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
    return {name: (matrix / scale).round().to(torch.int8), f"{name}{SCALE}": scale}


def _read(file: safetensors.safe_open, name: str) -> Tensor:
    """A tensor of weights.safetensors; float32 where it is of a float type, or in bytes."""
    value: Tensor = file.get_tensor(name)
    if value.dtype == torch.int8:
        return value.float() * file.get_tensor(f"{name}{SCALE}").float()
    return value.float() if value.is_floating_point() else value


def editors_of(entries: Sequence[EditEntry], tensors: Mapping[str, Tensor], num_ws: int) -> dict[str, Editor]:
    """Entries of a bundle and the tensors that they name => editors by name."""
    basis = None
    if any(entry.editor == "ganspace" for entry in entries):
        basis = GanSpaceBasis(tensors["ganspace.mean"], tensors["ganspace.components"], tensors["ganspace.std"])
    editors: dict[str, Editor] = {}
    heads: Heads | None = None
    for entry in entries:
        match entry.editor:
            case "direction":
                direction = tensors[f"direction.{entry.name}"]
                editors[entry.name] = DirectionEditor(direction, rows=entry.rows, name=entry.name)
            case "ganspace":
                assert basis is not None and entry.component is not None
                rows = entry.rows or (0, num_ws)
                editors[entry.name] = GanSpaceEditor(basis, GanSpaceEdit(entry.name, entry.component, rows))
            case "gradctrl":
                attribute = entry.name.rpartition(".")[2]
                heads = heads or heads_of(tensors)
                editors[entry.name] = GradCtrlEditor(heads, attribute, CONTROLS[attribute], name=entry.name)
    return editors


def heads_of(tensors: Mapping[str, Tensor]) -> Heads:
    """GradCtrl's classifiers, `gradctrl.ATTRIBUTE.PART`."""
    names = tuple(dict.fromkeys(name.split(".")[1] for name in tensors if name.startswith("gradctrl.")))

    def stacked(part: str) -> Tensor:
        return torch.stack([tensors[f"gradctrl.{name}.{part}"] for name in names])

    return Heads(names, stacked("hidden"), stacked("hidden_bias"), stacked("output"), stacked("output_bias"))


def open_bundle(model: str | Path) -> Bundle:
    """A bundle by the name of an embedded model (`ffhq`, `mini64`) or by its folder.

    Raises CheckpointError for a path without a bundle, naming what is there and what was expected.
    """
    path = EMBEDDED / model if isinstance(model, str) and (EMBEDDED / model / "config.json").is_file() else Path(model)
    config_path = path / "config.json"
    if not config_path.is_file():
        embedded = sorted(p.parent.name for p in EMBEDDED.glob("*/config.json"))
        what = "a file" if path.is_file() else "a folder without config.json" if path.is_dir() else "nothing"
        raise CheckpointError(
            f"{model}: expected a model bundle (a folder with config.json) or one of the embedded models "
            f"{', '.join(embedded)}; found {what}"
        )
    try:
        content = json.loads(config_path.read_text("utf-8"))
        if is_prior(path):
            raise CheckpointError(
                f"{path}: a generator without an encoder, which cannot invert pictures; styleres train --prior starts from it"
            )
        for name in DATA_FILES:
            if not (path / name).is_file():
                raise CheckpointError(f"{path}: lacks {name}; a bundle has config.json, weights and directions")
        if content["format"] != FORMAT:
            raise CheckpointError(f"{config_path}: bundle format {content['format']}, this version reads {FORMAT}")
        if content["method"] not in get_args(Method):
            raise CheckpointError(f"{config_path}: method {content['method']!r}, expected one of {get_args(Method)}")
        config = config_from_json(content["method"], content)
        return Bundle(
            path=path,
            name=content["name"],
            method=content["method"],
            config=config,
            framing=framing_of(config_path, content.get("crop", "ffhq"), content.get("content"), config),
            edits=tuple(
                EditEntry(**{**entry, "rows": tuple(entry["rows"]) if entry.get("rows") else None})
                for entry in content["edits"]
            ),
            licence=content["licence"],
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{config_path}: not a bundle's config ({error!r}); write it again") from error


def open_method(model: str | Path, method: Method | None) -> Bundle:
    """A bundle, or the bundle of one method in a folder that holds one per method (`FOLDER/hfgi`, `FOLDER/sfe`, ...).

    Raises CheckpointError where the bundle is of another method, or where the folder has none of it, naming those that it has.
    """
    folder = Path(model)
    there = [name for name in get_args(Method) if (folder / name / "config.json").is_file()]
    if there and not (folder / "config.json").is_file():
        if method is None or method not in there:
            wanted = "name one by --method" if method is None else f"it has no {method}"
            raise CheckpointError(f"{folder}: a folder of models of the methods {', '.join(there)}; {wanted}")
        return open_bundle(folder / method)
    bundle = open_bundle(model)
    if method not in (None, bundle.method):
        raise CheckpointError(
            f"{bundle.path}: a {bundle.method} bundle, and --method says {method}; name a bundle of that method, or a folder "
            "that has one for each method"
        )
    return bundle


def write_bundle(
    path: Path,
    *,
    name: str,
    method: Method,
    config: MethodConfig,
    licence: str,
    edits: Sequence[EditEntry],
    weights: Mapping[str, Tensor],
    directions: Mapping[str, Tensor],
    card: str,
    crop: Crop = "ffhq",
    content: tuple[int, int] | None = None,
) -> Bundle:
    """Write a bundle into a folder (made if needed) and open it again.

    One that is there is replaced in one step (`ops.files.atomic.replaced_folder`); other files in its folder stay.

    crop, content: see `ops.face.framing`; content is [height, width] in pixels of the encoder's input, all of it if None.
    """
    framing = framing_of(path, crop, content, config)
    written = {
        "format": FORMAT,
        "name": name,
        "method": method,
        "licence": licence,
        "crop": framing.crop,
        "content": list(framing.content_hw),
        **dataclasses.asdict(config),
        "generator": sizes_to_json(config.generator),
        "edits": [dataclasses.asdict(entry) for entry in edits],
    }
    with replaced_folder(path, ours=(*DATA_FILES, "README.md")) as folder:
        (folder / "config.json").write_text(json.dumps(written, indent=1) + "\n", "utf-8")
        safetensors.torch.save_file({k: v.contiguous() for k, v in weights.items()}, folder / "weights.safetensors")
        safetensors.torch.save_file({k: v.contiguous() for k, v in directions.items()}, folder / "directions.safetensors")
        (folder / "README.md").write_text(card, "utf-8")
    return open_bundle(path)


def framing_of(where: Path, crop: str, content: Sequence[int] | None, config: MethodConfig) -> Framing:
    """A bundle's crop convention. Raises CheckpointError for one that no picture can be cut by."""
    size = config.input_size
    try:
        framing = Framing(crop, size, (size, size) if content is None else tuple(content))  # type: ignore[arg-type]
        framing.content_of(config.generator.resolution)
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from error
    return framing


def load_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file in float32."""
    return {name: tensor.float() for name, tensor in safetensors.torch.load_file(path).items()}


def bundle_digest(path: Path) -> str:
    """SHA-256 over the three data files, each with its name and length; the card may be rewritten freely."""
    return sha256_together([path / name for name in DATA_FILES])
