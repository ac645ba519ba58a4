"""styleres render: a store and a recipe => edited videos. Loads no encoder and no detector."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from jobs import options
from jobs.errors import UsageError, explained
from jobs.prepare import definitions_from, output_paths, recipe_from, stored_sources
from jobs.report import Reporter
from pipeline import flow
from pipeline.plan import PlanSettings
from pipeline.store import Store


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
    """Apply edits to the stored faces and write the edited videos."""
    with explained(), Reporter(progress=progress) as reporter:
        opened = Store.open(store)
        bundle = options.bundle_from(model or opened.info.model_name, method)
        if bundle.digest != opened.info.model_digest:
            raise UsageError(
                f"{store} was made with another {opened.info.model_name} than {bundle.path} holds now; "
                "name that bundle with --model, or invert again"
            )
        settings = flow.RenderSettings(
            plan=PlanSettings(
                recipe_from(edit, recipe, bundle, definitions_from(editor, editors)),
                options.smoothing_from(smoothing, smoothing_seconds),
            ),
            paste=options.paste_from(paste, mask, color_match, bundle),
            encode=options.encode_from(codec, quality, preset),
            sheet_frames=0 if no_contact_sheet else 6,
        )
        compute = options.compute_from(device, precision, batch_size, chunk_frames, decoder, cpus_per_worker, gpus_per_worker)
        sources, failures = stored_sources(opened, only, allow_hdr=allow_hdr)
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
            reporter.plan("render", sources, outputs=[output.video for output in outputs.values()])
        elif sources:
            with (
                work_folder(out) as work,
                options.runner_from(runner, ray_address, workers, num_gpus) as run,
            ):
                summary.join(flow.render(sources, outputs, opened, bundle, work, settings, compute, run, reporter.stage))
        raise typer.Exit(reporter.finish("render", summary, inputs=len(sources) + len(failures), out=str(out)))


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """A folder for plans and segments beside the output, where a cluster's workers can reach it too; gone afterwards."""
    parent = out.absolute().parent if out.suffix else out.absolute()
    work = parent / f".styleres-work-{uuid.uuid4().hex[:12]}"
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot write there ({error.strerror}: {error.filename})") from error
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    typer.run(render)


if __name__ == "__main__":
    main()
