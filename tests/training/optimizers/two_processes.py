"""Run under ``torchrun`` by ``test_parallel.py``: two processes take the steps of one, on ragged shards, in float64.

A model without batch normalisation, so that a sample's loss does not depend on its shard. Writes what went wrong to a file.
"""

import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.nn  # after init_process_group it would keep gloo's threads, and one of them can abort the end
from saddlescope.training.optimizers.registry import SAM, DataParallel, build_optimizer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

COUNTS = [60, 40, 9, 5]
#: per step the labels of either process: ragged; one without tail; both without tail; one without head
SHARDS = [([0, 2, 1, 3, 0], [1, 0, 3]), ([0, 1], [2, 0, 3, 3]), ([0, 0, 1], [1]), ([3, 2], [2, 0, 0])]


class Net(nn.Sequential):
    """Its last layer is skipped for inputs of one process, so that a parameter can be unused on one side only."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4))
        self.bonus = nn.Parameter(torch.full((4,), 0.3))
        self.unused = nn.Parameter(torch.ones(2))
        self.double()

    def forward(self, x):
        logits = self[2](self[1](self[0](x)))
        return logits + self.bonus if x[0, 0] > -50 else logits


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def batch(step, labels, side):
    generator = torch.Generator().manual_seed(10 * step + side)
    return torch.randn(len(labels), 3, generator=generator, dtype=torch.float64), torch.tensor(labels)


def build(name, model, settings, parallel):
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    common = {} if parallel == "default" else {"parallel": parallel}
    if name == "ccsam":
        settings = {"classifier": "2", "noise_ratio": 0.01, **settings}
    return build_optimizer(name, base, class_counts=COUNTS, epochs=4, eta=10, settings=settings, max_norm=0.5, **common)


def same(name, left, right, **tolerance):
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12, msg=lambda m: f"{name}: {m}", **tolerance)


def joined_equals_sharded(rank):
    cases = [(n, {}) for n in ("sgd", "sam", "imbsam", "ssesam", "focalsam", "bsam", "lesam", "gsa", "imbsam-late")]
    cases += [("eigensam", {"every": 2}), ("pgd", {"threshold": 100.0, "wait": 1})]
    cases += [(n, {"normalisation": k}) for n in ("imbsam", "ssesam") for k in ("batch-x2", "group")]
    cases += [("imbsam", {"split_batches": True}), ("ssesam", {"split_batches": True})]
    for name, settings in cases:
        one, two = Net(), DistributedDataParallel(Net(), find_unused_parameters=True)
        alone, together = build(name, one, settings, None), build(name, two, settings, "default")
        assert together.parallel == DataParallel(), "a process group is used without being asked for"
        for step, labels in enumerate(SHARDS):
            alone.set_epoch(step)  # stage 2 for the last one
            together.set_epoch(step)
            shards = [batch(step, labels[side], side) for side in (0, 1)]
            alone.step(one, cross_entropy, tuple(torch.cat(part) for part in zip(*shards, strict=True)))
            if step % 2:
                together.step(two, cross_entropy, shards[rank])
            else:  # as another loop does it
                together.zero_grad()
                together.backward(two, cross_entropy, shards[rank])
                together.step()
            for p, q in zip(one.parameters(), two.module.parameters(), strict=True):
                same(f"{name} {settings} step {step}", q, p)
        assert two.module.unused.grad is None


def ccsam_joined_equals_sharded(rank):
    one, two = nn.Sequential(*list(Net())[:3]), nn.Sequential(*list(Net())[:3])
    alone, together = build("ccsam", one, {}, None), build("ccsam", two, {}, "default")
    for step, labels in enumerate(SHARDS):
        shards = [batch(step, labels[side], side) for side in (0, 1)]
        alone.step(one, cross_entropy, tuple(torch.cat(part) for part in zip(*shards, strict=True)))
        together.step(two, cross_entropy, shards[rank])
        for p, q in zip(one.parameters(), two.parameters(), strict=True):
            same(f"ccsam step {step}", q, p)


def m_sharpness_perturbs_by_the_own_shard(rank):
    """By hand: the sum of both shards' gradients, each at the weights that its own gradient perturbed."""
    model, twin = Net(), Net()
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, parallel=DataParallel(m_sharpness=True))
    shards = [batch(0, SHARDS[0][side], side) for side in (0, 1)]
    optimizer.step(model, cross_entropy, shards[rank])
    total = [torch.zeros_like(p) for p in twin.parameters() if p is not twin.unused]
    weights = [p for p in twin.parameters() if p is not twin.unused]
    for x, y in shards:
        g = torch.autograd.grad(cross_entropy(twin(x), y).sum(), weights)
        norm = torch.cat([v.flatten() for v in g]).norm()
        start = [w.detach().clone() for w in weights]
        with torch.no_grad():
            for w, v in zip(weights, g, strict=True):
                w.add_(0.5 * v / norm)
        for t, v in zip(total, torch.autograd.grad(cross_entropy(twin(x), y).sum() / 8, weights), strict=True):
            t.add_(v)
        with torch.no_grad():
            for w, v in zip(weights, start, strict=True):
                w.copy_(v)
    for p, w, t in zip([p for p in model.parameters() if p is not model.unused], weights, total, strict=True):
        same("m-sharpness", p, w - 0.1 * t)
    for name in ("imbsam", "ssesam", "ccsam", "focalsam"):  # one process without tail, and the weights stay together
        model = Net() if name != "ccsam" else nn.Sequential(*list(Net())[:3])
        optimizer = build(name, model, {}, DataParallel(m_sharpness=True))
        optimizer.set_epoch(0)
        optimizer.step(model, cross_entropy, batch(1, SHARDS[1][rank], rank))
        flat = torch.cat([p.detach().flatten() for p in model.parameters()])
        other = [torch.empty_like(flat) for _ in range(2)]
        dist.all_gather(other, flat)
        assert torch.equal(other[0], other[1])
        assert torch.isfinite(flat).all()


def parameter_used_on_one_side_only(rank):
    model = Net()
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1))
    x, y = batch(0, SHARDS[0][rank], rank)
    if rank == 1:
        x[0, 0] = -60.0
    optimizer.step(model, cross_entropy, (x, y))
    assert model.bonus.grad is not None
    assert model.unused.grad is None


def main(report):
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    message = "passed"
    try:
        joined_equals_sharded(rank)
        ccsam_joined_equals_sharded(rank)
        m_sharpness_perturbs_by_the_own_shard(rank)
        parameter_used_on_one_side_only(rank)
    except BaseException:
        message = traceback.format_exc()
        raise
    finally:
        Path(f"{report}-{rank}").write_text(message)
    dist.barrier()  # one that leaves early can abort the other
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
