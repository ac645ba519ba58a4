"""styleres render: a store and a recipe => edited videos. Loads no encoder and no detector."""

from __future__ import annotations

import typer

from jobs.common import options
from jobs.common.errors import explained
from jobs.common.prepare import (
    Given,
    definitions_from,
    open_settled,
    outputs_from,
    recipe_from,
    rendering_from,
    require_untouched,
    stored_bundle,
    working,
    writable_store,
)
from jobs.common.report import Reporter
from jobs.common.settings import TABLE, RunnerSettings
from jobs.common.values import Chosen, options_of
from pipeline import flow
from pipeline.engine.course import Course
from pipeline.sources.outputs import Admission
from pipeline.store.tables import Store


@options_of(TABLE, flow.RenderSettings, flow.Compute, RunnerSettings)
def render(
    store: options.StoreFolder,
    out: options.Out,
    edit: options.Edits = [],  # noqa: B006 (typer copies it)
    recipe: options.RecipeFile = None,
    editor: options.UserEditors = [],  # noqa: B006
    editors: options.EditorFolders = [],  # noqa: B006
    only: options.Only = [],  # noqa: B006
    model: options.StoreModel = None,
    method: options.MethodName = "auto",
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    allow_hdr: options.AllowHdr = False,
    progress: options.ProgressMode = "auto",
    container: options.Container = "auto",
    drop_unsupported: options.DropUnsupported = False,
    contact_sheet: options.ContactSheet = None,
    side_by_side: options.SideBySide = False,
    max_failed: options.MaxFailed = "0",
    *,
    chosen: Chosen,
) -> None:
    """Apply edits to the stored faces and write the edited videos. The same command again does what is missing."""
    with explained(), Reporter(progress=progress) as reporter:
        out = options.out_from(out)
        opened = open_settled(store)
        bundle = stored_bundle(opened, model, method)
        settings = rendering_from(chosen, recipe_from(edit, recipe, bundle, definitions_from(editor, editors)), bundle)
        compute = chosen.make(flow.Compute)
        allowed = options.allowed_from(max_failed)
        given = Given.stored(opened, only, reporter, allow_hdr=allow_hdr)
        outputs = outputs_from(
            out,
            settings.encode,
            given.listed,
            container=container,
            sheet=contact_sheet,
            with_sheet=bool(settings.sheet_frames),
            side_by_side=side_by_side,
        )
        admit = Admission(outputs, overwrite, drop_unsupported)
        policy = flow.Policy(overwrite, admit, given.count)
        summary = flow.Summary()
        if dry_run:
            given.show_plan("render", outputs, admit)
        elif given.worth_a_run(opened.root):

            def course_for(opened: Store) -> Course:
                stages = flow.render_stages(opened, bundle, settings, compute, outputs)
                packs = flow.packs_of(opened, bundle, None, settings, compute, outputs, policy)
                return flow.course_of(stages, (), opened, reporter.see, policy, packs)

            with writable_store(opened, out) as (writable, keep):
                root, codec = writable.root, opened.info.residual_codec
                require_untouched(root, bundle, codec, course_for, given, policy)
                with (
                    working(root, out, "render", keep=keep),
                    options.runner_from(chosen.make(RunnerSettings)) as run,
                ):
                    summary = flow.render(
                        given.sources, outputs, writable, bundle, settings, compute, run, reporter.see, policy
                    )
        given.add_to(summary)
        raise typer.Exit(reporter.finish("render", summary, inputs=given.inputs(summary), allowed=allowed, out=out))


def main() -> None:
    typer.run(render)


if __name__ == "__main__":
    main()
