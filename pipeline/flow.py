"""The whole flow, both jobs, in order.

    invert   scan ─► track ─► invert            sources ─► store               slow; knows nothing of edits
    render   plan ─► render ─► finalize         store + sources ─► videos      cheap; loads no encoder and no detector

    step       one item                  reads                          writes                          barrier
    scan       chunk of a source         frames                         frames, faces                   -
    track      source, its small rows    frames, faces                  tracks, failures                per source
    invert     chunk of a source         frames, tracks                 latents, residuals              -
    plan       source, its W+            latents, recipe                plan (work folder), edits       per source
    render     chunk of whole segments   frames, plan, residuals        segments (work folder)          -
    finalize   source                    segments, source's sound       the edited file, contact sheet  per source

Heavy steps are stateless maps over chunks; barriers are over rows small enough for one process. Frames never travel: an item
names a source and a range, and every step decodes what it needs. So results do not depend on the runner, the number of workers,
the length of chunks or, but for the last bits of float32 (see `Compute.batch_size`), the size of batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ops.checkpoints.bundle import Bundle
from ops.device import Device
from ops.editing.library import offers
from ops.face.align import CropMode
from ops.face.detect import DetectorSettings
from ops.face.paste import PasteSettings
from ops.face.track import TrackSettings
from ops.inversion.session import Precision
from ops.video.decode import Backend
from ops.video.encode import EncodeOptions
from pipeline.finalize import Finalize, Output
from pipeline.invert import Invert
from pipeline.plan import Plan, PlanSettings
from pipeline.render import Render
from pipeline.runner import Report, Runner
from pipeline.scan import Scan
from pipeline.stage import Chunk, Outcome, Source, Stage
from pipeline.store import Store
from pipeline.track import PASSED_THROUGH, TrackFaces
from schemas import Failure


@dataclass(frozen=True)
class Compute:
    """Where and how models run. Never part of what a result is."""

    device: Device = "auto"
    precision: Precision = "fp32"
    batch_size: int = 16
    """Batches are padded to it. 16 gives a face the same bits at every place in a batch and for any number of threads; smaller
    or odd sizes differ in the last bits (about 1e-7)."""
    chunk_frames: int = 64
    backend: Backend = "auto"
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0


@dataclass(frozen=True)
class InvertSettings:
    """What decides the rows of the store, besides the model."""

    detector: DetectorSettings = field(default_factory=DetectorSettings)
    tracking: TrackSettings = field(default_factory=TrackSettings)
    crop: CropMode = "fast"


@dataclass(frozen=True)
class RenderSettings:
    """What decides the pixels of the edited files, besides the store."""

    plan: PlanSettings
    paste: PasteSettings = field(default_factory=PasteSettings)
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    sheet_frames: int = 6


@dataclass
class Summary:
    """What a job did: the numbers of its last line."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def add(self, outcomes: Sequence[Outcome], *counted: str) -> None:
        """Take over the failures and seconds of a stage, and those counts that it is the authority for."""
        for outcome in outcomes:
            if outcome.failure is not None:
                self.failures.append(outcome.failure)
            if outcome.result is not None:
                self.failures.extend(outcome.result.failures)
                self.counts.update({name: outcome.result.counts.get(name, 0) for name in counted})
                self.seconds.update(outcome.result.seconds)  # type: ignore[arg-type]

    def join(self, other: Summary, counts: Sequence[str] | None = None) -> None:
        """Add another part of the same job; only those counts, where both count the same things."""
        self.counts.update({k: v for k, v in other.counts.items() if counts is None or k in counts})
        self.seconds.update(other.seconds)
        self.failures.extend(other.failures)

    @property
    def lost(self) -> list[Failure]:
        """Failures proper: not the frames that have no face to edit."""
        return lost_of(self.failures)


def lost_of(failures: Iterable[Failure]) -> list[Failure]:
    """Without the rows that only say why there was nothing to edit."""
    return [failure for failure in failures if failure.reason not in PASSED_THROUGH]


