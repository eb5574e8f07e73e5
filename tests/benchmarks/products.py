"""How much cheaper a Hessian-vector product is through the graph that ``analysis.acceleration`` records than through PyTorch's own.

    python tests/benchmarks/products.py [--threads 2] [--repeats 15]

ResNet-8 on 128 random images of CIFAR's size, and the bench's transformer on 311 random digits. Both kinds of product of one
vector are taken in turn; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from saddlescope.analysis.bench_cases import PatchTransformer
from saddlescope.analysis.operator import HessianOperator
from saddlescope.analysis.samples import Samples
from saddlescope.training.models import build_model


def main() -> None:
    """Prints one line for each network."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    networks = {
        "ResNet-8": (build_model("resnet8-cifar", num_classes=10, in_channels=3), torch.randn(128, 3, 32, 32)),
        "transformer": (PatchTransformer(), torch.randn(311, 1, 8, 8)),
    }
    for name, (network, inputs) in networks.items():
        samples = Samples.from_tensors(inputs, torch.arange(len(inputs)) % 10)
        operators = {fast: HessianOperator(network.eval(), samples, accelerate=fast) for fast in (False, True)}
        v = torch.randn(operators[True].size)
        times: dict[bool, list[float]] = {fast: [] for fast in operators}
        for operator in operators.values():
            operator.matvec(v)  # records the graphs
        for _ in range(args.repeats):
            for fast, operator in operators.items():
                began = time.perf_counter()
                operator.matvec(v)
                times[fast].append(time.perf_counter() - began)
        slow, fast = (statistics.median(times[one]) for one in (False, True))
        print(f"{name}: {1e3 * slow:.1f} ms through PyTorch's graph, {1e3 * fast:.1f} ms through ours: {slow / fast:.2f}")


if __name__ == "__main__":
    main()
