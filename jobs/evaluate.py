"""styleres evaluate: measure a bundle on held-out identities, and write the numbers into its card."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from safetensors.torch import load_file, save_file

from jobs import options
from jobs.errors import UsageError, explained
from ops.checkpoints.bundle import open_bundle
from ops.inversion.styleres import StyleRes
from ops.metrics.attributes import AttributeClassifier, train_classifier
from ops.metrics.evaluation import EditEffect, Evaluation, evaluate
from ops.training.data import load_faces

JUDGED = ("smiling", "male", "young", "eyeglasses", "bangs", "blond_hair", "black_hair", "mouth_slightly_open")
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


def evaluate_command(
    data: Annotated[Path, typer.Option("--data", help="Parquet of aligned faces: image, identity, attributes.")],
    model: options.Model = "mini64",
    faces: Annotated[int, typer.Option("--faces", min=16, help="Held-out faces.")] = 512,
    judge: Annotated[Path | None, typer.Option("--judge", help="Keep the attribute classifier here; reuse it.")] = None,
    card: Annotated[bool, typer.Option("--card", help="Write the numbers into the bundle's model card.")] = False,
) -> None:
    """Measure reconstruction and edits of a bundle on faces of identities that it never saw."""
    with explained():
        bundle = open_bundle(model)
        loaded = bundle.load()
        if not isinstance(loaded, StyleRes):
            raise UsageError(f"{model} is a {bundle.method} bundle; this evaluation compares StyleRes with its own W+")
        size = bundle.config.encoder.input_size
        held_out = load_faces(data, size, "held_out", limit=faces)
        classifier = load_or_train_judge(data, size, judge)
        result = evaluate(loaded, held_out.images, held_out.attributes, bundle.editors(), EDITS, classifier)
        print(json.dumps(dataclasses.asdict(result), indent=1))
        if card:
            path = bundle.path / "README.md"
            path.write_text(with_section(path.read_text("utf-8"), section(result, model, faces)), "utf-8")


def load_or_train_judge(data: Path, size: int, path: Path | None) -> AttributeClassifier:
    """A classifier of faces of identities that neither the model nor the evaluation uses."""
    if path is not None and path.is_file():
        judge = AttributeClassifier(JUDGED)
        judge.load_state_dict(load_file(path))
        return judge.eval()
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
    typer.run(evaluate_command)


if __name__ == "__main__":
    main()
