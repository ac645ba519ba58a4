"""What Prometheus sees of a run on Ray: scraped from Ray's own exporter, of an edit of one small clip."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import needs, tiny
from tests.ops.video.media import make_video, moving_frames

needs.package("ray")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
RUN_SECONDS = 420
FRAMES = 20

# In a process of its own: counters count for as long as their process lives, and other tests run courses in this one.
DRIVER = """
import json, os, sys, time, urllib.request
from pathlib import Path

from ops.checkpoints.bundle import open_bundle
from pipeline.on_ray.runner import RayRunner, start
from tests import tiny
from tests.pipeline import faults

folder, port = Path(sys.argv[1]), int(sys.argv[2])
options = {"num_cpus": 1, "include_dashboard": False, "log_to_driver": False, "_metrics_export_port": port}
options |= {"_system_config": {"metrics_report_interval_ms": 500}, "runtime_env": {"env_vars": {"PYTHONPATH": os.getcwd()}}}
start("local", **options)
runner = RayRunner(workers=1, status_seconds=600)  # so the only status is the last
faults.edited(folder, [tiny.source_of(folder / "clip.mp4")], open_bundle(folder / "bundle"), runner)
deadline, text = time.monotonic() + 60, ""
while "styleres_workers_busy_share" not in text and time.monotonic() < deadline:
    time.sleep(0.5)
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except OSError as error:
        text = str(error)
print(json.dumps(text))
"""


def test_prometheus_sees_what_a_run_did(tmp_path: Path) -> None:
    tiny.tiny_bundle(tmp_path / "bundle", crop="centre", content=(24, 32))
    make_video(tmp_path / "clip.mp4", moving_frames(FRAMES, 96, 54), options={"preset": "ultrafast"})
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    command = [sys.executable, "-c", DRIVER, str(tmp_path), str(port)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = samples(json.loads(ran.stdout.splitlines()[-1]))
    steps = {"scan": 3, "track": 1, "invert": 3, "plan": 1, "render": 3, "finalize": 1}  # 20 frames, 8 in a chunk
    assert {step: found[f"frames_total {step}"] for step in steps} == dict.fromkeys(steps, FRAMES)
    assert {step: found[f"items {step} done"] for step in steps} == steps
    assert {found[f"items {step} {state}"] for step in steps for state in ("queued", "running", "failed")} == {0}
    assert found["sources"] == found["workers"] == 1 and 0 < found["workers_busy_share"] <= 1


def samples(text: str) -> dict[str, float]:
    """Prometheus' text => our metrics: name, step and state => value."""
    found = {}
    for name, labels, value in re.findall(r"^ray_styleres_(\w+)\{(.*)\} (\S+)$", text, re.M):
        given = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        found[" ".join([name, *(given[key] for key in ("step", "state") if key in given)])] = float(value)
    assert found, text[-2000:]
    return found
