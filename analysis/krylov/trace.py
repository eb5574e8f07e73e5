"""Trace from products that are taken anyway: random probes, with what a Krylov space knows of the operator taken out first.

One probe of a spectrum with a few large eigenvalues is off by their size. A finished Lanczos run ``Q, T`` knows those: with
``M = H - Q T Q^T``, ``tr H = tr T + tr M``, and a probe z that is independent of the run estimates ``tr M``, which is small, by
``n z^T M z`` without bias, whether anything has converged or not (Krylov-aware trace estimation, Chen and Hallman 2023). The
first start gives Q and T; the two vectors of the guard and all further starts are the probes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from ..records.base import Estimate
from .bounds import student_half_width
from .lanczos import random_start
from .lanczos_runs import Start
from .linear_operator import LinearOperator
from .space import space_of


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
    space = space_of(operator)
    probes = [space.dot(random_start(operator, seed), product) for seed, product in products.items()]
    probes += [float(run.weights @ run.nodes) for run in runs[1:]]
    count = min(len(probes), len(controls.forms))
    rests = n * (np.array(probes[:count]) - controls.forms[:count])
    implied = 2 * n / (n + 2) * max(n * float(np.mean(controls.squares)) - float(np.mean(rests)) ** 2 / n, 0.0)
    error = math.sqrt(max(float(np.var(rests, ddof=1)), implied) / count + n * noise**2)
    value = float(runs[0].nodes.sum() + np.mean(rests))
    half = student_half_width(error, count)
    return Estimate(value=value, interval=(value - half, value + half), confidence=0.95, standard_error=error, count=count)
