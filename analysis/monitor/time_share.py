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

    @contextmanager
    def spending(self) -> Iterator[Callable[[], float]]:
        """Counts what is spent inside; gives the seconds inside so far."""
        began = self.clock()
        try:
            yield lambda: self.clock() - began
        finally:
            self.spent += self.clock() - began
