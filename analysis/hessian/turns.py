"""Processes of one machine that need its memory for a while: one after another, where there is no room for all at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from ..samples.memory import free_bytes, give_back_freed_memory
from .distributed import World
from .operator import HessianOperator

#: Bytes a parameter that a process holds in a look at derivatives in float64, and nearly as many in two products: fifty vectors
#: in float32, measured (SCALE.md).
CHECK_BYTES = 200


@contextmanager
def turn(world: World, judge: HessianOperator) -> Iterator[None]:
    """Inside, looks at ``judge`` are taken, or products up to their first sum over processes: in turn where memory is short.

    Every process must enter, and look at its own samples alone; what is added up is so when all have had their turn.

    Args:
        world: the processes.
        judge: an operator of whole vectors, in float64.
    """
    short = world.beside > 1 and judge.device.type == "cpu" and CHECK_BYTES * judge.size > free_bytes(judge.device)
    words = world.everyone((short, world.beside))
    if not any(one for one, _ in words):
        yield
        return
    after, reduce, done = max(beside for _, beside in words) - world.seat, judge.reduce, False

    def rest() -> None:
        nonlocal done
        if not done:
            done = True
            give_back_freed_memory()
            for _ in range(after):
                world.wait()

    def add_up(total: Tensor) -> Tensor:
        rest()
        assert reduce is not None
        return reduce(total)

    for _ in range(world.seat):
        world.wait()
    judge.reduce = add_up if reduce is not None else None
    try:
        yield
    finally:
        judge.reduce = reduce
    rest()
