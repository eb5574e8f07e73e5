"""A share of the training time that is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class TimeShare:
    """Counts the seconds spent on something against all seconds since it was made.

    Args:
        at_most: share that may be spent; None for no limit.
        clock: seconds from any origin.

    Attributes:
        spent: seconds.
        clock: as given.
    """

    def __init__(self, at_most: float | None, clock: Callable[[], float] = time.perf_counter) -> None:
        self.at_most, self.spent = at_most, 0.0
        self.clock = clock
        self._began = clock()

    @property
    def share(self) -> float:
        """Of the time so far."""
        passed = self.clock() - self._began
        return self.spent / passed if passed > 0 else 0.0

    def left(self) -> float:
        """Seconds that may be spent from now on, with nothing else done meanwhile, until the share is used up."""
        if self.at_most is None or self.at_most >= 1:
            return math.inf
        return max(self.at_most * (self.clock() - self._began) - self.spent, 0.0) / (1 - self.at_most)

    def why(self, seconds: float, left: float) -> str:
        """Why something that takes so long is not done with so much left, and when or how it would be."""
        share = ""
        if self.at_most is not None and self.at_most < 1:
            needed = (seconds * (1 - self.at_most) + self.spent) / self.at_most - (self.clock() - self._began)
            share = f"; at_most = {self.at_most:g} leaves {left:.2g} s now, and that much after {_duration(needed)} of training"
        advice = "at_most=None measures whatever it takes; fewer samples (most=) take less"
        return f"a measurement takes about {_duration(seconds)}{share}. {advice}"

    @contextmanager
    def spending(self) -> Iterator[Callable[[], float]]:
        """Counts what is spent inside; gives the seconds inside so far."""
        began = self.clock()
        try:
            yield lambda: self.clock() - began
        finally:
            self.spent += self.clock() - began


def _duration(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
