"""One analysis over several processes or devices: every process takes a share of each group's samples, products are summed.

Started by ``torchrun``; a single-process run never touches ``torch.distributed``. The Lanczos recurrences run in every process
alike, on the same sums. Where the vectors of a Krylov space are too many for one process they are spread as well: the processes
are a mesh, samples are shared over all of it, and along its second dimension every process keeps a slice of each vector.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..krylov.linear_operator import OperatorError
from ..krylov.space import Slices, Space
from ..samples.memory import memory_shared_by

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.distributed_c10d import Store


class WorldError(OperatorError):
    """The processes of one analysis do not fit together, or one of them is gone; every one of them raises it."""


@dataclass(frozen=True)
class World:
    """This process among all.

    Attributes:
        rank: 0 .. size - 1; the first one writes files and speaks.
        size: number of processes.
        device: where this process computes, ``None`` to leave it to the settings.
        mesh: of the dimensions ``samples`` and ``vectors``; None: every process keeps whole vectors.
        beside: processes on this machine that share its memory, this one among them; 1: a GPU has its own.
        seat: which of them this process is.
    """

    rank: int = 0
    size: int = 1
    device: str | None = None
    mesh: DeviceMesh | None = None
    beside: int = 1
    seat: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    @property
    def slices(self) -> int:
        """Number of processes that a vector is spread over."""
        return 1 if self.mesh is None else self.mesh.size(1)

    @property
    def slice(self) -> int:
        """Which of them this process is."""
        return 0 if self.mesh is None else self.mesh.get_local_rank("vectors")

    @property
    def keeps(self) -> bool:
        """Whether this process stores its slices: those of one row of the mesh are all there is."""
        return self.mesh is None or self.mesh.get_local_rank("samples") == 0

    def share(self, indices: np.ndarray) -> np.ndarray:
        """This process's samples of a group; the whole group where it is too small to be shared."""
        return indices[self.rank :: self.size] if self.shares(indices) else indices

    def shares(self, indices: np.ndarray) -> bool:
        """Whether a group is spread over the processes."""
        return self.size > 1 and len(indices) >= self.size

    def reduce(self, total: Tensor) -> Tensor:
        """Sum of a tensor over the processes, the same bits in each."""
        return self._summed(total, None)

    def ranges(self, size: int) -> list[list[tuple[int, int]]]:
        """``(from, to)`` of the numbers of a vector ``[size]`` that each process of a row holds."""
        each = -(-size // self.slices)
        return [[(min(rank * each, size), min((rank + 1) * each, size))] for rank in range(self.slices)]

    def space(self, size: int) -> Space:
        """The vectors ``[size]`` as they are spread."""
        if self.slices == 1:
            return Space(size)
        return Slices(size, self.ranges(size)[self.slice], self._summed_slices)

    def slice_of(self, v: Tensor) -> Tensor:
        """This process's slice of a whole vector ``[n]``."""
        ((begin, to),) = self.ranges(len(v))[self.slice]
        return v[begin:to]

    def whole(self, v: Tensor, size: int) -> Tensor:
        """The whole vectors ``[size, k]`` or ``[size]`` of which every process of a row has a slice."""
        if self.slices == 1:
            return v
        import torch.distributed as dist

        assert self.mesh is not None
        each = -(-size // self.slices)
        padded = torch.zeros((each, *v.shape[1:]), dtype=v.dtype, device=self.device or v.device)
        padded[: len(v)] = v
        parts = [torch.empty_like(padded) for _ in range(self.slices)]
        with speaking_of_loss():
            dist.all_gather(parts, padded, group=self.mesh.get_group("vectors"))
        return torch.cat(parts)[:size].to(v.device)

    def owned(self, ranges: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        """Of the ranges of numbers that each process holds, those that none before it holds."""
        seen, found = set[tuple[int, int]](), list[list[tuple[int, int]]]()
        for theirs in self.everyone(list(ranges)):
            found.append([one for one in theirs if one not in seen])
            seen.update(theirs)
        return found

    def everyone(self, word: Any) -> list[Any]:
        """What each process says (anything that can be pickled)."""
        return [word] if self.size == 1 else everyone(word)

    def require_same(self, what: str, sha256: str) -> None:
        """Returns if all processes have the same of something.

        Raises:
            WorldError: they have not; in every process.
        """
        all_of_them = self.everyone(sha256)
        others = [rank for rank, one in enumerate(all_of_them) if one != all_of_them[0]]
        if others:
            raise WorldError(
                f"process {others[0]} has other {what} than process 0 (SHA-256 {all_of_them[others[0]][:12]}, not "
                f"{all_of_them[0][:12]}): give every process the same files, and code that builds the same of them"
            )

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            import torch.distributed as dist

            with speaking_of_loss():
                dist.barrier()

    def _summed_slices(self, total: Tensor) -> Tensor:
        assert self.mesh is not None
        return self._summed(total, self.mesh.get_group("vectors"))

    def _summed(self, total: Tensor, group: Any) -> Tensor:
        return total if self.size == 1 else summed(total, self.device or total.device, group)


def everyone(word: Any) -> list[Any]:
    """What each of all processes says (anything that can be pickled)."""
    import torch.distributed as dist

    words: list[Any] = [None] * dist.get_world_size()
    with speaking_of_loss():
        dist.all_gather_object(words, word)
    return words


def summed(total: Tensor, device: torch.device | str, group: Any = None) -> Tensor:
    """The sum over the processes of a group, carried by the device of their exchanges; of all without one."""
    import torch.distributed as dist

    # A copy: it must not be summed in place where the caller still has it.
    carrier = total.to(device, copy=True)
    with speaking_of_loss():
        dist.all_reduce(carrier, group=group)
    return carrier.to(total.device)


#: Of what gloo, NCCL, MPI and torch's store say when a process cannot be reached.
_CONNECTION = re.compile(r"gloo|nccl|\bmpi\b|connect|socket|store|peer|timed? ?out|process group|rank|barrier|abort", re.I)


@contextmanager
def speaking_of_loss() -> Iterator[None]:
    """Says in one sentence what torch says of a connection to a process that is no more."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        if not (isinstance(error, torch.distributed.DistError) or _CONNECTION.search(str(error))):
            raise  # what is computed between exchanges fails in its own words
        raise WorldError(
            f"another process of this analysis has ended or cannot be reached; its own message says why ({said:.120})"
        ) from None


def mesh_shape(asked: str | None, size: int) -> tuple[int, int]:
    """``(samples, vectors)`` of a mesh ``2x4``; without one every process keeps whole vectors.

    Raises:
        WorldError: there are not as many processes.
    """
    if asked is None:
        return size, 1
    samples, vectors = map(int, asked.split("x"))
    if samples * vectors != size:
        have = "this is one" if size == 1 else f"{size} were started"
        other = "leave out --mesh" if size == 1 else f"give --mesh 1x{size}"
        raise WorldError(
            f"mesh {asked} is of {samples} x {vectors} = {samples * vectors} processes, and {have}: {other}, or start as many "
            f"with torchrun --nproc-per-node {samples * vectors} -m saddlescope ..."
        )
    return samples, vectors


def planned(mesh: str | None) -> tuple[int, int, bool]:
    """For how many processes a run is planned, over how many of them a vector is spread, and whether this one speaks.

    One process plans for all those of a mesh.

    Raises:
        WorldError: there are several, and not as many as those of the mesh; in the first one.
    """
    size, first = int(os.environ.get("WORLD_SIZE", "1")), os.environ.get("RANK", "0") == "0"
    if size == 1 and mesh is not None:
        samples, vectors = map(int, mesh.split("x"))
        return samples * vectors, vectors, True
    try:
        return size, mesh_shape(mesh, size)[1], first
    except WorldError:
        if not first:
            raise SystemExit(2) from None
        raise


def _speaks(store: Store) -> bool:
    """Whether no other process has said yet why the job ends."""
    try:
        return store.add("saddlescope says why", 1) == 1
    except RuntimeError:  # the process that keeps the store is gone
        return True


@contextmanager
def world_of(device: str = "cpu", mesh: str | None = None) -> Iterator[World]:
    """The processes that ``torchrun`` started, or this one alone.

    Args:
        device: ``cuda`` gives every process the GPU of its local rank and sums over NCCL, anything else sums over gloo.
        mesh: ``samples x vectors``, such as ``2x4``, see :func:`mesh_shape`.

    Raises:
        WorldError: the mesh does not fit; in every process.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        shape = mesh_shape(mesh, size)
    except WorldError:
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(2) from None  # the first process says it
        raise
    if size <= 1:
        yield World()
        return
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.rendezvous import rendezvous

    mine = device
    if device.startswith("cuda"):
        mine = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(mine)
    store, rank, size = next(rendezvous("env://"))
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", store=store, rank=rank, world_size=size)
    try:
        kind = torch.device(mine).type
        names: Sequence[str] = ("samples", "vectors")
        spread = init_device_mesh(kind, shape, mesh_dim_names=tuple(names)) if shape[1] > 1 else None
        # Those on one machine look at the same free memory; GPUs have their own.
        beside = 1 if kind == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", size))
        seat = 0 if beside == 1 else int(os.environ.get("LOCAL_RANK", rank))
        world = World(rank, size, mine, spread, beside, seat)
        with memory_shared_by(beside):
            yield world
            world.wait()  # one that leaves early can abort the others
    except ValueError as error:
        # One of them speaks: the first that fails, for the others may fail only because it has left.
        if type(error).__module__.startswith("saddlescope.") and not _speaks(store):
            raise SystemExit(2) from None
        raise
    finally:
        dist.destroy_process_group()
