"""styleres edit: invert, then render. With --store, the codes stay for the next edit."""

from __future__ import annotations

import typer

from jobs.common import options
from jobs.common.errors import explained
from jobs.common.prepare import (
    Given,
    codec_for,
    definitions_from,
    open_store,
    outputs_from,
    recipe_from,
    rendering_from,
    require_untouched,
    temporary_place,
    working,
)
from jobs.common.report import Reporter
from jobs.common.settings import TABLE, RunnerSettings
from jobs.common.values import Chosen, options_of
from ops.checkpoints.bundle import DEFAULT
from pipeline import flow
from pipeline.engine.course import Course
from pipeline.sources.outputs import Admission
from pipeline.store.places import place
from pipeline.store.tables import Store


@options_of(TABLE, flow.InvertSettings, flow.RenderSettings, flow.Compute, RunnerSettings)
def edit(
    inputs: options.Inputs,
    out: options.Out,
    edit: options.Edits = [],  # noqa: B006 (typer copies it)
    recipe: options.RecipeFile = None,
    editor: options.UserEditors = [],  # noqa: B006
    editors: options.EditorFolders = [],  # noqa: B006
    store: options.KeptStore = None,
    model: options.Model = DEFAULT,
    method: options.MethodName = "auto",
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    allow_hdr: options.AllowHdr = False,
    progress: options.ProgressMode = "auto",
    residual_codec: options.Codec = "auto",
    container: options.Container = "auto",
    drop_unsupported: options.DropUnsupported = False,
    contact_sheet: options.ContactSheet = None,
    side_by_side: options.SideBySide = False,
    max_failed: options.MaxFailed = "0",
    *,
    chosen: Chosen,
) -> None:
    """Edit the faces of every INPUT. The same command again does what is missing."""
    with explained(), Reporter(progress=progress) as reporter:
        out = options.out_from(out)
        bundle = options.bundle_from(model, method)
        inverting = chosen.make(flow.InvertSettings)
        rendering = rendering_from(chosen, recipe_from(edit, recipe, bundle, definitions_from(editor, editors)), bundle)
        compute = chosen.make(flow.Compute)
        allowed = options.allowed_from(max_failed)
        given = Given(inputs, reporter, allow_hdr=allow_hdr, out=out)
        outputs = outputs_from(
            out,
            rendering.encode,
            given.listed,
            container=container,
            sheet=contact_sheet,
            with_sheet=bool(rendering.sheet_frames),
            side_by_side=side_by_side,
        )
        admit = Admission(outputs, overwrite, drop_unsupported)
        policy = flow.Policy(overwrite, admit, given.count)
        summary = flow.Summary()
        if dry_run:
            given.show_plan("edit", outputs, admit)
        elif given.worth_a_run(root := place(store) if store is not None else temporary_place(out)):

            def course_for(opened: Store) -> Course:
                stages = flow.invert_stages(opened, bundle, inverting, compute)
                stages += flow.render_stages(opened, bundle, rendering, compute, outputs)
                packs = flow.packs_of(opened, bundle, inverting, rendering, compute, outputs, policy)
                return flow.course_of(stages, (), opened, reporter.see, policy, packs)

            codec = codec_for(root, residual_codec)
            require_untouched(root, bundle, codec, course_for, given, policy)
            with (
                working(root, out, "edit", keep=store is not None),
                options.runner_from(chosen.make(RunnerSettings)) as run,
            ):
                opened = open_store(root, bundle, codec)
                summary = flow.edit(
                    given.sources,
                    outputs,
                    opened,
                    bundle,
                    inverting,
                    rendering,
                    compute,
                    run,
                    reporter.see,
                    policy,
                )
        given.add_to(summary)
        raise typer.Exit(reporter.finish("edit", summary, inputs=given.inputs(summary), allowed=allowed, out=out))


def main() -> None:
    typer.run(edit)


if __name__ == "__main__":
    main()
