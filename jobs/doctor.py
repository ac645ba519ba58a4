"""styleres doctor: what a model or file is; without one, whether this machine has what the commands need."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs.common.errors import FAILED, explained
from ops.checkpoints.bundle import open_bundle
from ops.checkpoints.doctor import Diagnosis, diagnose
from ops.face.detect import detects_on_cuda
from ops.files.errors import CheckpointError
from pipeline.on_ray.cluster import NoCluster, cluster_facts
from pipeline.store.places import PlaceError, exists, folders, joined, listed, place, remove, write_text
from pipeline.store.tables import Store, StoreError

OPTIONAL = ("decord",)  # PyAV reads everything that decord does
IMPORTED = {"torch": "torch", "av": "av", "opencv-python": "cv2", "onnxruntime": "onnxruntime", "decord": "decord"}
"""Packages with native libraries, which can be installed and still not load."""
CODECS = {"libx264": True, "libx265": False, "libsvtav1": False, "libvpx-vp9": False, "ffv1": False, "aac": False}
"""Encoders of `--codec`, and whether a default needs it."""
LOW_DISK_BYTES, LOW_MEMORY_BYTES = 5e9, 4e9


@dataclass(frozen=True)
class Check:
    """One line about this machine."""

    state: Literal["ok", "warning", "missing"]
    """missing: something that a command needs by default; the exit code is then 1."""
    what: str
    found: str


def doctor(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL_OR_FILE]", help="A bundle, a checkpoint, an edit's file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
    store: Annotated[str | None, typer.Option("--store", help="Also check that this place can be written and read.")] = None,
    ray_address: Annotated[str | None, typer.Option("--ray-address", help="Also check this cluster.")] = None,
    insightface_pack: Annotated[str | None, typer.Option("--insightface-pack", help="Also look for this pack.")] = None,
) -> None:
    """Say what a model or file is; without one, check this machine, and on request a cluster and the place of a store."""
    with explained(FAILED):
        if model is None:
            checks = environment()
            checks += [] if insightface_pack is None else [pack(insightface_pack)]
            checks += [] if store is None else storage(store)
            checks += [] if ray_address is None else cluster(ray_address)
            failed = any(check.state == "missing" for check in checks)
            content: object = {"checks": [dataclasses.asdict(check) for check in checks]}
            lines = [f"{check.state:<8} {check.what:<22} {check.found}" for check in checks]
        else:
            diagnosis = diagnose(model)
            failed = diagnosis.problem is not None
            content = dataclasses.asdict(diagnosis)
            lines = lines_of(diagnosis)
    print(json.dumps(content) if as_json else "\n".join(lines))
    raise typer.Exit(FAILED if failed else 0)


def lines_of(diagnosis: Diagnosis) -> list[str]:
    """A diagnosis for people."""
    known = diagnosis.known_as or "no: not a file of the catalogue, or one whose digest is not known"
    rows = {"is": diagnosis.what, "SHA-256": diagnosis.sha256 or "-", "in the catalogue": known, "licence": diagnosis.licence}
    rows |= diagnosis.facts
    rows |= {"problem": diagnosis.problem} if diagnosis.problem else {"next": diagnosis.next}
    return [diagnosis.path, *(f"  {name:<18} {value}" for name, value in rows.items())]


def environment() -> list[Check]:
    """Everything that a command may need on this machine."""
    return [python(), *packages(), *codecs(), *compute(), *space(), embedded()]


def python() -> Check:
    state: Literal["ok", "missing"] = "ok" if sys.version_info >= (3, 11) else "missing"
    return Check(state, "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def packages() -> list[Check]:
    """Every package that ours requires on this machine, with its version; those with native libraries are loaded."""
    checks = []
    for name in required_packages():
        absent: Literal["warning", "missing"] = "warning" if name in OPTIONAL else "missing"
        try:
            version = importlib.metadata.version(name)
            if name in IMPORTED:
                importlib.import_module(IMPORTED[name])
        except importlib.metadata.PackageNotFoundError:
            checks.append(Check(absent, name, f"not installed; pip install {name}"))
        except (ImportError, OSError, RuntimeError) as error:
            checks.append(Check(absent, name, f"{version} is installed and does not load: {str(error).splitlines()[0]}"))
        else:
            checks.append(Check("ok", name, version))
    if {"onnxruntime", "onnxruntime-gpu"} <= {name for name in ("onnxruntime", "onnxruntime-gpu") if is_installed(name)}:
        checks.append(Check("warning", "onnxruntime", "the CPU and the GPU package are both installed; keep one"))
    return checks


def required_packages() -> list[str]:
    """Names of what our own package requires without extras; those for other machines only when they are here."""
    names = []
    for line in importlib.metadata.requires("styleres-video") or []:
        name = re.split(r"[\s\[<>=!~;(]", line, maxsplit=1)[0]
        other = "extra ==" in line or ("platform_machine" in line and platform.machine() not in line)
        if not other:
            names.append(name)
    return names


def is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def codecs() -> list[Check]:
    """Encoders inside PyAV's FFmpeg; no ffmpeg program is needed."""
    try:
        import av.codec
    except ImportError:
        return []  # said already
    checks = []
    for name, needed in CODECS.items():
        try:
            av.codec.Codec(name, "w")
        except ValueError:
            checks.append(Check("missing" if needed else "warning", f"encoder {name}", "not in this build of PyAV"))
        else:
            checks.append(Check("ok", f"encoder {name}", "in PyAV"))
    return checks


