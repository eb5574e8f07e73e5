"""What a Lanczos run proves: two-sided intervals, brackets of the spectral mass, and how much more work would decide.

Sources: J. Kuczynski and H. Wozniakowski (SIAM J. Matrix Anal. Appl. 13, 1992) for the random-start bound; the
Chebyshev-Markov-Stieltjes inequalities for the mass below a threshold (as in Chen, Trogdon and Ubaru 2021); the Christoffel
function for the mass that a start may have where no Ritz value is (N. I. Akhiezer, The Classical Moment Problem, 1965).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import betainc, stdtrit

from ..records.base import Interval


def start_error(n: int, steps: Sequence[int], delta: float, looks: int = 1, dilution: float = 1.0) -> float | None:
    """Relative error eps that holds at one end with probability >= 1 - delta.

    For one start, ``P[(lambda_max - theta_max) / spread > eps] <= 1.648 sqrt(n) exp(-sqrt(eps) (2 m - 1))``; the failures of
    independent starts multiply. Runs that may each stop at any of ``looks`` moments spend delta over all combinations.

    Args:
        n: size of the operator.
        steps: m of each independent random start.
        delta: failure probability allowed.
        looks: moments at which a run could have stopped.
        dilution: ``|w| + |r|`` over ``|r|``, of starts ``w + r`` whose random part is r (see ``measures.extremes``).

    Returns:
        eps, or None where the statement needs eps >= 1/2 and so says nothing.
    """
    head = math.log(1.648 * math.sqrt(n) * dilution)
    target = math.log(delta) - len(steps) * math.log(looks)

    # sum_m min(0, head - r (2 m - 1)) falls with r from 0, in straight pieces: long runs begin to say something first.
    slopes = sorted((2 * m - 1 for m in steps), reverse=True)
    root = 0.0
    for count, following in enumerate([*slopes[1:], 0], start=1):
        root = (count * head - target) / sum(slopes[:count])
        if root * following <= head:
            break
    return root**2 if root**2 < 0.5 else None


def hidden_mass(alphas: Sequence[float], betas: Sequence[float], x: float) -> float:
    """Largest part that the start of a Lanczos run may have along eigenvectors beyond x, squared.

    With p_0 ... p_m the polynomials orthonormal in the measure of the start s, no measure with these moments has more mass at
    x, or at x and farther out, than ``1 / sum_k p_k(x)^2`` (the Christoffel function). For a unit eigenvector v of an
    eigenvalue beyond x that is ``(s^T v)^2 <= 1 / sum_k p_k(x)^2``: had s a larger part, the run would have shown it.

    Args:
        alphas: diagonal of T ``[m]``.
        betas: couplings ``[m]``, the last one the norm of what the next step begins with; 0: the Krylov space is invariant.
        x: outside of the Ritz values of all m steps.

    Returns:
        The squared part, between 0 and 1.
    """
    older, newest, coupling, total, log_scale = 0.0, 1.0, 0.0, 1.0, 0.0
    for alpha, following in zip(alphas, betas, strict=True):
        if following == 0:
            return 0.0
        older, newest, coupling = newest, ((x - alpha) * newest - coupling * older) / following, following
        total += newest**2
        if total > 1e100:
            older, newest, total, log_scale = older / 1e50, newest / 1e50, total / 1e100, log_scale + math.log(1e100)
    return math.exp(-math.log(total) - log_scale)


def luck_needed(n: int, mass: float, dilution: float = 1.0) -> float:
    """Probability that a random start has a squared part of at most ``mass`` along a given eigenvector.

    Together with :func:`hidden_mass` it says how unlucky a start must have been for an eigenvalue beyond x to stay hidden. It
    holds at whatever step a run stops: who stops when this is at most p is mistaken only if the part, drawn once at the start,
    is so small that p is its probability.

    Args:
        n: size of the operator.
        mass: between 0 and 1.
        dilution: as in :func:`start_error`.
    """
    part = min(mass * dilution**2, 1.0)
    return float(part >= 1) if n < 2 else float(betainc(0.5, (n - 1) / 2, part))


def steps_needed(n: int, eps: float, starts: int, delta: float, looks: int) -> int:
    """Smallest m such that ``starts`` runs of m steps reach relative error ``eps``."""
    per_start = math.log(looks) - math.log(delta) / starts + math.log(1.648 * math.sqrt(n))
    return math.ceil((per_start / math.sqrt(eps) + 1) / 2)


def end_intervals(low: float, high: float, eps: float | None, noise_low: float, noise_high: float) -> tuple[Interval, Interval]:
    """Intervals of lambda_min and lambda_max from the extreme Ritz values.

    The unknown spread is bounded by ``(theta_max - theta_min) / (1 - 2 eps)``.
    """
    if eps is None:
        return (None, low + noise_low), (high - noise_high, None)
    slack = eps * (high - low) / (1 - 2 * eps)
    return (low - slack - noise_low, low + noise_low), (high - noise_high, high + slack + noise_high)


def ratio_interval(lambda_min: Interval, lambda_max: Interval) -> Interval:
    """Interval of ``|min(lambda_min, 0)| / lambda_max`` from the intervals of both ends."""
    smallest_max, largest_max = lambda_max
    if smallest_max is None or smallest_max <= 0:
        return (None, None)
    top = None if lambda_min[0] is None else max(-lambda_min[0], 0.0) / smallest_max
    bottom = 0.0
    if largest_max is not None and lambda_min[1] is not None:
        bottom = max(-lambda_min[1], 0.0) / largest_max
    return (bottom, top)


def mass_bracket(
    nodes: np.ndarray, weights: np.ndarray, threshold: float, exact: bool, fuzz: float = 0.0
) -> tuple[float, float]:
    """Bracket of the spectral measure's mass below ``threshold``, given its Gauss quadrature.

    The mass at a node lies between the sum before it and the sum with it, so with k nodes below the threshold the mass
    is at least the sum of the first k - 1 weights and at most that of the first k + 1.

    Args:
        nodes: ascending ``[m]``.
        weights: ``[m]``, sum 1.
        threshold: the mass strictly below it is asked for.
        exact: the quadrature is the measure itself (the Krylov space was complete).
        fuzz: how far round-off may have moved a node.
    """
    surely = int(np.searchsorted(nodes, threshold - fuzz, side="left"))
    perhaps = int(np.searchsorted(nodes, threshold + fuzz, side="left"))
    if not exact:
        surely, perhaps = max(surely - 1, 0), min(perhaps + 1, len(weights))
    total = np.concatenate([[0.0], np.cumsum(weights)])
    total[-1] = 1.0
    return float(total[surely]), float(total[perhaps])


def share_interval(low: float, high: float, n: int, probes: int, delta: float) -> tuple[float, float]:
    """Interval of a share of n eigenvalues from the mean mass, known to lie in ``[low, high]``, of random probes.

    For a start uniform on the sphere the mass of k of n eigenvalues is Beta(k/2, (n - k)/2) distributed. The mean over probes
    is taken as Beta with ``probes`` times these parameters, whose variance is slightly larger than the true one.
    """
    scale = n * probes / 2

    def below(share: float, mass: float) -> float:
        return float(betainc(share * scale, (1 - share) * scale, mass))

    # Certainty: a random start has a part in every eigenvector, so no mass at all means no eigenvalue at all.
    tiny = 1e-12
    bottom, top = float(low >= 1), float(high > 0)
    if 0 < low < 1:  # smallest share under which a mass >= low is not too surprising
        bottom = _root(lambda share: 1 - below(share, low) - delta / 2, tiny, 0.0)
    if 0 < high < 1:
        top = _root(lambda share: below(share, high) - delta / 2, tiny, 1.0)
    return bottom, top


def student_half_width(error: float, count: int) -> float:
    """Half the width of the 95 % Student t interval around a mean of so many values, from its standard error."""
    return float(stdtrit(count - 1, 0.975)) * error  # scipy.stats' own formula; importing that takes two seconds


def _root(f: Callable[[float], float], margin: float, otherwise: float) -> float:
    from scipy.optimize import brentq  # a second, and only densities need it

    a, b = margin, 1 - margin
    return float(brentq(f, a, b)) if f(a) * f(b) < 0 else otherwise
