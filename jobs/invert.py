"""styleres invert: videos and images => a store. Slow, and independent of any edit."""

from __future__ import annotations

import typer

from jobs.common import options
from jobs.common.errors import explained
from jobs.common.prepare import Given, codec_for, open_store, require_untouched, working
from jobs.common.report import Reporter
from jobs.common.settings import TABLE, RunnerSettings
from jobs.common.values import Chosen, options_of
from ops.checkpoints.bundle import DEFAULT
from pipeline import flow
from pipeline.engine.course import Course
from pipeline.store.places import place
from pipeline.store.tables import Store


@options_of(TABLE, flow.InvertSettings, flow.Compute, RunnerSettings)
def invert(
    inputs: options.Inputs,
    store: options.StoreFolder,
    model: options.Model = DEFAULT,
    method: options.MethodName = "auto",
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    allow_hdr: options.AllowHdr = False,
    progress: options.ProgressMode = "auto",
    residual_codec: options.Codec = "auto",
    max_failed: options.MaxFailed = "0",
    *,
    chosen: Chosen,
) -> None:
    """Invert every face of every INPUT into the store. The same command again does what is missing."""
    with explained(), Reporter(progress=progress) as reporter:
        bundle = options.bundle_from(model, method)
        settings = chosen.make(flow.InvertSettings)
        compute = chosen.make(flow.Compute)
        allowed = options.allowed_from(max_failed)
        given = Given(inputs, reporter, allow_hdr=allow_hdr)
        policy = flow.Policy(overwrite, count=given.count)
        summary = flow.Summary()
        if dry_run:
            reporter.plan("invert", given.planned(), store=store, model=bundle.name)
        elif given.worth_a_run(root := place(store)):

            def course_for(opened: Store) -> Course:
                stages = flow.invert_stages(opened, bundle, settings, compute)
                packs = flow.packs_of(opened, bundle, settings, None, compute, policy=policy)
                return flow.course_of(stages, (), opened, reporter.see, policy, packs)

            codec = codec_for(root, residual_codec)
            require_untouched(root, bundle, codec, course_for, given, policy)
            with (
                working(root, store, "invert", keep=True),
                options.runner_from(chosen.make(RunnerSettings)) as run,
            ):
                opened = open_store(root, bundle, codec)
                summary = flow.invert(given.sources, opened, bundle, settings, compute, run, reporter.see, policy)
        given.add_to(summary)
        raise typer.Exit(reporter.finish("invert", summary, inputs=given.inputs(summary), allowed=allowed, store=store))


def main() -> None:
    typer.run(invert)


if __name__ == "__main__":
    main()
