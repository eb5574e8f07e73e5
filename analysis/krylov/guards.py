"""Is the operator a fixed symmetric matrix? Measured before the first Lanczos step, and refused where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..records.spectra import OperatorNoise
from .lanczos import random_start
from .linear_operator import LinearOperator, product_error
from .space import space_of

#: Relative differences above this mean that data or model change between products.
TOLERANCE = 1e-3


class RandomOperatorError(ValueError):
    """Two products of one vector differ, or the operator is not symmetric.

    Attributes:
        measured: what was seen, in a few words.
    """

    def __init__(self, message: str, measured: str = "") -> None:
        super().__init__(message)
        self.measured = measured


@dataclass(frozen=True)
class Guarded:
    """A fixed symmetric operator, as far as three products tell.

    Attributes:
        noise: what was measured.
        products: seed of a random unit vector (``lanczos.random_start``) -> its product ``[n]``.
    """

    noise: OperatorNoise
    products: Mapping[int, Tensor]


def guard(operator: LinearOperator, seed: int = 0) -> Guarded:
    """Takes three products: one vector twice, another one once.

    Raises:
        RandomOperatorError: the relative difference or the asymmetry exceeds 1e-3.
    """
    seeds = seed + 101, seed + 202
    u, v = (random_start(operator, one) for one in seeds)
    first, other = operator.matvec(u).double(), operator.matvec(v).double()
    operator.release()  # kept graphs would repeat one random draw and look like a fixed operator
    again = operator.matvec(u).double()
    space = space_of(operator)
    size = max(space.norm(first), space.norm(other))
    difference = space.norm(first - again)
    # For random unit vectors an asymmetric error of norm e shows as about e / sqrt(n).
    asymmetry = abs(space.dot(first, v) - space.dot(other, u)) * operator.size**0.5
    repeat, symmetry = (difference / size, asymmetry / (2 * size)) if size > 0 else (0.0, 0.0)
    if repeat > TOLERANCE:
        raise RandomOperatorError(
            redrawn("Hessian-vector products of one vector", repeat),
            f"two products of one vector differ by {repeat:.1e} of their size",
        )
    # The dot products' own round-off grows with sqrt(n) in this measure.
    error = product_error(operator)
    known = error * operator.size**0.5 / size if size > 0 else 0.0  # what the operator says of itself is no surprise
    if symmetry > max(TOLERANCE, 50 * torch.finfo(operator.dtype).eps * operator.size**0.5, known):
        raise RandomOperatorError(
            f"the operator is not symmetric (relative asymmetry {symmetry:.1e}): is BatchNorm in train mode, or does the model "
            "use a custom backward pass that is not the derivative of its forward pass?",
            f"the products are asymmetric by {symmetry:.1e} of their size",
        )
    floor = 4 * torch.finfo(operator.dtype).eps * size * operator.size**0.5
    noise = OperatorNoise(repeat=repeat, symmetry=symmetry, absolute=max(difference, asymmetry, floor, error))
    return Guarded(noise, dict(zip(seeds, (first, other), strict=True)))


def redrawn(what: str, difference: float) -> str:
    """What is said of two of something that should be the same and differ by so much of their size."""
    return (
        f"two {what} differ by {difference:.1e} of their size: the data or the model is random. "
        "Augmentation redrawn at every product fakes saddles in small classes. Give the clean data in a fixed order, turn "
        "off dropout and stochastic depth in eval mode, and try again"
    )
