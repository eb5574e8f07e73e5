"""How much memory there is, and how much a gradient graph holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor


def free_bytes(device: torch.device) -> int:
    """Bytes free on a device; on the CPU what Linux calls available, or 4 GiB where that cannot be read."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 4 * 1024**3


@dataclass
class Saved:
    """Bytes of the distinct storages that autograd saved."""

    storages: dict[int, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes so far."""
        return sum(self.storages.values())


@contextmanager
def saved_bytes() -> Iterator[Saved]:
    """Counts what autograd saves inside."""
    saved = Saved()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved.storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved
