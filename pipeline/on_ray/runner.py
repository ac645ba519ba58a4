"""Takes a course to its end on Ray Core actors: the only file of the flow that imports Ray, beside `cluster.py`.

One actor per worker, and any worker that has what a stage needs does any of its items, so none stands idle while there is work.
As many actors are created as the cluster could hold without other jobs, and those that answer get items: Ray starts the others
when other jobs release resources, or when an autoscaler has added a node.
Each has two items at a time: one is loaded while the other is computed; with several cores or a GPU it has three. An item is a
few hundred bytes (`wire.py`); frames and features never pass through Ray.

A worker that dies or hangs costs time and nothing else. Its items get a second attempt, one item at a time, on a fresh actor
that does nothing besides. An item whose actor dies there may still not be the cause: it gets a last attempt of the same kind
when its step has nothing else to do, and only with the third death it is lost, recorded with the worker's last lines. An item
that hangs twice is lost. Items of a node that is gone are done elsewhere, which does not count as an attempt. Every wait has a
limit, and an error names what it waited for.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.metrics import Counter, Gauge
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.engine.course import Course, ItemBatch, Noted
from pipeline.engine.ledger import Ledger
from pipeline.engine.runner import STATUS_SECONDS, ResourceError, Runner, Worker, WorkersDie, items_at_once
from pipeline.engine.stage import Item, Joining, Outcome, Picture, Result, Stage, lost
from pipeline.on_ray.cluster import cluster_facts
from pipeline.on_ray.wire import Receiver, Sender, Sent
from pipeline.store.parts import DamagedPart
from schemas import Failure

IN_FLIGHT = 2  # per actor: while one item computes, the next is loaded; `OVERLAPPING` if its parts overlap
ALONE, LAST = 2, 3  # attempts after the first: alone on a fresh actor, and alone again at the end of the step
NODE_LOSSES = 3  # an item that was on so many lost nodes is tried alone
DEATHS_IN_A_ROW = 6  # besides one per worker: then something is wrong with all of them
LAST_LINES = 12
START_ATTEMPTS = 4
CHECK_SECONDS = 2.0  # between two checks of limits and of the cluster's size


class Actor:
    """A `Worker` in a process of its own."""

    def __init__(self, shared: tuple[Sequence[Stage], Ledger | None], threads: int) -> None:
        import torch  # now, so that an actor that answers is ready

        self.set_threads = torch.set_num_threads
        self.threads = threads
        self.worker = Worker(*shared)
        self.receiver = Receiver(ray.get)

    def who(self) -> dict[str, Any]:
        """Return its node and pid, and the file that its standard error goes to."""
        try:
            log = os.readlink("/proc/self/fd/2")
        except OSError:
            log = ""
        return {"node": ray.get_runtime_context().get_node_id(), "pid": os.getpid(), "log": log}

    def run(
        self, stage: str, items: Sequence[Sent | Picture | Joining]
    ) -> list[tuple[Result | None, Failure | None, DamagedPart | None]]:
        # Ray gives a process CPUs to account for, not to obey: competing OpenMP pools are far slower than one thread each.
        # The setting is the calling thread's own.
        self.set_threads(self.threads)
        chunks = [self.receiver.item(one) for one in items]
        return [(outcome.result, outcome.failure, outcome.damaged) for outcome in self.worker.run(stage, chunks)]


def start(address: str, **options: Any) -> None:
    """Call `ray.init`, again if a busy machine took longer to start a node than Ray waits (30 s, which cannot be set)."""
    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(address=address, **options)
            return
        except Exception as error:
            if "timed out during startup" not in str(error) or attempt == START_ATTEMPTS - 1:
                raise
            ray.shutdown()


@dataclass(frozen=True)
class Kind:
    """Resources that an actor reserves. An actor with GPUs also does the steps that need none."""

    num_cpus: float
    num_gpus: float

    def can(self, stage: Stage) -> bool:
        return stage.num_cpus <= self.num_cpus and stage.num_gpus <= self.num_gpus

    def needs(self) -> dict[str, float]:
        return {"CPU": self.num_cpus} | ({"GPU": self.num_gpus} if self.num_gpus else {})

    def __str__(self) -> str:
        return f"{self.num_cpus:g} CPUs and {self.num_gpus:g} GPUs"


@dataclass(eq=False)
class Flight:
    """A batch with a worker."""

    batch: ItemBatch
    sent: float
    attempt: int = 1
    since: float = field(init=False)
    """When it was sent, or when the last of those that it waited for was done."""

    def __post_init__(self) -> None:
        self.since = self.sent

    @property
    def alone(self) -> bool:
        return self.attempt > 1


@dataclass(eq=False)
class Again:
    """An item that is to be tried again, alone."""

    stage: Stage
    item: Item
    attempt: int


@dataclass(eq=False)
class Handle:
    """An actor as the driver knows it."""

    kind: Kind
    actor: Any
    readiness: Any
    """The answer to `who`, while it is awaited."""
    where: dict[str, Any] | None = None
    flying: dict[Any, Flight] = field(default_factory=dict)
    alone: bool = False
    """True if it does nothing but second attempts."""
    busy_seconds: float = 0.0
    looked: float = 0.0

    def landed(self, reference: Any, now: float) -> Flight:
        """Take a flight that is over. Those sent after it have waited for it; one sent before hangs, maybe, beside it."""
        flight = self.flying.pop(reference)
        self.busy_seconds += now - self.looked
        self.looked = now
        for other in self.flying.values():
            if other.sent > flight.sent:
                other.since = now
        return flight


@final
class RayRunner(Runner):
    """Runs a course on the actors of a Ray cluster.

    `address`: None starts Ray on this machine, otherwise a cluster to join ("auto" inside `ray job submit`).
    `workers`: actors at most; None is as many as the cluster holds. `num_gpus`: logical GPUs of a Ray started here.
    `item_seconds`: seconds that an item may take. `start_seconds`: seconds that the first worker may take to start.
    `node_seconds`: seconds to wait for an autoscaler's nodes if the cluster has no room yet.

    Raises NoCluster if no cluster answers at the address.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        num_gpus: int | None = None,
        item_seconds: float = 1800.0,
        start_seconds: float = 180.0,
        node_seconds: float = 0.0,
        status_seconds: float = STATUS_SECONDS,
    ) -> None:
        self.workers = workers
        self.item_seconds, self.start_seconds, self.node_seconds = item_seconds, start_seconds, node_seconds
        self.status_seconds = status_seconds
        self.started = not ray.is_initialized()
        if self.started:
            # Workers import the packages from where the driver does, installed or not.
            root = str(Path(__file__).resolve().parents[2])
            paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
            more: dict[str, Any] = {}  # inside `ray job submit` workers get the uploaded working folder
            if address is None:
                more = {"num_gpus": num_gpus, "include_dashboard": False}
                more["runtime_env"] = {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}
            else:
                cluster_facts(address)
            start(address or "local", log_to_driver=False, **more)

    def close(self) -> None:
        if self.started and ray.is_initialized():
            ray.shutdown()

    def run(self, course: Course) -> None:
        pool = Pool(course, self)
        try:
            pool.work()
        finally:
            pool.stop_all()


class Pool:
    """The actors of one run."""

    def __init__(self, course: Course, settings: RayRunner) -> None:
        self.course, self.settings = course, settings
        self.kinds = kinds_of(course.stages)
        self.at_once = items_at_once(course.stages, IN_FLIGHT)
        self.handles: list[Handle] = []
        self.alone: deque[Again] = deque()
        """Attempts for a fresh actor that does nothing besides."""
        self.last: list[Again] = []
        """Attempts for such an actor, too, when their step has nothing else to do."""
        self.node_losses: dict[tuple[str, str, int], int] = {}
        self.dead: set[tuple[str, str, int]] = set()
        """Items that a worker had when it died, since an item was last finished."""
        self.steps_that_work: set[str] = set()
        """Steps that have finished an item."""
        self.poisonous: set[tuple[str, str]] = set()
        """Stage and source of items that were given up: other items of the same two get no last attempt."""
        # One object for all workers: a hundred of them do not cost a hundred copies.
        self.shared = ray.put((tuple(course.stages), course.ledger))
        self.sender = Sender(ray.put)
        self.checked = self.told = time.monotonic()
        self.waited_seconds = 0.0
        """Time since an item was last with a worker, without the driver's own work, such as reading inputs."""
        self.told_waiting = False
        self.metrics = Metrics()

    # -------------------------------------------------------------------------------------------------- the loop

    def work(self) -> None:
        self._start_first()
        while not self._ended():
            self._send()
            began = time.monotonic()
            references = [reference for handle in self.handles for reference in handle.flying]
            references += [handle.readiness for handle in self.handles if handle.where is None]
            done = ray.wait(references, num_returns=1, timeout=CHECK_SECONDS)[0] if references else []
            if not references:
                time.sleep(0.1)  # the workers cannot do what is left, and there is no room
            for reference in done:
                self._receive(reference)
            now = time.monotonic()
            flying = any(handle.flying for handle in self.handles)
            self.waited_seconds = 0.0 if flying else self.waited_seconds + now - began
            if not references or now - self.checked >= CHECK_SECONDS:
                self.checked = now
                self._check_limits()
                self._start_workers()
            if now - self.told >= self.settings.status_seconds:
                self._tell()
        self._tell()

    def _ended(self) -> bool:
        """Return whether nothing is left to do, even if actors still wait for a place."""
        flying = any(handle.flying for handle in self.handles)
        return self.course.finished and not flying and not self.alone and not self.last

    def _send(self) -> None:
        """Send one item to each worker before a second to any."""
        self._begin_last_tries()
        for handle in self.handles:
            if handle.where is not None and not handle.flying and handle.alone:
                self._send_alone(handle)
        self.course.look_ahead(self.at_once * max(stage.frames for stage in self.course.stages) * max(1, len(self.handles)))
        for depth in range(self.at_once):
            for handle in self.handles:
                if handle.where is None or handle.alone or len(handle.flying) > depth:
                    continue
                batch = self.course.take(handle.kind.can)
                if batch is not None:
                    self._fly(handle, batch)

    def _send_alone(self, handle: Handle) -> None:
        for place, again in enumerate(self.alone):
            if handle.kind.can(again.stage):
                del self.alone[place]
                self._fly(handle, ItemBatch(again.stage, [again.item]), again.attempt)
                return
        handle.alone = False  # it has done them all, and is a worker like the others now

    def _begin_last_tries(self) -> None:
        """Begin the last attempts of steps of which no other item waits or is in work."""
        for again in list(self.last):
            flying = sum(flight.batch.stage is again.stage for one in self.handles for flight in one.flying.values())
            waiting = sum(one.stage is again.stage for one in self.alone)
            if not flying and not waiting and not self.course.tallies[again.stage.name].queued:
                self.last.remove(again)
                self.alone.append(again)
                return

    def _fly(self, handle: Handle, batch: ItemBatch, attempt: int = 1) -> None:
        now = time.monotonic()
        if not handle.flying:
            handle.looked = now
        reference = handle.actor.run.remote(batch.stage.name, [self.sender.sent(item) for item in batch.items])
        handle.flying[reference] = Flight(batch, now, attempt)

    def _receive(self, reference: Any) -> None:
        handle = next((one for one in self.handles if reference is one.readiness or reference in one.flying), None)
        if handle is None:
            return  # of a worker that was stopped in between
        try:
            answer = ray.get(reference, timeout=CHECK_SECONDS)
        except RayTaskError as error:
            # An item's own exception is a failure among the results: what comes here is a step that cannot be opened.
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except GetTimeoutError:
            return  # the result is still on its way from its node
        except RayError as error:
            self._worker_lost(handle, error)
            return
        now = time.monotonic()
        if handle.where is None:
            handle.where = answer
            self._trade_places(handle)
            return
        flight = handle.landed(reference, now)
        self.dead.clear()
        self.steps_that_work.add(flight.batch.stage.name)
        for item, (result, failure, damaged) in zip(flight.batch.items, answer, strict=True):
            if failure is not None and flight.alone:
                failure = Failure(**(vars(failure) | {"attempts": flight.attempt}))
            self._settle(flight.batch.stage, Outcome(item, result, failure, damaged))

    def _settle(self, stage: Stage, outcome: Outcome) -> None:
        self.course.settle(stage, outcome)
        source_id = outcome.item.known_as
        if not self.course.holds(source_id):
            self.sender.forget(source_id)

    # ------------------------------------------------------------------------------------------- deaths and limits

    def _worker_lost(self, handle: Handle, error: Exception) -> None:
        """Remove a worker that is gone; its items get another attempt, or are lost."""
        node_is_gone = handle.where is not None and not node_is_alive(handle.where["node"])
        lines = "" if node_is_gone else last_lines(handle.where)
        self._stop(handle)
        # Ray's sentence names the actor and the process; its tail repeats the class.
        why = f"the worker died: {str(error).strip().splitlines()[0]}"
        self._note("worker", f"{why}{lines}")
        if not node_is_gone:
            self._count_death(handle, f"{why}{lines}")
        for flight in handle.flying.values():
            if node_is_gone:
                self._again_elsewhere(flight)
            else:
                self._again_alone(flight, "worker_died", why + lines)

    def _count_death(self, handle: Handle, why: str) -> None:
        """Raise WorkersDie if so many workers died in a row that no single item can be the cause.

        If the step has finished items, they must have had items of as many sources: one clip may have many that kill workers.
        """
        oldest = min(handle.flying.values(), key=lambda flight: flight.since, default=None)
        if oldest is None:
            self.dead.add(("", str(id(handle)), len(self.dead)))
        else:
            self.dead.add(key_of_item(oldest.batch.stage, oldest.batch.items[0]))
        counted = {(step, source, 0 if step in self.steps_that_work else start) for step, source, start in self.dead}
        if len(counted) > DEATHS_IN_A_ROW + len(self.handles):
            raise WorkersDie(f"{len(self.dead)} workers died in a row and finished nothing; the last: {why}")

    def _again_elsewhere(self, flight: Flight) -> None:
        stage = flight.batch.stage
        for item in flight.batch.items:
            key = key_of_item(stage, item)
            self.node_losses[key] = self.node_losses.get(key, 0) + 1
            if flight.alone or self.node_losses[key] >= NODE_LOSSES:
                self.alone.append(Again(stage, item, max(flight.attempt, ALONE)))
            else:
                self.course.give_back(ItemBatch(stage, [item]))

    def _again_alone(self, flight: Flight, reason: str, why: str) -> None:
        """Queue another attempt of the items of a worker that died or was ended; an item without attempts left is lost."""
        stage = flight.batch.stage
        for item in flight.batch.items:
            of = (stage.name, item.known_as)
            if flight.attempt == 1:
                self.alone.append(Again(stage, item, ALONE))
            elif flight.attempt == ALONE and reason == "worker_died" and of not in self.poisonous:
                self.last.append(Again(stage, item, LAST))
            else:
                self.poisonous.add(of)
                self._settle(stage, Outcome(item, None, lost(stage.name, item, reason, why, flight.attempt)))

    def _check_limits(self) -> None:
        now = time.monotonic()
        if self.waited_seconds > self.settings.start_seconds:
            raise ResourceError(
                f"waited {self.settings.start_seconds:g} s for {self.kinds[0]}, which a worker needs; {resources_line()}. "
                "Other jobs hold the rest: see `ray status`, wait for them to end, or add nodes"
            )
        if not self.told_waiting and self.waited_seconds > 2 * CHECK_SECONDS and not any(one.where for one in self.handles):
            self.told_waiting = True
            self._note("waiting", f"for {self.kinds[0]}; {resources_line()}")
        for handle in list(self.handles):
            if handle.where is None:
                continue
            late = [flight for flight in handle.flying.values() if now - flight.since > self.settings.item_seconds]
            if not late:
                continue
            late = [min(late, key=lambda flight: flight.since)]
            items = ", ".join(str(item) for item in late[0].batch.items[:3])
            why = (
                f"took longer than {self.settings.item_seconds:g} s at {late[0].batch.stage.name} (--item-seconds): {items}"
                f"{last_lines(handle.where)}"
            )
            self._stop(handle)
            self._note("worker", f"a worker was ended: {why}")
            for flight in handle.flying.values():
                if flight in late:
                    self._again_alone(flight, "timed_out", why)
                elif flight.alone:
                    self.alone.extendleft(Again(flight.batch.stage, item, flight.attempt) for item in flight.batch.items)
                else:
                    self.course.give_back(flight.batch)

    # ------------------------------------------------------------------------------------------------------ starting

    def _start_first(self) -> None:
        """Start the first workers. Raises ResourceError with a hint if the cluster is too small for even one."""
        main = self.kinds[0]
        if self.settings.node_seconds:
            from ray.autoscaler.sdk import request_resources

            request_resources(bundles=[main.needs()] * (self.settings.workers or 1))
        total = ray.cluster_resources()
        deadline = time.monotonic() + self.settings.node_seconds
        while not fits(main, total):
            if time.monotonic() >= deadline:
                named = max(self.course.stages, key=lambda stage: (stage.num_gpus, stage.num_cpus)).name
                waited = f" (waited {self.settings.node_seconds:g} s for nodes)" if self.settings.node_seconds else ""
                raise ResourceError(
                    f"a worker of {named} needs {main}; the cluster has {total.get('CPU', 0):g} CPUs and "
                    f"{total.get('GPU', 0):g} GPUs{waited}. Lower --gpus-per-worker, add nodes, or give an autoscaler time "
                    "with --node-seconds"
                )
            time.sleep(1.0)
            total = ray.cluster_resources()
        self.course.look_ahead(self.at_once * max(stage.frames for stage in self.course.stages) * max(1, self._most(main)))
        if not self.course.finished:
            self._start_workers()

    def _most(self, kind: Kind) -> int:
        """Return how many more actors of a kind the cluster could hold without other jobs, and the user allows."""
        room = dict(ray.cluster_resources())
        for handle in self.handles:
            taken(handle.kind, room)
        mine = sum(handle.kind == kind for handle in self.handles)
        fitting = int(min(room.get(name, 0) / each + 1e-6 for name, each in kind.needs().items() if each))
        most = mine + max(0, fitting)
        return most if self.settings.workers is None else min(most, self.settings.workers)

    def _start_workers(self) -> None:
        """Create as many workers as the cluster, `workers` and the waiting items allow. Those without room answer later."""
        needs_alone = bool(self.alone) and not any(handle.alone for handle in self.handles)
        for kind in self.kinds:
            mine = [handle for handle in self.handles if handle.kind == kind]
            room = self._most(kind) - len(mine)
            idle = sum(not handle.flying and not handle.alone for handle in mine)
            wanted = self.course.batches(kind.can) - idle + needs_alone
            for _ in range(min(room, wanted)):
                self._start(kind, alone=needs_alone)
                needs_alone = False
        if needs_alone:
            self._make_room_for_second_attempts()

    def _make_room_for_second_attempts(self) -> None:
        """Choose an actor for second attempts when every place is taken: one that has not started, or a new one in place of an
        idle worker."""
        waiting = next((handle for handle in self.handles if handle.where is None), None)
        idle = next((handle for handle in self.handles if handle.where is not None and not handle.flying), None)
        if waiting is not None:
            waiting.alone = True
        elif idle is not None:
            self._stop(idle)
            self._start(idle.kind, alone=True)

    def _trade_places(self, fresh: Handle) -> None:
        """Have an actor that has answered do second attempts in place of one of its kind that still waits for a place."""
        waiting = next((one for one in self.handles if one.where is None and one.alone and one.kind == fresh.kind), None)
        if waiting is not None and not fresh.alone:
            waiting.alone, fresh.alone = False, True

    def _start(self, kind: Kind, *, alone: bool = False) -> None:
        # num_cpus is always said: a share of a GPU alone would reserve a whole CPU silently.
        options: dict[str, Any] = {"num_cpus": kind.num_cpus, "num_gpus": kind.num_gpus}
        # One thread more than items, so that it still answers while it works.
        options |= {"max_restarts": 0, "max_concurrency": self.at_once + 1}
        actor: Any = ray.remote(**options)(Actor).remote(self.shared, max(1, int(kind.num_cpus)))
        now = time.monotonic()
        self.handles.append(Handle(kind, actor, actor.who.remote(), alone=alone, looked=now))

    def _stop(self, handle: Handle) -> None:
        self.handles.remove(handle)
        ray.kill(handle.actor)

    def stop_all(self) -> None:
        for handle in list(self.handles):
            self._stop(handle)

    # ----------------------------------------------------------------------------------------------------- telling

    def _note(self, kind: str, message: str) -> None:
        self.course.report(Noted(kind, message))

    def _tell(self) -> None:
        now = time.monotonic()
        for handle in self.handles:
            if handle.flying:
                handle.busy_seconds += now - handle.looked
                handle.looked = now
        span = max(now - self.told, 1e-9)
        ready = [handle for handle in self.handles if handle.where is not None]
        share = sum(handle.busy_seconds for handle in ready) / (span * max(1, len(ready)))
        for handle in self.handles:
            handle.busy_seconds = 0.0
        self.told = now
        status = self.course.status(len(ready), min(1.0, share))
        self.course.report(status)
        self.metrics.show(status)


