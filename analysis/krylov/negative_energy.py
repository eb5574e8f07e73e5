"""Negative energy from several starts: an interval for what sampling does, and for what no quadrature can tell.

A rule of m nodes knows the mean of x, and the mean of ``|x|`` only as far as polynomials tell: the bulk near zero may lie on
one side or the other, and all starts err alike. Averaging them leaves that out of their spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.linalg import eigh_tridiagonal

from ..records.base import Estimate
from .bounds import student_half_width
from .density import energy
from .lanczos_runs import Start

#: Places on each side of zero at which the mean of ``|x|`` is looked at for its largest value, as shares of the next node.
_PLACES = np.geomspace(1e-4, 0.99, 10)


def negative_energy(runs: Sequence[Start], n: int) -> Estimate:
    """``sum |lambda|`` over negative eigenvalues as a share of that over all: the mean over starts.

    The interval holds the means of both ends of :func:`energy_bracket`, widened by their spread over starts (95 %, Student t).
    One start says nothing of its own sampling, so there is none then.

    Args:
        runs: finished runs from independent random starts.
        n: size of the operator.
    """
    shares = [energy(run.nodes, run.counted) for run in runs]
    count, mean = len(shares), float(np.mean(shares))
    if count == 1:
        return Estimate(value=mean, confidence=0.95, count=count)
    brackets = [
        (share, share) if run.complete else energy_bracket(run.nodes, run.counted, n)
        for run, share in zip(runs, shares, strict=True)
    ]

    def half(values: Sequence[float]) -> float:
        return student_half_width(float(np.std(values, ddof=1)) / math.sqrt(count), count)

    lows, highs = [low for low, _ in brackets], [high for _, high in brackets]
    low = min(float(np.mean(lows)) - half(lows), mean - half(shares))
    high = max(float(np.mean(highs)) + half(highs), mean + half(shares))
    return Estimate(
        value=mean,
        interval=(max(low, 0.0), min(high, 1.0)),
        confidence=0.95,
        standard_error=float(np.std(shares, ddof=1)) / math.sqrt(count),
        count=count,
    )


def energy_bracket(nodes: np.ndarray, weights: np.ndarray, n: int) -> tuple[float, float]:
    """Least and most that ``density.energy`` may be in a spectrum that a run cannot tell from its quadrature.

    Of all measures with the moments of the quadrature, that with a node at zero has the smallest mean of ``|x|`` (the
    polynomial that meets it there and touches it at the other nodes lies below), and one with a node elsewhere between the two
    around zero has the largest: Gauss-Radau rules (Golub and Meurant, Matrices, Moments and Quadrature, 2010).

    Args:
        nodes: ``[m]``.
        weights: of the eigenvalues at them ``[m]``, as from :func:`counted_weights`: 1/n marks an eigenvalue that is known.
        n: size of the operator.
    """
    mean, sampled = float(weights @ nodes), (weights != 1 / n) & (weights > 0)
    middle = energy(nodes, weights)
    if np.count_nonzero(sampled) < 3 or not nodes[sampled].any():
        return middle, middle
    known = float(weights[~sampled] @ np.abs(nodes[~sampled]))
    total = float(weights[sampled].sum())
    ends = [known + total * end for end in _absolute_bracket(nodes[sampled], weights[sampled] / total)]
    low, high = sorted((1 - mean / absolute) / 2 for absolute in ends)
    return max(min(low, middle), 0.0), min(max(high, middle), 1.0)


def _absolute_bracket(nodes: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Smallest and largest mean of ``|x|`` of the measures with the moments that these nodes have, but for the last two."""
    alphas, betas = _recurrence(nodes, weights)
    if len(alphas) == 1:  # all the weight at one node
        return abs(float(alphas[0])), abs(float(alphas[0]))
    values, vectors = eigh_tridiagonal(alphas[:-1], betas[:-1])
    gauss = float(vectors[0] ** 2 @ np.abs(values))

    def with_node(x: float) -> float:
        """Mean of ``|x|`` by the Gauss-Radau rule with a node at x."""
        last = x + betas[-1] ** 2 * float((vectors[-1] ** 2 / (values - x)).sum())
        found, rows = eigh_tridiagonal(np.append(alphas[:-1], last), betas)
        return float(rows[0] ** 2 @ np.abs(found))

    scale, above = float(np.abs(values).max()), int(np.searchsorted(values, 0.0))
    # Where all nodes are on one side, some of the measure may be on the other, as far away as it likes.
    left = values[above - 1] if above else -scale
    right = values[above] if above < len(values) else scale
    if right == 0:
        return gauss, gauss
    places = [side * share for side in (left, right) for share in _PLACES]
    return min(gauss, with_node(0.0)), max(gauss, *map(with_node, places))


def _recurrence(nodes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal ``[k]`` and couplings ``[k - 1]`` of the matrix whose Gauss rule these are, k <= m: Lanczos on the nodes."""
    count, scale = len(nodes), float(np.abs(nodes).max())
    basis, alphas, betas = np.zeros((count, count)), np.zeros(count), np.zeros(count)
    q = np.sqrt(weights)
    for j in range(count):
        basis[j] = q
        w = nodes * q
        alphas[j] = w @ q
        for _ in range(2):
            w = w - basis[: j + 1].T @ (basis[: j + 1] @ w)
        betas[j] = np.linalg.norm(w)
        if betas[j] <= 1e-14 * scale:
            return alphas[: j + 1], betas[:j]
        q = w / betas[j]
    return alphas, betas[:-1]
