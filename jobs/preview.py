"""styleres preview: a few faces of a clip, a picture or a store, with each edit and all together, as one PNG.

a clip or picture    a handful of frames is looked at, and only the faces that are shown are inverted
a store              nothing is inverted: codes, tracks and shots are those that a render takes
"""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePath
from typing import Annotated, Final

import numpy as np
import typer
from PIL import Image

from jobs.common import options
from jobs.common.errors import FAILED, UsageError, explained
from jobs.common.moments import SeenFace, looked_for, stored_moments, various
from jobs.common.prepare import definitions_from, open_settled, opened, recipe_from, require_size, stored_bundle, stored_sources
from jobs.common.preview_sheet import TILE, PreviewRow, draw_preview, save_preview
from jobs.common.settings import TABLE
from jobs.common.values import Chosen, options_of
from ops.checkpoints.bundle import DEFAULT, Bundle
from ops.device import Device, resolve_device
from ops.editing.editor import AnyEditor
from ops.editing.library import load_edits
from ops.editing.plan import plan_edits
from ops.editing.recipe import Edit, EditRecipe
from ops.editing.smoothing import SmoothingSettings, keeps_codes
from ops.face.align import crop_face, quad_height_pixels, quad_side_pixels
from ops.face.detect import DetectorSettings
from ops.face.framing import Framing
from ops.face.paste import PasteSettings
from ops.inversion.session import Session
from ops.video.errors import MediaError
from ops.video.image import is_own
from pipeline.engine.stage import Source
from pipeline.sources.inputs import Entry, entries, probed
from pipeline.steps.plan import PlanSettings, SourceCodes, covering
from pipeline.steps.render import Face, base_crops, edited_crops, paste_face, paste_needs_base
from pipeline.steps.stills import FrameReaders, stored_faces
from pipeline.store.places import exists, joined, place
from pipeline.store.tables import Store
from schemas import NO_TRACK, Failure

FRAMES_PER_FACE: Final = 3
"""So many frames are looked at for each face that is shown: enough to find other people and other shots."""
MOST_SOURCES: Final = 100
"""Sources of a folder that are listed at most, before a few of them are taken."""
MOST_STRENGTHS: Final = 12


@dataclass(frozen=True, eq=False)
class Shown:
    """A face to show, with all that its pictures are made of."""

    source: Source
    frame: np.ndarray
    face: Face
    """With the whole recipe's code."""
    alone: tuple[Face, ...]
    """With the code of each variant by itself: an entry of the recipe, or a strength."""
    near: tuple[Face, ...]
    """Other faces that the recipe edits and that reach into the picture of this one, in order of track; before `face`."""
    words: tuple[str, ...]


