"""styleres invert: videos and images => a store. Slow, and independent of any edit."""

from __future__ import annotations

import typer

from jobs.common import options
from jobs.common.errors import explained
from jobs.common.prepare import Given, open_store, require_untouched, working
from jobs.common.report import Reporter
from pipeline import flow
from pipeline.engine.stage import Stage
from pipeline.store.places import place
from pipeline.store.tables import Store


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
    item_seconds: options.ItemSeconds = 1800.0,
    node_seconds: options.NodeSeconds = 0.0,
    max_failed: options.MaxFailed = "0",
) -> None:
    """Invert every face of every INPUT into the store. The same command again does what is missing."""
    with explained(), Reporter(progress=progress) as reporter:
        bundle = options.bundle_from(model, method)
        settings = options.invert_settings_from(detector, insightface_pack, insightface_root, crop)
        compute = options.compute_from(device, precision, batch_size, chunk_frames, decoder, cpus_per_worker, gpus_per_worker)
        allowed = options.allowed_from(max_failed)
        given = Given(inputs, reporter, allow_hdr=allow_hdr)
        policy = flow.Policy(overwrite, count=given.count)
        summary = flow.Summary()
        if dry_run:
            reporter.plan("invert", given.planned(), store=store, model=bundle.name)
        elif given.worth_a_run(root := place(store)):

            def stages_of(opened: Store) -> list[Stage]:
                return flow.invert_stages(opened, bundle, settings, compute)

            require_untouched(root, bundle, residual_codec, stages_of, given, policy, reporter.see)
            with (
                working(root, store, "invert", keep=True),
                options.runner_from(runner, ray_address, workers, num_gpus, item_seconds, node_seconds) as run,
            ):
                opened = open_store(root, bundle, residual_codec)
                summary = flow.invert(given.sources, opened, bundle, settings, compute, run, reporter.see, policy)
        given.add_to(summary)
        raise typer.Exit(reporter.finish("invert", summary, inputs=given.inputs(summary), allowed=allowed, store=store))


def main() -> None:
    typer.run(invert)


if __name__ == "__main__":
    main()
