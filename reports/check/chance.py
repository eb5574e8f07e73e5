"""How improbable the gap between two estimates of one quantity is, by their standard errors or intervals."""

from __future__ import annotations

import math

from .readings import Reading, Value


def chance(old: Reading, new: Reading, parameters: int) -> float | None:
    """p-value of two estimates of one quantity: how improbable is a gap this wide?

    With standard errors it is the bound of ``_quadratic`` for traces, and Welch's t test for what was averaged over two or
    more probes. Otherwise it is the smallest failure probability (twice, one for each interval) at which the two
    intervals, widened to it, still touch. None where a side says nothing about its error.
    """
    gap = abs(as_float(new.value) - as_float(old.value))
    if old.standard_error is not None and new.standard_error is not None:
        errors = ((old.standard_error, old.count or 1), (new.standard_error, new.count or 1))
        if old.quadratic and new.quadratic:
            return _quadratic(gap, *errors)
        if min(count for _, count in errors) > 1:
            return _welch(gap, *errors)
    lower, upper = (old, new) if as_float(old.value) < as_float(new.value) else (new, old)
    if lower.high is None or upper.low is None or lower.confidence is None or upper.confidence is None:
        return None
    small, large = 0.0, 745.0  # bisection over ln(1 / failure probability); exp(-745) is the least float above zero
    if _reach(lower, small, parameters, up=True) + _reach(upper, small, parameters, up=False) >= gap:
        return 1.0
    for _ in range(80):
        middle = (small + large) / 2
        touching = _reach(lower, middle, parameters, up=True) + _reach(upper, middle, parameters, up=False) >= gap
        small, large = (small, middle) if touching else (middle, large)
    return min(1.0, 2 * math.exp(-small))


def _reach(reading: Reading, exponent: float, parameters: int, *, up: bool) -> float:
    """Half-width of the interval on one side, once it is to fail with probability ``exp(-exponent)`` at most."""
    value, failure = as_float(reading.value), 1 - (reading.confidence or 0.0)
    edge = reading.high if up else reading.low
    width = max(0.0, (edge - value) if up else (value - edge)) if edge is not None else math.inf
    if failure <= 0 or width == 0.0:
        return width
    if reading.spread is None or reading.spread <= 0:
        # an exponential tail: at least as wide as a normal's, and what a share of few eigenvalues has
        return width * (math.log(2) + exponent) / (math.log(2) - math.log(failure))
    # Kuczynski and Wozniakowski: failure = C sqrt(n) exp(-sqrt(eps) (2 m - 1)), width = spread eps / (1 - 2 eps)
    size = math.log(1.648 * math.sqrt(parameters))
    relative = width / reading.spread
    epsilon = relative / (1 + 2 * relative) * ((size + exponent) / (size - math.log(failure))) ** 2
    return reading.spread * epsilon / (1 - 2 * epsilon) if epsilon < 0.5 else math.inf


def _welch(gap: float, one: tuple[float, int], other: tuple[float, int]) -> float:
    from scipy.special import stdtr

    squares = [error**2 for error, _ in (one, other)]
    if sum(squares) == 0.0:
        return 0.0 if gap > 0 else 1.0
    freedom = sum(squares) ** 2 / sum(square**2 / (count - 1) for square, (_, count) in zip(squares, (one, other), strict=True))
    return float(2 * stdtr(freedom, -gap / math.sqrt(sum(squares))))


def _quadratic(gap: float, one: tuple[float, int], other: tuple[float, int]) -> float:
    """Tail of a mean of quadratic forms in random probes (Laurent and Massart 2000, lemma 1).

    One probe of a spectrum with one large eigenvalue is a chi-square with one degree of freedom, far from normal. With
    standard error s and, over m probes, no coefficient above s / sqrt(2 m), for every spectrum
    ``P[|X| > sqrt(2) (s sqrt(x) + s x / sqrt(m))] <= 2 exp(-x)``.
    """
    deviation = math.hypot(one[0], other[0])
    if deviation == 0.0:
        return 0.0 if gap > 0 else 1.0
    largest = max(error / math.sqrt(count) for error, count in (one, other))
    root = (math.sqrt(deviation**2 + 4 * largest * gap / math.sqrt(2)) - deviation) / (2 * largest)
    return min(1.0, 2 * math.exp(-(root**2)))


def as_float(value: Value) -> float:
    """The value of a number; texts and lists have none.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, int | float):
        return float(value)
    raise TypeError(f"expected a number, found {value!r}")  # load_baseline and the families keep texts out
