"""Describes a model or a file: kind, digest, licence, sizes, and what to do next. Reads everything as data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ops.checkpoints.bundle import EMBEDDED, open_bundle
from ops.checkpoints.catalog import known_by_digest, read_catalog
from ops.checkpoints.convert import read_checkpoint
from ops.checkpoints.formats.contents import read_content
from ops.checkpoints.formats.family import MissingCompanion
from ops.checkpoints.formats.model import Model
from ops.checkpoints.prior import Prior, is_prior, read_prior_config
from ops.files.digest import sha256_of
from ops.files.errors import CheckpointError
from ops.files.sniff import sniff


@dataclass(frozen=True)
class Diagnosis:
    """One model or file."""

    path: str
    what: str
    sha256: str | None
    """SHA-256 of the file's bytes or of a bundle's data; None for what is neither."""
    known_as: str | None
    """Its name in the catalogue."""
    licence: str
    facts: dict[str, str]
    next: str
    problem: str | None
    """Why it cannot be used; None where it can."""


def diagnose(model: str) -> Diagnosis:
    """A bundle's name or folder, a generator's folder, or any file."""
    path = Path(model)
    if (EMBEDDED / model / "config.json").is_file() or path.is_dir():
        return diagnose_folder(model, path)
    return diagnose_file(path)


def diagnose_folder(model: str, path: Path) -> Diagnosis:
    if is_prior(path):
        return diagnose_prior(path)
    try:
        bundle = open_bundle(model)
        parameters = sum(tensor.numel() for tensor in bundle.load().parameters())
    except CheckpointError as error:
        return Diagnosis(model, "a folder", None, None, "unknown", {}, "name a bundle, or a file inside", str(error))
    config, framing = bundle.config, bundle.framing
    facts = {
        "name": bundle.name,
        "method": bundle.method,
        "resolution": f"{config.generator.resolution} px, images of {config.input_size} px",
        "W+": f"{config.generator.num_ws} rows of {config.generator.w_dim}",
        "crop": f"{framing.crop}, content {framing.content_hw[0]} x {framing.content_hw[1]} of {framing.size} px",
        "parameters": f"{parameters:,}",
        "edits": ", ".join(entry.name for entry in bundle.edits) or "none of its own",
    }
    if config.detail_shape is not None:
        facts["residual"] = " x ".join(map(str, config.detail_shape))
    shown = bundle.name if bundle.path.parent == EMBEDDED else str(bundle.path)
    embedded = "embedded" if bundle.path.parent == EMBEDDED else None
    then = f"styleres edit INPUT --model {shown} --edit NAME=STRENGTH --out OUT"
    return Diagnosis(str(bundle.path), "a bundle", bundle.digest, embedded, bundle.licence, facts, then, None)


def diagnose_prior(path: Path) -> Diagnosis:
    what, then = "a generator without an encoder", f"styleres train e0 --prior {path} --data FACES.parquet --out RUN"
    try:
        config = read_prior_config(path)
        content = json.loads((path / "config.json").read_text("utf-8"))
    except CheckpointError as error:
        return Diagnosis(str(path), what, None, None, "unknown", {}, then, str(error))
    facts = {
        "resolution": f"{config.resolution} px",
        "W+": f"{config.num_ws} rows of {config.w_dim}",
        "features": ", ".join(f"{place.resolution}: {place.channels}" for place in config.places[::2]),
        "pictures": ", ".join(f"{size} px" for size in config.sizes),
        "discriminator": "yes" if (path / "discriminator.safetensors").is_file() else "no",
    }
    digest = sha256_of(path / "generator.safetensors")
    licence = str(content.get("licence") or content.get("data") or "not stated")
    return Diagnosis(str(path), what, digest, None, licence, facts, then, None)


def diagnose_file(path: Path) -> Diagnosis:
    """A file: what it holds and, for a model, whether it converts."""
    found = sniff(path)
    if found.kind in ("missing", "empty"):
        return Diagnosis(str(path), found.about, None, None, "unknown", {}, "name a file, or an embedded model", found.about)
    digest, size = sha256_of(path), {"size": f"{path.stat().st_size:,} bytes"}
    asset = known_by_digest(digest, read_catalog())
    known, licence = (asset.name, asset.licence) if asset else (None, "not known: the file is not in the catalogue")
    try:
        content = read_content(path)
    except CheckpointError as error:
        return Diagnosis(str(path), found.about, digest, known, licence, size, "see the problem", str(error))
    facts = {**size, **content.facts}
    if asset is not None:
        facts["published as"] = f"{asset.file} ({asset.about})"
    problem = None
    if content.formats:
        try:
            facts |= converted_facts(read_checkpoint(path, content.formats[0]))
        except MissingCompanion as error:
            facts["lies in several files"] = str(error).partition(": ")[2]
        except CheckpointError as error:
            problem = str(error)
    then = content.next.replace("FILE", str(path))
    return Diagnosis(str(path), content.what, digest, known, licence, facts, then, problem)


def converted_facts(read: Model | Prior) -> dict[str, str]:
    """Sizes of a checkpoint that converts."""
    match read:
        case Model():
            generator = read.config.generator
            facts = {"converts to": f"a {read.method} bundle", "images": f"{read.config.input_size} px"}
            if read.config.detail_shape is not None:
                facts["residual"] = " x ".join(map(str, read.config.detail_shape))
        case Prior():
            generator = read.config
            facts = {"converts to": "a generator for styleres train --prior"}
            facts["discriminator"] = "yes" if read.discriminator is not None else "no"
    facts["generator"] = f"{generator.resolution} px, {generator.num_ws} rows of W+ of width {generator.w_dim}"
    return facts
