"""From what the user typed to what the flow takes. Everything cheap is checked here, before any model loads."""

from __future__ import annotations

import hashlib
import importlib.metadata
import mimetypes
import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import typer

import schemas
from jobs.common.errors import UsageError
from jobs.common.options import bundle_from
from jobs.common.report import Reporter
from jobs.common.values import Chosen
from ops.checkpoints.bundle import Bundle
from ops.editing.definitions import Definition, parse_definition, parse_folder
from ops.editing.library import load_edits, offers
from ops.editing.recipe import EditRecipe, load_recipe, parse_edits
from ops.face.paste import PasteError
from ops.files.errors import CheckpointError
from ops.video.carriage import SUFFIXES_OF_CODEC, options_for
from ops.video.contents import FORMATS
from ops.video.encode import EncodeOptions
from ops.video.image import IMAGE_SUFFIXES
from pipeline.engine.course import Course
from pipeline.engine.stage import Picture, Source
from pipeline.engine.summary import Summary
from pipeline.flow import Policy, RenderSettings
from pipeline.sources.inputs import Entry, LeftOut, Probing, entries, is_explicit, probed
from pipeline.sources.outputs import MEDIA_SUFFIXES, UNSUPPORTED, Outputs
from pipeline.sources.sequences import sequence_of
from pipeline.steps.plan import PlanSettings
from pipeline.store import journal, upkeep
from pipeline.store.lock import held
from pipeline.store.parts import DamagedPart, named
from pipeline.store.places import Place, exists, is_url, joined, place, remove_tree
from pipeline.store.tables import Store, StoreInfo
from schemas import Failure


def code_version() -> str:
    return importlib.metadata.version("styleres-video")


NEW_CODEC: Final[schemas.ResidualCodec] = "int8"
"""A new store's codec: the smallest whose edits look like float32's (docs/decisions/0013-residuals-of-eight-bits.md)."""
MOST_LISTED = 10_000
"""So many sources of a store are looked at before a render begins; of more, each when its turn comes."""


class Given:
    """The inputs of a command: a list that is checked before any work, or a set that is listed as it is worked off.

    What cannot be read is told at once. It stands among `sources` as a failure, in its place, so that the run that takes them
    counts it and writes it down.
    """

    def __init__(self, arguments: Sequence[str], reporter: Reporter, *, allow_hdr: bool, out: str | None = None) -> None:
        """`out`: where results go; they are not inputs of this run or the next."""
        self._lost: deque[Failure] = deque()
        """Those that stand before the next source."""
        self._arguments = len(arguments)
        self._reporter = reporter
        found = entries(arguments, self._below(out))
        explicit = all(is_explicit(one) for one in arguments)
        probing = iter(Probing(found, self.lose, allow_hdr=allow_hdr, own=self._own, open_pictures=explicit))
        self._allow_hdr = allow_hdr
        self.listed: list[Source | Picture] | None = named_apart(self._once(list(probing))) if explicit else None
        self.sources = self._all(probing if self.listed is None else iter(self.listed))

    def _below(self, out: str | None) -> LeftOut:
        """Leaves out what lies below a local output folder that is inside of the folder that is listed."""
        if out is None or is_url(out):
            return lambda path, root: False
        results, said = os.path.realpath(out), set[str]()

        def left_out(path: str, root: str) -> bool:
            if not results.startswith(os.path.realpath(root) + os.sep):
                return False
            real = os.path.realpath(path)
            inside = real == results or real.startswith(results + os.sep)
            if inside and results not in said:
                said.add(results)
                self._reporter.note("left_out", "it is --out, and results are no inputs", results)
            return inside

        return left_out

    def _own(self, uri: str) -> None:
        self._reporter.note("left_out", "styleres made it; name the file itself to edit it again", uri)

    @classmethod
    def stored(cls, store: Store, only: Sequence[str], reporter: Reporter, *, allow_hdr: bool) -> Given:
        """The sources of a store: a list too, unless there are very many."""
        given = cls([], reporter, allow_hdr=allow_hdr)
        found, count = stored_sources(store, only, given.lose, allow_hdr=allow_hdr)
        given._arguments = count
        given.listed = named_apart(list(found)) if count <= MOST_LISTED else None
        given.sources = given._all(found if given.listed is None else iter(given.listed))
        return given

    def _all(self, found: Iterator[Source | Picture]) -> Iterator[Source | Picture | Failure]:
        for source in found:
            while self._lost:
                yield self._lost.popleft()
            yield source
        while self._lost:
            yield self._lost.popleft()

    @property
    def count(self) -> int | None:
        """Inputs, lost ones included, where that is known beforehand."""
        return None if self.listed is None else self._arguments

    def inputs(self, summary: Summary) -> int:
        """Return the number of inputs, after the end."""
        return self._arguments if self.listed is not None else summary.sources_done + summary.sources_failed

    def add_to(self, summary: Summary) -> None:
        """Count the failures that no run has taken, because there was none."""
        for one in self.sources:
            if isinstance(one, Failure):
                summary.fail([one])
                summary.sources_failed += 1

    def lose(self, failure: Failure) -> None:
        self._reporter.lost(failure)
        self._lost.append(failure)

    def any(self, *, lost: bool = False) -> bool:
        """Return whether there is a source at all, or (lost) at least a failure. Nothing is taken away from `sources`."""
        looked_at: list[Source | Picture | Failure] = []
        for one in self.sources:
            looked_at.append(one)
            if lost or not isinstance(one, Failure):
                break
        self.sources = chain(looked_at, self.sources)
        return any(lost or not isinstance(one, Failure) for one in looked_at)

    def planned(self) -> list[Source]:
        """Every source, for a dry run; failures stay for `add_to`."""
        everything = [self._opened(one) for one in self.sources]
        self._lost.extend(one for one in everything if isinstance(one, Failure))
        self.sources = self._all(iter(()))
        return [one for one in everything if isinstance(one, Source)]

    def _opened(self, one: Source | Picture | Failure) -> Source | Failure:
        if not isinstance(one, Picture):
            return one
        found = probed(Entry(one.uri, one.name, one.found), allow_hdr=self._allow_hdr)
        if isinstance(found, Failure):
            self._reporter.lost(found)
        return found

    def probed(self) -> list[Source]:
        """Those that are listed and known before any work."""
        return [one for one in self.listed or () if isinstance(one, Source)]

    def worth_a_run(self, root: Place) -> bool:
        """Return whether a run has anything to do: sources, or failures to write into a store that is there."""
        return self.any() or (exists(joined(root, "meta/info.json")) and self.any(lost=True))

    def show_plan(self, job: str, outputs: Outputs, admit: Callable[[Source], Failure | None]) -> None:
        """Print what --dry-run shows; a refusal counts as a loss here, too."""
        sources: list[Source] = []
        refused: list[Source] = []
        for source in self.planned():
            failure = admit(source)
            (sources if failure is None else refused).append(source)
            if failure is not None:
                self.lose(failure)
        self._reporter.plan(job, sources, outputs, refused)

    def _once(self, sources: Sequence[Source | Picture]) -> list[Source | Picture]:
        kept: dict[str, Source | Picture] = {}
        for source in sources:
            if source.source_id in kept:
                message = (
                    f"{source.uri}: has the same content as {kept[source.source_id].uri}, which is processed; name it once"
                )
                self.lose(Failure(source.source_id, source.uri, "probe", "duplicate", message))
            else:
                kept[source.source_id] = source
        return list(kept.values())


def named_apart(sources: Sequence[Source | Picture]) -> list[Source | Picture]:
    """Part of its key goes into the name of an input where two would meet: contact sheets differ in nothing but stems."""
    taken: set[str] = set()
    named: list[Source | Picture] = []
    for source in sources:
        path = PurePosixPath(source.output_name)
        name = path.name if path.stem not in taken else f"{path.stem}.{source.source_id[:8]}{path.suffix}"
        taken.add(PurePosixPath(name).stem)
        named.append(replace(source, name=name))
    return named


