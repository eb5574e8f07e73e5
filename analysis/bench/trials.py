"""What settings of a peer's solver would do, tried on the reference's tridiagonal matrix, which costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.sparse import diags_array

from .peers import Answer, Plan, eigsh_extremes


def eigsh_trials(
    alphas: Sequence[float],
    betas: Sequence[float],
    ways: Sequence[tuple[str, ...]],
    sizes: Sequence[int],
    missed: Callable[[Answer], bool],
) -> list[dict[str, Any]]:
    """Calls and ``ncv`` with the products each needs: first those that miss nothing, and of them the cheapest.

    From the first unit vector a Krylov solver does on T what it does on the Hessian from the run's own start.

    Args:
        alphas: diagonal of T ``[m]``.
        betas: couplings, at least m - 1.
        ways: ``ends`` of a :class:`~saddlescope.analysis.bench.peers.Plan`.
        sizes: of ``ncv``; those below m are tried.
        missed: whether an answer is not good enough.
    """
    couplings = betas[: len(alphas) - 1]
    tridiagonal = diags_array([couplings, alphas, couplings], offsets=[-1, 0, 1]).tocsr()
    first = np.zeros(len(alphas))
    first[0] = 1.0
    tried = []
    for ends in ways:
        for ncv in sizes:
            if ncv < len(first):
                answer = eigsh_extremes(lambda v: tridiagonal @ v, len(first), Plan(ends=ends, ncv=ncv), start=first)
                tried.append({"ends": ends, "ncv": ncv, "products": answer.products, "missed": missed(answer)})
    return sorted(tried, key=lambda one: (one["missed"], one["products"]))
