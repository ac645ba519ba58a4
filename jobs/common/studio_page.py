"""The studio's page. All that it makes comes from `screen` (pictures) and `composing` (the recipe); here are only controls.

Each tab has a draft of its own; the store, the generator and what was made are shared.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, cast, get_args

from nicegui import app, events, run, ui
from starlette.responses import FileResponse, Response

from jobs.common.composing import Draft, History, draft_of
from jobs.common.screen import Clip, Look, Offer, Screen, png, webp
from jobs.common.studio_guard import Guard
from jobs.common.studio_timeline import timeline
from jobs.common.studio_work import Work
from ops.editing.recipe import EASINGS, EditRecipe, RecipeError, load_recipe, parse_edits
from ops.face.mask import MaskSettings
from ops.face.paste import PasteMode, PasteSettings
from pipeline.store.places import is_url
from pipeline.store.tables import StoreError

SETTLED_SECONDS: Final = 0.6
"""So long nothing moves before the picture is made with the bits and at the size of a render."""
PLAYED_SECONDS: Final = 3.0
PICTURES_KEPT: Final = 300
REACH: Final = {"direction": 5.0, "target": 8.0, "path": 9.0}
"""A slider's ends, by the first word of a unit; the number beside it takes any."""
T = TypeVar("T")
TEMPLATES: Final = Path(__file__).with_name("templates")


class Workshop:
    """State that all tabs share."""

    def __init__(
        self, screen: Screen, start: EditRecipe | None, inverting: Work | None, editor: Sequence[str], editors: Sequence[str]
    ) -> None:
        self.screen, self.start, self.inverting = screen, start, inverting
        self.editor_words = [word for text in editor for word in ("--editor", text)]
        self.editor_words += [word for text in editors for word in ("--editors", text)]
        self.pictures: OrderedDict[str, tuple[bytes, str]] = OrderedDict()
        self.results: dict[str, Path] = {}
        self.works: list[Work] = [] if inverting is None else [inverting]

    def keep(self, data: bytes, kind: str) -> str:
        """Serve a picture for a while => its address. Names are random, and lead to no file."""
        name = secrets.token_hex(8)
        self.pictures[name] = (data, kind)
        while len(self.pictures) > PICTURES_KEPT:
            self.pictures.popitem(last=False)
        return f"/picture/{name}"

    def publish(self, path: Path) -> str:
        """Serve a result that was rendered here => its address."""
        name = secrets.token_hex(8)
        self.results[name] = path
        return f"/result/{name}"

    def close(self) -> None:
        for work in self.works:
            if work.running:
                work.stop()


def serve(
    workshop: Workshop, host: str, port: int, token: str, *, hosts: frozenset[str] | None, ready: Callable[[], None]
) -> None:
    """Run the server until it is interrupted."""

    @app.get("/picture/{name}")
    def picture(name: str) -> Response:
        found = workshop.pictures.get(name)
        return Response(status_code=404) if found is None else Response(found[0], media_type=found[1])

    @app.get("/result/{name}")
    def result(name: str) -> Response:
        path = workshop.results.get(name)
        return Response(status_code=404) if path is None or not path.is_file() else FileResponse(path)

    @ui.page("/", title="styleres studio", response_timeout=60, reconnect_timeout=60)
    async def page() -> None:
        await Page(workshop).build()

    app.add_middleware(Guard, token=token, hosts=hosts)
    app.on_startup(ready)
    app.on_startup(lambda: run.io_bound(workshop.screen.warm_up))
    shown = {"title": "styleres studio", "favicon": "🙂", "show": False, "show_welcome_message": False}
    ui.run(host=host, port=port, reload=False, dark=None, **shown)  # type: ignore[arg-type]


async def aside(function: Callable[..., T], *values: Any) -> T:
    """Call it in a thread, so that the page goes on meanwhile."""
    found = await run.io_bound(function, *values)
    return cast(T, found)  # None only where the server is ending


