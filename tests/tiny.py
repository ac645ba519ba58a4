"""A random model of a few kilobytes and clips with faces that a stub detector finds: the whole flow, fast, offline.

The weights mean nothing, but their scale is right: pictures fill the range without saturating, an edit changes them visibly,
and the residual matters, so a test that compares two runs compares something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from av.video.frame import VideoFrame
from safetensors.torch import save_file
from torch import Tensor

from jobs.common.prepare import open_store
from ops.checkpoints.bundle import Bundle, EditEntry, write_bundle
from ops.device import Device
from ops.editing.definitions import Definition, parse_definition
from ops.editing.recipe import parse_edits
from ops.face.detect import Detector, DetectorFactory, DetectorSettings, Face
from ops.face.framing import Crop
from ops.face.paste import PasteSettings
from ops.generators.protocol import style_channels
from ops.generators.stylegan2_config import StyleGAN2Config
from ops.inversion.e4e import E4eConfig
from ops.inversion.methods import Method, build_inverter
from ops.inversion.residual import ResidualConfig
from ops.inversion.styleres import StyleResConfig
from ops.video.decode import Backend
from ops.video.encode import EncodeOptions
from ops.video.probe import probe
from pipeline import flow
from pipeline.engine.runner import InProcessRunner, Runner, silent
from pipeline.engine.stage import Source
from pipeline.sources.outputs import Outputs
from pipeline.steps.plan import PlanSettings
from pipeline.store.places import Place
from pipeline.store.tables import Store
from schemas import ResidualCodec, source_id_from_sha256
from tests.ops.video.media import make_video, moving_frames
from tests.small_model import small

WIDTH = 32
CONFIG = StyleResConfig(
    generator=StyleGAN2Config(
        resolution=32, w_dim=WIDTH, z_dim=WIDTH, mapping_layers=2, channels={4: 16, 8: 16, 16: 16, 32: 8}
    ),
    encoder=E4eConfig(
        input_size=32,
        stem_channels=16,
        groups=((16, 16, 1), (16, 16, 1), (16, 16, 1), (16, 16, 1)),
        head_channels=16,
        w_dim=WIDTH,
        num_ws=8,
        coarse_rows=3,
        middle_rows=3,
        feature_tap=0,
    ),
    residual=ResidualConfig(resolution=16, encoder_channels=16, generator_channels=16, width=16, residual_channels=8),
)
EDITS = (
    EditEntry("warm", "direction", "a random direction"),
    EditEntry("cold", "direction", "another, on the later rows", rows=(3, 8)),
    EditEntry("ganspace_0", "ganspace", "to a coordinate", component=0),
)


def tiny_bundle(
    path: Path,
    *,
    method: Method = "styleres",
    seed: int = 0,
    crop: Crop = "ffhq",
    content: tuple[int, int] | None = None,
) -> Bundle:
    """A bundle with random weights, the same for the same seed."""
    torch.manual_seed(seed)
    config = CONFIG if method == "styleres" else small(method, CONFIG.generator, CONFIG.encoder)
    model = build_inverter(method, config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.fill_(1.0)
            elif name.startswith("encoder.styles") and name.endswith("linear.weight"):
                tensor.normal_(0, 6.0)  # codes that differ from face to face
            elif name == "latent_avg":
                tensor.normal_(0, 0.5)
            elif name.endswith("torgb.weight"):
                tensor.mul_(0.2)
            elif name.startswith("extraction.convs.2"):
                tensor.mul_(4.0)
            elif name.startswith("gates.convs.2"):
                tensor.mul_(2.0)
            elif name in ("transform.last.weight", "encoder.rows.weight"):  # of the light StyleRes
                tensor.normal_(0, 1)
            elif name.startswith("inverter.styles") and name.endswith("weight"):
                tensor.normal_(0, 1.0)
            elif name == "encoder.linear.weight":  # HyperStyle's encoder of w
                tensor.normal_(0, 6.0)
            elif name.startswith("consultation.condition"):
                tensor.mul_(4.0)
            elif name.startswith("deltas."):
                tensor.normal_(0, 1.0)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    components = torch.linalg.qr(torch.randn(WIDTH, 3)).Q.T.contiguous()
    directions = {
        "direction.warm": 0.5 * torch.randn(8, WIDTH),
        "direction.cold": 0.5 * torch.randn(WIDTH),
        "ganspace.mean": torch.zeros(WIDTH),
        "ganspace.components": components,
        "ganspace.std": torch.tensor([1.0, 0.8, 0.6]),
    }
    return write_bundle(
        path,
        name="tiny",
        method=method,
        config=config,
        licence="Apache-2.0",
        edits=EDITS,
        weights=weights,
        directions=directions,
        card="random weights, for tests\n",
        crop=crop,
        content=content,
    )


def user_editors(folder: Path) -> list[Definition]:
    """A user's files for the tiny model, one of each kind that can be tiny: `grin` in W+, `brows` in S, the mapper `hair`."""
    folder.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(7)
    np.save(folder / "grin.npy", 0.5 * torch.randn(8, WIDTH, generator=random).numpy())
    channels = style_channels(CONFIG.generator)
    layers = {name: 0.5 * torch.randn(channels[name], generator=random) for name in ("b8.conv1", "b16.conv1", "b32.torgb")}
    save_file(layers, folder / "brows.safetensors")
    mapper = {}
    for group in ("course", "medium"):
        for layer in range(1, 5):
            mapper[f"{group}_mapping.mapping.{layer}.weight"] = 100 * torch.randn(WIDTH, WIDTH, generator=random)
            mapper[f"{group}_mapping.mapping.{layer}.bias"] = 10 * torch.randn(WIDTH, generator=random)
    torch.save(mapper, folder / "hair.pt")
    texts = ("grin=direction:grin.npy@rows=1:6", "brows=style-direction:brows.safetensors", "hair=mapper:hair.pt")
    return [parse_definition(text).located(folder) for text in texts]


