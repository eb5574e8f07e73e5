"""Sums in float64 over vectors of another dtype, without wide copies of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: numbers of a vector that are widened to float64 at once
_WIDENED = 1 << 16


def wide_dot(x: Tensor, y: Tensor) -> float:
    """``x^T y`` of two vectors ``[n]`` with products and sums in float64, without wide copies of them."""
    parts = zip(x.split(_WIDENED), y.split(_WIDENED), strict=True)
    # Copied in float64, too: the last digit may depend on where in memory a vector begins.
    return float(torch.stack([torch.dot(*(part.to(torch.float64, copy=True) for part in pair)) for pair in parts]).sum())


def left_over(w: Tensor, known: Sequence[tuple[float, Tensor]], into: Tensor) -> Tensor:
    """``w - sum of times q`` for the pairs that are known, in float64; vectors are read once."""
    for part in (slice(start, start + _WIDENED) for start in range(0, len(w), _WIDENED)):
        rest = w[part].to(torch.float64, copy=True)  # the product may be the operator's own, or a row of the basis
        for times, q in known:
            # A product, then a difference: one operation for both rounds once or twice, depending on where q lies.
            rest -= q[part].double() * times
        into[part] = rest
    return into
