"""From nothing to a finished job: a Ray head with two logical GPUs, `ray job submit`, an edited real clip, and again."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ops.video.probe import probe
from tests import needs, tiny

needs.package("ray")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
START_SECONDS, JOB_SECONDS = 180, 420


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@dataclass(frozen=True)
class Head:
    """A running one."""

    jobs: str
    """Where jobs are submitted."""
    address: str
    """What drivers join."""
    environment: dict[str, str]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A child of ours, so that ending it ends no other Ray of this machine."""
    folder = tmp_path_factory.mktemp("ray")
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    # The agent's own ports too: with another Ray on this machine, as other tests start one, it would find the usual ones taken.
    names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port")
    ports = {name: free_port() for name in names}
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", "--num-gpus=2", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in ports.items()] + ["--include-dashboard=true"]
    with open(folder / "head.log", "w") as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    deadline = time.monotonic() + START_SECONDS
    while not takes_jobs(address):
        assert child.poll() is None, (folder / "head.log").read_text()
        assert time.monotonic() < deadline, "the head takes no job: " + (folder / "head.log").read_text()[-2000:]
        time.sleep(1)
    yield Head(address, f"127.0.0.1:{ports['port']}", environment)
    child.terminate()
    child.wait(60)


def takes_jobs(address: str) -> bool:
    """Whether a job that does nothing is taken: the address answers some seconds before the agent that starts jobs is there."""
    from ray.job_submission import JobSubmissionClient

    try:
        JobSubmissionClient(address).submit_job(entrypoint="true")
    except (RuntimeError, ConnectionError):
        return False
    return True


def submit(head: Head, *words: object) -> tuple[int, list[dict]]:
    command = ["ray", "job", "submit", "--address", head.jobs, "--working-dir", str(ROOT), "--"]
    command += ["python", "-m", "jobs.edit", *map(str, words)]
    ran = subprocess.run(command, env=head.environment, capture_output=True, text=True, timeout=JOB_SECONDS)
    lines = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    assert lines, ran.stdout + ran.stderr
    return ran.returncode, lines


def test_doctor_says_what_the_cluster_has(head: Head, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.doctor", "--json", "--ray-address", head.address, "--store", str(tmp_path / "store")]
    ran = subprocess.run(command, cwd=ROOT, env=head.environment, capture_output=True, text=True, timeout=START_SECONDS)
    checks = {check["what"]: check for check in json.loads(ran.stdout)["checks"]}
    assert checks["cluster"]["state"] == checks["room for a worker"]["state"] == checks["store's place"]["state"] == "ok"
    assert checks["cluster"]["found"] == "1 nodes, 2 of 2 CPUs free, 2 of 2 GPUs free"


def test_a_submitted_job_edits_real_clips_and_continues(head: Head, tmp_path: Path, shared_videos: Path) -> None:
    (tmp_path / "in").mkdir()
    tiny.cut_of(shared_videos / "carphone_176x144.mp4", tmp_path / "in" / "a.mp4", 12)
    shutil.copy(shared_videos / "one_frame.mp4", tmp_path / "in" / "b.mp4")
    words = (
        tmp_path / "in",
        "--edit",
        "smile=2",
        "--model",
        "mini64",
        "--store",
        tmp_path / "store",
        "--out",
        tmp_path / "out",
    )
    options = (
        "--ray-address",
        "auto",
        "--gpus-per-worker",
        "1",
        "--chunk-frames",
        "8",
        "--preset",
        "ultrafast",
        "--progress",
        "json",
    )
    code, lines = submit(head, *words, *options)
    done = lines[-1]
    assert code == 0 and done["event"] == "done" and done["inputs"] == 2 and done["frames"] == 13 and done["edits"] >= 12
    assert any(line["event"] == "status" and line["workers"] >= 1 for line in lines)
    for name, frames in (("a", 12), ("b", 1)):
        assert probe(tmp_path / "out" / f"{name}.edited.mp4").n_frames == frames
    (tmp_path / "out" / "b.edited.mp4").unlink()
    code, lines = submit(head, *words, *options)
    assert code == 0 and lines[-1]["inputs_finished_before"] == 1 and lines[-1]["frames"] == 1 and lines[-1]["faces"] == 0
