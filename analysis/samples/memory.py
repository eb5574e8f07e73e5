"""How much memory there is, and how much a gradient graph holds."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

#: one part in so many of the free memory is for kept graphs, unless a budget is given
FREE_SHARE = 4
#: how many processes of one work list share the memory
_SHARED_BY: ContextVar[int] = ContextVar("shared_by", default=1)


@contextmanager
def memory_shared_by(processes: int) -> Iterator[None]:
    """Inside, this process counts on its share of the free memory only: the others measure the same memory at the same time."""
    token = _SHARED_BY.set(processes)
    try:
        yield
    finally:
        _SHARED_BY.reset(token)


def give_back_freed_memory() -> None:
    """Lets the system have what :func:`~saddlescope.reuse_freed_memory` keeps: another process needs it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def free_bytes(device: torch.device) -> int:
    """Bytes free on a device for this process.

    On the CPU what Linux calls available, within the limit of the control group (containers); 4 GiB where neither can be read.
    """
    if device.type == "cuda":
        free = int(torch.cuda.mem_get_info(device)[0])
    else:
        known = [bytes_ for bytes_ in (_available(), _control_group()) if bytes_ is not None]
        free = min(known, default=4 * 1024**3)
    return free // _SHARED_BY.get()


def graph_budget(device: torch.device) -> int:
    """Bytes that kept graphs may take where nobody says otherwise: a quarter of what is free, so that others can work, too."""
    return free_bytes(device) // FREE_SHARE


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def _control_group() -> int | None:
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        return max(limit - used, 0)
    except (OSError, ValueError):  # no control group, or "max": no limit
        return None


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
        # The tensor itself would hold the node that saves it: a cycle through C++ that nothing ever frees. Autograd attaches
        # what it gets back to its graph again.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved
