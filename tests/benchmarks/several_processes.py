"""What one process of several does for a Lanczos step, counted and timed: a GPT whose vectors, or weights, are spread.

    GPT_WIDTH=128 GPT_LAYERS=4 GPT_VOCAB=1024 torchrun --nproc-per-node 2 tests/benchmarks/several_processes.py [steps]

One row for each way: ``vectors`` spreads the Krylov vectors (``--mesh 1x2``, exact products), ``weights`` spreads everything
(``fully_shard``, differences of the gradient). Times are processor time of one thread of the first process, so that other work
on the machine does not count; a gloo exchange within one machine is copying, and is among it. Bytes are what is given to and
taken from exchanges; flop are torch's count.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from gpt import loss, net, texts
from saddlescope.analysis.hessian.distributed import World, world_of
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.hessian.sharded_differences import ShardedDifferenceOperator
from saddlescope.analysis.hessian.sliced import SlicedOperator
from saddlescope.analysis.krylov.lanczos import Lanczos
from saddlescope.analysis.krylov.linear_operator import LinearOperator
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from saddlescope import Samples


class Exchanged(TorchDispatchMode):
    """Inside, bytes of exchanges between processes are counted: of each, the larger of what goes in and what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts one."""
        if func.namespace == "c10d":
            self.bytes += max((sum(t.nbytes for t in tree_leaves(a) if isinstance(t, Tensor)) for a in args), default=0)
        return func(*args, **(kwargs or {}))


class Timed(LinearOperator):
    """An operator that knows what its products took."""

    def __init__(self, operator: LinearOperator) -> None:
        self.operator, self.space = operator, operator.space  # type: ignore[attr-defined]
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self.num_samples, self.matvecs, self.seconds = operator.num_samples, 0, 0.0

    def matvec(self, v: Tensor) -> Tensor:
        """``H v``."""
        began = time.process_time()
        product = self.operator.matvec(v)
        self.seconds += time.process_time() - began
        self.matvecs += 1
        return product


def next_tokens(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Of texts that are one tensor with what follows."""
    return loss(model, (batch[0][:, 0], batch[0][:, 1]))


def ways(world: World) -> Iterator[tuple[str, Callable[[], LinearOperator]]]:
    """Name -> operator, made when it is asked for."""
    samples = Samples.from_tensors(torch.stack(texts(), dim=1), torch.arange(len(texts()[0])) % 2)
    mine = samples.subset(world.share(np.arange(samples.num_samples)))
    shared = {"micro_batch": 4, "reduce": world.reduce}

    def vectors() -> LinearOperator:
        return SlicedOperator(HessianOperator(net(), mine, next_tokens, memory=1, **shared), world)

    def weights() -> LinearOperator:
        model = net()
        for block in model.blocks:
            fully_shard(block)
        return ShardedDifferenceOperator(fully_shard(model), mine, next_tokens, **shared)

    yield "vectors", vectors
    yield "weights", weights


def main(steps: int) -> None:
    """Prints the rows."""
    torch.set_num_threads(1)
    with world_of("cpu", mesh=f"1x{os.environ['WORLD_SIZE']}") as world:
        for name, make in ways(world):
            torch.manual_seed(0)
            operator = make()
            operator.matvec(operator.space.random(1).to(operator.dtype))  # what is chosen and measured once
            with FlopCounterMode(display=False) as flop, Exchanged() as of_product:
                operator.matvec(operator.space.random(2).to(operator.dtype))
            timed = Timed(operator)
            began = time.process_time()
            run = Lanczos(timed, seed=0).run(steps)
            rest, seconds = time.process_time() - began - timed.seconds, timed.seconds / steps
            with Exchanged() as of_step:
                run.run(steps + 1)
            if world.first:
                n, flops = operator.size, flop.get_total_flops()
                tokens = operator.num_samples * texts()[0].shape[1] / world.size
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kilobytes, but on macOS
                print(
                    f"| {n:.2e} | {name} | {world.size} | {seconds:.3g} s | {flops / (2 * n * tokens):.1f} | "
                    f"{flops / seconds / 1e9:.0f} | {rest / steps:.3g} s | {of_product.bytes / n:.1f} n | "
                    f"{of_step.bytes - of_product.bytes} | {memory:.2f} GB |"
                )
            del operator, timed, run


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