# ------------------------------------------------------------------------------------------- clips with marks for faces

MARKS = ((240, 16, 200), (16, 240, 60))
"""Colours of the two "people"; the texture around them is duller."""


def marked_frames(n: int, width: int = 160, height: int = 96, *, people: int = 2, absent: range = range(0)) -> list[np.ndarray]:
    """Moving texture with one moving square per person; the first person is away in the frames `absent`."""
    frames = moving_frames(n, width, height)
    for i, frame in enumerate(frames):
        frame[:] = frame // 2 + 64  # dull
        for person in range(people):
            if person == 0 and i in absent:
                continue
            x = round(width * (0.3 + 0.4 * person) + 6 * np.sin(i / 5 + person))
            y = round(height * 0.5 + 4 * np.cos(i / 7 + person))
            frame[y - 14 : y + 15, x - 12 : x + 13] = MARKS[person]
            frame[y + 4 : y + 8, x - 6 : x + 7] = (40, 40, 40)  # something to see inside
    return frames


class MarkDetector(Detector):
    """Finds the squares of `marked_frames`: a function of the frame alone, as a real detector is."""

    def detect(self, frame: np.ndarray) -> list[Face]:
        faces = []
        for colour in MARKS:
            near = (np.abs(frame.astype(np.int16) - colour).max(axis=2) < 60).astype(np.uint8)
            count, _, stats, _ = cv2.connectedComponentsWithStats(near)
            if count < 2:
                continue
            x, y, w, h, area = (int(v) for v in stats[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))])
            if area < 100:
                continue
            places = np.array([[0.25, 0.35], [0.75, 0.35], [0.5, 0.55], [0.3, 0.8], [0.7, 0.8]])
            landmarks = (np.array([x, y]) + places * [w - 1, h - 1]).astype(np.float32)
            faces.append(Face(np.array([x, y, x + w, y + h], np.float32) - 0.5, landmarks, 0.5 + area / 10000))
        return sorted(faces, key=lambda face: -face.score)


@dataclass(frozen=True)
class MarkFactory(DetectorFactory):
    """Gives steps the stub detector, in whichever process they run."""

    setting: float = 0.5

    def build(self, device: Device) -> Detector:
        return MarkDetector()

    def decides(self) -> dict[str, Any]:
        return {"kind": "marks", "setting": self.setting}


def command_finds_marks(patch: pytest.MonkeyPatch) -> None:
    """The command, which takes no other detectors than its own, finds marks in this process."""
    patch.setattr(DetectorSettings, "build", lambda self, device="cpu": MarkDetector())


