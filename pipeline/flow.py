"""The whole flow, both jobs, in order.

    invert   scan ─► track ─► invert            sources ─► store               slow; knows nothing of edits
    render   plan ─► render ─► finalize         store + sources ─► files       cheap; loads no encoder and no detector
    edit     all six, one source after the other in each, all sources at once

    step       one item                  reads                          writes                          barrier
    scan       chunk of a source         frames                         frames, faces                   -
    track      source, its small rows    frames, faces                  tracks, failures                per source
    invert     chunk of a source         frames, tracks                 latents, residuals              -
    plan       source, its W+            latents, recipe                plan (work folder), edits       per source
    render     chunk of whole segments   frames, plan, residuals        segments (work folder)          -
    finalize   source                    segments, source's sound       the edited file, segments       per source

    pictures   picture, all of the above     its file, once                 staged rows, the edited file   -
    join       pack of pictures              staged rows                    all tables                     per pack

A clip takes the six stages. A picture needs none of their barriers, and is one item from its file to its edited file; a worker
does a batch of them together, and they are stored in packs of some thousand (`pipeline.engine.packs`).

Heavy steps are stateless maps over chunks; barriers are over the rows of one source, small enough for one process. Frames never
travel: an item names a source and a range, and every step decodes what it needs. So results do not depend on the runner, the
number of workers, the length of chunks, the other items of a batch or, but for the last bits of float32 (see
`Compute.batch_size`), the size of batches; and an item that was lost can be done again, anywhere, and give the same.

    thing                           place
    a late worker's files           `Ledger.resume` removes what no entry vouches for; `Ledger.intact` puts aside what stands
                                    beside a manifest's files (`STORE/.damaged`); the store's lock refuses to publish the rest
    the fade of an edit             `fades` in steps/plan.py computes it, `paste` in ops/face/paste.py multiplies its mask by it
    the row map of a generator      `style_inputs` of its config, see ops/generators/protocol.py

Finished work is known by content (`pipeline.engine.ledger`): source, settings, versions, model, schema. The same command again
does what is missing. `pipeline.engine.course` moves sources along the stages; a runner gives their items to workers. Terms are
defined in docs/glossary.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from ops.checkpoints.bundle import Bundle
from ops.device import Device, resolve_device
from ops.editing.library import load_edits, offers
from ops.editing.recipe import EditRecipe
from ops.editing.smoothing import keeps_codes
from ops.face.align import CropMode
from ops.face.detect import DetectorFactory, DetectorSettings
from ops.face.paste import PasteSettings
from ops.face.track import TrackSettings
from ops.inversion.session import Precision
from ops.metrics.identity import IdentitySettings
from ops.video.decode import Backend
from ops.video.encode import EncodeOptions
from pipeline.engine.course import Course
from pipeline.engine.ledger import Ledger, Seal
from pipeline.engine.packs import Packs, Wanted, picture_of
from pipeline.engine.runner import Report, Runner
from pipeline.engine.stage import Picture, Source, Stage
from pipeline.engine.summary import Summary, lost_of
from pipeline.sources.fetch import is_plain
from pipeline.sources.inputs import MADE_WITH
from pipeline.sources.outputs import Outputs
from pipeline.sources.rows import source_row
from pipeline.steps.finalize import Finalize
from pipeline.steps.invert import Invert
from pipeline.steps.join import Join
from pipeline.steps.pictures import Inverting, Pictures, Rendering, write_job_sheet
from pipeline.steps.plan import Plan, PlanSettings
from pipeline.steps.render import Render
from pipeline.steps.scan import Scan
from pipeline.steps.track import TrackFaces
from pipeline.store import upkeep
from pipeline.store.parts import Written
from pipeline.store.records import digest
from pipeline.store.tables import Store
from schemas import SCHEMA_VERSION, Failure

__all__ = ["Compute", "InvertSettings", "RenderSettings", "Summary", "edit", "invert", "lost_of", "render"]


@dataclass(frozen=True)
class Compute:
    """Resources and precision of models. `precision` is part of every key. `device` and `batch_size` change the last bits of
    float32 at most; the kind of device is in the manifest. The others change nothing."""

    device: Device = "auto"
    precision: Precision = "fp32"
    batch_size: int = 16
    """Batches are padded to it. On a CPU multiples of 4 give a face the same bits, at every place in a batch and for any number
    of threads; other sizes differ in the last bits (about 1e-7)."""
    chunk_frames: int = 64
    backend: Backend = "auto"
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0

    @property
    def overlaps(self) -> bool:
        """True if a worker has several cores or an accelerator, so that the parts of its work should overlap."""
        kind = resolve_device("auto") if self.device == "auto" else self.device  # the driver may have no GPU where workers do
        return self.cpus_per_worker > 1 or self.gpus_per_worker > 0 or kind != "cpu"


@dataclass(frozen=True)
class InvertSettings:
    """Settings that decide the rows of the store, beside the model."""

    detector: DetectorFactory = field(default_factory=DetectorSettings)
    tracking: TrackSettings = field(default_factory=TrackSettings)
    crop: CropMode = "fast"


@dataclass(frozen=True)
class RenderSettings:
    """Settings that decide the pixels of the edited files, beside the store."""

    plan: PlanSettings
    paste: PasteSettings = field(default_factory=PasteSettings)
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    sheet_frames: int = 6
    """Frames on the contact sheet, evenly spread over those that are edited; 0 for none."""
    identity: IdentitySettings | None = None
    """Network that measures in each frame how much of the face's identity the edit keeps; decides no pixel."""
    contact_sheets: Literal["job", "each"] = "job"
    """Contact sheets of pictures: one for all, with a fair sample and the worst, or one for each. A clip always has its own."""


