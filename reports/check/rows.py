"""What a check says: a row for each number with both sides, and the answer for the build."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from .baseline import Counted
from .compare_numbers import Outcome
from .readings import Reading, Value

#: outcomes that fail a build
FAILING = (Outcome.MOVED, Outcome.MISSING)


@dataclass(frozen=True)
class Side:
    """One side of a row: the values over the seeds, their mean, and error bars.

    ``low`` and ``high`` are the stated interval of a single reading, or mean -/+ standard deviation over trainings, which are
    ``counted`` as seeds or as runs.
    """

    values: list[Value | None]
    mean: float | None
    low: float | None
    high: float | None
    counted: Counted = "seeds"


@dataclass(frozen=True)
class Row:
    """The verdict on one number."""

    series: str
    number: str
    outcome: Outcome
    old: Side | None
    new: Side | None
    tolerance: float | None = None
    direction: str = "both"
    p: float | None = None
    adjusted_p: float | None = None
    note: str = ""

    @property
    def identifier(self) -> str:
        """``series::number``."""
        return f"{self.series}::{self.number}"


@dataclass(frozen=True)
class Check:
    """Everything a build needs to know."""

    rows: list[Row]
    false_alarm_rate: float
    tests: int
    unchecked: list[str] = field(default_factory=list)
    environment: list[str] = field(default_factory=list)
    trainings: list[str] = field(default_factory=list)

    def having(self, *outcomes: Outcome) -> list[Row]:
        """The rows with one of these outcomes."""
        return [row for row in self.rows if row.outcome in outcomes]

    @property
    def exit_code(self) -> int:
        """1 if a number moved or is missing, else 2 if one could not be compared, else 0."""
        if self.having(*FAILING):
            return 1
        return 2 if self.having(Outcome.REFUSED) else 0

    @property
    def sentence(self) -> str:
        """The answer in one line."""
        counts = [f"{len(self.having(outcome))} {outcome.value}" for outcome in Outcome if self.having(outcome)]
        answer = {0: "passed", 1: "FAILED", 2: "NOT COMPARABLE"}[self.exit_code]
        if self.exit_code == 0 and self.having(Outcome.UNDECIDED):
            answer = "passed in what can be decided"
        return f"check {answer}: {', '.join(counts)}"


def side_of(readings: Sequence[Reading | None], counted: Counted = "seeds") -> Side | None:
    """Values over the trainings with mean and error bars; None where nothing was measured."""
    present = [one for one in readings if one is not None]
    if not present:
        return None
    values = [one.value if one is not None else None for one in readings]
    numbers = [float(one.value) for one in present if isinstance(one.value, int | float)]
    if len(numbers) < len(present):
        return Side(values, None, None, None, counted)
    mean = math.fsum(numbers) / len(numbers)
    if len(numbers) == 1:
        return Side(values, mean, present[0].low, present[0].high, counted)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in numbers) / (len(numbers) - 1))
    return Side(values, mean, mean - deviation, mean + deviation, counted)
