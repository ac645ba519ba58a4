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
    FacesAndPrior,
    FeatureMaps,
    IdentityFile,
    MethodBundle,
    MethodStart,
    PerceptualFiles,
    PriorAndOut,
    RayWorkers,
    Schedule,
    ThisProcess,
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
@options_of(TABLE, FacesAndPrior, MethodStart, Schedule, FeatureMaps, IdentityFile, PerceptualFiles, ThisProcess, RayWorkers)
def method_command(part: PartName, chosen: Chosen) -> None:
    """Train a part of HyperStyle, HFGI or StyleFeatureEditor: docs/methods.md."""
    with explained():
        places, begin, schedule, networks = (
            chosen.make(FacesAndPrior),
            chosen.make(MethodStart),
            chosen.make(Schedule),
            chosen.make(PerceptualFiles),
        )
        plan = MethodPlan(
            data=faces_source(places.data),
            prior=absolute(places.prior),
            out=absolute(places.out),
            task=changed(MethodSettings(part), schedule.settings),
            loop=schedule.of(method_loop(part), chosen.make(FeatureMaps).precision),
            base=absolute_or_name(begin.base),
            start_from=absolute_or_none(begin.start_from),
            identity_network=absolute_or_none(chosen.make(IdentityFile).identity_network),
            perceptual_weights=networks.paths,
        )
        start(plan, chosen.make(ThisProcess), chosen.make(RayWorkers))


@app.command("method-bundle")
@options_of(TABLE, PriorAndOut, MethodBundle, Base)
def method_bundle_command(method: MethodName, chosen: Chosen) -> None:
    """Write what was trained of a method as a bundle; e4e is the base's own encoder, with nothing beside it."""
    with explained():
        places, bundle = chosen.make(PriorAndOut), chosen.make(MethodBundle).bundle
        written = method_bundle(method, places.prior, places.out, chosen.make(Base).base, bundle, LICENCE)
        size = sum(file.stat().st_size for file in bundle.iterdir()) / 1e6
        print(f"{bundle}: {written.method}, {size:.1f} MB, digest {written.digest[:16]}")
