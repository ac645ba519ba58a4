"""Files of e4e's family (e4e, pSp, ReStyle, HFGI, HyperStyle, StyleFeatureEditor) => our models.

All are a dict of `state_dict`, `opts`, `latent_avg`, with a generator under `decoder.` in rosinality's names:

    file                     its names                                        ours
    e4e, pSp, ReStyle        encoder.*                                        encoder.*
    HFGI                     encoder.*  grid_align.*  residue.*               encoder.*  alignment.*  consultation.*
    HyperStyle               hypernet.*                                       hypernet.*, but for what makes deltas of codes:
                             hypernet.shared_weight_hypernet.*                  deltas.shared.*
                             hypernet.refinement_blocks.N.output.1.*            deltas.planes.N.*
                             hypernet.refinement_blocks.N.hypernet.*            the shared one under other names: dropped
      + W encoder's file     encoder.*                                        encoder.*
    SFE, editor              inverter.fs_backbone.*  inverter.fuser.*         inverter.*  fuser.*
                             encoder.*                                        editor.*
    SFE, inverter            encoder.fs_backbone.*  encoder.fuser.*           inverter.*  fuser.*
      + generator's file     g_ema, latent_avg                                generator.*, latent_avg
      + e4e's file           encoder.*                                        encoder.*

Other prefixes (a training state's) are not the model's and left out; within these every tensor is used or known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ops.checkpoints.formats.contents import Content, options_of
from ops.checkpoints.formats.model import Model, config_of, fitted, named, tensors_only, under
from ops.checkpoints.formats.official import rows_of_latent_avg
from ops.checkpoints.formats.rosinality import generator_from_rosinality
from ops.checkpoints.formats.sizes import (
    body_groups,
    consultation_sizes,
    encoder_sizes,
    feature_sizes,
    hypernet_sizes,
    need,
)
from ops.files.errors import CheckpointError, listing
from ops.generators.stylegan2_config import StyleGAN2Config
from ops.inversion.e4e import E4eConfig
from ops.inversion.hfgi import HfgiConfig
from ops.inversion.hyperstyle import HyperStyleConfig, WEncoderConfig
from ops.inversion.sfe import SfeConfig
from ops.inversion.wplus import RestyleConfig, WplusConfig

ROUNDS = 5  # of ReStyle's and HyperStyle's inference scripts, where the options do not say


class MissingCompanion(CheckpointError):
    """A model that lies in several files, of which some were not given."""


def state_of(content: Content) -> dict[str, Tensor]:
    return tensors_only(content.value["state_dict"], "")


def mean_code(content: Content) -> Tensor:
    """The file's mean code. Raises CheckpointError where it has none."""
    latent_avg = content.value.get("latent_avg")
    if not isinstance(latent_avg, Tensor):
        raise CheckpointError("the file lacks latent_avg, the mean code that the encoder's output is added to")
    return latent_avg


def generator_of(tensors: Mapping[str, Tensor], latent_avg: Tensor) -> tuple[StyleGAN2Config, dict[str, Tensor]]:
    """=> sizes, and {`generator.`name: tensor} with `latent_avg` in all rows."""
    config, generator = generator_from_rosinality(under(tensors, "decoder."), latent_avg, "decoder.")
    weights = named({"generator": generator})
    weights["latent_avg"] = rows_of_latent_avg(latent_avg, config.num_ws)
    return config, weights


def read_wplus(content: Content, method: Literal["e4e", "psp"], sizes: E4eConfig | None) -> Model:
    """e4e's and pSp's own files. `sizes`: instead of those read off the tensors."""
    tensors = state_of(content)
    encoder = under(tensors, "encoder.")
    found = sizes or encoder_sizes(encoder, feature_tap=1)
    found = replace(found, rows="from_first" if method == "e4e" else "each")
    generator, weights = generator_of(tensors, mean_code(content))
    config = config_of(lambda: WplusConfig(generator, found))
    return fitted(Model(method, config, weights | named({"encoder": encoder})))


def read_restyle(content: Content, rows: Literal["from_first", "each"]) -> Model:
    """ReStyle over e4e (`from_first`) or over pSp (`each`)."""
    tensors = state_of(content)
    encoder = under(tensors, "encoder.")
    sizes = replace(encoder_sizes(encoder, feature_tap=1), rows=rows)
    generator, weights = generator_of(tensors, mean_code(content))
    config = config_of(lambda: RestyleConfig(generator, sizes, rounds_of(content)))
    return fitted(Model("restyle", config, weights | named({"encoder": encoder})))


def rounds_of(content: Content) -> int:
    rounds = options_of(content.value).get("n_iters_per_batch", ROUNDS)
    return rounds if isinstance(rounds, int) and rounds > 0 else ROUNDS


