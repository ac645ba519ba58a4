"""Runs stages on Ray Core actors: the only file that imports Ray.

One actor per worker, each with the stage's `num_cpus` and `num_gpus`; an actor opens the step once and then takes one item per
call. Items are values of a few kilobytes; frames and features never pass through Ray.

A worker that dies loses its items in flight, not the run: each is tried once more, alone, on a fresh actor, and then
recorded as lost with its reason. An exception in an item is the item's own fault and is not tried again.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import ray
from ray.exceptions import RayActorError, RayTaskError

from pipeline.runner import InProcessRunner, Report, ResourceError, Runner
from pipeline.stage import Chunk, Outcome, Result, Stage, Step, failure_of

IN_FLIGHT = 2  # per actor: while one item computes, the next is already there
MAX_ATTEMPTS = 2


class Worker:
    """Lives in an actor."""

    def __init__(self, step: Step, threads: int):
        import torch

        # Ray gives a process CPUs to account for, not to obey: competing OpenMP pools are far slower than one thread each.
        torch.set_num_threads(threads)
        self.function = step.open()

    def run(self, item: Chunk) -> Result:
        return self.function(item)


@dataclass(eq=False)
class Task:
    index: int
    item: Chunk
    attempts: int = 0


@final
class RayRunner(Runner):
    """`address`: None starts Ray on this machine, otherwise a cluster to join ("auto" inside `ray job submit`).

    `workers`: actors per stage; None is as many as the cluster holds. `num_gpus`: logical GPUs of a Ray started here.
    """

    def __init__(self, address: str | None = None, *, workers: int | None = None, num_gpus: int | None = None):
        self.workers = workers
        self.started = not ray.is_initialized()
        if self.started:
            # Workers import the packages from where the driver does, installed or not.
            root = str(Path(__file__).resolve().parents[1])
            paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
            local: dict[str, Any] = {"num_gpus": num_gpus, "include_dashboard": False} if address is None else {}
            ray.init(
                address=address or "local",
                runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
                log_to_driver=False,
                **local,
            )

    def close(self) -> None:
        if self.started and ray.is_initialized():
            ray.shutdown()

    def run(self, stage: Stage, items: Sequence[Chunk], report: Report) -> list[Outcome]:
        if stage.driver or not items:
            return InProcessRunner().run(stage, items, report)
        report(stage, 0, len(items), None)
        count = min(len(items), self._capacity(stage))
        actors: dict[Any, list[Any]] = {self._actor(stage): [] for _ in range(count)}
        tasks = deque(Task(index, item) for index, item in enumerate(items))
        alone: deque[Task] = deque()  # second attempts
        running: dict[Any, tuple[Task, Any]] = {}
        outcomes: dict[int, Outcome] = {}

        def finish(task: Task, outcome: Outcome) -> None:
            outcomes[task.index] = outcome
            report(stage, len(outcomes), len(items), outcome)

        try:
            while len(outcomes) < len(items):
                for actor, flying in actors.items():
                    while tasks and len(flying) < IN_FLIGHT:
                        task = tasks.popleft()
                        task.attempts += 1
                        reference = actor.run.remote(task.item)
                        flying.append(reference)
                        running[reference] = (task, actor)
                if not running and alone:
                    # Nothing else is left to do, and idle actors would hold the CPUs that the fresh one waits for.
                    for actor in actors:
                        ray.kill(actor)
                    actors.clear()
                    task = alone.popleft()
                    finish(task, self._try_alone(stage, task))
                    continue
                done, _ = ray.wait(list(running), num_returns=1)
                for reference in done:
                    task, actor = running.pop(reference)
                    if actor in actors:
                        actors[actor].remove(reference)
                    try:
                        finish(task, Outcome(task.item, ray.get(reference), None))
                    except RayTaskError as error:
                        cause = error.cause if isinstance(error.cause, Exception) else error
                        finish(task, Outcome(task.item, None, failure_of(stage.name, task.item, cause, task.attempts)))
                    except RayActorError:
                        alone.append(task)
                        if actors.pop(actor, None) is not None and tasks:
                            actors[self._actor(stage)] = []
        finally:
            for actor in actors:
                ray.kill(actor)
        return [outcomes[index] for index in range(len(items))]

    def _try_alone(self, stage: Stage, task: Task) -> Outcome:
        """The second attempt: on an actor that nothing else shares, so that a poisoned item takes no neighbour with it."""
        actor = self._actor(stage)
        task.attempts += 1
        try:
            return Outcome(task.item, ray.get(actor.run.remote(task.item)), None)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            return Outcome(task.item, None, failure_of(stage.name, task.item, cause, task.attempts))
        except RayActorError as error:
            return Outcome(task.item, None, failure_of(stage.name, task.item, error, task.attempts))
        finally:
            ray.kill(actor)

    def _actor(self, stage: Stage) -> Any:
        # num_cpus is always said: a share of a GPU alone would reserve a whole CPU silently.
        remote = ray.remote(num_cpus=stage.num_cpus, num_gpus=stage.num_gpus, max_restarts=0)(Worker)
        return remote.remote(stage.step, max(1, int(stage.num_cpus)))

    def _capacity(self, stage: Stage) -> int:
        """How many workers of this stage fit the cluster at once; an error with a hint where not even one does."""
        total = ray.cluster_resources()
        fits = [total.get("CPU", 0) / stage.num_cpus] if stage.num_cpus else []
        fits += [total.get("GPU", 0) / stage.num_gpus] if stage.num_gpus else []
        capacity = int(min(fits, default=1))
        if capacity < 1:
            raise ResourceError(
                f"a worker of {stage.name} needs {stage.num_cpus:g} CPUs and {stage.num_gpus:g} GPUs; the cluster has "
                f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs. Lower --gpus-per-worker, or add nodes"
            )
        return min(capacity, self.workers) if self.workers else capacity
