"""Asks a Ray cluster at an address whether it answers, and what it has at this moment.

A process of its own asks, because `ray.init` tries for a quarter of an hour where nobody listens, and cannot be cut short.
Nothing of ours is imported, so that asking takes two seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass

ANSWER_SECONDS = 60.0


class NoCluster(RuntimeError):
    """No cluster at the address that this program can join; the message says why and what to do."""


@dataclass(frozen=True)
class ClusterFacts:
    """Nodes and resources of a cluster at this moment."""

    nodes: int
    total: dict[str, float]
    """Amount of each resource, by Ray's names: CPU, GPU, memory, …"""
    free: dict[str, float]


def cluster_facts(address: str) -> ClusterFacts:
    """Have a cluster joined, looked at and left again.

    Raises:
        NoCluster: none answers within `ANSWER_SECONDS`, or it refuses; other versions of Python or Ray there are a reason.
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
    """Join, look, leave."""
    import ray

    ray.init(address=address, log_to_driver=False)
    alive = sum(1 for node in ray.nodes() if node["Alive"])
    facts = ClusterFacts(alive, ray.cluster_resources(), ray.available_resources())
    ray.shutdown()
    return facts


def main() -> None:
    try:
        print(json.dumps(asdict(look(sys.argv[1]))))
    except Exception as error:  # Ray raises whatever its layers raise
        print(json.dumps({"refused": " ".join(str(error).split())}))


if __name__ == "__main__":
    main()
