"""Whatever happens to a run, the same command finishes it, and what it leaves equals what an undisturbed run leaves."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ops.checkpoints.bundle import Bundle
from pipeline import flow
from pipeline.engine.course import OutOfSpace
from pipeline.engine.ledger import Ledger
from pipeline.engine.stage import Source
from pipeline.store.tables import Store
from tests import needs, tiny
from tests.pipeline import faults

pytestmark = [
    pytest.mark.slow,
]
ROOT = Path(__file__).resolve().parents[2]
KILLS = 100


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two short clips, 20 and 9 frames."""
    folder = tmp_path_factory.mktemp("clips")
    return [
        tiny.marked_clip(folder / "a.mp4", 20, people=2),
        tiny.marked_clip(folder / "b.mp4", 9, people=1, sound=None),
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, clips: list[Path], bundle: Bundle) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    summary = faults.edited(folder, [tiny.source_of(clip) for clip in clips], bundle)
    assert not summary.lost and summary.sources_done == 2
    left = faults.left_by(folder)
    assert len(left["out"]) == 2 and len(left["latents"]) == 49 and not left["ledger"] and not left["work"]
    return left


def assert_same(folder: Path, undisturbed: dict[str, Any]) -> None:
    left = faults.left_by(folder)
    for name, expected in undisturbed.items():
        if name == "leftovers":
            continue
        assert left[name] == expected, name


