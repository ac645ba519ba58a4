"""styleres edit: invert, then render. With --store, the codes stay for the next edit."""

from __future__ import annotations

import typer

from jobs.common import options
from jobs.common.errors import explained
from jobs.common.prepare import (
    Given,
    admission,
    definitions_from,
    open_store,
    outputs_from,
    recipe_from,
    require_untouched,
    temporary_place,
    working,
)
from jobs.common.report import Reporter
from pipeline import flow
from pipeline.engine.stage import Stage
from pipeline.steps.plan import PlanSettings
from pipeline.store.places import place
from pipeline.store.tables import Store


def edit(
    inputs: options.Inputs,
    out: options.Out,
    edit: options.Edits = [],  # noqa: B006 (typer copies it)
    recipe: options.RecipeFile = None,
    editor: options.UserEditors = [],  # noqa: B006
    editors: options.EditorFolders = [],  # noqa: B006
    store: options.KeptStore = None,
    model: options.Model = "mini64",
    method: options.MethodName = "auto",
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    allow_hdr: options.AllowHdr = False,
    progress: options.ProgressMode = "auto",
    detector: options.Detector = "centerface",
    insightface_pack: options.Pack = "buffalo_l",
    insightface_root: options.PackRoot = None,
    crop: options.Crop = "fast",
    residual_codec: options.Codec = "float16",
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
    """Edit the faces of every INPUT. The same command again does what is missing."""
    with explained(), Reporter(progress=progress) as reporter:
        out = options.out_from(out)
        bundle = options.bundle_from(model, method)
        inverting = options.invert_settings_from(detector, insightface_pack, insightface_root, crop)
        rendering = flow.RenderSettings(
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
        given = Given(inputs, reporter, allow_hdr=allow_hdr, out=out)
        outputs = outputs_from(
            out,
            rendering.encode,
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
            given.show_plan("edit", outputs, admit)
        elif given.first() is not None:
            root = place(store) if store is not None else temporary_place(out)

            def stages_of(opened: Store) -> list[Stage]:
                return flow.invert_stages(opened, bundle, inverting, compute) + flow.render_stages(
                    opened, bundle, rendering, compute, outputs
                )

            require_untouched(root, bundle, residual_codec, stages_of, given, policy, reporter.see)
            with (
                working(root, out, "edit", keep=store is not None),
                options.runner_from(runner, ray_address, workers, num_gpus, item_seconds, node_seconds) as run,
            ):
                opened = open_store(root, bundle, residual_codec)
                given.record_in(opened)
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
