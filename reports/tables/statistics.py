"""What few seeds can say: spread, paired differences and shares, each with an interval that is honest about the count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
#: probability with which a stated number of seeds decides
POWER = 0.8
#: beyond so many seeds an effect is called too small to be decided by seeds
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over the seeds asked for; None where a seed is missing: no mean over a gap.

    ``low`` and ``high`` bound the mean over all seeds (Student t, 95 %, assumes roughly normal spread over seeds).
    """

    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    count: int
    missing: tuple[int, ...]


#: columns that a spread has in a table
SPREAD = ("mean", "std", "mean_low", "mean_high", "n", "missing_seeds")


def spread_row(found: Spread) -> dict[str, Any]:
    """The spread under its column names."""
    missing = " ".join(str(seed) for seed in found.missing)
    return dict(zip(SPREAD, (found.mean, found.std, found.low, found.high, found.count, missing), strict=True))


def spread(values: Mapping[int, float | None]) -> Spread:
    """Spread of ``values[seed]``; a missing value is None."""
    missing = tuple(seed for seed, value in values.items() if value is None)
    present = np.array([value for value in values.values() if value is not None], dtype=float)
    if missing or not len(present):
        return Spread(None, None, None, None, len(present), missing)
    mean = float(present.mean())
    if len(present) == 1:
        return Spread(mean, None, None, None, 1, ())
    # equal up to round-off is equal
    std = float(present.std(ddof=1)) if np.ptp(present) > 1e-12 * np.abs(present).max() else 0.0
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(present) - 1)) * std / len(present) ** 0.5
    return Spread(mean, std, mean - half, mean + half, len(present), ())


@dataclass(frozen=True)
class Difference:
    """Mean of ``a - b`` over seeds that both have, with a 95 % Student t interval of the paired differences.

    ``decision``: the sign that the interval proves, or ``undecided``. A gap leaves everything None.
    """

    mean: float | None
    low: float | None
    high: float | None
    count: int
    higher: int
    missing: tuple[int, ...]

    @property
    def decision(self) -> Literal["higher", "lower", "undecided", "gap"]:
        """``higher`` / ``lower`` where the interval leaves out zero."""
        if self.mean is None:
            return "gap"
        # Differences without any spread (a count that saturates, say) give an interval of width 0 that means nothing.
        if self.low is None or self.high is None or self.low == self.high:
            return "undecided"
        return "higher" if self.low > 0 else "lower" if self.high < 0 else "undecided"

    @property
    def std(self) -> float | None:
        """Sample standard deviation of the paired differences, from the interval's width; None with one seed."""
        if self.low is None or self.high is None:
            return None
        return float((self.high - self.low) / 2 * self.count**0.5 / stats.t.ppf((1 + CONFIDENCE) / 2, self.count - 1))

    @property
    def needed(self) -> int | None:
        """Seeds that would decide an effect of this size where it is undecided, see :func:`seeds_needed`."""
        if self.decision != "undecided" or self.mean is None or self.std is None:
            return None
        return seeds_needed(self.mean, self.std)


def paired_difference(a: Mapping[int, float | None], b: Mapping[int, float | None]) -> Difference:
    """Paired difference ``a[seed] - b[seed]`` over the seeds of both; every seed is asked of both."""
    pairs: dict[int, float | None] = {}
    for seed in sorted({*a, *b}):
        left, right = a.get(seed), b.get(seed)
        pairs[seed] = None if left is None or right is None else left - right
    found = spread(pairs)
    higher = sum(value is not None and value > 0 for value in pairs.values())
    return Difference(found.mean, found.low, found.high, found.count, higher, found.missing)


def power(effect: float, std: float, count: int) -> float:
    """Probability that the paired 95 % interval of ``count`` seeds leaves out zero on the side of ``effect``.

    Exact for normally distributed differences: the tail of the noncentral t distribution (Cohen, "Statistical Power Analysis
    for the Behavioral Sciences", 1988, section 2.2).

    Args:
        effect: mean difference.
        std: standard deviation of the differences over seeds, above 0.
        count: seeds, at least 2.
    """
    shift = abs(effect) / std * count**0.5
    critical = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
    if shift > 30 + critical:
        return 1.0  # further out than the series of the distribution reaches
    return float(stats.nct.sf(critical, count - 1, shift))


def seeds_needed(effect: float, std: float) -> int | None:
    """The fewest seeds with which an effect of this size, spread like this over seeds, is decided with probability 0.8.

    Effect and spread are themselves measured, on few seeds: a plan for the next run, not a promise.

    Args:
        effect: mean difference.
        std: standard deviation of the differences over seeds.

    Returns:
        The count; None where there is no spread or no effect to go by, or where more than :data:`MOST_SEEDS` would be needed.
    """
    if std <= 0 or effect == 0 or power(effect, std, MOST_SEEDS) < POWER:
        return None
    low, high = 1, MOST_SEEDS  # low is too few, high is enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, std, middle) >= POWER else (middle, high)
    return high


def needed_words(found: Difference, *, short: bool = False) -> str:
    """What would decide an undecided difference; empty where it is decided, or has a gap.

    ``short``: the count alone, for lists in which the first says the whole.
    """
    return count_words(found.needed, found, short=short) if found.decision == "undecided" else ""


def count_words(count: int | None, found: Difference, *, short: bool = False) -> str:
    """``12 seeds would decide an effect of this size with probability 0.8``, or why no count can be given."""
    if found.count < 2:
        return "one seed: a second and a third would show the spread"
    if not found.std:
        return "no spread over seeds to go by"
    if count is None:
        return f"more than {MOST_SEEDS} seeds" if short else f"not even {MOST_SEEDS} seeds would decide an effect of this size"
    return f"{count} seeds" if short else f"{count} seeds would decide an effect of this size with probability {POWER:g}"


def share_interval(successes: int, count: int) -> tuple[float, float]:
    """Clopper-Pearson 95 % interval of a share: what ``3 of 3`` says about the next seed."""
    found = stats.binomtest(successes, count).proportion_ci(CONFIDENCE, method="exact")
    return float(found.low), float(found.high)