@options_of(TABLE, PlanSettings, PasteSettings, DetectorSettings)
def preview(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Videos, images, folders, or one store.", show_default=False),
    ],
    edit: options.Edits = [],  # noqa: B006 (typer copies it)
    recipe: options.RecipeFile = None,
    editor: options.UserEditors = [],  # noqa: B006
    editors: options.EditorFolders = [],  # noqa: B006
    strengths: Annotated[
        str | None,
        typer.Option("--strengths", help="-2,0,2,4: a ladder of each edit; then --edit is a name alone.", show_default=False),
    ] = None,
    faces: Annotated[int, typer.Option("--faces", min=1, max=40, help="Rows: faces to show.")] = 3,
    out: Annotated[
        Path | None, typer.Option("--out", help="The PNG; NAME.preview.png in the working folder if not given.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Show it in this machine's viewer.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is no preview.")] = False,
    only: options.Only = [],  # noqa: B006
    model: Annotated[str | None, typer.Option(help="An embedded model's name, or a bundle's folder.")] = None,
    method: options.MethodName = "auto",
    device: Annotated[Device, typer.Option("--device", help="auto: CUDA where there is a GPU.")] = "auto",
    allow_hdr: options.AllowHdr = False,
    *,
    chosen: Chosen,
) -> None:
    """A few faces, chosen over shots and tracks: source, inversion, each edit, all together, pasted. One PNG, in seconds."""
    try:
        with explained():
            ladder = None if strengths is None else ladder_from(strengths)
            store = store_of(inputs)
            if only and store is None:
                raise UsageError("--only names sources of a store, and the input is none; leave it out")
            bundle = options.bundle_from(model or DEFAULT, method) if store is None else stored_bundle(store, model, method)
            texts = list(edit) if ladder is None else [named_with(text, ladder[0]) for text in edit]
            asked = recipe_from(texts, recipe, bundle, definitions_from(editor, editors))
            if ladder is not None and recipe is not None:
                raise UsageError("--strengths gives strengths to --edit NAME, and a recipe has its own; leave one out")
            loaded = load_edits(asked.names, bundle.editors(), asked.editors, bundle.config.generator)
            known = {name: one.editor for name, one in loaded.items()}
            settings = chosen.make(PlanSettings, {PlanSettings: {"recipe": asked}})
            require_size(settings.size, bundle)
            pasting = chosen.make(PasteSettings).fitted(bundle.framing.crop)
            path = out_of(out, store, inputs, overwrite=overwrite)
            variants = variants_of(asked, ladder)
            if store is None:
                session = Session(bundle.load(), device=resolve_device(device), precision="fp32", batch_size=16)
                detecting = chosen.make(DetectorSettings)
                sources = sources_from(inputs, faces, allow_hdr=allow_hdr)
                found = fresh(sources, bundle, session, asked, variants, known, settings, detecting, device, faces)
            else:
                session = Session(bundle.load("generate"), device=resolve_device(device), precision="fp32", batch_size=16)
                found = from_store(store, only, bundle, asked, variants, known, settings, faces, allow_hdr)
            size = "px and ".join(map(str, sorted({one.face.size for one in found})))
            origin = "not smoothed over time" if store is None else f"from {store.root}"
            note = f"model {bundle.name} · pictures of {size} px · paste {pasting.mode} · {origin}"
            own_codes = keeps_codes(settings.smoothing) or store is None
            save_preview(drawn(found, asked, ladder, session, bundle, pasting, note, own_codes=own_codes), path)
    except MediaError as error:
        print(f"styleres: error: {error}")
        raise SystemExit(FAILED) from error
    print(path)
    if show:
        webbrowser.open(path.absolute().as_uri())


def store_of(inputs: Sequence[str]) -> Store | None:
    """The store, if that is what the input is. Raises UsageError for a store among other inputs."""
    are = [exists(joined(place(one), "meta/info.json")) for one in inputs]
    if any(are) and len(inputs) > 1:
        raise UsageError(f"{inputs[are.index(True)]} is a store, and so the only input; name its sources with --only")
    return open_settled(inputs[0]) if any(are) else None


