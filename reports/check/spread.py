"""How far repeated measurements of one checkpoint differ: over threads, machines, versions, precisions.

The tolerances of a baseline should come from such a measurement and not from taste; the defaults of ``check_readings`` do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...analysis.records.results import CurvatureResult
from .baseline import Baseline, BaselineError, acceptance
from .readings import FAMILIES, Reading, readings, statistic
from .series import read_results, series_name

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Spread:
    """The range of one number over repeated measurements of one checkpoint."""

    series: str
    number: str
    middle: float
    width: float
    repeats: int

    @property
    def relative(self) -> float:
        """Width over magnitude; 0 where both are zero."""
        return self.width / abs(self.middle) if self.middle else (0.0 if self.width == 0 else float("inf"))


def measure_spread(arguments: Iterable[str | Path]) -> list[Spread]:
    """Reads repeated measurements and takes the range of every number.

    Args:
        arguments: as for ``saddlescope check``; results of one checkpoint and scheme belong together.

    Raises:
        BaselineError: no checkpoint was measured twice, or over different data.
    """
    together: dict[tuple[str, str], list[CurvatureResult]] = {}
    for name, _, result in read_results(arguments):
        together.setdefault((series_name(result, name), result.provenance.checkpoint_sha256), []).append(result)
    repeated = {key: results for key, results in together.items() if len(results) > 1}
    if not repeated:
        raise BaselineError(
            "no checkpoint was measured twice: give results of one checkpoint from different machines or settings"
        )
    found = []
    for (series, _), results in repeated.items():
        if len({result.provenance.data_sha256 for result in results}) > 1:
            raise BaselineError(f"series '{series}': measured over different data; their difference is no measurement error")
        each = [readings(result) for result in results]
        for number in each[0]:
            values = [one[number].value for one in each if number in one and _measured(number, one[number])]
            numbers = [float(value) for value in values if isinstance(value, int | float)]
            if len(numbers) == len(results):
                low, high = min(numbers), max(numbers)
                found.append(Spread(series, number, (low + high) / 2, high - low, len(numbers)))
    return found


def _measured(number: str, reading: Reading) -> bool:
    # a tolerance wide enough for what did not settle would let everything pass
    return reading.settled or FAMILIES[statistic(number)].rule != "tolerance"


def widen(baseline: Baseline, spreads: Iterable[Spread], factor: float, reason: str) -> tuple[Baseline, int]:
    """Raises each tolerance to ``factor`` times the range seen; none becomes smaller.

    Returns:
        the new baseline with its history one entry longer, and how many tolerances rose.

    Raises:
        BaselineError: no reason, or none of the numbers is in the baseline.
    """
    series = dict(baseline.series)
    known = raised = 0
    for spread in spreads:
        entry = series[spread.series].numbers.get(spread.number) if spread.series in series else None
        if entry is None:
            continue
        known += 1
        needed = factor * spread.width - entry.rel_tol * abs(spread.middle)
        if needed > entry.abs_tol:
            raised += 1
            numbers = series[spread.series].numbers | {
                spread.number: entry.model_copy(update={"abs_tol": float(f"{needed:.3g}")})
            }
            series[spread.series] = series[spread.series].model_copy(update={"numbers": numbers})
    if not known:
        raise BaselineError(f"none of the numbers is in the baseline, which holds {', '.join(list(baseline.series)[:4])}")
    return baseline.model_copy(update={"series": series, "history": [*baseline.history, acceptance(reason)]}), raised


def spread_table(spreads: list[Spread], factor: float) -> Table:
    """The widest range of each statistic, absolute and relative, and the tolerance it asks for."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for heading in ("statistic", "numbers", "unequal", "widest", "widest, relative", f"{factor:g} x relative", "where"):
        grid.add_column(heading, justify="left" if heading in ("statistic", "where") else "right")
    for name in dict.fromkeys(statistic(spread.number) for spread in spreads):
        those = [spread for spread in spreads if statistic(spread.number) == name]
        worst = max(those, key=lambda spread: spread.relative)
        grid.add_row(
            name,
            str(len(those)),
            str(sum(spread.width > 0 for spread in those)),
            f"{max(spread.width for spread in those):.2g}",
            f"{worst.relative:.2g}",
            f"{factor * worst.relative:.1g}",
            f"{worst.series}::{worst.number}" if worst.width else "",
        )
    return grid