def probe_inputs(paths: Sequence[Path], *, allow_hdr: bool) -> tuple[list[Source], list[Failure]]:
    """Every readable file, and a failure for each of the others."""
    found = [probed(Entry(str(path.absolute()), path.name), allow_hdr=allow_hdr) for path in paths]
    return [one for one in found if isinstance(one, Source)], [one for one in found if isinstance(one, Failure)]


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


def rendering_from(chosen: Chosen, recipe: EditRecipe, bundle: Bundle) -> RenderSettings:
    """The chosen settings of a render of this recipe.

    Raises BadParameter for a mask that the model's crop cannot have, UsageError for a size that it does not make.
    """
    settings = chosen.make(RenderSettings, {PlanSettings: {"recipe": recipe}})
    require_size(settings.plan.size, bundle)
    try:
        return replace(settings, paste=settings.paste.fitted(bundle.framing.crop))
    except PasteError as error:
        raise typer.BadParameter(str(error)) from error


def require_size(size: int | None, bundle: Bundle) -> None:
    """Raise UsageError for pictures of a size that the model does not make."""
    sizes = bundle.config.generator.sizes
    if size is not None and size not in sizes:
        raise UsageError(f"--size {size}: {bundle.name} makes pictures of {' or '.join(map(str, sizes))} px")


def store_info(bundle: Bundle, codec: schemas.ResidualCodec) -> StoreInfo:
    return StoreInfo(
        model_name=bundle.name,
        model_digest=bundle.digest,
        wplus_shape=bundle.wplus_shape,
        residual_shape=bundle.residual_shape,
        residual_codec=codec,
        injection_resolution=bundle.config.injection_resolution,
        code_version=code_version(),
    )


def codec_for(root: Place, chosen: Literal["auto"] | schemas.ResidualCodec) -> schemas.ResidualCodec:
    """`--residual-codec`: a store keeps the one that it was made with."""
    if chosen != "auto":
        return chosen
    return Store.open(root, unfinished=True).info.residual_codec if exists(joined(root, "meta/info.json")) else NEW_CODEC


def open_store(root: str | Place, bundle: Bundle, codec: schemas.ResidualCodec) -> Store:
    return Store.open_or_create(root, store_info(bundle, codec))


def open_settled(where: str | Place) -> Store:
    """Open a store, and finish first what a killed command has begun: a person who is to be deleted is never shown again."""
    root = place(where)
    if journal.unfinished(root):
        with held(root, "store recovery"):
            finish(root)
    return Store.open(root)


def stored_bundle(store: Store, model: str | None, method: str) -> Bundle:
    """The bundle that a store was made with: the embedded one of its name, or the one that was named.

    Raises UsageError for another one, or where the store's is not embedded and none was named.
    """
    try:
        bundle = bundle_from(model or store.info.model_name, method)
    except CheckpointError as error:
        if model is not None:
            raise
        raise UsageError(
            f"{store.root} was made with the model {store.info.model_name!r}, which is none of the embedded ones; "
            "give the folder of its bundle with --model"
        ) from error
    if bundle.digest != store.info.model_digest:
        raise UsageError(
            f"{store.root} was made with another {store.info.model_name} than {bundle.path} holds now; "
            "name that bundle with --model, or invert again"
        )
    return bundle


@contextmanager
def writable_store(opened: Store, out: str) -> Iterator[tuple[Store, bool]]:
    """The store, or one beside the output that reads it where it is read-only; and whether it is to be kept."""
    if not isinstance(opened.root, Path) or upkeep.is_writable(opened.root):
        yield opened, True
        return
    beside = temporary_place(out)
    if not isinstance(beside, Path):
        raise UsageError(f"{opened.root} is read-only, and so --out must be a local path; copy the store to render into a URL")
    upkeep.lay_over(opened.root, beside)
    yield Store.open(beside), False


def finish(root: Place) -> None:
    """With the lock held. Tells people, on standard error."""
    for done in upkeep.finish(root):
        shown = f"; these files still show it: {', '.join(done.made)}" if done.made else ""
        print(f"styleres: finished what an earlier command had begun: {done.what}{shown}", file=sys.stderr)


def require_untouched(
    root: Place,
    bundle: Bundle,
    codec: schemas.ResidualCodec,
    course_for: Callable[[Store], Course],
    given: Given,
    policy: Policy,
) -> None:
    """Refuse before any work what would be refused later, for inputs that are few enough to look at. Writes nothing.

    Raises UsageError; StoreError for a store of another model.
    """
    info = store_info(bundle, codec)
    if exists(joined(root, "meta/info.json")):
        store = open_settled(root)
        store.require_same_model(info)
        course = course_for(store)
        refusals = (course.refusal(source) for source in given.probed())
    else:
        refusals = (policy.admit(source) for source in given.probed())
    for failure in refusals:
        # An output that cannot hold everything concerns one source; the others are edited.
        if failure is not None and failure.reason != UNSUPPORTED:
            raise UsageError(failure.message)


def stored_sources(
    store: Store, only: Sequence[str], lost: Callable[[Failure], None], *, allow_hdr: bool
) -> tuple[Iterator[Source | Picture], int]:
    """The sources of a store that can be rendered, one after the other: complete, and their files still what they were; and how
    many the store has.

    `only`: keys, paths or file names; empty for all. Raises UsageError for one that the store does not have.
    """
    chosen = named_sources(store, only) if only else None
    packs = dict.fromkeys(store.packs_of().values())
    in_packs = {one: pack_id for pack_id in packs for one in store.members(pack_id)}
    alone = [one for one in (store.stored_source_ids() if chosen is None else chosen) if one not in in_packs]
    wanted = in_packs.keys() if chosen is None else in_packs.keys() & set(chosen)

    def found() -> Iterator[Source | Picture]:
        for one in alone:
            source = stored_source(store, one, lost, allow_hdr=allow_hdr)
            if source is not None:
                yield source
        for pack_id in packs:
            if not wanted.isdisjoint(store.members(pack_id)):
                yield from stored_pictures(store, pack_id, wanted, lost)

    return found(), len(alone) + len(wanted)


def stored_pictures(store: Store, pack_id: str, wanted: Collection[str], lost: Callable[[Failure], None]) -> Iterator[Picture]:
    """The pictures of a pack that can be rendered, if its parts are whole; their files are not opened."""
    again = "run styleres invert, or edit, with this store again: it makes what is missing, and nothing else"
    try:
        store.require_sound(pack_id, ["sources"])
        rows = store.read_some("sources", pack_id, wanted, ["source_id", "uri", "sha256"]).to_pylist()
        lacking = store.lacking(pack_id)
    except DamagedPart as error:
        for source_id in store.members(pack_id):
            if source_id in wanted:
                lost(Failure(source_id, source_id, "probe", "damaged_part", str(error)))
        return
    for row in rows:
        source_id, uri = row["source_id"], row["uri"]
        if lacking:
            lost(Failure(source_id, uri, "probe", "damaged_part", f"{named(lacking)}; {again}"))
        else:
            name = PurePosixPath(uri.rsplit("#", 1)[-1]).name
            yield Picture(uri, name, source_id=source_id, sha256=row["sha256"])


