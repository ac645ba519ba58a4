"""The two jobs as functions. Inputs, stores and outputs mean what they mean to the commands, and so does doing it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.common.prepare import (
    Given,
    codec_for,
    open_store,
    outputs_from,
    require_untouched,
    working,
)
from jobs.common.report import Reporter
from ops.checkpoints.bundle import DEFAULT, open_bundle
from pipeline import flow
from pipeline.engine.course import Course
from pipeline.engine.runner import InProcessRunner, Runner
from pipeline.sources.outputs import Admission
from pipeline.steps.plan import PlanSettings
from pipeline.store.places import place
from pipeline.store.tables import Store
from schemas import Failure
from styleres import opened
from styleres.recipes import Edits, recipe_of


class Lost(RuntimeError):
    """Something was lost; what could be done is done. `failures` says what, where and why."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        first = "; ".join(f"{one.uri}: {one.message}" for one in failures[:3])
        super().__init__(first + (f"; and {len(failures) - 3} more" if len(failures) > 3 else ""))
        self.failures = tuple(failures)


@dataclass(frozen=True)
class Rendered:
    """Files and numbers that `render` made."""

    files: tuple[str, ...]
    """The edited files, in the order of the sources."""
    summary: flow.Summary


def invert(
    inputs: str | Path | Sequence[str | Path],
    store: str | Path,
    *,
    model: str = DEFAULT,
    settings: flow.InvertSettings = flow.InvertSettings(),  # noqa: B008 (frozen)
    compute: flow.Compute = flow.Compute(),  # noqa: B008
    overwrite: bool = False,
    allow_hdr: bool = False,
    allow_losses: bool = False,
    progress: bool = False,
    runner: Runner | None = None,
) -> opened.FaceStore:
    """Every face of every input into the store, as `styleres invert`; what is there already is not done again.

    inputs: videos, images, folders, globs, …: paths or URLs. progress: bars on stderr. runner: this process if not given.
    allow_losses: come back without an exception where something was lost; `FaceStore.failures` lists it.

    Raises Lost, UsageError for a call that cannot be meant, StoreError for a store of another model.
    """
    bundle = open_bundle(model)
    with Reporter(progress="bars" if progress else "quiet") as reporter:
        given = Given([str(one) for one in listed(inputs)], reporter, allow_hdr=allow_hdr)
        policy, root = flow.Policy(overwrite, count=given.count), place(str(store))

        def course_for(target: Store) -> Course:
            stages = flow.invert_stages(target, bundle, settings, compute)
            packs = flow.packs_of(target, bundle, settings, None, compute, policy=policy)
            return flow.course_of(stages, (), target, reporter.see, policy, packs)

        codec = codec_for(root, "auto")
        require_untouched(root, bundle, codec, course_for, given, policy)
        with working(root, str(store), "invert", keep=True):
            target = open_store(root, bundle, codec)
            summary = flow.invert(
                given.sources, target, bundle, settings, compute, runner or InProcessRunner(), reporter.see, policy
            )
    if summary.lost and not allow_losses:
        raise Lost(summary.lost)
    return opened.FaceStore(target, model)


def render(
    store: opened.FaceStore | str | Path,
    out: str | Path,
    edits: Edits,
    *,
    only: Sequence[str] = (),
    settings: flow.RenderSettings | None = None,
    compute: flow.Compute = flow.Compute(),  # noqa: B008
    overwrite: bool = False,
    allow_losses: bool = False,
    progress: bool = False,
    runner: Runner | None = None,
) -> Rendered:
    """The edited files of a store's sources, as `styleres render`.

    out: a file for one source, otherwise a folder. settings: how; its recipe is replaced by `edits`. only: names, paths or keys
    of sources.

    Raises Lost, UsageError, RecipeError for an edit that there is not.
    """
    face_store = store if isinstance(store, opened.FaceStore) else opened.open_store(store)
    bundle, target = face_store.bundle, face_store.store
    recipe = recipe_of(edits, bundle)
    chosen = settings or flow.RenderSettings(PlanSettings(recipe))
    chosen = replace(chosen, plan=replace(chosen.plan, recipe=recipe), paste=chosen.paste.fitted(bundle.framing.crop))
    with Reporter(progress="bars" if progress else "quiet") as reporter:
        given = Given.stored(target, list(only), reporter, allow_hdr=True)
        outputs = outputs_from(str(out), chosen.encode, given.listed, sheet=None, with_sheet=False, side_by_side=False)
        policy = flow.Policy(overwrite, Admission(outputs, overwrite, drop_unsupported=False), given.count)
        with working(target.root, str(out), "render", keep=True):
            summary = flow.render(
                given.sources, outputs, target, bundle, chosen, compute, runner or InProcessRunner(), reporter.see, policy
            )
        sources = list(given.listed or [])
    if summary.lost and not allow_losses:
        raise Lost(summary.lost)
    return Rendered(tuple(outputs.of(source).video for source in sources), summary)


def listed(inputs: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [inputs] if isinstance(inputs, str | Path) else list(inputs)
