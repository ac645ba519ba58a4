"""Which workers a course needs, and which of them do what."""

from __future__ import annotations

from pipeline.engine.stage import Stage
from tests import needs
from tests.pipeline.engine.test_course import Write

needs.package("ray")


def stage(name: str, cpus: float, gpus: float) -> Stage:
    return Stage(name, Write(name), cpus, gpus)


def test_one_pool_without_gpus_and_two_with() -> None:
    from pipeline.on_ray.runner import Kind, kinds_of

    assert kinds_of([stage("a", 1, 0), stage("b", 2, 0)]) == [Kind(2, 0)]
    assert kinds_of([stage("a", 1, 0.5), stage("b", 2, 1)]) == [Kind(2, 1)], "all need a share of one"
    assert kinds_of([stage("a", 1, 0.5), stage("b", 2, 0)]) == [Kind(2, 0.5), Kind(2, 0)]


def test_a_worker_with_a_gpu_does_everything_and_one_without_what_needs_none() -> None:
    from pipeline.on_ray.runner import Kind

    stages = [stage("scan", 1, 1), stage("track", 1, 0), stage("big", 4, 0)]
    assert [Kind(2, 1).can(one) for one in stages] == [True, True, False]
    assert [Kind(2, 0).can(one) for one in stages] == [False, True, False]


def test_what_fits_is_counted_as_ray_counts() -> None:
    from pipeline.on_ray.runner import Kind, fits, taken

    kind, free = Kind(1, 0.1), {"CPU": 10.0, "GPU": 1.0}
    count = 0
    while fits(kind, free):
        taken(kind, free)
        count += 1
    assert count == 10, "ten shares of 0.1 are one, whatever floats say"


def test_the_time_of_an_item_that_hangs_goes_on_while_others_pass_it() -> None:
    from pipeline.engine.course import ItemBatch
    from pipeline.on_ray.runner import Flight, Handle, Kind

    handle = Handle(Kind(2, 0), None, None)
    for sent, name in enumerate(("hangs", "passes", "waits")):
        handle.flying[name] = Flight(ItemBatch(stage(name, 1, 0), []), float(sent))
    assert handle.landed("passes", 50.0).batch.stage.name == "passes"
    assert {name: flight.since for name, flight in handle.flying.items()} == {"hangs": 0.0, "waits": 50.0}


def test_last_lines_leave_out_rays_own(tmp_path: object) -> None:
    from pathlib import Path

    from pipeline.on_ray.runner import LAST_LINES, tail

    log = Path(str(tmp_path)) / "worker.err"
    log.write_text(":actor_name:Actor\n" + "".join(f"line {i}\n\n" for i in range(40)))
    assert tail(str(log)).split(" | ") == [f"line {i}" for i in range(40 - LAST_LINES, 40)]
    assert tail(str(log) + ".gone") == ""