def refuse_detectors(patch: pytest.MonkeyPatch, why: str = "a detector was built") -> None:
    def refused(*arguments: object) -> None:
        raise AssertionError(why)

    for one in (DetectorSettings, MarkFactory):
        patch.setattr(one, "build", refused)


def marked_clip(path: Path, n: int = 40, *, people: int = 2, absent: range = range(0), sound: str | None = "aac") -> Path:
    """A clip of marked faces, with sound, and with key frames every 12 frames, so that readers seek."""
    options = {"preset": "ultrafast", "crf": "8", "g": "12"}
    return make_video(path, marked_frames(n, people=people, absent=absent), sound=sound, options=options)


def cut_of(clip: Path, path: Path, frames: int) -> Path:
    """The first frames of a real clip, encoded again at high quality, without its sound."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as out:
        stream = source.streams.video[0]
        video = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "8", "g": "12"})
        context = video.codec_context
        context.width, context.height, context.pix_fmt = stream.width, stream.height, "yuv420p"
        context.thread_count = 1
        for i, frame in enumerate(source.decode(stream)):
            if i == frames:
                break
            picture = VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"))
            picture.pts, picture.time_base = i, Fraction(1, 25)
            out.mux(context.encode(picture))
        out.mux(context.encode(None))
    return path


# --------------------------------------------------------------------------------------------------------- running it


def source_of(path: Path) -> Source:
    info = probe(path)
    return Source(source_id_from_sha256(info.sha256), info)


INVERTING = flow.InvertSettings(detector=MarkFactory())


def inverted(
    root: Place,
    sources: Sequence[Source],
    bundle: Bundle,
    *,
    codec: ResidualCodec = "float32",
    chunk_frames: int = 16,
    batch_size: int = 4,
    runner: Runner | None = None,
    gpus_per_worker: float = 0.0,
    cpus_per_worker: float = 1.0,
    backend: Backend = "auto",
) -> tuple[Store, flow.Summary]:
    """A new store with these sources in it."""
    store = open_store(root, bundle, codec)
    compute = flow.Compute("cpu", "fp32", batch_size, chunk_frames, backend, cpus_per_worker, gpus_per_worker)
    summary = flow.invert(sources, store, bundle, INVERTING, compute, runner or InProcessRunner(), silent)
    return store, summary


PASTE = PasteSettings(within="crop")
"""Without the network of face parts: it knows nothing of squares, and takes ten times as long as the tiny model. Tests of its
results, and that they are the same for any chunk, ask for `PasteSettings()`."""
LOSSLESS = EncodeOptions(codec="ffv1", pix_fmt="bgr0", gop_frames=8)  # the numbers that an edit works with


def rendered(
    folder: Place,
    store: Store,
    sources: Sequence[Source],
    bundle: Bundle,
    *edits: str,
    encode: EncodeOptions = LOSSLESS,
    paste: PasteSettings = PASTE,
    chunk_frames: int = 16,
    batch_size: int = 4,
    sheet_frames: int = 0,
    fade_seconds: float = 0.2,
    runner: Runner | None = None,
    gpus_per_worker: float = 0.0,
    cpus_per_worker: float = 1.0,
    backend: Backend = "auto",
    editors: Sequence[Definition] = (),
) -> tuple[list[Path], flow.Summary]:
    """The edited files, in the order of the sources."""
    container = ".mkv" if encode.codec == "ffv1" else ".mp4"
    outputs = Outputs(str(folder), encode=encode, container=container, sheets=bool(sheet_frames))
    settings = flow.RenderSettings(
        PlanSettings(parse_edits(edits).with_editors(editors), fade_seconds=fade_seconds),
        paste,
        encode,
        sheet_frames=sheet_frames,
    )
    compute = flow.Compute("cpu", "fp32", batch_size, chunk_frames, backend, cpus_per_worker, gpus_per_worker)
    summary = flow.render(sources, outputs, store, bundle, settings, compute, runner or InProcessRunner(), silent)
    return [Path(outputs.of(source).video) for source in sources], summary


def rows_of(store: Store) -> dict[str, pa.Table]:
    """Every table that inverting writes, sorted by key, without the places it came from."""
    names = ("frames", "faces", "tracks", "latents", "residuals")
    return {name: store.read(name).combine_chunks() for name in names}


def without(weights: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """A state dict without some of its parts."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(prefixes)}
