"""What a check is worth: its false-alarm rate and its power, measured over simulated builds of retrained seeds.

Each simulated build draws the baseline's and the build's seeds from one distribution and runs the real ``check`` on them, so
the whole decision is measured and not its textbook. Five distributions: the t test is exact for one of them only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from .baseline import Baseline, BaselineError, Number, Series
from .compare_numbers import Outcome
from .readings import Reading
from .rows import side_of
from .run import check

if TYPE_CHECKING:
    from rich.console import RenderableType

#: standardised draws [seeds, numbers]; "correlated": one seed's numbers share 80 % of their variance
DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "correlated": lambda rng, shape: (
        math.sqrt(0.8) * rng.standard_normal((shape[0], 1)) + math.sqrt(0.2) * rng.standard_normal(shape)
    ),
    "skewed": lambda rng, shape: (rng.lognormal(0.0, 1.0, shape) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e),
    "heavy-tailed": lambda rng, shape: rng.standard_t(3, shape) / math.sqrt(3),
    "counts": lambda rng, shape: rng.poisson(2.0, shape).astype(float),
}
_COIN = (Reading(value="saddle"), Reading(value="not"))
SHIFTS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)


@dataclass(frozen=True)
class Power:
    """Measured rates.

    Attributes:
        tests: numbers tested together.
        old_seeds, new_seeds: of the largest series on each side.
        stated: the false-alarm rate that the baseline promises.
        builds: simulated for each rate.
        false_alarms: distribution -> share of builds that failed although nothing changed.
        unlucky: 95th percentile over baselines of the share of failing builds against that one baseline (normal).
        power: shift in standard deviations over seeds -> share of builds in which a number so shifted was found (normal); empty
            where labels only are tested.
        needed: shift found with probability 0.8, or None if beyond the largest tried.
        shifts: ``series::number`` -> that shift in the number's own unit, from the baseline's spread.
    """

    tests: int
    old_seeds: int
    new_seeds: int
    stated: float
    builds: int
    false_alarms: dict[str, float]
    unlucky: float
    power: dict[float, float]
    needed: float | None
    shifts: dict[str, float]


def measure(baseline: Baseline, *, seeds: int | None = None, builds: int = 1000, seed: int = 0) -> Power:
    """Simulates builds over the baseline's own series, numbers and counts of seeds.

    Args:
        baseline: its series, numbers and rate are used; its values only to state shifts in their unit.
        seeds: of a future build; default: as many as each series of the baseline has.
        builds: simulated for each rate.
        seed: of the simulation.

    Raises:
        BaselineError: with one seed on each side, or exact numbers only, nothing is random to simulate.
    """
    rng = np.random.default_rng(seed)
    if all(len(series.seeds) + (seeds or len(series.seeds)) < 3 for series in baseline.series.values()):
        raise BaselineError(
            "one seed on each side: tolerances decide, there is no test to simulate; try --seeds 3 or store more seeds"
        )
    if not any(entry.rule != "exact" for series in baseline.series.values() for entry in series.numbers.values()):
        raise BaselineError("only sizes, classes and stages are stored, which no chance changes: there is no test to simulate")
    alarms = {name: _alarm_rate(baseline, seeds, rng, name, builds) for name in DISTRIBUTIONS}
    repeats = max(10, math.isqrt(builds))
    by_baseline = [_alarm_rate(baseline, seeds, rng, "normal", repeats, fixed=True) for _ in range(repeats)]
    power: dict[float, float] = {}
    for shift in SHIFTS if any(_random(baseline, name) for name in baseline.identifiers()) else ():
        power[shift] = _found_rate(baseline, seeds, rng, shift, max(100, builds // 10))
        if power[shift] > 0.995:
            break
    needed = _crossing(power, 0.8)
    return Power(
        tests=check(_draw(baseline, None, rng, "normal"), _draw(baseline, seeds, rng, "normal").series).tests,
        old_seeds=max(len(series.seeds) for series in baseline.series.values()),
        new_seeds=seeds or max(len(series.seeds) for series in baseline.series.values()),
        stated=baseline.false_alarm_rate,
        builds=builds,
        false_alarms=alarms,
        unlucky=float(np.quantile(by_baseline, 0.95)),
        power=power,
        needed=needed,
        shifts=_in_units(baseline, needed) if needed is not None else {},
    )


def _alarm_rate(
    baseline: Baseline, seeds: int | None, rng: np.random.Generator, distribution: str, builds: int, *, fixed: bool = False
) -> float:
    failed = 0
    old = _draw(baseline, None, rng, distribution)
    for _ in range(builds):
        if not fixed:
            old = _draw(baseline, None, rng, distribution)
        failed += bool(check(old, _draw(baseline, seeds, rng, distribution).series).having(Outcome.MOVED))
    return failed / builds


def _found_rate(baseline: Baseline, seeds: int | None, rng: np.random.Generator, shift: float, builds: int) -> float:
    """One number of each build is shifted, a different one each time; was it that one that moved?"""
    names = [name for name in baseline.identifiers() if _random(baseline, name)]
    found = 0
    for _ in range(builds):
        target = names[rng.integers(len(names))]
        rows = check(_draw(baseline, None, rng, "normal"), _draw(baseline, seeds, rng, "normal", (target, shift)).series).rows
        found += any(row.identifier == target and row.outcome is Outcome.MOVED for row in rows)
    return found / builds


def _random(baseline: Baseline, identifier: str) -> bool:
    series, number = identifier.split("::", 1)
    return baseline.series[series].numbers[number].rule not in ("exact", "label")


def _draw(
    baseline: Baseline, seeds: int | None, rng: np.random.Generator, distribution: str, shifted: tuple[str, float] | None = None
) -> Baseline:
    """A baseline of the same shape with drawn values; every draw counts as a new training (its own checkpoint hash)."""
    drawn = {}
    for name, series in baseline.series.items():
        count = seeds or len(series.seeds)
        names = [number for number, entry in series.numbers.items() if entry.rule not in ("exact", "label")]
        values = DISTRIBUTIONS[distribution](rng, (count, len(names)))
        numbers = {}
        for column, number in enumerate(names):
            extra = shifted[1] if shifted and shifted[0] == f"{name}::{number}" else 0.0
            unit = 1.0 if distribution == "counts" else 0.0
            readings: list[Reading | None] = [
                _reading(round(1000 * (float(value) + extra)), unit) for value in values[:, column]
            ]
            numbers[number] = Number.model_construct(
                rule="tolerance", abs_tol=0.0, rel_tol=0.0, direction="both", readings=readings
            )
        for number, entry in series.numbers.items():
            if entry.rule == "label":  # the hardest case for Fisher's test: a coin
                coins: list[Reading | None] = [_COIN[int(side)] for side in rng.integers(2, size=count)]
                numbers[number] = Number.model_construct(
                    rule="label", abs_tol=0.0, rel_tol=0.0, direction="both", readings=coins
                )
        drawn[name] = Series.model_construct(
            conditions=series.conditions,
            settings={},
            environment={},
            seeds=list(range(count)),
            checkpoints=[str(rng.integers(2**62)) for _ in range(count)],
            numbers=numbers,
        )
    return baseline.model_copy(update={"series": drawn, "only": []})


@cache
def _reading(thousandths: int, unit: float) -> Reading:
    # making a record costs more than testing it, so drawn values share records at a resolution that no test can see
    return Reading(value=thousandths / 1000, unit=unit)


def _crossing(power: dict[float, float], level: float) -> float | None:
    before_shift, before = 0.0, 0.0
    for shift, rate in power.items():
        if rate >= level:
            return before_shift + (shift - before_shift) * (level - before) / (rate - before)
        before_shift, before = shift, rate
    return None


def _in_units(baseline: Baseline, needed: float) -> dict[str, float]:
    shifts = {}
    for name, series in baseline.series.items():
        for number, entry in series.numbers.items():
            side = side_of(entry.readings)
            if (
                side
                and side.mean is not None
                and side.low is not None
                and len(entry.present) > 1
                and entry.rule not in ("exact", "label")
            ):
                shifts[f"{name}::{number}"] = needed * (side.mean - side.low)
    return shifts


def power_table(power: Power) -> RenderableType:
    """The measured rates, then the shift of each number that would be found."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    lines = [
        f"{power.tests} numbers tested together; {power.old_seeds} seeds in the baseline, {power.new_seeds} in a build; "
        f"stated false-alarm rate {power.stated:.2%}; {power.builds} simulated builds each"
    ]
    for name, rate in power.false_alarms.items():
        error = math.sqrt(max(rate * (1 - rate), 1 / power.builds) / power.builds)
        lines.append(f"false alarms, {name}: {rate:.2%} ± {error:.2%} of builds")
    lines.append(f"against an unlucky baseline (one in twenty): {power.unlucky:.1%} of its builds or more")
    for shift, rate in power.power.items():
        lines.append(f"one number shifted by {shift:g} standard deviations: found in {rate:.0%} of builds")
    if not power.power:
        return Group(*[Text(line) for line in lines], Text("labels only: there is no number that could be shifted"))
    if power.needed is None:
        return Group(
            *[Text(line) for line in lines],
            Text("no shift tried is found with probability 80 %: store more seeds", style="bold"),
        )
    lines.append(f"found with probability 80 %: {power.needed:.1f} standard deviations over seeds, that is")
    grid = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    grid.add_column("number", overflow="fold")
    grid.add_column("shift found in 80 % of builds", justify="right")
    for name, shift in power.shifts.items():
        grid.add_row(Text(name), f"{shift:.3g}")
    return Group(*[Text(line) for line in lines], grid)
