"""What every inversion method costs, side by side in one process: parameters, bytes kept, time to invert and to edit.

    python -m benchmarks.methods                       # the official FFHQ-1024 sizes, random weights, one face
    python -m benchmarks.methods --model models/hfgi --model models/sfe --batch 16

Seconds are the processor's, of this process: other work on the machine does not count. Every round runs every method once,
and the median over rounds is shown, so that a slower minute of the machine meets all of them.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from ops.checkpoints.bundle import open_bundle
from ops.device import channels_last, keep_freed_memory
from ops.generators.stylegan2 import ToRGB
from ops.inversion.e4e import E4eConfig
from ops.inversion.hfgi import HfgiConfig
from ops.inversion.hyperstyle import HyperStyleConfig
from ops.inversion.inverter import Inverter, ModelConfig
from ops.inversion.methods import Method, MethodConfig, build_inverter
from ops.inversion.sfe import SfeConfig
from ops.inversion.styleres import StyleResConfig
from ops.inversion.wplus import RestyleConfig, WplusConfig
from schemas import residual_bytes


def official(method: Method) -> MethodConfig:
    """The sizes of the released FFHQ-1024 model."""
    match method:
        case "styleres":
            return StyleResConfig()
        case "e4e":
            return WplusConfig()
        case "psp":
            return WplusConfig(encoder=E4eConfig(rows="each"))
        case "restyle":
            return RestyleConfig()
        case "hfgi":
            return HfgiConfig()
        case "hyperstyle":
            return HyperStyleConfig()
        case "sfe":
            return SfeConfig()


def random_model(method: Method) -> Inverter:
    """Random weights that keep activations near unit size: denormal numbers would cost time of their own."""
    torch.manual_seed(0)
    model = build_inverter(method, official(method))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.8 * module.weight[0].numel() ** -0.5)
        if isinstance(module, ToRGB):
            module.weight.data *= 0.25
    return model.requires_grad_(False).eval()


@dataclass(frozen=True)
class Cost:
    """Of one method, in one round."""

    invert: float
    """Processor seconds per face."""
    edit: float
    """The same, of one edit of what is stored; the reconstruction costs as much."""


def measured(model: Inverter, batch: int) -> Cost:
    size = model.config.input_size
    images = torch.nn.functional.interpolate(torch.randn(batch, 3, 8, 8), size=(size, size), mode="bicubic").clamp(-1, 1)
    started = time.process_time()
    found = model.invert(images)
    inverted = time.process_time()
    edited: Tensor = model.generate(found.wplus_NLD + 0.05, found.detail)
    done = time.process_time()
    assert edited.isfinite().all()
    return Cost((inverted - started) / batch, (done - inverted) / batch)


def facts(model: Inverter) -> dict[str, float]:
    """Numbers that do not depend on the machine."""
    config: ModelConfig = model.config
    wplus = 4 * config.generator.num_ws * config.generator.w_dim
    shape = config.detail_shape or (0,)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "wplus_bytes": wplus,
        "detail_numbers": math.prod(shape),
        "float16_bytes": wplus + residual_bytes(shape, "float16"),
        "float32_bytes": wplus + residual_bytes(shape, "float32"),
    }


def readable(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what every inversion method costs.")
    parser.add_argument("--model", action="append", help="A bundle, several times; all official sizes if not given.")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    names: list[str] = arguments.model or list(get_args(Method))
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    known: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        for _ in range(arguments.rounds):
            for name in names:
                model = open_bundle(name).load() if arguments.model else random_model(name)  # type: ignore[arg-type]
                channels_last(model)
                measured(model, arguments.batch)  # kernels and memory are chosen in the first call
                costs[name].append(measured(model, arguments.batch))
                known[name] = facts(model)
                del model
                gc.collect()
    print(f"batch {arguments.batch}, {arguments.threads} threads, {arguments.rounds} rounds, torch {torch.__version__},")
    print(f"Python {platform.python_version()}; processor seconds per face\n")
    print("| method | parameters | numbers beside W+ | bytes, float16 | invert | a further edit | against e4e's |")
    print("|---|---|---|---|---|---|---|")
    middle = {name: (median(costs[name], "invert"), median(costs[name], "edit")) for name in names}
    base = middle.get("e4e", middle[names[0]])
    for name in names:
        fact, (invert, edit) = known[name], middle[name]
        print(
            f"| {name} | {fact['parameters'] / 1e6:.1f} M | {fact['detail_numbers']:,.0f} | {readable(fact['float16_bytes'])} "
            f"| {invert:.3f} | {edit:.3f} | {invert / base[0]:.1f}×, {edit / base[1]:.1f}× |"
        )
    if arguments.json:
        rows = {name: {**known[name], "invert": middle[name][0], "edit": middle[name][1]} for name in names}
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def median(rounds: list[Cost], field: str) -> float:
    return statistics.median(getattr(cost, field) for cost in rounds)


if __name__ == "__main__":
    main()
