"""The check: every number of a baseline against a new measurement, and one answer for the build."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from .absent import absent, explained, given, strangers, trainings_named
from .baseline import PROBES, Baseline, BaselineError, Number, Series
from .compare_numbers import (
    Evidence,
    Outcome,
    Route,
    compare_samples,
    compare_single,
    compare_two_trainings,
    holm,
    tolerance,
)
from .reach import trainings_words
from .readings import Reading
from .rows import FAILING, Check, Row, side_of
from .series import restrict

#: with these unchanged a seed is expected to train the same weights
_REPRODUCIBLE = ("torch", "numpy", "platform", "processor", "device", "threads")
#: what decides which kernels compute a product: with these alike, so are the digits
_KERNELS = ("torch", "platform", "processor", "device", "threads")
#: a move in the allowed direction in some of the trainings takes none of these back
_STANDING = (*FAILING, Outcome.REFUSED, Outcome.UNDECIDED)


def check(
    baseline: Baseline,
    results: Mapping[str, Series],
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    alpha: float | None = None,
) -> Check:
    """Compares results with a baseline.

    Args:
        baseline: as loaded.
        results: series by name, from ``collect`` or ``gather``.
        only: patterns; numbers that none of them means are left out on both sides.
        quick: series and seeds of the baseline that ``results`` does not have are left out, instead of missing.
        alpha: false-alarm rate of the build; default: the baseline's.

    Raises:
        BaselineError: a pattern means nothing, or baseline and results have no number in common.
    """
    old, new = restrict(baseline.series, only), restrict(restrict(results, baseline.only), only)
    if only and not old:
        raise BaselineError(f"--only {' '.join(only)}: no number of the baseline is meant; see 'saddlescope baseline show'")
    if not any(old[name].numbers.keys() & new[name].numbers.keys() for name in old.keys() & new.keys()):
        raise BaselineError(
            f"baseline and results have no number in common: the baseline holds {_listed(old)}; the results are {_listed(new)}"
        )
    unchecked = [name for name in old if quick and name not in new]
    found: list[tuple[Row, Evidence]] = []
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in unchecked:
            found += _series(name, old.get(name), new.get(name), by_seed=baseline.by_seed, quick=quick)
            if quick and name in old and name in new and (left := _left_out(old[name], new[name])):
                unchecked.append(f"{name}, {left}")
    rate = baseline.false_alarm_rate if alpha is None else alpha
    rows, tests = _decide(found, rate)
    retrained = {} if baseline.by_seed else _retrained(old, new)
    return Check(rows, rate, tests, unchecked, _environment(old, new), trainings_words(retrained, tests, rate))


def _retrained(old: Mapping[str, Series], new: Mapping[str, Series]) -> dict[str, tuple[int, int, str]]:
    """How many trainings each series is tested with on either side, and what they are counted as."""
    return {
        name: (len(old[name].checkpoints), len(others), old[name].counted)
        for name in old.keys() & new.keys()
        if not old[name].conditions.differences(new[name].conditions) and (others := strangers(old[name], new[name]))
    }


def _left_out(old: Series, new: Series) -> str:
    """The seeds that ``quick`` does not ask for, in words."""
    gone = {key for number in old.numbers for key in absent(number, old, new)}
    kept = {key for number in old.numbers for key in absent(number, old, new, quick=True)}
    return trainings_named(old, [key for key in old.trainings if key in gone - kept])


def _series(name: str, old: Series | None, new: Series | None, *, by_seed: bool, quick: bool) -> list[tuple[Row, Evidence]]:
    if new is None or old is None:
        present = old or new
        outcome = Outcome.MISSING if new is None else Outcome.NEW
        note = "no result of this series was given" if new is None else "series not in the baseline"
        return [_lonely(name, number, outcome, entry, note) for number, entry in present.numbers.items()] if present else []
    if differences := old.conditions.differences(new.conditions):
        return [
            (
                Row(
                    name,
                    number,
                    Outcome.REFUSED,
                    side_of(entry.readings, old.counted),
                    side_of(_readings(new, number), new.counted),
                    note="; ".join(differences),
                ),
                Evidence(Outcome.REFUSED),
            )
            for number, entry in old.numbers.items()
        ]
    found = []
    for number, entry in old.numbers.items():
        gone = trainings_named(old, absent(number, old, new, quick=quick))
        if number in new.numbers:
            found.append(_compared(name, number, old, new, gone, by_seed=by_seed))
        elif gone or (strangers(old, new) and not explained(number, new)):
            note = f"not in the results of {gone}" if gone else "not in the results"
            found.append(_lonely(name, number, Outcome.MISSING, entry, note))
    extra = [number for number in new.numbers if number not in old.numbers]
    return found + [_lonely(name, number, Outcome.NEW, new.numbers[number], "not in the baseline") for number in extra]


def _route(old: Series, new: Series) -> Route:
    """How the weights that both sides hold are compared."""
    if old.conditions.engine != "exact" and any(old.settings.get(key) != new.settings.get(key) for key in PROBES):
        return Route.RESAMPLED
    return Route.DIGITS if _unchanged(old, new, _KERNELS) else Route.KERNELS


def _unchanged(old: Series, new: Series, keys: Sequence[str]) -> bool:
    """Whether the environments are alike in these respects, as far as both are on record."""
    before, after = old.environment, new.environment
    if None in (before.get("processor"), after.get("processor")) or before.get("device") != "cpu":
        keys = [key for key in keys if key != "processor"]  # of older files unknown; beside a GPU of no weight
    return all(before.get(key) == after.get(key) for key in keys)


def _compared(name: str, number: str, old: Series, new: Series, gone: str, *, by_seed: bool) -> tuple[Row, Evidence]:
    entry = old.numbers[number]
    if entry.rule == "label" and (setting := _other_threshold(old, new)):
        evidence = Evidence(Outcome.REFUSED, note=f"the answer depends on '{setting}', which differs")
    else:
        each = [*_known(number, old, new), *_trained_anew(number, old, new, by_seed=by_seed)]
        if gone:
            each.append(Evidence(Outcome.MISSING, note=f"not in the results of {gone}"))
        evidence = _worst(each) if each else Evidence(Outcome.NEW, note="not measured for these seeds in the baseline")
    row = Row(
        series=name,
        number=number,
        outcome=evidence.outcome,
        old=side_of(entry.readings, old.counted),
        new=side_of(new.numbers[number].readings, new.counted),
        tolerance=_shown_tolerance(entry),
        direction=entry.direction,
        p=evidence.p,
        note=evidence.note,
    )
    return row, evidence


def _known(number: str, old: Series, new: Series) -> list[Evidence]:
    """The weights that both sides hold, one by one: never a sample, however many other trainings stand beside them."""
    before, after = given(old, number), given(new, number)
    entry, route = old.numbers[number], _route(old, new)
    return [compare_single(entry, before[key], after[key], route, old.conditions.parameters) for key in after if key in before]


def _trained_anew(number: str, old: Series, new: Series, *, by_seed: bool) -> list[Evidence]:
    """The trainings whose weights the baseline does not hold, against all of its own."""
    others, entry = strangers(old, new), old.numbers[number]
    # weights are known by their checkpoint, trainings by their seed where there is one
    before = {key: one for key, one in zip(old.trainings, entry.readings, strict=True) if one is not None}
    after = {
        key: one
        for key, checkpoint, one in zip(new.trainings, new.checkpoints, new.numbers[number].readings, strict=True)
        if one is not None and checkpoint in others
    }
    if not after:
        return []
    if len(before) + len(after) >= 3:
        return [compare_samples(entry, before, after)]
    one, other = next(iter(before.values())), next(iter(after.values()))
    if not by_seed:
        return [compare_two_trainings(entry, one, other)]
    # equal digits are expected of equal probes only
    route = Route.RESAMPLED if _route(old, new) is Route.RESAMPLED else Route.RETRAINED
    evidence = compare_single(entry, one, other, route, old.conditions.parameters)
    if evidence.outcome is Outcome.MOVED:
        evidence = replace(evidence, note="other weights; the baseline expects equal digits of each seed (--by-seed)")
    return [evidence]


def _other_threshold(old: Series, new: Series) -> str | None:
    return next((key for key in ("tau", "stationarity") if old.settings.get(key) != new.settings.get(key)), None)


def _worst(each: list[Evidence]) -> Evidence:
    """Several seeds with their own weights each, and a sample: any that moved moves the number; p-values times their count."""
    order = [
        Outcome.REFUSED,
        Outcome.MOVED,
        Outcome.MISSING,
        Outcome.UNDECIDED,
        Outcome.WITHIN,
        Outcome.ALLOWED,
        Outcome.SAME,
    ]
    worst = min(each, key=lambda one: (order.index(one.outcome), one.p if one.p is not None else 1.0))
    tests = [one.p for one in each if one.p is not None]
    allowed = [one.allowed_p for one in each if one.allowed_p is not None]
    return replace(
        worst,
        p=min(1.0, len(tests) * min(tests)) if tests else None,
        allowed_p=min(1.0, len(allowed) * min(allowed)) if allowed else None,
    )


def _decide(found: list[tuple[Row, Evidence]], rate: float) -> tuple[list[Row], int]:
    tested = [index for index, (_, evidence) in enumerate(found) if evidence.p is not None]
    adjusted = dict(zip(tested, holm([found[index][1].p or 0.0 for index in tested]), strict=True))
    rows = []
    for index, (row, evidence) in enumerate(found):
        if index not in adjusted:
            rows.append(row)
            continue
        outcome = row.outcome
        if outcome is not Outcome.REFUSED and adjusted[index] <= rate:
            outcome = Outcome.MOVED
        elif evidence.allowed_p is not None and evidence.allowed_p * len(tested) <= rate and outcome not in _STANDING:
            outcome = Outcome.ALLOWED
        rows.append(replace(row, outcome=outcome, adjusted_p=adjusted[index]))
    return rows, len(tested)


def _lonely(series: str, number: str, outcome: Outcome, entry: Number, note: str) -> tuple[Row, Evidence]:
    side = side_of(entry.readings)
    old, new = (side, None) if outcome is Outcome.MISSING else (None, side)
    return Row(series, number, outcome, old, new, direction=entry.direction, note=note), Evidence(outcome)


def _readings(series: Series, number: str) -> list[Reading | None]:
    return series.numbers[number].readings if number in series.numbers else []


def _shown_tolerance(entry: Number) -> float | None:
    numbers = [float(one.value) for one in entry.present if isinstance(one.value, int | float)]
    return tolerance(entry, math.fsum(numbers) / len(numbers)) if numbers else None


def _environment(old: Mapping[str, Series], new: Mapping[str, Series]) -> list[str]:
    """What differs between the machines, versions and settings: not a reason to refuse, often the reason of a move."""
    found: dict[str, None] = {}
    for name in old.keys() & new.keys():
        for before, after in ((old[name].environment, new[name].environment), (old[name].settings, new[name].settings)):
            shared = [key for key in before if key in after and before[key] != after[key]]
            found.update(dict.fromkeys(f"{key} {before[key]} -> {after[key]}" for key in shared))
    retrained = [name for name in old.keys() & new.keys() if strangers(old[name], new[name])]
    unexplained = [name for name in retrained if _unchanged(old[name], new[name], _REPRODUCIBLE)]
    if unexplained:
        unnamed = any(old[name].environment.get("processor") is None for name in unexplained)
        cause = "the training itself changed" + (", or the processor, which the baseline does not name" if unnamed else "")
        found[f"the checkpoints of {len(unexplained)} series, with versions and platform unchanged: {cause}"] = None
    return sorted(found)


def _listed(series: Mapping[str, Series]) -> str:
    names = list(series)
    return ", ".join(f"'{name}'" for name in names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "nothing"
