"""What differences along one direction say of a derivative, one step after another."""

from __future__ import annotations

import math

from torch import Tensor

#: Relative difference up to which two vectors are the same. Rounding at the first step is about a thousandth of this.
SAME = 1e-4
#: Two differences agree with each other against the product where they are so much nearer to each other than to it.
NEARER = 0.03
#: Where all differences are rough, what two of them leave open may be at most so large.
ROUGH = 0.05


class Comparison:
    """What differences say of a derivative, step by step.

    Attributes:
        agrees: None as long as it is open. Once known it stays.
        error: relative difference of the two, the smallest seen.
        within_rounding: a difference was so near that rounding explains the rest.
    """

    def __init__(self, expected: Tensor, small: float = 0.0) -> None:
        self.expected, self.error = expected, math.inf
        self.agrees: bool | None = None
        self.within_rounding = False
        self._small = small
        self.seen: list[tuple[Tensor, float, float]] = []  # difference, its distance, size

    def see(self, difference: Tensor, rounding: float = 0.0) -> None:
        """Takes one difference quotient into account, which is rounded by so much.

        Where that is too much, it is left out: rounded quotients move in jumps, and agree with each other in between.
        """
        if rounding > ROUGH * float(self.expected.norm()) > 0:
            return
        size = max(float(difference.norm()), float(self.expected.norm()))
        distance = float((difference - self.expected).norm())
        self.error = min(self.error, distance / size if size > 0 else 0.0)
        if distance <= SAME * size + self._small:
            self.agrees = True
        elif distance <= SAME * size + rounding:
            self.within_rounding = True
            return
        elif self.seen:
            other, far, _ = self.seen[-1]
            if float((difference - other).norm()) <= NEARER * min(distance, far):
                self.agrees = False
        self.seen.append((difference, distance, size))

    def settled(self) -> bool | None:
        """The answer after the last step: differences that are rough may still be enough."""
        if self.agrees is None:
            for (one, near, size), (other, far, _) in zip(self.seen, self.seen[1:], strict=False):
                if min(near, far) <= float((one - other).norm()) <= ROUGH * size:
                    return True
        return True if self.agrees is None and self.within_rounding else self.agrees
