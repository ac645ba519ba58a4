"""Foreign checkpoints => a bundle, or a generator's folder. Nothing but tensors and sizes comes over.

official StyleRes file         => bundle, method styleres
e4e's family                   => bundle of that method (ops.checkpoints.formats.family)
NVIDIA pickle, rosinality .pt  => generator for `styleres train --prior` (ops.checkpoints.prior)
MobileStyleGAN's PyPI wheel     => the same
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import assert_never

import torch
from torch import Tensor

from ops.checkpoints.bundle import Bundle, Crop, write_bundle
from ops.checkpoints.formats.contents import Content, Format, read_content
from ops.checkpoints.formats.family import read_hfgi, read_hyperstyle, read_restyle, read_sfe, read_wplus
from ops.checkpoints.formats.model import Model, check_names, fitted, tensors_only
from ops.checkpoints.formats.nvidia import discriminator_from_pickle, generator_from_pickle
from ops.checkpoints.formats.official import config_from_official, state_dict_from_official
from ops.checkpoints.formats.rosinality import generator_from_rosinality
from ops.checkpoints.prior import GENERATOR, Prior, write_prior
from ops.files.atomic import replaced_folder
from ops.files.digest import sha256_of
from ops.files.errors import CheckpointError, listing
from ops.generators.build import build_generator
from ops.inversion.styleres import StyleResConfig

NOT_STATED = "not stated by the file: the licence of whoever published it holds, and of the data it was trained on"
RESEARCH = (
    "as published by the authors. The official StyleRes release and NVIDIA's FFHQ generators are for non-commercial research "
    "only"
)


def read_checkpoint(
    path: Path, wanted: Format | None = None, preset: StyleResConfig | None = None, beside: Sequence[Path] = ()
) -> Model | Prior:
    """A foreign checkpoint as ours.

    wanted: the format it must be; None takes what it looks like, where that is one. preset: sizes to use instead of those read
    off the tensors, where the file does not tell them. beside: the other files of a model that lies in several. Raises
    CheckpointError that says what the file is, or lists missing and unknown tensors; MissingCompanion where files are missing.
    """
    content = read_content(path)
    companions = [read_content(other) for other in beside]
    try:
        return read_as(content, chosen_format(content, wanted), preset, companions)
    except CheckpointError as error:
        raise type(error)(f"{path} ({content.what}): {error}") from error
    except RecursionError as error:
        raise CheckpointError(f"{path} ({content.what}): nested deeper than any network") from error


def chosen_format(content: Content, wanted: Format | None) -> Format:
    """Raises CheckpointError for a file without a model, for another format than its own, and for one that must be named."""
    formats = content.formats
    if not formats:
        raise CheckpointError(f"this is no model that can be converted; {content.next}")
    if wanted is not None and wanted not in formats:
        raise CheckpointError(f"--format says {wanted}; leave --format out")
    if wanted is None and len(formats) > 1:
        names = " or ".join(f"--format {name}" for name in formats)
        raise CheckpointError(
            f"{' and '.join(formats)} have the same tensors and sum them differently, and this file's options do not name the "
            f"encoder; say {names}"
        )
    return wanted or formats[0]


def read_as(content: Content, format: Format, preset: StyleResConfig | None, companions: Sequence[Content]) -> Model | Prior:
    """A file's content as a model of one format: the one place where a format becomes its reader."""
    match format:
        case "styleres":
            return read_styleres(content, preset)
        case "e4e" | "psp":
            return read_wplus(content, format, None if preset is None else preset.encoder)
        case "restyle-e4e":
            return read_restyle(content, "from_first")
        case "restyle-psp":
            return read_restyle(content, "each")
        case "hfgi":
            return read_hfgi(content)
        case "hyperstyle":
            return read_hyperstyle(content, companions)
        case "sfe":
            return read_sfe(content, companions, editor=True)
        case "sfe-inverter":
            return read_sfe(content, companions, editor=False)
        case "nvidia":
            config, generator = generator_from_pickle(content.value)
            return fitted_prior(Prior(config, generator, discriminator_from_pickle(content.value, config)))
        case "rosinality":
            return read_rosinality(content)
        case "mobilestylegan":
            config, generator = content.value
            return fitted_prior(Prior(config, generator, None))
        case other:
            assert_never(other)