@pytest.mark.nightly
def test_a_hundred_kills_lose_nothing_and_do_nothing_twice(
    tmp_path: Path, clips: list[Path], bundle: Bundle, undisturbed: dict[str, Any]
) -> None:
    """SIGKILL of the driver, each time at a random change to the disk, in every step and between the steps."""
    shutil.copytree(bundle.path, tmp_path / "bundle")
    (tmp_path / "in").mkdir()
    for clip in clips:
        os.link(clip, tmp_path / "in" / clip.name)
    command = [sys.executable, "-m", "tests.pipeline.faults", "edit", str(tmp_path), "7", str(KILLS)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    did = json.loads(ran.stdout.splitlines()[-1])
    assert did["killed"] == KILLS and did["rounds"] > 3
    for number in range(did["rounds"]):
        left = faults.left_by(tmp_path / f"round-{number}")
        for row in left["sources"]:
            row["uri"] = str(clips[0].parent / Path(row["uri"]).name)
        left.pop("leftovers")
        for name, found in left.items():
            assert found == undisturbed[name], (number, name)


@pytest.mark.nightly
def test_a_disk_that_is_full_at_every_write_in_turn(
    tmp_path: Path, clips: list[Path], bundle: Bundle, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run gets one or two more files onto the disk, then there is no room; each says so, none loses anything."""
    sources = [tiny.source_of(clip) for clip in clips]
    fsync, stops = os.fsync, 0
    while True:
        left = [1 + stops % 17]  # both sources' rows come first in each run, at two fsyncs each

        def full(descriptor: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        try:
            faults.edited(tmp_path, sources, bundle)
            break
        except (OutOfSpace, OSError) as error:
            assert "No space left" in str(error)
            stops += 1
            assert stops < 200
    monkeypatch.undo()
    assert stops > 10
    faults.edited(tmp_path, sources, bundle)
    assert_same(tmp_path, undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with two megabytes; skipped where one may not be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no small disk: mounting a tmpfs needs root ({mounted.stderr.decode().strip()})")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_small_disk(small_disk: Path, clips: list[Path], bundle: Bundle, undisturbed: dict[str, Any]) -> None:
    """A real one that runs full in the middle: the run stops with a sentence, and goes on when there is room."""
    sources = [tiny.source_of(clip) for clip in clips]
    ballast = small_disk / "ballast"
    for free in (60_000, 200_000, 500_000):
        size = 2 * 2**20 - 16384
        ballast.write_bytes(b"\0" * max(0, size - free - used(small_disk)))
        with pytest.raises((OutOfSpace, OSError), match="No space left"):
            faults.edited(small_disk, sources, bundle)
        ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert not faults.edited(small_disk, sources, bundle).lost
    assert_same(small_disk, undisturbed)


def used(folder: Path) -> int:
    return sum(-(-p.stat().st_size // 4096) * 4096 for p in folder.rglob("*") if p.is_file() and p.name != "ballast")


def test_a_source_that_changes_or_vanishes_is_named_and_the_others_finish(
    tmp_path: Path, clips: list[Path], bundle: Bundle, undisturbed: dict[str, Any]
) -> None:
    """Between scan and finalize, once with other bytes of the same length and time, once gone; back again, it is finished."""
    for how in ("changes", "vanishes"):
        folder = tmp_path / how
        folder.mkdir()
        mine = folder / "a.mp4"
        shutil.copy2(clips[0], mine)
        kept, times = mine.read_bytes(), (mine.stat().st_atime_ns, mine.stat().st_mtime_ns)
        sources = [replace(tiny.source_of(mine), modified_ns=times[1]), tiny.source_of(clips[1])]
        ended: list[str] = []

        def spoil(how: str = how, mine: Path = mine, kept: bytes = kept, times: tuple[int, int] = times) -> None:
            if how == "vanishes":
                mine.unlink()
            else:
                mine.write_bytes(kept[:-20] + bytes(20))
                os.utime(mine, ns=times)

        def disturb(event: Any, ended: list[str] = ended, spoil: Callable[[], None] = spoil) -> None:
            if getattr(event, "stage", None) is not None and event.stage.name == "invert" and not ended:
                ended.append("disturbed")
                spoil()

        summary = faults.edited(folder, sources, bundle, report=disturb)
        assert summary.sources_done == 1 and {f.uri for f in summary.lost} == {str(mine)}
        assert {f.reason for f in summary.lost} == {"media_error"}
        assert [p.name for p in (folder / "out").iterdir()] == ["b.edited.mkv"]
        mine.write_bytes(kept)
        assert not faults.edited(folder, sources, bundle).lost
        assert faults.left_by(folder)["out"] == undisturbed["out"]


def test_clocks_may_go_backwards(
    tmp_path: Path, clips: list[Path], bundle: Bundle, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the wall clock gives an earlier time; a second run finds everything done."""
    ticks = iter(range(2_000_000_000, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(ticks)))
    sources = [tiny.source_of(clip) for clip in clips]
    faults.edited(tmp_path, sources, bundle)
    for path in (tmp_path / "store").rglob("*.parquet"):
        os.utime(path, (9e8 + len(path.name), 9e8))
    assert faults.edited(tmp_path, sources, bundle).sources_skipped == 2
    monkeypatch.undo()
    assert_same(tmp_path, undisturbed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, clips: list[Path], bundle: Bundle) -> Path:
    """What an edit leaves, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    faults.edited(folder, [tiny.source_of(clip) for clip in clips], bundle)
    return folder


@pytest.mark.parametrize("how", ["truncated", "a page flipped", "the footer flipped", "gone"])
@pytest.mark.parametrize("table", ["frames", "tracks", "latents", "residuals"])
def test_a_damaged_part_is_made_again_by_the_next_edit(
    tmp_path: Path, finished: Path, clips: list[Path], bundle: Bundle, undisturbed: dict[str, Any], table: str, how: str
) -> None:
    """Which renders anew, and so reads it: the part has its bytes again, and the video is as ever."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    source = tiny.source_of(clips[0])
    path = sorted((tmp_path / "store" / table / source.source_id).iterdir())[-1]
    good = path.read_bytes()
    damage(path, how)
    (tmp_path / "out" / "a.edited.mkv").unlink()
    events: list[Any] = []
    summary = faults.edited(tmp_path, [source, tiny.source_of(clips[1])], bundle, report=events.append)
    assert not summary.lost and path.read_bytes() == good
    if "flipped" in how:  # what has another length is found before anything reads it
        assert any(getattr(event, "kind", "") == "damaged" and str(path) in event.message for event in events)
    done = {event.stage.name for event in events if getattr(event, "stage", None) is not None}
    writer = {"frames": "scan", "tracks": "track", "latents": "invert", "residuals": "invert"}[table]
    assert done & {"scan", "track", "invert"} == {writer}, "nothing else is done again"
    assert_same(tmp_path, undisturbed)


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    match how:
        case "truncated":
            path.write_bytes(data[: len(data) // 2])
        case "gone":
            path.unlink()
        case "a page flipped":
            data[100] ^= 16
            path.write_bytes(data)
        case "the footer flipped":
            data[-30] ^= 1
            path.write_bytes(data)


INVERTING = (
    "sources", "frames", "faces", "tracks", "latents", "residuals", "failures", "ledger/scan", "ledger/track", "ledger/invert",
)  # fmt: skip
RENDERING = (
    "manifests/invert", "edits", "work/plan", "work/segments", "work/edited", "work/sheet", "ledger/plan", "ledger/render",
)  # fmt: skip


@pytest.fixture(scope="module")
def cut_short(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> tuple[list[Source], Path]:
    """Sources; folders with a finished edit of them, and with edits killed at the end of inverting and of rendering."""
    folder = tmp_path_factory.mktemp("cut")
    clip = tiny.marked_clip(folder / "a.mp4", 20, people=1, absent=range(6))
    sources = [tiny.source_of(clip)]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        faults.edited(folder / "whole", sources, bundle, sheet_frames=2)
        for name, what, does in (
            ("inverting", "pipeline.engine.ledger.Ledger.seal", killed),
            ("rendering", "pipeline.steps.finalize.Finalize.open", lambda self: killed),
        ):
            with patch.context() as dying:
                dying.setattr(what, does)
                for source in sources:
                    with pytest.raises(KeyboardInterrupt):
                        faults.edited(folder / "killed", [source], bundle, sheet_frames=2)
            (folder / "killed").rename(folder / name)
    return sources, folder


@pytest.mark.nightly
@pytest.mark.parametrize(("at_end_of", "kind"), [("inverting", k) for k in INVERTING] + [("rendering", k) for k in RENDERING])
def test_no_flipped_bit_that_a_killed_run_left_comes_to_anything(
    cut_short: tuple[list[Source], Path], bundle: Bundle, at_end_of: str, kind: str
) -> None:
    """In each kind of file that the next run takes for done, at its beginning, in its middle and at its end."""
    sources, folders = cut_short
    expected = faults.left_by(folders / "whole")
    kept, folder = folders / at_end_of, folders / "killed"  # where it was: outputs are known by their whole paths
    assert len(expected["out"]) == 2 and expected["failures"]
    relative = sorted(path.relative_to(kept) for path in (kept / "store" / kind).rglob("*.*") if path.is_file())[0]
    size = (kept / relative).stat().st_size
    for at in (3, size // 3, size // 2, size - 20):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
        data = bytearray((folder / relative).read_bytes())
        data[at] ^= 4
        (folder / relative).write_bytes(data)
        assert not faults.edited(folder, sources, bundle, sheet_frames=2).lost
        left = faults.left_by(folder)
        for name, value in expected.items():
            assert left[name] == value, (at, name)
        store = Store.open(folder / "store")
        found = {name for source in sources for name in store.verify(source.source_id)}
        # Of a part longer than its digested end, bytes that are of no page change no row; reading all of it says so.
        assert not found or ((kind, at) == ("residuals", 3) and found == {str(relative.relative_to("store"))})


@pytest.mark.nightly
@pytest.mark.parametrize("kind", [*INVERTING[:7], "manifests/invert", "edits", "out"])
def test_no_flipped_bit_of_a_finished_run_is_overlooked(
    tmp_path: Path, cut_short: tuple[list[Source], Path], bundle: Bundle, kind: str
) -> None:
    """`verify` says which file, and the next run makes it again; also where an edited file has changed."""
    sources, folders = cut_short
    expected = faults.left_by(folders / "whole")
    for part in (1, 2):
        folder = tmp_path / str(part)
        assert not faults.edited(folder, sources, bundle, sheet_frames=2).lost
        where = folder / "store" / kind if kind != "out" else folder / "out"
        path = sorted(path for path in where.rglob("*.*") if path.is_file())[0]
        data = bytearray(path.read_bytes())
        data[len(data) * part // 2 - 20] ^= 4
        path.write_bytes(data)
        store = Store.open(folder / "store")
        said = [line for source in sources for line in Ledger(store).put_damaged_aside(source.source_id)]
        assert len(said) == 1 and str(path) in said[0], said
        if kind != "out":
            (folder / "out" / "a.edited.mkv").unlink()
        assert not faults.edited(folder, sources, bundle, sheet_frames=2).lost
        left = faults.left_by(folder)
        for name, value in expected.items():
            assert left[name] == value, (part, name)


# ------------------------------------------------------------------------------------------------------- with Ray

ray = needs.package("ray")


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_worker_niceness", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    runtime = {"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}}
    ray.init(address=cluster.address, log_to_driver=False, runtime_env=runtime)
    yield cluster, second
    ray.shutdown()
    cluster.shutdown()


def test_workers_killed_in_every_step_and_a_lost_node_cost_nothing(
    tmp_path: Path,
    two_nodes: Any,
    clips: list[Path],
    bundle: Bundle,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """kill -9 of the worker at the first item of each of the six steps; then a node goes in the middle of rendering."""
    from pipeline.on_ray.runner import RayRunner

    cluster, second = two_nodes
    stages_of: Callable[..., Any] = flow.course_of

    def killing(stages: Any, *rest: Any) -> Any:
        wrapped = [replace(one, step=faults.KillOnce(one.step, str(tmp_path / f"killed-{one.name}"))) for one in stages]
        return stages_of(wrapped, *rest)

    monkeypatch.setattr(flow, "course_of", killing)
    sources: list[Source] = [tiny.source_of(clip) for clip in clips]
    gone: list[bool] = []

    def remove(event: Any) -> None:
        if not gone and getattr(event, "stage", None) is not None and event.stage.name == "render":
            gone.append(True)
            cluster.remove_node(second, allow_graceful=False)

    summary = faults.edited(tmp_path, sources, bundle, RayRunner(item_seconds=120), remove)
    assert not summary.lost and gone
    assert len(list(tmp_path.glob("killed-*"))) == 6, "the premise: one death in each step"
    assert_same(tmp_path, undisturbed)
