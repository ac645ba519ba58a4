"""The paper's findings on a generator that fits this machine: what each part of StyleRes gives, and how its rivals compare.

    python -m benchmarks.findings ablations --data FACES --discriminator PRIOR --out runs/findings
    python -m benchmarks.findings rivals    --data FACES --discriminator PRIOR --out runs/findings
    python -m benchmarks.findings ablations --dry-run ...         # prints the `styleres` commands, runs nothing

Everything learns from equal starts (generator, E0 and directions of `--base`; E1, E2 and the rivals' parts from nothing), on
the same images, in the same number of steps, once per seed; then one `styleres evaluate` measures all of them in one table.
PRIOR is a folder whose discriminator begins the adversarial losses: a bundle has none. The same command again goes on where it
was stopped.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from ops.checkpoints.bundle import open_bundle
from ops.checkpoints.prior import DISCRIMINATOR, Prior, read_prior_tensors, write_prior
from ops.inversion.styleres import StyleRes
from ops.training.run import edits_of, save_edits
from ops.training.trainer import save_result

Question = Literal["ablations", "rivals"]
PAPER = ("composite_weight=0", "direction_share=0", "edit_share=0.5", "cycle_pixel_weight=3", "cycle_perceptual_weight=1")
"""The paper's losses and no other, with its cycle at a weight that shows: edits towards random codes, half of the samples."""


@dataclass(frozen=True)
class Variant:
    """One column of the table: what is trained, and what it becomes."""

    name: str
    settings: tuple[str, ...] = ()
    """Of `train residual`."""
    options: tuple[str, ...] = ()
    method: Literal["styleres", "hfgi", "hyperstyle", "sfe"] = "styleres"
    parts: tuple[str, ...] = ("residual",)

    def commands(self, run: Path, prior: Path, chosen: argparse.Namespace, seed: int) -> Iterator[list[str]]:
        """`styleres` commands that train it and write RUN/bundle."""
        common = ["--prior", str(prior), "--out", str(run)]
        how = ["--data", chosen.data, "--images", str(chosen.images), "--seed", str(seed), "--threads", str(chosen.threads)]
        if self.method == "styleres":
            changes = [word for setting in self.settings for word in ("--set", setting)]
            yield ["train", "residual", *common, *how, *changes, *self.options]
            yield ["train", "bundle", *common, "--bundle", str(run / "bundle")]
            return
        base = ["--base", chosen.base]
        for part in self.parts:
            yield ["train", "method", part, *common, *base, *how]
        yield ["train", "method-bundle", self.method, *common, *base, "--bundle", str(run / "bundle")]


VARIANTS: dict[Question, tuple[Variant, ...]] = {
    "ablations": (
        Variant("StyleRes", PAPER),
        Variant("without residual", (*PAPER, "use_residual=false")),
        Variant("without E2", PAPER, ("--without-e2",)),
        Variant("without cycle", (*PAPER, "cycle_pixel_weight=0", "cycle_perceptual_weight=0")),
        Variant("without edits", (*PAPER, "edit_share=0")),
        Variant("with composites"),
    ),
    "rivals": (
        Variant("StyleRes", PAPER),
        Variant("with composites"),
        Variant("HFGI", method="hfgi", parts=("hfgi",)),
        Variant("HyperStyle", method="hyperstyle", parts=("w-encoder", "hyperstyle")),
        Variant("SFE", method="sfe", parts=("sfe-inverter", "sfe-editor")),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=get_args(Question))
    parser.add_argument("--data", required=True, help="faces, as `styleres train` takes them")
    parser.add_argument("--discriminator", type=Path, required=True, help="a prior's folder")
    parser.add_argument(
        "--base", default="mini64", help="the StyleRes bundle whose generator, E0 and directions all start from"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4800, help="of every part's training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--parallel", type=int, default=2, help="trainings at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each")
    parser.add_argument("--faces", type=int, default=512, help="held-out faces that are measured")
    parser.add_argument("--dry-run", action="store_true")
    chosen = parser.parse_args()
    prior = chosen.out / "prior"
    runs = {
        (one, seed): chosen.out / f"{one.name.replace(' ', '_')}@{seed}"
        for seed in chosen.seeds
        for one in VARIANTS[chosen.question]
    }
    trainings = [list(one.commands(run, prior, chosen, seed)) for (one, seed), run in runs.items()]
    models = [word for (one, seed), run in runs.items() for word in ("--model", f"{one.name}@{seed}={run / 'bundle'}")]
    report = chosen.out / chosen.question
    evaluation = ["evaluate", "--data", chosen.data, *models, "--also-wplus", "--faces", str(chosen.faces)]
    evaluation += ["--precision", "bf16", "--judge", str(chosen.out / "judge.safetensors"), "--out", str(report)]
    if chosen.dry_run:
        for command in [*(command for commands in trainings for command in commands), evaluation]:
            print(shlex.join(["styleres", *command]))
        return
    begin(chosen.base, chosen.discriminator, prior, list(runs.values()))
    with ThreadPoolExecutor(chosen.parallel) as pool:
        list(pool.map(follow, runs.values(), trainings))
    subprocess.run(styleres(evaluation), check=True)


def begin(base: str, discriminator: Path, prior: Path, runs: Sequence[Path]) -> None:
    """The common start: a prior's folder of the base's generator, and in every run's folder its E0 and directions."""
    bundle = open_bundle(base)
    model = bundle.load()
    if not isinstance(model, StyleRes):
        raise SystemExit(f"--base {base}: expected a StyleRes bundle, got {bundle.method}")
    judge = read_prior_tensors(discriminator, DISCRIMINATOR)
    if judge is None:
        raise SystemExit(f"--discriminator {discriminator}: it has no {DISCRIMINATOR}")
    card = f"# The generator of {base}, with another prior's discriminator\n"
    generator = Prior(model.config.generator, model.generator.state_dict(), judge)
    write_prior(prior, generator, licence=bundle.licence, source=f"{base} {bundle.digest[:16]}", card=card)
    encoder = model.inverting()[0].state_dict()
    for run in runs:
        if (run / "e0.pt").exists():
            continue
        run.mkdir(parents=True, exist_ok=True)
        save_edits(run, *edits_of(run, base))
        save_result(run / "e0.pt", encoder, 0)


def follow(run: Path, commands: Sequence[Sequence[str]]) -> None:
    """One run's commands, in order; what they print is in RUN/log.txt."""
    with (run / "log.txt").open("a", encoding="utf-8") as log:
        for command in commands:
            print(f"{run.name}: styleres {' '.join(word for word in command[:3] if word[0] != '-')}", flush=True)
            done = subprocess.run(styleres(command), check=False, stdout=log, stderr=subprocess.STDOUT)
            if done.returncode != 0:
                raise SystemExit(f"styleres {shlex.join(command)} ended with {done.returncode}; what it said is in {log.name}")


def styleres(command: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "jobs.cli", *command]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
