"""Products by differences beside exact ones: do the intervals still hold the truth? Random small networks, dense truth.

    python tests/benchmarks/difference_products.py [problems]

Every problem is measured by differences (in float64 and in float32, in turn, with all Lanczos steps and with few of them) and
by exact products, and held against LAPACK's eigenvalues of the dense Hessian in float64. Prints how many intervals of both
ends, of the trace (95 %) and of the negative masses hold it, how far differences and exact products are apart, and how far
the measured error is above the true one. One thread, about two minutes for 240 problems.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from saddlescope.analysis.hessian.difference_products import DifferenceOperator
from saddlescope.analysis.hessian.operator import HessianOperator
from saddlescope.analysis.krylov.spectrum import Spectrum, measure_spectrum
from saddlescope.analysis.measures.exact import dense_matrix, rechecked
from torch import nn
from torch.nn import functional

from saddlescope import Samples

ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (nn.Tanh, nn.GELU, nn.ReLU, nn.SiLU, nn.LeakyReLU, nn.Softplus)


class Found(NamedTuple):
    """One problem.

    Attributes:
        dtype: of the gradients.
        smooth: no kinks in the activation.
        steps: limit of the Lanczos run.
        held: name of an interval -> whether it holds the truth.
        apart: largest difference of an end by differences and by exact products, relative to the largest eigenvalue's size.
        noise: the result's noise, likewise.
        error: measured error of products over the true one along the outer eigenvectors and a random vector.
    """

    dtype: torch.dtype
    smooth: bool
    steps: int
    held: dict[str, bool]
    apart: float
    noise: float
    error: float


def problem(number: int) -> tuple[nn.Module, Samples]:
    """A network and its samples; every activation, two depths, batch norm in some, untrained to well trained."""
    torch.manual_seed(number)
    make, width = ACTIVATIONS[number % 6], 4 + number // 6 % 5
    layers: list[nn.Module] = [nn.Linear(5, width), make()]
    if number // 24 % 2:
        layers += [nn.LayerNorm(width), nn.Linear(width, width), make()]
    net = nn.Sequential(*layers, nn.Linear(width, 3))
    count = 20 + number % 41
    x, y = torch.randn(count, 5), torch.arange(count) % 3
    step = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range((0, 30, 300)[number % 7 % 3]):
        step.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        step.step()
    return net, Samples.from_tensors(x, y)


def by_differences(model: nn.Module, samples: Samples, steps: int, seed: int) -> tuple[Spectrum, DifferenceOperator]:
    """The spectrum as an analysis measures it."""
    operator = DifferenceOperator(model, samples)
    found = measure_spectrum(operator, steps=steps, min_steps=min(steps, 10), starts=2, seed=seed)
    return rechecked(found, operator.halved()), operator


def trial(number: int) -> Found:
    """Measures one problem both ways."""
    net, samples = problem(number)
    dtype = (torch.float64, torch.float32)[number // 6 % 2]
    steps = (300, 12)[number // 12 % 2]
    matrix = dense_matrix(HessianOperator(copy.deepcopy(net).double(), samples))[0]
    values, vectors = torch.linalg.eigh(matrix)
    truth = values.numpy()
    model = net.to(dtype)
    found, operator = by_differences(model, samples, steps, number)
    plain = HessianOperator(model, samples)
    exact = measure_spectrum(plain, steps=steps, min_steps=min(steps, 10), starts=2, seed=number)
    ends = ((found.lambda_min, exact.lambda_min, truth[0]), (found.lambda_max, exact.lambda_max, truth[-1]))
    held = {name: _in(end.interval, true) for name, (end, _, true) in zip(("min", "max"), ends, strict=True)}
    if found.trace is not None:
        held["trace"] = _in(found.trace.interval, float(truth.sum()))
    held["masses"] = all(_in(mass.interval, float((truth < -mass.tau).mean())) for mass in found.negative_mass)
    held["index"] = all(bound.at_least <= (truth < -bound.tau).sum() for bound in found.saddle_index)
    scale = float(np.abs(truth).max())
    probes = [*vectors.T[[0, -1]], torch.nn.functional.normalize(torch.randn(len(truth), dtype=torch.float64), dim=0)]
    true_error = max(float((operator.matvec(v).double() - matrix @ v).norm()) for v in probes)
    return Found(
        dtype,
        number % 6 not in (2, 4),
        steps,
        held,
        max(abs(one.value - other.value) for one, other, _ in ends) / scale,
        found.noise.absolute / scale,
        operator.error / true_error if true_error > 0 else float("inf"),
    )


def _in(interval: tuple[float | None, float | None] | None, value: float) -> bool:
    low, high = interval or (None, None)
    return (low is None or low <= value) and (high is None or value <= high)


def main(problems: int) -> None:
    """Prints the tables."""
    torch.set_num_threads(1)
    began, all_found = time.monotonic(), [trial(number) for number in range(problems)]
    names = ("min", "max", "trace", "masses", "index")
    print(f"| dtype | activation | steps | problems | {' | '.join(names)} | apart (median, largest) | noise | error |")
    print("|---" * 12 + "|")
    for dtype in (torch.float64, torch.float32):
        for smooth in (True, False):
            for steps in (300, 12):
                some = [f for f in all_found if (f.dtype, f.smooth, f.steps) == (dtype, smooth, steps)]
                if not some:
                    continue
                counts = [str(sum(f.held[name] for f in some if name in f.held)) for name in names]
                apart = sorted(f.apart for f in some)
                noise, error = (np.median([getattr(f, name) for f in some]) for name in ("noise", "error"))
                name = str(dtype).removeprefix("torch.")
                print(f"| {name} | {'smooth' if smooth else 'kinks'} | {steps} | {len(some)} | {' | '.join(counts)} | "
                      f"{apart[len(apart) // 2]:.0e}, {apart[-1]:.0e} | {noise:.0e} | {error:.1f} |")  # fmt: skip
    below = sum(f.error < 1 for f in all_found)
    print(f"measured error below the true one: {below} of {problems}; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 240)
