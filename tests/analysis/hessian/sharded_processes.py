"""Run by torchrun: the same Hessian by one process, by FSDP2 models and by slices of vectors; prints nothing where all agree.

    torchrun --nproc-per-node 2 tests/analysis/hessian/sharded_processes.py

A small transformer and a small residual network with batch norm. With ``--table`` the first process prints how far they are
apart: both ends and the trace, then the noise, what that allows of the trace, and both traces' stated errors together.
"""

import copy
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from saddlescope.analysis.checkpoints.checkpoint_flags import given_from_flags
from saddlescope.analysis.hessian.difference_products import DifferenceOperator
from saddlescope.analysis.hessian.distributed import WorldError, world_of
from saddlescope.analysis.hessian.modules import copied
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.hessian.sharded_differences import ShardedDifferenceOperator
from saddlescope.analysis.krylov.linear_operator import OperatorError
from saddlescope.analysis.krylov.spectrum import measure_spectrum
from saddlescope.analysis.records.study_plan import curvature_item
from saddlescope.analysis.studies.progress import measure_with_steps
from saddlescope.analysis.studies.verify import verify
from tensor_parallel import check as check_tensor_parallel
from torch import nn
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional

from saddlescope import AnalysisSettings, Samples, analyze


class Attention(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm, self.project, self.out = nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x):
        q, k, v = self.project(self.norm(x)).unflatten(-1, (2, -1)).transpose(-2, -3).chunk(3, -1)
        return x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2))


class FeedForward(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(3 * d, d)

    def forward(self, x):
        return x + self.down(functional.gelu(self.up(self.norm(x))))


class Transformer(nn.Module):
    def __init__(self, d=8):
        super().__init__()
        self.embed, self.blocks = nn.Embedding(11, d), nn.ModuleList([Attention(d), FeedForward(d)])
        self.head = nn.Linear(d, 3)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(-2))


