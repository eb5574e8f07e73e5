"""Is the operator a fixed symmetric matrix? Measured before the first Lanczos step and by every run, and refused where not.

One pair of random vectors misses an asymmetric part by luck: what it shows is a normal variable, and one in a hundred of these
is below a hundredth. Four vectors are six pairs, which are all so small about once in 10^12; and a run sees every pair of its
basis, in which the vectors of the result lie (``Lanczos.asymmetry``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..records.spectra import OperatorNoise
from .lanczos import random_start
from .linear_operator import LinearOperator, product_error
from .space import space_of
from .wide_sums import wide_dot

#: Relative differences above this mean that data or model change between products.
TOLERANCE = 1e-3
#: Seeds of the vectors, beyond the run's own. The first two products are kept: the trace knows them as probes.
SEEDS = (101, 202, 303, 404)
#: Products that :func:`guard` takes.
PRODUCTS = len(SEEDS) + 1


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
    """A fixed symmetric operator, as far as a few products tell.

    Attributes:
        noise: what was measured.
        products: seed of a random unit vector (``lanczos.random_start``) -> its product ``[n]``.
    """

    noise: OperatorNoise
    products: Mapping[int, Tensor]


def guard(operator: LinearOperator, seed: int = 0) -> Guarded:
    """Takes five products: four vectors once, the first of them again.

    Raises:
        RandomOperatorError: the relative difference or the asymmetry exceeds 1e-3.
    """
    space = space_of(operator)
    vectors = [random_start(operator, seed + one) for one in SEEDS]
    kept: list[Tensor] = []
    forms = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
    for column, v in enumerate(vectors):
        product = operator.matvec(v)
        dual = space.dual(product)
        forms[:, column] = space.total(torch.tensor([wide_dot(dual, u) for u in vectors], dtype=torch.float64))
        kept = kept if len(kept) == 2 else [*kept, product]
    first, other = kept
    operator.release()  # kept graphs would repeat one random draw and look like a fixed operator
    again = operator.matvec(vectors[0])
    size = max(space.norm(product.double()) for product in kept)
    difference = space.norm(first.double() - again)
    # For random unit vectors an asymmetric error of norm e shows as about e / sqrt(n) in each pair.
    pairs = len(vectors) * (len(vectors) - 1)
    asymmetry = float((forms - forms.T).norm()) * math.sqrt(operator.size / pairs)
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
        raise _asymmetric(symmetry)
    floor = 4 * torch.finfo(operator.dtype).eps * size * operator.size**0.5
    noise = OperatorNoise(repeat=repeat, symmetry=symmetry, absolute=max(difference, asymmetry, floor, error))
    return Guarded(noise, {seed + SEEDS[0]: first, seed + SEEDS[1]: other})


def require_symmetric(asymmetry: float, scale: float, operator: LinearOperator, steps: int) -> None:
    """Looks at an operator again, after a run on it.

    Args:
        asymmetry: of the run (``Lanczos.asymmetry``): twice what its eigenvalues may be off by.
        scale: the larger end's size.
        operator: that the run was on.
        steps: of the run; what each product is known to be off by adds up over them.

    Raises:
        RandomOperatorError: the eigenvalues may be off by more than 1e-3 of that, and by more than the operator's known error.
    """
    if asymmetry / 2 > max(TOLERANCE * scale, product_error(operator) * math.sqrt(steps)):
        raise _asymmetric(asymmetry / (2 * scale) if scale > 0 else math.inf)


def _asymmetric(relative: float) -> RandomOperatorError:
    return RandomOperatorError(
        f"the operator is not symmetric (relative asymmetry {relative:.1e}): is BatchNorm in train mode, or does the model "
        "use a custom backward pass that is not the derivative of its forward pass?",
        f"the products are asymmetric by {relative:.1e} of their size",
    )


def redrawn(what: str, difference: float) -> str:
    """What is said of two of something that should be the same and differ by so much of their size."""
    return (
        f"two {what} differ by {difference:.1e} of their size: the data or the model is random. "
        "Augmentation redrawn at every product fakes saddles in small classes. Give the clean data in a fixed order, turn "
        "off dropout and stochastic depth in eval mode, and try again"
    )


def with_rounding(noise: OperatorNoise, operator: LinearOperator, scale: float, asymmetry: float = 0.0) -> OperatorNoise:
    """The guard's noise, or what its vectors may miss: the rounding of the largest eigenvalue, and what a run saw.

    Or what an operator that measures its own error has found it to be in the meantime.

    Args:
        noise: of the guard.
        operator: measured.
        scale: its larger end's size.
        asymmetry: of a run on it: its eigenvalues may be off by half of that.
    """
    error = product_error(operator)
    seen = asymmetry / 2 if error == 0 else 0.0  # an operator that measures its error has measured that as well
    return noise.model_copy(update={"absolute": max(noise.absolute, product_rounding(operator) * scale, seen, error)})


def product_rounding(operator: LinearOperator) -> float:
    """Rounding of a quotient ``v^T H v`` of a unit vector, as a share of the larger end's size."""
    # Second term: sums of n products in float64.
    return float(8 * torch.finfo(operator.dtype).eps + operator.size**0.5 * np.finfo(np.float64).eps)