def invert(
    sources: Sequence[Source],
    store: Store,
    bundle: Bundle,
    settings: InvertSettings,
    compute: Compute,
    runner: Runner,
    report: Report,
) -> Summary:
    """Fill the store with everything that does not depend on an edit."""
    root, model, gpus = str(store.root), str(bundle.path.absolute()), compute.gpus_per_worker
    stages = (
        # Detection is a small network on every frame: a share of a GPU, or one core.
        Stage(
            "scan",
            Scan(root, settings.detector, compute.backend, compute.device, bundle.framing.crop),
            num_cpus=compute.cpus_per_worker,
            num_gpus=gpus,
        ),
        # A source's boxes and landmarks fit one process, and identities need all of them.
        Stage("track", TrackFaces(root, settings.tracking, bundle.framing), driver=True),
        # The encoder, the lower half of the generator and E1: the reason for a GPU.
        Stage(
            "invert",
            Invert(
                root,
                model,
                compute.batch_size,
                compute.precision,
                compute.device,
                settings.crop,
                compute.backend,
            ),
            num_cpus=compute.cpus_per_worker,
            num_gpus=gpus,
        ),
    )
    summary = Summary()
    chunks = [chunk for source in sources for chunk in source.chunks(compute.chunk_frames)]
    wholes = [source.whole() for source in sources]
    for stage, items, counted in zip(
        stages, (chunks, wholes, chunks), (("frames", "detections"), ("tracks",), ("faces",)), strict=True
    ):
        outcomes = runner.run(stage, items, report)
        summary.add(outcomes, *counted)
        write_failures(store, stage.name, outcomes)
    for source in sources:
        lost = [one for one in summary.lost if one.source_id == source.source_id]
        content = {"settings": invert_settings_json(settings), "uri": source.uri, "lost": len(lost)}
        store.write_manifest("invert", source.source_id, content)
    return summary


def render(
    sources: Sequence[Source],
    outputs: dict[str, Output],
    store: Store,
    bundle: Bundle,
    work: Path,
    settings: RenderSettings,
    compute: Compute,
    runner: Runner,
    report: Report,
) -> Summary:
    """Write the edited file of every source whose rows are in the store."""
    root, model, folder = str(store.root), str(bundle.path.absolute()), str(work)
    recipe = settings.plan.recipe
    metadata = {"edits": recipe.to_text(), "model": bundle.name, "made_with": "styleres-video"}
    given = offers(recipe.editors)
    if used := [f"{name}: {given[name].record}" for name in dict.fromkeys(recipe.names) if name in given]:
        metadata["editors"] = "; ".join(used)
    # Whole segments: what a segment is does not depend on the chunk it was in.
    gop = settings.encode.gop_frames
    frames = max(1, compute.chunk_frames // gop) * gop
    summary = Summary()
    remaining = list(sources)

    def run(stage: Stage, items: Callable[[Source], Sequence[Chunk]], *counted: str) -> None:
        """A source that loses an item cannot become a file: it goes no further, the others do."""
        nonlocal remaining
        outcomes = runner.run(stage, [item for source in remaining for item in items(source)], report)
        summary.add(outcomes, *counted)
        write_failures(store, stage.name, outcomes)
        failed = {outcome.item.source.source_id for outcome in outcomes if outcome.failure is not None}
        remaining = [source for source in remaining if source.source_id not in failed]

    # Codes are kilobytes per frame, and smoothing needs a track as a whole.
    run(Stage("plan", Plan(root, model, folder, settings.plan), driver=True), lambda source: [source.whole()])
    # Generator and E2 twice per face (with and without the edit), paste, encode.
    run(
        Stage(
            "render",
            Render(
                root,
                model,
                folder,
                settings.paste.fitted(bundle.framing.crop),
                settings.encode,
                compute.batch_size,
                compute.precision,
                compute.device,
                compute.backend,
                settings.sheet_frames,
            ),
            num_cpus=compute.cpus_per_worker,
            num_gpus=compute.gpus_per_worker,
        ),
        lambda source: source.chunks(frames),
        "frames",
        "edits",
    )
    # Copies packets: one core, and the disk.
    run(
        Stage("finalize", Finalize(folder, outputs, metadata, recipe.to_text(), settings.encode)),
        lambda source: [source.whole()],
        "outputs",
    )
    return summary


def write_failures(store: Store, stage: str, outcomes: Sequence[Outcome]) -> None:
    """Lost items become rows of the store, whatever else happens to the run, and replace those of an earlier run."""
    store.clear_failures(stage, sorted({outcome.item.source.source_id for outcome in outcomes}))
    failures = [outcome.failure for outcome in outcomes if outcome.failure is not None]
    failures += [one for outcome in outcomes if outcome.result is not None for one in outcome.result.failures]
    if failures:
        store.write_failures(stage, failures)


def invert_settings_json(settings: InvertSettings) -> dict[str, Any]:
    """Settings as JSON values, for manifests: two runs with equal ones give equal rows."""
    return asdict(settings)