class Page:
    """One tab."""

    def __init__(self, workshop: Workshop) -> None:
        self.shop, self.screen = workshop, workshop.screen
        self.history = History(Draft() if workshop.start is None else draft_of(workshop.start))
        self.offers: dict[str, Offer] = {one.name: one for one in self.screen.offers()}
        self.clip: Clip | None = None
        self.seconds = 0.0
        self.track: int | None = None
        self.mode: PasteMode = "composite"
        self.mask = "soft"
        self.size: int | None = None
        self.moved = asyncio.Event()
        self.controls: dict[str, Controls] = {}
        self.loading = False
        """Controls are being set to what the draft says, so what they report is not a change."""
        self.rendering: Work | None = None
        self.listed = self.screen.count()
        self.playing = False

    # ------------------------------------------------------------------------------------------------------ building

    async def build(self) -> None:
        ui.add_css((TEMPLATES / "studio.css").read_text("utf-8"))
        ui.add_body_html(f"<script>{(TEMPLATES / 'studio.js').read_text('utf-8')}</script>")
        ui.colors(primary="#c2500a")
        names = await aside(self.screen.names)
        with ui.element("header").classes("bar"):
            ui.label("styleres studio").classes("brand")
            self.source = ui.select(names, label="source", on_change=lambda event: self.open(event.value)).props(
                "dense outlined"
            )
            self.source.classes("source").mark("source")
            self.state = ui.label().classes("state").mark("state")
            ui.space()
            self.undo = (
                ui.button(icon="undo", on_click=self.go_back).props("flat dense aria-label=Undo").tooltip("Undo: Ctrl+Z")
            )
            self.redo = ui.button(icon="redo", on_click=self.go_on).props("flat dense aria-label=Redo").tooltip("Redo: Ctrl+Y")
        with ui.element("main").classes("studio"):
            with ui.element("section").classes("look"):
                with ui.element("div").classes("pair"):
                    self.before = shown_as("before")
                    self.after = shown_as("after")
                self.note = ui.label().classes("note").mark("note")
                with ui.element("div").classes("transport"):
                    self.play_button = ui.button(icon="play_arrow", on_click=self.play).props("round dense aria-label=Play")
                    self.play_button.tooltip(f"Play {PLAYED_SECONDS:.0f} s from here")
                    self.scrub = ui.slider(min=0, max=1, step=0.01, value=0, on_change=lambda event: self.seek(event.value))
                    self.scrub.props("aria-label=Time dense").classes("scrub").mark("time")
                    self.clock = ui.label("0:00.00").classes("clock")
                self.timeline = ui.html("", sanitize=False).classes("timeline").mark("timeline")
                self.timeline.on("click", self.clicked, js_handler="(event) => studioClick(event, emit)")
                self.commands = ui.element("div").classes("commands")
            with ui.element("section").classes("edit"):
                self.who = ui.select(
                    {-1: "every face"}, value=-1, label="edits go to", on_change=lambda e: self.choose(e.value)
                )
                self.who.props("dense outlined").classes("wide").mark("track")
                ui.input(placeholder="find an edit", on_change=lambda event: self.find(event.value)).props(
                    "dense outlined clearable aria-label='Find an edit'"
                ).classes("wide")
                with ui.element("div").classes("edits"):
                    self.build_edits()
                with ui.expansion("Paste").props("dense").classes("wide"):
                    sizes = self.screen.bundle.config.generator.sizes
                    several = {0: "what the face needs"} | {size: f"{size} px" for size in sizes}
                    kinds = ["soft", "face"] if self.screen.bundle.framing.crop == "ffhq" else ["soft"]
                    chosen = (
                        ("paste", list(get_args(PasteMode)), self.mode, lambda event: self.set_look(mode=event.value)),
                        ("mask", kinds, self.mask, lambda event: self.set_look(mask=event.value)),
                        ("size of pictures", several, 0, lambda event: self.set_look(size=event.value)),
                    )
                    for label, values, value, change in chosen:
                        one = ui.select(values, value=value, label=label, on_change=change)  # type: ignore[arg-type]
                        one.props("dense outlined").classes("wide").mark(label.split()[0])
                with ui.element("div").classes("save"):
                    self.file = (
                        ui.input("recipe", value="recipe.yaml", on_change=self.draw_commands)
                        .props("dense outlined")
                        .classes("grow")
                        .mark("file")
                    )
                    ui.button("Save", on_click=self.save).props("outline").mark("save")
                with ui.element("div").classes("save"):
                    self.out = (
                        ui.input("render into", value="edited", on_change=self.draw_commands)
                        .props("dense outlined")
                        .classes("grow")
                        .mark("out")
                    )
                    self.render_button = ui.button("Render", on_click=self.render).mark("render")
                self.bar = ui.linear_progress(value=0, show_value=False).classes("wide").mark("progress")
                self.bar.visible = False
                self.result = ui.element("div").classes("result")
        ui.keyboard(on_key=self.key)
        if names:
            self.source.set_value(next(iter(names)))
        self.show()
        ui.timer(1.0, self.poll)
        self.drawing = asyncio.create_task(self.draw_on())

    def build_edits(self) -> None:
        """The model's plain edits first; families of names behind their first word."""
        families: dict[str, list[Offer]] = {}
        for offer in self.offers.values():
            families.setdefault(offer.name.rpartition(".")[0], []).append(offer)
        for family, members in families.items():
            if not family:
                for offer in members:
                    self.controls[offer.name] = Controls(self, offer)
                continue
            with ui.expansion(f"{family}  ·  {len(members)}").props("dense").classes("wide family") as group:
                for offer in members:
                    self.controls[offer.name] = Controls(self, offer, group)

    # ------------------------------------------------------------------------------------------------- what is shown

    def open(self, key: str) -> None:
        try:
            self.clip = self.screen.clip(key)
        except StoreError as error:
            self.clip = None
            ui.notify(str(error), type="negative", multi_line=True)
        self.seconds = 0.0
        if self.clip is not None:
            # A frame with a face: a clip often begins without one.
            spans = self.clip.spans().values()
            self.seconds = min((first for first, _ in spans), default=0.0)
            self.loading = True
            self.scrub.props(f"max={max(self.clip.duration, 0.01):.4f}")
            self.scrub.set_value(self.seconds)
            self.loading = False
        self.refresh_tracks()
        self.show()

    def refresh_tracks(self) -> None:
        tracks = [] if self.clip is None else self.clip.codes.tracks
        self.who.set_options({-1: "every face"} | {track: f"track {track}" for track in tracks})
        if self.track is not None and self.track not in tracks:
            self.choose(-1)

    def choose(self, track: int) -> None:
        self.track = None if track in (-1, None) else track
        if self.who.value != track:
            self.who.set_value(track)
        self.show()

    def seek(self, seconds: float) -> None:
        if self.loading or self.clip is None:
            return
        self.seconds = min(max(float(seconds), 0.0), self.clip.duration)
        self.show()

    def set_look(self, *, mode: PasteMode | None = None, mask: str | None = None, size: int | None = None) -> None:
        self.mode, self.mask = mode or self.mode, mask or self.mask
        if size is not None:
            self.size = size or None
        self.show()

    def find(self, text: str | None) -> None:
        words = (text or "").lower().split()
        for control in self.controls.values():
            control.show_if(all(word in control.offer.name.lower() for word in words), opened=bool(words))

    def show(self, but: Controls | None = None) -> None:
        """Everything follows the draft, the time and the source. but: whose slider is moved, and so ahead of what we know."""
        self.loading = True
        try:
            for control in self.controls.values():
                control.follow(slider=control is not but)
            if abs(self.scrub.value - self.seconds) > 1e-3:
                self.scrub.set_value(self.seconds)
        finally:
            self.loading = False
        self.clock.set_text(f"{int(self.seconds) // 60}:{self.seconds % 60:05.2f}")
        self.undo.set_enabled(self.history.can_undo)
        self.redo.set_enabled(self.history.can_redo)
        self.draw_timeline()
        self.draw_commands()
        self.moved.set()

    def draw_timeline(self) -> None:
        if self.clip is None:
            self.timeline.set_content("")
            return
        faces = {}
        for track in self.clip.codes.tracks[:40]:
            key = f"face {self.clip.source.source_id} {track}"
            if key not in self.shop.pictures:
                try:
                    self.shop.pictures[key] = (webp(self.screen.face(self.clip, track)), "image/webp")
                except (StoreError, ValueError, IndexError, OSError):
                    continue
            faces[track] = f"/picture/{key.replace(' ', '%20')}"
        drawn = timeline(self.clip, self.history.now, self.seconds, self.track, faces)
        if drawn != self.timeline.content:
            self.timeline.set_content(drawn)

    def draw_commands(self) -> None:
        self.commands.clear()
        recipe = self.recipe()
        if recipe is None or self.clip is None:
            return
        with self.commands:
            for title, words in (("here", self.render_words()), ("on a cluster", self.submit_words())):
                with ui.element("div").classes("command"):
                    ui.label(title).classes("title")
                    ui.label(shlex.join(words)).classes("code")

    def recipe(self) -> EditRecipe | None:
        base = self.shop.start
        if base is None and self.screen.definitions:
            names = [lane.edit for lane in self.history.now.lanes]
            if names:
                base = parse_edits([f"{names[0]}=0"]).with_editors(self.screen.definitions)
        return self.history.now.recipe(base)

    def recipe_path(self) -> Path:
        """Return where the recipe is saved, in the working folder. Raises RecipeError for a name that leads elsewhere."""
        return inside(self.file.value, (".yaml", ".yml"))

    def look_words(self) -> list[str]:
        words = ["--paste", self.mode, "--mask", self.mask]
        return words + (["--size", str(self.size)] if self.size is not None else [])

    def render_words(self, root: str | None = None) -> list[str]:
        assert self.clip is not None
        where = str(self.screen.store.root) if root is None else root
        if not is_url(where):
            where = os.path.normpath(where)
        words = ["styleres", "render", "--store", where, "--only", self.clip.source.source_id]
        return [*words, "--recipe", self.file.value, "--out", self.out.value, *self.look_words()]

    def submit_words(self) -> list[str]:
        words = self.render_words(str(Path(str(self.screen.store.root)).absolute()))[2:]
        words[words.index("--recipe") + 1] = str(Path(self.file.value).absolute())
        words[words.index("--out") + 1] = str(Path(self.out.value).absolute())
        submit = ["ray", "job", "submit", "--address", "http://HEAD:8265", "--working-dir", ".", "--"]
        return [*submit, "python", "-m", "jobs.render", *words, "--ray-address", "auto"]

    # ---------------------------------------------------------------------------------------------------- pictures

    def looked(self, *, exact: bool) -> Look:
        size = self.size
        if not exact:
            # At the model's smallest size while something moves; a render's own size when it rests.
            size = self.screen.bundle.config.generator.sizes[0]
        return Look(PasteSettings(self.mode, MaskSettings(self.mask)), size, exact)  # type: ignore[arg-type]

    async def draw_on(self) -> None:
        """Draws what was asked for last; quickly while something moves, exactly when it rests."""
        while not self.is_gone():
            try:
                await asyncio.wait_for(self.moved.wait(), 5)
            except TimeoutError:
                continue
            self.moved.clear()
            await self.draw(exact=False)
            try:
                await asyncio.wait_for(self.moved.wait(), SETTLED_SECONDS)
            except TimeoutError:
                await self.draw(exact=True)

    def is_gone(self) -> bool:
        return self.after.is_deleted

    async def draw(self, *, exact: bool) -> None:
        clip, recipe, look = self.clip, self.recipe(), self.looked(exact=exact)
        if clip is None or self.playing:
            return
        ordinal = clip.ordinal(self.seconds)
        try:
            source = await aside(self.screen.frame, clip, ordinal)
            made = await aside(self.screen.edited, clip, ordinal, recipe, look)
        except (StoreError, RecipeError, ValueError, OSError) as error:
            self.note.set_text(str(error))
            return
        encode, kind = (png, "image/png") if exact else (webp, "image/webp")
        before, after = await aside(webp, source), await aside(encode, made)
        if self.moved.is_set() and exact:
            return  # the two are shown together or not at all
        self.before.show(self.shop.keep(before, "image/webp"), exact)
        self.after.show(self.shop.keep(after, kind), exact)
        self.note.set_text(self.words(clip, ordinal, recipe))

    def words(self, clip: Clip, ordinal: int, recipe: EditRecipe | None) -> str:
        """Why the two pictures are alike, if they are."""
        pts = int(clip.source.info.pts[ordinal])
        here = [track for track in clip.codes.tracks if pts in clip.codes.pts(track)]
        if not clip.codes.tracks:
            return "No face was found in this source." if clip.complete else "Faces are still being looked for."
        if not here:
            return "No face is seen in this frame." if clip.complete else "This frame is not inverted yet."
        if recipe is None:
            return "Move a slider."
        return ""

    async def play(self) -> None:
        """Make some seconds from here, then show them in turn."""
        clip, recipe = self.clip, self.recipe()
        if clip is None or self.playing:
            self.playing = False
            return
        self.playing = True
        self.play_button.props("icon=stop")
        first = clip.ordinal(self.seconds)
        last = clip.ordinal(min(self.seconds + PLAYED_SECONDS, clip.duration))
        step = max(1, (last - first) // 40)  # so many pictures are worth the wait
        ordinals = list(range(first, last + 1, step))
        addresses = []
        try:
            for at, ordinal in enumerate(ordinals):
                made = await aside(self.screen.edited, clip, ordinal, recipe, self.looked(exact=False))
                addresses.append(self.shop.keep(await aside(webp, made), "image/webp"))
                self.note.set_text(f"making {at + 1} of {len(ordinals)} pictures")
                if not self.playing or self.is_gone():
                    break
            else:
                pace = max((clip.seconds_N[last] - clip.seconds_N[first]) / max(len(ordinals) - 1, 1), 0.01)
                self.note.set_text(f"{clip.seconds_N[last] - clip.seconds_N[first]:.1f} s")
                await ui.run_javascript(f"studioPlay({self.after.identity!r}, {addresses!r}, {pace * 1000:.0f})", timeout=60)
        except (StoreError, RecipeError, ValueError, OSError, TimeoutError) as error:
            self.note.set_text(str(error))
        self.playing = False
        self.play_button.props("icon=play_arrow")
        self.moved.set()

    # ----------------------------------------------------------------------------------------------------- actions

    def change(self, draft: Draft, what: object = None, by: Controls | None = None) -> None:
        self.history.change(draft, what)
        self.show(by)

    def go_back(self) -> None:
        if self.history.undo():
            self.show()

    def go_on(self) -> None:
        if self.history.redo():
            self.show()

    def clicked(self, event: events.GenericEventArguments) -> None:
        """On the time line: a share of its width, and whose row it was."""
        if self.clip is None:
            return
        found = event.args
        if found.get("track") is not None:
            self.choose(int(found["track"]))
        if found.get("share") is not None:
            self.seek(float(found["share"]) * self.clip.duration)

    def key(self, event: events.KeyEventArguments) -> None:
        if not event.action.keydown or self.clip is None:
            return
        if event.modifiers.ctrl and event.key == "z":
            self.go_back()
        elif event.modifiers.ctrl and event.key == "y":
            self.go_on()
        elif event.key.arrow_left or event.key.arrow_right:
            ordinal = self.clip.ordinal(self.seconds) + (1 if event.key.arrow_right else -1)
            self.seek(float(self.clip.seconds_N[min(max(ordinal, 0), len(self.clip.seconds_N) - 1)]))

    def save(self) -> Path | None:
        recipe = self.recipe()
        if recipe is None:
            ui.notify("There is nothing to save: no edit is set.", type="warning")
            return None
        try:
            path = self.recipe_path()
            if path.exists():
                load_recipe(path)  # another file of that name is not replaced
            path.write_text(recipe.to_yaml(), "utf-8")
        except (RecipeError, OSError) as error:
            ui.notify(str(error), type="negative", multi_line=True)
            return None
        ui.notify(f"saved {path}", type="positive")
        return path

    def render(self) -> None:
        """The command that is shown, run here."""
        if self.clip is None or (self.rendering is not None and self.rendering.running):
            return
        if not self.clip.complete:
            ui.notify("This source is still being inverted; a render needs all of it.", type="warning")
            return
        try:
            inside(self.out.value, ())
        except RecipeError as error:
            ui.notify(str(error), type="negative", multi_line=True)
            return
        if self.save() is None:
            return
        words = [*self.render_words()[1:], "--model", str(self.screen.bundle.path), *self.shop.editor_words, "--overwrite"]
        self.rendering = Work(words)
        self.shop.works.append(self.rendering)
        self.result.clear()
        self.bar.visible = True
        self.render_button.set_enabled(False)

    def poll(self) -> None:
        """Once a second: what the processes say, and what has been inverted since."""
        self.poll_inversion()
        work = self.rendering
        if work is None:
            return
        self.bar.set_value(work.share)
        if work.running:
            return
        self.rendering = None
        self.bar.visible = False
        self.render_button.set_enabled(True)
        with self.result:
            for said in work.losses[:5]:
                ui.label(said).classes("failure")
            if work.done is not None and self.clip is not None and not work.losses:
                self.show_result(Path(work.done["out"]))

    def show_result(self, out: Path) -> None:
        assert self.clip is not None
        stem = Path(self.clip.source.output_name).stem
        found = sorted(out.glob(f"{stem}.edited.*"), key=lambda path: path.stat().st_mtime) if out.is_dir() else [out]
        made = [path for path in found if ".contact_sheet" not in path.name and ".side_by_side" not in path.name]
        if not made:
            ui.label(f"rendered into {out}").mark("made")
            return
        address = self.shop.publish(made[-1].absolute())
        if self.clip.source.info.kind == "image":
            ui.image(address)
        else:
            ui.video(address, autoplay=True, loop=True, muted=True)
        ui.label(str(made[-1].absolute())).classes("made-path").mark("made")

    def poll_inversion(self) -> None:
        work = self.shop.inverting
        if work is not None:
            failed = work.losses[-1] if work.losses else ""
            self.state.set_text(f"inverting: {work.said}" if work.running else failed)
        count = self.screen.count()
        if count != self.listed:
            self.listed = count
            names = self.screen.names()
            self.source.set_options(names, value=self.source.value or next(iter(names), None))
        if self.clip is None or self.clip.complete:
            return
        try:
            now = self.screen.clip(self.clip.source.source_id)
        except StoreError:
            return  # a part is being written
        if now is not self.clip:
            self.clip = now
            self.refresh_tracks()
            self.show()


class Controls:
    """The row of one edit: name, slider, number, keyframe, easing, and a way back."""

    def __init__(self, page: Page, offer: Offer, group: ui.expansion | None = None) -> None:
        self.page, self.offer, self.group = page, offer, group
        reach = next((value for word, value in REACH.items() if word in offer.unit), 5.0)
        name = offer.name.rpartition(".")[2].replace("_", " ")
        with ui.element("div").classes("edit-row").mark(f"edit-{offer.name}") as self.row:
            with ui.element("div").classes("edit-head"):
                ui.label(name).classes("edit-name").tooltip(f"{offer.about or offer.name}. Unit: {offer.unit}")
                self.easing = ui.select(list(EASINGS), value="smooth", on_change=self.ease).props(
                    "dense borderless options-dense"
                )
                self.easing.classes("edit-easing").tooltip("how the strength goes from keyframe to keyframe")
                self.diamond = ui.button(icon="diamond", on_click=self.keyframe).props("flat dense round size=sm")
                self.diamond.props(f"aria-label='Keyframe of {offer.name}'").tooltip("a keyframe here, or none any more")
                self.clear = ui.button(icon="close", on_click=self.remove).props("flat dense round size=sm")
                self.clear.props(f"aria-label='Without {offer.name}'").tooltip("without this edit")
            with ui.element("div").classes("edit-line"):
                self.slider = ui.slider(min=-reach, max=reach, step=0.05, value=offer.neutral or 0.0)
                self.slider.props(f"dense aria-label='{offer.name}'").mark(f"slider-{offer.name}")
                self.slider.on("update:model-value", lambda event: self.moved(event.args), throttle=0.08)
                self.number = ui.number(value=offer.neutral or 0.0, step=0.1, format="%.2f", on_change=self.typed)
                self.number.props(f"dense borderless aria-label='Strength of {offer.name}'").classes("edit-number")
            neutral = "no neutral strength: take it away with ×" if offer.neutral is None else f"neutral {offer.neutral:g}"
            ui.label(f"{short_unit(offer.unit)} · {neutral}").classes("edit-unit")

    def follow(self, *, slider: bool = True) -> None:
        """Show what the draft says at this time."""
        lane = self.page.history.now.lane(self.offer.name, self.page.track)
        value = (self.offer.neutral or 0.0) if lane is None else lane.at(self.page.seconds)
        if slider and self.slider.value != value:
            self.slider.set_value(value)
        if self.number.value != round(value, 2):
            self.number.set_value(round(value, 2))
        keyed = lane is not None and any(abs(at - self.page.seconds) < 0.02 for at, _ in lane.keyframes)
        self.diamond.props(f"color={'primary' if keyed else 'grey-6'}")
        self.easing.visible = lane is not None and len(lane.keyframes) > 1
        if lane is not None and self.easing.value != lane.easing:
            self.easing.set_value(lane.easing)
        self.clear.visible = lane is not None
        self.row.classes(add="used" if lane is not None else "", remove="" if lane is not None else "used")

    def moved(self, value: float | None) -> None:
        if self.page.loading or value is None:
            return
        page, name = self.page, self.offer.name
        here = page.seconds
        page.change(page.history.now.set(name, page.track, here, float(value)), (name, page.track, here), self)

    def typed(self, event: Any) -> None:
        lane = self.page.history.now.lane(self.offer.name, self.page.track)
        now = (self.offer.neutral or 0.0) if lane is None else lane.at(self.page.seconds)
        if event.value is not None and abs(float(event.value) - now) > 0.006:
            self.moved(event.value)
            self.follow()

    def keyframe(self) -> None:
        page = self.page
        page.change(page.history.now.keyframe(self.offer.name, page.track, page.seconds))

    def ease(self, event: Any) -> None:
        if not self.page.loading:
            self.page.change(self.page.history.now.eased(self.offer.name, self.page.track, event.value))

    def remove(self) -> None:
        self.page.change(self.page.history.now.without(self.offer.name, self.page.track))

    def show_if(self, fits: bool, *, opened: bool) -> None:
        self.row.visible = fits
        if self.group is not None and opened and fits:
            self.group.open()


class Shown:
    """One of the two pictures. `data-exact` says whether it is a render's."""

    def __init__(self, title: str) -> None:
        with ui.element("figure").classes("shown"):
            self.image = ui.element("img").props(f"alt={title}").mark(title)
            with ui.element("figcaption"):
                ui.label(title)

    @property
    def identity(self) -> str:
        return self.image.html_id

    @property
    def is_deleted(self) -> bool:
        return self.image.is_deleted

    def show(self, address: str, exact: bool) -> None:
        self.image.props(f"src={address} data-exact={'true' if exact else 'false'}")


def shown_as(title: str) -> Shown:
    return Shown(title)


def short_unit(unit: str) -> str:
    """The first clause of a unit, for under a slider; the rest is in the tooltip."""
    return unit.split(",")[0].split(";")[0]


def inside(name: str, suffixes: Sequence[str]) -> Path:
    """A file or folder of the working folder. Raises RecipeError for a name that leads elsewhere."""
    path = Path(name)
    if not name.strip() or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise RecipeError(f"{name!r}: name a file in the folder that the studio was started in")
    if suffixes and path.suffix.lower() not in suffixes:
        raise RecipeError(f"{name!r}: expected a name that ends in {' or '.join(suffixes)}")
    if not Path(name).resolve().is_relative_to(Path.cwd().resolve()):
        raise RecipeError(f"{name!r}: it leads out of the folder that the studio was started in")
    return path