@dataclass(frozen=True)
class Policy:
    """Permissions of a run: which results it may replace, which sources it may start."""

    overwrite: bool = False
    """Replace rows of other settings and files that this command did not make; what it has made already is kept in any case."""
    admit: Callable[[Source], Failure | None] = lambda source: None
    """Function called for a source that is not finished; returns why it must not be started, or None."""
    count: int | None = None
    """Number of inputs, None while it is unknown."""


def invert_stages(store: Store, bundle: Bundle, settings: InvertSettings, compute: Compute) -> list[Stage]:
    """Return the stages that turn sources into rows of the store."""
    root, model, cpus, gpus = str(store.root), str(bundle.path.absolute()), compute.cpus_per_worker, compute.gpus_per_worker
    chunk, framing = compute.chunk_frames, bundle.framing
    # A model whose crop needs no face has no detector, so no setting of one is in the key.
    detector = settings.detector.decides() if framing.crop == "ffhq" else None
    return [
        # A small network on every frame. It reserves as much as the model's steps, because any worker does any step.
        Stage(
            "scan",
            Scan(root, settings.detector, compute.backend, compute.device, framing.crop, detector, max(1, int(cpus))),
            cpus,
            gpus,
            chunk,
            decides={"detector": detector, "crop": framing.crop},
            writes=("frames", "faces"),
            counted=("frames", "detections"),
            overlaps=compute.overlaps,
        ),
        # A source's boxes and landmarks fit one process, and identities need all of them.
        Stage(
            "track",
            TrackFaces(root, settings.tracking, framing),
            cpus,
            frames=chunk,
            whole=True,
            decides={"tracking": asdict(settings.tracking), "framing": asdict(framing)},
            writes=("tracks",),
            counted=("tracks",),
            overlaps=compute.overlaps,
        ),
        # The encoder, E1, and the generator, half or all of it, as the method needs its error: the reason for a GPU.
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
                max(1, int(cpus)),
            ),
            cpus,
            gpus,
            chunk,
            decides={"model": bundle.digest, "crop": settings.crop, "precision": compute.precision},
            writes=("latents", "residuals"),
            seals="invert",
            counted=("faces",),
            overlaps=compute.overlaps,
        ),
    ]


