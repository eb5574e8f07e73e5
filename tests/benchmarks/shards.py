"""What one of several processes does in a step, by size: its product, its part of the orthogonalisation, what it sends.

    python tests/benchmarks/shards.py [1e6 1e7 1e8]

A GPT of that many parameters (``gpt.py``), two texts of 64 tokens, float32, one thread. Times are of the processor. A product
is the second one (its graph is kept); orthogonalisation is two passes of a vector over 8 basis vectors of n numbers, by vector.
Bytes sent are those of the sum and the gathering of a product over slices on 2 processes (as ``--dry-run`` counts them).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import torch
from gpt import loss, net, texts
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.basis import KrylovBasis

from saddlescope import Samples

#: width, layers, vocabulary
MODELS = {"1e6": (128, 4, 1472), "1e7": (256, 10, 8000), "1e8": (768, 12, 18944)}


def seconds(action: Callable[[], object]) -> float:
    """Processor time of the second call."""
    action()
    began = time.process_time()
    action()
    return time.process_time() - began


def row(name: str) -> str:
    """One line of the table."""
    for field, value in zip(("WIDTH", "LAYERS", "VOCAB", "TEXTS"), (*MODELS[name], 2), strict=True):
        os.environ[f"GPT_{field}"] = str(value)
    torch.manual_seed(0)
    inputs, following = texts()
    samples = Samples((inputs, following), torch.zeros(len(inputs), dtype=torch.long))
    operator = HessianOperator(net(), samples, loss, memory=2**33)
    n, v = operator.size, torch.randn(operator.size)
    v /= v.norm()
    product = seconds(lambda: operator.matvec(v))
    gradient = seconds(operator.loss_and_gradient)
    operator.release()
    basis = KrylovBasis(n, v.dtype, v.device)
    for _ in range(8):
        basis.append(v)
    w = v.double()

    def passes() -> None:
        for _ in range(2):
            basis.remove(w, basis.overlap(w, 8))

    orthogonal = seconds(passes) / 8
    return (
        f"| {n:,} | {product:.3g} | {gradient:.3g} | {product / n / inputs.numel() * 1e9:.3g} | {orthogonal:.3g} | "
        f"{orthogonal / n * 1e9:.2g} | {1.5 * 4 * n / 2**20:,.0f} |"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("| parameters | product, s | gradient, s | product, ns a parameter and token | orthogonalisation, s a basis vector | "
          "ns a number | sent for a product by each of 2, MiB |")  # fmt: skip
    print("|---" * 7 + "|")
    for one in sys.argv[1:] or ["1e6", "1e7"]:
        print(row(one), flush=True)
