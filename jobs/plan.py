"""styleres plan: what a job will take, from a few frames of a few inputs."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.common import options
from jobs.common.errors import FAILED, UsageError, explained
from jobs.common.prepare import codec_for, definitions_from, open_store, recipe_from
from jobs.common.report import planned
from jobs.common.settings import TABLE
from jobs.common.values import Chosen, options_of
from jobs.common.worker_size import ACCELERATED, WorkerSize, recommended
from ops.checkpoints.bundle import DEFAULT, Bundle, open_bundle
from ops.device import resolve_device
from ops.video.encode import EncodeOptions
from pipeline import flow
from pipeline.engine.course import Event, Settled
from pipeline.engine.runner import InProcessRunner
from pipeline.engine.stage import Source
from pipeline.sources.inputs import Entry, entries, probed
from pipeline.sources.outputs import Outputs
from pipeline.steps.plan import PlanSettings
from pipeline.store.tables import Store
from schemas import Failure

WARM_FRAMES = 4
"""Run once before anything is timed: models load, buffers are allocated."""


@dataclass(frozen=True)
class Estimate:
    """Estimate for all inputs, as if they were like the sample."""

    inputs: int
    looked_at: int
    unreadable: int
    """Inputs of the sample that cannot be read."""
    frames: int
    faces: int
    """Faces times frames: what is inverted."""
    model_seconds: float
    """In the detector, the encoder and the generator, on one device like this machine's."""
    worker_seconds: float
    """All of a worker's time: decoding, models, pasting, encoding, the store."""
    store_bytes: int
    hours: dict[int, float]
    """Workers => hours, if all of them are busy all the time."""
    worker: WorkerSize
    """So that neither cores nor accelerators wait."""


