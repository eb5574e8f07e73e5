"""One analysis over several processes or devices: every process takes a share of each group's samples, products are summed.

Started by ``torchrun``; a single-process run never touches ``torch.distributed``. The Lanczos recurrences run in every process
alike, on the same sums, so nothing but products, losses and gradients is communicated.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process among all.

    Attributes:
        rank: 0 .. size - 1; the first one writes files and speaks.
        size: number of processes.
        device: where this process computes, ``None`` to leave it to the settings.
    """

    rank: int = 0
    size: int = 1
    device: str | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def share(self, indices: np.ndarray) -> np.ndarray:
        """This process's samples of a group; the whole group where it is too small to be shared."""
        return indices[self.rank :: self.size] if self.shares(indices) else indices

    def shares(self, indices: np.ndarray) -> bool:
        """Whether a group is spread over the processes."""
        return self.size > 1 and len(indices) >= self.size

    def reduce(self, total: Tensor) -> Tensor:
        """Sum of a tensor over the processes, the same bits in each."""
        import torch.distributed as dist

        carrier = total.to(self.device or total.device)
        dist.all_reduce(carrier)
        return carrier.to(total.device)

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()


@contextmanager
def world_of(device: str = "cpu") -> Iterator[World]:
    """The processes that ``torchrun`` started, or this one alone.

    Args:
        device: ``cuda`` gives every process the GPU of its local rank and sums over NCCL, anything else sums over gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield World()
        return
    import torch.distributed as dist

    mine = device
    if device.startswith("cuda"):
        mine = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(mine)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        world = World(dist.get_rank(), dist.get_world_size(), mine)
        yield world
        world.wait()  # one that leaves early can abort the others
    finally:
        dist.destroy_process_group()