class Metrics:
    """Exports a run's numbers to Prometheus, by Ray's own exporter (`/metrics` of every node)."""

    def __init__(self) -> None:
        self.items = Gauge("styleres_items", "Items of a step by state", tag_keys=("step", "state"))
        self.frames = Counter("styleres_frames", "Frames that a step has done", tag_keys=("step",))
        self.sources = Gauge("styleres_sources", "Sources that are finished, lost ones included")
        self.workers = Gauge("styleres_workers", "Workers")
        self.busy = Gauge("styleres_workers_busy_share", "Of the workers' time since the last status")
        self.counted: dict[str, int] = {}

    def show(self, status: Any) -> None:
        for step, tally in status.steps.items():
            for state in ("queued", "running", "done", "failed"):
                self.items.set(getattr(tally, state), tags={"step": step, "state": state})
            new = tally.frames - self.counted.get(step, 0)
            if new > 0:
                self.frames.inc(new, tags={"step": step})
            self.counted[step] = tally.frames
        self.sources.set(status.sources)
        self.workers.set(status.workers)
        self.busy.set(status.busy_share)


def key_of_item(stage: Stage, item: Item) -> tuple[str, str, int]:
    return stage.name, item.known_as, item.start


def kinds_of(stages: Sequence[Stage]) -> list[Kind]:
    """Return the kind of worker that can do every stage and, if only some stages need a GPU, one for the others."""
    main = Kind(max(stage.num_cpus for stage in stages), max(stage.num_gpus for stage in stages))
    light = [stage for stage in stages if not stage.num_gpus]
    if not main.num_gpus or not light:
        return [main]
    return [main, Kind(max(stage.num_cpus for stage in light), 0.0)]


