"""styleres evaluate: measure a bundle on held-out identities, and write the numbers into its card.

styleres evaluate --data FACES.parquet --model mini64 --card
styleres evaluate video --source CLIP.mp4 --edited EDITED.mp4 --store STORE
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from safetensors.torch import save_file

from jobs import evaluate_options, options
from jobs.errors import UsageError, explained
from jobs.evaluate_options import rich_table, write_reports
from jobs.evaluate_video import video_command
from ops.checkpoints.bundle import open_bundle
from ops.face.detect import DetectorSettings, build_detector
from ops.inversion.styleres import StyleRes
from ops.metrics.attributes import JUDGED, AttributeClassifier, load_judge, train_classifier
from ops.metrics.evaluation import EditEffect, Evaluation, evaluate
from ops.metrics.networks.inception_v3 import load_inception
from ops.metrics.networks.lpips_alex import load_lpips
from ops.metrics.pictures import PictureJudge, PictureMetric, PictureNetworks
from ops.metrics.report import json_of
from ops.training.data import Faces, load_faces

EDITS = (
    ("smile", 2.0),
    ("smile", -2.0),
    ("age", 2.0),
    ("gender", 2.0),
    ("eyeglasses", 2.0),
    ("bangs", 2.0),
    ("hair_colour", 1.0),
    ("pose", 1.0),
)
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
WEIGHTS_OF = {
    "lpips": "--lpips-weights",
    "fid": "--inception-weights",
    "identity": "a recogniser such as --curricularface-weights",
}

app = typer.Typer(help=__doc__, invoke_without_command=True, pretty_exceptions_enable=False)
app.command("video")(video_command)


@app.callback()
def evaluate_command(
    context: typer.Context,
    data: Annotated[Path | None, typer.Option("--data", help="Parquet of aligned faces: image, identity, attributes.")] = None,
    model: options.Model = "mini64",
    faces: Annotated[int, typer.Option("--faces", min=16, help="Held-out faces.")] = 512,
    judge: Annotated[Path | None, typer.Option("--judge", help="Keep the attribute classifier here; reuse it.")] = None,
    card: Annotated[bool, typer.Option("--card", help="Write the numbers into the bundle's model card.")] = False,
    metrics: Annotated[
        str,
        typer.Option("--metrics", help=f"auto (all whose weights are given), or some of {','.join(get_args(PictureMetric))}"),
    ] = "auto",
    lpips_weights: evaluate_options.LpipsWeights = None,
    lpips_heads: evaluate_options.LpipsHeads = None,
    inception_weights: evaluate_options.InceptionWeights = None,
    curricularface_weights: evaluate_options.CurricularfaceWeights = None,
    arcface_weights: evaluate_options.ArcfaceWeights = None,
    mobilefacenet_weights: evaluate_options.MobilefacenetWeights = None,
    identity_pack: evaluate_options.IdentityPack = None,
    json_file: evaluate_options.JsonFile = None,
    markdown_file: evaluate_options.MarkdownFile = None,
) -> None:
    """Measure reconstruction and edits of a bundle on faces of identities that it never saw; `video`: an edited video."""
    if context.invoked_subcommand is not None:
        return
    with explained():
        if data is None:
            raise UsageError("expected --data FACES.parquet (a bundle's evaluation), or the word video (an edited video's)")
        bundle = open_bundle(model)
        identity = evaluate_options.identity_from(curricularface_weights, arcface_weights, mobilefacenet_weights, identity_pack)
        if lpips_heads is not None and lpips_weights is None:
            raise UsageError("--lpips-heads holds only LPIPS's heads; give AlexNet's file with --lpips-weights too")
        networks = PictureNetworks(
            lpips=None if lpips_weights is None else load_lpips(lpips_weights, lpips_heads),
            inception=None if inception_weights is None else load_inception(inception_weights),
            identity=identity,
            detector=None if identity is None else build_detector(DetectorSettings()),
        )
        chosen = chosen_metrics(metrics, networks)
        loaded = bundle.load()
        if not isinstance(loaded, StyleRes):
            raise UsageError(f"{model} is a {bundle.method} bundle; this evaluation compares StyleRes with its own W+")
        size = bundle.config.input_size
        held_out = labelled_faces(data, size, faces)
        classifier = load_or_train_judge(data, size, judge)
        pictures = PictureJudge(held_out.images, networks, chosen)
        result = evaluate(loaded, held_out.images, held_out.attributes, bundle.editors(), EDITS, classifier, pictures)
        text = section(result, model, faces)
        measurements = result.measurements()
        Console().print(rich_table(measurements))
        write_reports(json_file, as_json(result), markdown_file, text, measurements)
        if card:
            path = bundle.path / "README.md"
            path.write_text(with_section(path.read_text("utf-8"), text), "utf-8")


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


def as_json(result: Evaluation) -> dict[str, Any]:
    """What the evaluation found, every number with its network."""
    fields = dataclasses.asdict(dataclasses.replace(result, pictures=()))
    del fields["pictures"]
    return {**fields, "measurements": json_of(result.measurements())}


def labelled_faces(data: Path, size: int, count: int) -> Faces:
    """The held-out faces, with every attribute that is judged. Raises DataError or UsageError where the data have none."""
    held_out = load_faces(data, size, "held_out", limit=count)
    missing = [name for name in JUDGED if name not in held_out.attributes]
    if missing:
        raise UsageError(f"--data {data}: expected the booleans {', '.join(JUDGED)}; it lacks {', '.join(missing)}")
    if len(held_out.images) < 2:
        raise UsageError(f"--data {data}: expected at least two faces of held-out identities, got {len(held_out.images)}")
    return held_out


def load_or_train_judge(data: Path, size: int, path: Path | None) -> AttributeClassifier:
    """A classifier of faces of identities that neither the model nor the evaluation uses."""
    if path is not None and path.is_file():
        return load_judge(path)
    judge = train_classifier(load_faces(data, size, "classifier"), JUDGED)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in judge.state_dict().items()}, path)
    return judge


def section(result: Evaluation, model: str, faces: int) -> str:
    """The measured part of a card, as Markdown."""
    plain, full = result.wplus_only, result.styleres
    lines = [
        BEGIN,
        f"Measured on {result.faces} faces of held-out identities with",
        f"`styleres evaluate --model {model} --faces {faces} --data FACES.parquet --card`.",
        "",
        "| reconstruction | L2 (mean squared, [-1, 1]) | feature distance (EfficientNet-Lite0, LPIPS-like) |",
        "|---|---|---|",
        f"| W+ alone | {plain.l2:.4f} | {plain.perceptual:.3f} |",
        f"| with E1 and E2 | {full.l2:.4f} | {full.perceptual:.3f} |",
        f"| ratio | {full.l2 / plain.l2:.2f} | {full.perceptual / plain.perceptual:.2f} |",
        "",
        f"Smile added, inverted again and taken away: L2 to the input {result.cycle_l2:.4f}.",
        "",
        "Mean change of the probability that attribute classifiers give (trained on real faces of other identities than the",
        "model's and these). In brackets: the same edit of the code without the residual.",
        "",
        "| edit | " + " | ".join(name.replace("_", " ") for name in result.classifier_accuracy) + " |",
        "|---|" + "---|" * len(result.classifier_accuracy),
    ]
    for effect, alone in zip(result.effects, result.wplus_effects, strict=True):
        lines.append(f"| {effect.edit}={effect.strength:+g} | " + " | ".join(cells(effect, alone)) + " |")
    accuracy = " | ".join(f"{value:.3f}" for value in result.classifier_accuracy.values())
    lines += [f"| accuracy on real faces | {accuracy} |", END]
    return "\n".join(lines)


def cells(effect: EditEffect, alone: EditEffect) -> list[str]:
    return [f"{effect.moved[name]:+.3f} ({alone.moved[name]:+.3f})" for name in effect.moved]


def with_section(card: str, measured: str) -> str:
    """Replace what stands between the markers, or append it."""
    if BEGIN in card and END in card:
        return card[: card.index(BEGIN)] + measured + card[card.index(END) + len(END) :]
    return card.rstrip() + "\n\n## Measured quality\n\n" + measured + "\n"


def main() -> None:
    app()


if __name__ == "__main__":
    main()