@options_of(TABLE, flow.InvertSettings, flow.Compute)
def plan(
    inputs: options.Inputs,
    edit: options.Edits = [],  # noqa: B006 (typer copies it)
    recipe: options.RecipeFile = None,
    editor: options.UserEditors = [],  # noqa: B006
    editors: options.EditorFolders = [],  # noqa: B006
    model: options.Model = DEFAULT,
    residual_codec: options.Codec = "auto",
    allow_hdr: options.AllowHdr = False,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Inputs to look at, evenly spread.")] = 3,
    frames: Annotated[int, typer.Option("--frames", min=1, help="Frames of each of them to run.")] = 16,
    workers: Annotated[int, typer.Option("--workers", min=1, help="The most to say hours for.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
    *,
    chosen: Chosen,
) -> None:
    """Frames, faces, seconds of work, bytes and hours of an edit, and how large a worker should be: measured on a few frames.

    Writes nothing.
    """
    with explained():
        bundle = open_bundle(model)
        parsed = recipe_from(edit, recipe, bundle, definitions_from(editor, editors)) if edit or recipe else None
        compute = chosen.make(flow.Compute)
        inverting = chosen.make(flow.InvertSettings)
        rendering = None if parsed is None else flow.RenderSettings(PlanSettings(parsed), sheet_frames=0)
        count, picked = sampled(inputs, sample)
        found = [probed(entry, allow_hdr=allow_hdr) for entry in picked]
        sources = [one for one in found if isinstance(one, Source)]
        if not sources:
            said = "; ".join(one.message for one in found if isinstance(one, Failure)) or "there is nothing"
            raise UsageError(f"none of the inputs that were looked at can be read: {said}")
        with tempfile.TemporaryDirectory(prefix="styleres-plan-") as folder:
            store = open_store(Path(folder) / "store", bundle, codec_for(Path(folder) / "store", residual_codec))
            measured = measure(sources, frames, store, bundle, inverting, rendering, compute)
        size = recommended(measured.by_step, accelerator=resolve_device(compute.device) != "cpu")
        estimate = extrapolated(count, len(found), sources, measured, workers, size)
        outputs = Outputs(".", encode=EncodeOptions(codec_is_default=True) if rendering is None else rendering.encode)
        carried = {source.uri: planned(source, outputs)["carriage"] for source in sources}
    if as_json:
        print(json.dumps(asdict(estimate) | {"carriage": carried}))
    else:
        show(estimate)
        show_carriage(carried)
    raise typer.Exit(FAILED if estimate.unreadable else 0)


def sampled(arguments: Sequence[str], size: int) -> tuple[int, list[Entry]]:
    """How many inputs there are, and `size` of them evenly spread; two passes, so that nothing is kept."""
    count = sum(isinstance(one, Entry) for one in entries(arguments))
    if count == 0:
        raise UsageError("; ".join(one.message for one in entries(arguments) if isinstance(one, Failure)) or "no inputs")
    places = {(2 * i + 1) * count // (2 * size) for i in range(size)}
    listed = (one for one in entries(arguments) if isinstance(one, Entry))
    return count, [entry for place, entry in enumerate(islice(listed, count)) if place in places]


@dataclass(frozen=True)
class Measured:
    """Cost of the frames that were tried."""

    frames: int
    faces: int
    by_step: dict[str, dict[str, float]]
    """Step => part => seconds."""
    store_bytes: int


def measure(
    sources: Sequence[Source],
    frames: int,
    store: Store,
    bundle: Bundle,
    inverting: flow.InvertSettings,
    rendering: flow.RenderSettings | None,
    compute: flow.Compute,
) -> Measured:
    """Run the steps on the first frames of each source; `finalize` copies packets and is left out."""
    runner = InProcessRunner()
    stages = flow.invert_stages(store, bundle, inverting, compute)
    if rendering is not None:
        stages += flow.render_stages(
            store, bundle, rendering, compute, Outputs(str(store.root / "out"), encode=rendering.encode)
        )[:2]
    policy = flow.Policy()
    outputs = None if rendering is None else Outputs(str(store.root / "out"), encode=rendering.encode, sets=True)

    by_step: dict[str, Counter[str]] = {}

    def see(event: Event) -> None:
        if isinstance(event, Settled) and event.outcome.result is not None:
            by_step.setdefault(event.stage.name, Counter()).update(event.outcome.result.seconds)  # type: ignore[arg-type]

    def run(some: Sequence[Source]) -> flow.Summary:
        packs = flow.packs_of(store, bundle, inverting, rendering, compute, outputs, policy)
        by_step.clear()
        return flow.run(stages, some, store, runner, see, policy, packs)

    if len(sources) > 1 or sources[0].kind == "video":  # a picture is done once
        run([beginning(sources[0], WARM_FRAMES)])
    warm = sum(store.sizes_bytes().values())
    pictures, clips = [[one for one in sources if one.kind == kind] for kind in ("image", "video")]
    measured = pictures[sources[0].kind == "image" and len(sources) > 1 :] + [beginning(one, frames) for one in clips]
    summary = run(measured)
    if summary.lost:
        raise UsageError(f"the frames that were tried cannot be done: {summary.lost[0].message}")
    seconds = {step: {name: float(value) for name, value in parts.items()} for step, parts in by_step.items()}
    size = sum(store.sizes_bytes().values()) - warm
    done = sum(min(frames, source.info.n_frames) for source in measured)
    return Measured(done, summary.counts["faces"], seconds, max(size, 0))


def beginning(source: Source, frames: int) -> Source:
    """The clip as if it ended early, under a key of its own; a picture as it is."""
    if source.kind == "image":
        return source
    count = min(frames, source.info.n_frames)
    sha256 = f"{count:08x}{source.info.sha256[8:]}"
    return replace(source, source_id=sha256[:16], info=replace(source.info, pts=source.info.pts[:count], sha256=sha256))


def extrapolated(
    count: int, looked_at: int, sources: Sequence[Source], measured: Measured, workers: int, size: WorkerSize
) -> Estimate:
    per_input = sum(source.info.n_frames for source in sources) / len(sources)
    frames = round(per_input * count * len(sources) / looked_at)
    scale = frames / measured.frames
    model = sum(parts.get(name, 0.0) for parts in measured.by_step.values() for name in ACCELERATED) * scale
    total = sum(sum(parts.values()) for parts in measured.by_step.values()) * scale
    several = sorted({1, *(1 << i for i in range(workers.bit_length())), workers})
    return Estimate(
        inputs=count,
        looked_at=looked_at,
        unreadable=looked_at - len(sources),
        frames=frames,
        faces=round(measured.faces * scale),
        model_seconds=model,
        worker_seconds=total,
        store_bytes=round(measured.store_bytes * scale),
        hours={n: total / n / 3600 for n in several if n <= workers},
        worker=size,
    )


def show(estimate: Estimate) -> None:
    table = Table("what", "about", title=f"{estimate.inputs} inputs, from {estimate.looked_at} of them")
    table.add_row("frames", f"{estimate.frames:,}")
    table.add_row("faces × frames", f"{estimate.faces:,}")
    table.add_row("seconds in models, on a device like this one", f"{estimate.model_seconds:,.0f}")
    table.add_row("seconds of one worker", f"{estimate.worker_seconds:,.0f}")
    table.add_row("store", f"{estimate.store_bytes / 1e9:,.2f} GB")
    for workers, hours in estimate.hours.items():
        table.add_row(f"hours on {workers} worker{'s' if workers > 1 else ''}", f"{hours:,.2f}")
    size = estimate.worker
    table.add_row("a worker", f"--cpus-per-worker {size.cpus_per_worker} --gpus-per-worker {size.gpus_per_worker:g}")
    if size.workers_per_gpu:
        table.add_row("workers on a GPU, so that it does not wait", str(size.workers_per_gpu))
        table.add_row("cores that they take", str(size.cores_per_gpu))
        table.add_row("share of the time in which the GPU computes", f"{size.gpu_busy:.0%}")
    if estimate.unreadable:
        table.add_row("could not be read, of those looked at", str(estimate.unreadable))
    Console().print(table)


def show_carriage(carried: dict[str, list[dict[str, Any]]]) -> None:
    """Say what becomes of everything in the inputs that were probed; `edit --dry-run` says it of every input."""
    for uri, items in carried.items():
        table = Table("what it holds", "in the output", "how, or why not", title=escape(uri), title_justify="left")
        for item in items:
            fate = f"[red]{item['fate']}[/red]" if item["loss"] else item["fate"]
            table.add_row(escape(item["what"]), fate, escape(item["how"]))
        Console().print(table)


def main() -> None:
    typer.run(plan)


if __name__ == "__main__":
    main()
