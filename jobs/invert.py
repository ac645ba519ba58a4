"""styleres invert: videos and images => a store. Slow, and independent of any edit."""

from __future__ import annotations

import typer

from jobs import options
from jobs.errors import explained
from jobs.prepare import left_to_invert, open_store, probe_inputs
from jobs.report import Reporter
from pipeline import flow


def invert(
    inputs: options.Inputs,
    store: options.StoreFolder,
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
    """Invert every face of every INPUT into the store: latents, residuals, tracks."""
    with explained(), Reporter(progress=progress) as reporter:
        bundle = options.bundle_from(model, method)
        settings = options.invert_settings_from(detector, insightface_pack, insightface_root, crop)
        compute = options.compute_from(device, precision, batch_size, chunk_frames, decoder, cpus_per_worker, gpus_per_worker)
        sources, failures = probe_inputs(inputs, allow_hdr=allow_hdr)
        for failure in failures:
            reporter.lost(failure)
        summary = flow.Summary(failures=failures)
        if dry_run:
            reporter.plan("invert", sources, store=str(store), model=bundle.name)
        elif sources:
            opened = open_store(store, bundle, residual_codec)
            todo = left_to_invert(sources, opened, settings, overwrite=overwrite)
            opened.write_failures("probe", failures)
            for source in sources:
                if source not in todo:
                    reporter.event(event="skipped", uri=source.uri, reason="inverted already with these settings")
            with options.runner_from(runner, ray_address, workers, num_gpus) as run:
                summary.join(flow.invert(todo, opened, bundle, settings, compute, run, reporter.stage))
        raise typer.Exit(reporter.finish("invert", summary, inputs=len(inputs), store=str(store)))


def main() -> None:
    typer.run(invert)


if __name__ == "__main__":
    main()
