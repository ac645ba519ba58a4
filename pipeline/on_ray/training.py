"""Trains on several processes: Ray Train starts them, one per GPU, and torch's DistributedDataParallel joins them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ops.training.distributed import Worker
from ops.training.method_run import Plan, run_plan
from ops.training.trainer import images_seen
from pipeline.on_ray.cluster import cluster_facts


def train_on_ray(plan: Plan, *, workers: int, gpus_per_worker: float, cpus_per_worker: float, address: str | None) -> int:
    """Run the plan on `workers` Ray processes; => images seen in all.

    The global batch is the plan's: each worker takes its share of it. `plan.out` must be a folder that all workers see.

    Raises:
        TrainingError and other errors of `run`, as Ray wraps them; RuntimeError if the cluster lacks the resources;
        NoCluster if none answers.
    """
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    if not ray.is_initialized():
        if address is not None:
            cluster_facts(address)
        ray.init(address=address or "local", include_dashboard=False)
    there = ray.cluster_resources()
    for name, each in (("CPU", cpus_per_worker), ("GPU", gpus_per_worker)):
        if each * workers > there.get(name, 0):
            raise RuntimeError(
                f"{workers} workers need {each * workers:g} {name}s, the cluster has {there.get(name, 0):g}; "
                "ask for fewer workers, or start more nodes"
            )
    resources = {"CPU": cpus_per_worker} | ({"GPU": gpus_per_worker} if gpus_per_worker else {})
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"plan": plan, "threads": max(1, int(cpus_per_worker))},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus_per_worker > 0, resources_per_worker=resources),
        torch_config=TorchConfig(backend="nccl" if gpus_per_worker and torch.cuda.is_available() else "gloo"),
        run_config=RunConfig(storage_path=plan.out, name="ray"),
    )
    trainer.fit()
    return images_seen(Path(plan.out) / f"{plan.name}.pt")


def _worker(config: dict[str, Any]) -> None:
    from ray import train
    from ray.train.torch import get_device

    # An inherited OMP_NUM_THREADS is meant for one process: workers that share cores would spin against each other.
    torch.set_num_threads(config["threads"])
    context = train.get_context()
    run_plan(config["plan"], Worker(context.get_world_rank(), context.get_world_size(), get_device()))
