"""One number against its baseline, by what is known about it.

Four situations (``Route``) call for four comparisons:

- the same weights measured with the same probes: equal digits are expected, so the tolerance decides. An estimate beyond it
  is still judged by its interval or standard error, as is an extreme that did not converge. A sample whose two largest
  outputs are equal up to rounding may be counted either way, so a count may differ by its own step;
- the same, on another device, platform, version or number of threads: as above, but rounding may also change at which step an
  iteration ends, and lower bounds that differ do not contradict each other;
- the same weights measured with other probes or steps: settled numbers by tolerance, estimates by their stated errors;
- other weights: trainings are a sample, and with three or more in all a pooled two-sample t test decides. One on each side
  say nothing about the spread over trainings: what differs is undecided, except what no training may change (``exact``).

A test yields a p-value, P[p <= u] <= u if nothing changed. ``holm`` then decides over all tests of a build together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from functools import cache

import numpy as np

from .baseline import Number
from .chance import as_float, chance
from .readings import Reading


class Outcome(StrEnum):
    """Verdict on one number."""

    SAME = "same"
    WITHIN = "within sampling error"
    ALLOWED = "moved, allowed direction"
    MOVED = "moved"
    MISSING = "missing"
    NEW = "new"
    UNDECIDED = "undecided"
    REFUSED = "not comparable"


class Route(Enum):
    """What the two sides have in common."""

    DIGITS = "same weights, same estimator settings"
    KERNELS = "same weights, same estimator settings, other kernels"
    RESAMPLED = "same weights, other probes or steps"
    RETRAINED = "other weights"


@dataclass(frozen=True)
class Evidence:
    """What one comparison found.

    ``outcome`` holds unless the build's multiple test rejects ``p``; then the number moved. ``p`` is None where nothing is
    random. ``allowed_p`` tests a shift in the direction that is allowed: it can never fail a build.
    """

    outcome: Outcome
    p: float | None = None
    allowed_p: float | None = None
    note: str = ""


_UNSETTLED = Evidence(Outcome.UNDECIDED, note="not settled: another step of its differences gives another number")


def compare_single(entry: Number, old: Reading, new: Reading, route: Route, parameters: int) -> Evidence:
    """Compares one reading with one reading.

    Args:
        entry: the baseline's number: its rule, tolerances and direction.
        old: reading in the baseline.
        new: reading of the result.
        route: what the two have in common; ``RETRAINED`` where equal digits are expected all the same (``--by-seed``).
        parameters: size of the Hessian, which scales an extreme's interval.
    """
    if entry.rule in ("exact", "label"):
        return Evidence(Outcome.SAME if old.value == new.value else Outcome.MOVED)
    difference = as_float(new.value) - as_float(old.value)
    if route is not Route.RETRAINED and 0 < abs(difference) <= 1.001 * max(old.unit, new.unit):
        return Evidence(Outcome.WITHIN, note="one step of a count: what lies on the line may be counted on either side")
    tested = _tested(entry, old, new, route)
    one = 1.0 if tested else None  # counted among the build's tests by what it is, not by how it came out
    if abs(difference) <= tolerance(entry, as_float(old.value)):
        return Evidence(Outcome.SAME, one)
    if not (_decidable(entry, old) and _decidable(entry, new)):
        return _UNSETTLED
    if entry.rule == "bound" and route in (Route.KERNELS, Route.RESAMPLED):
        return Evidence(Outcome.WITHIN, note="lower bounds of different runs do not contradict each other")
    if old.settled and new.settled and abs(difference) <= tolerance(entry, as_float(old.value)) + old.slack + new.slack:
        return Evidence(Outcome.WITHIN, one, note="within residual and matvec noise")
    p = chance(old, new, parameters) if tested else 0.0
    if _allowed(entry, difference):
        return Evidence(Outcome.WITHIN if tested else Outcome.ALLOWED, one, allowed_p=p)
    if not tested:
        return Evidence(Outcome.MOVED)
    same_probes = route in (Route.DIGITS, Route.KERNELS)
    if p is not None:
        return Evidence(Outcome.WITHIN, p, note="same probes, other digits" if same_probes else "")
    if same_probes:
        return Evidence(Outcome.MOVED, one, note="error unknown, but with the same probes the digits should agree")
    return Evidence(Outcome.REFUSED, one, note="no interval or standard error to judge by: use more starts or steps")


def compare_two_trainings(entry: Number, old: Reading, new: Reading) -> Evidence:
    """Compares one training with another: both numbers are true, of two checkpoints, and their spread is unknown.

    Args:
        entry: the baseline's number: its rule, tolerances and direction.
        old: reading in the baseline.
        new: reading of the result.
    """
    if entry.rule == "exact":
        return Evidence(Outcome.SAME if old.value == new.value else Outcome.MOVED)
    if entry.rule == "label":
        alike = old.value == new.value
    else:
        difference = as_float(new.value) - as_float(old.value)
        alike = abs(difference) <= tolerance(entry, as_float(old.value))
        if not alike and not (_decidable(entry, old) and _decidable(entry, new)):
            return _UNSETTLED
        if not alike and _allowed(entry, difference):
            return Evidence(Outcome.ALLOWED)
    if alike:
        return Evidence(Outcome.SAME)
    return Evidence(Outcome.UNDECIDED, note="one training on each side: the spread over trainings is unknown")


def compare_samples(entry: Number, old: Mapping[int | str, Reading], new: Mapping[int | str, Reading]) -> Evidence:
    """Compares the seeds of a series, trained anew, as two samples of one distribution.

    The null hypothesis is that nothing changed, hence equal variances too: the pooled t test has the most degrees of freedom,
    which is what three seeds are short of. Same seeds on both sides can only make it more cautious.

    Args:
        entry: the baseline's number: its rule, tolerances and direction.
        old: seed (or checkpoint, where seeds are unknown) -> reading in the baseline.
        new: the same of the results; with ``old`` at least three in all.
    """
    before, after = [one.value for one in old.values()], [one.value for one in new.values()]
    if entry.rule == "exact":
        alike = {str(value) for value in before} == {str(value) for value in after}
        return Evidence(Outcome.SAME if alike else Outcome.MOVED)
    if entry.rule == "label":
        return _labels([str(value) for value in before], [str(value) for value in after])
    settled = [{key: one for key, one in side.items() if _decidable(entry, one)} for side in (old, new)]
    if settled != [old, new]:
        if not all(settled) or len(settled[0]) + len(settled[1]) < 3:
            return _UNSETTLED
        return replace(compare_samples(entry, *settled), note="those not settled left out")
    x, y = [as_float(value) for value in before], [as_float(value) for value in after]
    margin = tolerance(entry, sum(x) / len(x))
    pairs = [(as_float(old[seed].value), as_float(new[seed].value)) for seed in old if seed in new]
    if old.keys() == new.keys() and all(abs(other - one) <= tolerance(entry, one) for one, other in pairs):
        return Evidence(Outcome.SAME, 1.0)
    difference = sum(y) / len(y) - sum(x) / len(x)
    if abs(difference) <= margin:
        return Evidence(Outcome.WITHIN, 1.0)
    unit = max(one.unit for one in [*old.values(), *new.values()])
    p = pooled_t(x, y, floor=max(unit, margin) / math.sqrt(12))
    if entry.direction == "both":
        return Evidence(Outcome.WITHIN, p)
    if _allowed(entry, difference):
        return Evidence(Outcome.WITHIN, 1.0, allowed_p=p / 2)
    return Evidence(Outcome.WITHIN, p / 2)


def pooled_t(x: Sequence[float], y: Sequence[float], floor: float = 0.0) -> float:
    """Two-sided p-value of Student's two-sample t test with pooled variance.

    Args:
        x: first sample.
        y: second sample; ``len(x) + len(y) >= 3``.
        floor: least standard deviation: numbers with a finite step can be equal by chance, which says nothing of their spread.
    """
    from scipy.special import stdtr

    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    squares = math.fsum((value - mean_x) ** 2 for value in x) + math.fsum((value - mean_y) ** 2 for value in y)
    freedom = len(x) + len(y) - 2
    deviation = math.sqrt(squares / freedom + floor**2)
    if deviation == 0.0:
        return 1.0 if mean_x == mean_y else 0.0
    t = abs(mean_y - mean_x) / (deviation * math.sqrt(1 / len(x) + 1 / len(y)))
    return float(2 * stdtr(freedom, -t))


def _labels(before: list[str], after: list[str]) -> Evidence:
    if sorted(before) == sorted(after):
        return Evidence(Outcome.SAME, 1.0)
    pooled = before + after
    label = max(sorted(set(pooled)), key=pooled.count)  # chosen without regard to sides, so the test stays exact
    p = _fisher(before.count(label), len(before), after.count(label), len(after))
    return Evidence(
        Outcome.WITHIN, p, note=f"'{label}': {before.count(label)} of {len(before)}, now {after.count(label)} of {len(after)}"
    )


@cache
def _fisher(before: int, of: int, after: int, of_new: int) -> float:
    from scipy.stats import fisher_exact

    return float(fisher_exact(np.array([[before, of - before], [after, of_new - after]])).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values.

    Rejecting those <= alpha errs anywhere with probability <= alpha, however dependent the numbers are.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def tolerance(entry: Number, value: float) -> float:
    """The difference from ``value`` that is no difference."""
    return entry.abs_tol + entry.rel_tol * abs(value)


def _decidable(entry: Number, reading: Reading) -> bool:
    return reading.settled or entry.rule != "tolerance"


def _tested(entry: Number, old: Reading, new: Reading, route: Route) -> bool:
    if route is Route.RETRAINED:  # of two trainings equal to the digit, an estimate with the same probes is as well
        return False
    if entry.rule == "estimate":
        return True
    return entry.rule == "extreme" and (route is Route.RESAMPLED or not (old.settled and new.settled))


def _allowed(entry: Number, difference: float) -> bool:
    return (entry.direction == "not-lower" and difference > 0) or (entry.direction == "not-higher" and difference < 0)
