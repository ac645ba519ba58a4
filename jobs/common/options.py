"""Options that several commands share, each declared once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs.common.errors import UsageError
from ops.checkpoints.bundle import Bundle, open_method
from ops.device import Device
from ops.editing.smoothing import SmoothingSettings
from ops.face import paste
from ops.face.detect import DetectorSettings
from ops.face.mask import MaskSettings
from ops.face.paste import PasteError, PasteSettings
from ops.inversion.session import Precision
from ops.video.decode import Backend
from ops.video.encode import EncodeOptions
from pipeline.engine.runner import InProcessRunner, Runner
from pipeline.flow import Compute, InvertSettings
from pipeline.store.places import is_url

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="Videos, images, folders, 'globs', WebDataset .tar shards, .parquet files of images, @lists; paths or URLs.",
        show_default=False,
    ),
]
StoreFolder = Annotated[str, typer.Option("--store", help="Folder or URL of the Parquet store.", show_default=False)]
KeptStore = Annotated[
    str | None, typer.Option("--store", help="Keep the codes here for further edits; thrown away if not given.")
]
Only = Annotated[list[str], typer.Option("--only", help="Name or key of a source; all of the store if not given.")]
StoreModel = Annotated[str | None, typer.Option("--model", help="The bundle, if the store's is not an embedded one.")]
Model = Annotated[str, typer.Option(help="An embedded model's name, or a bundle's folder.")]
MethodName = Annotated[
    Literal["auto", "styleres", "e4e", "psp", "restyle", "hfgi", "hyperstyle", "sfe"],
    typer.Option("--method", help="Which, where --model is a folder of a bundle per method; docs/methods.md compares them."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what other settings made; what this command has finished stays.")
]
MaxFailed = Annotated[
    str, typer.Option("--max-failed", help="Inputs that may lose something before the exit code is 1: a number, or 5%.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything cheap, print the plan, and stop.")]
AllowHdr = Annotated[bool, typer.Option("--allow-hdr", help="Take PQ and HLG sources as if they were SDR.")]
ProgressMode = Annotated[
    Literal["auto", "bars", "json"], typer.Option("--progress", help="auto: bars on a terminal, JSON lines otherwise.")
]

Detector = Annotated[Literal["centerface", "insightface"], typer.Option("--detector", help="centerface comes with pip.")]
Pack = Annotated[str, typer.Option("--insightface-pack", help="Name of an insightface model pack.")]
PackRoot = Annotated[Path | None, typer.Option("--insightface-root", help="Folder that holds models/PACK.")]
Crop = Annotated[Literal["fast", "official"], typer.Option("--crop", help="official: the authors' PIL steps.")]
Codec = Annotated[
    Literal["float16", "float32"], typer.Option("--residual-codec", help="float32 stores every bit, at twice the size.")
]

Edits = Annotated[
    list[str], typer.Option("--edit", help="NAME=STRENGTH, several times; see docs/edits.md.", show_default=False)
]
UserEditors = Annotated[
    list[str],
    typer.Option("--editor", help="NAME=KIND:PATH[@OPTION=VALUE], several times; see docs/edits.md.", show_default=False),
]
EditorFolders = Annotated[
    list[str],
    typer.Option("--editors", help="[PREFIX=]FOLDER of official edit files, several times.", show_default=False),
]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="A YAML file instead of --edit.")]
Out = Annotated[str, typer.Option("--out", help="A file for one input, otherwise a folder or URL.", show_default=False)]
Smoothing = Annotated[
    Literal["none", "gaussian", "savgol", "one_euro"],
    typer.Option("--smoothing", help="Of codes over time, within a track."),
]
SmoothingSeconds = Annotated[
    float | None, typer.Option("--smoothing-seconds", help="Width of the smoothing; the filter's default if not given.")
]
Size = Annotated[
    int | None,
    typer.Option(
        "--size", help="Side in pixels of the generated faces; the smallest that covers the source's largest face if not given."
    ),
]
PasteMode = Annotated[
    paste.PasteMode,
    typer.Option(
        "--paste",
        help="delta: add only what the edit changed; composite: where it changed structure, show the generated face instead; "
        "replace: the generated face.",
    ),
]
Mask = Annotated[Literal["soft", "face"], typer.Option("--mask", help="face: the shape of the face.")]
ColorMatch = Annotated[bool, typer.Option("--color-match", help="Match the colours of the source's crop.")]
VideoCodec = Annotated[
    Literal["auto", "libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1", "prores_ks", "qtrle"],
    typer.Option("--codec", help="Of the output. auto: libx264; qtrle or ProRes for a source with transparency."),
]
Container = Annotated[
    Literal["auto", "mp4", "mov", "mkv", "webm"],
    typer.Option("--container", help="auto: the source's own where it holds the codec; mkv holds nearly everything."),
]
DropUnsupported = Annotated[
    bool, typer.Option("--drop-unsupported", help="Edit sources whose output cannot carry everything; --dry-run lists what.")
]
Quality = Annotated[float | None, typer.Option("--quality", help="Constant rate factor; the codec's default if not given.")]
Preset = Annotated[str, typer.Option("--preset", help="Speed against size, in x264's words.")]
ContactSheet = Annotated[Path | None, typer.Option("--contact-sheet", help="Where; NAME.contact_sheet.png if not given.")]
NoSheet = Annotated[bool, typer.Option("--no-contact-sheet", help="Do not write one.")]
SideBySide = Annotated[bool, typer.Option("--side-by-side", help="Also write source and edit side by side.")]

DeviceName = Annotated[Device, typer.Option("--device", help="auto: CUDA where a worker sees a GPU.")]
PrecisionName = Annotated[Precision, typer.Option("--precision", help="Of feature maps; W+ and colours stay fp32.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Faces per model call.")]
ChunkFrames = Annotated[int, typer.Option("--chunk-frames", min=1, help="Frames per work item.")]
Decoder = Annotated[Backend, typer.Option("--decoder", help="auto: decord for short clips that it reads exactly, else PyAV.")]
RunnerName = Annotated[Literal["in-process", "ray"], typer.Option("--runner", help="ray starts Ray on this machine.")]
RayAddress = Annotated[str | None, typer.Option("--ray-address", help="Join a cluster ('auto' inside ray job submit).")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Ray actors per step; as many as fit if not given.")]
CpusPerWorker = Annotated[float, typer.Option("--cpus-per-worker", min=0.1, help="num_cpus of a Ray actor.")]
GpusPerWorker = Annotated[float, typer.Option("--gpus-per-worker", min=0, help="num_gpus of a Ray actor; may be a share.")]
NumGpus = Annotated[int | None, typer.Option("--num-gpus", min=0, help="Logical GPUs of a Ray started here.")]
ItemSeconds = Annotated[
    float, typer.Option("--item-seconds", min=1, help="An item that takes a Ray worker longer is tried once more, then lost.")
]
NodeSeconds = Annotated[
    float, typer.Option("--node-seconds", min=0, help="How long to wait for an autoscaler's first node with room for a worker.")
]


def bundle_from(model: str, method: str) -> Bundle:
    """`--model` and `--method`."""
    return open_method(model, None if method == "auto" else method)  # type: ignore[arg-type]


def compute_from(
    device: Device,
    precision: Precision,
    batch_size: int,
    chunk_frames: int,
    decoder: Backend,
    cpus_per_worker: float,
    gpus_per_worker: float,
) -> Compute:
    return Compute(device, precision, batch_size, chunk_frames, decoder, cpus_per_worker, gpus_per_worker)


def invert_settings_from(detector: str, pack: str, root: Path | None, crop: str) -> InvertSettings:
    return InvertSettings(
        detector=DetectorSettings(
            kind=detector,  # type: ignore[arg-type]
            pack=pack,
            root=None if root is None else str(root.absolute()),
        ),
        crop=crop,  # type: ignore[arg-type]
    )


def paste_from(mode: str, mask: str, color_match: bool, bundle: Bundle) -> PasteSettings:
    settings = PasteSettings(mode=mode, mask=MaskSettings(kind=mask), color_match=color_match)  # type: ignore[arg-type]
    try:
        return settings.fitted(bundle.framing.crop)
    except PasteError as error:
        raise typer.BadParameter(str(error)) from error


def encode_from(codec: str, quality: float | None, preset: str) -> EncodeOptions:
    try:
        if codec == "auto":
            return EncodeOptions(codec_is_default=True, quality=quality, preset=preset)  # type: ignore[arg-type]
        return EncodeOptions(codec=codec, quality=quality, preset=preset)  # type: ignore[arg-type]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def out_from(out: str) -> str:
    """`--out` as it is meant: with `~` expanded. Raises UsageError for what can be no place of results.

    A job's working folder on a Ray cluster is a copy that is thrown away, so a relative path is refused there.
    """
    if out in ("", "-"):
        raise UsageError("--out: results are files, and cannot go to standard output; name a file or a folder")
    if is_url(out):
        return out
    expanded = os.path.expanduser(out)
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not os.path.isabs(expanded):
        raise UsageError(
            f"--out {out}: the folder of a submitted Ray job is a copy that is thrown away after it; give an absolute path "
            "that every node sees, or a URL"
        )
    return expanded


@contextmanager
def runner_from(
    name: str,
    address: str | None,
    workers: int | None,
    num_gpus: int | None,
    item_seconds: float = 1800.0,
    node_seconds: float = 0.0,
) -> Iterator[Runner]:
    """In process unless Ray is asked for, by name or by an address."""
    if name == "in-process" and address is None:
        yield InProcessRunner()
        return
    from pipeline.on_ray.runner import RayRunner  # Ray takes a second to import; a local run does without

    runner = RayRunner(address, workers=workers, num_gpus=num_gpus, item_seconds=item_seconds, node_seconds=node_seconds)
    try:
        yield runner
    finally:
        runner.close()


def allowed_from(text: str) -> int | float:
    """`--max-failed`: 3 inputs, or 5% of them."""
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else int(text)
    except ValueError:
        value = -1
    if value < 0 or (text.endswith("%") and value > 1):
        raise typer.BadParameter(f"--max-failed: expected a number such as 3 or a share such as 5%, got {text}")
    return value


def size_from(size: int | None, bundle: Bundle) -> int | None:
    """Raises UsageError for a size that the model does not have."""
    sizes = bundle.config.generator.sizes
    if size is not None and size not in sizes:
        raise UsageError(f"--size {size}: {bundle.name} makes pictures of {' or '.join(map(str, sizes))} px")
    return size


def smoothing_from(kind: str, seconds: float | None) -> SmoothingSettings:
    """One width for whichever filter: a Gaussian's standard deviation, Savitzky-Golay's whole window."""
    settings = SmoothingSettings(kind=kind)  # type: ignore[arg-type]
    if seconds is None:
        return settings
    match kind:
        case "gaussian":
            return replace(settings, sigma_seconds=seconds)
        case "savgol":
            return replace(settings, window_seconds=seconds)
        case _:
            raise typer.BadParameter(f"--smoothing-seconds has no meaning for --smoothing {kind}")
