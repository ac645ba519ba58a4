"""Asks a Ray cluster at an address whether it answers, and what it has at this moment.

A process of its own asks, because `ray.init` tries for a quarter of an hour if nothing answers, and cannot be cut short. It
imports no module of this project, so that it takes two seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass

ANSWER_SECONDS = 60.0


class NoCluster(RuntimeError):
    """Raised if this program cannot join a cluster at the address; the message says why and what to do."""


@dataclass(frozen=True)
class ClusterFacts:
    """Nodes and resources of a cluster at this moment."""

    nodes: int
    total: dict[str, float]
    """Amount of each resource, by Ray's names: CPU, GPU, memory, …"""
    free: dict[str, float]


def cluster_facts(address: str) -> ClusterFacts:
    """Have another process join a cluster, read its facts and leave it.

    Raises:
        NoCluster: none answers within `ANSWER_SECONDS`, or it refuses, for instance for other versions of Python or Ray.
    """
    try:
        command = [sys.executable, "-P", __file__, address]
        asked = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        raise NoCluster(
            f"no Ray cluster answered at {address} within {ANSWER_SECONDS:g} s; expected HOST:PORT of a head that runs and can "
            "be reached from here, or 'auto' on a machine of the cluster. `ray status` on the head says whether it runs"
        ) from None
    lines = [line for line in asked.stdout.splitlines() if line.startswith("{")]
    if not lines:
        said = " ".join(asked.stderr.split())[-400:]
        raise NoCluster(f"the Ray cluster at {address} cannot be joined: exit code {asked.returncode}, {said}")
    answer = json.loads(lines[-1])
    if "refused" in answer:
        raise NoCluster(f"the Ray cluster at {address} cannot be joined: {answer['refused']}")
    return ClusterFacts(**answer)


def look(address: str) -> ClusterFacts:
    """Join a cluster, read its facts and leave it."""
    import ray

    ray.init(address=address, log_to_driver=False)
    alive = sum(1 for node in ray.nodes() if node["Alive"])
    facts = ClusterFacts(alive, ray.cluster_resources(), ray.available_resources())
    ray.shutdown()
    return facts


def main() -> None:
    try:
        print(json.dumps(asdict(look(sys.argv[1]))))
    except Exception as error:  # Ray raises errors of all its layers
        print(json.dumps({"refused": " ".join(str(error).split())}))


if __name__ == "__main__":
    main()
