"""Tensor parallel layers against one process: products by differences of the gradient, in every way that layers are spread.

    torchrun --nproc-per-node 2 tests/analysis/hessian/tensor_parallel.py

Part of what ``sharded_processes.py`` runs; by itself, and with 4 processes, it prints how far a product is off.
"""

import copy
import warnings

import numpy as np
import pytest
import torch
from saddlescope.analysis.hessian.distributed import world_of
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.hessian.sharded_differences import ShardedDifferenceOperator
from saddlescope.analysis.krylov.linear_operator import OperatorError
from saddlescope.analysis.krylov.space import Space
from torch import nn
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from saddlescope import Samples


class Block(nn.Module):
    """Attention of two heads and a feed-forward part; as many heads as the layers give."""

    def __init__(self, d):
        super().__init__()
        self.norm, self.norm2, self.each = nn.LayerNorm(d), nn.LayerNorm(d), d // 4
        self.q, self.k, self.v, self.out = (nn.Linear(d, d) for _ in range(4))
        self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def forward(self, x):
        y = self.norm(x)
        q, k, v = (layer(y).unflatten(-1, (-1, self.each)).transpose(-2, -3) for layer in (self.q, self.k, self.v))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """One block; ``vocabulary`` and ``classes`` do not come out even over two or four processes."""

    def __init__(self, d=8, vocabulary=11, classes=3):
        super().__init__()
        self.embed, self.block, self.norm = nn.Embedding(vocabulary, d), Block(d), nn.LayerNorm(d)
        self.head = nn.Linear(d, classes)

    def forward(self, x):
        return self.head(self.norm(self.block(self.embed(x))).mean(-2))


class CutOff(nn.Module):
    """A head that reentrant checkpointing gives no gradient, as what comes in needs none."""

    def __init__(self, whole):
        super().__init__()
        self.whole, self.last = copy.deepcopy(whole), nn.Linear(3, 3).double()

    def forward(self, x):
        x = self.whole.embed(x).detach().mean(-2)
        return self.last(torch.tanh(checkpoint(self.whole.head, x, use_reentrant=True)))


def plan(kind):
    """Layers that are spread: block and head; the embedding, too; also the sequence between them."""
    columns, rows = ColwiseParallel, RowwiseParallel
    ins, outs = [f"block.{name}" for name in ("q", "k", "v", "up")], ["block.out", "block.down"]
    block = {name: columns() for name in ins} | {name: rows() for name in outs}
    if kind == "block":  # the logits, and with them the loss, stay DTensors
        return block | {"head": columns(output_layouts=Replicate(), use_local_output=False)}
    ends = {"embed": rows(input_layouts=Replicate()), "head": columns(output_layouts=Replicate())}
    if kind == "ends":
        return block | ends
    return (
        ends
        | {"embed": rows(input_layouts=Replicate(), output_layouts=Shard(1)), "norm": SequenceParallel(use_local_output=False)}
        | {name: columns(input_layouts=Shard(1)) for name in ins}
        | {name: rows(output_layouts=Shard(1)) for name in outs}
        | {name: SequenceParallel() for name in ("block.norm", "block.norm2")}
    )


def problem():
    """A network in float64 that has been trained a little, and 12 samples; sequences come out even."""
    torch.manual_seed(0)
    x, y = torch.randint(0, 11, (12, 4)), torch.arange(12) % 3
    net = Transformer()
    step = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(15):
        step.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        step.step()
    return net.double(), Samples.from_tensors(x, y)


def whole_loss(model, batch):
    """Cross-entropy of logits that may be a DTensor."""
    from torch.distributed.tensor import DTensor

    outputs, targets = model(batch[0]), batch[1]
    if isinstance(outputs, DTensor):
        targets = DTensor.from_local(targets, outputs.device_mesh, [Replicate()], run_check=False)
    return functional.cross_entropy(outputs, targets, reduction="none")


def operators(net, samples, world, everything):
    """Kind -> operator of the same Hessian."""
    mesh = init_device_mesh("cpu", (world.size,), mesh_dim_names=("layers",))
    for kind in ("block", "sequence", "ends") if everything else ("sequence",):
        model = parallelize_module(copy.deepcopy(net), mesh, plan(kind))
        yield kind, ShardedDifferenceOperator(model, samples, whole_loss)
    # Weights over one dimension of a mesh, what is left of them over the other, along which samples are shared.
    mesh = init_device_mesh("cpu", (world.size // 2, 2), mesh_dim_names=("samples", "layers"))
    model = parallelize_module(copy.deepcopy(net), mesh["layers"], plan("ends"))
    fully_shard(model.block, mesh=mesh["samples"])
    fully_shard(model, mesh=mesh["samples"])
    mine = np.arange(samples.num_samples)[mesh.get_local_rank("samples") :: mesh.size(0)]

    def reduce(total):
        total = total.clone()
        torch.distributed.all_reduce(total, group=mesh.get_group("samples"))
        return total

    yield "ends and FSDP2", ShardedDifferenceOperator(model, samples.subset(mine), whole_loss, reduce=reduce)


def check(world, table=False):
    """Every kind gives the products of one process, within the error that it has measured; what does not fit is refused."""
    net, samples = problem()
    plain = HessianOperator(net, samples)
    v = Space(plain.size).random(5)
    product = plain.matvec(v)
    for kind, operator in operators(net, samples, world, table):
        before = operator.weights()
        mine = operator.matvec(operator.space.random(5))
        assert torch.equal(operator.weights(), before)
        apart = operator.space.norm(mine - torch.cat([product[begin:to] for begin, to in operator.space.ranges]))
        assert apart <= operator.error < 1e-6 * float(product.norm()), (kind, apart, operator.error)
        if table and world.first:
            print(f"| {kind} | {apart:.1e} | {operator.error:.1e} | {float(product.norm()):.2f} |")
    refused(net, samples, world)
    bends(samples)


def bends(samples):
    """A loss whose slope changes a lot over a thousandth of the weights' norm has a gradient all the same."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 2).double()
    inputs = torch.ones(1, 4, dtype=torch.float64)
    start = float(layer(inputs).detach().sum())

    def cubic(model, batch):
        beyond = model(inputs).sum() - start
        return (5 + 0.1 * beyond + 1e4 * beyond**3).expand(len(batch[1]))

    operator = ShardedDifferenceOperator(fully_shard(layer), samples, cubic)
    assert float(operator.space.norm(operator.loss_and_gradient()[1])) == pytest.approx(0.1 * 10**0.5, rel=1e-9)


def refused(net, samples, world):
    """What is not understood, or not the same in every process."""
    mesh = init_device_mesh("cpu", (world.size,))
    spread = parallelize_module(copy.deepcopy(net), mesh, plan("block"))
    with torch.no_grad():
        spread.norm.bias[0] += world.rank
    with pytest.raises(OperatorError, match=r"process 1 has other weights of parameter .norm\.bias. than process 0"):
        ShardedDifferenceOperator(spread, samples)
    cut_off = fully_shard(CutOff(net))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's own word for it, which training goes on after
        with pytest.raises(OperatorError, match="more get no gradient, and the loss does depend on one of them"):
            ShardedDifferenceOperator(cut_off, samples)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with world_of("cpu") as one_of_them:
        check(one_of_them, table=True)
