"""Writes a report: one HTML file that needs nothing else, or several of bounded size for a large job."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, Final

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from jobs.common.report_data import (
    Details,
    Entry,
    RunFacts,
    Series,
    WorstFrame,
    clock_of,
    details_of,
    reasons,
    worst_face,
    worst_of,
)
from ops.video.errors import MediaError
from ops.video.image import load_image
from pipeline.sources.fetch import FETCHER
from pipeline.steps.quality import PICTURE_PIXELS, THUMBNAIL_PIXELS, webp
from pipeline.store.places import Place, joined, place, write_text
from pipeline.store.tables import Store, StoreError
from pipeline.store.upkeep import REPORT

NAME: Final = REPORT
PAGE_BYTES: Final = 4_500_000
"""Bytes of the sections on one page; what stands above them is added to the first."""
GALLERY: Final = 12
"""Worst frames of the whole job."""
FEW: Final = 25
"""Entries of a report of which each shows several of its worst frames, as they are kept; of more entries one, smaller."""
SMALL_PIXELS, SMALL_QUALITY = 720, 60
"""Width and quality of that one; the width is that of source and result together."""
POINTS: Final = 160
"""A line of a plot has at most so many, each the mean of those that it stands for."""
TRACKS_DRAWN: Final = 6
MOST_LISTED: Final = 20_000
"""Rows of the table of sources."""
LABELS: Final[Mapping[str, tuple[str, str]]] = {
    "inversion_error": (
        "inversion error",
        "levels by which the reconstruction differs from the source; lower is better",
    ),
    "flicker": ("flicker", "levels by which the edit changes from one frame to the next; lower is better"),
    "identity": ("identity kept", "cosine of a recogniser's vectors of source and result; 1 is the same person"),
}


@dataclass(frozen=True, eq=False)
class Section:
    """An entry as the template shows it."""

    entry: Entry
    details: Details | None
    """None where nothing was rendered, or its rows are damaged."""
    pictures: tuple[Picture, ...]
    plots: tuple[Markup, ...]
    again: str | None
    problem: str | None = None


@dataclass(frozen=True)
class Picture:
    """An image of source and result side by side."""

    data: str
    """A data URI."""
    caption: str
    width: int
    height: int


def write_report(
    path: Place,
    store: Store,
    entries: Iterable[Entry],
    runs: Sequence[RunFacts],
    *,
    title: str,
    page_bytes: int = PAGE_BYTES,
) -> list[Place]:
    """Write the report and its further pages beside it => all of them, the first one first.

    runs: what is known of the runs that made it, oldest first; the last one's time and speed are shown.
    """
    run = runs[-1] if runs else None
    ranked = sorted(entries, key=lambda entry: entry.rank)
    several = len(ranked) <= FEW
    template, section_template = environment().get_template("report.html.j2"), environment().get_template("section.html.j2")
    pages: list[list[str]] = [[]]
    page_of: dict[str, int] = {}
    size = 0
    written: list[Place] = []

    def place_of(number: int) -> Place:
        return path if number == 0 else path.with_name(f"{path.stem}-{number + 1}{path.suffix}")

    def flush() -> None:
        """The page that is full, unless it is the first, which is written last: it says where everything is."""
        number = len(pages) - 1
        if number:
            shown = {"title": title, "sections": pages[-1], "number": number + 1, "first": path.name}
            write_text(place_of(number), template.render(**shown))
            written.append(place_of(number))
            pages[-1] = []

    for entry in ranked:
        again = next((words for one in reversed(runs) if (words := one.again(entry)) is not None), None)
        section = section_template.render(section=section_of(store, entry, again, several=several))
        if pages[-1] and size + len(section) > page_bytes:
            flush()
            pages.append([])
            size = 0
        pages[-1].append(section)
        size += len(section)
        page_of[entry.anchor] = len(pages) - 1
    flush()
    listed = ranked[:MOST_LISTED]
    text = template.render(
        title=title,
        sections=pages[0],
        number=1,
        pages=[place_of(number).name for number in range(len(pages))],
        first=path.name,
        run=run,
        totals=totals_of(ranked, run),
        gallery=[picture_of(one, full=True) for one in worst_frames(store, ranked)],
        reasons=reasons(ranked),
        rows=[row_of(entry, "" if page_of[entry.anchor] == 0 else place_of(page_of[entry.anchor]).name) for entry in listed],
        left_out=len(ranked) - len(listed),
        measured=[name for name in LABELS if any(name in entry.medians for entry in ranked)],
        labels=LABELS,
        store=str(store.root),
    )
    write_text(path, text)
    return [path, *written]


@cache
def environment() -> jinja2.Environment:
    """Everything that is shown is escaped, whoever wrote it: file names and messages are data."""
    loader = jinja2.PackageLoader("jobs", "common/templates")
    made = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.ChainableUndefined
    )
    made.globals |= {"uri": data_uri, "clock": clock_of, "span": span_of, "shot": shot}
    return made


def shot(one: Picture) -> Markup:
    """A picture that opens in the page's viewer."""
    return Markup(
        '<button type="button" class="shot"><img loading="lazy" alt="" width="{}" height="{}" src="{}"><span>{}</span></button>'
    ).format(one.width, one.height, one.data, one.caption)


