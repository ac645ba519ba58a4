"""What the model itself costs: FLOP, seconds and share of the machine's convolution peak, stage by stage.

    python benchmarks/model.py                          # the official FFHQ-1024 preset, random weights
    python benchmarks/model.py --model mini64 --batch 16
    python benchmarks/model.py --device cuda --batch 8 --precision bf16 --precision fp16

The peak is that of a 512 => 512 3x3 convolution at 64x64, batch 4, in the same type and with the same threads, taken
again in every round beside the stages, so that a slower minute of the machine meets all of them.

    E0        images => W+ offsets, F0            F     S => features at the injection resolution
    E1        F0, F => F_a                        E2    G_a, F_a => dF, gate
    G         S => image, features replaced by themselves
    first     invert + generate: the first edit of an image       further   generate: one more edit of it
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ops.checkpoints.bundle import open_bundle
from ops.device import channels_last, keep_freed_memory, reproducible_cuda
from ops.generators.protocol import Injection
from ops.generators.stylegan2 import ToRGB
from ops.inversion import presets
from ops.inversion.session import Precision, feature_dtype
from ops.inversion.styleres import StyleRes, StyleResConfig

AIM_FIRST_SHARE, AIM_FURTHER, AIM_BF16, AIM_PSNR = 0.70, 0.45, 1.7, 40.0
STAGES = ("E0", "F", "E1", "E2", "G", "first", "further")


def random_model(config: StyleResConfig) -> StyleRes:
    """Random weights that keep activations near unit size (no denormal numbers) and images within about [-1, 1]."""
    torch.manual_seed(0)
    model = StyleRes(config)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            # E1 and E2 add up many blocks: at unit gain their residual would be ten times the features.
            gain = 1.0 if name.startswith("encoder") else 0.8
            nn.init.normal_(module.weight, std=gain * module.weight[0].numel() ** -0.5)
        if isinstance(module, ToRGB):
            module.weight.data *= 0.25
    return model.requires_grad_(False).eval()


def stages(model: StyleRes, batch: int) -> dict[str, Callable[[], Tensor]]:
    """Stage => a call that runs it on inputs computed here, once."""
    encoder, alignment, extraction = model.inverting()
    gates, generator, place = model.generating(), model.generator, model.config.place
    size, dtype, device = model.config.encoder.input_size, model.feature_dtype, model.latent_avg.device
    low = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    images = F.interpolate(low, size=(size, size), mode="bicubic").clamp(-1, 1).to(device)
    inversion = model.invert(images)
    edited = inversion.wplus_NLD + 0.05
    assert inversion.detail is not None
    residual = inversion.detail
    with model.reduced(images.device):
        encoder_features = encoder(images)[1]
    styles = generator.styles(inversion.wplus_NLD)
    features = generator.features(styles, place, dtype=dtype)

    def reduced(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with model.reduced(images.device):
                return call()

        return run

    def first() -> Tensor:
        found = model.invert(images)
        return model.generate(found.wplus_NLD + 0.05, found.detail)

    return {
        "E0": reduced(lambda: encoder(images)[0]),
        "F": lambda: generator.features(styles, place, dtype=dtype),
        "E1": reduced(lambda: extraction(alignment(encoder_features.to(dtype), features))),
        "E2": reduced(lambda: gates(features, residual.to(dtype))[0]),
        "G": lambda: generator(styles, injection=Injection(place, lambda x: x), dtype=dtype),
        "first": first,
        "further": lambda: model.generate(edited, inversion.detail),
    }


def peak_call(dtype: torch.dtype, device: torch.device) -> tuple[Callable[[], Tensor], float]:
    """=> (the convolution of the peak, its GFLOP)."""
    x = torch.randn(4, 512, 64, 64).to(device, dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(512, 512, 3, 3).to(device, dtype).contiguous(memory_format=torch.channels_last)
    return lambda: F.conv2d(x, weight, padding=1), 2 * 4 * 512 * 512 * 9 * 64 * 64 / 1e9


def seconds_of(call: Callable[[], Tensor], repeats: int) -> float:
    """The best of `repeats` calls: what disturbs a call only ever adds to it."""
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        if call().is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def gflop_of(call: Callable[[], Tensor]) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def psnr(image: Tensor, reference: Tensor) -> float:
    """In dB, of images in nominal [-1, 1], both clamped to it."""
    error = (image.clamp(-1, 1) - reference.clamp(-1, 1)).double().square().mean()
    return float(10 * torch.log10(4 / error))


def report(rounds: list[dict[str, dict[str, float]]], gflop: dict[str, float], quality: dict[str, float]) -> str:
    lines = []
    for precision in rounds[0]:
        lines += ["", f"{precision}, convolution peak {median(rounds, precision, 'peak'):.0f} GFLOP/s", ""]
        lines += ["| stage | GFLOP | seconds | share of the peak |", "|---|---|---|---|"]
        for stage in STAGES:
            share = statistics.median(gflop[stage] / r[precision][stage] / r[precision]["peak"] for r in rounds)
            lines.append(f"| {stage} | {gflop[stage]:.1f} | {median(rounds, precision, stage):.3f} | {share:.0%} |")
    first = statistics.median(gflop["first"] / r["fp32"]["first"] / r["fp32"]["peak"] for r in rounds)
    further = statistics.median(r["fp32"]["further"] / r["fp32"]["first"] for r in rounds)
    lines += ["", "| what | | aim | |", "|---|---|---|---|"]
    lines.append(
        row("first edit, share of the fp32 peak", f"{first:.0%}", f"≥ {AIM_FIRST_SHARE:.0%}", first >= AIM_FIRST_SHARE)
    )
    lines.append(row("a further edit against the first", f"{further:.1%}", f"≤ {AIM_FURTHER:.0%}", further <= AIM_FURTHER))
    for precision, value in quality.items():
        faster = statistics.median(r["fp32"]["first"] / r[precision]["first"] for r in rounds)
        lines.append(row(f"{precision} against fp32, first edit", f"{faster:.2f}×", f"≥ {AIM_BF16}×", faster >= AIM_BF16))
        lines.append(row(f"{precision} against fp32, PSNR", f"{value:.1f} dB", f"≥ {AIM_PSNR:.0f} dB", value >= AIM_PSNR))
    return "\n".join(lines)


def median(rounds: list[dict[str, dict[str, float]]], precision: str, key: str) -> float:
    return statistics.median(r[precision][key] for r in rounds)


def row(what: str, value: str, aim: str, reached: bool) -> str:
    return f"| {what} | {value} | {aim} | {'reached' if reached else '**missed**'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the model costs.")
    parser.add_argument("--model", help="A bundle; the official FFHQ-1024 preset with random weights if not given.")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", action="append", choices=("bf16", "fp16"), help="Beside fp32; bf16 if not given.")
    parser.add_argument("--default-allocator", action="store_true", help="Leave glibc's allocator as it is.")
    parser.add_argument("--json", type=Path, help="Write every round here.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.default_allocator:
        keep_freed_memory()
    model = open_bundle(arguments.model).load() if arguments.model else random_model(presets.ffhq1024())
    if not isinstance(model, StyleRes):
        parser.error(f"{arguments.model}: expected a StyleRes model, got {type(model).__name__}")
    channels_last(model).to(arguments.device)
    if arguments.device == "cuda":
        reproducible_cuda()
    precisions: list[Precision] = ["fp32", *(arguments.precision or ["bf16"])]
    rounds: list[dict[str, dict[str, float]]] = []
    images: dict[str, Tensor] = {}
    gflop: dict[str, float] = {}
    with torch.inference_mode():
        for _ in range(arguments.rounds):
            found: dict[str, dict[str, float]] = {}
            for precision in precisions:
                model.feature_dtype = feature_dtype(precision)
                calls = stages(model, arguments.batch)
                if not gflop:
                    gflop = {stage: gflop_of(call) for stage, call in calls.items()}
                images[precision] = calls["first"]().cpu()  # and what runs for the first time on a GPU is waited for
                convolution, work = peak_call(model.feature_dtype, model.latent_avg.device)
                convolution()
                seconds = {stage: seconds_of(call, 2) for stage, call in calls.items()}
                found[precision] = {"peak": work / seconds_of(convolution, 5), **seconds}
            rounds.append(found)
    quality = {precision: psnr(images[precision], images["fp32"]) for precision in precisions[1:]}
    what = arguments.model or "ffhq1024 preset, random weights"
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{arguments.threads} threads"
    print(f"{what}, batch {arguments.batch}, {where}, {arguments.rounds} rounds, torch {torch.__version__},")
    print(
        f"Python {platform.python_version()}, allocator {'as it is' if arguments.default_allocator else 'keeps freed memory'}"
    )
    print(report(rounds, gflop, quality))
    if arguments.json:
        arguments.json.write_text(json.dumps({"rounds": rounds, "gflop": gflop, "psnr": quality}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
