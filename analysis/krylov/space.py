"""The space that an operator's vectors live in: all n numbers here, or a slice of them with the rest in other processes.

Whatever the Krylov methods do to vectors elementwise they do to a slice alike. What they ask of whole vectors is inner
products, and random ones: both are here, so that the same code runs on one process and on many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

#: Sums a tensor over the processes that hold the slices of a vector, the same bits in each.
Reduce = Callable[[Tensor], Tensor]

#: Random numbers drawn at once; a multiple of 16, for which torch draws the same numbers in parts as in one go.
BLOCK = 1 << 20
#: Longer vectors are drawn block by block from streams of their own, so that a process draws its slice alone: one stream of
#: 10^11 numbers takes most of an hour, in each of them.
ONE_STREAM = 1 << 28


class Space:
    """R^n, all of it in this process.

    Attributes:
        size: n.
        local: numbers of a vector that lie in this process.
        ranges: ``(from, to)`` of these, ascending.
    """

    ranges: tuple[tuple[int, int], ...]

    def __init__(self, size: int) -> None:
        self.size = self.local = size
        self.ranges = ((0, size),)

    def total(self, partial: Tensor) -> Tensor:
        """The sum of what every process has found on its slice."""
        return partial

    def dual(self, v: Tensor) -> Tensor:
        """What a slice is multiplied with, so that the :meth:`total` of the local products is the inner product with v."""
        return v

    def dot(self, u: Tensor, v: Tensor) -> float:
        """Inner product in float64 of two vectors ``[local]``."""
        return float(torch.dot(u.double(), v.double()))

    def norm(self, v: Tensor) -> float:
        """Length of a vector ``[local]``."""
        return float(v.norm())

    def dots(self, u: Tensor, v: Tensor) -> Tensor:
        """Inner products ``[k]`` of the columns of ``[local, k]``."""
        return (u * v).sum(0)

    def norms(self, v: Tensor) -> Tensor:
        """Lengths ``[k]`` of the columns of ``[local, k]``."""
        lengths: Tensor = v.norm(dim=0)
        return lengths

    def random(self, seed: int) -> Tensor:
        """A vector ``[local]`` in float64, uniform on the unit sphere, the same one however it is spread."""
        if self.size > ONE_STREAM:
            return _of_streams([(0, self.size)], self.size, seed, self.norm)
        v = torch.randn(self.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return v.div_(v.norm())


class Slices(Space):
    """R^n spread over processes.

    Args:
        size: n.
        ranges: ``(from, to)`` of the numbers in this process, ascending; several processes may hold the same ones.
        reduce: sums over all processes.
        holders: how many processes hold each local number ``[local]``; default: one each.
    """

    def __init__(self, size: int, ranges: Sequence[tuple[int, int]], reduce: Reduce, holders: Tensor | None = None) -> None:
        super().__init__(size)
        self.ranges, self._reduce = tuple(ranges), reduce
        self.local = sum(to - begin for begin, to in ranges)
        self._share = None if holders is None else 1 / holders.double()

    def total(self, partial: Tensor) -> Tensor:
        """The sum of what every process has found on its slice."""
        return self._reduce(partial)

    def dual(self, v: Tensor) -> Tensor:
        """The vector ``[local]`` or vectors ``[local, k]`` with each number divided by the number of processes that hold it."""
        if self._share is None:
            return v
        share = self._share.to(v.device)
        return v.double() * (share if v.dim() == 1 else share.unsqueeze(1))

    def dot(self, u: Tensor, v: Tensor) -> float:
        """Inner product in float64 of two vectors ``[local]``."""
        return float(self.total(torch.dot(u.double(), self.dual(v).double()).reshape(1)))

    def norm(self, v: Tensor) -> float:
        """Length of a vector ``[local]``."""
        return math.sqrt(max(self.dot(v, v), 0.0))

    def dots(self, u: Tensor, v: Tensor) -> Tensor:
        """Inner products ``[k]`` in float64 of the columns of ``[local, k]``."""
        return self.total((u.double() * self.dual(v).double()).sum(0))

    def norms(self, v: Tensor) -> Tensor:
        """Lengths ``[k]`` of the columns of ``[local, k]``."""
        return self.dots(v, v).clamp(min=0).sqrt()

    def random(self, seed: int) -> Tensor:
        """This process's slice ``[local]`` of the vector that one process would draw; short ones every process draws whole."""
        if self.size > ONE_STREAM:
            return _of_streams(self.ranges, self.size, seed, self.norm)
        own = torch.empty(self.local, dtype=torch.float64)
        squares, place, filled = 0.0, 0, 0
        wanted = iter(self.ranges)
        begin, to = next(wanted, (self.size, self.size))
        for block in _normal(self.size, seed):
            squares += float(torch.dot(block, block))
            end = place + len(block)
            while begin < end:
                part = block[begin - place : min(to, end) - place]
                own[filled : filled + len(part)] = part
                filled += len(part)
                begin += len(part)
                if begin < to:
                    break
                begin, to = next(wanted, (self.size, self.size))
            place = end
        return own.div(squares**0.5)


def _of_streams(ranges: Sequence[tuple[int, int]], size: int, seed: int, norm: Callable[[Tensor], float]) -> Tensor:
    """The numbers in some ranges of a random unit vector ``[size]`` whose blocks are drawn apart."""
    own = torch.empty(sum(to - begin for begin, to in ranges), dtype=torch.float64)
    filled, drawn, block = 0, -1, np.empty(0)
    for begin, to in ranges:
        for number in range(begin // BLOCK, -(-to // BLOCK)):
            first = number * BLOCK
            if number != drawn:  # small stretches share one
                stream = np.random.Generator(np.random.Philox(key=[seed % (1 << 64), number]))
                drawn, block = number, stream.standard_normal(min(BLOCK, size - first))
            part = torch.from_numpy(block[max(begin - first, 0) : to - first])
            own[filled : filled + len(part)] = part
            filled += len(part)
    return own.div_(norm(own))


def _normal(size: int, seed: int) -> Iterator[Tensor]:
    """The numbers of one ``torch.randn(size)`` of a seed, in blocks."""
    generator = torch.Generator().manual_seed(seed)
    # The last ones are drawn in another way where their number is no multiple of 16, and need that many before them.
    whole = max(size - BLOCK, 0) // BLOCK
    for _ in range(whole):
        yield torch.randn(BLOCK, generator=generator, dtype=torch.float64)
    yield torch.randn(size - whole * BLOCK, generator=generator, dtype=torch.float64)


def space_of(operator: object) -> Space:
    """The space of an operator's vectors: what it says, or R^n here."""
    space = getattr(operator, "space", None)
    return space if isinstance(space, Space) else Space(operator.size)  # type: ignore[attr-defined]