def span_of(seconds: float) -> str:
    """`3 h 12 min`, `4 min 05 s`, `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def worst_frames(store: Store, entries: Sequence[Entry]) -> list[WorstFrame]:
    """The worst frames of the job. The worst `GALLERY` frames lie in the `GALLERY` entries whose worst frame is worst."""
    candidates = sorted((one for one in entries if one.worst is not None), key=lambda one: -(one.worst or 0.0))[:GALLERY]
    found: list[WorstFrame] = []
    for entry in candidates:
        try:
            found += worst_of(store, entry, GALLERY) if entry.pictured else whole_picture(store, entry)
        except StoreError:
            continue  # its section says so
    return sorted(found, key=lambda one: -one.trouble)[:GALLERY]


def whole_picture(store: Store, entry: Entry) -> list[WorstFrame]:
    """An edited picture of which nothing but measures is stored, read from its files."""
    assert entry.output is not None
    pair = picture_pair(entry.uri, entry.output, PICTURE_PIXELS)
    return [] if pair is None else [worst_face(store, entry, pair)]


def report_place(out: str, *, is_file: bool) -> Place:
    """Beside the results: OUT/report.html, or NAME.report.html for a file."""
    where = place(out)
    return where.with_name(f"{where.stem}.{NAME}") if is_file else joined(where, NAME)


def totals_of(entries: Sequence[Entry], run: RunFacts | None) -> dict[str, Any]:
    """Numbers of the summary; a source with several edited files counts once."""
    sources = {entry.source_id: entry for entry in entries}.values()
    return {
        "sources": len(sources),
        "clips": sum(one.kind == "video" for one in sources),
        "pictures": sum(one.kind == "image" for one in sources),
        "unreadable": sum(not one.kind for one in sources),
        "frames": sum(one.frames for one in sources),
        "seconds": sum(one.seconds for one in sources),
        "faces": sum(one.faces for one in sources),
        "edits": sum(one.edits for one in entries),
        "lost": sum(len(one.lost) for one in sources),
        "sources_lost": sum(bool(one.lost) for one in sources),
        "speed": None if run is None or not run.seconds or not run.frames else run.frames / run.seconds,
    }


def row_of(entry: Entry, page: str) -> dict[str, Any]:
    """A row of the table of sources."""
    state = "lost" if entry.lost else "edited" if entry.output else "inverted" if entry.faces else "no face"
    return {"entry": entry, "href": f"{page}#{entry.anchor}", "state": state}


def section_of(store: Store, entry: Entry, again: str | None, *, several: bool) -> Section:
    if entry.output is None:
        return Section(entry, None, (), (), again)
    if entry.recipe_id is None or not entry.pictured:
        pair = picture_pair(entry.uri, entry.output, THUMBNAIL_PIXELS)
        return Section(entry, None if pair is None else Details(((0.0, pair),)), (), (), again)
    try:
        details = details_of(store, entry)
    except StoreError as error:
        return Section(entry, None, (), (), again, str(error))
    shown = details.worst[: 3 if several else 1]
    if entry.kind == "image" and not several:
        shown = ()  # the thumbnail is the picture
    plots = () if entry.kind == "image" else tuple(plots_of(details, entry))
    return Section(entry, details, tuple(picture_of(one, full=several) for one in shown), plots, again)


def picture_pair(source: str, result: str, pixels: int) -> bytes | None:
    """A picture before and after as WebP, read from its files and `pixels` high at most; None where one of them cannot be
    read any more."""
    try:
        frames = [load_image(uri, FETCHER.data(uri)).frame for uri in (source, result)]
    except (OSError, MediaError, ValueError):
        return None
    if frames[0].shape != frames[1].shape:
        return None
    height, width = frames[0].shape[:2]
    # As high as the others, but never wider than a few of them: a banner of 4000 x 3 pixels gives no strip of half a million.
    scale = min(1.0, pixels / height, 4 * pixels / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX, reducing_gap=2.0)) for frame in frames]
    return webp(*small, quality=70)


def picture_of(one: WorstFrame, *, full: bool) -> Picture:
    data, image = one.picture, Image.open(BytesIO(one.picture)).convert("RGB")
    if not full and image.width > SMALL_PIXELS:
        size = SMALL_PIXELS, round(image.height * SMALL_PIXELS / image.width)
        image = image.resize(size, Image.Resampling.LANCZOS)
        out = BytesIO()
        image.save(out, "WEBP", quality=SMALL_QUALITY, method=3)
        data = out.getvalue()
    where = f"{one.entry.name} at {one.clock}" if one.entry.kind == "video" else one.entry.name
    return Picture(data_uri(data), f"{where}, track {one.track}: {one.why}", image.width, image.height)


def data_uri(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"


# -------------------------------------------------------------------------------------------------------------- plots

WIDTH, HEIGHT, TOP = 300, 64, 6


def plots_of(details: Details, entry: Entry) -> Iterator[Markup]:
    for name, series in details.strengths.items():
        explained = "times its weight, in the edit's own unit"
        yield plot(f"strength of {name}", series, "strength", entry.seconds, details.cuts, explained)
    for name, (label, explained) in LABELS.items():
        if name in entry.medians:
            low = None if name == "identity" else 0.0
            yield plot(label, details.series, name, entry.seconds, details.cuts, explained, low=low)


def plot(
    label: str,
    series: Sequence[Series],
    name: str,
    duration: float,
    cuts: Sequence[float],
    explained: str,
    low: float | None = None,
) -> Markup:
    """Lines of some tracks over time as SVG; its colours are the page's."""
    values = np.concatenate([one.values[name] for one in series]) if series else np.zeros(0)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return Markup("")
    bottom = float(values.min()) if low is None else low
    top = max(float(values.max()), bottom + 1e-6)
    if top - bottom < 1e-3 * max(abs(top), 1.0):
        bottom, top = bottom - 0.5, top + 0.5
    duration = max(duration, 1e-6)
    paths = [Markup('<path class="cut" d="M{:.0f} 0V{}"/>').format(cut / duration * WIDTH, HEIGHT) for cut in cuts]
    for at, one in enumerate(series[:TRACKS_DRAWN]):
        y_N = TOP + (HEIGHT - TOP) * (1 - (one.values[name] - bottom) / (top - bottom))
        drawn = line(one.seconds_N / duration * WIDTH, y_N)
        paths.append(Markup('<path class="t{}" d="{}"><title>track {}</title></path>').format(at, drawn, one.track))
    more = f" ({len(series) - TRACKS_DRAWN} tracks are not drawn)" if len(series) > TRACKS_DRAWN else ""
    spread = " to ".join(dict.fromkeys(f"{value:.3g}" for value in (values.min(), values.max())))
    text = f"{label} over {clock_of(duration)}: {explained}{more}"
    return Markup(
        '<figure class="plot" title="{}"><figcaption><b>{}</b> <span>{}</span></figcaption>'
        '<svg viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg></figure>'
    ).format(text, label, spread, WIDTH, HEIGHT + 1, text, Markup("").join(paths))


def line(x_N: np.ndarray, y_N: np.ndarray) -> str:
    """The `d` of a path, of at most `POINTS` points; a gap in time is a gap in the line, NaN is not drawn."""
    if len(x_N) > POINTS:
        parts = np.array_split(np.arange(len(x_N)), POINTS)
        finite = [part[np.isfinite(y_N[part])] for part in parts]
        y_N = np.array([y_N[part].mean() if part.size else np.nan for part in finite])
        x_N = np.array([x_N[part].mean() for part in parts])
    step = np.median(np.diff(x_N)) if len(x_N) > 1 else 0.0
    words, pen = [], False
    for at, (x, y) in enumerate(zip(x_N, y_N, strict=True)):
        if at and x - x_N[at - 1] > 4 * step:
            pen = False
        if not np.isfinite(y):
            continue  # one frame without a number, such as a segment's first, does not break the line
        words.append(f"{'L' if pen else 'M'}{x:.1f} {y:.1f}")
        pen = True
    if len(words) == 1:
        words.append(words[0].replace("M", "L"))
    return "".join(words)
