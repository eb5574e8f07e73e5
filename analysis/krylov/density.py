"""The spectral density from the quadratures of Lanczos runs, with the eigenvalues that are known counted instead of sampled.

A random start has a part of squared length chi^2_1 / n along an eigenvector, 1 / n on average and off by sqrt(2) times that: of
a few large eigenvalues above a bulk, a quadrature of one start says where they are and hardly how many. Those whose Ritz pair
has settled are known to be there, so each gets its 1 / n. What is left of the start is uniform on the complement of their
eigenvectors, and its quadrature, scaled to the rest of the weight, estimates the rest of the spectrum without bias. (Deflation,
as in Krylov-aware trace estimation; Chen and Hallman 2023.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: nodes and weights
Quadrature = tuple[np.ndarray, np.ndarray]
#: A Ritz value has settled when its residual is at most so much of it ...
SETTLED = 1e-2
#: ... and its weight is at most so many 1 / n: P[chi^2_1 > 16] = 6e-5. A heavier one stands for many eigenvalues.
MOST_WEIGHT = 16.0


def counted_weights(nodes: np.ndarray, weights: np.ndarray, residuals: np.ndarray, n: int) -> np.ndarray:
    """Weights with which a quadrature says how the n eigenvalues are spread.

    An eigenvalue that occurs twice counts once: a Krylov space holds one vector of its eigenspace.

    Args:
        nodes: Ritz values ``[m]``.
        weights: of the start's quadrature ``[m]``, sum 1.
        residuals: of the Ritz pairs ``[m]``.
        n: size of the operator.

    Returns:
        ``[m]``, >= 0, sum 1.
    """
    if len(nodes) >= n:  # the whole space was spanned
        return np.full(len(nodes), 1 / len(nodes))
    known = (residuals <= SETTLED * np.abs(nodes)) & (n * weights <= MOST_WEIGHT)
    rest, count = float(weights[~known].sum()), int(known.sum())
    if rest <= 0:
        return weights
    return np.where(known, 1 / n, weights * ((1 - count / n) / rest))


def pooled(quadratures: Sequence[Quadrature]) -> Quadrature:
    """The mean of quadratures as one."""
    nodes = np.concatenate([nodes for nodes, _ in quadratures])
    return nodes, np.concatenate([weights for _, weights in quadratures]) / len(quadratures)


def energy(nodes: np.ndarray, weights: np.ndarray) -> float:
    """``sum |lambda|`` over negative eigenvalues, as a share of that over all; 0 where all are zero.

    Args:
        nodes: ``[m]``.
        weights: of the eigenvalues at them ``[m]``.
    """
    absolute = weights * np.abs(nodes)
    total = float(absolute.sum())
    return float(absolute[nodes < 0].sum()) / total if total > 0 else 0.0
