"""Parts of a sharded model that processes hold: that each number is somewhere, and the same wherever it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..krylov.linear_operator import OperatorError
from ..krylov.space import Space
from .distributed import everyone

#: Relative difference of two sums that is more than rounding in single precision.
ALIKE = 1e-3


class Part(NamedTuple):
    """What one process holds of a parameter.

    Attributes:
        name: of the parameter.
        size: numbers of all of it.
        ranges: ``(from, to)`` of those that are here, ascending.
        holders: how many processes hold these.
    """

    name: str
    size: int
    ranges: list[tuple[int, int]]
    holders: int

    @property
    def local(self) -> int:
        """How many of its numbers are here."""
        return sum(to - begin for begin, to in self.ranges)


def require_all(parts: Sequence[Part], space: Space) -> None:
    """Returns if all processes hold parts of the same parameters, which together are these, each number counted once.

    Raises:
        OperatorError: they do not; in every process.
    """
    words = everyone([(part.name, part.size) for part in parts])
    for rank, theirs in enumerate(words):
        for mine, other in zip(words[0], theirs, strict=False):
            if mine != other:
                raise OperatorError(f"process {rank} has parameter '{other[0]}' where process 0 has '{mine[0]}': {_PIPELINE}")
        if len(theirs) != len(words[0]):
            raise OperatorError(f"process {rank} has {len(theirs)} parameters and process 0 has {len(words[0])}: {_PIPELINE}")
    found = torch.tensor([_sums(part.ranges, part.size) for part in parts], dtype=torch.float64)
    found = space.total(found / torch.tensor([[part.holders] for part in parts], dtype=torch.float64))
    for part, sums in zip(parts, found.tolist(), strict=True):
        if any(abs(one - full) > 1e-9 * part.size for one, full in zip(sums, _sums([(0, part.size)], part.size), strict=True)):
            raise OperatorError(
                f"the parts of parameter '{part.name}' that the processes hold are not all of it once, or repeated evenly"
            )


def require_alike(parts: Sequence[Part], v: Tensor, what: str, why: str) -> None:
    """Returns if processes that hold the same numbers have the same of them, but for rounding.

    Args:
        parts: of the parameters.
        v: this process's slice ``[local]`` of the weights, say.
        what: word for it.
        why: may they differ.

    Raises:
        OperatorError: they have not; in every process.
    """
    mine = {}
    for part, numbers in zip(parts, v.double().split([part.local for part in parts]), strict=True):
        if part.ranges and part.holders > 1:
            place = (part.name, part.ranges[0][0], part.ranges[-1][1])
            mine[place] = float(numbers.sum()), float(numbers.abs().sum())
    first: dict[Any, tuple[int, float, float]] = {}
    for rank, sums in enumerate(everyone(mine)):
        for place, (total, size) in sums.items():
            holder, one, reach = first.setdefault(place, (rank, total, size))
            if not abs(total - one) <= ALIKE * max(reach, size):
                raise OperatorError(f"process {rank} has other {what} of parameter '{place[0]}' than process {holder}: {why}")


_PIPELINE = "each process must have its part of every parameter; stages of a pipeline, each of other layers, cannot be measured"


def _sums(ranges: Sequence[tuple[int, int]], size: int) -> tuple[float, float]:
    """How many numbers there are, and their share of the mean place: what is there twice for another differs in one of them."""
    count = sum(to - begin for begin, to in ranges)
    return float(count), sum((to - begin) * (to + begin - 1) // 2 for begin, to in ranges) / max(size, 1)