def fits(kind: Kind, resources: dict[str, float]) -> bool:
    spare = 1e-6  # Ray counts in ten-thousandths
    return resources.get("CPU", 0) + spare >= kind.num_cpus and resources.get("GPU", 0) + spare >= kind.num_gpus


def taken(kind: Kind, resources: dict[str, float]) -> None:
    """Subtract a worker's share from the free resources."""
    for name, amount in kind.needs().items():
        resources[name] = resources.get(name, 0) - amount


def resources_line() -> str:
    total, free = ray.cluster_resources(), ray.available_resources()
    return "; ".join(f"of {total.get(name, 0):g} {name}s {free.get(name, 0):g} are free" for name in ("CPU", "GPU"))


def node_is_alive(node_id: str) -> bool:
    return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())


def last_lines(where: dict[str, Any] | None) -> str:
    """Return a worker's last lines, read on its node; "" if it wrote nothing or they cannot be read."""
    if where is None or not where["log"]:
        return ""
    try:
        if where["node"] == ray.get_runtime_context().get_node_id():
            text = tail(where["log"])
        else:
            options: dict[str, Any] = {"num_cpus": 0}
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(where["node"], soft=False)
            text = str(ray.get(ray.remote(**options)(tail).remote(where["log"]), timeout=10))
    except (RayError, OSError):
        return ""
    return f"; its last lines: {text}" if text else ""


def tail(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4096))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    # Ray's own marks for its log files begin so.
    kept = [line for line in lines if line.strip() and not line.startswith(":")]
    return " | ".join(kept[-LAST_LINES:])
