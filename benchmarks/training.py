"""How fast one training step of E1 and E2 is: bf16 and channels last against fp32 in torch's default layout.

python -m benchmarks.training --prior PRIOR
python -m benchmarks.training                    # random weights

Each variant is a process of its own, since an allocator is chosen when a process starts; they take steps in turns, so that
whatever else the machine does meets all of them. What counts is processor seconds of one thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ops.device import channels_last, keep_freed_memory
from ops.generators.discriminator import Discriminator
from ops.inversion.presets import mini64
from ops.inversion.styleres import StyleRes
from ops.networks.perceptual import Perceptual
from ops.training.presets import residual_preset
from ops.training.residual import ResidualTask
from ops.training.run import discriminator_on_prior, model_on_prior
from ops.training.trainer import Step

BASELINE = "fp32, default layout"
AIM = 2.0


@dataclass(frozen=True)
class Variant:
    name: str
    precision: torch.dtype
    last: bool
    """Channels last throughout, and glibc told to keep freed memory, as `styleres train` does; else neither anywhere."""
    tcmalloc: bool


VARIANTS = (
    Variant(BASELINE, torch.float32, False, False),
    Variant("bf16, channels last", torch.bfloat16, True, False),
    Variant(f"{BASELINE}, tcmalloc", torch.float32, False, True),
    Variant("bf16, channels last, tcmalloc", torch.bfloat16, True, True),
)


def task_of(variant: Variant, prior: Path | None) -> ResidualTask:
    """The embedded model's training with the losses of preset mini."""
    torch.manual_seed(0)
    if prior is None:
        model, discriminator = StyleRes(mini64()), Discriminator(mini64().generator)
    else:
        model = model_on_prior(prior, "mini")
        discriminator = discriminator_on_prior(prior, model.config.generator, model.config.encoder.input_size)
    perceptual = Perceptual()
    for part in (model, discriminator, perceptual):
        channels_last(part)
    directions_KD = 0.05 * torch.randn(7, model.config.generator.w_dim)
    settings = residual_preset("mini")[0]
    return ResidualTask(model, discriminator, perceptual, settings, directions_KD=directions_KD, dtype=variant.precision)


def work(variant: Variant, prior: Path | None, batch: int) -> None:
    """A child: takes a step for every line that it is given, and answers with its processor seconds."""
    torch.set_num_threads(1)
    if not variant.last:
        # Generator, discriminator and gradients ask for channels last by this name, whatever the weights' layout is.
        torch.channels_last = torch.contiguous_format
    elif not variant.tcmalloc:
        keep_freed_memory()
    task = task_of(variant, prior)
    size = task.model.config.encoder.input_size
    images = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for line in sys.stdin:
        index = int(line)
        started = time.process_time()
        task.step(Step(index, images, torch.Generator().manual_seed(index), slice(0, batch), batch))
        print(time.process_time() - started, flush=True)


def child(place: int, options: argparse.Namespace) -> subprocess.Popen[str]:
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    if VARIANTS[place].tcmalloc:
        environment["LD_PRELOAD"] = options.tcmalloc
    command = [sys.executable, "-m", "benchmarks.training", "--child", str(place), "--batch", str(options.batch)]
    if options.prior is not None:
        command += ["--prior", str(options.prior)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def step(process: subprocess.Popen[str], index: int) -> float:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{index}\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise SystemExit("a variant's process has ended; its error stands above")
    return float(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, help="Folder of a StyleGAN2 prior; random weights of mini64's sizes without one.")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=4, help="Steps of each variant that count, after one that warms up.")
    parser.add_argument("--tcmalloc", default="libtcmalloc_minimal.so.4", help="For LD_PRELOAD; '' leaves these variants out.")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        work(VARIANTS[options.child], options.prior, options.batch)
        return
    places = [place for place, variant in enumerate(VARIANTS) if options.tcmalloc or not variant.tcmalloc]
    processes = {place: child(place, options) for place in places}
    seconds: dict[int, list[float]] = {place: [] for place in places}
    try:
        for index in range(options.rounds + 1):
            for place, process in processes.items():
                spent = step(process, index)
                if index:
                    seconds[place].append(spent)
    finally:
        for process in processes.values():
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
    print(report(seconds, options.batch))


def report(seconds: dict[int, list[float]], batch: int) -> str:
    """Markdown. The ratio is the median over rounds of the quotient of two variants' steps in the same round."""
    lines = ["| step of E1 and E2 | images per processor second | against fp32 in the default layout (least to most) |"]
    lines.append("|---|---|---|")
    for place, spent in seconds.items():
        ratios = [before / now for before, now in zip(seconds[0], spent, strict=True)]
        said = f"{statistics.median(ratios):.2f}× ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(f"| {VARIANTS[place].name} | {batch / statistics.median(spent):.2f} | {said} |")
    ours = statistics.median(before / now for before, now in zip(seconds[0], seconds[1], strict=True))
    lines.append(f"\nbf16 with channels last: {ours:.2f}×, aim {AIM}: {'reached' if ours >= AIM else 'missed'}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
