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

from typing import Annotated, Literal

import typer

from jobs.common.errors import explained
from jobs.common.train_options import (
    LICENCE,
    TABLE,
    Base,
    BundleFolder,
    EarlierResult,
    Faces,
    FeatureMaps,
    IdentityFile,
    Out,
    PerceptualFiles,
    PriorFolder,
    RayWorkers,
    Schedule,
    Shown,
    Threads,
    absolute,
    absolute_or_name,
    absolute_or_none,
    faces_source,
    start,
)
from jobs.common.values import Chosen, options_of
from jobs.train import app
from ops.training.method_run import MethodPlan, method_bundle, method_loop
from ops.training.methods import MethodSettings
from ops.training.run import changed

PartName = Annotated[
    Literal["w-encoder", "hyperstyle", "hfgi", "sfe-inverter", "sfe-editor"], typer.Argument(metavar="PART", show_default=False)
]
MethodName = Annotated[Literal["e4e", "hfgi", "hyperstyle", "sfe"], typer.Argument(metavar="METHOD", show_default=False)]


@app.command("method")
@options_of(
    TABLE,
    *(Faces, PriorFolder, Out, Base, EarlierResult, Schedule, FeatureMaps),
    *(IdentityFile, PerceptualFiles, Threads, Shown, RayWorkers),
)
def method_command(part: PartName, chosen: Chosen) -> None:
    """Train a part of HyperStyle, HFGI or StyleFeatureEditor: docs/methods.md."""
    with explained():
        schedule = chosen.make(Schedule)
        plan = MethodPlan(
            data=faces_source(chosen.make(Faces).data),
            prior=absolute(chosen.make(PriorFolder).prior),
            out=absolute(chosen.make(Out).out),
            task=changed(MethodSettings(part), schedule.settings),
            loop=schedule.of(method_loop(part), chosen.make(FeatureMaps).precision),
            base=absolute_or_name(chosen.make(Base).base),
            start_from=absolute_or_none(chosen.make(EarlierResult).start_from),
            identity_network=absolute_or_none(chosen.make(IdentityFile).identity_network),
            perceptual_weights=chosen.make(PerceptualFiles).paths,
        )
        start(plan, chosen.make(Threads), chosen.make(Shown), chosen.make(RayWorkers))


@app.command("method-bundle")
@options_of(TABLE, PriorFolder, Out, BundleFolder, Base)
def method_bundle_command(method: MethodName, chosen: Chosen) -> None:
    """Write what was trained of a method as a bundle; e4e is the base's own encoder, with nothing beside it."""
    with explained():
        prior, out, bundle = chosen.make(PriorFolder).prior, chosen.make(Out).out, chosen.make(BundleFolder).bundle
        written = method_bundle(method, prior, out, chosen.make(Base).base, bundle, LICENCE)
        size = sum(file.stat().st_size for file in bundle.iterdir()) / 1e6
        print(f"{bundle}: {written.method}, {size:.1f} MB, digest {written.digest[:16]}")