def compute() -> list[Check]:
    """Threads and GPUs as torch sees them."""
    try:
        import torch
    except ImportError:
        return []  # said already
    threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    crowded = threads > cores
    said = f"{threads} of torch on {cores} cores" + ("; more are slower: set OMP_NUM_THREADS" if crowded else "")
    checks = [Check("warning" if crowded else "ok", "threads", said)]
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    checks.append(Check("ok", "CUDA devices", ", ".join(devices) or "none; models run on the CPU"))
    if devices and not detects_on_cuda():
        checks.append(
            Check("warning", "onnxruntime", "has no CUDA, faces are detected on the CPU; install onnxruntime-gpu in its place")
        )
    return checks


def space() -> list[Check]:
    """Free disk here, and memory."""
    free = shutil.disk_usage(Path.cwd()).free
    checks = [Check("ok" if free > LOW_DISK_BYTES else "warning", "free disk", f"{free / 1e9:.1f} GB in {Path.cwd()}")]
    memory = available_memory()
    if memory is not None:
        enough = memory > LOW_MEMORY_BYTES
        hint = "" if enough else "; the full-size model needs about 4"
        checks.append(Check("ok" if enough else "warning", "free memory", f"{memory / 1e9:.1f} GB{hint}"))
    return checks


def available_memory() -> int | None:
    """Bytes that programs may still take; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def embedded() -> Check:
    """The model that comes with the package."""
    try:
        bundle = open_bundle("mini64")
    except CheckpointError as error:
        return Check("missing", "embedded model", str(error))
    return Check("ok", "embedded model", f"{bundle.name}, digest {bundle.digest[:16]}")


def pack(name: str) -> Check:
    """Check whether an insightface pack is where `--detector insightface` looks for it."""
    folder = Path.home() / ".insightface" / "models" / name
    there = sorted(path.name for path in folder.glob("*.onnx"))
    if not there:
        return Check("missing", "insightface pack", f"{folder} has no .onnx files; see docs/checkpoints.md")
    return Check("ok", "insightface pack", f"{', '.join(there)} in {folder}")


def storage(where: str) -> list[Check]:
    """Check whether files can be written, read and removed there; what the store there is; its disk. Leaves nothing."""
    try:
        root = place(where)
        # A folder that is not there yet is made by whoever fills it: what counts is whether it can be.
        folder = next(one for one in (root, *root.parents) if one.exists()) if isinstance(root, Path) else root
        probe_file = folder / f".doctor-{secrets.token_hex(4)}"
        write_text(probe_file, "written by styleres doctor")
        same = probe_file.read_text("utf-8") == "written by styleres doctor"
        remove(probe_file)
    except (OSError, PlaceError) as error:
        return [Check("missing", "store's place", f"{where} cannot be written: {error}")]
    said = "can be written and read" if folder == root else f"can be made: {folder} can be written and read"
    checks = [Check("ok" if same else "missing", "store's place", f"{root} {said}")]
    if exists(joined(root, "meta/info.json")):
        try:
            info = Store.open(root).info
        except StoreError as error:
            checks.append(Check("missing", "store", str(error)))
        else:
            found = f"model {info.model_name}, schema {info.schema_version}, {info.residual_codec}"
            checks.append(Check("ok", "store", found))
    elif there := [*folders(root), *(file.path.name for file in listed(root))]:
        names = ", ".join(there[:5])
        checks.append(Check("missing", "store", f"none, and {root} holds {names}; a new store needs an empty folder"))
    else:
        checks.append(Check("ok", "store", "none yet; styleres invert or edit makes one"))
    if isinstance(folder, Path):
        free = shutil.disk_usage(folder).free
        checks.append(Check("ok" if free > LOW_DISK_BYTES else "warning", "store's disk", f"{free / 1e9:.1f} GB free"))
    return checks


def cluster(address: str) -> list[Check]:
    """Nodes, what is free on them, and whether their versions are this machine's."""
    try:
        facts = cluster_facts(address)
    except NoCluster as error:
        return [Check("missing", "cluster", str(error))]
    free = ", ".join(f"{facts.free.get(name, 0):g} of {facts.total.get(name, 0):g} {name}s free" for name in ("CPU", "GPU"))
    checks = [Check("ok" if facts.nodes else "missing", "cluster", f"{facts.nodes} nodes, {free}")]
    checks.append(Check("ok" if facts.free.get("CPU", 0) >= 1 else "warning", "room for a worker", free))
    return checks


def main() -> None:
    typer.run(doctor)


if __name__ == "__main__":
    main()