def read_styleres(content: Content, preset: StyleResConfig | None) -> Model:
    e4e, smooth = (
        tensors_only(content.value["e4e"], "e4e."),
        tensors_only(content.value["generator_smooth"], "generator_smooth."),
    )
    config = preset or config_from_official(e4e, smooth)
    weights = state_dict_from_official(e4e, content.value["latent_avg"], smooth, num_ws=config.generator.num_ws)
    return fitted(Model("styleres", config, weights))


def read_rosinality(content: Content) -> Prior:
    """g_ema, or a bare state dict. A file of a training run holds more (g, d, optimisers), which is left out."""
    tensors = tensors_only(content.value.get("g_ema", content.value), "")
    latent_avg = content.value.get("latent_avg")
    if not isinstance(latent_avg, Tensor | None):
        raise CheckpointError(f"latent_avg is a {type(latent_avg).__name__}; expected a tensor, or none")
    tensors.pop("latent_avg", None)
    config, generator = generator_from_rosinality(tensors, latent_avg, "")
    return fitted_prior(Prior(config, generator, None))


def fitted_prior(prior: Prior) -> Prior:
    """The same for a generator."""
    with torch.device("meta"):
        wanted = build_generator(prior.config).state_dict()
    check_names(prior.generator, wanted)
    return prior


# ----------------------------------------------------------------------------------------------------------- writing


def apart(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor in memory of its own, as safetensors wants it: foreign files may hold one under two names."""
    seen: set[int] = set()
    own = {}
    for name, value in weights.items():
        place = value.untyped_storage().data_ptr()
        own[name] = value.clone() if place in seen else value
        seen.add(place)
    return own


def in_half(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in float16, half the space. Vectors stay as they are: variances of norms would vanish, and they weigh nothing.

    Raises CheckpointError where a value is too large for float16.
    """
    halved = {name: v.half() if v.is_floating_point() and v.ndim > 1 else v for name, v in weights.items()}
    infinite = [name for name, value in halved.items() if value.dtype == torch.float16 and not value.isfinite().all()]
    if infinite:
        raise CheckpointError(f"values beyond float16 (65504), or not finite, in {listing(infinite)}; convert without --half")
    return halved


def convert(
    path: Path,
    out: Path,
    *,
    wanted: Format | None = None,
    preset: StyleResConfig | None = None,
    beside: Sequence[Path] = (),
    name: str | None = None,
    half: bool = False,
    crop: Crop = "ffhq",
    content: tuple[int, int] | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> Bundle | Path:
    """Read a foreign checkpoint and write a folder: the Bundle, or the path of a generator's folder.

    crop, content: of a bundle, see `Bundle`. licence: text for the config; a cautious sentence if not given. The folder appears
    whole or not at all; one that is there is refused unless `overwrite` says otherwise and it holds a model.
    """
    check_free(out, overwrite)
    read = read_checkpoint(path, wanted, preset, beside)
    source = "; ".join(f"{file.name}, SHA-256 {sha256_of(file)}" for file in (path, *beside))
    name = name or out.name
    with writable(out), replaced_folder(out) as folder:
        match read:
            case Model():
                terms = licence or RESEARCH
                bundle = write_bundle(
                    folder,
                    name=name,
                    method=read.method,
                    config=read.config,
                    licence=terms,
                    crop=crop,
                    content=content,
                    edits=[],
                    weights=apart(in_half(read.weights) if half else read.weights),
                    directions={},
                    card=card_of(name, source, terms, f"a {read.method} bundle"),
                )
            case Prior():
                terms = licence or NOT_STATED
                kept = replace(read, generator=apart(in_half(read.generator) if half else read.generator))
                write_prior(folder, kept, licence=terms, source=source, card=card_of(name, source, terms, "a generator"))
    return replace(bundle, path=out) if isinstance(read, Model) else out


def card_of(name: str, source: str, licence: str, what: str) -> str:
    return (
        f"# {name}\n\nConverted by `styleres convert` from {source}: {what}.\n\n"
        f"Licence: {licence}.\n\nQuality: not measured here; conversion changes no number, but `--half` their precision.\n"
    )


def check_free(out: Path, overwrite: bool) -> None:
    """Raises CheckpointError where `out` is taken by something that may not be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise CheckpointError(f"{out} exists already; use --overwrite to replace a model there, or another --out")
    if not any((out / name).is_file() for name in ("weights.safetensors", GENERATOR)):
        raise CheckpointError(f"{out} is not a model's folder, so it is not replaced; use another --out")


@contextmanager
def writable(out: Path) -> Iterator[None]:
    """Raises CheckpointError for a folder that cannot be made."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{out}: cannot write there ({error.strerror}: {error.filename})") from error
