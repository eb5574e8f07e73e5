"""Run by torchrun: DistributedDataParallel training with and without a monitor in both processes; a model that FSDP wraps.

``two_processes.py FOLDER``: the first process prints what it saw and whether the weights are the same.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.nn  # after init_process_group it would keep gloo's threads, and one of them can abort the end
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

from saddlescope import Monitor


def train(monitor, x, y):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))
    model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(dist.get_rank())
    seen = []
    for step in range(1, 13):
        rows = torch.randint(len(y), (16,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        if monitor is not None:
            seen.append(monitor(model, step) is not None)
    return [value.clone() for value in model.module.state_dict().values()], seen


def main():
    dist.init_process_group("gloo")
    generator = torch.Generator().manual_seed(0)
    y = torch.cat([torch.full((count,), c) for c, count in enumerate((60, 30, 10, 6))])
    x = torch.randn(len(y), 12, generator=generator) + y[:, None]
    plain, _ = train(None, x, y)
    monitor = Monitor((x, y), eta=20, every=5, at_most=None, folder=Path(sys.argv[1]) / str(dist.get_rank()))
    watched, seen = train(monitor, x, y)
    for whole in (True, False):
        monitor.measure(FullyShardedDataParallel(nn.Linear(12, 4), use_orig_params=whole, device_id=torch.device("cpu")), 13)
    same = all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    counts = torch.tensor([sum(seen), int(same)])
    everyone = [torch.zeros(2, dtype=torch.int64) for _ in range(2)]
    dist.all_gather(everyone, counts)
    if dist.get_rank() == 0:
        print("measured and same:", [one.tolist() for one in everyone])
    dist.barrier()
    dist.destroy_process_group()


main()
