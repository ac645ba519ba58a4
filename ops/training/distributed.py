"""One process of a training, of one or of several: which slice of the batch is its own, and how gradients meet."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Worker:
    """`rank` of `world` processes. With more than one, torch.distributed's default group must be there (Ray Train makes it)."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def wrap(self, module: nn.Module) -> nn.Module:
        """A module whose `forward` is a whole loss: with several processes, its backward averages the gradients."""
        if self.world == 1:
            return module
        # Buffers are constants or this process's own; a sample without an edit leaves parameters of the cycle unused.
        ids = [self.device.index or 0] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, broadcast_buffers=False, find_unused_parameters=True)

    def any(self, here: bool) -> bool:
        """True in every process if it is in one: all stop at the same step."""
        if self.world == 1:
            return here
        flag = torch.tensor(float(here), device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag > 0)

    def share(self, module: nn.Module) -> None:
        """Every process takes the first one's parameters and buffers."""
        if self.world > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, src=0)

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()