def named_sources(store: Store, only: Sequence[str]) -> list[str]:
    """Keys of the sources of these keys, paths or file names. Raises UsageError for one that the store does not have."""
    rows, damaged = store.readable_sources()
    names = {one: {one, row["uri"], PurePosixPath(row["uri"]).name} for one, row in rows.items()}
    names |= {one: {one} for one in damaged}  # whose names are lost

    def is_meant(wanted: str, known: set[str]) -> bool:
        return wanted in known or str(Path(wanted).absolute()) in known

    for wanted in only:
        if not any(is_meant(wanted, known) for known in names.values()):
            held = ", ".join(PurePosixPath(row["uri"]).name for row in list(rows.values())[:20])
            held += f"; and {len(damaged)} whose name is lost (styleres store verify)" if damaged else ""
            raise UsageError(f"--only {wanted}: {store.root} has no such source; it has: {held or 'none'}")
    return [one for one, known in names.items() if any(is_meant(wanted, known) for wanted in only)]


def opened(one: Source | Picture, lost: Callable[[Failure], None], *, allow_hdr: bool) -> Source | None:
    """A source, also a picture that was not opened yet; None, and said, where it cannot be."""
    if isinstance(one, Source):
        return one
    found = probed(Entry(one.uri, one.name), allow_hdr=allow_hdr)
    if isinstance(found, Source) and one.sha256 not in ("", found.info.sha256):
        found = Failure(one.known_as, one.uri, "probe", "changed", f"{one.uri}: is not the file that was inverted any more")
    if isinstance(found, Failure):
        lost(found)
        return None
    return found


def stored_source(store: Store, source_id: str, lost: Callable[[Failure], None], *, allow_hdr: bool) -> Source | None:
    store.read_manifests_once(source_id)
    try:
        return _stored_source(store, source_id, lost, allow_hdr=allow_hdr)
    finally:
        store.read_manifests_again(source_id)


def _stored_source(store: Store, source_id: str, lost: Callable[[Failure], None], *, allow_hdr: bool) -> Source | None:
    uri = source_id

    def lose(reason: str, message: str) -> None:
        lost(Failure(source_id, uri, "probe", reason, message))

    try:
        store.require_sound(source_id, ["sources"])
        rows = store.read("sources", source_id, columns=["uri", "sha256"]).to_pylist()
    except DamagedPart as error:
        lose("damaged_part", str(error))
        return None
    uri = rows[0]["uri"] if rows else source_id
    if broken := store.broken_manifests(source_id, ["invert"]):
        (said,) = broken.values()
        lose("damaged_manifest", f"{said}; run styleres invert, or edit, with this store again: it inverts this source anew")
        return None
    if lacking := store.lacking(source_id):
        again = "run styleres invert, or edit, with this store again: it makes what is missing, and nothing else"
        lose("damaged_part", f"{named(lacking)}; {again}")
        return None
    if not rows or store.read_manifest("invert", source_id) is None:
        lose("incomplete", f"{uri}: its inversion was not finished; run styleres invert again with this store")
        return None
    sequence = sequence_of(uri)
    name = PurePosixPath(uri.rsplit("#", 1)[-1]).name if sequence is None else sequence.name
    found = probed(Entry(uri, name), allow_hdr=allow_hdr)
    if isinstance(found, Failure):
        help = f"if it was renamed or moved: styleres store relink {store.root} WHERE_IT_IS_NOW"
        lose("media_error", f"{found.message} (the store has its codes, but a render needs its frames; {help})")
        return None
    if found.info.sha256 != rows[0]["sha256"]:
        help = f"invert it again; or, if that file has another name now: styleres store relink {store.root} WHERE_IT_IS_NOW"
        lose("changed", f"{uri}: is not the file that was inverted any more; {help}")
        return None
    return found


