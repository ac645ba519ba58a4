"""From what the user typed to what the flow takes. Everything cheap is checked here, before any model loads."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa

import schemas
from jobs.errors import UsageError
from ops.checkpoints.bundle import Bundle
from ops.editing.definitions import Definition, parse_definition, parse_folder
from ops.editing.library import load_edits, offers
from ops.editing.recipe import EditRecipe, load_recipe, parse_edits
from ops.video.encode import VideoCodec
from ops.video.errors import MediaError
from ops.video.image import IMAGE_SUFFIXES
from ops.video.probe import SourceInfo, probe
from pipeline.finalize import Output
from pipeline.flow import InvertSettings, invert_settings_json
from pipeline.stage import Source
from pipeline.store import Store, StoreInfo
from schemas import Failure, source_id_from_sha256, source_id_of_unreadable

KEPT_SUFFIXES = (".mp4", ".mov", ".mkv")
VIDEO_SUFFIXES = (*KEPT_SUFFIXES, ".webm")
SUFFIXES_OF_CODEC = {"ffv1": (".mkv",), "libvpx-vp9": (".mp4", ".mkv", ".webm"), "libsvtav1": (".mp4", ".mkv", ".webm")}
"""Containers that hold a codec; the others go into `KEPT_SUFFIXES`."""

TEXT_ART = "tty"
"""FFmpeg takes any text file called .txt or .nfo for ANSI art, and plays it."""


def code_version() -> str:
    return importlib.metadata.version("styleres-video")


def probe_inputs(paths: Sequence[Path], *, allow_hdr: bool) -> tuple[list[Source], list[Failure]]:
    """Every readable input once, and a failure for each of the others."""
    sources: dict[str, Source] = {}
    failures = []
    for path in paths:
        uri = str(path.absolute())
        try:
            info = probe(path, allow_hdr=allow_hdr)
            if info.container == TEXT_ART:
                raise MediaError(path, "this is a text file, and a video or an image was expected", "name a media file")
        except (MediaError, OSError) as error:
            failures.append(Failure(source_id_of_unreadable(uri), uri, "probe", "media_error", str(error)))
            continue
        source = Source(source_id_from_sha256(info.sha256), info)
        if source.source_id in sources:
            first = sources[source.source_id].uri
            message = f"{uri}: has the same content as {first}, which is processed; name it once"
            failures.append(Failure(source.source_id, uri, "probe", "duplicate", message))
            continue
        sources[source.source_id] = source
    return list(sources.values()), failures


def definitions_from(editors: Sequence[str], folders: Sequence[str]) -> list[Definition]:
    """`--editor` and `--editors` texts; relative paths are taken from the working folder."""
    parsed = [parse_definition(text) for text in editors] + [parse_folder(text) for text in folders]
    return [definition.located(Path.cwd()) for definition in parsed]


def recipe_from(
    edits: Sequence[str], recipe: Path | None, bundle: Bundle, definitions: Sequence[Definition] = ()
) -> EditRecipe:
    """`--edit` texts or a `--recipe` file, with the user's editors; every edit is there and fits the model."""
    own = [entry.name for entry in bundle.edits]
    if bool(edits) == (recipe is not None):
        names = ", ".join([*own, *offers(definitions)])
        raise UsageError(f"expected --edit NAME=STRENGTH (once or more) or --recipe FILE; {bundle.name} has: {names}")
    parsed = (parse_edits(edits) if recipe is None else load_recipe(recipe)).with_editors(definitions)
    parsed.require_known({*own, *offers(parsed.editors)})
    load_edits(parsed.names, bundle.editors(), parsed.editors, bundle.config.generator)
    return parsed


def open_store(root: Path, bundle: Bundle, codec: schemas.ResidualCodec) -> Store:
    info = StoreInfo(
        model_name=bundle.name,
        model_digest=bundle.digest,
        wplus_shape=bundle.wplus_shape,
        residual_shape=bundle.residual_shape,
        residual_codec=codec,
        injection_resolution=bundle.config.injection_resolution,
        code_version=code_version(),
    )
    return Store.open_or_create(root, info)


def left_to_invert(sources: Sequence[Source], store: Store, settings: InvertSettings, *, overwrite: bool) -> list[Source]:
    """The sources without complete rows of these settings. Half-written ones are cleared, so that they start afresh.

    Raises UsageError where complete rows of other settings would be overwritten unasked.
    """
    todo = []
    for source in sources:
        manifest = store.read_manifest("invert", source.source_id)
        complete = manifest is not None and store.is_complete(source.source_id) and manifest["lost"] == 0
        if complete and not overwrite:
            assert manifest is not None
            if manifest["settings"] != invert_settings_json(settings):
                raise UsageError(
                    f"{source.uri} is in {store.root} already, inverted with other settings; "
                    "use --overwrite to invert it again, or another --store"
                )
            continue
        store.delete_source(source.source_id)
        store.write_part("sources", source.source_id, 0, source_row(source))
        todo.append(source)
    return todo


def source_row(source: Source) -> pa.Table:
    """The row of `sources`."""
    info = source.info
    rate, aspect = info.average_rate, info.sample_aspect_ratio
    row = {
        "source_id": source.source_id,
        "track_id": schemas.NO_TRACK,
        "pts": int(info.pts[0]),
        "uri": info.uri,
        "kind": info.kind,
        "sha256": info.sha256,
        "size_bytes": info.size_bytes,
        "width": info.width,
        "height": info.height,
        "frame_count": info.n_frames,
        "last_pts": int(info.pts[-1]),
        "time_base_num": info.time_base.numerator,
        "time_base_den": info.time_base.denominator,
        "average_rate_num": rate.numerator if rate else None,
        "average_rate_den": rate.denominator if rate else None,
        "rotation_degrees": info.rotation_degrees,
        "sample_aspect_num": aspect.numerator if aspect else None,
        "sample_aspect_den": aspect.denominator if aspect else None,
        "codec": info.codec,
        "pix_fmt": info.pix_fmt,
        "color_primaries": info.color.primaries,
        "color_trc": info.color.trc,
        "color_space": info.color.space,
        "color_range": info.color.range,
        "audio_streams": info.audio_streams,
        "subtitle_streams": info.subtitle_streams,
    }
    return pa.Table.from_pylist([row], schema=schemas.sources_schema())


