"""What a few trainings can decide: how far a number must move before the t test of ``check`` finds it.

Exact for trainings whose numbers are normally distributed; ``saddlescope baseline power`` measures the same by simulation, for
other distributions as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .baseline import Baseline, Series

POWER = 0.8


def reach(old: int, new: int, tests: int, rate: float, power: float = POWER) -> float | None:
    """The shift, in standard deviations over trainings, that is found with probability ``power``.

    One number of ``tests`` is shifted, so Holm's first step decides: its p-value must stay below ``rate / tests``.
    ``P[T > c] = E[Phi(shift / sqrt(1/old + 1/new) - c S)]`` for ``S`` a chi variable over the root of its degrees of freedom.

    Args:
        old: trainings in the baseline.
        new: trainings in a build.
        tests: numbers tested together.
        rate: false-alarm rate of the build.
        power: probability of finding it.

    Returns:
        the shift; None with fewer than three trainings, where nothing is tested.
    """
    from scipy.optimize import brentq
    from scipy.special import chdtri, ndtr, stdtrit

    freedom = old + new - 2
    if freedom < 1 or min(old, new) < 1:
        return None
    critical = -stdtrit(freedom, rate / (2 * max(tests, 1)))
    middles = (np.arange(4000) + 0.5) / 4000
    deviations = np.sqrt(chdtri(freedom, middles) / freedom)
    error = math.sqrt(1 / old + 1 / new)

    def missed(shift: float) -> float:
        return float(ndtr(shift / error - critical * deviations).mean()) - power

    return float(brentq(missed, 0.0, error * (critical * float(deviations.max()) + 10)))


def reach_words(old: int, new: int, tests: int, rate: float, counted: str) -> str:
    """What that many trainings can find, as one sentence."""
    found = reach(old, new, tests, rate)
    if found is None:
        return (
            "one training on each side says nothing about the spread over trainings: a difference beyond the tolerance is "
            "undecided"
        )
    return (
        f"{old} {counted} stored and {new} to check, {tests} numbers tested together: one that moved is found with probability "
        f"{POWER:.1g} from {found:.0f} standard deviations over {counted} on"
    )


def stored_words(baseline: Baseline) -> list[str]:
    """What each count of trainings in a new baseline will be able to decide, and what would decide more."""
    lines = []
    groups: dict[tuple[int, str], dict[str, Series]] = {}
    for name, series in baseline.series.items():
        groups.setdefault((len(series.checkpoints), series.counted), {})[name] = series
    tests = sum(_tested(series) for series in baseline.series.values())
    for (count, counted), members in groups.items():
        name = next(iter(members))
        who = f"'{name}'" + (f" and {len(members) - 1} more" if len(members) > 1 else "")
        if baseline.by_seed:
            lines.append(f"{who}: every training is expected to give the same digits")
        elif count == 1:
            given = name.split("/", maxsplit=1)[0]
            lines.append(
                f"{who}: one training. The same weights are compared to the digit. Of a model that was trained again, one "
                "training can decide sizes, classes and stage; every other difference is 'undecided' and fails nothing. Two "
                f"more make a sample: saddlescope baseline save {given}=NIGHT1 {given}=NIGHT2 {given}=NIGHT3"
            )
        else:
            few = "" if count > 5 else "; fewer numbers (--only) and more trainings find less"
            lines.append(f"{who}: {reach_words(count, 1, tests, baseline.false_alarm_rate, counted)}{few}")
    return lines


def trainings_words(tested: Mapping[str, tuple[int, int, str]], tests: int, rate: float) -> list[str]:
    """One sentence for each count of trainings among ``series -> (stored, given, counted)``."""
    return [reach_words(old, new, tests, rate, counted) for old, new, counted in dict.fromkeys(tested.values())]


def _tested(series: Series) -> int:
    return sum(entry.rule != "exact" for entry in series.numbers.values())
