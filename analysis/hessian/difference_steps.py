"""How far differences of the gradient go: the ladder of steps, and the kinks that are seen on the way down."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

#: Steps that are tried, relative to the norm of the weights, the longest first; each a tenth of the one before.
#: By the coarsest type that the forward pass computes in: below its rounding nothing moves, and quotients agree on nothing.
LADDER = {
    torch.float64: range(-2, -10, -1),
    torch.float32: range(-1, -6, -1),
    torch.float16: range(0, -4, -1),
    torch.bfloat16: range(0, -3, -1),
}
#: A difference of two neighbouring steps shrinks a hundredfold where the gradient is smooth. Where it shrinks by less than
#: this, and is so many times its rounding, there are kinks.
SMOOTH, ABOVE_ROUNDING = 8.0, 50.0


@dataclass(frozen=True)
class Step:
    """How far the products go.

    Attributes:
        length: h, in units of the weights.
        relative: the same by the norm of the weights.
        kinks: the shortest distance on which kinks were seen, in units of the norm of the weights; None: none were.
    """

    length: float
    relative: float
    kinks: float | None


def kinks(steps: list[float], apart: list[float], rounding: float) -> float | None:
    """The shortest step at which the quotients move as they do across kinks only; see :data:`SMOOTH`.

    Args:
        steps: relative, the longest first.
        apart: differences of neighbours' quotients, one less.
        rounding: of a gradient, by the norm of the weights.
    """
    found = None
    for step, shorter, here, below in zip(steps[1:], steps[2:], apart, apart[1:], strict=False):
        real = below > ABOVE_ROUNDING * rounding / shorter
        if step <= 1e-3 and math.isfinite(here) and real and here < SMOOTH * below:
            found = step
    return found
