"""Keeps where every source in flight stands, and gives out the items that may run; shared by all runners.

A source takes the stages in order, and enters one when all its items have left the one before; sources do not wait for each
other. Later stages go first, and no source is listed before there is room for its items, so that memory and the work folder
hold what is in flight and nothing more, be it of ten inputs or of a million.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

from pipeline.engine.ledger import Ledger, Seal, after, differences, key_of
from pipeline.engine.packs import Packs
from pipeline.engine.stage import NO_SPACE, OUTPUT_EXISTS, Chunk, Item, Outcome, Picture, Source, Stage
from pipeline.engine.summary import Summary, lost_of
from pipeline.store.parts import DamagedPart, Written, named
from pipeline.store.places import Place
from schemas import Failure, source_id_of_unreadable

SPARE_SOURCES = 64
"""Sources in flight at once, besides one for each frame that workers may want."""

MOST_BEGINNINGS = 3
"""Times that a source whose parts turn out damaged is begun in one run, at most."""


class OutOfSpace(RuntimeError):
    """A disk or quota is full. What was finished stays; the same command continues once there is room."""


@dataclass
class Tally:
    """Items of one stage in this run."""

    queued: int = 0
    running: int = 0
    done: int = 0
    resumed: int = 0
    """Part of `done`: items that an earlier run did."""
    failed: int = 0
    frames: int = 0
    """Frames of the items that this run has done."""

    @property
    def known(self) -> int:
        """Items of all sources that have come so far."""
        return self.queued + self.running + self.done + self.failed


@dataclass(frozen=True)
class Status:
    """Progress of a run."""

    seconds: float
    steps: dict[str, Tally]
    sources: int
    """Finished sources, lost ones included."""
    sources_known: int | None
    """None while the inputs are still being listed."""
    workers: int = 1
    busy_share: float = 1.0
    """Share of the workers' time since the last status in which they computed, 0..1."""

    @property
    def eta_seconds(self) -> float | None:
        """Estimate the seconds that remain, as if the rest were like what is finished; None while that is unknown."""
        if not self.sources_known or not self.sources:
            return None
        return self.seconds / self.sources * (self.sources_known - self.sources)


@dataclass(frozen=True)
class Settled:
    """An item has an outcome."""

    stage: Stage
    outcome: Outcome
    tally: Tally


@dataclass(frozen=True)
class Noted:
    """A message for the user: a source that is skipped or done again, and why; a worker that died."""

    kind: str
    message: str
    uri: str = ""


@dataclass(frozen=True)
class Lost:
    """A source that never came to its first item."""

    failure: Failure


Event = Settled | Noted | Lost | Status
Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """Ignore an event: the default report of a course."""


@dataclass(eq=False)
class ItemBatch:
    """Items of one stage that one worker does together."""

    stage: Stage
    items: list[Item]


@dataclass(eq=False)
class Underway:
    """A source in flight."""

    source: Source
    upstream: str
    at: int = 0
    key: str = ""
    waiting: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    """Outcomes of the stage that the source is in."""
    failures: list[Failure] = field(default_factory=list)
    files: list[Written] = field(default_factory=list)
    outputs: list[Written] = field(default_factory=list)
    failed: bool = False
    """The four above: since the last seal."""
    devices: dict[str, set[str]] = field(default_factory=dict)
    """Stage => kinds of device that its models ran on, since the last seal."""
    lost: bool = False
    """Something of the source was lost, at any stage."""
    settled: list[tuple[Stage, Outcome]] = field(default_factory=list)
    """Outcomes of the stages that it has passed, for the summary."""
    lost_before: list[Failure] = field(default_factory=list)
    """Failures that stages finished by an earlier run have left."""


@final
class Course:
    """Moves sources along the stages.

    sources: may be endless: only the next element is ever asked for. A failure among them is an input that could not become a
        source; it was reported when it was listed, and is counted and written down here. Pictures do not take the stages:
        `packs` handles them.
    ledger: None records nothing, so that nothing is resumed.
    begin: returns the digest that the first stage depends on besides the source.
    admit: returns why a source must not be touched (None: it may be), called only if it is not finished already.
    changed: called before a source whose manifest has other settings is done again; returns why that must not be, or None.
    started: called for each source that begins with the first stage; returns the files that it wrote.
    moved: called for each source of which something is finished; returns where its file was, if its new place was written down.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        sources: Iterable[Source | Picture | Failure],
        ledger: Ledger | None,
        report: Report = silent,
        *,
        begin: Callable[[Source], str] = lambda source: "",
        admit: Callable[[Source], Failure | None] = lambda source: None,
        changed: Callable[[Source, Seal, list[str]], Failure | None] = lambda source, seal, what: None,
        started: Callable[[Source], Sequence[Written]] = lambda source: (),
        moved: Callable[[Source], str | None] = lambda source: None,
        count: int | None = None,
        packs: Packs | None = None,
    ) -> None:
        self.chain = list(stages)
        """Stages that a source passes, in order."""
        self.packs = packs
        self.stages = [*self.chain, *(packs.stages if packs is not None else ())]
        self.ledger = ledger
        self.report = report
        self.summary = Summary()
        self.tallies = {stage.name: Tally() for stage in self.stages}
        self.count = count
        self._sources: Iterator[Source | Picture | Failure] = iter(sources)
        self._listed_all = False
        self._begin, self._admit, self._changed, self._started, self._moved = begin, admit, changed, started, moved
        self._queues: list[deque[Chunk]] = [deque() for _ in stages]
        self._underway: dict[str, Underway] = {}
        self._held: deque[Source] = deque()  # sources of the same bytes as one in flight, or to be begun again
        self._beginnings: Counter[str] = Counter()  # how often sources with damaged parts were begun
        self._left = set() if ledger is None else ledger.left(self.chain)
        self._refused = set() if ledger is None else ledger.refused()
        self._have_failures = set(self._refused)
        """Keys of sources that have rows of `failures`."""
        self._began = time.monotonic()
        self._ahead_frames = 1

    # ------------------------------------------------------------------------------------------------ for the runner

    def take(self, fits: Callable[[Stage], bool] = lambda stage: True) -> ItemBatch | None:
        """Return the next items for a worker, latest stage first; None if there are none that it may do now."""
        self._list_more(fits)
        if self.packs is not None:
            self._close_last_pack()
            if (found := self.packs.take(fits)) is not None:
                return self._running(*found)
        for at in reversed(range(len(self.chain))):
            stage, queue = self.chain[at], self._queues[at]
            if not queue or not fits(stage):
                continue
            items: list[Item] = [queue.popleft()]
            while queue and sum(item.frames for item in items) + queue[0].frames <= stage.frames:
                items.append(queue.popleft())
            return self._running(stage, items)
        return None

    def _running(self, stage: Stage, items: list[Item]) -> ItemBatch:
        tally = self.tallies[stage.name]
        tally.queued -= len(items)
        tally.running += len(items)
        return ItemBatch(stage, items)

    def _close_last_pack(self) -> None:
        """Queue the joining of all waiting entries, however few, when no picture is left."""
        if self.packs is not None and self._listed_all and not self.packs.busy:
            self.tallies[self.packs.joining.name].queued += self.packs.close_pack(last=True)

    def give_back(self, batch: ItemBatch) -> None:
        """Queue items again whose worker is gone, through no fault of theirs."""
        if self.packs is not None and batch.stage in self.packs.stages:
            self.packs.give_back(batch.stage, batch.items)
        else:
            queue = self._queues[self.chain.index(batch.stage)]
            queue.extendleft(item for item in reversed(batch.items) if isinstance(item, Chunk))
        tally = self.tallies[batch.stage.name]
        tally.queued += len(batch.items)
        tally.running -= len(batch.items)

    def settle(self, stage: Stage, outcome: Outcome) -> None:
        """Record that an item is done or lost, and move its source on.

        Raises:
            OutOfSpace: the item was lost because a disk is full.
        """
        tally = self.tallies[stage.name]
        tally.running -= 1
        if outcome.failure is None:
            tally.done += 1
            tally.frames += outcome.item.frames
        else:
            tally.failed += 1
            if outcome.failure.reason == NO_SPACE:
                raise OutOfSpace(
                    f"{outcome.failure.message}; the disk or quota is full. What is finished stays: make room and run the "
                    "same command again"
                )
        if not isinstance(outcome.item, Chunk):
            self._settle_picture(stage, outcome)
            return
        state = self._underway[outcome.item.source.source_id]
        self._see_devices(stage, state, outcome)
        if outcome.damaged is None:  # else it may not be lost: see when the source has no item in work
            self.report(Settled(stage, outcome, tally))
        state.outcomes.append(outcome)
        state.waiting -= 1
        if state.waiting == 0:
            self._leave(state)

    def _settle_picture(self, stage: Stage, outcome: Outcome) -> None:
        assert self.packs is not None
        about = {} if outcome.result is None else outcome.result.about
        done_before = self.packs.settle(outcome)
        if about.get("own"):
            self.tallies[stage.name].done -= 1
            self.report(Noted("left_out", "styleres made it; name the file itself to edit it again", outcome.item.uri))
            return
        self.report(Settled(stage, outcome, self.tallies[stage.name]))
        self.summary.add(stage, outcome)
        lost = outcome.failure is not None or bool(lost_of(outcome.result.failures if outcome.result is not None else ()))
        if isinstance(outcome.item, Picture):
            self.summary.sources_failed += lost
            self.summary.sources_done += not lost
            self.summary.sources_skipped += done_before
        else:
            self.summary.sources_failed += lost
        self.tallies[self.packs.joining.name].queued += self.packs.close_pack()

    def _see_devices(self, stage: Stage, state: Underway, outcome: Outcome) -> None:
        """Report, once for a source and stage, that it goes on on another kind of device than it was begun on; it may."""
        new = set() if outcome.result is None else set(outcome.result.devices)
        known = state.devices.setdefault(stage.name, set())
        if known and not new <= known and len(known) == 1:
            (before,), now = known, ", ".join(sorted(new - known))
            said = f"{stage.name} goes on on {now}, and was begun on {before}: rows of the two differ in their last bits"
            self.report(Noted("device", said, state.source.uri))
        known |= new

    @property
    def finished(self) -> bool:
        """True if nothing is in flight, and nothing more will come."""
        if not self._underway and not self._listed_all:
            self._list_more()
        self._close_last_pack()
        busy = self.packs is not None and self.packs.busy
        return self._listed_all and not self._underway and not self._held and not busy

    def holds(self, source_id: str) -> bool:
        """Return whether a source is in flight, so that more items of it may come."""
        return source_id in self._underway

    def status(self, workers: int = 1, busy_share: float = 1.0) -> Status:
        known = self.count
        if self._listed_all:
            known = self.summary.sources_done + self.summary.sources_failed + len(self._underway) + len(self._held)
            known += 0 if self.packs is None else self.packs.pending
        seconds = time.monotonic() - self._began
        finished = self.summary.sources_done + self.summary.sources_failed
        chain = {stage.name for stage in self.chain}
        steps = {
            name: tally for name, tally in self.tallies.items() if name in chain or tally.known
        }  # most runs have no picture
        return Status(seconds, steps, finished, known, workers, busy_share)

    def look_ahead(self, frames: int) -> None:
        """Keep so many frames ready to be taken, if there are as many."""
        self._ahead_frames = frames
        self._list_more()

    def batches(self, can: Callable[[Stage], bool]) -> int:
        """Return how many workers the waiting items could keep busy."""
        queues = zip(self.chain, self._queues, strict=True)
        pictures = 0 if self.packs is None else self.packs.batches(can)
        return pictures + sum(
            -(-sum(item.frames for item in queue) // stage.frames) for stage, queue in queues if queue and can(stage)
        )

    # ------------------------------------------------------------------------------------------------ one source

    def _list_more(self, fits: Callable[[Stage], bool] = lambda stage: True) -> None:
        """Take sources in until there is enough to do, or as many are in flight as may be."""

        def ready_frames() -> int:
            pictures = 0 if self.packs is None or not fits(self.packs.pictures) else len(self.packs.queue)
            return pictures + sum(
                item.frames for stage, queue in zip(self.chain, self._queues, strict=True) if fits(stage) for item in queue
            )

        most = 2 * self._ahead_frames + SPARE_SOURCES
        while len(self._underway) < most and ready_frames() < self._ahead_frames:
            free = next((source for source in self._held if source.source_id not in self._underway), None)
            if free is not None:
                self._held.remove(free)
                self._enter(free)
                continue
            if self._listed_all or len(self._held) >= most:
                return
            source = next(self._sources, None)
            if source is None:
                self._listed_all = True
            elif isinstance(source, Failure):
                self._refuse(source)
                self.summary.sources_failed += 1
            elif isinstance(source, Picture):
                self._add_picture(source)
            elif source.source_id in self._underway:
                self._held.append(source)
            else:
                self._enter(source)

    def _add_picture(self, picture: Picture) -> None:
        assert self.packs is not None, "a course without packs was given a picture"
        if not self.packs.add(picture):
            self.tallies[self.packs.pictures.name].queued += 1
            return
        self.summary.sources_done += 1
        self.summary.sources_skipped += 1
        if self.summary.sources_skipped in (1, 10, 100) or self.summary.sources_skipped % 1000 == 0:
            said = "finished already, with this model and these settings"
            self.report(Noted("skipped", f"{said}; so were {self.summary.sources_skipped - 1} inputs before", picture.uri))

    def _enter(self, source: Source) -> None:
        if self.ledger is not None:
            self.ledger.store.read_manifests_once(source.source_id)
        for said in [] if self.ledger is None else self.ledger.put_manifests_aside(self.chain, source):
            self.report(Noted("damaged", f"{said}; put aside, and what it vouched for is made again", source.uri))
        state = Underway(source, self._begin(source))
        self._underway[source.source_id] = state
        if self.ledger is not None and self._sealed_from(state) < len(self.chain):
            failure, what = self._refusal(state)
            if failure is not None:
                self.report(Lost(failure))
                self._refuse(failure)
                state.lost = True
                self._end(state)
                return
            if what:
                self.report(Noted("again", f"done again, because {'; '.join(what)}", source.uri))
            if state.at == 0:
                state.files += self._started(source)
        if state.at and (before := self._moved(source)) is not None:
            self.report(Noted("moved", f"it was {before} when it was inverted; the store knows its new place", source.uri))
        if self.ledger is not None and not self._refused.isdisjoint({source.source_id, source_id_of_unreadable(source.uri)}):
            self.ledger.admit(source)
        self._go_on(state)

    def _refuse(self, failure: Failure) -> None:
        self.summary.fail([failure])
        if self.ledger is not None:
            self.ledger.refuse(failure)
            self._have_failures.add(failure.source_id)

    def refusal(self, source: Source) -> Failure | None:
        """Return why this source would be refused, or None; changes nothing."""
        if self.packs is not None and source.kind == "image":
            return self.packs.refusal(source, self._admit)
        state = Underway(source, self._begin(source))
        if self.ledger is None or self._sealed_from(state, tell=False) == len(self.chain):
            return None
        return self._refusal(state)[0]

    def _refusal(self, state: Underway) -> tuple[Failure | None, list[str]]:
        """Return (why the source must not be touched or None, the settings that changed since it was done before)."""
        assert self.ledger is not None
        failure, last = self._admit(state.source), self.chain[-1]
        if failure is not None:
            # The same command wrote them, and was killed, or lost something and tries again.
            seal_name = last.seal_of(state.source)
            own = seal_name is not None and self.ledger.owns(seal_name, state.source.source_id)
            if not (own and failure.reason == OUTPUT_EXISTS):
                return failure, []
        upstream = state.upstream
        decides: dict[str, Any] = {}
        for stage in self.chain[state.at :]:
            key = key_of(stage, state.source, upstream)
            upstream = after(key, [(0, state.source.info.n_frames)])
            decides[stage.name] = stage.decided_by
            if (name := stage.seal_of(state.source)) is not None:
                seal = self.ledger.sealed(name, state.source.source_id)
                if seal is None or seal.key == key:
                    return None, []
                what = differences(dict(seal.decides), decides)
                return (self._changed(state.source, seal, what) if what else None), what
        return None, []

    def _sealed_from(self, state: Underway, *, tell: bool = True) -> int:
        """Skip every stage until the last one that is sealed with the key that it would have now; => the next stage."""
        if self.ledger is None:
            return state.at
        source, upstream, best = state.source, state.upstream, None
        for at in range(state.at, len(self.chain)):
            stage = self.chain[at]
            key = key_of(stage, source, upstream)
            upstream = after(key, [(0, source.info.n_frames)])
            if (name := stage.seal_of(source)) is None:
                continue
            seal = self.ledger.sealed(name, source.source_id)
            good = seal is not None and seal.key == key and not seal.failed
            if seal is not None and good and self.ledger.intact(name, source.source_id, seal, tidy=tell):
                upstream = seal.after or upstream  # it has one of its own since a track was deleted
                best = (at + 1, seal, upstream)
        if best is not None:
            before = state.at
            state.at, seal, state.upstream = best
            if not tell:
                return state.at
            if source.source_id in self._left:
                self.ledger.forget(self.chain[before : state.at], source)
            lost = lost_of(seal.failures)
            state.lost_before += lost
            state.lost = state.lost or bool(lost)
            done = state.at == len(self.chain)
            self.summary.sources_skipped += done
            stage = self.chain[state.at - 1]
            said = "finished" if done else f"{stage.name} is done"
            self.report(Noted("skipped", f"{said} already, with this model and these settings", source.uri))
        return state.at

    def _go_on(self, state: Underway) -> None:
        """Queue what is missing of the stage that the source has come to; pass stages of which nothing is."""
        while state.at < len(self.chain):
            if state.at and self.chain[state.at - 1].seals is not None and self._sealed_from(state) == len(self.chain):
                break
            stage, source = self.chain[state.at], state.source
            last = self.chain[-1]
            begun = last.seal_of(source)
            if self.ledger is not None and stage.vital and begun and not (state.at and self.chain[state.at - 1].vital):
                self.ledger.begin(begun, source.source_id)
            state.key = key_of(stage, source, state.upstream) if self.ledger is not None else ""
            done = [] if self.ledger is None else self.ledger.resume(stage, source, state.key, self._sealing(state))
            todo = stage.chunks(source, state.key, [(one.item.start, one.item.stop) for one in done])
            tally = self.tallies[stage.name]
            tally.done += len(done)
            tally.resumed += len(done)
            tally.queued += len(todo)
            state.outcomes = done
            state.devices[stage.name] = {kind for one in done if one.result is not None for kind in one.result.devices}
            if todo:
                state.waiting = len(todo)
                self._queues[state.at].extend(todo)
                return
            if not self._passed(state):
                return
        self._end(state)

    def _sealing(self, state: Underway) -> str | None:
        """Return the name of the manifest that vouches for the stage's files, if they are whole but for some damage."""
        assert self.ledger is not None
        source, key, upstream = state.source, state.key, state.upstream
        for stage in self.chain[state.at :]:
            key = key_of(stage, source, upstream)
            upstream = after(key, [(0, source.info.n_frames)])
            if (name := stage.seal_of(source)) is not None:
                seal = self.ledger.sealed(name, source.source_id)
                # Nothing of a render stays but its outputs, so there is no part of it to mend.
                whole = seal is not None and seal.key == key and not seal.failed and not seal.outputs
                return name if whole else None
        return None

    def _leave(self, state: Underway) -> None:
        if self._passed(state):
            self._go_on(state)

    def _passed(self, state: Underway) -> bool:
        """Write down what a stage did to a source; return False if the source goes no further."""
        stage = self.chain[state.at]
        state.outcomes.sort(key=lambda outcome: outcome.item.start)
        if any(outcome.damaged is not None for outcome in state.outcomes) and self._begins_again(stage, state):
            return False
        for outcome in state.outcomes:
            state.settled.append((stage, outcome))
            if outcome.failure is not None:
                state.failures.append(outcome.failure)
                state.failed = True
            else:
                assert outcome.result is not None
                state.failures += outcome.result.failures
                state.files += outcome.result.files
                state.outputs += outcome.result.outputs
        failed = any(outcome.failure is not None for outcome in state.outcomes)
        covered = [(outcome.item.start, outcome.item.stop) for outcome in state.outcomes if outcome.failure is None]
        state.lost = state.lost or failed or bool(lost_of(state.failures))
        state.upstream = after(state.key, covered)
        if self.ledger is not None:
            self._write_down(stage, state)
        state.outcomes = []
        if failed and stage.vital:
            self._end(state)
            return False
        state.at += 1
        return True

    def _begins_again(self, stage: Stage, state: Underway) -> bool:
        """Put damaged files of the store aside. Return True if these stages make them: the source then begins again.

        Then only what is missing is done. If other stages make them, as in a render alone, the failures name the command.
        """
        assert self.ledger is not None
        source_id, tally = state.source.source_id, self.tallies[stage.name]
        found: dict[Place, str] = {}
        for outcome in state.outcomes:
            found |= outcome.damaged.found if outcome.damaged is not None else {}
        gone = self.ledger.put_aside(self.chain, source_id, found)
        made_here = all(self.ledger.makes(self.chain, path) for path in found)
        if made_here and self._beginnings[source_id] < MOST_BEGINNINGS:
            self._beginnings[source_id] += 1
            self.report(Noted("damaged", f"{named(found)}; it is made again", state.source.uri))
            tally.failed -= sum(outcome.failure is not None for outcome in state.outcomes)
            for passed, outcome in [*state.settled, *((stage, outcome) for outcome in state.outcomes)]:
                if outcome.result is not None:  # this run has done it; what it lost is told when it is found done
                    self.summary.add(passed, replace(outcome, result=replace(outcome.result, failures=())))
            self._let_go(source_id)
            self._held.append(state.source)
            return True
        for at, outcome in enumerate(state.outcomes):
            if outcome.damaged is not None and outcome.failure is not None:
                failure = replace(outcome.failure, message=advice(outcome.damaged, gone))
                state.outcomes[at] = replace(outcome, failure=failure)
                self.report(Settled(stage, state.outcomes[at], tally))
        return False

    def _write_down(self, stage: Stage, state: Underway) -> None:
        assert self.ledger is not None
        source = state.source
        rows = [outcome.failure for outcome in state.outcomes if outcome.failure is not None]
        rows += [one for outcome in state.outcomes if outcome.result is not None for one in outcome.result.failures]
        lost_rows = self.ledger.lose(stage.name, source.source_id, rows, before=source.source_id in self._have_failures)
        if rows:
            self._have_failures.add(source.source_id)
        # What it lost is known to a later run that mends this stage. Those of renders are replaced by every other render.
        state.files += [] if stage.vital else lost_rows
        if (name := stage.seal_of(source)) is None:
            return
        if not (stage.vital and state.failed):
            chain = self.chain[: state.at + 1]
            first = max((i + 1 for i, one in enumerate(chain[:-1]) if one.seals), default=0)
            decides = {one.name: one.decided_by for one in chain[first:]}
            lost = tuple(lost_of(state.failures))
            devices = {one.name: sorted(found) for one in chain[first:] if (found := state.devices.get(one.name))}
            seal = Seal(state.key, source.uri, decides, lost, state.failed, tuple(state.outputs), state.upstream, devices)
            self.ledger.seal(name, source, seal, [file for file in state.files if not file.path.startswith("work/")])
            if not state.failed:
                self.ledger.forget(chain[first:], source, [pair for pair in state.settled if pair[0] in chain[first:]])
        state.failures, state.files, state.outputs, state.failed = [], [], [], False

    def let_go(self) -> None:
        """Let the sources in flight go when no more items are taken: a run that was ended has some."""
        for source_id in list(self._underway):
            self._let_go(source_id)

    def _let_go(self, source_id: str) -> None:
        del self._underway[source_id]
        if self.ledger is not None:
            self.ledger.store.read_manifests_again(source_id)

    def _end(self, state: Underway) -> None:
        self._let_go(state.source.source_id)
        self.summary.fail(state.lost_before)
        for stage, outcome in state.settled:
            self.summary.add(stage, outcome)
        if state.lost:
            self.summary.sources_failed += 1
        else:
            self.summary.sources_done += 1


def advice(damage: DamagedPart, gone: Collection[Place]) -> str:
    """Return the message for a step that met damaged files. gone: the files that were put aside."""
    if not any(path in gone for path in damage.found):
        return f"{named(damage.found)}, though its bytes are those that were written; run the same command again"
    return (
        f"{named(damage.found)}: damaged, and put aside. Run styleres invert, or edit, with this store again: it makes what is "
        "missing, and nothing else"
    )
