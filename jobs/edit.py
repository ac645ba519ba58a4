"""styleres edit: invert, then render. With --store, the codes stay for the next edit."""

from __future__ import annotations

import typer

from jobs import options
from jobs.errors import explained
from jobs.prepare import definitions_from, left_to_invert, open_store, output_paths, probe_inputs, recipe_from
from jobs.render import work_folder
from jobs.report import Reporter
from pipeline import flow
from pipeline.plan import PlanSettings


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
    smoothing_seconds: options.SmoothingSeconds = None,
    paste: options.PasteMode = "delta",
    mask: options.Mask = "soft",
    color_match: options.ColorMatch = False,
    codec: options.VideoCodec = "libx264",
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
) -> None:
    """Edit the faces of every INPUT."""
    with explained(), Reporter(progress=progress) as reporter:
        bundle = options.bundle_from(model, method)
        inverting = options.invert_settings_from(detector, insightface_pack, insightface_root, crop)
        rendering = flow.RenderSettings(
            plan=PlanSettings(
                recipe_from(edit, recipe, bundle, definitions_from(editor, editors)),
                options.smoothing_from(smoothing, smoothing_seconds),
            ),
            paste=options.paste_from(paste, mask, color_match, bundle),
            encode=options.encode_from(codec, quality, preset),
            sheet_frames=0 if no_contact_sheet else 6,
        )
        compute = options.compute_from(device, precision, batch_size, chunk_frames, decoder, cpus_per_worker, gpus_per_worker)
        sources, failures = probe_inputs(inputs, allow_hdr=allow_hdr)
        for failure in failures:
            reporter.lost(failure)
        summary = flow.Summary(failures=failures)
        outputs = output_paths(
            sources,
            out,
            codec,
            sheet=contact_sheet,
            with_sheet=not no_contact_sheet,
            side_by_side=side_by_side,
            overwrite=overwrite,
        )
        if dry_run:
            reporter.plan("edit", sources, outputs=[output.video for output in outputs.values()])
        elif sources:
            with (
                work_folder(out) as work,
                options.runner_from(runner, ray_address, workers, num_gpus) as run,
            ):
                opened = open_store(store or work / "store", bundle, residual_codec)
                todo = left_to_invert(sources, opened, inverting, overwrite=overwrite)
                opened.write_failures("probe", failures)
                inverted = flow.invert(todo, opened, bundle, inverting, compute, run, reporter.stage)
                summary.join(inverted, counts=("faces", "tracks"))
                # Of a source that lost chunks on the way in, what could be inverted is edited; the rest passes through.
                rendered = flow.render(sources, outputs, opened, bundle, work, rendering, compute, run, reporter.stage)
                summary.join(rendered, counts=("frames", "edits", "outputs"))
        raise typer.Exit(reporter.finish("edit", summary, inputs=len(inputs), out=str(out)))


def main() -> None:
    typer.run(edit)


if __name__ == "__main__":
    main()
