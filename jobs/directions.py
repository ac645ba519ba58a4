"""styleres directions: find edits in the latent space of any bundle, from labelled faces and from the generator alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from safetensors.torch import load_file, save_file

from jobs.common import options
from jobs.common.errors import UsageError, explained
from ops.checkpoints.bundle import EditEntry, editors_of, load_tensors, open_bundle, write_bundle
from ops.data.faces import load_faces
from ops.editing.editor import Editor
from ops.inversion.styleres import StyleRes
from ops.metrics.attributes import load_judge, probabilities
from ops.spaces import crops_from_images, images_from_crops
from ops.training.directions import AttributeEdit, FoundEdits, find_edits

Attribute = Annotated[
    list[str],
    typer.Option("--attribute", help="NAME=POSITIVE[/NEGATIVE][@without=NAME+NAME], several times; NAME=/NEGATIVE too."),
]
STRIP_STRENGTHS = (-3.0, -1.5, 0.0, 1.5, 3.0)
STRIP_FACES = 6


def directions(
    data: Annotated[str, typer.Option("--data", help="Aligned faces: a Parquet file, a folder of images, or hf:NAME.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for NAME.safetensors, NAME.png and directions.json.")],
    model: options.Model = "mini64",
    attribute: Attribute = [],  # noqa: B006 - typer copies it
    pose: Annotated[bool, typer.Option("--pose", help="Also yaw, from detected landmarks.")] = False,
    ganspace: Annotated[int, typer.Option("--ganspace", min=0, help="Principal components of W; 0 for none.")] = 0,
    judge: Annotated[
        Path | None, typer.Option("--judge", help="Label faces with this classifier, from `evaluate --judge`.")
    ] = None,
    faces: Annotated[int, typer.Option("--faces", min=100, help="Faces to find directions with.")] = 12_000,
    bundle: Annotated[Path | None, typer.Option("--bundle", help="Also write the model with these edits here.")] = None,
) -> None:
    """Find edit directions: InterFaceGAN boundaries from labels, GANSpace components; with a strip of pictures each."""
    with explained():
        if not attribute and not pose and not ganspace:
            raise UsageError("nothing to find: give --attribute, --pose or --ganspace")
        edits = [edit_from(text) for text in attribute]
        opened = open_bundle(model)
        loaded = opened.load()
        if not isinstance(loaded, StyleRes):
            raise UsageError(f"{model} is a {opened.method} bundle; directions are found with a StyleRes bundle")
        size = opened.config.input_size
        known = load_faces(data, size, "train", limit=faces)
        known = dataclasses.replace(known, attributes=known.attributes | _labelled(known.images, judge))
        found = find_edits(loaded, known, edits, pose=pose, components=ganspace)
        print("\n".join(found.lines))

        out.mkdir(parents=True, exist_ok=True)
        for name, tensor in found.tensors.items():
            if name.startswith("direction."):
                save_file({"direction": tensor.contiguous()}, out / f"{name.removeprefix('direction.')}.safetensors")
        components = {name: tensor.contiguous() for name, tensor in found.tensors.items() if name.startswith("ganspace.")}
        if components:
            save_file(components, out / "ganspace.safetensors")
        about = {"model": opened.name, "digest": opened.digest, "data": data, "faces": len(known.images)}
        about |= {"boundaries": list(found.lines), "edits": [dataclasses.asdict(entry) for entry in found.entries]}
        (out / "directions.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")

        editors = editors_of(found.entries, found.tensors, opened.config.generator.num_ws)
        examples = load_faces(data, size, "held_out", limit=STRIP_FACES).images
        for entry in found.entries:
            Image.fromarray(strip(loaded, editors[entry.name], examples)).save(out / f"{entry.name}.png")
        if bundle is not None:
            write_bundle(
                bundle,
                name=bundle.name,
                method=opened.method,
                config=opened.config,
                licence=opened.licence,
                # The bundle has one GANSpace basis: new components take the place of the old ones.
                edits=[*_kept(opened.edits, found), *found.entries],
                weights=load_file(opened.path / "weights.safetensors"),
                directions=load_tensors(opened.path / "directions.safetensors") | found.tensors,
                card=(opened.path / "README.md").read_text("utf-8"),
                crop=opened.framing.crop,
                content=opened.framing.content_hw,
            )


def edit_from(text: str) -> AttributeEdit:
    """NAME=POSITIVE[/NEGATIVE][@without=NAME+NAME], as values. Raises UsageError for what is not of this form."""
    form = "NAME=POSITIVE[/NEGATIVE][@without=NAME+NAME]"
    name, equals, rest = text.partition("=")
    what, _, option = rest.partition("@")
    positive, _, negative = what.partition("/")
    key, _, others = option.partition("=")
    if not equals or not name.strip() or not (positive or negative) or (option and (key != "without" or not others)):
        raise UsageError(f"--attribute {text!r}: expected {form}, such as smile=smiling@without=gender+age, or age=/young")
    without = tuple(other.strip() for other in others.split("+")) if option else ()
    about = positive.replace("_", " ") or f"not {negative.replace('_', ' ')}"
    return AttributeEdit(name.strip(), positive or None, negative or None, without, about)


def _labelled(images: np.ndarray, judge: Path | None) -> dict[str, np.ndarray]:
    """Attributes that a classifier sees, by name; none without one."""
    if judge is None:
        return {}
    classifier = load_judge(judge)
    seen = probabilities(classifier, images_from_crops(images))
    return {name: seen[:, i].numpy() > 0.5 for i, name in enumerate(classifier.attributes)}


def _kept(edits: Sequence[EditEntry], found: FoundEdits) -> list[EditEntry]:
    new = {entry.name for entry in found.entries}
    replaced = any(entry.editor == "ganspace" for entry in found.entries)
    return [entry for entry in edits if entry.name not in new and not (replaced and entry.editor == "ganspace")]


@torch.no_grad()
def strip(model: StyleRes, editor: Editor, crops: np.ndarray) -> np.ndarray:
    """A row per face: the face, then the edit at each of the strengths, [H, W, 3] uint8."""
    inversion = model.invert(images_from_crops(crops))
    columns = [crops]
    for strength in STRIP_STRENGTHS:
        code = editor.apply(inversion.wplus_NLD, torch.full((len(crops),), strength))
        edited = model.generate(code, inversion.detail, unedited_NLD=inversion.wplus_NLD)
        columns.append(crops_from_images(F.adaptive_avg_pool2d(edited, crops.shape[1])))
    return np.concatenate([np.concatenate(list(column), axis=0) for column in columns], axis=1)
