"""styleres evaluate: measure models side by side on held-out identities, in one run and one table.

styleres evaluate --data FACES --model mini64 --also-wplus --card
styleres evaluate --data FACES --model full@0=RUN0/bundle --model full@1=RUN1/bundle --model "no cycle@0=…" --out report
styleres evaluate video --source CLIP.mp4 --edited EDITED.mp4 --store STORE
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import typer
from rich.console import Console
from rich.progress import Progress

from jobs.common.errors import UsageError, explained
from jobs.common.evaluate_options import TABLE, Contest, PictureFiles, Recogniser, Reports, write_reports
from jobs.common.evaluate_report import SOURCE, Report, Run, card_section, print_report, with_section, wplus_name, write_folder
from jobs.common.values import Chosen, options_of
from jobs.evaluate_video import video_command
from ops.checkpoints.bundle import Bundle, open_bundle
from ops.data.faces import DataError, FaceSource, load_faces, open_faces
from ops.device import channels_last, resolve_device, set_up
from ops.face.detect import DetectorSettings, build_detector
from ops.inversion.inverter import Inverter
from ops.inversion.session import Precision, feature_dtype
from ops.metrics.attributes import JUDGE_SIZE, JUDGED, AttributeClassifier, load_judge, save_judge, train_classifier
from ops.metrics.edits import PlannedEdit
from ops.metrics.evaluation import EXAMPLES, Evaluator
from ops.metrics.pictures import PictureJudge, PictureMetric, PictureNetworks
from ops.networks.inception_v3 import load_inception
from ops.networks.lpips_alex import load_lpips

EDITS = (
    PlannedEdit("smile", 2.0, "smiling"),
    PlannedEdit("age", 2.0, "young", brings=False),
    PlannedEdit("gender", 2.0, "male"),
    PlannedEdit("eyeglasses", 2.0, "eyeglasses"),
    PlannedEdit("bangs", 2.0, "bangs"),
    PlannedEdit("hair_colour", 1.0, "blond_hair"),
    PlannedEdit("pose", 1.0),
)
"""Edits that are measured unless `--edit` names others: those of them that every model has."""
WEIGHTS_OF = {
    "lpips": "--lpips-weights",
    "fid": "--inception-weights",
    "identity": "a recogniser such as --curricularface-weights",
}
FEWEST_FACES_TO_JUDGE = 64
app = typer.Typer(help=__doc__, invoke_without_command=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")
app.command("video")(video_command)


@app.callback()
@options_of(TABLE, Contest, PictureFiles, Recogniser, Reports)
def evaluate_command(context: typer.Context, chosen: Chosen) -> None:
    """Measure reconstruction and edits of models on faces of identities that they never saw; `video`: an edited video."""
    if context.invoked_subcommand is not None:
        return
    with explained():
        evaluate(chosen.make(Contest), chosen.make(PictureFiles), chosen.make(Recogniser), chosen.make(Reports))


def evaluate(settings: Contest, files: PictureFiles, recogniser: Recogniser, reports: Reports) -> None:
    """Measure the models, print the table and write what was asked for. Raises UsageError before anything is measured."""
    if settings.data is None:
        raise UsageError("expected --data FACES (an evaluation of models), or the word video (an edited video's)")
    data, device = settings.data, resolve_device(settings.device)
    contenders = contenders_from(settings.model)
    size = common_size(contenders)
    check_side(settings.size, contenders)
    edits = planned_edits(settings.edit, contenders)
    identity = recogniser.open()
    networks = PictureNetworks(
        lpips=None if files.lpips_weights is None else load_lpips(files.lpips_weights, files.lpips_heads),
        inception=None if files.inception_weights is None else load_inception(files.inception_weights),
        identity=identity,
        detector=None if identity is None else build_detector(DetectorSettings()),
    )
    metrics = chosen_metrics(settings.metrics, networks)
    set_up(device)
    everyone = open_faces(data, size, "held_out")
    held_out = open_faces(data, size, "held_out", limit=settings.faces)
    if len(held_out) < 2:
        raise UsageError(f"--data {data}: expected at least two faces of held-out identities, got {len(held_out)}")
    evaluator = Evaluator(
        held_out,
        everyone,
        edits,
        load_or_train_judge(data, everyone, settings.judge, edits),
        PictureJudge(networks, metrics, device),
        batch=settings.batch,
        size=settings.size,
    )
    report = Report(
        about={"data": data, "faces": len(held_out)}
        | ({} if settings.size is None else {"size": settings.size})
        | ({"edits": list(settings.edit)} if settings.edit else {}),
        accuracy=evaluator.accuracy,
        runs=tuple(measured_runs(evaluator, contenders, settings.also_wplus, settings.precision)),
        unedited=evaluator.unedited(SOURCE),
    )
    print_report(report, Console())
    write_reports(reports, report.to_json(), report.to_markdown())
    if settings.out is not None:
        for path in write_folder(report, held_out.crops(0, EXAMPLES), settings.out):
            print(path)
    if settings.card:
        for run in report.runs:
            path = run.bundle.path / "README.md"
            section = card_section(report, run, run.bundle.name)
            path.write_text(with_section(path.read_text("utf-8"), section), "utf-8")


@dataclass(frozen=True)
class Contender:
    """One `--model`."""

    name: str
    seed: str | None
    bundle: Bundle


def contenders_from(texts: Sequence[str]) -> list[Contender]:
    """[NAME[@SEED]=]BUNDLE each. Raises UsageError for two that would share a column without different seeds."""
    found = []
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            bundle = open_bundle(text)
            found.append(Contender(bundle.name, None, bundle))
            continue
        label, at, seed = name.partition("@")
        if not label or not path or (at and not seed):
            raise UsageError(f"--model {text}: expected BUNDLE, NAME=BUNDLE or NAME@SEED=BUNDLE")
        found.append(Contender(label, seed or None, open_bundle(path)))
    for one in found:
        same = [other for other in found if (other.name, other.seed) == (one.name, one.seed)]
        if len(same) > 1:
            places = " and ".join(str(other.bundle.path) for other in same)
            raise UsageError(f"two models are called {one.name}: {places}; write NAME@SEED={one.bundle.path}, or other names")
    return found


def common_size(contenders: Sequence[Contender]) -> int:
    """Side of the pictures that every model takes. Raises UsageError where they differ: their numbers would not compare."""
    sizes = {one.name: one.bundle.config.input_size for one in contenders}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name} {size} px" for name, size in sizes.items())
        raise UsageError(f"the models take pictures of different sizes ({said}); measure those of one size together")
    for one in contenders:
        size = one.bundle.config.input_size
        if one.bundle.framing.content_hw != (size, size):
            raise UsageError(f"{one.name}: its pictures do not fill the square; this evaluation compares square pictures only")
    return next(iter(sizes.values()))


def check_side(side: int | None, contenders: Sequence[Contender]) -> None:
    """Raises UsageError where a model does not make pictures of that size."""
    for one in contenders:
        sizes = one.bundle.config.generator.sizes
        if side is not None and side not in sizes:
            raise UsageError(f"--size {side}: {one.name} makes pictures of {' or '.join(map(str, sizes))} px")


def planned_edits(texts: Sequence[str], contenders: Sequence[Contender]) -> list[PlannedEdit]:
    """NAME=STRENGTH[:[-]ATTRIBUTE] each, or of our own list what every model has. Raises UsageError for one a model lacks."""
    known = [{entry.name for entry in one.bundle.edits} for one in contenders]
    if not texts:
        return [one for one in EDITS if all(one.name in names for names in known)]
    found = [edit_from(text) for text in texts]
    for one in found:
        lacking = [other.name for other, names in zip(contenders, known, strict=True) if one.name not in names]
        if lacking:
            have = ", ".join(sorted(set.intersection(*known))) or "none in common"
            raise UsageError(f"--edit {one.name}: {', '.join(lacking)} has no such edit; all models have: {have}")
    return found


def edit_from(text: str) -> PlannedEdit:
    """NAME=STRENGTH[:[-]ATTRIBUTE]. Without an attribute, the one that our own list has for that name."""
    name, _, rest = text.partition("=")
    number, colon, attribute = rest.partition(":")
    try:
        strength = float(number)
    except ValueError:
        strength = 0.0
    if not name or strength <= 0 or (colon and not attribute.removeprefix("-")):
        raise UsageError(
            f"--edit {text}: expected NAME=STRENGTH or NAME=STRENGTH:ATTRIBUTE with a strength above 0, such as smile=2, or "
            "older=2:-young where more of it means less of the attribute"
        )
    if not colon:
        usual = next((one for one in EDITS if one.name == name), PlannedEdit(name, strength))
        return PlannedEdit(name, strength, usual.attribute, usual.brings)
    return PlannedEdit(name, strength, attribute.removeprefix("-"), brings=not attribute.startswith("-"))


def measured_runs(
    evaluator: Evaluator, contenders: Sequence[Contender], also_wplus: bool, precision: Precision
) -> Iterator[Run]:
    """One after the other. A W+ that an earlier bundle has too (same encoder and generator) is measured once."""
    seen: set[str] = set()
    for one in contenders:
        model = channels_last(one.bundle.load())
        model.feature_dtype = feature_dtype(precision)
        wplus = wplus_digest(model) if also_wplus and model.config.detail_shape is not None else None
        new = wplus is not None and wplus not in seen
        label = one.name if one.seed is None else f"{one.name}@{one.seed}"
        with _watching(label, len(evaluator.faces)) as watch:
            found = evaluator.measure(model, one.bundle.editors(), one.name, wplus_name(one.name) if new else None, watch)
        if wplus is not None:
            seen.add(wplus)
        yield Run(one.name, one.seed, one.bundle, found[0], found[1] if new else None)


def wplus_digest(model: Inverter) -> str:
    """Return the digest of the weights that decide the pictures of W+ alone."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if name.startswith(("encoder.", "generator.", "latent_avg")):
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _watching(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bars:
        shown = bars.add_task(label, total=total)
        yield lambda done: bars.update(shown, completed=done)


def chosen_metrics(text: str, networks: PictureNetworks) -> tuple[PictureMetric, ...]:
    """`auto`, or names with commas between them. Raises UsageError for one that is unknown, or that lacks its weights."""
    if text == "auto":
        return networks.available()
    names = [name.strip() for name in text.split(",") if name.strip()]
    known: tuple[PictureMetric, ...] = get_args(PictureMetric)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UsageError(f"--metrics {text}: expected auto, or some of {', '.join(known)} with commas between them")
    for name in names:
        if name in WEIGHTS_OF and name not in networks.available():
            raise UsageError(f"--metrics {name} needs {WEIGHTS_OF[name]}")
    return tuple(name for name in known if name in names)


def load_or_train_judge(
    data: str, held_out: FaceSource, path: Path | None, edits: Sequence[PlannedEdit]
) -> AttributeClassifier | None:
    """A classifier of faces of identities that neither the models nor the evaluation use; None where nothing is labelled."""
    if path is not None and path.is_file():
        return load_judge(path)
    attributes = judged_attributes(held_out.attributes, edits)
    if not attributes:
        print(f"{data} has no labels: what edits do to attributes is not measured", file=sys.stderr)
        return None
    try:
        known = load_faces(data, JUDGE_SIZE, "classifier")
    except DataError as error:
        raise UsageError(f"{error}; or name a classifier that an earlier evaluation kept with --judge") from error
    if len(known.images) < FEWEST_FACES_TO_JUDGE:
        raise UsageError(
            f"--data {data}: {len(known.images)} faces to train the attribute classifier with, expected at least "
            f"{FEWEST_FACES_TO_JUDGE}; name one that an earlier evaluation kept with --judge"
        )
    judge = train_classifier(known, attributes)
    if path is not None:
        save_judge(judge, path)
    return judge


def judged_attributes(labels: Mapping[str, object], edits: Sequence[PlannedEdit]) -> tuple[str, ...]:
    """Our own list and what the edits aim at, as far as the data are labelled."""
    aims = [one.attribute for one in edits if one.attribute is not None and one.attribute not in JUDGED]
    return tuple(name for name in (*JUDGED, *aims) if name in labels)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