def render_stages(store: Store, bundle: Bundle, settings: RenderSettings, compute: Compute, outputs: Outputs) -> list[Stage]:
    """Return the stages that turn store and sources into edited files. A source that loses an item here gets no file."""
    root, model, cpus, gpus = str(store.root), str(bundle.path.absolute()), compute.cpus_per_worker, compute.gpus_per_worker
    recipe, paste = settings.plan.recipe, settings.paste.fitted(bundle.framing.crop)
    recipe_id, metadata = identity_of(recipe, bundle)
    # Whole segments: their bounds do not depend on the chunk that they are in.
    gop = settings.encode.gop_frames
    chunk = max(1, compute.chunk_frames // gop) * gop
    planned = {"recipe": recipe_id, "smoothing": asdict(settings.plan.smoothing), "fade_seconds": settings.plan.fade_seconds}
    planned |= {"size": settings.plan.size}
    pixels = {"paste": asdict(paste), "encode": asdict(settings.encode), "sheet_frames": settings.sheet_frames}
    rendered = pixels | {"model": bundle.digest, "precision": compute.precision}
    if settings.identity is not None:
        rendered |= {"identity": settings.identity.decides()}
    return [
        # Codes are kilobytes per frame, and smoothing needs a track as a whole.
        Stage(
            "plan",
            Plan(root, model, settings.plan, recipe_id),
            cpus,
            frames=chunk,
            whole=True,
            decides=planned,
            writes=("work/plan",),
            vital=True,
            overlaps=compute.overlaps,
        ),
        # Generator and E2 twice per face (with and without the edit), paste, encode; side by side, if it has the cores.
        Stage(
            "render",
            Render(
                root,
                model,
                paste,
                settings.encode,
                compute.batch_size,
                compute.precision,
                compute.device,
                compute.backend,
                settings.sheet_frames,
                max(1, int(cpus)),
                keeps_codes(settings.plan.smoothing),
                settings.identity,
            ),
            cpus,
            gpus,
            chunk,
            decides=rendered,
            writes=("work/segments", "work/frames", "work/sheet", "work/quality"),
            vital=True,
            counted=("frames", "edits"),
            overlaps=compute.overlaps,
        ),
        # Copies packets: one core, and the disk.
        Stage(
            "finalize",
            Finalize(root, outputs, metadata, recipe.to_text(), recipe_id, settings.encode),
            cpus,
            frames=chunk,
            whole=True,
            decides={"outputs": asdict(outputs), "metadata": metadata},
            # One manifest for each way to render, so that a second recipe does not forget the first.
            seals=f"render-{digest(planned, rendered, asdict(outputs))[:16]}",
            by_name=True,
            vital=True,
            counted=("outputs",),
            overlaps=compute.overlaps,
        ),
    ]


def packs_of(
    store: Store,
    bundle: Bundle,
    inverting: InvertSettings | None,
    rendering: RenderSettings | None,
    compute: Compute,
    outputs: Outputs | None = None,
    policy: Policy = Policy(),
) -> Packs:
    """Return the `Packs` of a run's pictures. A setting that is None: nothing is inverted, or nothing rendered."""
    root, model, cpus, gpus = str(store.root), str(bundle.path.absolute()), compute.cpus_per_worker, compute.gpus_per_worker
    decides, key, name, recipe_id = {}, "", "", ""
    inverts: Inverting | None = None
    renders: Rendering | None = None
    if inverting is not None:
        # The same settings decide the rows of a picture and of a clip.
        decides = {stage.name: stage.decided_by for stage in invert_stages(store, bundle, inverting, compute)}
        key = digest(SCHEMA_VERSION, decides, Pictures.VERSION)
        detector = inverting.detector.decides() if bundle.framing.crop == "ffhq" else None
        inverts = Inverting(inverting.detector, detector, inverting.tracking, inverting.crop)
    if rendering is not None and outputs is not None:
        recipe_id, _ = identity_of(rendering.plan.recipe, bundle)
        decided = {stage.name: stage.decided_by for stage in render_stages(store, bundle, rendering, compute, outputs)}
        name = f"render-{digest(decided, rendering.contact_sheets, Pictures.VERSION)[:16]}"
        paste = rendering.paste.fitted(bundle.framing.crop)
        sheets: Literal["job", "each", "none"] = rendering.contact_sheets if rendering.sheet_frames else "none"
        title = rendering.plan.recipe.to_text()
        renders = Rendering(
            rendering.plan,
            recipe_id,
            paste,
            outputs,
            title,
            sheets,
            rendering.sheet_frames,
            rendering.identity,
            policy.admit,
        )
    out = "" if outputs is None or outputs.file is not None else outputs.folder
    wanted = Wanted(key, name, recipe_id, decides, policy.overwrite, out)
    step = Pictures(root, model, wanted, inverts, renders, compute.batch_size, compute.precision, compute.device)
    return Packs(
        # Detector, encoder and generator, one after the other, for as many pictures as a chunk of a clip has frames.
        Stage(
            "pictures",
            step,
            cpus,
            gpus,
            compute.chunk_frames,
            counted=("frames", "faces", "edits"),
            overlaps=compute.overlaps,
        ),
        # Copies rows: one core, and the disk.
        Stage("join", Join(root), cpus, frames=1, overlaps=compute.overlaps),
        store,
        wanted,
        outputs_of=lambda picture: () if outputs is None or renders is None else (outputs.of(picture).video,),
        sheet_rows=renders.sheet_rows if renders is not None and renders.sheets == "job" else 0,
        ended=lambda strips: None if renders is None else write_job_sheet(store, renders, strips),
    )


def pictures_apart(sources: Iterable[Source | Picture | Failure]) -> Iterator[Source | Picture | Failure]:
    """Yield the sources, with pictures as items of their own that have their places among the inputs."""
    for order, one in enumerate(sources):
        if isinstance(one, Source) and one.kind == "image":
            one = picture_of(one)
        yield replace(one, order=order) if isinstance(one, Picture) else one


def invert(
    sources: Iterable[Source | Picture | Failure],
    store: Store,
    bundle: Bundle,
    settings: InvertSettings,
    compute: Compute,
    runner: Runner,
    report: Report,
    policy: Policy = Policy(),
) -> Summary:
    """Fill the store with everything that does not depend on an edit."""
    packs = packs_of(store, bundle, settings, None, compute, policy=policy)
    return run(invert_stages(store, bundle, settings, compute), sources, store, runner, report, policy, packs)


def render(
    sources: Iterable[Source | Picture | Failure],
    outputs: Outputs,
    store: Store,
    bundle: Bundle,
    settings: RenderSettings,
    compute: Compute,
    runner: Runner,
    report: Report,
    policy: Policy = Policy(),
) -> Summary:
    """Write the edited file of every source whose rows are in the store."""
    packs = packs_of(store, bundle, None, settings, compute, outputs, policy)
    return run(render_stages(store, bundle, settings, compute, outputs), sources, store, runner, report, policy, packs)


def edit(
    sources: Iterable[Source | Picture | Failure],
    outputs: Outputs,
    store: Store,
    bundle: Bundle,
    inverting: InvertSettings,
    rendering: RenderSettings,
    compute: Compute,
    runner: Runner,
    report: Report,
    policy: Policy = Policy(),
) -> Summary:
    """Invert and render, source by source. If chunks of a source were lost in inversion, its other frames are edited."""
    stages = invert_stages(store, bundle, inverting, compute) + render_stages(store, bundle, rendering, compute, outputs)
    # Frames are counted once.
    stages[0] = replace(stages[0], counted=())
    packs = packs_of(store, bundle, inverting, rendering, compute, outputs, policy)
    return run(stages, sources, store, runner, report, policy, packs)


def run(
    stages: Sequence[Stage],
    sources: Iterable[Source | Picture | Failure],
    store: Store,
    runner: Runner,
    report: Report,
    policy: Policy,
    packs: Packs | None = None,
) -> Summary:
    """Move every source along the stages, keeping account in the store."""
    course = course_of(stages, sources, store, report, policy, packs)
    try:
        runner.run(course)
    finally:
        course.let_go()
    if packs is not None:
        packs.end()
    return course.summary


def course_of(
    stages: Sequence[Stage],
    sources: Iterable[Source | Picture | Failure],
    store: Store,
    report: Report,
    policy: Policy,
    packs: Packs | None = None,
) -> Course:
    """Return the course of a run: its stages, with the store's records of each source."""
    ledger = Ledger(store)
    inverts = stages[0].name == "scan"

    def begin(source: Source) -> str:
        """Return the digest of a source's inversion, which a render depends on."""
        seal = None if inverts else ledger.sealed("invert", source.source_id)
        return seal.after if seal is not None else ""

    def changed(source: Source, seal: Seal, what: list[str]) -> Failure | None:
        """Return why a source must not be done again: complete rows are hours of work, and replaced only on request."""
        if not inverts or seal.failed or policy.overwrite:
            return None
        message = (
            f"{source.uri} is in {store.root} already, inverted with other settings ({'; '.join(what)}); use --overwrite to "
            "invert it again, or another --store"
        )
        return Failure(source.source_id, source.uri, "probe", "other_settings", message)

    def started(source: Source) -> list[Written]:
        return [store.write_part("sources", source.source_id, 0, source_row(source))] if inverts else []

    def moved(source: Source) -> str | None:
        """Write down the new place of a file that was renamed or moved, as a render of the store looks for it there."""
        if not inverts or not is_plain(source.uri):
            return None
        rows = store.read("sources", source.source_id, columns=["uri"])
        if len(rows) != 1:  # a pack of pictures
            return None
        known: str = rows["uri"][0].as_py()
        if known == source.uri or not is_plain(known) or Path(known).exists():
            return None
        return upkeep.move_source(store, source.source_id, source.uri)

    return Course(
        stages,
        pictures_apart(sources),
        ledger,
        report,
        begin=begin,
        admit=policy.admit,
        changed=changed,
        started=started,
        moved=moved,
        count=policy.count,
        packs=packs,
    )


def identity_of(recipe: EditRecipe, bundle: Bundle) -> tuple[str, dict[str, str]]:
    """Return the recipe's key, which depends on the bytes of the user's editor files, and the tags of the edited files."""
    loaded = load_edits(recipe.names, bundle.editors(), recipe.editors, bundle.config.generator)
    records = {name: edit.record for name, edit in loaded.items() if edit.record is not None}
    metadata = {"edits": recipe.to_text(), "model": bundle.name, "made_with": MADE_WITH}
    given = offers(recipe.editors)
    if used := [f"{name}: {given[name].record}" for name in dict.fromkeys(recipe.names) if name in given]:
        metadata["editors"] = "; ".join(used)
    return recipe.id_with(records), metadata
