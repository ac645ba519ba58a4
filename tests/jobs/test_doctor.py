"""styleres doctor --store and --ray-address: what holds, and where it does not, one line that says what to do."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import jobs.doctor
from jobs.cli import app
from ops.checkpoints.bundle import Bundle
from pipeline.on_ray import cluster
from tests import needs
from tests.jobs.conftest import Styleres, tree


@pytest.fixture(autouse=True)
def of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine lacks decides nothing here."""
    monkeypatch.setattr(jobs.doctor, "environment", list)


def doctor(*words: object) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and the checks by what they looked at."""
    ran = CliRunner().invoke(app, ["doctor", *map(str, words), "--json"])
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    return ran.exit_code, {check["what"]: check for check in json.loads(ran.stdout)["checks"]}


def test_a_store_is_named_and_its_place_left_as_it_was(tmp_path: Path, styleres: Styleres, clip: Path, bundle: Bundle) -> None:
    root = tmp_path / "store"
    assert styleres("invert", clip, "--store", root).code == 0
    before = tree(tmp_path)
    code, checks = doctor("--store", root)
    assert code == 0 and checks["store's place"]["state"] == "ok" and "GB free" in checks["store's disk"]["found"]
    assert f"model {bundle.name}, schema" in checks["store"]["found"]
    before.pop("store")  # the folder's own time tells that a file was there for a moment
    assert {name: at for name, at in tree(tmp_path).items() if name != "store"} == before
    (root / "meta" / "info.json").write_text("{")
    code, checks = doctor("--store", root)
    assert code == 1 and checks["store"]["state"] == "missing" and "restore it from a copy" in checks["store"]["found"]


def test_a_store_that_is_not_there_yet_can_be_made_or_not(tmp_path: Path) -> None:
    code, checks = doctor("--store", tmp_path / "a" / "b")
    assert code == 0 and f"can be made: {tmp_path} can be written" in checks["store's place"]["found"]
    assert "none yet" in checks["store"]["found"] and list(tmp_path.iterdir()) == []
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    for place in (tmp_path / "holiday.jpg", tmp_path / "holiday.jpg" / "store", Path("/proc/styleres"), "nfs4://server/store"):
        code, checks = doctor("--store", place)
        assert code == 1 and checks.keys() == {"store's place"}, place
        assert "cannot be written" in checks["store's place"]["found"] and str(place) in checks["store's place"]["found"]
    code, checks = doctor("--store", tmp_path)
    assert code == 1 and "holds holiday.jpg; a new store needs an empty folder" in checks["store"]["found"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    code, checks = doctor("--store", tmp_path / "locked")
    assert code == 1 and "Permission denied" in checks["store's place"]["found"]


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_one_line_within_a_limit(
    monkeypatch: pytest.MonkeyPatch, styleres: Styleres, clip: Path, tmp_path: Path
) -> None:
    """Nobody listens; or somebody does who never answers. A job says the same before it touches anything."""
    needs.package("ray")
    code, checks = doctor("--ray-address", "no address")
    assert code == 1 and "cannot be joined: Invalid address format" in checks["cluster"]["found"]
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # not listening: a connection is refused, and nobody else gets the port
        for port in (silent.getsockname()[1], nobody.getsockname()[1]):
            address, began = f"127.0.0.1:{port}", time.monotonic()
            code, checks = doctor("--ray-address", address)
            assert code == 1 and checks["cluster"]["state"] == "missing" and time.monotonic() - began < 30
            assert f"no Ray cluster answered at {address} within 2 s" in checks["cluster"]["found"]
        words = ("--edit", "warm=1", "--out", tmp_path / "o.mp4", "--store", tmp_path / "s", "--ray-address", address)
        refused = styleres("edit", clip, *words)
    assert refused.code == 2 and "no Ray cluster answered" in refused.error and "ray status" in refused.error
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