def ladder_from(text: str) -> list[float]:
    """`--strengths -2,0,2,4`. Raises UsageError."""
    try:
        found = [float(one) for one in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--strengths {text}: expected numbers and commas, such as -2,0,2,4") from error
    if not np.isfinite(found).all() or len(found) > MOST_STRENGTHS:
        raise UsageError(f"--strengths {text}: expected at most {MOST_STRENGTHS} finite numbers")
    return found


def named_with(text: str, strength: float) -> str:
    """`smile@track=1` => `smile=2@track=1`. Raises UsageError for an edit that has a strength."""
    name, at, rest = text.partition("@")
    if "=" in name:
        raise UsageError(f"--edit {text}: --strengths gives the strengths, so name the edit alone: --edit {name.split('=')[0]}")
    return f"{name}={strength!r}{at}{rest}"


def variants_of(recipe: EditRecipe, ladder: Sequence[float] | None) -> list[EditRecipe]:
    """Return what is shown by itself: each entry of the recipe, or each strength of each entry."""
    alone = [recipe.model_copy(update={"edits": (entry,)}) for entry in recipe.edits]
    if ladder is None:
        return alone
    return [
        one.model_copy(update={"edits": (one.edits[0].model_copy(update={"strength": strength}),)})
        for one in alone
        for strength in ladder
    ]


def out_of(out: Path | None, store: Store | None, inputs: Sequence[str], *, overwrite: bool) -> Path:
    """Return the place of the picture. Raises UsageError for an existing file other than a preview."""
    name = PurePath(str(store.root) if store is not None else inputs[0]).name or "styleres"
    path = Path(f"{PurePath(name).stem}.preview.png") if out is None else out
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out {path}: a preview is a PNG; name a file that ends so")
    if path.exists() and not overwrite and not is_own(path):
        raise UsageError(f"{path} exists already, and is no preview; use --overwrite, or another --out")
    return path


# ------------------------------------------------------------------------------------------------------- who is shown


def sources_from(inputs: Sequence[str], count: int, *, allow_hdr: bool) -> list[Source]:
    """At most `count` of the inputs, evenly spread. Raises UsageError where one of these cannot be read."""
    listed = list(islice(entries(inputs), MOST_SOURCES))
    places = sorted({(2 * i + 1) * len(listed) // (2 * count) for i in range(count)})
    found = [probed(one, allow_hdr=allow_hdr) if isinstance(one, Entry) else one for one in (listed[at] for at in places)]
    for one in found:
        if isinstance(one, Failure):
            raise UsageError(one.message)
    return [one for one in found if isinstance(one, Source)]


def fresh(
    sources: Sequence[Source],
    bundle: Bundle,
    session: Session,
    recipe: EditRecipe,
    variants: Sequence[EditRecipe],
    editors: Mapping[str, AnyEditor],
    settings: PlanSettings,
    detecting: DetectorSettings,
    device: Device,
    count: int,
) -> list[Shown]:
    """Faces out of a handful of frames, inverted now. Raises UsageError where there is none, and for a recipe with tracks."""
    if any(entry.tracks is not None for entry in recipe.edits):
        raise UsageError("tracks have no numbers before a source is inverted; preview its store, or leave @track out")
    detector = detecting.build(device) if bundle.framing.crop == "ffhq" else None
    readers, looked_at = FrameReaders(), 0
    chosen: list[tuple[Source, SeenFace]] = []
    for at, source in enumerate(sources):
        share = count // len(sources) + (at < count % len(sources))
        seen, frames = looked_for(source, readers, detector, bundle.framing, FRAMES_PER_FACE * share)
        looked_at += frames
        chosen += [(source, one) for one in various(seen, source.info.n_frames, share)]
    if not chosen:
        names = ", ".join(PurePath(one.uri).name for one in sources)
        raise UsageError(f"{names}: no face in the {looked_at} frames that were looked at; look at more with --faces")
    crops = np.stack([bundle.framing.cut(one.frame, one.quad_42) for _, one in chosen])
    wplus_NLD, detail = session.invert(crops)
    return [
        fresh_face(
            source, one, wplus_NLD[at], None if detail is None else detail[at], bundle, recipe, variants, editors, settings
        )
        for at, (source, one) in enumerate(chosen)
    ]


def fresh_face(
    source: Source,
    seen: SeenFace,
    code_LD: np.ndarray,
    detail: np.ndarray | None,
    bundle: Bundle,
    recipe: EditRecipe,
    variants: Sequence[EditRecipe],
    editors: Mapping[str, AnyEditor],
    settings: PlanSettings,
) -> Shown:
    seconds = source.info.pts_seconds(seen.ordinal)
    begin = 0.0 if recipe.clock == "container" else source.info.pts_seconds(0)
    size = settings.size or covering(seen.side_pixels, bundle.config)

    def edited(one: EditRecipe) -> Face:
        planned = plan_edits(one, editors, code_LD[None], np.array([seconds - begin]), 0, SmoothingSettings("none"))
        offset = planned.style_offset_AS[0] if planned.style_active_N[0] else None
        base, code = planned.unedited_NLD[0], planned.edited_NLD[0]
        return Face(seen.quad_42, seen.landmarks_52, 1.0, base, code, offset, detail, size, NO_TRACK)

    words = (
        PurePath(source.uri).name,
        clock_of(seconds - source.info.pts_seconds(0), source),
        f"face of {seen.side_pixels:.0f} px",
    )
    return Shown(source, seen.frame, edited(recipe), tuple(edited(one) for one in variants), (), words)


def from_store(
    store: Store,
    only: Sequence[str],
    bundle: Bundle,
    recipe: EditRecipe,
    variants: Sequence[EditRecipe],
    editors: Mapping[str, AnyEditor],
    settings: PlanSettings,
    count: int,
    allow_hdr: bool,
) -> list[Shown]:
    """Faces of a store, planned as a render plans them. Raises UsageError where none can be shown."""
    said: list[str] = []

    def lose(failure: Failure) -> None:
        said.append(failure.message)

    listed, total = stored_sources(store, only, lose, allow_hdr=allow_hdr)
    places = {(2 * i + 1) * total // (2 * count) for i in range(count)}
    chosen = [opened(one, lose, allow_hdr=allow_hdr) for at, one in enumerate(listed) if at in places]
    sources = [one for one in chosen if one is not None]
    readers, found = FrameReaders(), []
    for at, source in enumerate(sources):
        codes = SourceCodes(store, source)
        smoothed = {track: codes.smoothed(track, recipe, settings) for track in codes.tracks}
        for moment in stored_moments(codes, recipe, count // len(sources) + (at < count % len(sources))):
            planned = [
                {
                    face.track: face
                    for face in stored_faces(
                        store, codes, moment.pts, one, editors, settings, bundle, smoothed=smoothed, everyone=True
                    )
                }
                for one in (recipe, *variants)
            ]
            everyone = planned[0]
            face = everyone[moment.track]
            near = [other for track, other in everyone.items() if track != moment.track and touch(other.quad_42, face.quad_42)]
            ordinal = int(np.searchsorted(source.info.pts, moment.pts))
            seconds = (moment.pts - int(source.info.pts[0])) * float(source.info.time_base)
            shot = f"shot {moment.shot + 1} of {len(codes.shots)} · track {moment.track}"
            words = (PurePath(source.uri).name, clock_of(seconds, source), shot)
            alone = tuple(one[moment.track] for one in planned[1:])
            found.append(Shown(source, readers.frame(source, ordinal), face, alone, tuple(near), words))
    if not found:
        why = "; ".join(said) or "no face was found in any of its sources"
        raise UsageError(f"{store.root}: there is no face to show: {why}")
    return found


def touch(one_42: np.ndarray, other_42: np.ndarray) -> bool:
    """Whether the upright boxes of two quads share a pixel."""
    return bool((one_42.min(0) <= other_42.max(0)).all() and (other_42.min(0) <= one_42.max(0)).all())


def clock_of(seconds: float, source: Source) -> str:
    """`1:02.50`; nothing for a picture."""
    return "" if source.info.kind == "image" else f"{int(seconds) // 60}:{seconds % 60:05.2f}"


# ------------------------------------------------------------------------------------------------------ its pictures


def tiles_of(
    found: Sequence[Shown], session: Session, bundle: Bundle, pasting: PasteSettings, *, own_codes: bool
) -> list[list[np.ndarray]]:
    """Draw a row of each face: source, inversion, each edit alone (where there are several), all together, pasted.

    own_codes: as `paste_needs_base` takes it.
    """
    pasted = [[*one.near, one.face] for one in found]
    everyone = [face for faces in pasted for face in faces]
    edits, bases = made(everyone, edited_crops, session, bundle), made(everyone, base_crops, session, bundle)
    # A tile needs no more pixels than it shows; a picture that is pasted has the size that a render makes.
    small = bundle.config.generator.sizes[0]
    alone = made([replace(face, size=small) for one in found for face in one.alone], edited_crops, session, bundle)
    rows = []
    for one, faces in zip(found, pasted, strict=True):
        frame = one.frame
        for face in faces:
            edit, base = edits.pop(0), bases.pop(0)
            needed = base if paste_needs_base(pasting, session, face.size, own_codes=own_codes) else None
            frame = paste_face(frame, face, edit, needed, pasting)
        each = [levels(alone.pop(0)) for _ in one.alone]
        rows.append([cropped(one, one.frame), levels(base), *each, levels(edit), cropped(one, frame)])
    return rows


def ladder_tiles(
    found: Sequence[Shown], session: Session, bundle: Bundle, pasting: PasteSettings, *, own_codes: bool
) -> list[list[np.ndarray]]:
    """Draw each face as each of its variants makes it, pasted."""
    edits = made([face for one in found for face in one.alone], edited_crops, session, bundle)
    bases = made([one.face for one in found], base_crops, session, bundle)
    rows = []
    for one, base in zip(found, bases, strict=True):
        needed = base if paste_needs_base(pasting, session, one.face.size, own_codes=own_codes) else None
        rows.append([cropped(one, paste_face(one.frame, face, edits.pop(0), needed, pasting)) for face in one.alone])
    return rows


def made(
    faces: Sequence[Face], make: Callable[[Sequence[Face], Session, Framing], np.ndarray], session: Session, bundle: Bundle
) -> list[np.ndarray]:
    """A picture of each face, in their order; those of one size are made together."""
    found: dict[int, np.ndarray] = {}
    for size in sorted({face.size for face in faces}):
        which = [at for at, face in enumerate(faces) if face.size == size]
        found |= zip(which, make([faces[at] for at in which], session, bundle.framing), strict=True)
    return [found[at] for at in range(len(faces))]


def levels(crop: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(crop), 0, 255).astype(np.uint8)


def cropped(one: Shown, frame: np.ndarray) -> np.ndarray:
    """The face's crop of a frame, as large as a tile."""
    height, width = quad_height_pixels(one.face.quad_42), quad_side_pixels(one.face.quad_42)
    scale = TILE / max(height, width)
    return crop_face(frame, one.face.quad_42, (max(1, round(height * scale)), max(1, round(width * scale))))


def heading_of(entry: Edit) -> str:
    return entry.name if entry.strength is None else f"{entry.name} {entry.strength:g}"


def drawn(
    found: Sequence[Shown],
    recipe: EditRecipe,
    ladder: Sequence[float] | None,
    session: Session,
    bundle: Bundle,
    pasting: PasteSettings,
    note: str,
    *,
    own_codes: bool,
) -> Image.Image:
    """The whole sheet."""
    if ladder is None:
        title = ", ".join(heading_of(entry) for entry in recipe.edits)
        names = [heading_of(entry) for entry in recipe.edits]
        one_edit = len(names) == 1
        rows = []
        for one, tiles in zip(found, tiles_of(found, session, bundle, pasting, own_codes=own_codes), strict=True):
            if one_edit:  # alone is all together
                del tiles[2]
            rows.append(PreviewRow(one.frame, one.face.quad_42, one.words, tuple(tiles)))
        headings = ["source", "inversion", *names, *([] if one_edit else ["all together"]), "pasted"]
        return draw_preview(title, note, headings, rows)
    rows, steps = [], len(ladder)
    for one, tiles in zip(found, ladder_tiles(found, session, bundle, pasting, own_codes=own_codes), strict=True):
        for at, entry in enumerate(recipe.edits):
            mine = tiles[at * steps : (at + 1) * steps]
            words = (entry.name, *one.words) if len(recipe.edits) > 1 else one.words
            rows.append(PreviewRow(one.frame, one.face.quad_42, words, (cropped(one, one.frame), *mine)))
    title = " and ".join(entry.name for entry in recipe.edits) + ", from weak to strong"
    return draw_preview(title, note, ["source", *(f"{strength:g}" for strength in ladder)], rows)


def main() -> None:
    typer.run(preview)


if __name__ == "__main__":
    main()
