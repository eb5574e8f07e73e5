"""Baselines from any test suite: a plain function, no plugin, no mark, no import hook.

from saddlescope import AnalysisSettings, analyze
from saddlescope.reports.testing import assert_matches_baseline

def test_tail_curvature():
    result = analyze(model, samples, settings=AnalysisSettings(eta=50))
    assert_matches_baseline({"my-model": result}, "tests/curvature.json")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..analysis.records.results import CurvatureResult
from .check.accept import accept as accepted
from .check.accept import create
from .check.baseline import BaselineError, Series
from .check.baseline_file import load_baseline, save_baseline
from .check.output import failures, footer
from .check.readings import Direction
from .check.rows import Check
from .check.run import check
from .check.series import collect, gather, read_results

#: results in memory, files or folders of results, or either under the names of their series
Results = (
    CurvatureResult
    | str
    | Path
    | Iterable[CurvatureResult | str | Path]
    | Mapping[str, CurvatureResult | str | Path | Iterable[CurvatureResult | str | Path]]
)


def assert_matches_baseline(
    results: Results, baseline: str | Path, *, only: Sequence[str] = (), accept: str | None = None, alpha: float | None = None
) -> Check:
    """Fails the test if a number moved or is missing; several seeds of one training are tested as samples.

    Args:
        results: a ``CurvatureResult`` or several, or paths as ``saddlescope check`` takes them; a mapping names the series.
        baseline: the JSON file that ``saddlescope baseline save`` or ``store_baseline`` wrote.
        only: patterns; compare the numbers that they mean and no others.
        accept: a reason; the baseline is rewritten (or made) with these results, and the test passes.
        alpha: false-alarm rate of this call; default: the baseline's, 1 %.

    Returns:
        the check, for a closer look.

    Raises:
        AssertionError: a number moved or is missing; the message has a line for each.
        BaselineError: the two cannot be compared: damaged or newer file, other data, nothing in common.
    """
    __tracebackhide__ = True
    path = Path(baseline)
    made = accept is not None and not path.exists()
    if accept is not None and made:
        store_baseline(results, path, reason=accept, only=only)
    stored = load_baseline(path)
    series = _series(results, by_seed=stored.by_seed)
    if accept is not None and not made:
        stored = accepted(stored, series, accept, only=only)
        save_baseline(stored, path)
    outcome = check(stored, series, only=only, alpha=alpha)
    if outcome.exit_code:
        message = "\n".join([outcome.sentence, *failures(outcome), *footer(outcome)])
        if outcome.exit_code == 2:
            raise BaselineError(message)
        raise AssertionError(f"{message}\nif these numbers are right, pass accept='why' once")
    return outcome


def store_baseline(
    results: Results,
    path: str | Path,
    *,
    reason: str,
    only: Sequence[str] = (),
    by_seed: bool = False,
    directions: Mapping[str, Direction] | None = None,
) -> Path:
    """Makes a new baseline.

    Args:
        results: as for ``assert_matches_baseline``; several under one name are trainings of one model.
        path: where it goes.
        reason: first entry of its history.
        only: patterns; store the numbers that they mean and no others.
        by_seed: expect equal digits of every seed instead of testing the seeds as samples.
        directions: statistic or pattern -> ``not-lower`` or ``not-higher``: the direction that matters.

    Raises:
        BaselineError: the file exists (a change to it is accepted with a reason), or there is nothing to store.
    """
    create(_series(results, by_seed=by_seed), Path(path), reason, only=only, by_seed=by_seed, directions=directions)
    return Path(path)


def _series(results: Results, *, by_seed: bool) -> dict[str, Series]:
    if isinstance(results, CurvatureResult | str | Path):
        results = [results]
    if isinstance(results, Mapping):
        named: list[tuple[str | None, CurvatureResult]] = []
        for name, given in results.items():
            each = [given] if isinstance(given, CurvatureResult | str | Path) else list(given)
            named += [(name, one) for one in each if isinstance(one, CurvatureResult)]
            files = [(name, one) for one in each if not isinstance(one, CurvatureResult)]
            named += [(own, result) for own, _, result in read_results(files)]
        return gather(named, by_seed=by_seed)
    given = list(results)
    paths = [one for one in given if not isinstance(one, CurvatureResult)]
    if paths and len(paths) < len(given):
        raise BaselineError("results in memory and paths together; give one kind")
    if paths:
        return collect(paths, by_seed=by_seed)
    return gather([(None, one) for one in given if isinstance(one, CurvatureResult)], by_seed=by_seed)
