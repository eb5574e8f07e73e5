"""Trace from products that are taken anyway: random probes, with what a Krylov space knows of the operator taken out first.

One probe of a spectrum with a few large eigenvalues is off by their size. A finished Lanczos run ``Q, T`` knows those: with
``M = H - Q T Q^T``, ``tr H = tr T + tr M``, and a probe z that is independent of the run estimates ``tr M``, which is small, by
``n z^T M z`` without bias, whether anything has converged or not (Krylov-aware trace estimation, Chen and Hallman 2023). The
first start gives Q and T; the two vectors of the guard and all further starts are the probes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from ..records.results import Estimate
from .lanczos import Lanczos, random_start
from .linear_operator import LinearOperator

if TYPE_CHECKING:
    from .lanczos_runs import Start

#: further starts that a run prepares for, beyond those it knows of: an analysis may be added to later
_PREPARED = 7


@dataclass(frozen=True)
class Controls:
    """What one run knows of probes that are independent of it.

    Attributes:
        forms: ``z^T Q T Q^T z`` of the guard's vectors, then of the starts with the next seeds.
        squares: ``||M z||^2`` of the guard's vectors.
    """

    forms: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, run: Lanczos, products: Mapping[int, Tensor], further: int) -> Controls:
        """Controls of a finished run.

        Args:
            run: the first start.
            products: seed of a random unit vector -> its product ``[n]``.
            further: starts that may follow, with the seeds after the run's own.
        """
        seeds = [*products, *(run.seed + 1 + i for i in range(max(further, _PREPARED)))]
        forms, squares = [], []
        for seed in seeds:
            inside = run.project(random_start(run.operator, seed))
            image = run.tridiagonal_times(inside)
            forms.append(float(inside @ image))
            if seed in products:
                product = products[seed]
                squares.append(
                    float(product.double().norm()) ** 2 - 2 * float(image @ run.project(product)) + float(image @ image)
                )
        return cls(np.array(forms), np.maximum(squares, 0.0))


def trace(operator: LinearOperator, runs: Sequence[Start], products: Mapping[int, Tensor], noise: float) -> Estimate:
    """The trace with its standard error, and a 95 % Student t interval over the probes.

    The standard error is that of the probes, but never below the one that ``Var(n z^T M z) = 2 n / (n + 2) (||M||_F^2 -
    tr(M)^2 / n)`` implies for z uniform on the sphere.

    Args:
        operator: ``[n, n]``.
        runs: finished starts, the first one with its controls.
        products: the guard's, see ``Controls.of``.
        noise: norm of the error of a product with a unit vector.
    """
    n, controls = operator.size, runs[0].controls
    probes = [float(torch.dot(random_start(operator, seed).double(), product.double())) for seed, product in products.items()]
    probes += [float(run.weights @ run.nodes) for run in runs[1:]]
    count = min(len(probes), len(controls.forms))
    rests = n * (np.array(probes[:count]) - controls.forms[:count])
    implied = 2 * n / (n + 2) * max(n * float(np.mean(controls.squares)) - float(np.mean(rests)) ** 2 / n, 0.0)
    error = math.sqrt(max(float(np.var(rests, ddof=1)), implied) / count + n * noise**2)
    value = float(runs[0].nodes.sum() + np.mean(rests))
    half = float(student.ppf(0.975, count - 1)) * error
    return Estimate(value=value, interval=(value - half, value + half), confidence=0.95, standard_error=error, count=count)
