"""The files that start clusters: valid to Ray's own validator, and the commands in them are commands that there are."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from jobs.edit import edit
from tests import needs

ROOT = Path(__file__).resolve().parents[1]
ray = needs.package("ray")


@pytest.mark.parametrize("name", ["cluster.yaml", "deploy/cluster.local.yaml"])
def test_cluster_files_pass_rays_validator(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load((ROOT / name).read_text("utf-8")))  # fills in Ray's defaults, as `ray up` does
    validate_config(prepared)
    if prepared["provider"]["type"] == "local":
        assert prepared["max_workers"] == len(prepared["provider"]["worker_ips"])


def test_the_validator_would_find_a_mistake() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    good = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text("utf-8")))
    with pytest.raises(Exception, match="ten"):
        validate_config(good | {"idle_timeout_minutes": "ten"})
    with pytest.raises(Exception, match="another"):
        validate_config(good | {"another_field": 1})


def test_cluster_yaml_has_a_pool_for_gpus_and_one_without() -> None:
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text("utf-8"))
    types = config["available_node_types"]
    assert config["head_node_type"] in types and types["head"]["resources"] == {"CPU": 0}
    assert {"gpu_worker", "cpu_worker"} < set(types)


def parsed(command: str) -> dict[str, Any]:
    """The options of `python -m jobs.edit …`, read as the command itself reads them."""
    words = shlex.split(command)
    start = words.index("jobs.edit")
    application = typer.Typer()
    application.command()(edit)
    made = typer.main.get_command(application)
    assert isinstance(made, click.Command) or hasattr(made, "make_context")
    return made.make_context("edit", words[start + 1 :]).params


def test_the_kubernetes_job_runs_a_command_that_there_is() -> None:
    job = yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text("utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    options = parsed(job["spec"]["entrypoint"])
    assert options["ray_address"] == "auto" and options["gpus_per_worker"] == 1
    places = (*options["inputs"], options["store"], options["out"])
    assert all(one.startswith("s3://") for one in places), "nodes share no disk"
    cluster = job["spec"]["rayClusterSpec"]
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray=="))
    assert cluster["rayVersion"] == pinned.removeprefix("ray==")
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    limits = {name: group["template"]["spec"]["containers"][0]["resources"]["limits"] for name, group in groups.items()}
    assert limits["gpu"]["nvidia.com/gpu"] == 1 and "nvidia.com/gpu" not in limits["cpu"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_guides_commands_are_commands_that_there_are() -> None:
    text = (ROOT / "docs" / "cluster.md").read_text("utf-8")
    blocks = [block.replace("\\\n", " ") for block in text.split("```bash\n")[1:]]
    commands = [block.split("```")[0] for block in blocks if "jobs.edit" in block.split("```")[0]]
    assert commands
    for command in commands:
        assert parsed(command)["edit"] == ["smile=2"]
