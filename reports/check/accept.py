"""Taking a change for right: the baseline is rewritten and remembers what it held, who changed it and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .baseline import Baseline, BaselineError, Change, Series, acceptance
from .baseline_file import save_baseline
from .compare_numbers import Outcome
from .readings import Direction, statistic
from .run import check
from .series import matches, restrict


def create(
    series: Mapping[str, Series],
    path: Path,
    reason: str,
    *,
    only: Sequence[str] = (),
    by_seed: bool = False,
    directions: Mapping[str, Direction] | None = None,
) -> Baseline:
    """Stores a first baseline at ``path``.

    Args:
        series: by name, from ``collect`` or ``gather``.
        path: where it goes.
        reason: first entry of the history.
        only: patterns; store the numbers that they mean and no others.
        by_seed: equal digits of every seed are expected.
        directions: pattern (as in ``only``) or statistic (``lambda_min``: every group's) -> the direction that matters.

    Raises:
        BaselineError: the file exists (a change is accepted with a reason), there is nothing to store, no reason, or a pattern
            of ``directions`` means nothing.
    """
    if path.exists():
        raise BaselineError(
            f"{path}: exists; accept a change with 'saddlescope check ... --accept --reason WHY', which keeps its history"
        )
    kept = directed(restrict(series, only), directions or {})
    stored = Baseline(only=list(only), by_seed=by_seed, history=[acceptance(reason)], series=kept)
    save_baseline(stored, path)
    return stored


def directed(series: Mapping[str, Series], directions: Mapping[str, Direction]) -> dict[str, Series]:
    """The series with the direction of the numbers that each pattern means; later patterns win.

    Raises:
        BaselineError: a pattern means no number, or only such as have no order (verdicts, classes).
    """
    found = dict(series)
    for pattern, direction in directions.items():
        meant = 0
        for name, entry in found.items():
            numbers = {
                number: value.model_copy(update={"direction": direction})
                for number, value in entry.numbers.items()
                if value.rule not in ("exact", "label") and (statistic(number) == pattern or matches(pattern, name, number))
            }
            meant += len(numbers)
            found[name] = entry.model_copy(update={"numbers": entry.numbers | numbers})
        if not meant:
            raise BaselineError(
                f"--direction {pattern}={direction}: means no number that can rise or fall; name a statistic (lambda_min) or a "
                "pattern ('tail.*'), see 'saddlescope baseline show'"
            )
    return found


def accept(
    baseline: Baseline, results: Mapping[str, Series], reason: str, *, only: Sequence[str] = (), quick: bool = False
) -> Baseline:
    """The baseline that takes ``results`` for right, with its history one entry longer.

    Tolerances, rules and directions of known numbers stay. Numbers and seeds that the results lack are dropped (the history has
    the numbers' old values and names the seeds); those outside ``only``, and with ``quick`` whole series that were not
    measured, stay as they are.

    Raises:
        BaselineError: no reason given, or nothing in common.
    """
    outcome = check(baseline, results, only=only, quick=quick)
    old, new = restrict(baseline.series, only), restrict(restrict(results, baseline.only), only)
    kept: dict[str, Series] = {}
    for name in [*baseline.series, *(name for name in new if name not in baseline.series)]:
        untouched = name not in old or (quick and name not in new)
        if name in baseline.series and untouched:
            kept[name] = baseline.series[name]
        elif name in new:
            kept[name] = _renewed(baseline.series.get(name), old.get(name), new[name], name)
    changes = {
        row.identifier: Change(
            verdict=row.outcome.value, old=row.old.values if row.old else None, new=row.new.values if row.new else None
        )
        for row in outcome.rows
        if row.outcome is not Outcome.SAME
    }
    dropped = {
        name: gone
        for name, series in baseline.series.items()
        if (gone := [one for one in series.trainings if name not in kept or one not in kept[name].trainings])
    }
    return baseline.model_copy(update={"series": kept, "history": [*baseline.history, acceptance(reason, changes, dropped)]})


def _renewed(whole: Series | None, old: Series | None, new: Series, name: str) -> Series:
    if whole is None or old is None:
        return new
    numbers = {}
    for number, entry in new.numbers.items():
        known = old.numbers.get(number)
        numbers[number] = known.model_copy(update={"readings": entry.readings}) if known else entry
    outside = {number: entry for number, entry in whole.numbers.items() if number not in old.numbers}
    if outside and (whole.seeds, whole.checkpoints) != (new.seeds, new.checkpoints):
        raise BaselineError(f"series '{name}': numbers of other checkpoints would stand side by side; accept it without --only")
    return new.model_copy(update={"numbers": numbers | outside})