def read_hfgi(content: Content) -> Model:
    """HFGI's ckpt.pt."""
    tensors = state_of(content)
    parts = {
        "encoder": under(tensors, "encoder."),
        "alignment": under(tensors, "grid_align."),
        "consultation": under(tensors, "residue."),
    }
    encoder = encoder_sizes(parts["encoder"], feature_tap=1)
    generator, weights = generator_of(tensors, mean_code(content))
    consultation = consultation_sizes(parts["alignment"], parts["consultation"], encoder.input_size)
    config = config_of(lambda: HfgiConfig(generator, encoder, consultation))
    return fitted(Model("hfgi", config, weights | named(parts)))


def read_hyperstyle(content: Content, companions: Sequence[Content]) -> Model:
    """hyperstyle_ffhq.pt with faces_w_encoder.pt beside it."""
    tensors = state_of(content)
    file = companion(companions, "w_encoder", "the encoder of w, faces_w_encoder.pt")
    encoder = under(state_of(file), "encoder.")
    hypernet, deltas = hypernet_parts(under(tensors, "hypernet."))
    generator, weights = generator_of(tensors, mean_code(content))
    sizes, input_size = hypernet_sizes(hypernet, deltas)
    sizes = replace(sizes, rounds=rounds_of(content))
    reads = WEncoderConfig(
        input_size=input_size,
        stem_channels=need(encoder, "input_layer.0.weight", 4)[0],
        groups=body_groups(encoder),
        w_dim=need(encoder, "linear.weight", 2)[0],
    )
    config = config_of(lambda: HyperStyleConfig(generator, reads, sizes))
    parts = {"encoder": encoder, "hypernet": hypernet, "deltas": deltas}
    return fitted(Model("hyperstyle", config, weights | named(parts)))


def hypernet_parts(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`hypernet.*` => (what reads pictures, what makes deltas of codes).

    Raises CheckpointError where a layer's copy of the shared map is not the shared map.
    """
    hypernet, deltas, other = {}, {}, []
    for name, value in tensors.items():
        if match := re.fullmatch(r"shared_weight_hypernet\.(\w+)", name):
            deltas[f"shared.{match[1]}"] = value
        elif match := re.fullmatch(r"refinement_blocks\.(\d+)\.output\.1\.(weight|bias)", name):
            deltas[f"planes.{match[1]}.{match[2]}"] = value.flatten(1) if match[2] == "weight" else value
        elif match := re.fullmatch(r"refinement_blocks\.\d+\.hypernet\.(\w+)", name):
            shared = tensors.get(f"shared_weight_hypernet.{match[1]}")
            if shared is None or not same(value, shared):
                other.append(name)
        else:
            hypernet[name] = value
    if other:
        raise CheckpointError(f"expected one map shared by all layers, but these are others: {listing(other)}")
    return hypernet, deltas


def same(a: Tensor, b: Tensor) -> bool:
    """One tensor under two names, or two of the same values."""
    return a.shape == b.shape and (a.data_ptr() == b.data_ptr() or torch.equal(a, b))


def read_sfe(content: Content, companions: Sequence[Content], *, editor: bool) -> Model:
    """sfe_editor_light.pt, or the first phase's sfe_inverter_light.pt, with the generator's and e4e's files beside it."""
    tensors = state_of(content)
    prefix = "inverter." if editor else "encoder."
    parts = {"inverter": under(tensors, f"{prefix}fs_backbone."), "fuser": under(tensors, f"{prefix}fuser.")}
    file = companion(companions, "rosinality", "the generator, stylegan2-ffhq-config-f.pt")
    generator_tensors = tensors_only(file.value.get("g_ema", {}), "g_ema.")
    generator_tensors = {f"decoder.{name}": value for name, value in generator_tensors.items()}
    generator, weights = generator_of(generator_tensors, mean_code(file))
    if editor:
        twin = companion(companions, "e4e", "e4e_ffhq_encode.pt, whose encoder SFE uses")
        parts |= {"encoder": under(state_of(twin), "encoder."), "editor": under(tensors, "encoder.")}
        encoder = encoder_sizes(parts["encoder"], feature_tap=1)
    else:
        # Nothing in the inverter says the side of its pictures; the official one's is that of every encoder here.
        encoder = E4eConfig(w_dim=generator.w_dim, num_ws=generator.num_ws)
    features = feature_sizes(parts["inverter"], parts["fuser"], encoder.input_size)
    config = config_of(lambda: SfeConfig(generator, features, encoder, generator.resolution, editor))
    return fitted(Model("sfe", config, weights | named(parts)))


def companion(contents: Sequence[Content], kind: str, what: str) -> Content:
    """The one of the other files that is of a kind. Raises MissingCompanion, or CheckpointError where there are several."""
    found = [content for content in contents if kind in (content.companion, *content.formats)]
    if not found:
        given = listing(content.what for content in contents) or "none"
        raise MissingCompanion(f"the model needs another file: {what}; name it by --with FILE (given so far: {given})")
    if len(found) > 1:
        raise CheckpointError(f"expected one file of {what} after --with, got {len(found)}")
    return found[0]