def outputs_from(
    out: str,
    encode: EncodeOptions,
    listed: Sequence[Source | Picture] | None,
    *,
    container: str = "auto",
    sheet: Path | None,
    with_sheet: bool,
    side_by_side: bool,
) -> Outputs:
    """The rule of where results go. `out` is a file for one source, otherwise a folder. `listed`: None for a set.

    Raises UsageError for a place that cannot hold what would go there.
    """
    where = place(out)
    suffix = where.suffix.lower()
    is_file = suffix in {*FORMATS, *IMAGE_SUFFIXES}
    is_folder = isinstance(where, Path) and where.is_dir()
    if not is_file and not is_folder and not out.endswith("/") and is_media_suffix(suffix):
        said = ", ".join((*FORMATS, *sorted(IMAGE_SUFFIXES)))
        raise UsageError(f"--out {out}: no {suffix} file can be written; name one of {said}, or a folder")
    wanted = None if container == "auto" else f".{container}"
    if wanted is not None and not encode.codec_is_default and wanted not in SUFFIXES_OF_CODEC[encode.codec]:
        holders = ", ".join(one[1:] for one in SUFFIXES_OF_CODEC[encode.codec])
        raise UsageError(f"--container {container} cannot hold {encode.codec} video; use {holders}, or another --codec")
    if wanted is not None and suffix in FORMATS and suffix != wanted:
        raise UsageError(f"--out {out} and --container {container} name two containers; leave one out")
    if is_file and (listed is None or len(listed) > 1):
        many = "a set of inputs" if listed is None else f"{len(listed)} inputs"
        raise UsageError(f"--out {out} is one file, and there are {many}; name a folder")
    if isinstance(where, Path):
        if is_file and where.is_dir():
            raise UsageError(f"--out {out} is a folder whose name ends like a file's; name a file inside it")
        if not is_file and where.is_file():
            said = ", ".join(FORMATS)
            raise UsageError(f"--out {out} is a file of another kind; name one of {said}, or a folder")
    if is_file and listed:
        only = listed[0]
        image = only.kind == "image"
        codec = encode.codec if isinstance(only, Picture) or image else options_for(only.info, encode).codec
        allowed = sorted(IMAGE_SUFFIXES) if image else SUFFIXES_OF_CODEC[codec]
        if where.suffix.lower() not in allowed:
            what = "an image" if image else f"{codec} video"
            raise UsageError(f"--out {out}: a {where.suffix} file cannot hold {what}; use one of {', '.join(allowed)}")
    if sheet is not None and (listed is None or len(listed) > 1):
        raise UsageError("--contact-sheet names one file, and there are several inputs; leave it out")
    folder = str(where) if not is_file else str(where).rsplit("/", 1)[0]
    if isinstance(where, Path):
        require_writable(where.parent if is_file else where, out)
    return Outputs(
        folder=folder,
        file=str(where) if is_file else None,
        encode=encode,
        container=wanted,
        # A set may be of a million pictures, and nobody looks at as many sheets.
        sheets=with_sheet and listed is not None,
        sheet=None if sheet is None else str(sheet.absolute()),
        side_by_side=side_by_side,
        sets=listed is None,
    )


def is_media_suffix(suffix: str) -> bool:
    """Return whether a name that ends so is meant to be a picture, a video or a sound, and not a folder."""
    kind, _ = mimetypes.guess_type(f"a{suffix}")
    return suffix in MEDIA_SUFFIXES or (kind is not None and kind.split("/")[0] in ("video", "image", "audio"))


def require_writable(folder: Path, out: str) -> None:
    """Raise UsageError where nothing can be written below a folder, which may be still to be made. Leaves nothing behind."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UsageError(f"--out {out}: nothing can be written in {existing} ({error.strerror}); name another place") from error


def temporary_place(out: str) -> Place:
    """Return the place of the rows of an edit whose codes are not kept: beside its output.

    The name follows from the output's, so that the same command continues a run that was killed.
    """
    where = place(out)
    name = f".styleres-work-{hashlib.sha256(str(where).encode()).hexdigest()[:12]}"
    return where.with_name(name) if where.suffix else where / name


@contextmanager
def working(root: Place, named: str, job: str, *, keep: bool) -> Iterator[None]:
    """Hold the store. One that is not kept goes with the end of the job, but not when the job is cut short."""
    try:
        if isinstance(root, Path):
            root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{named}: cannot write there ({error.strerror}: {error.filename})") from error
    with held(root, job):
        finish(root)
        yield
    if not keep:
        remove_tree(root)
