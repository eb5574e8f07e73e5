"""How accurate a density is, and how many probes a method needs for the same accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance

from ..krylov.density import Quadrature, counted_weights, pooled
from ..krylov.lanczos import ritz_of


def truth(probes: Sequence[dict[str, Any]], size: int) -> Quadrature:
    """The density that everybody is held against: all probes of the reference, settled eigenvalues counted.

    Args:
        probes: ``alphas`` and ``betas`` of independent random starts.
        size: n.
    """
    return pooled(_counted(probes, size))


def distance(found: Quadrature, true: Quadrature) -> float:
    """Wasserstein-1 distance, relative to the width of the true spectrum."""
    weights = np.clip(found[1], 0, None)  # a method without reorthogonalisation may return tiny negative ones
    return float(wasserstein_distance(found[0], true[0], weights, true[1])) / float(np.ptp(true[0]))


def probes_needed(probes: Sequence[dict[str, Any]], size: int) -> int:
    """Fewest probes whose mean, as Lanczos gives it, is as near to the truth as one with settled eigenvalues counted.

    Averages over the reference's own probes, which the truth was made of: that flatters both. If all of them are not enough
    their number is returned, so it is a lower bound.

    Args:
        probes: as for :func:`truth`.
        size: n.
    """
    true = truth(probes, size)
    wanted = np.mean([distance(one, true) for one in _counted(probes, size)])
    sampled = [(ritz.values, ritz.weights) for ritz in (ritz_of(probe["alphas"], probe["betas"]) for probe in probes)]
    for count in range(1, len(sampled)):
        sets = [sampled[i : i + count] for i in range(0, len(sampled) - count + 1, count)]
        if np.mean([distance(pooled(some), true) for some in sets]) <= wanted:
            return count
    return len(sampled)


def _counted(probes: Sequence[dict[str, Any]], size: int) -> list[Quadrature]:
    ritz = [ritz_of(probe["alphas"], probe["betas"]) for probe in probes]
    return [(one.values, counted_weights(one.values, one.weights, one.residuals, size)) for one in ritz]