class Residual(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


class ResNet(nn.Module):
    def __init__(self, c=5):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(1, c, 3, padding=1), nn.ModuleList([Residual(c), Residual(c)])
        self.head = nn.Linear(c, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def problem(kind):
    """A network that has been trained a little, in float64, and 25 samples."""
    torch.manual_seed(0)
    y = torch.arange(25) % 3
    x = torch.randint(0, 11, (25, 6)) if kind is Transformer else torch.randn(25, 1, 6, 6) + y[:, None, None, None]
    net = kind()
    step = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(20):
        step.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        step.step()
    return net.double(), Samples.from_tensors(x, y)


def sharded(net, **flags):
    net = copy.deepcopy(net)
    for block in net.blocks:
        fully_shard(block, **flags)
    return fully_shard(net, **flags)


def tensor_parallel(net, size):
    """As many layers as torch can spread: rows and columns of them that do not come out even, and norms that stay whole."""
    plan = {"head": ColwiseParallel(output_layouts=Replicate())}
    if isinstance(net, Transformer):
        plan |= {"embed": RowwiseParallel(input_layouts=Replicate()), "blocks.1.up": ColwiseParallel()}
        plan |= {"blocks.1.down": RowwiseParallel()}
    return parallelize_module(copy.deepcopy(net), init_device_mesh("cpu", (size,)), plan)


def spectrum(operator, steps):
    return measure_spectrum(operator, steps=steps, min_steps=steps)


def by_first(world, make, *arguments, **more):
    """What the first process makes, in all."""
    return world.everyone(make(*arguments, **more) if world.first else None)[0]


def both(net, samples, steps):
    """By exact products and by differences, of whole weights."""
    return [spectrum(kind(net, samples), steps) for kind in (HessianOperator, DifferenceOperator)]


def operators(net, samples, world, everything):
    """Name -> operator of the same Hessian."""
    mine = samples.subset(world.share(np.arange(samples.num_samples)))
    yield "samples shared", HessianOperator(net, mine, reduce=world.reduce)
    model = sharded(net)
    yield "FSDP2, exact", HessianOperator(copied(model), mine, reduce=world.reduce)
    # What the caller has gathered himself, and keeps gathered, needs no copy.
    whole = sharded(net, reshard_after_forward=False)
    whole.set_reshard_after_backward(False)
    for module in (whole, *whole.blocks):
        module.unshard()
    yield "FSDP2 in place, exact", HessianOperator(whole, mine, reduce=world.reduce)
    # Of the transformer micro-batches that do not come out even: 13 and 12 samples, 12 at once.
    few = 12 if everything or isinstance(net, Transformer) else None
    yield "FSDP2, differences", ShardedDifferenceOperator(model, mine, reduce=world.reduce, micro_batch=few)
    yield "tensor parallel, differences", ShardedDifferenceOperator(tensor_parallel(net, world.size), samples)
    if everything and world.size == 4:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("repeat", "shard"))
        yield "HSDP 2x2, differences", ShardedDifferenceOperator(sharded(net, mesh=mesh), mine, reduce=world.reduce)


def main(table):
    torch.set_num_threads(1)
    with world_of("cpu", mesh="1x2" if not table else None) as world:
        for kind in (Transformer, ResNet):
            net, samples = problem(kind)
            steps = 12 if table else 6
            plain, alone = by_first(world, both, net, samples, steps)
            for name, operator in operators(net, samples, world, table):
                before = operator.weights()
                found = spectrum(operator, steps)
                assert torch.equal(operator.weights(), before)
                for end in ("lambda_min", "lambda_max"):
                    one, other = getattr(plain, end), getattr(found, end)
                    allowed = 10 * one.noise if name.endswith("exact") or name == "samples shared" else other.noise
                    assert other.value == pytest.approx(one.value, abs=allowed), (name, kind)
                assert found.noise.absolute <= 10 * alone.noise.absolute
                noise = (plain.noise.absolute + found.noise.absolute) * operator.size
                apart = abs(found.trace.value - plain.trace.value)
                stated = [max(abs(end - one.value) for end in one.interval) for one in (plain.trace, found.trace)]
                # Both are of the same probes, so they differ by what the products of n unit vectors are off by at most.
                assert apart <= min(noise, sum(stated)), (name, kind)
                if table and world.first:
                    ends = [getattr(found, e).value - getattr(plain, e).value for e in ("lambda_min", "lambda_max", "trace")]
                    rest = f"{found.noise.absolute:.1e} | {noise:.1e} | {sum(stated):.1e}"
                    print(f"| {kind.__name__} | {name} | {' | '.join(f'{e:+.1e}' for e in ends)} | {rest} |", flush=True)
            settings = AnalysisSettings(scheme="all", steps=12, min_steps=12, dtype="float64", rates=False)
            one = by_first(
                world, lambda net=net, samples=samples, settings=settings: analyze(net, samples, settings=settings)
            ).groups["all"]
            if kind is ResNet:  # one layer is spread, the others are whole in every process
                tp = settings.model_copy(update={"products": "differences", "goal": "ends", "escape_test": True})
                found = analyze(tensor_parallel(net, world.size), samples, settings=tp, world=world).groups["all"]
                assert found.products == "differences"
                for end in ("lambda_min", "lambda_max"):
                    there, here = getattr(one, end), getattr(found, end)
                    assert here.value == pytest.approx(there.value, abs=there.noise + here.noise)
                assert found.escape.test.loss == pytest.approx(one.escape.test.loss, rel=1e-3)
            all_of_them = analyze(sharded(net), samples, settings=settings, world=world).groups["all"]  # slices of vectors, too
            assert all_of_them.lambda_min.value == pytest.approx(one.lambda_min.value, abs=1e-9)
            assert all_of_them.trace.value == pytest.approx(one.trace.value, abs=1e-8)
            assert all_of_them.verdict.label == one.verdict.label
            assert all_of_them.certificate.rayleigh_quotient == pytest.approx(one.certificate.rayleigh_quotient, abs=1e-9)
        refused(net, samples, world)
        if not table:
            verified(net, samples, world)
        check_tensor_parallel(world)


def network():
    """What a checkpoint of ``verified`` is of."""
    return problem(ResNet)[0].float()


def data():
    """Its samples."""
    return problem(ResNet)[1]


def verified(net, samples, world):
    """A certificate in slices holds, for as many processes as there are and for one."""
    (folder,) = {Path(one) for one in world.everyone(tempfile.mkdtemp() if world.first else None) if one}
    settings = AnalysisSettings(scheme="all", steps=20, min_steps=10, goal="verdict", mesh=f"1x{world.size}")
    if world.first:
        torch.save(net.float().state_dict(), folder / "ckpt.pt")
    world.wait()
    given = given_from_flags(model=f"{__file__}:network", data=f"{__file__}:data", trust=True)
    item = curvature_item(folder / "ckpt.pt", settings)
    measure_with_steps(item, given, world)
    world.wait()
    assert "-of-" in " ".join(path.name for path in item.output.parent.iterdir())
    (alone,), (together,) = verify(item.output, given=given), verify(item.output, given=given, world=world)
    assert alone.holds
    assert together.holds
    assert together.product == pytest.approx(alone.product, rel=1e-9)
    world.wait()
    if world.first:
        shutil.rmtree(folder)


def refused(net, samples, world):
    """What does not fit is said in every process."""
    with torch.no_grad():
        net.head.bias[0] += world.rank
    with pytest.raises(WorldError, match="process 1 has other weights than process 0"):
        analyze(net, samples, settings=AnalysisSettings(scheme="all"), world=world)
    with torch.no_grad():
        net.head.bias[0] -= world.rank
    other = Samples.from_tensors(torch.zeros(9, 1, 6, 6) + world.rank, torch.arange(9) % 3)
    with pytest.raises(WorldError, match="process 1 has other samples than process 0"):
        analyze(net, other, settings=AnalysisSettings(scheme="all"), world=world)
    mine = samples.subset(world.share(np.arange(samples.num_samples)))
    with pytest.raises(OperatorError, match="is not the derivative of the loss"):  # samples are shared, and it is not said
        ShardedDifferenceOperator(sharded(net), mine)

    def wrong_in_one(model, batch):
        value = functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        return value + (value**2).detach() * world.rank

    # The others do not go on without the one that refuses what it sees.
    with pytest.raises(OperatorError, match="another process refuses" if world.first else "detach"):
        measure_spectrum(HessianOperator(net, mine, wrong_in_one, reduce=world.reduce), steps=3)
    with pytest.raises(OperatorError, match="which have different samples"):
        ShardedDifferenceOperator(tensor_parallel(net, world.size), mine, reduce=world.reduce)
    with pytest.raises(OperatorError, match="no parameter of the model is spread over the processes"):
        ShardedDifferenceOperator(net, samples)
    with pytest.raises(OperatorError, match="exact products need whole weights; take differences of the gradient"):
        analyze(tensor_parallel(net, world.size), samples, settings=AnalysisSettings(scheme="all"), world=world)


if __name__ == "__main__":
    main("--table" in sys.argv)
