"""Data parallelism for steps that need more than one gradient.

``DistributedDataParallel`` averages what ``backward()`` accumulates; it can neither sum shards of unequal size exactly nor give
a perturbation made from the whole batch. So the optimizers evaluate the bare model on each process and reduce gradients here:
every per-sample weight is already divided by the global count, gradients are summed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

Gradient = list[Tensor | None]


@dataclass(frozen=True)
class DataParallel:
    """How the processes of one data-parallel job share a step.

    Attributes:
        group: The process group; ``None`` is the default one.
        m_sharpness: If true each process perturbs along the gradient of its own shard (m-sharpness of Foret et al. 2021,
            m = shard size) and only the final gradient is summed. If false (default) the perturbation is that of the whole
            batch, and the step equals the one a single process would take on the joined batch.
    """

    group: dist.ProcessGroup | None = None
    m_sharpness: bool = False

    def sum_counts(self, counts: Tensor) -> Tensor:
        """Sums an integer tensor over the processes (a new tensor)."""
        summed = counts.clone()
        dist.all_reduce(summed, group=self.group)
        return summed

    def sum_gradients(self, gradients: Sequence[Gradient], parameters: Sequence[Tensor]) -> list[Gradient]:
        """Sums several gradients over the processes with one reduction per dtype and device.

        Args:
            gradients: Each aligned with ``parameters``; ``None`` where a process's graph did not reach the parameter.
            parameters: Their shapes and dtypes.

        Returns:
            The sums, ``None`` only where no process reached the parameter.
        """
        buckets: dict[tuple[torch.dtype, torch.device], list[int]] = defaultdict(list)
        for i, parameter in enumerate(parameters):
            buckets[parameter.dtype, parameter.device].append(i)
        summed: list[Gradient] = [[None] * len(parameters) for _ in gradients]
        for (dtype, device), members in buckets.items():
            pieces = [_or_zero(g[i], parameters[i]).reshape(-1) for g in gradients for i in members]
            reached = torch.tensor([g[i] is not None for g in gradients for i in members], dtype=dtype, device=device)
            flat = torch.cat([*pieces, reached])
            dist.all_reduce(flat, group=self.group)
            *pieces, reached = flat.split([p.numel() for p in pieces] + [len(pieces)])
            flags = iter(reached.tolist())
            sums = iter(pieces)
            for total in summed:
                for i in members:
                    piece, flag = next(sums), next(flags)
                    total[i] = piece.view_as(parameters[i]) if flag != 0 else None
        return summed


def resolve(parallel: DataParallel | Literal["auto"] | None) -> DataParallel | None:
    """``"auto"`` means: the default process group if one with several processes exists (as under ``torchrun``)."""
    if parallel != "auto":
        return parallel
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return DataParallel()
    return None


def _or_zero(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if gradient is None else gradient.to(parameter.dtype)