def stored_sources(store: Store, only: Sequence[str], *, allow_hdr: bool) -> tuple[list[Source], list[Failure]]:
    """The sources of a store that can be rendered: complete, and their files still what they were.

    `only`: keys, paths or file names; empty for all. Raises UsageError for one that the store does not have.
    """
    sources, failures = [], []
    rows = store.sources().to_pylist()
    names = [{row["source_id"], row["uri"], Path(row["uri"]).name} for row in rows]
    for wanted in only:
        if not any(wanted in known or str(Path(wanted).absolute()) in known for known in names):
            held = ", ".join(Path(row["uri"]).name for row in rows[:20])
            raise UsageError(f"--only {wanted}: {store.root} has no such source; it has: {held or 'none'}")
    for row, known in zip(rows, names, strict=True):
        if only and not any(wanted in known or str(Path(wanted).absolute()) in known for wanted in only):
            continue
        source_id, uri = row["source_id"], row["uri"]

        def lost(reason: str, message: str, source_id: str = source_id, uri: str = uri) -> None:
            failures.append(Failure(source_id, uri, "probe", reason, message))

        if not store.is_complete(source_id):
            lost("incomplete", f"{uri}: its inversion was not finished; run styleres invert again with this store")
            continue
        try:
            info: SourceInfo = probe(uri, allow_hdr=allow_hdr)
        except (MediaError, OSError) as error:
            lost("media_error", f"{error} (the store has its codes, but a render needs its frames)")
            continue
        if info.sha256 != row["sha256"]:
            lost("changed", f"{uri}: is not the file that was inverted any more; invert it again")
            continue
        sources.append(Source(source_id, info))
    return sources, failures


def output_paths(
    sources: Sequence[Source],
    out: Path,
    codec: VideoCodec,
    *,
    sheet: Path | None,
    with_sheet: bool,
    side_by_side: bool,
    overwrite: bool,
) -> dict[str, Output]:
    """source_id => where its results go. `out` is a file for one source, otherwise a folder.

    Raises UsageError where a file would be overwritten unasked, where several sources share one name for a file, and
    for a file that cannot hold what would go into it.
    """
    suffixes = SUFFIXES_OF_CODEC.get(codec, KEPT_SUFFIXES)
    is_file = out.suffix.lower() in {*VIDEO_SUFFIXES, *IMAGE_SUFFIXES}
    if is_file and len(sources) > 1:
        raise UsageError(f"--out {out} is one file, and there are {len(sources)} inputs; name a folder")
    if is_file and out.is_dir():
        raise UsageError(f"--out {out} is a folder whose name ends like a file's; name a file inside it")
    if not is_file and out.is_file():
        raise UsageError(f"--out {out} is a file of another kind; name one of {', '.join(VIDEO_SUFFIXES)}, or a folder")
    if is_file and sources:
        allowed = sorted(IMAGE_SUFFIXES) if sources[0].info.kind == "image" else suffixes
        if out.suffix.lower() not in allowed:
            what = "an image" if sources[0].info.kind == "image" else f"{codec} video"
            raise UsageError(f"--out {out}: a {out.suffix} file cannot hold {what}; use one of {', '.join(allowed)}")
    if sheet is not None and len(sources) > 1:
        raise UsageError("--contact-sheet names one file, and there are several inputs; leave it out")
    outputs: dict[str, Output] = {}
    taken: set[str] = set()
    for source in sources:
        path = out.absolute() if is_file else out.absolute() / edited_name(source, suffixes, taken)
        taken.add(path.stem)
        contact = sheet.absolute() if sheet else path.with_name(path.stem + ".contact_sheet.png")
        beside = path.with_name(path.stem + ".side_by_side" + path.suffix)
        outputs[source.source_id] = Output(
            str(path),
            str(contact) if with_sheet else None,
            str(beside) if side_by_side and source.info.kind == "video" else None,
        )
    inputs = {str(Path(source.uri).resolve()) for source in sources}
    replaced = [o.video for o in outputs.values() if str(Path(o.video).resolve()) in inputs]
    if replaced:
        raise UsageError(f"--out {replaced[0]} is one of the inputs, and a render reads its source to the end; name another")
    if not overwrite:
        files = [f for o in outputs.values() for f in (o.video, o.contact_sheet, o.side_by_side) if f]
        existing = [f for f in files if Path(f).exists()]
        if existing:
            raise UsageError(f"{', '.join(existing[:5])} exists already; use --overwrite, or another --out")
    return outputs


def edited_name(source: Source, suffixes: Sequence[str], taken: Collection[str]) -> str:
    """NAME.edited.SUFFIX; with part of the key where two inputs of one name would meet.

    `taken`: the others' names without suffixes, as contact sheets differ from each other in nothing else.
    """
    path = Path(source.uri)
    kept = source.info.kind == "image" or (path.suffix.lower() in KEPT_SUFFIXES and path.suffix.lower() in suffixes)
    suffix = path.suffix if kept else suffixes[0]
    stem = f"{path.stem}.edited"
    if stem in taken:
        stem = f"{path.stem}.{source.source_id[:8]}.edited"
    return stem + suffix
