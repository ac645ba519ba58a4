"""styleres render: a store and a recipe => edited videos. Loads no encoder and no detector."""

from __future__ import annotations

import typer

from jobs.common import options
from jobs.common.errors import UsageError, explained
from jobs.common.prepare import (
    Given,
    admission,
    definitions_from,
    open_settled,
    outputs_from,
    recipe_from,
    require_untouched,
    working,
)
from jobs.common.report import Reporter
from ops.files.errors import CheckpointError
from pipeline import flow
from pipeline.engine.stage import Stage
from pipeline.steps.plan import PlanSettings
from pipeline.store.tables import Store


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
    smoothing: options.Smoothing = "none",
    size: options.Size = None,
    smoothing_seconds: options.SmoothingSeconds = None,
    paste: options.PasteMode = "composite",
    mask: options.Mask = "soft",
    color_match: options.ColorMatch = False,
    codec: options.VideoCodec = "auto",
    container: options.Container = "auto",
    drop_unsupported: options.DropUnsupported = False,
    quality: options.Quality = None,
    preset: options.Preset = "medium",
    contact_sheet: options.ContactSheet = None,
    no_contact_sheet: options.NoSheet = False,
    side_by_side: options.SideBySide = False,
    device: options.DeviceName = "auto",
    precision: options.PrecisionName = "fp32",
    batch_size: options.BatchSize = 16,
    chunk_frames: options.ChunkFrames = 64,
    decoder: options.Decoder = "auto",
    runner: options.RunnerName = "in-process",
    ray_address: options.RayAddress = None,
    workers: options.Workers = None,
    cpus_per_worker: options.CpusPerWorker = 1.0,
    gpus_per_worker: options.GpusPerWorker = 0.0,
    num_gpus: options.NumGpus = None,
    item_seconds: options.ItemSeconds = 1800.0,
    node_seconds: options.NodeSeconds = 0.0,
    max_failed: options.MaxFailed = "0",
) -> None:
    """Apply edits to the stored faces and write the edited videos. The same command again does what is missing."""
    with explained(), Reporter(progress=progress) as reporter:
        out = options.out_from(out)
        opened = open_settled(store)
        try:
            bundle = options.bundle_from(model or opened.info.model_name, method)
        except CheckpointError as error:
            if model is not None:
                raise
            raise UsageError(
                f"{store} was made with the model {opened.info.model_name!r}, which is none of the embedded ones; "
                "give the folder of its bundle with --model"
            ) from error
        if bundle.digest != opened.info.model_digest:
            raise UsageError(
                f"{store} was made with another {opened.info.model_name} than {bundle.path} holds now; "
                "name that bundle with --model, or invert again"
            )
        settings = flow.RenderSettings(
            plan=PlanSettings(
                recipe_from(edit, recipe, bundle, definitions_from(editor, editors)),
                options.smoothing_from(smoothing, smoothing_seconds),
                size=options.size_from(size, bundle),
            ),
            paste=options.paste_from(paste, mask, color_match, bundle),
            encode=options.encode_from(codec, quality, preset),
            sheet_frames=0 if no_contact_sheet else 6,
        )
        compute = options.compute_from(device, precision, batch_size, chunk_frames, decoder, cpus_per_worker, gpus_per_worker)
        allowed = options.allowed_from(max_failed)
        given = Given.stored(opened, only, reporter, allow_hdr=allow_hdr)
        outputs = outputs_from(
            out,
            settings.encode,
            given.listed,
            container=container,
            sheet=contact_sheet,
            with_sheet=not no_contact_sheet,
            side_by_side=side_by_side,
        )
        admit = admission(outputs, overwrite=overwrite, drop_unsupported=drop_unsupported)
        policy = flow.Policy(overwrite, admit, given.count)
        summary = flow.Summary()
        if dry_run:
            given.show_plan("render", outputs, admit)
        elif given.first() is not None:

            def stages_of(opened: Store) -> list[Stage]:
                return flow.render_stages(opened, bundle, settings, compute, outputs)

            require_untouched(opened.root, bundle, opened.info.residual_codec, stages_of, given, policy, reporter.see)
            with (
                working(opened.root, out, "render", keep=True),
                options.runner_from(runner, ray_address, workers, num_gpus, item_seconds, node_seconds) as run,
            ):
                summary = flow.render(given.sources, outputs, opened, bundle, settings, compute, run, reporter.see, policy)
        given.add_to(summary)
        raise typer.Exit(reporter.finish("render", summary, inputs=given.inputs(summary), allowed=allowed, out=out))


def main() -> None:
    typer.run(render)


if __name__ == "__main__":
    main()
