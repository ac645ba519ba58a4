"""styleres train method PART: the other methods' parts, on a frozen StyleGAN2; and a bundle of each.

styleres train method w-encoder    --data FACES --prior DIR --base mini64 --out runs/rivals
styleres train method hyperstyle   ...                                    (needs w-encoder)
styleres train method hfgi         ...
styleres train method sfe-inverter ...
styleres train method sfe-editor   ...                                    (needs sfe-inverter)
styleres train method-bundle hfgi  --prior DIR --base mini64 --out runs/rivals --bundle models/hfgi

--base: a StyleRes or e4e bundle on the same prior, whose encoder is the methods' own e4e; without it, what `e0` left in --out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs.common.errors import explained
from jobs.common.evaluate_options import LpipsHeads, LpipsWeights
from jobs.common.train_options import (
    LICENCE,
    Batch,
    CpusPerWorker,
    Data,
    GpusPerWorker,
    IdentityNetwork,
    Images,
    MaxMinutes,
    Out,
    PrecisionName,
    Prior,
    ProgressMode,
    RayAddress,
    Seed,
    Set,
    Threads,
    VggWeights,
    Workers,
    absolute,
    absolute_or_name,
    absolute_or_none,
    faces_source,
    loop_from,
    perceptual_files,
    start,
)
from jobs.train import app
from ops.training.method_run import MethodPlan, method_bundle, method_loop
from ops.training.methods import MethodSettings
from ops.training.run import changed

PartName = Annotated[
    Literal["w-encoder", "hyperstyle", "hfgi", "sfe-inverter", "sfe-editor"], typer.Argument(metavar="PART", show_default=False)
]
Base = Annotated[str | None, typer.Option("--base", help="A StyleRes or e4e bundle on the same prior, for its encoder.")]


@app.command("method")
def method_command(
    part: PartName,
    data: Data,
    prior: Prior,
    out: Out,
    base: Base = None,
    images: Images = None,
    max_minutes: MaxMinutes = None,
    batch: Batch = None,
    seed: Seed = 0,
    precision: PrecisionName = None,
    settings: Set = [],  # noqa: B006 - typer copies it
    start_from: Annotated[Path | None, typer.Option("--start-from", help="Weights to begin with: an earlier result.")] = None,
    identity_network: IdentityNetwork = None,
    vgg_weights: VggWeights = None,
    lpips_weights: LpipsWeights = None,
    lpips_heads: LpipsHeads = None,
    threads: Threads = None,
    workers: Workers = 1,
    gpus_per_worker: GpusPerWorker = 0,
    cpus_per_worker: CpusPerWorker = 1,
    ray_address: RayAddress = None,
    progress: ProgressMode = "auto",
) -> None:
    """Train a part of HyperStyle, HFGI or StyleFeatureEditor: docs/methods.md."""
    with explained():
        files = perceptual_files(vgg_weights, lpips_weights, lpips_heads)
        plan = MethodPlan(
            data=faces_source(data),
            prior=absolute(prior),
            out=absolute(out),
            task=changed(MethodSettings(part), settings),
            loop=loop_from(method_loop(part), images, batch, seed, precision, max_minutes),
            base=absolute_or_name(base),
            start_from=absolute_or_none(start_from),
            identity_network=absolute_or_none(identity_network),
            perceptual_weights=tuple(map(absolute, files)),
        )
        start(plan, threads, workers, gpus_per_worker, cpus_per_worker, ray_address, progress)


@app.command("method-bundle")
def method_bundle_command(
    method: Annotated[Literal["e4e", "hfgi", "hyperstyle", "sfe"], typer.Argument(metavar="METHOD", show_default=False)],
    prior: Prior,
    out: Out,
    bundle: Annotated[Path, typer.Option("--bundle", help="Folder to write.")],
    base: Base = None,
) -> None:
    """Write what was trained of a method as a bundle; e4e is the base's own encoder, with nothing beside it."""
    with explained():
        written = method_bundle(method, prior, out, base, bundle, LICENCE)
        size = sum(file.stat().st_size for file in bundle.iterdir()) / 1e6
        print(f"{bundle}: {written.method}, {size:.1f} MB, digest {written.digest[:16]}")
